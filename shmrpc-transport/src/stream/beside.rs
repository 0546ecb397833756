//! Descriptors that come beside the bytes of a Unix socket.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv};
use parking_lot::Mutex;

use crate::descriptors::{BadDescriptors, Descriptors};
use crate::peers::Party;
use crate::slot::DESCRIPTORS_MAX;
use crate::sys::beside::{self, Part};
use crate::sys::closing;

/// Descriptors whose frames are not whole yet, or were not looked at.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// For whom they count.
    pub(super) from: Option<Party>,
    pub(super) came: Descriptors,
}

/// Receives once, and what comes beside the bytes.
pub(super) fn receive_some(
    fd: &OwnedFd,
    beside: Option<&Mutex<Beside>>,
    room: &mut [u8],
    flags: MsgFlags,
) -> Result<nix::Result<usize>, BadDescriptors> {
    let Some(beside) = beside else { return Ok(recv(fd.as_raw_fd(), room, flags)) };
    let mut came = Vec::new();
    // There is room for all: what has none the kernel closes, on this thread, and that may take as long as its sender likes.
    let received = beside::receive::<{ beside::ALL }>(fd.as_fd(), room, flags, |part| {
        // Who sends is known, and a descriptor of that process is closed.
        if let Part::Descriptor(fd) = part {
            came.push(fd);
        }
    });
    let received = match received {
        Ok(received) => received,
        Err(errno) => return Ok(Err(errno)),
    };
    if came.len() > DESCRIPTORS_MAX {
        return Err(BadDescriptors::Unwanted);
    }
    if received.lost {
        return Err(BadDescriptors::Lost);
    }
    if !came.is_empty() {
        let Beside { from, came: all } = &mut *beside.lock();
        let Some(from) = *from else { return Err(BadDescriptors::Unwanted) };
        if let Some(owed) = closing::too_many(|| from) {
            return Err(BadDescriptors::Owed(owed));
        }
        all.add(from, came);
        // Of one frame, and of another one while the rest of the first is read.
        if all.len() > 2 * DESCRIPTORS_MAX {
            return Err(BadDescriptors::Unwanted);
        }
    }
    Ok(Ok(received.length))
}
