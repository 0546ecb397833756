//! Latencies in buckets that are at most 1/32 wide, so that a client process can send millions of them in one line.

use crate::error::{Error, Result};

/// Buckets per power of two.
const FINE: u64 = 32;

/// Counts of nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    /// An empty one whose counting never allocates.
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; 64 * 32] }
    }

    /// Counts one latency.
    pub(crate) fn count(&mut self, ns: u64) {
        self.add(bucket(ns), 1);
    }

    /// How many were counted.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The latency, in nanoseconds, that `percent` of the counted ones do not exceed.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let wanted = (self.total() * percent).div_ceil(100);
        let mut seen = 0;
        (0..).zip(&self.counts).find_map(|(bucket, count)| {
            seen += count;
            (*count > 0 && seen >= wanted).then(|| upper(bucket))
        })
    }

    /// As words `bucket:count`.
    pub(crate) fn to_text(&self) -> String {
        let full = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        full.map(|(bucket, count)| format!("{bucket}:{count}")).collect::<Vec<_>>().join(" ")
    }

    /// Adds what [`Histogram::to_text`] wrote.
    pub(crate) fn add_text(&mut self, text: &str) -> Result<()> {
        for word in text.split_whitespace() {
            let (bucket, count) =
                word.split_once(':').ok_or_else(|| Error::Peer(format!("sent {word} as a bucket")))?;
            self.add(bucket.parse()?, count.parse()?);
        }
        Ok(())
    }

    fn add(&mut self, bucket: usize, count: u64) {
        if let Some(place) = self.counts.get_mut(bucket) {
            *place += count;
        }
    }
}

/// The bucket of a latency: exact below 32, then 32 buckets for each power of two.
fn bucket(ns: u64) -> usize {
    let bucket = match ns.checked_ilog2() {
        Some(power) if ns >= FINE => {
            let shift = u64::from(power) - 5;
            shift * FINE + (ns >> shift)
        }
        _ => ns,
    };
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The largest latency of a bucket.
fn upper(bucket: u64) -> u64 {
    if bucket < 2 * FINE {
        return bucket;
    }
    let shift = bucket / FINE - 1;
    ((bucket - shift * FINE + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_upper_bound_and_not_the_next() {
        for ns in (0..5000).chain([123_456, 9_999_999_999]) {
            let at = bucket(ns);
            let top = upper(at as u64);
            assert!(top >= ns && top - ns <= ns / 32, "{ns} in bucket up to {top}");
            assert_eq!(bucket(top), at);
            assert_eq!(bucket(top + 1), at + 1);
        }
    }

    #[test]
    fn percentiles_survive_text() -> Result<()> {
        let mut there = Histogram::new();
        (1..=100).for_each(|ns| there.count(ns * 1000));
        let mut here = Histogram::new();
        here.add_text(&there.to_text())?;
        assert_eq!(here.total(), 100);
        let p99 = here.percentile(99).unwrap();
        assert!((99_000..=99_000 * 33 / 32).contains(&p99), "{p99}");
        Ok(())
    }
}
