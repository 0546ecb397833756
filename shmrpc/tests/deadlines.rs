//! Deadlines under attack (promise 2): a real server process does all it can so that its clients wait for ever, and each
//! of their waits ends within 100 ms after its deadline; and so do their next calls, when replies come that nobody waits for
//! any more. For clients that trust it and that do not, on a kernel that has `futex_waitv` and on one that has not; and
//! over TCP.
//!
//! This is about time, so it measures time: beside each attempt a thread that only sleeps tells how late the machine
//! was. An attempt fails only if it is late by much more than that, and the test only if more attempts fail than end in
//! time (`deadlines::pulse` says how many).
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod support;

#[allow(dead_code, reason = "most of it is for evil clients")]
#[path = "evil/raw.rs"]
mod raw;
#[allow(dead_code, reason = "the same")]
#[path = "evil/target.rs"]
mod target;

mod deadlines {
    pub(crate) mod late;
    pub(crate) mod streams;
    pub(crate) mod hostile;
    pub(crate) mod kernel;
    pub(crate) mod pulse;
}

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use deadlines::hostile::{self, Attack, Door};
use deadlines::kernel::forget_waitv;
use deadlines::late;
use deadlines::pulse::in_time;
use deadlines::streams;
use shmrpc::ClientBuilder;
use shmrpc::prelude::*;
use support::process::{ENDPOINT, Process, say, until_orphaned};
use support::{BOUND, Place};
use target::TargetClient;

const ATTACK: &str = "SHMRPC_DEADLINES_ATTACK";
const TRUSTS: &str = "SHMRPC_DEADLINES_TRUSTS";

/// The deadline of each wait.
const TIME: Duration = Duration::from_millis(100);

/// What a client does meanwhile; returns how much later than its deadline the worst of its waits ended.
type Wait = fn(&mut Scene) -> Duration;

/// What the server does, and what waits.
const ATTACKS: [(&str, Attack, Wait); 33] = [
    ("full_backlog", hostile::full_backlog, connecting),
    ("unanswered_hello", hostile::unanswered_hello, connecting),
    ("frozen_hello", hostile::frozen_hello, connecting),
    ("trickled_hello", hostile::trickled_hello, connecting),
    ("unanswered_lane", hostile::unanswered_lane, opening),
    ("frozen_lane", hostile::frozen_lane, opening),
    ("signs_of_life", hostile::signs_of_life, opening),
    ("silence", hostile::silence, calling),
    ("freeze", hostile::freeze, calling),
    ("theft", hostile::theft, being_stolen),
    ("theft_and_death", hostile::theft_and_death, being_left),
    ("wake_storm", hostile::wake_storm, calling),
    ("crowd", hostile::crowd, waking_one),
    ("unknown_segment", hostile::unknown_segment, being_answered_wrongly),
    ("no_lane_left", hostile::silence, calling_on_every_lane),
    ("no_credit", hostile::silence, sending),
    ("no_credit_and_theft", hostile::theft, sending_while_stolen),
    ("no_credit_and_storm", hostile::wake_storm, sending),
    ("no_memory", hostile::unreleased, sending_large),
    ("full_socket", hostile::full_socket, announcing),
    ("stream_unanswered", streams::unanswered, opening),
    ("stream_with_a_trickled_answer", streams::trickled_answer, opening),
    ("stream_that_is_silent", streams::silent, calling_twice),
    ("stream_of_pings", streams::pings, calling_twice),
    ("stream_with_a_trickled_reply", streams::trickled_reply, calling_twice),
    ("stream_that_is_slow", streams::slow_reader, sending_half),
    ("late_in_new_segments", late::in_new_segments, calling_late),
    ("late_blobs_in_new_segments", late::blobs_in_new_segments, rendering_late),
    ("late_and_large", late::large, calling_late),
    ("stream_late_in_new_segments", late::stream_in_new_segments, calling_late),
    ("stream_late_blobs_in_new_segments", late::stream_blobs_in_new_segments, rendering_late),
    ("stream_late_and_large", late::stream_large, calling_late),
    ("stream_late_and_endless", streams::endless_reply, calling_meanwhile),
];

