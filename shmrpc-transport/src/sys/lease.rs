//! Whether anybody else has a file, by the kernel's word.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

/// asm-generic/fcntl.h.
const F_SETSIG: i32 = 10;

/// Who has a file besides us: a descriptor of it or a mapping, in any process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    Nobody,
    Somebody,
    /// The kernel does not say, and will not say later: this process gets no leases on the file. It has leases forbidden
    /// (`fs.leases-enable`, a filter), knows none for such a file, or we are not the file's owner any more.
    Unknown,
}

/// Asks who else has the file. `file` is open for reading only, and so is every other descriptor of it.
///
/// A write lease is given only if nobody else has it; that alone is EAGAIN.
pub(crate) fn others(file: &File) -> Others {
    // Whoever opens the file while we hold the lease makes the kernel signal us. By default such a signal kills.
    let given = lease(file, F_SETSIG, libc::SIGURG)
        .and_then(|()| lease(file, libc::F_SETLEASE, libc::F_WRLCK))
        .and_then(|()| lease(file, libc::F_SETLEASE, libc::F_UNLCK));
    match given {
        Ok(()) => Others::Nobody,
        // Without memory for the answer there may be one the next time.
        Err(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOLCK | Errno::EINTR) => Others::Somebody,
        Err(_) => Others::Unknown,
    }
}

fn lease(file: &File, command: i32, argument: i32) -> Result<(), Errno> {
    // SAFETY: these commands take an int and touch no memory of ours.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, argument) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_no_leases_says_nothing_of_others() {
        assert_eq!(others(&File::open("/dev/null").unwrap()), Others::Unknown);
    }

    #[test]
    fn somebody_is_whoever_has_it_open() {
        let path = std::env::temp_dir().join(format!("shmrpc-test-{}-lease", std::process::id()));
        std::fs::write(&path, "x").unwrap();
        let open = || File::open(&path).unwrap();
        let (file, other) = (open(), open());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(others(&file), Others::Somebody);
        drop(other);
        // Another test may be starting a child, which has it too until it is itself.
        while others(&file) != Others::Nobody {
            std::thread::yield_now();
        }
    }
}
