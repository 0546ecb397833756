//! What a server says that ends the stream of a lane, and what its client concludes of a call that it had sent.
#![cfg(not(loom))]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use shmrpc_transport::callers::{Callers, NoLane};
use shmrpc_transport::connection::{Carrier, Connection, Events, LaneStream};
use shmrpc_transport::lane::{Incoming, NoReply, Outgoing, Reply, ServingLane};
use shmrpc_transport::peers::PeerInfo;
use shmrpc_transport::rendezvous::net::{self, NetListener, Ports};
use shmrpc_transport::rendezvous::{Host, Listener, Policy, Refusal, connect};
use shmrpc_transport::slot::{HEADER, Header, Kind};
use shmrpc_transport::sys::futex::Until;

const BOUND: Duration = Duration::from_secs(30);

/// What becomes of one stream: so many messages arrive, and then it ends.
#[derive(Debug, Clone, Copy)]
struct Part {
    arrive: u32,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// Without a word.
    Silent,
    /// With a goaway that says how many were taken.
    GoAway(u32),
    /// As our own server ends it when it has taken all of them.
    Real,
    /// Without a word, when each was answered; it is said when that is done.
    Idle,
    /// Before it has begun: the server shuts down.
    Drained,
}

/// Plays one part after the other.
#[derive(Clone)]
struct Stage(Arc<Mutex<Receiver<Part>>>, Sender<()>);

impl Host for Stage {
    fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        Ok((Vec::new(), Box::new(self.clone())))
    }
    fn connected(&self, _: &Arc<Connection>) {}
}

impl Events for Stage {
    fn lane_opened(
        &self,
        connection: &Arc<Connection>,
        lane: u32,
        stream: Option<LaneStream>,
    ) -> Result<(), String> {
        let part = self.0.lock().unwrap().recv().unwrap();
        if let End::Drained = part.end {
            connection.drain();
            return Err("no lane is opened any more".into());
        }
        let (connection, stream) = (Arc::clone(connection), stream.unwrap());
        let ended = self.1.clone();
        thread::spawn(move || {
            match part.end {
                End::Real => take(ServingLane::new(&connection, lane, Some(stream)).unwrap(), part.arrive),
                end => play(stream, part.arrive, end),
            }
            let _ = ended.send(());
        });
        Ok(())
    }
    fn closed(&self, _: &Connection) {}
}

fn take(mut lane: ServingLane, messages: u32) {
    for _ in 0..messages {
        assert!(lane.next(&mut Incoming::empty()));
    }
}

fn play(stream: LaneStream, messages: u32, end: End) {
    stream.send_now(&Header { call_id: 1, ..Header::new(Kind::LaneOpen) }.to_frame());
    for _ in 0..messages {
        let mut head = [0; HEADER];
        read(&stream, &mut head);
        let header = Header::from_frame(&head).unwrap();
        let mut payload = vec![0; header.length as usize];
        read(&stream, &mut payload);
        if let End::Idle = end {
            let reply = Header { call_id: header.call_id, length: header.length, ..Header::new(Kind::Reply) };
            stream.send_now(&[&reply.to_frame()[..], &payload].concat());
        }
    }
    if let End::GoAway(taken) = end {
        stream.send_now(&Header { call_id: taken, ..Header::new(Kind::GoAway) }.to_frame());
    }
    // Whoever let it in may still have it, too.
    stream.end();
}

fn read(stream: &LaneStream, room: &mut [u8]) {
    let mut had = 0;
    while had < room.len() {
        had += stream.receive(&mut room[had..], &mut Until::after(BOUND)).unwrap();
    }
}

fn stage() -> (Sender<Part>, Stage, Receiver<()>) {
    let (parts, stage) = channel();
    let (end, ended) = channel();
    (parts, Stage(Arc::new(Mutex::new(stage)), end), ended)
}

/// A client of such a server.
struct Client {
    connection: Arc<Connection>,
    callers: Callers,
    parts: Sender<Part>,
    /// A word for each stream that has ended.
    ended: Receiver<()>,
    _listener: (Option<Listener>, Option<NetListener>),
    folder: PathBuf,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Client {
    fn new() -> Self {
        Self::on(Carrier::Streams)
    }

    fn on(carrier: Carrier) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("shmrpc-test-{}-goaway-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("s");
        let policy = Policy { carrier, ..Policy::default() };
        let (parts, stage, ended) = stage();
        let listener = Listener::bind(&path, policy.clone(), Arc::new(stage.clone())).unwrap();
        let connection = connect(&path, &policy, &[], BOUND, Box::new(stage)).unwrap().connection;
        Self::of(connection, parts, ended, (Some(listener), None), folder)
    }

    fn over_tcp() -> Self {
        let policy = Policy::default();
        let (parts, stage, ended) = stage();
        let ports = Ports::bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into(), &policy, None).unwrap();
        let at = ports.addresses()[0].into();
        let listener = ports.start(policy.clone(), Arc::new(stage.clone())).unwrap();
        let connection = net::connect(&at, &policy, None, &[], BOUND, Box::new(stage)).unwrap().connection;
        Self::of(connection, parts, ended, (None, Some(listener)), PathBuf::new())
    }

