//! What a call costs that is answered while its caller looks: no clock, no memory, no kernel.
//!
//! This program has the allocator, `clock_gettime`, `sched_yield` and `syscall` (by which futexes are used) from below, and
//! each counts for the thread that asks.
#![cfg(target_env = "gnu")]
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

#[path = "fast_path/counted.rs"]
mod counted;
mod support;

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use counted::{Counts, Event, Hooks};
use shmrpc::prelude::*;
use shmrpc_transport::shm::consumer::{Consumer, Wait};
use shmrpc_transport::shm::producer::Producer;
use shmrpc_transport::slot::{Header, Kind, LaneSide, SLOTS};
use shmrpc_transport::sys::futex::{self, Stop, Until};
use support::{Place, until};

#[shmrpc::service]
pub trait Calculator {
    fn add(&self, a: u32, b: u32) -> u32;
}

/// How far a call has come that is answered before its caller looks.
static STEP: AtomicU32 = AtomicU32::new(FREE);
/// Nobody waits for anybody.
const FREE: u32 = 0;
/// The server's thread sleeps, and a call begins.
const BEGUN: u32 = 1;
/// The handler has run.
const HANDLED: u32 = 2;
/// The server's thread asks for something for the first time since: it has answered, and waits until the caller is done.
const HELD: u32 = 3;

static SERVER_SLEEPS: AtomicBool = AtomicBool::new(false);
/// Allocations of the server's thread until it was held last.
static SERVERS: AtomicU32 = AtomicU32::new(0);

