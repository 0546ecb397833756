//! Batches of a subject: warmed up, long enough, and without a timer inside.

use std::time::{Duration, Instant};

use crate::error::Result;

/// Nanoseconds of one of `count` things that took `time` together.
pub(crate) fn ns_each(time: Duration, count: u64) -> f64 {
    time.as_nanos() as f64 / count as f64
}

/// Nanoseconds of one thing, from a batch of about `time` and of `least` at least, after `warm` of them that tell how
/// many make such a batch.
pub(crate) fn subject(
    time: Duration,
    least: u64,
    warm: u64,
    mut run: impl FnMut(u64) -> Result<()>,
) -> Result<f64> {
    let start = Instant::now();
    run(warm)?;
    let warm_ns = start.elapsed().as_nanos().max(1);
    let count = u64::try_from(time.as_nanos() * u128::from(warm) / warm_ns).unwrap_or(u64::MAX).max(least);
    let start = Instant::now();
    run(count)?;
    Ok(ns_each(start.elapsed(), count))
}
