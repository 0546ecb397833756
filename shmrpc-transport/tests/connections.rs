//! A connection over time. Memory comes and goes: an arena grows for a burst, and what it no longer needs goes back to
//! the system on both sides. And a server that drains is believed at once.
#![cfg(not(loom))]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use shmrpc_transport::callers::{Callers, NoLane};
use shmrpc_transport::connection::{Connection, Death, Events, LaneStream, Mapped};
use shmrpc_transport::lane::{Incoming, NoReply, Outgoing, Reply, ServingLane};
use shmrpc_transport::peers::PeerInfo;
use shmrpc_transport::rendezvous::{Host, Listener, MeetError, Policy, Refusal, connect};
use shmrpc_transport::slot::Kind;
use shmrpc_transport::sys::futex::Until;

const BOUND: Duration = Duration::from_secs(30);

/// Answers every vector with itself. Whether it has no second lane at first.
struct Echo(Mutex<Sender<Arc<Connection>>>, bool);

impl Host for Echo {
    fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        Ok((Vec::new(), Box::new(Lanes { refused: AtomicBool::new(!self.1) })))
    }
    fn connected(&self, connection: &Arc<Connection>) {
        self.0.lock().unwrap().send(Arc::clone(connection)).unwrap();
    }
}

/// Serves every lane, but the second one not when it is first asked.
#[derive(Default)]
struct Lanes {
    refused: AtomicBool,
}

impl Events for Lanes {
    fn lane_opened(
        &self,
        connection: &Arc<Connection>,
        lane: u32,
        stream: Option<LaneStream>,
    ) -> Result<(), String> {
        if lane == 1 && !self.refused.swap(true, Ordering::Relaxed) {
            return Err("not now".into());
        }
        let mut lane = ServingLane::new(connection, lane, stream).unwrap();
        thread::spawn(move || {
            let mut incoming = Incoming::empty();
            while lane.next(&mut incoming) {
                let bytes = incoming.message.access::<Vec<u8>>().unwrap().as_slice().to_vec();
                incoming.message.clear();
                lane.reply(incoming.call_id, Kind::Reply, &bytes, false).unwrap();
                lane.finish();
            }
        });
        Ok(())
    }
    fn closed(&self, _: &Connection) {}
}

struct Pair {
    client: Arc<Connection>,
    server: Arc<Connection>,
    callers: Callers,
    /// The server's ends of those that come later.
    connections: Receiver<Arc<Connection>>,
    _listener: Listener,
    folder: PathBuf,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Pair {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("shmrpc-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("s");
        let (sender, connections): (_, Receiver<Arc<Connection>>) = channel();
        let listener =
            Listener::bind(&path, Policy::default(), Arc::new(Echo(Mutex::new(sender), name == "again")))
                .unwrap();
        let met = connect(&path, &Policy::default(), &[], BOUND, Box::new(Lanes::default())).unwrap();
        let server = connections.recv_timeout(BOUND).unwrap();
        let callers = Callers::new(Arc::clone(&met.connection), ());
        Self { client: met.connection, server, callers, connections, _listener: listener, folder }
    }

    /// A vector there and back. The reply is still where it arrived.
    fn echo(&self, length: usize) -> Reply {
        let value = vec![7_u8; length];
        let mut reply = Reply::empty();
        let mut until = Until::after(BOUND);
        let mut lease = self.callers.lease(&mut until).unwrap();
        let request =
            Outgoing { method: 0, value: &value, recursive: false, descriptors: None, discard: None };
        lease.seat().unwrap().lane.call(request, 0, &mut reply, &mut until).unwrap();
        lease.end();
        assert_eq!(reply.message.access::<Vec<u8>>().unwrap().as_slice(), value);
        reply
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "never came: {what}");
        thread::yield_now();
    }
}

/// Looks twice, so that what was used before the first look is not spared.
fn give_back(connection: &Connection) {
    connection.give_back();
    connection.give_back();
}

#[test]
fn what_a_burst_needed_goes_back_on_both_sides() {
    let pair = Pair::new("burst");
    let at_rest = pair.client.mapped();
    assert_eq!(at_rest, pair.server.mapped());
    drop(pair.echo(9_000_000));
    let grown = pair.client.mapped();
    assert!(grown.sending > at_rest.sending + 9_000_000 && grown.receiving > at_rest.receiving + 9_000_000);

    give_back(&pair.client);
    until("the server agreed", || pair.client.mapped().sending == at_rest.sending);
    assert_eq!(pair.server.mapped().receiving, at_rest.receiving);
    give_back(&pair.server);
    until("the client agreed", || pair.server.mapped() == at_rest);
    assert_eq!(pair.client.mapped(), at_rest);
    assert_eq!(pair.client.death(), None);

    drop(pair.echo(9_000_000));
    assert_eq!(pair.client.mapped(), grown);
}

#[test]
fn what_is_in_use_stays() {
    let pair = Pair::new("used");
    let at_rest = pair.server.mapped();
    let held = pair.echo(3_000_000);
    assert!(held.message.is_in_place());
    let grown: Mapped = pair.server.mapped();
    give_back(&pair.server);
    assert_eq!(pair.server.mapped().sending, grown.sending);
    assert_eq!(held.message.access::<Vec<u8>>().unwrap().as_slice(), vec![7; 3_000_000]);
    drop(held);
    give_back(&pair.server);
    until("the client agreed", || pair.server.mapped().sending == at_rest.sending);
}

