//! A real server process with eight good clients, and beside them a real evil process that does one attack after the
//! other: to a server that trusts it (it is of the same user), and to one that does not.
//!
//! The server lives and says nothing on its stderr, where a panic would be; the good clients lose nothing; and after
//! each attack the server has the descriptors, threads and mappings that it had before. What differs with trust is
//! DESIGN.md 4.1: an evil peer that is trusted leaves the bytes of large messages alone while they are read in place.
//!
//! `cargo test` gives each attack a moment. The long form prints a line for each, and at the end one line of JSON:
//!
//! ```text
//! SHMRPC_EVIL_SECONDS=20 cargo test --release -p shmrpc --test evil -- --nocapture
//! ```
//!
//! There each attack is followed by as many seconds beside a process that computes as much as the evil one did, because
//! on a machine with few cores whoever computes takes its fair share. With 9 cores or more it fails if the time that
//! 99 of 100 good calls do not exceed was more than twice as long under attack.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod support;

mod evil {
    pub(crate) mod siege;
    pub(crate) mod good;
    pub(crate) mod attacks;
    mod memory;
    mod rings;
    mod process;
    mod socket;
    mod descriptors;
    pub(crate) mod raw;
    pub(crate) mod target;
}

use std::time::{Duration, Instant};

use evil::attacks::{ATTACKS, Evil, MAX_CONNECTIONS, MAX_MESSAGE};
use evil::good::Crowd;
use evil::raw::Rng;
use evil::siege::{ATTACK, MILLIS, Newcomers, Outcome, SHARE, Siege, TRUSTED};
use evil::target::{Here, TargetServer};
use shmrpc::prelude::*;
use support::Place;
use support::process::{ENDPOINT, say, until_orphaned};

/// How long each attack may take in `cargo test`.
const MOMENT: Duration = Duration::from_millis(100);
/// How much longer good calls may take under attack.
const SLOWER: f64 = 2.0;
/// One for each good client, and one for who attacks: with fewer cores they share.
const CORES: usize = 9;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

// The children's parts. They return at once when they run as tests.

#[test]
fn child_server() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let trust = if variable(TRUSTED) == Some(true) { Peers::SameUser } else { Peers::Nobody };
    let server = Server::builder().service(TargetServer::new(Here)).listen(endpoint).trust(trust);
    let server = server.max_message(MAX_MESSAGE.into()).max_connections(MAX_CONNECTIONS).max_lanes(512);
    let _server = server.start().unwrap();
    say("ready");
    until_orphaned();
}

#[test]
fn child_evil() {
    let (Ok(endpoint), Ok(name)) = (std::env::var(ENDPOINT), std::env::var(ATTACK)) else { return };
    let time = Duration::from_millis(variable(MILLIS).unwrap());
    let evil = Evil {
        path: endpoint.strip_prefix("shm:").unwrap().into(),
        until: Instant::now() + time,
        trusted: variable(TRUSTED).unwrap(),
        rng: Rng(u64::from(std::process::id())),
        tally: evil::attacks::Tally::default(),
    };
    let tally = evil.run(&name);
    say(&format!("tally {} {} {} {}", tally.rounds, tally.joined, tally.ended, tally.answered));
}

/// Computes for a share of the time: of one core, or of several.
#[test]
fn child_worker() {
    let Some(share) = variable::<f64>(SHARE) else { return };
    let end = Instant::now() + Duration::from_millis(variable(MILLIS).unwrap());
    let threads = share.ceil().max(1.0);
    let (work, rest) = (share / threads, (1.0 - share / threads).max(0.0));
    say("working");
    std::thread::scope(|scope| {
        for _ in 0..threads as usize {
            scope.spawn(|| {
                while Instant::now() < end {
                    let piece = Instant::now() + Duration::from_secs_f64(0.01 * work);
                    while Instant::now() < piece {}
                    std::thread::sleep(Duration::from_secs_f64(0.01 * rest));
                }
            });
        }
    });
}

/// Runs every attack, or the one that the environment names.
fn besiege(trusted: bool) {
    let seconds: Option<f64> = variable("SHMRPC_EVIL_SECONDS");
    let only: Option<String> = variable("SHMRPC_EVIL_ONLY");
    let time = seconds.map_or(MOMENT, Duration::from_secs_f64);
    let place = Place::new();
    let crowd = Crowd::new();
    let mut siege = Siege::new(&place, &crowd, trusted, time);
    let mut outcomes: Vec<Outcome> = Vec::new();
    crowd.around(&place.endpoint(), || {
        siege.settle_in();
        for (name, _) in ATTACKS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
            let outcome = siege.attack(name, seconds.is_some());
            print(trusted, &outcome);
            assert!(outcome.tally.rounds > 0 || name.ends_with("die"), "{name} did nothing");
            outcomes.push(outcome);
        }
    });
    assert_eq!(crowd.faults(), Vec::<String>::new());
    siege.end();
    summary(trusted, &outcomes, crowd.calls());
}

fn ratio(outcome: &Outcome) -> Option<f64> {
    Some(outcome.p99.as_secs_f64() / outcome.p99_beside_work?.as_secs_f64())
}

fn print(trusted: bool, outcome: &Outcome) {
    let Outcome { name, seconds, tally, calls, p99, newcomers, resident, .. } = outcome;
    let Newcomers { served, refused, longest } = newcomers;
    println!(
        "{name:18} {} {seconds:6.2} s: {:7} rounds, {:6} joined, {:6} ended, {:8} answered; good: {calls:8} calls, \
         p99 {p99:9.1?} ({} beside mere work); newcomers: {served:4} served, {refused:4} not, {longest:7.1?} at most; \
         server: {resident} KiB",
        if trusted { "trusted  " } else { "untrusted" },
        tally.rounds,
        tally.joined,
        tally.ended,
        tally.answered,
        ratio(outcome).map_or("?".into(), |ratio| format!("{ratio:.2}x")),
    );
}

fn summary(trusted: bool, outcomes: &[Outcome], calls: u64) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let seconds: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
    let worst = outcomes.iter().filter_map(ratio).fold(0.0, f64::max);
    println!(
        "{{\"evil_seconds\": {seconds:.1}, \"trusted\": {trusted}, \"attacks\": {}, \"good_calls\": {calls}, \
         \"lost_or_wrong\": 0, \"server_panics\": 0, \"left_behind\": 0, \"cores\": {cores}, \
         \"worst_p99_ratio\": {worst:.2}}}",
        outcomes.len(),
    );
    let slow: Vec<_> = outcomes.iter().filter(|outcome| ratio(outcome) > Some(SLOWER)).collect();
    assert!(cores < CORES || slow.is_empty(), "more than {SLOWER} times as long: {slow:?}");
}

#[test]
fn an_evil_peer_hurts_nobody_else() {
    // One after the other: both measure.
    for trusted in [true, false] {
        besiege(trusted);
    }
}
