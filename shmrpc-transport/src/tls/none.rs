//! What there is without the feature `tls`: nothing, and an error that says so.

use std::convert::Infallible;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::poll::PollFlags;
use nix::sys::socket::Shutdown;

use super::{Broken, Tls, TlsError};

/// The side that listens.
#[derive(Debug, Clone)]
pub struct Acceptor(Infallible);

/// The side that connects.
#[derive(Debug, Clone)]
pub struct Connector(Infallible);

/// One TCP connection under TLS.
#[derive(Debug)]
pub(crate) struct Link(Infallible);

impl Acceptor {
    /// # Errors
    /// [`TlsError::NotBuilt`].
    pub fn new(_: Option<&Tls>) -> Result<Self, TlsError> {
        Err(TlsError::NotBuilt)
    }

    pub(crate) fn accept(&self, _: TcpStream) -> Result<Link, Broken> {
        match self.0 {}
    }
}

impl Connector {
    /// # Errors
    /// [`TlsError::NotBuilt`].
    pub fn new(_: Option<&Tls>, _: &str) -> Result<Self, TlsError> {
        Err(TlsError::NotBuilt)
    }

    pub(crate) fn connect(&self, _: TcpStream) -> Result<Link, Broken> {
        match self.0 {}
    }
}

impl Link {
    pub(crate) fn shake_hands(&self) -> Result<bool, Broken> {
        match self.0 {}
    }

    pub(crate) fn has_answered(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn certificate(&self) -> Option<Arc<[u8]>> {
        match self.0 {}
    }

    pub(crate) fn wanted(&self) -> PollFlags {
        match self.0 {}
    }

    pub(crate) fn send(&self, _: &[u8]) -> Result<usize, Broken> {
        match self.0 {}
    }

    pub(crate) fn flush(&self) -> Result<bool, Broken> {
        match self.0 {}
    }

    pub(crate) fn receive(&self, _: &mut [u8], _: bool) -> Result<Option<usize>, Broken> {
        match self.0 {}
    }

    pub(crate) fn receive_all(&self, _: &mut Vec<u8>) -> Result<Option<usize>, Broken> {
        match self.0 {}
    }

    pub(crate) fn say_plainly(&self, _: &[u8]) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn turn_deaf(&self) {
        match self.0 {}
    }

    pub(crate) fn shut(&self, _: Shutdown) {
        match self.0 {}
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}
