//! The round trip of 64 bytes over a blocking Unix stream socket.

use std::{
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use crate::error::Result;

/// Bytes of a message, the same both ways.
pub(crate) const MESSAGE: usize = 64;

/// Listens at an abstract name: nothing is left behind when the process dies.
pub(crate) fn listen(name: &str) -> Result<UnixListener> {
    Ok(UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?)
}

/// Connects to an abstract name.
pub(crate) fn connect(name: &str) -> Result<UnixStream> {
    Ok(UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?)
}

/// The caller: sends one message and waits for its echo.
pub(crate) fn call(stream: &mut (impl Read + Write), message: &mut [u8; MESSAGE]) -> Result<()> {
    stream.write_all(message)?;
    Ok(stream.read_exact(message)?)
}

/// The peer: answers `count` messages.
pub(crate) fn serve(stream: &mut (impl Read + Write), count: u64) -> Result<()> {
    let mut message = [0; MESSAGE];
    for _ in 0..count {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
    Ok(())
}