/// The same over TCP, where nobody is trusted and all waiting is the kernel's.
const TCP_ATTACKS: [(&str, Attack, Wait); 15] = [
    ("tcp_with_a_full_backlog", hostile::full_backlog, connecting),
    ("tcp_without_a_hello", hostile::unanswered_hello, connecting),
    ("tcp_with_a_frozen_hello", hostile::frozen_hello, connecting),
    ("tcp_with_a_trickled_hello", hostile::trickled_hello, connecting),
    ("tcp_with_a_full_backlog_for_lanes", streams::full_backlog, opening_in_a_full_backlog),
    ("tcp_unanswered", streams::unanswered, opening),
    ("tcp_with_a_trickled_answer", streams::trickled_answer, opening),
    ("tcp_that_is_silent", streams::silent, calling_twice),
    ("tcp_that_is_frozen", streams::frozen, calling),
    ("tcp_with_signs_of_life", streams::signs_of_life, calling),
    ("tcp_of_pings", streams::pings, calling_twice),
    ("tcp_with_a_trickled_reply", streams::trickled_reply, calling_twice),
    ("tcp_without_a_lane_left", streams::silent, calling_on_every_lane),
    ("tcp_that_is_slow", streams::slow_reader, sending_half_of_much),
    ("tcp_late_and_endless", streams::endless_reply, calling_meanwhile),
];

/// Descriptors whose closing takes long.
const LINGERING: [(&str, Attack, Wait); 2] = [
    ("lingering_descriptor", hostile::lingering_descriptor, being_refused),
    ("urgent_descriptor", hostile::urgent_descriptor, being_cut_off),
];

/// A hostile server, and where to connect to.
struct Scene {
    endpoint: String,
    server: Process,
    trusts: bool,
    place: Place,
}

impl Scene {
    fn new(attack: &str, trusts: bool) -> Self {
        let place = Place::new();
        let over_tcp = attack.starts_with("tcp_");
        let door = if over_tcp { "tcp:127.0.0.1:0".into() } else { place.endpoint() };
        let mut server = Process::start_with("child_server", &door, |command| command.env(ATTACK, attack));
        let endpoint = server.tells("at ").split_off("at ".len());
        server.says("ready");
        Self { endpoint, server, trusts, place }
    }

    fn builder(&self) -> ClientBuilder<TargetClient> {
        let trust = if self.trusts { Peers::SameUser } else { Peers::Nobody };
        TargetClient::builder().trust(trust).reconnect(false).timeout(TIME)
    }

    fn connect(&self, connect_timeout: Duration) -> Result<TargetClient, ConnectError> {
        self.builder().connect_timeout(connect_timeout).connect(&self.endpoint)
    }

    /// Comes to the server's socket, and goes.
    fn knock(&self) {
        drop(UnixStream::connect(self.place.socket()).unwrap());
    }

    fn client(&self) -> TargetClient {
        self.connect(BOUND).unwrap()
    }
}

/// What `part` came to, and how much longer than `time` it took.
fn over<R>(time: Duration, part: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = part();
    (result, start.elapsed().saturating_sub(time))
}

/// The same for a call with a lane. On a busy machine the lane may take all the time that the first call has; then it is made
/// again.
fn over_with_lane<R>(mut call: impl FnMut() -> Result<R, CallError>) -> (Result<R, CallError>, Duration) {
    let (end, mut worst) = (Instant::now() + BOUND, Duration::ZERO);
    loop {
        let (answer, late) = over(TIME, &mut call);
        worst = worst.max(late);
        match answer {
            Err(CallError::Overloaded(_)) if Instant::now() < end => {}
            answer => return (answer, worst),
        }
    }
}

fn connecting(scene: &mut Scene) -> Duration {
    let (connected, late) = over(TIME, || scene.connect(TIME));
    let error = connected.unwrap_err().to_string();
    assert!(error.contains("did not answer within"), "{error}");
    late
}

/// The server's memory is none; what it sent instead is hard to get rid of.
fn being_refused(scene: &mut Scene) -> Duration {
    let (connected, late) = over(TIME, || scene.connect(TIME));
    let error = connected.unwrap_err().to_string();
    assert!(error.contains("memory"), "{error}");
    late
}

/// The server's first byte is none that a frame begins with.
fn being_cut_off(scene: &mut Scene) -> Duration {
    let (connected, late) = over(TIME, || scene.connect(TIME));
    assert!(connected.is_err());
    late
}

fn opening(scene: &mut Scene) -> Duration {
    let client = scene.client();
    let (answer, late) = over(TIME, || client.add(1, 2));
    assert!(matches!(answer, Err(CallError::Overloaded(_))), "{answer:?}");
    late
}

fn opening_in_a_full_backlog(scene: &mut Scene) -> Duration {
    let client = scene.client();
    scene.server.says("full");
    let (answer, late) = over(TIME, || client.add(1, 2));
    assert!(matches!(answer, Err(CallError::Overloaded(_))), "{answer:?}");
    late
}

fn calling(scene: &mut Scene) -> Duration {
    let client = scene.client();
    let (answer, late) = over_with_lane(|| client.add(1, 2));
    let expected = CallError::DeadlineExceeded { timeout: TIME, outcome: Outcome::Unknown };
    assert_eq!(answer, Err(expected));
    late
}

