//! Payloads from 64 bytes to 16 MiB: read in place or copied first, as argument and as reply; and over sockets.

use std::time::Instant;

use crate::{
    batch::{self, ns_each},
    error::Result,
    figures::{Figures, Goal},
    limit::handoff,
    peer::Peer,
    samples::interleave,
    setup::Setup,
    subject::{self, Caller, Way},
    work::{SIZES, payload, touch_lines},
};

/// Sizes from which on the goals hold.
const LARGE: usize = 65536;
/// Exchanges before the timer starts, at least: a column begins with the caches full of another column's bytes, and
/// its first hand-offs of 16 MiB measure those.
const STEADY: u64 = 12;
/// Exchanges in a batch, at least. One of 16 MiB takes from 1 to 5 ms, as the host's other guests leave time: of few, a
/// round's ratio says more of them than of us.
const LEAST: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Column {
    Handoff,
    InPlace,
    HandoffCopy,
    Copied,
    View,
    Uds,
    Tcp,
}

const COLUMNS: [Column; 7] = [
    Column::Handoff,
    Column::InPlace,
    Column::HandoffCopy,
    Column::Copied,
    Column::View,
    Column::Uds,
    Column::Tcp,
];

/// A source and what the reader should answer. Private and warm.
struct Source {
    bytes: Vec<u8>,
    sum: u64,
    /// Hand-offs in a batch.
    count: u64,
    /// Exchanges before the timer starts.
    warm: u64,
}

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut peer = setup.pinned_peer()?;
    let served = peer.serve("payload")?;
    let trusting = subject::connect(&served, Way::Shm)?;
    let wary = subject::connect_wary(&served, Way::Shm)?;
    let uds = subject::connect(&served, Way::Uds)?;
    let tcp = subject::connect(&served, Way::Tcp)?;
    for (seed, size) in (1..).zip(SIZES) {
        let bytes = payload(size, seed);
        let source = Source {
            sum: touch_lines(&bytes),
            bytes,
            count: setup.count(how_many(size)).max(LEAST),
            warm: how_many(size).div_ceil(30).max(STEADY),
        };
        // Sockets are slower, and have no goal here.
        let few = source.warm.div_ceil(10);
        let samples = interleave(setup.rounds(), &COLUMNS, |column| match column {
            Column::Handoff => hand_over(&mut peer, "handoff", &source),
            Column::HandoffCopy => hand_over(&mut peer, "handoff_copy", &source),
            Column::InPlace => calls(setup, &trusting, &source, source.warm),
            Column::Copied => calls(setup, &wary, &source, source.warm),
            Column::View => views(setup, &trusting, &source),
            Column::Uds => calls(setup, &uds, &source, few),
            Column::Tcp => calls(setup, &tcp, &source, few),
        })?;

        let mut ns = |key, column| figures.add(key, "ns", samples.of(column), Goal::None);
        ns(format!("limit.handoff.{size}_ns"), Column::Handoff);
        ns(format!("limit.handoff_copy.{size}_ns"), Column::HandoffCopy);
        ns(format!("payload.shm.{size}.inplace_ns"), Column::InPlace);
        ns(format!("payload.shm.{size}.copied_ns"), Column::Copied);
        ns(format!("view.shm.{size}_ns"), Column::View);
        ns(format!("payload.uds.{size}_ns"), Column::Uds);
        ns(format!("payload.tcp.{size}_ns"), Column::Tcp);
        let goal = if size >= LARGE { Goal::AtMost(1.1) } else { Goal::None };
        let in_place = samples.ratios(Column::InPlace, Column::Handoff);
        figures.add(format!("ratio.payload.shm.{size}.inplace"), "x limit", &in_place, goal);
        let copied = samples.ratios(Column::Copied, Column::HandoffCopy);
        figures.add(format!("ratio.payload.shm.{size}.copied"), "x limit", &copied, goal);
    }
    Ok(())
}

/// How many payloads of a size make a batch of about 10 ms.
fn how_many(size: usize) -> u64 {
    let work = (80_u64 << 20) / (size as u64 + 4096);
    work.clamp(5, 15_000)
}

fn hand_over(peer: &mut Peer<'_>, kind: &str, source: &Source) -> Result<f64> {
    let Source { bytes, sum, count, warm } = source;
    let time = peer.batch(&format!("{kind} {} {}", bytes.len(), warm + count), |shared| {
        handoff::call(shared, bytes, *sum, 1, *warm)?;
        let start = Instant::now();
        handoff::call(shared, bytes, *sum, 1 + warm, *count)?;
        Ok(start.elapsed())
    })?;
    Ok(ns_each(time, *count))
}

fn calls(setup: &Setup, caller: &Caller, source: &Source, warm: u64) -> Result<f64> {
    batch::subject(setup.batch_time(), LEAST, warm, |count| caller.touch(&source.bytes, source.sum, count))
}

fn views(setup: &Setup, caller: &Caller, source: &Source) -> Result<f64> {
    batch::subject(setup.batch_time(), LEAST, source.warm, |count| caller.view(source.bytes.len(), count))
}
