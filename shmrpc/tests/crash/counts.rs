//! What this process holds: descriptors, mappings of shared memory, threads, memory.

use std::fs;
use std::path::Path;

/// What a process may leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) descriptors: usize,
    /// Mappings of shared memory.
    pub(crate) mappings: usize,
    pub(crate) threads: usize,
    /// Files in the place of the test.
    pub(crate) files: usize,
}

impl Counts {
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
            files: entries(place),
        }
    }
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
    }
}