fn goes_on(from: u32, to: u32) -> bool {
    STEP.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

fn server_asks(event: Event) {
    if goes_on(HANDLED, HELD) {
        SERVERS.store(counted::here().allocations, Ordering::SeqCst);
        counted::apart(|| until("the caller is done", || STEP.load(Ordering::SeqCst) != HELD));
    }
    if event == Event::Sleep {
        SERVER_SLEEPS.store(true, Ordering::SeqCst);
    }
}

/// The caller has woken the server: it looks for the answer when that is there.
fn caller_has(event: Event) {
    if event == Event::Kernel && STEP.load(Ordering::SeqCst) != FREE {
        counted::apart(|| until("the server has answered", || STEP.load(Ordering::SeqCst) == HELD));
    }
}

/// It asks for anything else: it has not found the answer.
fn caller_asks(event: Event) {
    if event != Event::Kernel {
        STEP.store(FREE, Ordering::SeqCst);
    }
}

struct Here;

impl Calculator for Here {
    fn add(&self, a: u32, b: u32) -> u32 {
        counted::hook(Hooks { before: server_asks, after: counted::nothing });
        SERVER_SLEEPS.store(false, Ordering::SeqCst);
        goes_on(BEGUN, HANDLED);
        a.wrapping_add(b)
    }
}

/// The server's thread answers and is held then, so the caller, who has woken it, finds the answer with his first look. Whoever
/// reads a clock before he has answered is held too early, and the caller has to read one, too.
#[test]
fn a_small_call_reads_no_clock_and_allocates_nothing() {
    const WARM_UP: u32 = 4;
    let place = Place::new();
    let server =
        Server::builder().service(CalculatorServer::new(Here)).listen(place.endpoint()).start().unwrap();
    let client = CalculatorClient::connect(place.endpoint()).unwrap();
    let (mut seen, mut servers) = (Vec::new(), 0);
    // A lane takes a turn for others at its 17th message at the earliest.
    for number in 0..16 {
        counted::hook(Hooks { before: caller_asks, after: caller_has });
        let before = counted::here();
        let sum = client.add(number, 1);
        let did = counted::here().since(before);
        counted::hook(Hooks { before: counted::nothing, after: counted::nothing });
        assert_eq!(sum, Ok(number + 1));
        let allocated = SERVERS.load(Ordering::SeqCst);
        // Where sleeps have to be sliced, the server may have been awake.
        if number >= WARM_UP && did.kernel > 0 {
            seen.push((did, allocated - servers));
        }
        servers = allocated;
        STEP.store(FREE, Ordering::SeqCst);
        until("the server sleeps", || SERVER_SLEEPS.load(Ordering::SeqCst));
        STEP.store(BEGUN, Ordering::SeqCst);
    }
    assert!(!seen.is_empty(), "the server never slept");
    let expected = (Counts { allocations: 0, clocks: 0, yields: 0, kernel: 1 }, 0);
    assert_eq!(seen, vec![expected; seen.len()], "the caller wakes the server, and that is all");
    drop((client, server));
}

/// Both sides of a lane, in memory of this process.
fn lane() -> [&'static LaneSide; 2] {
    [(), ()].map(|()| {
        // SAFETY: the layout is of a type that has a size.
        let fresh = unsafe { alloc_zeroed(Layout::new::<LaneSide>()) };
        // SAFETY: it is as large and as aligned as a side, made of atomics and numbers, for which zero is a value; and it is
        // never freed.
        unsafe { fresh.cast::<LaneSide>().as_ref() }.unwrap()
    })
}

/// Times that the kernel was entered.
fn entered(what: impl FnOnce()) -> u32 {
    let before = counted::here();
    what();
    counted::here().since(before).kernel
}

#[test]
fn a_sender_enters_the_kernel_only_for_a_peer_that_sleeps() {
    let [own, peer] = lane();
    let (mut producer, mut consumer) = (Producer::new(own, peer), Consumer::new(own, peer));
    let publish = |producer: &mut Producer<_>| {
        assert!(producer.try_claim().unwrap());
        producer.publish(Header::new(Kind::Ping), &[0; 5]);
    };
    let awake = entered(|| {
        for _ in 0..10 {
            publish(&mut producer);
            producer.wake_seen_sleeper();
            producer.notify();
            producer.tell_the_sleeping(&mut consumer);
        }
    });
    assert_eq!(awake, 0);
    // What `Consumer::sleep` says: a mark, and the position that it waits for.
    let sleeps_on = |position: u32| peer.asleep.store(1 << 32 | u64::from(position), Ordering::Relaxed);
    sleeps_on(11);
    let for_another = entered(|| {
        publish(&mut producer);
        producer.tell_the_sleeping(&mut consumer);
    });
    assert_eq!(for_another, 0, "it waits for what was not published");
    let for_this_one = entered(|| {
        publish(&mut producer);
        producer.wake_seen_sleeper();
        producer.tell_the_sleeping(&mut consumer);
    });
    assert_eq!(for_this_one, 1, "it is told once");
    sleeps_on(3);
    assert_eq!(entered(|| producer.notify()), 0, "it was told before");
    peer.credit_wanted.store(1, Ordering::Relaxed);
    assert_eq!(entered(|| producer.tell_the_sleeping(&mut consumer)), 0, "none was given back");
    consumer.finish();
    assert_eq!(entered(|| producer.tell_the_sleeping(&mut consumer)), 1, "it wants credit");
    assert_eq!(entered(|| producer.tell_the_sleeping(&mut consumer)), 0, "it was told of this one");
}

#[test]
fn what_is_counted_is_seen() {
    let before = counted::here();
    std::hint::black_box(Box::new(std::time::Instant::now()));
    std::thread::yield_now();
    futex::wake(&lane()[0].done);
    let expected = Counts { allocations: 3, clocks: 1, yields: 1, kernel: 1 };
    assert_eq!(counted::here().since(before), expected, "a box, and two sides of a lane");
}

/// The whole of an exchange on one thread: each message is there before it is waited for.
#[test]
fn an_exchange_of_two_who_are_awake_is_between_them_alone() {
    let [ours, theirs] = lane();
    let (mut requests, mut arriving) = (Producer::new(ours, theirs), Consumer::new(theirs, ours));
    let (mut replies, mut answers) = (Producer::new(theirs, ours), Consumer::new(ours, theirs));
    let stop = Stop::default();
    let before = counted::here();
    // Not as many as a lane exchanges between two turns for others.
    for _ in 0..3 * SLOTS {
        for (producer, consumer) in [(&mut requests, &mut arriving), (&mut replies, &mut answers)] {
            assert!(producer.try_claim().unwrap());
            producer.publish(Header::new(Kind::Ping), &[0; 5]);
            producer.notify();
            let mut until = Until::after(support::BOUND);
            assert_eq!(consumer.wait(&stop, &mut until), Ok(Wait::Ready));
            consumer.take(&mut [0; 5]).unwrap();
            consumer.finish();
        }
    }
    assert_eq!(counted::here().since(before), Counts::default());
}