    fn of(
        connection: Arc<Connection>,
        parts: Sender<Part>,
        ended: Receiver<()>,
        listener: (Option<Listener>, Option<NetListener>),
        folder: PathBuf,
    ) -> Self {
        let callers = Callers::new(Arc::clone(&connection), ());
        Self { connection, callers, parts, ended, _listener: listener, folder }
    }

    /// Calls, and is answered.
    fn call(&self) -> Result<(), Box<NoReply>> {
        let mut until = Until::after(BOUND);
        let mut lease = self.callers.lease(&mut until).unwrap();
        let request =
            Outgoing { method: 0, value: &7_u32, recursive: false, descriptors: None, discard: None };
        let called = lease.seat().unwrap().lane.call(request, 0, &mut Reply::empty(), &mut until);
        lease.end();
        called
    }

    /// Calls after so many one-way calls on the same lane. True if the server may have taken the call.
    fn call_after(&self, oneways: u32) -> bool {
        let mut until = Until::after(BOUND);
        let mut lease = self.callers.lease(&mut until).unwrap();
        let request =
            || Outgoing { method: 0, value: &7_u32, recursive: false, descriptors: None, discard: None };
        for _ in 0..oneways {
            lease.seat().unwrap().lane.send(request(), &mut until).unwrap();
        }
        let none =
            lease.seat().unwrap().lane.call(request(), 0, &mut Reply::empty(), &mut until).unwrap_err();
        lease.end();
        match *none {
            NoReply::Dead { taken, death } => {
                assert!(death.peer_closed, "{death}");
                taken
            }
            other => panic!("{other:?}"),
        }
    }
}

/// It is there, and it is not counted: it was not run and never will be.
#[test]
fn goaway_says_which_calls_were_not_taken() {
    for taken in 0..=4 {
        let client = Client::new();
        client.parts.send(Part { arrive: 3, end: End::GoAway(taken) }).unwrap();
        assert_eq!(client.call_after(2), taken >= 3, "{taken} of 3 were taken");
        assert!(client.connection.is_going_away());
        assert_eq!(client.connection.death(), None);
    }
}

#[test]
fn a_server_counts_what_it_has_taken() {
    let client = Client::new();
    client.parts.send(Part { arrive: 3, end: End::Real }).unwrap();
    assert!(client.call_after(2));
    assert!(client.connection.is_going_away());
}

/// It is not even noticed: the next call goes over a new stream. What Unix sockets do not take was not sent, so it is sent
/// again at once. TCP takes it in any case; so a lane at rest is looked at first.
#[test]
fn a_stream_that_ended_while_nobody_called_costs_no_call() {
    for (client, rest) in [(Client::new(), 0), (Client::new(), 50), (Client::over_tcp(), 50)] {
        for calls in [1, 3, 1] {
            client.parts.send(Part { arrive: calls, end: End::Idle }).unwrap();
            for _ in 0..calls {
                client.call().unwrap();
            }
            client.ended.recv_timeout(BOUND).unwrap();
            // No lane is looked at that was in use just now.
            thread::sleep(Duration::from_millis(rest));
        }
        assert!(!client.connection.is_going_away());
        assert_eq!(client.connection.death(), None);
    }
}

/// Anybody on the way may end a TCP connection. Only goaway says that the server takes no more from it; without one it may
/// still be at what was sent, and the client's connection ends with the lane.
#[test]
fn an_end_between_hosts_proves_nothing_without_goaway() {
    let local = Client::new();
    local.parts.send(Part { arrive: 2, end: End::Silent }).unwrap();
    assert!(local.call_after(1));
    assert_eq!(local.connection.death(), None, "nobody but the server can have ended that");
    let told = Client::over_tcp();
    told.parts.send(Part { arrive: 2, end: End::GoAway(1) }).unwrap();
    assert!(!told.call_after(1));
    assert_eq!(told.connection.death(), None);
    let cut = Client::over_tcp();
    cut.parts.send(Part { arrive: 2, end: End::Silent }).unwrap();
    assert!(cut.call_after(1));
    assert!(cut.connection.death().is_some_and(|death| !death.peer_closed));
}

/// What a server that waits for its lanes to end does about one more. Not for want of room: another server may have some.
#[test]
fn a_lane_that_is_asked_for_too_late_is_told_goaway() {
    for client in [Client::on(Carrier::Rings), Client::new(), Client::over_tcp()] {
        client.parts.send(Part { arrive: 0, end: End::Drained }).unwrap();
        let none = client.callers.lease(&mut Until::after(BOUND)).unwrap_err();
        assert!(
            matches!(*none, NoLane::Dead(ref death) if death.reason.contains("shutting down")),
            "{none:?}"
        );
        assert!(client.connection.is_going_away());
        assert_eq!(client.connection.death(), None);
    }
}

/// A lane whose stream broke counts anew on the next one.
#[test]
fn goaway_counts_what_came_over_its_own_stream() {
    for taken in 0..=1 {
        let client = Client::new();
        client.parts.send(Part { arrive: 2, end: End::Silent }).unwrap();
        assert!(client.call_after(1), "without goaway nothing is proved");
        assert!(!client.connection.is_going_away());
        client.parts.send(Part { arrive: 1, end: End::GoAway(taken) }).unwrap();
        assert_eq!(client.call_after(0), taken == 1, "{taken} of 1 were taken");
    }
}
