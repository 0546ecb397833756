//! Descriptors that stand for a process, and for that one only, whatever becomes of its id.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// `SO_PASSPIDFD` and `SCM_PIDFD` (asm-generic/socket.h, linux/socket.h; Linux 6.5).
const SO_PASSPIDFD: i32 = 76;
const SCM_PIDFD: i32 = 4;

/// Whether the kernel is to add a descriptor of the sender's process to what `socket` receives. False if it does not
/// know how.
pub(crate) fn pass_pidfd(socket: BorrowedFd<'_>, wanted: bool) -> bool {
    set(socket, SO_PASSPIDFD, wanted)
}

/// Sets an option of a socket. False if the kernel does not know it.
pub(super) fn set(socket: BorrowedFd<'_>, option: i32, wanted: bool) -> bool {
    const LENGTH: libc::socklen_t = 4;
    let wanted = i32::from(wanted);
    // SAFETY: the option is an int, and the kernel reads as many bytes from where `wanted` lies.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const wanted).cast(), LENGTH)
    };
    result == 0
}

/// The descriptor in a control message of this level and type with these bytes, if it is one of a process.
pub(crate) fn pidfd_in(level: i32, kind: i32, bytes: &[u8]) -> Option<OwnedFd> {
    if (level, kind) != (libc::SOL_SOCKET, SCM_PIDFD) {
        return None;
    }
    let fd = i32::from_ne_bytes(*bytes.first_chunk()?);
    // Negative: the sender's process was gone already.
    // SAFETY: the kernel has just made the descriptor for us, and nobody else knows it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of the process that has this id now.
///
/// # Errors
/// The system's; ESRCH if there is none.
pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(Errno::result(result)?) {
        // SAFETY: as above.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Whether the process that `pidfd` stands for has ended.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_until_it_ends() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!has_ended(&pidfd));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(has_ended(&pidfd));
        assert!(open(i32::try_from(child.id()).unwrap()).is_err());
    }
}
