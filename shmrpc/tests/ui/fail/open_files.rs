//! What owns a descriptor.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

#[shmrpc::message]
pub struct Held {
    file: &'static std::fs::File,
    socket: TcpStream,
    sockets: Vec<&'static UnixStream>,
    shared: Arc<TcpListener>,
}

#[shmrpc::service]
pub trait Taken {
    fn behind(&self, a: &File, b: &std::fs::File, c: &TcpStream, d: &UnixStream, e: &&TcpListener);
    fn inside(&self, a: Vec<&TcpStream>, b: &Vec<TcpListener>, c: Option<RawFd>, d: Arc<UnixStream>);
}

#[shmrpc::service]
pub trait ByValue {
    fn send(&self, port: TcpListener) -> Option<TcpStream>;
}

#[shmrpc::service]
pub trait Returned {
    fn file(&self) -> &std::fs::File;
    fn socket(&self) -> Result<&TcpStream, Vec<&UnixStream>>;
}

fn main() {}
