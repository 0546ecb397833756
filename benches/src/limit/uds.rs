//! The round trip of 64 bytes over a Unix stream socket.
//!
//! The fastest echo polls: neither side sleeps. A bare blocking echo is not the fastest blocking one where idle CPUs take long to be woken, as in a virtual machine: one that waits some
//! microseconds before it sends finds the other side further on its way to sleep, and was up to 20 % faster there. So
//! there are variants.

use std::{
    io::{ErrorKind, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Bytes of a message, the same both ways.
pub(crate) const MESSAGE: usize = 64;

/// How long both sides work before they send, in nanoseconds, by variant.
pub(crate) const PAUSES: [u64; 3] = [0, 2_000, 5_000];

/// Listens at an abstract name: nothing is left behind when the process dies.
pub(crate) fn listen(name: &str) -> Result<UnixListener> {
    Ok(UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?)
}

/// Connects to an abstract name.
pub(crate) fn connect(name: &str) -> Result<UnixStream> {
    Ok(UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?)
}

/// The caller: works for `pause` nanoseconds, sends one message and waits for its echo.
pub(crate) fn call(stream: &mut (impl Read + Write), message: &mut [u8; MESSAGE], pause: u64) -> Result<()> {
    work(pause);
    stream.write_all(message)?;
    Ok(stream.read_exact(message)?)
}

/// The peer: answers `count` messages, each after `pause` nanoseconds of work.
pub(crate) fn serve(stream: &mut (impl Read + Write), count: u64, pause: u64) -> Result<()> {
    let mut message = [0; MESSAGE];
    for _ in 0..count {
        stream.read_exact(&mut message)?;
        work(pause);
        stream.write_all(&message)?;
    }
    Ok(())
}

/// The caller that never sleeps; the stream does not block meanwhile.
pub(crate) fn call_polling(stream: &mut (impl Read + Write), message: &mut [u8; MESSAGE]) -> Result<()> {
    stream.write_all(message)?;
    poll_exact(stream, message)
}

/// The peer that never sleeps; nor does its stream block.
pub(crate) fn serve_polling(stream: &mut (impl Read + Write), count: u64) -> Result<()> {
    let mut message = [0; MESSAGE];
    for _ in 0..count {
        poll_exact(stream, &mut message)?;
        stream.write_all(&message)?;
    }
    Ok(())
}

fn poll_exact(stream: &mut impl Read, message: &mut [u8]) -> Result<()> {
    let mut rest = message;
    while !rest.is_empty() {
        match stream.read(rest) {
            Ok(0) => return Err(Error::Peer("closed its stream".to_owned())),
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn work(ns: u64) {
    if ns > 0 {
        let start = Instant::now();
        while start.elapsed() < Duration::from_nanos(ns) {}
    }
}