fn being_stolen(scene: &mut Scene) -> Duration {
    let late = calling(scene);
    scene.server.says("stolen");
    late
}

/// The message is to wake one thread of the server, however many sleep there.
fn waking_one(scene: &mut Scene) -> Duration {
    let late = calling(scene);
    scene.knock();
    assert_eq!(scene.server.tells("woken: "), "woken: 1");
    late
}

/// Nothing but the death ends this call. Without `futex_waitv` it is looked for every 100 ms, so it has as long.
fn being_left(scene: &mut Scene) -> Duration {
    let client = scene.client().with_timeout(Duration::MAX);
    let (done, is_done) = channel();
    thread::spawn(move || done.send(client.add(1, 2)));
    scene.server.says("stolen");
    let (answer, late) = over(TIME, || is_done.recv_timeout(BOUND));
    assert!(matches!(answer, Ok(Err(CallError::Disconnected { .. }))), "{answer:?}");
    late
}

fn being_answered_wrongly(scene: &mut Scene) -> Duration {
    // Its own deadline does not end it: on a busy machine the lane may take as long.
    let client = scene.client().with_timeout(BOUND);
    let (answer, late) = over(TIME, || client.add(1, 2));
    assert!(matches!(answer, Err(CallError::Disconnected { .. })), "{answer:?}");
    late
}

