//! Death at every step: each side is killed before each of its operations on shared memory, before and after each of its
//! system calls, and at random times. What the other side sees must be true, and nothing may be left. Three stories (calls;
//! growing, retired segments and a drain; blobs and descriptors) on four grounds (trusted, not trusted, PosixShm, frames
//! over Unix sockets).
//!
//! The bounded form runs with the tests. The long form:
//! `SHMRPC_KILLS=10000 cargo test --release -p shmrpc --features instrument --test crash -- --nocapture`
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod counts;
mod memory;
mod plan;
mod scenario;
#[path = "../support/mod.rs"]
mod support;
mod trace;
mod victims;

use std::fs::File;
use std::sync::Mutex;
use std::time::Duration;

use self::counts::{Counts, make_handed_file, resident_kib};
use self::plan::{Ground, Plan, Story};
use self::scenario::Log;
use self::support::{Place, until};
use self::victims::{
    Findings, Host, Victim, When, attack_client, attack_guest, attack_server, log_path, start,
};

/// What a process holds can be counted only while nobody else does anything.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn child_server() {
    victims::server();
}

#[test]
fn child_client() {
    victims::client();
}

/// Points between two kills in the bounded form, for each plan: odd and prime, so that both stops of a system call have
/// their turn.
fn stride(plan: Plan, what: &str) -> u64 {
    match (plan.story, plan.ground) {
        _ if is_short(plan, what) => 3,
        (Story::Calls, Ground::InPlace) => 23,
        (Story::Drain, Ground::InPlace) | (Story::Handed, _) => 43,
        _ => 101,
    }
}

/// Few operations are on memory where lanes are sockets.
fn is_short(plan: Plan, what: &str) -> bool {
    plan.ground == Ground::Frames && what == OPERATION
}

const OPERATION: &str = "operation";
const SYSTEM_CALL: &str = "system call";

/// The plans that are swept: all, or those that the environment names, such as `Handed Frames` or `Drain`.
fn plans() -> impl Iterator<Item = Plan> {
    let only = std::env::var("SHMRPC_CRASH_ONLY").unwrap_or_default();
    Plan::ALL.into_iter().filter(move |plan| format!("{:?} {:?}", plan.story, plan.ground).contains(&only))
}

/// How many random kills there are, and whether every point is tried.
fn kills() -> (u32, bool) {
    let long = std::env::var("SHMRPC_KILLS").ok().map(|kills| kills.parse().unwrap());
    (long.unwrap_or(40), long.is_some())
}

/// Ends a victim at one point after the other, until none is left that it reaches; so for every plan.
fn sweep(victim: Victim, what: &str, when: impl Fn(u64) -> When) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for plan in plans() {
        if !sweep_plan(plan, victim, what, &when) {
            return;
        }
    }
}

/// False if the victim cannot be killed in this way here.
fn sweep_plan(plan: Plan, victim: Victim, what: &str, when: &impl Fn(u64) -> When) -> bool {
    let place = place();
    let all_points = kills().1;
    let stride = if all_points { 1 } else { stride(plan, what) };
    let mut all = Findings::default();
    // The first connection of a process starts its watcher.
    attack(victim, When::Operation(0), plan, &place);
    let before = Counts::at_rest(place.path());
    let mut unharmed = 0;
    // Each plan begins elsewhere, so that the bounded form meets other points in each.
    let begin_elsewhere = !all_points && !is_short(plan, what);
    let mut at = if begin_elsewhere { 1 + (16 * plan.number() as u64) % stride } else { 1 };
    // With two threads the last point has not the same number each time.
    while unharmed < if all_points { 3 } else { 1 } {
        let Some((killed, found)) = attack(victim, when(at), plan, &place) else { return false };
        unharmed = if killed { 0 } else { unharmed + 1 };
        all += found;
        found.expect_none(&format!("{victim:?} killed at {what} {at}, {plan:?}"));
        until("all is given back", || Counts::now(place.path()).at_most(before));
        at += stride;
    }
    println!(
        "crash sweep, {:?} {:?}, {victim:?}, each {what} (step {stride}): {}, leaks: 0",
        plan.story,
        plan.ground,
        all.told(victim)
    );
    let fewest = if is_short(plan, what) { 2 } else { 50 };
    assert!(all.killed >= (fewest / stride).max(1), "{all:?}");
    true
}

