//! The round trip of 64 bytes over TCP on the loopback device, without Nagle's delay. The exchange is that of
//! [`uds`](super::uds).

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::error::Result;

/// Listens at a port that the kernel chooses.
pub(crate) fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// Connects to a port of this machine.
pub(crate) fn connect(port: u16) -> Result<TcpStream> {
    at_once(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)
}

/// A stream that sends what it is given at once.
pub(crate) fn at_once(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}