/// Until all lanes wait for replies that never come, and once more.
fn calling_on_every_lane(scene: &mut Scene) -> Duration {
    let client = scene.client();
    let short = Duration::from_millis(1);
    let mut worst = Duration::ZERO;
    loop {
        let (answer, late) = over(short, || client.with_timeout(short).add(1, 2));
        worst = worst.max(late);
        match answer {
            // Once for the reply, once for the lane.
            Err(CallError::DeadlineExceeded { .. }) => {}
            Err(CallError::Overloaded(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    let (answer, late) = over(TIME, || client.add(1, 2));
    assert!(answer.is_err());
    worst.max(late)
}

/// One-way calls that nobody takes.
fn sending(scene: &mut Scene) -> Duration {
    let client = scene.client();
    let mut worst = Duration::ZERO;
    for sent in 0.. {
        let (answer, late) = over_with_lane(|| client.note("a"));
        worst = worst.max(late);
        if let Err(error) = answer {
            let expected = CallError::DeadlineExceeded { timeout: TIME, outcome: Outcome::NotRun };
            assert_eq!((sent, error), (128, expected));
            break;
        }
    }
    worst
}

fn sending_while_stolen(scene: &mut Scene) -> Duration {
    let late = sending(scene);
    scene.server.says("stolen");
    late
}

/// Large calls that are answered, and whose memory does not come back.
fn sending_large(scene: &mut Scene) -> Duration {
    let client = scene.client();
    let bytes = vec![1; 100_000];
    let mut worst = Duration::ZERO;
    for sent in 0.. {
        let (answer, late) = over_with_lane(|| client.sum(&bytes));
        worst = worst.max(late);
        match answer {
            Ok(1) => assert!(sent < 100, "there is no limit"),
            Err(CallError::NotEncoded(_)) => break,
            other => panic!("{other:?} to call {sent}"),
        }
    }
    worst
}

/// What has to be said on a socket that takes no more: that descriptors come, or more memory.
fn announcing(scene: &mut Scene) -> Duration {
    let client = scene.client();
    assert_eq!(client.with_timeout(BOUND).add(1, 2), Ok(3));
    let file = File::open("/dev/null").unwrap();
    let (answer, handed) = over(TIME, || client.pass(file));
    let error = answer.unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(why) if why.contains("does not read")), "{error:?}");
    // All that there is room for without more.
    let _held: BlobMut = Client::blob(&client, 900_000).unwrap();
    let (answer, lent) = over(TIME, || Client::blob::<u8>(&client, 900_000));
    assert!(matches!(answer, Err(CallError::NotEncoded(_))), "{answer:?}");
    handed.max(lent)
}

/// The second call looks at the lane of the first one.
fn calling_twice(scene: &mut Scene) -> Duration {
    let client = scene.client();
    let mut worst = Duration::ZERO;
    for _ in 0..2 {
        let (answer, late) = over_with_lane(|| client.add(1, 2));
        let expected = CallError::DeadlineExceeded { timeout: TIME, outcome: Outcome::Unknown };
        assert_eq!(answer, Err(expected));
        worst = worst.max(late);
    }
    worst
}

fn sending_half(scene: &mut Scene) -> Duration {
    sending_half_of(scene, 900_000)
}

/// More than the kernel keeps of a TCP connection, on both sides together.
fn sending_half_of_much(scene: &mut Scene) -> Duration {
    sending_half_of(scene, 12 << 20)
}

/// A call that goes half way, and one more.
fn sending_half_of(scene: &mut Scene, length: usize) -> Duration {
    let client = scene.client();
    let bytes = vec![1; length];
    let (answer, first) = over_with_lane(|| client.sum(&bytes));
    let expected = CallError::DeadlineExceeded { timeout: TIME, outcome: Outcome::NotRun };
    assert_eq!(answer, Err(expected));
    let (answer, second) = over(TIME, || client.add(1, 2));
    assert!(answer.is_err());
    first.max(second)
}

/// A client that has given up a call on each lane that it may have.
fn giving_up(scene: &Scene, call: impl Fn(&TargetClient) -> Result<(), CallError>) -> TargetClient {
    let client = scene.builder().max_message(late::LARGEST.into()).connect(&scene.endpoint).unwrap();
    let hasty = client.with_timeout(Duration::from_millis(2));
    let (end, mut given_up) = (Instant::now() + BOUND, 0);
    while given_up < raw::LANES {
        match call(&hasty) {
            Err(CallError::DeadlineExceeded { outcome: Outcome::Unknown, .. }) => given_up += 1,
            // The lane was not opened in time.
            Err(error) if error.outcome() == Outcome::NotRun && Instant::now() < end => {}
            other => panic!("{other:?} after {given_up}"),
        }
    }
    client
}

/// A call that looks at all lanes, and one that does not.
fn calling_again(client: &TargetClient) -> Duration {
    let (answer, rendered) = over(TIME, || client.render(1));
    assert!(answer.is_err());
    let (answer, added) = over(TIME, || client.add(1, 2));
    assert!(answer.is_err());
    rendered.max(added)
}

/// Replies come when nobody waits for them any more.
fn calling_late(scene: &mut Scene) -> Duration {
    let client = giving_up(scene, |client| client.add(1, 2).map(drop));
    scene.knock();
    scene.server.says("late");
    calling_again(&client)
}

fn rendering_late(scene: &mut Scene) -> Duration {
    let client = giving_up(scene, |client| client.render(1).map(drop));
    scene.knock();
    scene.server.says("late");
    calling_again(&client)
}

/// Replies come, and never to their end.
fn calling_meanwhile(scene: &mut Scene) -> Duration {
    calling_again(&giving_up(scene, |client| client.add(1, 2).map(drop)))
}

fn every_wait_ends(trusts: bool) {
    each_ends(&ATTACKS, trusts);
}

fn each_ends(attacks: &[(&str, Attack, Wait)], trusts: bool) {
    for (name, _, wait) in attacks {
        in_time(&format!("{name}, trusting: {trusts}"), || wait(&mut Scene::new(name, trusts)));
    }
}

// The children's parts. They return at once when they run as tests.

#[test]
fn child_server() {
    let (Ok(endpoint), Ok(name)) = (std::env::var(ENDPOINT), std::env::var(ATTACK)) else { return };
    thread::spawn(|| {
        until_orphaned();
        std::process::exit(0);
    });
    let door = Door::at(&endpoint);
    say(&format!("at {}", door.endpoint()));
    let all = ATTACKS.iter().chain(&TCP_ATTACKS).chain(&LINGERING);
    let (_, attack, _) = all.into_iter().find(|(known, ..)| *known == name).unwrap();
    attack(&door);
}

#[test]
fn child_without_waitv() {
    let Ok(trusts) = std::env::var(TRUSTS) else { return };
    forget_waitv();
    every_wait_ends(trusts == "true");
    say("in time");
}

fn without_waitv(trusts: bool) {
    let mut child =
        Process::start_with("child_without_waitv", "", |command| command.env(TRUSTS, trusts.to_string()));
    child.says("in time");
    assert!(child.ends().success());
}

#[test]
fn every_wait_on_a_trusted_server_ends_in_time() {
    every_wait_ends(true);
}

#[test]
fn every_wait_on_an_untrusted_server_ends_in_time() {
    every_wait_ends(false);
}

#[test]
fn every_wait_on_a_trusted_server_ends_in_time_without_waitv() {
    without_waitv(true);
}

#[test]
fn every_wait_on_an_untrusted_server_ends_in_time_without_waitv() {
    without_waitv(false);
}

#[test]
fn every_wait_on_a_server_over_tcp_ends_in_time() {
    each_ends(&TCP_ATTACKS, false);
}

#[test]
fn a_descriptor_that_lingers_holds_nobody_up() {
    each_ends(&LINGERING, false);
}
