//! What the kernel says about a process and where it lets it run.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    thread,
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};

use crate::error::{Error, Result};

/// How long [`Tasks::settle`] sleeps before it looks, and between looks.
const PAUSE: Duration = Duration::from_micros(300);

/// The CPUs that the report may use.
#[derive(Debug, Clone)]
pub(crate) struct Cpus {
    /// All of them.
    pub(crate) all: Vec<usize>,
    /// The one the report itself is pinned to.
    pub(crate) caller: usize,
    /// The one the peer process is pinned to.
    pub(crate) peer: usize,
}

impl Cpus {
    /// The CPUs this process may use; at least two are needed.
    pub(crate) fn of_this_process() -> Result<Cpus> {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        let all: Vec<usize> = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
        match *all.as_slice() {
            [caller, peer, ..] => Ok(Cpus { all, caller, peer }),
            _ => Err(Error::Usage("two CPUs are needed, one for each process".to_owned())),
        }
    }
}

/// Lets the calling thread, and the threads it spawns later, run on `cpus` only.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Takes all descriptors that this process may have: a server of as many connections as are measured does so, since most
/// systems give 1,024 at first.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The tasks (threads) that a process had when it was looked at.
pub(crate) struct Tasks {
    stats: Vec<File>,
}

impl Tasks {
    /// The tasks of a process.
    pub(crate) fn of(pid: Pid) -> Result<Tasks> {
        let stats = task_files(pid, "stat")?;
        Ok(Tasks { stats: stats.iter().map(File::open).collect::<Result<_, _>>()? })
    }

    /// Sleeps until every task sleeps in the kernel; false if they did not within about 20 ms.
    pub(crate) fn settle(&self) -> bool {
        (0..50).any(|_| {
            thread::sleep(PAUSE);
            self.stats.iter().all(is_asleep)
        })
    }
}

/// Whether a task's `stat` file says that it is in state S, an interruptible sleep.
fn is_asleep(stat: &File) -> bool {
    let mut text = [0; 64];
    let Ok(len) = stat.read_at(&mut text, 0) else { return false };
    // The name, in parentheses, may hold anything, so the state is what follows the last parenthesis. Names have at
    // most 16 bytes, so 64 bytes reach beyond it.
    let text = text.get(..len).unwrap_or_default();
    text.iter().rposition(|byte| *byte == b')').and_then(|end| text.get(end + 2)) == Some(&b'S')
}

/// What a process has used, added up over its tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// Context switches, of their own will or not: each is one wake-up.
    pub(crate) switches: u64,
    /// Time on a CPU, in nanoseconds.
    pub(crate) cpu_ns: u64,
}

impl Used {
    /// What a process has used so far.
    pub(crate) fn by(pid: Pid) -> Result<Used> {
        let mut used = Used { switches: 0, cpu_ns: 0 };
        for path in task_files(pid, "status")? {
            let status = fs::read_to_string(path)?;
            used.switches += field(&status, "voluntary_ctxt_switches:")?;
            used.switches += field(&status, "nonvoluntary_ctxt_switches:")?;
        }
        for path in task_files(pid, "schedstat")? {
            let schedstat = fs::read_to_string(path)?;
            used.cpu_ns += schedstat.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        }
        Ok(used)
    }
}

/// The proportional share of memory of a process, in KiB: what several processes map counts for each by its share.
pub(crate) fn pss_kib(pid: Pid) -> Result<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?, "Pss:")
}

fn task_files(pid: Pid, name: &str) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        files.push(task?.path().join(name));
    }
    Ok(files)
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Result<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let word = rest.and_then(|rest| rest.split_whitespace().next());
    Ok(word.ok_or_else(|| Error::Peer(format!("has no {name} in /proc")))?.parse()?)
}
