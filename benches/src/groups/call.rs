//! The smallest call with both sides awake, beside the raw round trip of a cache line; and sockets, for scale.

use std::{process, time::Instant};

use crate::{
    batch::{self, ns_each},
    error::Result,
    figures::{Figures, Goal},
    limit::{spin, tcp, uds},
    peer::Peer,
    samples::interleave,
    setup::Setup,
    subject::{self, Caller},
};

/// Exchanges before the timer starts.
const WARM: u64 = 500;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Column {
    Spin,
    Awake,
    Untrusted,
    Default,
    Uds,
    Tcp,
}

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut peer = setup.pinned_peer()?;
    let mut free = setup.free_peer()?;
    let (trusting, wary) = match peer.serve("call")? {
        Some(served) => (subject::connect(&served.trusting)?, subject::connect(&served.wary)?),
        None => (None, None),
    };
    let default = setup.unpinned(|| match free.serve("default")? {
        Some(served) => subject::connect(&served.trusting),
        None => Ok(None),
    })?;
    let streams = format!("shmrpc-bench-{}-streams", process::id());
    let port = peer.prepare(&format!("streams {streams}"))?.parse()?;
    let mut uds = uds::connect(&streams)?;
    let mut tcp = tcp::connect(port)?;
    peer.finish()?;

    let mut columns = vec![Column::Spin, Column::Uds, Column::Tcp];
    if trusting.is_some() {
        columns.splice(1..1, [Column::Awake, Column::Untrusted, Column::Default]);
    }
    let mut message = [7; uds::MESSAGE];
    let samples = interleave(setup.rounds(), &columns, |column| match column {
        Column::Spin => fastest_spin(&mut peer, setup.count(10_000)),
        Column::Awake => calls(setup, &trusting),
        Column::Untrusted => calls(setup, &wary),
        Column::Default => setup.unpinned(|| calls(setup, &default)),
        Column::Uds => echoes(&mut peer, "uds", setup.count(2_000), || uds::call(&mut uds, &mut message)),
        Column::Tcp => echoes(&mut peer, "tcp", setup.count(2_000), || uds::call(&mut tcp, &mut message)),
    })?;

    let mut ns = |key, column| figures.add(key, "ns", samples.of(column), Goal::None);
    ns("limit.spin_ns", Column::Spin);
    ns("limit.uds_ns", Column::Uds);
    ns("limit.tcp_ns", Column::Tcp);
    ns("call.shm.awake_ns", Column::Awake);
    ns("call.shm.untrusted_ns", Column::Untrusted);
    ns("call.shm.default_ns", Column::Default);
    let mut to_spin =
        |key, column, goal| figures.add(key, "x spin", &samples.ratios(column, Column::Spin), goal);
    to_spin("ratio.call.shm.awake", Column::Awake, Goal::AtMost(1.25));
    to_spin("ratio.call.shm.untrusted", Column::Untrusted, Goal::AtMost(1.3));
    Ok(())
}

/// The round trip of the variant that is fastest now.
fn fastest_spin(peer: &mut Peer<'_>, count: u64) -> Result<f64> {
    let mut fastest = f64::INFINITY;
    for variant in 0..spin::VARIANTS {
        let time = peer.batch(&format!("spin {variant} {}", WARM + count), |shared| {
            spin::call(shared, variant, 0, WARM);
            let start = Instant::now();
            spin::call(shared, variant, WARM, count);
            Ok(start.elapsed())
        })?;
        fastest = fastest.min(ns_each(time, count));
    }
    Ok(fastest)
}

fn echoes(peer: &mut Peer<'_>, kind: &str, count: u64, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let warm = WARM / 10;
    let time = peer.batch(&format!("{kind} {}", warm + count), |_| {
        for _ in 0..warm {
            call()?;
        }
        let start = Instant::now();
        for _ in 0..count {
            call()?;
        }
        Ok(start.elapsed())
    })?;
    Ok(ns_each(time, count))
}

fn calls(setup: &Setup, caller: &Option<Caller>) -> Result<f64> {
    let Some(caller) = caller else { return Ok(f64::NAN) };
    batch::subject(setup.batch_time(), WARM, |count| caller.add(count))
}
