//! What connections cost that do nothing: in memory, and in wake-ups and CPU of the server.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::unistd::Pid;

use crate::{
    error::Result,
    figures::{Figures, Goal},
    process::{Used, pss_kib},
    setup::Setup,
    subject::{self, Way},
};

/// Connections, each of which has made one call.
const CONNECTIONS: usize = 100;

/// What was measured; empty where it was not.
#[derive(Default)]
struct Measured {
    kib: Vec<f64>,
    wakeups: Vec<f64>,
    cpu_ms: Vec<f64>,
}

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let measured = setup.unpinned(|| with_connections(setup))?;
    figures.add("idle.wakeups_per_s", "1/s", &measured.wakeups, Goal::AtMost(0.0));
    figures.add("idle.cpu_ms_per_s", "ms/s", &measured.cpu_ms, Goal::AtMost(0.0));
    figures.add("memory.per_connection_kib", "KiB", &measured.kib, Goal::None);
    Ok(())
}

fn with_connections(setup: &Setup) -> Result<Measured> {
    let mut server = setup.free_peer()?;
    let mut measured = Measured::default();
    let served = server.serve("idle")?;
    let mut callers = Vec::with_capacity(CONNECTIONS + 1);
    let mut connect = || -> Result<()> {
        let caller = subject::connect(&served, Way::Shm)?;
        caller.add(1)?;
        callers.push(caller);
        Ok(())
    };

    // What the first connection allocates once is not a connection's cost.
    connect()?;
    let both = || Ok(pss_kib(server.pid())? + pss_kib(Pid::this())?);
    let before: Result<u64> = both();
    for _ in 0..CONNECTIONS {
        connect()?;
    }
    let grown = both()? as f64 - before? as f64;
    measured.kib.push(grown / CONNECTIONS as f64);

    // Until whoever still polls has fallen asleep.
    thread::sleep(Duration::from_millis(500));
    let window = setup.time(Duration::from_secs(5)).max(Duration::from_secs(2));
    let (start, before) = (Instant::now(), Used::by(server.pid())?);
    thread::sleep(window);
    let (after, seconds) = (Used::by(server.pid())?, start.elapsed().as_secs_f64());
    measured.wakeups.push((after.switches - before.switches) as f64 / seconds);
    measured.cpu_ms.push((after.cpu_ns - before.cpu_ns) as f64 / 1e6 / seconds);
    Ok(measured)
}
