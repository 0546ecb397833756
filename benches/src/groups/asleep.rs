//! The smallest call when everybody sleeps before it, beside the raw futex round trip. Both are timed one by one, each
//! after the same pause and after a look at /proc: every task of the peer process is in state S.

use std::time::Instant;

use crate::{
    error::Result,
    figures::{Figures, Goal},
    limit::futex,
    peer::Peer,
    process::Tasks,
    samples::{interleave, median},
    setup::Setup,
    subject::{self, Caller, Way},
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Column {
    Futex,
    Asleep,
}

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut peer = setup.pinned_peer()?;
    let caller = subject::connect(&peer.serve("asleep")?, Way::Shm)?;
    // The first call starts whatever threads there will be.
    caller.add(100)?;
    let count = setup.count(200);
    let mut slept = Vec::new();
    let samples = interleave(setup.rounds(), &[Column::Futex, Column::Asleep], |column| match column {
        Column::Futex => {
            let sleeps = raw(&mut peer, count, futex::Caller::Sleeps)?;
            Ok(sleeps.min(raw(&mut peer, count, futex::Caller::Looks)?))
        }
        Column::Asleep => {
            let tasks = Tasks::of(peer.pid())?;
            let (ns, share) = calls(&caller, &tasks, count)?;
            slept.push(share);
            Ok(ns)
        }
    })?;

    figures.add("limit.futex_ns", "ns", samples.of(Column::Futex), Goal::None);
    figures.add("call.shm.asleep_ns", "ns", samples.of(Column::Asleep), Goal::None);
    figures.add("call.shm.asleep.slept_share", "of 1", &slept, Goal::AtLeast(0.99));
    let ratios = samples.ratios(Column::Asleep, Column::Futex);
    figures.add("ratio.call.shm.asleep", "x futex", &ratios, Goal::AtMost(1.2));
    Ok(())
}

/// The median of `count` raw round trips, in nanoseconds.
fn raw(peer: &mut Peer<'_>, count: u64, caller: futex::Caller) -> Result<f64> {
    let pid = peer.pid();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    peer.batch(&format!("futex {count}"), |shared| {
        let tasks = Tasks::of(pid)?;
        let mut each = Vec::new();
        for round in 1..=count {
            tasks.settle();
            let start = Instant::now();
            futex::call(shared, round, caller)?;
            each.push(start.elapsed().as_nanos() as f64);
        }
        Ok(median(&each))
    })
}

/// The median of `count` calls, in nanoseconds, and the share of them before which the peer slept.
fn calls(caller: &Caller, tasks: &Tasks, count: u64) -> Result<(f64, f64)> {
    let mut each = Vec::new();
    let mut slept = 0_u32;
    for _ in 0..count {
        slept += u32::from(tasks.settle());
        let start = Instant::now();
        caller.add(1)?;
        each.push(start.elapsed().as_nanos() as f64);
    }
    Ok((median(&each), f64::from(slept) / count as f64))
}
