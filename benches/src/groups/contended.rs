//! Four client processes that call one server process at the same time, on whatever CPUs there are: over shared memory,
//! over Unix sockets, and a raw blocking echo server on a Unix socket.

use std::{process, time::Duration};

use crate::{
    error::{Error, Result},
    figures::{Figures, Goal},
    histogram::Histogram,
    peer::Peer,
    setup::Setup,
};

/// Runs of each kind, interleaved, each time in another order.
const RUNS: usize = 5;

/// Client processes.
const CLIENTS: usize = 4;

/// What the runs of one kind reached.
#[derive(Debug, Default)]
struct Runs {
    /// Calls per second of all clients.
    total: Vec<f64>,
    /// Calls per second of the slowest client.
    slowest: Vec<f64>,
    /// The 99th percentile of all calls, in nanoseconds.
    p99: Vec<f64>,
}

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut server = setup.free_peer()?;
    server.serve("contended")?;
    let mut echo_server = setup.free_peer()?;
    let echo = format!("shmrpc-bench-{}-echo", process::id());
    echo_server.ask(&format!("echo {echo}"))?;
    let mut clients = (0..CLIENTS).map(|_| setup.free_peer()).collect::<Result<Vec<_>>>()?;

    let ms = setup.time(Duration::from_millis(1600)).as_millis();
    let kinds = [format!("shm contended {ms}"), format!("uds contended {ms}"), format!("echo {echo} {ms}")];
    let mut runs: [Runs; 3] = Default::default();
    for run in 0..RUNS {
        let mut turn: Vec<_> = runs.iter_mut().zip(&kinds).collect();
        turn.rotate_left(run % 3);
        for (runs, kind) in turn {
            runs.add(&mut clients, &format!("client {kind}"))?;
        }
    }

    let [shm, uds, raw] = runs;
    for (name, runs) in [("contended.shm", &shm), ("contended.uds", &uds), ("limit.contended.uds", &raw)] {
        let mut add = |what, unit, values| {
            figures.add(format!("{name}.{CLIENTS}.{what}"), unit, values, Goal::None);
        };
        add("total_per_s", "1/s", &runs.total);
        add("slowest_per_s", "1/s", &runs.slowest);
        add("p99_ns", "ns", &runs.p99);
    }
    let per_run = |over: &[f64], under: &[f64], parts: usize| -> Vec<f64> {
        over.iter().zip(under).map(|(over, under)| over / (under / parts as f64)).collect()
    };
    for (other, suffix, total_of, mean_of) in
        [(&uds, "", "x uds", "x mean"), (&raw, ".to_raw", "x raw", "x mean raw")]
    {
        let total = per_run(&shm.total, &other.total, 1);
        figures.add(format!("ratio.contended.total{suffix}"), total_of, &total, Goal::EachAtLeast(3.0));
        let slowest = per_run(&shm.slowest, &other.total, CLIENTS);
        figures.add(format!("ratio.contended.slowest{suffix}"), mean_of, &slowest, Goal::EachAtLeast(1.5));
    }
    Ok(())
}

impl Runs {
    /// One run: every client connects, then all start together.
    fn add(&mut self, clients: &mut [Peer<'_>], command: &str) -> Result<()> {
        for client in &mut *clients {
            client.prepare(command)?;
        }
        for client in &mut *clients {
            client.go()?;
        }
        let (mut total, mut slowest) = (0.0, f64::INFINITY);
        let mut latencies = Histogram::new();
        for client in clients {
            let text = client.finish()?;
            let (per_s, histogram) =
                text.split_once(' ').ok_or_else(|| Error::Peer(format!("reached {text}")))?;
            let per_s: f64 = per_s.parse().map_err(|_| Error::Peer(format!("reached {per_s}")))?;
            total += per_s;
            slowest = per_s.min(slowest);
            latencies.add_text(histogram)?;
        }
        self.total.push(total);
        self.slowest.push(slowest);
        self.p99.extend(latencies.percentile(99).map(|ns| ns as f64));
        Ok(())
    }
}
