//! Payloads from 64 bytes to 16 MiB: read in place or copied first, as argument and as reply.

use std::time::Instant;

use crate::{
    batch::{self, ns_each},
    error::Result,
    figures::{Figures, Goal},
    limit::handoff,
    peer::Peer,
    samples::interleave,
    setup::Setup,
    subject::{self, Caller},
    work::{SIZES, payload, touch_lines},
};

/// Sizes from which on the goals hold.
const LARGE: usize = 65536;
/// Exchanges before the timer starts, at least: a column begins with the caches full of another column's bytes, and
/// its first hand-offs of 16 MiB measure those.
const STEADY: u64 = 12;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Column {
    Handoff,
    InPlace,
    HandoffCopy,
    Copied,
    View,
}

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
    let (trusting, wary) = match peer.serve("payload")? {
        Some(served) => (subject::connect(&served.trusting)?, subject::connect(&served.wary)?),
        None => (None, None),
    };
    let columns: &[Column] = match trusting {
        Some(_) => &[Column::Handoff, Column::InPlace, Column::HandoffCopy, Column::Copied, Column::View],
        None => &[Column::Handoff, Column::HandoffCopy],
    };
    for (seed, size) in (1..).zip(SIZES) {
        let bytes = payload(size, seed);
        let source = Source {
            sum: touch_lines(&bytes),
            bytes,
            count: setup.count(how_many(size)),
            warm: how_many(size).div_ceil(30).max(STEADY),
        };
        let samples = interleave(setup.rounds(), columns, |column| match column {
            Column::Handoff => hand_over(&mut peer, "handoff", &source),
            Column::HandoffCopy => hand_over(&mut peer, "handoff_copy", &source),
            Column::InPlace => calls(setup, &trusting, &source),
            Column::Copied => calls(setup, &wary, &source),
            Column::View => views(setup, &trusting, &source),
        })?;

        let mut ns = |key, column| figures.add(key, "ns", samples.of(column), Goal::None);
        ns(format!("limit.handoff.{size}_ns"), Column::Handoff);
        ns(format!("limit.handoff_copy.{size}_ns"), Column::HandoffCopy);
        ns(format!("payload.shm.{size}.inplace_ns"), Column::InPlace);
        ns(format!("payload.shm.{size}.copied_ns"), Column::Copied);
        ns(format!("view.shm.{size}_ns"), Column::View);
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

fn calls(setup: &Setup, caller: &Option<Caller>, source: &Source) -> Result<f64> {
    let Some(caller) = caller else { return Ok(f64::NAN) };
    batch::subject(setup.batch_time(), source.warm, |count| caller.touch(&source.bytes, source.sum, count))
}

fn views(setup: &Setup, caller: &Option<Caller>, source: &Source) -> Result<f64> {
    let Some(caller) = caller else { return Ok(f64::NAN) };
    batch::subject(setup.batch_time(), source.warm, |count| caller.view(source.bytes.len(), count))
}
