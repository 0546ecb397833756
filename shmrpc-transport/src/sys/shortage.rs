//! What the system has run out of, and what to raise then.

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

/// Descriptors that this process may have now (`RLIMIT_NOFILE`, the soft limit).
pub fn descriptor_limit() -> usize {
    #[cfg(test)]
    tests::raise_descriptor_limit();
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// Bytes that a file of this process may have now (`RLIMIT_FSIZE`, the soft limit). Shared memory is a file, too.
/// Whoever makes one larger gets SIGXFSZ, which ends the process; so this is asked before.
pub(crate) fn largest_file() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft)
}

/// What the system said, and, if it has run out of something, which limit that is.
pub fn explain(error: &io::Error) -> String {
    match errno(error).and_then(limit) {
        Some(limit) => format!("{error}; {limit}"),
        None => error.to_string(),
    }
}

/// The same for a thread that could not be started.
pub fn explain_thread(error: &io::Error) -> String {
    match errno(error) {
        Some(Errno::EAGAIN) => format!(
            "{error}; raise the limit on threads (ulimit -u, the cgroup's pids.max, kernel.threads-max) or on address \
             space (ulimit -v)"
        ),
        _ => explain(error),
    }
}

/// Whether the system lacks something that it may have later.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    errno(error).and_then(limit).is_some()
}

/// Whether it is a descriptor that is lacking.
pub(crate) fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::EMFILE | Errno::ENFILE))
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

fn limit(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::EMFILE => "the process has no descriptor left; raise its limit (ulimit -n, LimitNOFILE=)",
        Errno::ENFILE => "the system has no file left; raise fs.file-max",
        Errno::ETOOMANYREFS => {
            "too many of this user's descriptors are on their way through sockets; raise the limit on descriptors \
             (ulimit -n, LimitNOFILE=)"
        }
        Errno::ENOMEM => {
            "no memory or no address space is left; raise the limit (ulimit -v, vm.max_map_count, the cgroup's \
             memory.max)"
        }
        Errno::ENOBUFS => {
            "the system has no memory for sockets left; raise net.core.optmem_max or its memory"
        }
        Errno::ENOSPC => "no room is left; raise fs.epoll.max_user_watches, or the size of the file system",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Once;

    use nix::sys::resource::setrlimit;

    use super::*;

    /// All unit tests are one process, and count as one peer: what one of them owes shall not be too much for another.
    pub(super) fn raise_descriptor_limit() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            // Enough for them, and no more: some open a share of what there may be.
            setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 15), hard).unwrap();
        });
    }
}
