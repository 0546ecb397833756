//! What the groups measure with: processes, CPUs, and how much of everything.

use std::time::Duration;

use crate::{
    error::Result,
    identity,
    peer::Peer,
    process::{Cpus, pin},
    scratch::Scratch,
    shared::Shared,
};

/// What every group measures with. The report itself is pinned to `cpus.caller`.
pub(crate) struct Setup {
    /// The CPUs.
    pub(crate) cpus: Cpus,
    /// Memory for the limits.
    pub(crate) shared: Shared,
    /// Where sockets may lie.
    pub(crate) scratch: Scratch,
    /// Shorter batches and fewer rounds.
    pub(crate) quick: bool,
}

impl Setup {
    /// Pins this process. To be called once, before any other thread runs.
    pub(crate) fn create(quick: bool) -> Result<Setup> {
        let scratch = Scratch::create()?;
        identity::create(scratch.path())?;
        let cpus = Cpus::of_this_process()?;
        pin(&[cpus.caller])?;
        Ok(Setup { cpus, shared: Shared::create()?, scratch, quick })
    }

    /// Interleaved rounds of a group.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 25 } else { 41 }
    }

    /// How often to do something in one batch, given how often a full run does it.
    pub(crate) fn count(&self, full: u64) -> u64 {
        if self.quick { full.div_ceil(5) } else { full }
    }

    /// How long to do something, given how long a full run does it.
    pub(crate) fn time(&self, full: Duration) -> Duration {
        if self.quick { full / 4 } else { full }
    }

    /// How long a batch of the subject takes.
    pub(crate) fn batch_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 3 } else { 10 })
    }

    /// A peer process that polls and works on a CPU of its own.
    pub(crate) fn pinned_peer(&self) -> Result<Peer<'_>> {
        Peer::spawn(&[self.cpus.peer], &self.shared, self.scratch.path())
    }

    /// A peer process on this process's CPU.
    pub(crate) fn peer_beside(&self) -> Result<Peer<'_>> {
        Peer::spawn(&[self.cpus.caller], &self.shared, self.scratch.path())
    }

    /// A peer process that runs wherever the kernel puts it.
    pub(crate) fn free_peer(&self) -> Result<Peer<'_>> {
        Peer::spawn(&self.cpus.all, &self.shared, self.scratch.path())
    }

    /// Does something on the peer's CPU: what it starts stays there.
    pub(crate) fn at_peers_cpu<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        pin(&[self.cpus.peer])?;
        let done = work();
        pin(&[self.cpus.caller])?;
        done
    }

    /// Does something in this process wherever the kernel puts it.
    pub(crate) fn unpinned<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        pin(&self.cpus.all)?;
        let done = work();
        pin(&[self.cpus.caller])?;
        done
    }
}