#[test]
fn a_free_lane_of_a_draining_server_is_not_lent() {
    let pair = Pair::new("drain");
    drop(pair.echo(10));
    pair.server.drain();
    until("the client heard of it", || pair.client.is_going_away());
    let refused = pair.callers.lease(&mut Until::after(BOUND)).unwrap_err();
    assert!(
        matches!(&*refused, NoLane::Dead(death) if death.reason.contains("shutting down")),
        "{refused:?}"
    );
    assert_eq!(pair.client.death(), None);
}

/// Whether the old one has died or drains, and whoever is calling meanwhile.
#[test]
fn whoever_calls_while_the_connection_is_exchanged_gets_a_lane_of_the_next() {
    const THREADS: usize = 4;
    let pair = Pair::new("exchange");
    let path = pair.folder.join("s");
    let (ended, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let value = vec![7_u8; 10];
    // One call. None if it did not run, or nobody knows.
    let call = |callers: &Callers<u32>| -> Option<u32> {
        let mut until = Until::after(BOUND);
        let mut lease = callers
            .lease(&mut until)
            .map_err(|none| assert!(matches!(*none, NoLane::Dead(_)), "{none:?}"))
            .ok()?;
        let seat = lease.seat().unwrap();
        let number = *seat.session.known();
        let request =
            Outgoing { method: 0, value: &value, recursive: false, descriptors: None, discard: None };
        let mut reply = Reply::empty();
        let called = seat.lane.call(request, 0, &mut reply, &mut until);
        lease.end();
        match called {
            Ok(()) => {
                assert_eq!(reply.message.access::<Vec<u8>>().unwrap().as_slice(), value);
                Some(number)
            }
            Err(none) => {
                assert!(matches!(*none, NoReply::Dead { .. }), "{none:?}");
                None
            }
        }
    };
    let callers = Callers::new(Arc::clone(&pair.client), 0);
    thread::scope(|scope| {
        // Also if the test fails.
        let _over = Over(&ended);
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut last = 0;
                while !ended.load(Ordering::SeqCst) {
                    let Some(number) = call(&callers) else { continue };
                    assert!(number >= last, "a call went over connection {number} after one over {last}");
                    last = number;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut server = Arc::clone(&pair.server);
        for number in 1..=60 {
            let before = answered.load(Ordering::SeqCst);
            until("they call", || answered.load(Ordering::SeqCst) > before);
            let old = callers.session();
            match number % 2 {
                0 => old.connection().die(Death { reason: "the test ends it".into(), peer_closed: false }),
                _ => server.drain(),
            }
            until("it takes no more calls", || old.end().is_some());
            let met = connect(&path, &Policy::default(), &[], BOUND, Box::new(Lanes::default())).unwrap();
            let drained = mem::replace(&mut server, pair.connections.recv_timeout(BOUND).unwrap());
            callers.replace(met.connection, number);
            // From now on all go over this one, and a lane can be had, whatever lies in the places of the old ones.
            assert_eq!(call(&callers), Some(number));
            // A call that came to a ring whose thread had gone waits for this.
            drained.die(Death { reason: "the drain is over".into(), peer_closed: false });
        }
    });
}

/// Says so when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn segments_may_come_and_go_for_ever() {
    let pair = Pair::new("ever");
    let at_rest = pair.client.mapped();
    for _ in 0..260 {
        drop(pair.echo(1_050_000));
        for side in [&pair.client, &pair.server] {
            give_back(side);
        }
        until("both agreed", || pair.client.mapped() == at_rest && pair.server.mapped() == at_rest);
    }
}

#[test]
fn a_lane_that_was_refused_is_asked_for_again() {
    let pair = Pair::new("again");
    let first = pair.callers.lease(&mut Until::after(BOUND)).unwrap();
    thread::scope(|scope| {
        // It waits for the first lane until it may have a second one.
        scope.spawn(|| {
            let lease = pair.callers.lease(&mut Until::after(BOUND)).unwrap();
            lease.end();
        });
    });
    first.end();
}

/// The watcher looks by itself, some seconds later.
#[test]
fn nobody_has_to_ask() {
    let pair = Pair::new("alone");
    let at_rest = pair.client.mapped();
    drop(pair.echo(2_000_000));
    until("all is back", || pair.client.mapped() == at_rest && pair.server.mapped() == at_rest);
}

/// A server that is frozen accepts nobody, and then its backlog is full.
#[test]
fn connecting_ends_at_its_deadline_although_the_backlog_is_full() {
    let folder = std::env::temp_dir().join(format!("shmrpc-test-{}-backlog", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("s");
    let listening = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listening.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listening, Backlog::new(1).unwrap()).unwrap();
    let _waiting = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
    let timeout = Duration::from_millis(30);
    let error = connect(&path, &Policy::default(), &[], timeout, Box::new(Lanes::default())).unwrap_err();
    assert!(matches!(error, MeetError::TimedOut(after) if after == timeout), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}
