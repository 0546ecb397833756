//! What an evil process is compared with: an honest one that takes as much.
//!
//! On a machine with few cores whoever computes takes his share, and calls wait for a core most of the time. An honest
//! process may do that too. So the yardstick for the good clients' times is a neighbour that computes for as long as the
//! evil process did, connects as often, and keeps as many lanes busy, all of it honestly. An attack that costs the
//! server more than its attacker shows as a ratio.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::target::TargetClient;

/// How much an honest process does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burden {
    /// Seconds of computing in a second.
    pub(crate) share: f64,
    /// Lanes that are busy at once.
    pub(crate) lanes: usize,
    /// Connections made in a second.
    pub(crate) joins: f64,
}

/// Seconds that this process has computed.
fn computed() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}

impl Burden {
    /// As it is told to a child.
    pub(crate) fn to_text(self) -> String {
        format!("{} {} {}", self.share, self.lanes, self.joins)
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let share = parts.next()?.parse().ok()?;
        let (lanes, joins) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { share, lanes, joins })
    }

    /// Does as much until `end`. Nothing begins before `ready` was called.
    pub(crate) fn bear(self, endpoint: &str, end: Instant, ready: impl FnOnce()) {
        let client = TargetClient::connect(endpoint).unwrap();
        assert_eq!(client.add(1, 2), Ok(3));
        ready();
        let (start, before) = (Instant::now(), computed());
        let goes_on = || Instant::now() < end;
        // Whoever has computed enough rests until it is time again.
        let may = || {
            let may = computed() - before < self.share * start.elapsed().as_secs_f64();
            if !may {
                std::thread::sleep(Duration::from_millis(1));
            }
            may
        };
        std::thread::scope(|scope| {
            for _ in 0..self.lanes {
                scope.spawn(|| {
                    while goes_on() {
                        if may() {
                            assert_eq!(client.add(1, 2), Ok(3));
                            assert_eq!(client.blob(5000, 1).map(|blob| blob.len()), Ok(5000));
                        }
                    }
                });
            }
            scope.spawn(|| {
                let mut joined = 0.0;
                while goes_on() {
                    if joined < self.joins * start.elapsed().as_secs_f64() {
                        let again = TargetClient::connect(endpoint).unwrap();
                        assert_eq!(again.add(1, 2), Ok(3));
                        joined += 1.0;
                    } else {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            // What calls do not use up is computed.
            for _ in 0..self.share.ceil() as usize {
                scope.spawn(|| {
                    while goes_on() {
                        let piece = Instant::now() + Duration::from_millis(1);
                        while may() && Instant::now() < piece {}
                    }
                });
            }
        });
    }
}