fn place() -> Place {
    let place = Place::new();
    make_handed_file(place.path());
    place
}

fn attack(victim: Victim, when: When, plan: Plan, place: &Place) -> Option<(bool, Findings)> {
    forget_log(place);
    let process = start(victim, when, plan, place)?;
    Some(match victim {
        Victim::Server => attack_server(process, plan, place),
        Victim::Client => attack_client(process, plan, place),
    })
}

/// Whoever writes to it writes to the same file.
fn forget_log(place: &Place) {
    drop(File::create(log_path(place)).unwrap());
}

#[test]
fn a_server_dies_at_each_operation() {
    sweep(Victim::Server, OPERATION, When::Operation);
}

#[test]
fn a_client_dies_at_each_operation() {
    sweep(Victim::Client, OPERATION, When::Operation);
}

#[test]
fn a_server_dies_at_each_system_call() {
    sweep(Victim::Server, SYSTEM_CALL, When::SystemCall);
}

#[test]
fn a_client_dies_at_each_system_call() {
    sweep(Victim::Client, SYSTEM_CALL, When::SystemCall);
}

/// A server that lives through all kills of the clients of one ground.
struct Home {
    ground: Ground,
    place: Place,
    host: Host,
    kills: u64,
}

impl Home {
    fn on(ground: Ground) -> Self {
        let place = place();
        let host = Host::start(Log::at(&log_path(&place)), ground, place.path());
        Self { ground, place, host, kills: 0 }
    }

    fn attack(&mut self, when: When, plan: Plan) -> Findings {
        forget_log(&self.place);
        let client = start(Victim::Client, when, plan, &self.place).unwrap();
        let (_, found) = attack_guest(client, plan, &self.host, &self.place);
        self.kills += found.killed;
        found
    }
}

/// Either side, at any time; clients while their server lives on, if it is not to shut down. Nothing grows.
#[test]
fn either_side_dies_at_any_time() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (kills, _) = kills();
    let place = place();
    let mut random = Random(u64::from(std::process::id()) | 1);
    println!("soak of {kills} kills, seed {}", random.0);
    let mut all = Findings::default();
    // The first connection of a process starts its watcher.
    attack(Victim::Client, When::Operation(0), Plan::ALL[0], &place);
    let mut homes = Ground::ALL.map(Home::on);
    let before = Counts::at_rest(place.path());
    let mut kib = resident_kib();
    for attempt in 0.. {
        let victim = if random.below(2) == 0 { Victim::Server } else { Victim::Client };
        let when = When::After(Duration::from_micros(random.below(40_000)));
        let plan = Plan::ALL[usize::try_from(random.below(Plan::ALL.len() as u64)).unwrap()];
        let home = homes.iter_mut().find(|home| home.ground == plan.ground);
        let (found, at) = match home.filter(|_| victim == Victim::Client && plan.story != Story::Drain) {
            Some(home) => (home.attack(when, plan), &home.place),
            None => (attack(victim, when, plan, &place).unwrap().1, &place),
        };
        found.expect_none(&format!("{victim:?} killed, {when:?}, {plan:?}, attempt {attempt}"));
        all += found;
        until("all is given back", || Counts::now(at.path()).at_most(before));
        if attempt == 20 {
            // By then pools and the allocator's arenas are there.
            kib = resident_kib();
        }
        if all.killed >= u64::from(kills) {
            let grown = resident_kib().saturating_sub(kib);
            let after = Counts::now(place.path());
            println!("soak: {all:?}; {before:?} before, {after:?} after; memory grew by {grown} KiB");
            println!(
                "clients killed whose server lived on: {:?}",
                homes.map(|home| (home.ground, home.kills))
            );
            assert!(attempt < 20 || grown < 16 << 10, "{grown} KiB more than after 20 kills");
            return;
        }
    }
}

/// Numbers that differ (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
