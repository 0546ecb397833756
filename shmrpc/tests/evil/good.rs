//! The good clients beside the evil one: they call all the time, check every answer, and measure.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shmrpc::prelude::*;

use super::raw::Rng;
use super::target::{Shape, TargetClient, blob, sum};
use crate::support::{BOUND, until};

/// Clients, each with a connection and a thread of its own.
pub(crate) const CLIENTS: u64 = 8;
/// Calls are counted by the time they took: 16 buckets for each power of two of nanoseconds.
const BUCKETS: usize = 64 * 16;

/// How long calls took.
struct Histogram(Vec<AtomicU64>);

impl Histogram {
    fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }

    fn add(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap().max(16);
        let power = ns.ilog2();
        let part = (ns >> (power - 4)) & 15;
        self.0[(u64::from(power) * 16 + part) as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What 99 of 100 calls did not exceed, and how many there were; begins anew.
    fn take(&self) -> (u64, Duration) {
        let counts: Vec<u64> = self.0.iter().map(|bucket| bucket.swap(0, Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let mut left = all / 100;
        let at = counts.iter().rposition(|count| {
            let found = *count > left;
            left = left.saturating_sub(*count);
            found
        });
        let at = at.unwrap_or(0) as u64;
        (all, Duration::from_nanos(((16 + at % 16) << (at / 16)) >> 4))
    }
}

/// The good clients.
pub(crate) struct Crowd {
    stop: AtomicBool,
    took: Histogram,
    calls: AtomicU64,
    ready: AtomicUsize,
    /// What was lost or wrong.
    faults: Mutex<Vec<String>>,
}

impl Crowd {
    pub(crate) fn new() -> Self {
        Self {
            stop: false.into(),
            took: Histogram::new(),
            calls: 0.into(),
            ready: 0.into(),
            faults: Mutex::default(),
        }
    }

    /// Runs `beside` while the good clients call.
    pub(crate) fn around(&self, endpoint: &str, beside: impl FnOnce()) {
        std::thread::scope(|scope| {
            let _stop = Stop(&self.stop);
            for number in 0..CLIENTS {
                scope.spawn(move || {
                    if let Err(fault) = self.client(endpoint, Rng(number)) {
                        self.faults.lock().unwrap().push(format!("client {number}: {fault}"));
                    }
                });
            }
            until("the good clients have called", || {
                self.ready.load(Ordering::Relaxed) == CLIENTS as usize || !self.faults().is_empty()
            });
            beside();
        });
    }

    fn client(&self, endpoint: &str, mut rng: Rng) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let client = TargetClient::builder()
            .timeout(BOUND)
            .reconnect(false)
            .connect(endpoint)
            .map_err(|error| text(&error))?;
        let bytes: Vec<u8> = (0..65_536).map(|_| rng.next() as u8).collect();
        let total = sum(&bytes);
        let named = Shape::Named { name: "good".into(), letter: 'g', filled: None };
        let shapes = vec![Shape::Point(0.5, 1.5), named, Shape::Many(vec![vec![7; 9]; 5])];
        for round in 0.. {
            let (a, b) = (rng.word(), rng.word());
            let start = Instant::now();
            let same = match round % 16 {
                0 => client.sum(&bytes).map(|answer| answer == total),
                1 => {
                    client.view().blob(20_000, a as u8).map(|view| *view.as_slice() == blob(20_000, a as u8))
                }
                2 => client.shapes(shapes.clone()).map(|count| count == 3),
                3..6 => {
                    let text = format!("{a:x}").repeat(1 + b as usize % 40);
                    client.echo(&text).map(|answer| answer == text)
                }
                _ => client.add(a, b).map(|answer| answer == a.wrapping_add(b)),
            };
            self.took.add(start.elapsed());
            match same {
                Ok(true) => {}
                Ok(false) => return Err(format!("wrong answer in round {round}")),
                Err(error) => return Err(format!("no answer in round {round}: {error}")),
            }
            self.calls.fetch_add(1, Ordering::Relaxed);
            if round == 64 {
                self.ready.fetch_add(1, Ordering::Relaxed);
            }
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// Calls that were answered, and rightly.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Calls since the last time, and what 99 of 100 did not exceed.
    pub(crate) fn measured(&self) -> (u64, Duration) {
        self.took.take()
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().clone()
    }
}

/// Ends the clients, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
