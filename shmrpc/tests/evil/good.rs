//! The good clients beside the evil one, in processes of their own: they call all the time, check every answer, and measure. Each
//! process tells what came of it whenever it is asked to.

use std::fs::File;
use std::io::BufRead;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shmrpc::Transport;
use shmrpc::prelude::*;

use super::raw::Rng;
use super::target::{Shape, TargetClient, blob, sum};
use crate::support::process::{Process, say};
use crate::support::{BOUND, until};

/// Clients, each with a connection and a thread of its own.
pub(crate) const CLIENTS: u64 = 8;
/// Clients of one process.
const OF_ONE: u64 = 4;
/// Which of the clients a process is: the number of its first one.
pub(crate) const GOOD: &str = "SHMRPC_EVIL_GOOD";
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

    /// As it is told to the parent; begins anew.
    fn take_text(&self) -> String {
        let counts = self.0.iter().map(|bucket| bucket.swap(0, Ordering::Relaxed)).enumerate();
        let some = counts.filter(|(_, count)| *count > 0).map(|(at, count)| format!("{at}:{count}"));
        some.collect::<Vec<_>>().join(",")
    }

    fn add_text(&self, text: &str) {
        for bucket in text.split(',').filter(|bucket| !bucket.is_empty()) {
            let (at, count) = bucket.split_once(':').unwrap();
            self.0[at.parse::<usize>().unwrap()].fetch_add(count.parse().unwrap(), Ordering::Relaxed);
        }
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

/// Those of one process.
pub(crate) struct Callers {
    stop: AtomicBool,
    took: Histogram,
    calls: AtomicU64,
    ready: AtomicUsize,
    /// What was lost or wrong.
    faults: Mutex<Vec<String>>,
}

impl Callers {
    /// Calls, and tells what came of it for each line of stdin, until that ends.
    pub(crate) fn call(endpoint: &str, first: u64) {
        let own = Self {
            stop: false.into(),
            took: Histogram::new(),
            calls: 0.into(),
            ready: 0.into(),
            faults: Mutex::default(),
        };
        std::thread::scope(|scope| {
            for number in first..first + OF_ONE {
                let own = &own;
                scope.spawn(move || {
                    if let Err(fault) = own.client(endpoint, Rng(number)) {
                        own.faults.lock().unwrap().push(format!("client {number}: {fault}"));
                    }
                });
            }
            for _question in std::io::stdin().lock().lines().map_while(Result::ok) {
                let (ready, calls) = (own.ready.load(Ordering::Relaxed), own.calls.load(Ordering::Relaxed));
                let faults = own.faults.lock().unwrap().join(" / ").replace('\n', " ");
                say(&format!("good {ready} {calls} [{}] {faults}", own.took.take_text()));
            }
            own.stop.store(true, Ordering::Relaxed);
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
        // More than is copied of a trusted client, so that it takes room for values.
        let shapes = vec![Shape::Point(0.5, 1.5), named, Shape::Many(vec![vec![7; 900]; 5])];
        let hands_over = client.transport().transport() != Transport::Tcp;
        let file = File::open("/dev/null").map_err(|error| text(&error))?;
        for round in 0.. {
            let (a, b) = (rng.word(), rng.word());
            let start = Instant::now();
            let same = match round % 16 {
                // So few that it is not they who are measured.
                6 if hands_over && round % 256 == 6 => {
                    let passed = file.try_clone().map_err(|error| text(&error))?;
                    client.pass(passed).map(|passed| is_same(&passed, &file))
                }
                6 => client.weigh(bytes[..20_000].to_vec()).map(|answer| answer == sum(&bytes[..20_000])),
                7 => client.render(20_000).map(|blob| blob.len() == 20_000),
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
}

fn is_same(one: &OwnedFd, other: &File) -> bool {
    let inode = |file: File| file.metadata().map(|of| (of.dev(), of.ino(), of.rdev())).ok();
    let one = one.try_clone().ok().and_then(|fd| inode(fd.into()));
    one.is_some() && one == other.try_clone().ok().and_then(inode)
}

/// The good clients, as the test sees them.
pub(crate) struct Crowd {
    processes: Mutex<Vec<Process>>,
    took: Histogram,
    /// What they said last.
    said: Mutex<Said>,
}

#[derive(Default, Clone)]
struct Said {
    ready: usize,
    calls: u64,
    faults: Vec<String>,
}

impl Crowd {
    pub(crate) fn new() -> Self {
        Self { processes: Mutex::default(), took: Histogram::new(), said: Mutex::default() }
    }

    /// Runs `beside` while the good clients call.
    pub(crate) fn around(&self, endpoint: &str, beside: impl FnOnce()) {
        let firsts = (0..CLIENTS).step_by(OF_ONE as usize);
        let start = |first: u64| {
            Process::start_with("child_good", endpoint, |command| command.env(GOOD, first.to_string()))
        };
        *self.processes.lock().unwrap() = firsts.map(start).collect();
        until("the good clients have called", || {
            let said = self.ask();
            said.ready == CLIENTS as usize || !said.faults.is_empty()
        });
        beside();
        self.ask();
        for mut process in self.processes.lock().unwrap().drain(..) {
            drop(process.child.stdin.take());
            assert!(process.ends().success(), "good clients ended badly");
        }
    }

    /// What they have to say now; when they have ended, what they said last.
    fn ask(&self) -> Said {
        let mut processes = self.processes.lock().unwrap();
        if !processes.is_empty() {
            let mut all = Said::default();
            processes.iter_mut().for_each(Process::tell);
            for process in processes.iter_mut() {
                let line = process.tells("good ");
                let (counts, rest) = line["good ".len()..].split_once(" [").unwrap();
                let (buckets, fault) = rest.split_once(']').unwrap();
                let (ready, calls) = counts.split_once(' ').unwrap();
                all.ready += ready.parse::<usize>().unwrap();
                all.calls += calls.parse::<u64>().unwrap();
                all.faults.extend((!fault.trim().is_empty()).then(|| fault.trim().to_owned()));
                self.took.add_text(buckets);
            }
            *self.said.lock().unwrap() = all;
        }
        self.said.lock().unwrap().clone()
    }

    /// Calls that were answered, and rightly.
    pub(crate) fn calls(&self) -> u64 {
        self.ask().calls
    }

    /// Calls since the last time, and what 99 of 100 did not exceed.
    pub(crate) fn measured(&self) -> (u64, Duration) {
        self.ask();
        self.took.take()
    }

    /// What was lost or wrong.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.ask().faults
    }
}
