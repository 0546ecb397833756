//! Whether anybody else has a file, by the kernel's word.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// asm-generic/fcntl.h.
const F_SETSIG: i32 = 10;

/// Whether nobody but us has the file: no descriptor of it and no mapping, in no process. `file` is open for reading
/// only, and so is every other descriptor of it.
///
/// A write lease is given only then. Not our own (`F_SETLEASE` needs the file's owner), or not to be had: false.
pub(crate) fn is_ours_alone(file: &File) -> bool {
    // Whoever opens the file while we hold the lease makes the kernel signal us. By default such a signal kills.
    lease(file, F_SETSIG, libc::SIGURG) && {
        let given = lease(file, libc::F_SETLEASE, libc::F_WRLCK);
        if given {
            lease(file, libc::F_SETLEASE, libc::F_UNLCK);
        }
        given
    }
}

fn lease(file: &File, command: i32, argument: i32) -> bool {
    // SAFETY: these commands take an int and touch no memory of ours.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, argument) };
    result == 0
}
