//! What this process holds: descriptors, mappings of shared memory, threads, memory. And whether anybody at all still has
//! a descriptor that went with a call.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::support::until;

/// The file that calls hand over: a pipe with a name, so that it shows whether anybody has an end to write to, or whether
/// one is still on its way in some socket.
pub(crate) fn handed_file(place: &Path) -> PathBuf {
    place.join("handed")
}

pub(crate) fn make_handed_file(place: &Path) {
    mkfifo(&handed_file(place), Mode::S_IRWXU).unwrap();
}

/// One that a call may hand over.
pub(crate) fn to_hand_over(place: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(handed_file(place)).unwrap()
}

/// Whether one of them is still open, in whatever process, or on its way to one.
fn is_handed(place: &Path) -> bool {
    let mut reader = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(handed_file(place)).unwrap();
    match reader.read(&mut [0]) {
        Ok(0) => false,
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        other => panic!("nobody writes to it: {other:?}"),
    }
}

/// What a process may leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) descriptors: usize,
    /// Mappings of shared memory.
    pub(crate) mappings: usize,
    pub(crate) threads: usize,
    /// Files in the place of the test, and ours in `/dev/shm`.
    pub(crate) files: usize,
    /// Whether a descriptor that went with a call is open anywhere, or on its way.
    pub(crate) handed: bool,
}

impl Counts {
    /// When nothing shares memory any more, and no thread waits for another lane: what is there then is there for good.
    pub(crate) fn at_rest(place: &Path) -> Self {
        let name = |task: &Path| fs::read_to_string(task.join("comm")).unwrap_or_default();
        let serves = || {
            let mut tasks = fs::read_dir("/proc/self/task").unwrap();
            tasks.any(|task| name(&task.unwrap().path()).starts_with("shmrpc-lane"))
        };
        until("nothing is shared any more", || Self::now(place).mappings == 0 && !serves());
        Self::now(place)
    }

    pub(crate) fn now(place: &Path) -> Self {
        let entries = |path: &Path| fs::read_dir(path).unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        Self {
            descriptors: entries(Path::new("/proc/self/fd")),
            mappings: maps
                .lines()
                .filter(|line| line.contains("memfd:") || line.contains("/dev/shm"))
                .count(),
            threads: entries(Path::new("/proc/self/task")),
            files: entries(place) + in_dev_shm(),
            handed: is_handed(place),
        }
    }
}

/// Files that somebody left there who makes them with a name.
fn in_dev_shm() -> usize {
    let ours = |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with("shmrpc-");
    fs::read_dir("/dev/shm").map_or(0, |all| all.flatten().filter(ours).count())
}

/// Resident memory of this process in KiB.
pub(crate) fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

impl Counts {
    /// Whether nothing has grown. A killed server leaves its socket and its lock.
    pub(crate) fn at_most(&self, before: Self) -> bool {
        self.descriptors <= before.descriptors
            && self.mappings <= before.mappings
            && self.threads <= before.threads
            && self.files <= before.files + 2
            && !self.handed
    }
}
