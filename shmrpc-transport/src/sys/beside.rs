//! What comes beside the bytes of a Unix socket: descriptors, and who sends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use super::closing::{self, Foreign};
use super::process;
use crate::peers::{Party, PeerCredentials};

/// What lost descriptors mean.
pub(crate) const LOST: &str = "a descriptor was lost on its way: the process that was to receive it has none left; \
                               raise its limit (ulimit -n, LimitNOFILE=), or fs.file-max";

/// asm-generic/socket.h, Linux 6.16.
const SO_PASSRIGHTS: i32 = 83;

/// Bytes for all that can come beside one message: the kernel passes up to 253 descriptors, credentials, a pidfd, and
/// their heads. So nothing is lost but what this process has no descriptor for.
pub(crate) const ALL: usize = 1280;

/// Something that came beside the bytes.
pub(crate) enum Part {
    Descriptor(Foreign),
    Credentials(PeerCredentials),
    /// The sender's process.
    Process(OwnedFd),
}

/// What one read came to.
pub(crate) struct Received {
    /// Bytes.
    pub(crate) length: usize,
    /// Whether something beside them was lost.
    pub(crate) lost: bool,
}

/// Has a Unix socket deliver urgent bytes (MSG_OOB) in their place. Else the kernel skips one that nobody asks for, and closes the
/// descriptors beside it, on the thread that reads: closing may block for as long as their sender likes.
///
/// # Errors
/// The system's.
pub(crate) fn urgent_bytes_too(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::OobInline, &true)?)
}

/// Whether descriptors are to come beside what `socket` receives. If not, whoever sends some gets EPERM from the moment in
/// which this returns; what came before is still there. False if the kernel does not know how.
pub(crate) fn pass_descriptors(socket: BorrowedFd<'_>, wanted: bool) -> bool {
    process::set(socket, SO_PASSRIGHTS, wanted)
}

#[repr(C, align(16))]
struct Control<const ROOM: usize>([u8; ROOM]);

/// Receives bytes, and what came beside them, for which there are `ROOM` bytes. No program that is started later has the
/// descriptors.
///
/// Not nix's, which forgets the descriptors that arrived when others were lost.
pub(crate) fn receive<const ROOM: usize>(
    socket: BorrowedFd<'_>,
    piece: &mut [u8],
    flags: MsgFlags,
    mut each: impl FnMut(Part),
) -> Result<Received, Errno> {
    let mut control = Control([0; ROOM]);
    let mut part = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
    // SAFETY: zeros are a message header without name, parts and control bytes.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = ROOM as _;
    let flags = (flags | MsgFlags::MSG_CMSG_CLOEXEC).bits();
    // SAFETY: the header names `piece` and `control` with their lengths; both are ours to write during the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = Errno::result(length)?;
    let came: usize = message.msg_controllen as _;
    for (level, kind, data) in parts(control.0.get(..came).unwrap_or_default()) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let from = closing::other_end(&socket).unwrap_or_else(Party::unknown);
                for fd in data.as_chunks().0.iter().copied().map(RawFd::from_ne_bytes) {
                    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                    each(Part::Descriptor(Foreign::new(unsafe { OwnedFd::from_raw_fd(fd) }, from)));
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                if let ([pid, uid, gid], _) = data.as_chunks() {
                    each(Part::Credentials(PeerCredentials::said(
                        i32::from_ne_bytes(*pid),
                        u32::from_ne_bytes(*uid),
                        u32::from_ne_bytes(*gid),
                    )));
                }
            }
            _ => {
                if let Some(pidfd) = process::pidfd_in(level, kind, data) {
                    each(Part::Process(pidfd));
                }
            }
        }
    }
    let lost = message.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Received { length: usize::try_from(length).unwrap_or(0), lost })
}

/// The parts of what came beside the bytes: their level, type and data (cmsg(3)).
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    const WORD: usize = size_of::<usize>();
    core::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<WORD>()?;
        let length = usize::from_ne_bytes(*length);
        let (level, rest) = rest.split_first_chunk()?;
        let kind = rest.first_chunk()?;
        let data = bytes.get(size_of::<libc::cmsghdr>()..length)?;
        bytes = bytes.get(length.checked_next_multiple_of(WORD)?..).unwrap_or_default();
        Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data))
    })
}
