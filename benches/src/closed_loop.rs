//! One client that calls again as soon as it has its answer, for a fixed time, and looks at the clock at every call.

use std::time::{Duration, Instant};

use crate::{error::Result, histogram::Histogram};

/// What one client reached.
pub(crate) struct Reached {
    /// Completed calls per second.
    pub(crate) per_s: f64,
    /// Their latencies.
    pub(crate) latencies: Histogram,
}

/// Calls until `time` is over.
pub(crate) fn run(time: Duration, mut call: impl FnMut() -> Result<()>) -> Result<Reached> {
    let mut latencies = Histogram::new();
    let start = Instant::now();
    let mut last = start;
    while last - start < time {
        call()?;
        let now = Instant::now();
        latencies.count(u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX));
        last = now;
    }
    Ok(Reached { per_s: latencies.total() as f64 / (last - start).as_secs_f64(), latencies })
}

impl Reached {
    /// As words, for the command channel.
    pub(crate) fn to_text(&self) -> String {
        format!("{} {}", self.per_s, self.latencies.to_text())
    }
}
