//! A Unix socket each way: each side receives from an end that it made, and that nobody else ever had. There it has the kernel
//! refuse descriptors, and needs no room for them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::{Medium, Stream};
use crate::sys::beside::{pass_descriptors, urgent_bytes_too};
use crate::sys::closing::Facing;

/// An end that takes no descriptors, to receive from, and the other one, to be given away. None if the kernel cannot refuse them,
/// or has no pair of sockets left.
pub(crate) fn pair_of_own() -> Option<(OwnedFd, OwnedFd)> {
    let (near, far) = UnixStream::pair().ok()?;
    urgent_bytes_too(&near).ok()?;
    pass_descriptors(near.as_fd(), false).then(|| (near.into(), far.into()))
}

impl Stream {
    /// Receives from an end of a [pair of its own](pair_of_own), and sends over what the peer gave.
    pub(crate) fn each_way(receiving: OwnedFd, sending: OwnedFd) -> Self {
        let [fd, sending] = [receiving, sending].map(Facing::new);
        let sending = OnceLock::from(sending);
        Self::over(Medium::Socket { fd, sending, sliced: false, beside: Some(Mutex::default()) })
    }

    /// Whether the kernel can refuse descriptors here.
    pub(crate) fn can_refuse_descriptors(&self) -> bool {
        self.pass_descriptors(true)
    }

    /// No more descriptors come. What is there already is still to be read, and so are those beside it.
    pub(crate) fn refuse_descriptors(&self) -> bool {
        self.pass_descriptors(false)
    }

    fn pass_descriptors(&self, wanted: bool) -> bool {
        matches!(&self.medium, Medium::Socket { fd, .. } if pass_descriptors(fd.as_fd(), wanted))
    }

    /// Sends over `fd` from now on. All that came before descriptors were refused was read.
    pub(crate) fn send_over(&self, fd: OwnedFd) {
        if let Medium::Socket { sending, .. } = &self.medium {
            let first = sending.set(Facing::new(fd));
            debug_assert!(first.is_ok(), "the peer gives one");
        }
    }
}
