//! A whole lane over a memory that lies: a server with its service, or a client that makes calls, and between it and
//! the memory it shares the fuzzer, who says at each read what is there.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use shmrpc::{CallError, Client, Outcome, Peers, Server, ServerHandle, View};
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{Header, Kind};

use self::script::{Due, End, Script, Tape};
use self::service::{Answer, Call, IDS, METHODS, ONEWAY, OddClient, OddServer, QUESTION, Refused, Told};
use crate::ground::Ground;
use crate::wire::{Address, BOUND, MAX_MESSAGE, Trap, Wire, assert_few_descriptors};

mod hostile;
mod plan;
mod script;
mod service;

/// The fuzzer as the memory of a real server's client, or of a real client's server.
pub fn lane(data: &[u8]) {
    // One after the other: the next thread that serves a lane is the one that was cast.
    static STAGE: Mutex<()> = Mutex::new(());
    let alone = STAGE.lock().unwrap_or_else(|held| held.into_inner());
    let mut tape = Tape::new(data);
    let (serves, trusted) = tape.read(|input| (input.flag(), input.flag()));
    if serves {
        serve(tape, trusted);
    } else {
        call(tape, trusted);
    }
    drop(alone);
    assert_few_descriptors();
    crate::memory::assert_bounded();
}

fn trust(trusted: bool) -> Peers {
    if trusted { Peers::SameUser } else { Peers::Nobody }
}

fn endpoint(path: &Path) -> String {
    format!("shm:{}", path.display())
}

/// A server with the service, and where it listens.
struct Inn {
    address: Address,
    _server: ServerHandle,
}

impl Inn {
    fn new(trusted: bool) -> Self {
        let (address, server) = Address::hidden(|path| {
            Server::builder()
                .service(OddServer::new(Told))
                .listen(endpoint(path))
                .trust(trust(trusted))
                .max_message(MAX_MESSAGE)
                .start()
                .unwrap()
        });
        Self { address, _server: server }
    }
}

fn frame(kind: Kind, call_id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&Header { call_id, length, ..Header::new(kind) }.to_frame(), payload].concat()
}

fn greet(wire: &Wire, fd: &OwnedFd, application: &[u8]) {
    let hello = Hello::new(MAX_MESSAGE, 1, Memory::Memfd, application.to_vec()).to_bytes();
    wire.send(&frame(Kind::Hello, 0, &hello), &[fd.as_raw_fd()]);
}

fn expect(wire: &mut Wire, kind: Kind) {
    let (header, payload) = wire.frame().expect("a frame");
    assert_eq!((header.kind, header.block), (kind, 0), "{}", String::from_utf8_lossy(&payload));
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(|held| held.into_inner())
}

/// The product serves.
fn serve(tape: Tape, trusted: bool) {
    static INNS: LazyLock<[Inn; 2]> = LazyLock::new(|| [Inn::new(false), Inn::new(true)]);
    let inn = &INNS[usize::from(trusted)];
    let (own, fd) = Ground::own();
    let mut wire = Wire::new(std::os::unix::net::UnixStream::connect(inn.address.path()).unwrap());
    greet(&wire, &fd, &QUESTION);
    expect(&mut wire, Kind::Hello);
    let product = Ground::product(&mut wire.fds);
    let script = Arc::new(Mutex::new(Script::new(tape, own, product, trusted, true)));
    let (ended, end) = channel();
    // The lane's thread waits at its first look until the script is whole.
    let mut held = lock(&script);
    hostile::cast(&script, ended);
    wire.send(&frame(Kind::LaneOpen, 0, &[]), &[]);
    expect(&mut wire, Kind::LaneOpen);
    held.wire = Some(wire);
    drop(held);
    let thread = end.recv_timeout(BOUND).expect("a lane that ends");
    // Until then what it has allocated looks like a leak.
    while thread.exists() {
        std::thread::yield_now();
    }
    finish(&script);
}

/// The product calls.
fn call(tape: Tape, trusted: bool) {
    static TRAP: LazyLock<Trap> = LazyLock::new(Trap::new);
    let (own, fd) = Ground::own();
    let builder =
        OddClient::builder().trust(trust(trusted)).max_message(MAX_MESSAGE).timeout(BOUND).reconnect(false);
    let (client, (wire, product)) = TRAP.receive(
        |path| builder.connect(endpoint(path)).expect("a good hello"),
        |mut wire| {
            expect(&mut wire, Kind::Hello);
            let product = Ground::product(&mut wire.fds);
            greet(&wire, &fd, &IDS);
            (wire, product)
        },
    );
    let script = Arc::new(Mutex::new(Script::new(tape, own, product, trusted, false)));
    std::thread::scope(|scope| {
        let held = Arc::clone(&script);
        let opening = scope.spawn(move || open(wire, &held));
        hostile::play(&script, || make_calls(&client, &script));
        drop(client);
        opening.join().unwrap();
    });
    finish(&script);
}

/// Answers the client's question for its lane, if it comes to that.
fn open(mut wire: Wire, script: &Mutex<Script>) {
    expect(&mut wire, Kind::LaneOpen);
    let mut script = lock(script);
    wire.send(&frame(Kind::LaneOpen, 1, &[]), &[]);
    script.wire = Some(wire);
}

fn make_calls(client: &OddClient, script: &Mutex<Script>) {
    let mut views = Vec::new();
    let hasty = client.with_timeout(Duration::ZERO);
    for step in 0.. {
        let mut held = lock(script);
        // The first one opens the lane, which takes a while.
        if step > 0 && (held.tape.is_over() || held.end.is_some()) {
            return;
        }
        let (method, patient, viewed) = held.tape.read(|input| {
            let choice = input.byte();
            (u16::from(choice) % METHODS as u16, choice < 150, choice & 4 == 4)
        });
        let call = held.tape.read(|input| Call::sample(method, input));
        // A lane that still waits for a late reply is free when that comes, or never.
        let patient = step == 0 || patient && held.awaiting.is_none();
        held.look_anew();
        let (published, position) = (held.published, held.position);
        held.taken = None;
        drop(held);
        let client = if patient { client } else { &hasty };
        let result = if viewed { look(client, &call, &mut views) } else { make(client, &call) };
        let mut held = lock(script);
        let due = held.take_due();
        let sent = held.published != published;
        judge(&mut held, &call, method, sent, due, result);
        assert!(held.position.wrapping_sub(position) <= 2, "two replies for one call");
    }
}

type Made = Result<Answer, CallError<Refused>>;

fn widen(error: CallError) -> CallError<Refused> {
    match error {
        CallError::Service(never) => match never {},
        CallError::Panicked(text) => CallError::Panicked(text),
        CallError::BadReply(text) => CallError::BadReply(text),
        CallError::BadArguments(text) => CallError::BadArguments(text),
        CallError::UnknownMethod(text) => CallError::UnknownMethod(text),
        CallError::Overloaded(text) => CallError::Overloaded(text),
        CallError::NotEncoded(text) => CallError::NotEncoded(text),
        CallError::DeadlineExceeded { timeout, outcome } => CallError::DeadlineExceeded { timeout, outcome },
        CallError::Disconnected { reason, outcome } => CallError::Disconnected { reason, outcome },
        other => panic!("{other}"),
    }
}

fn make(client: &OddClient, call: &Call) -> Made {
    match call {
        Call::Add(a, b) => client.add(*a, *b).map(Answer::Number).map_err(widen),
        Call::Text(text) => client.text(text).map(Answer::Text).map_err(widen),
        Call::Bytes(bytes, wanted) => client.bytes(bytes, *wanted).map(Answer::Bytes).map_err(widen),
        Call::Shape(shape) => client.shape(shape.clone()).map(Answer::Shape),
        Call::Numbers(numbers) => client.numbers(numbers).map(Answer::Number).map_err(widen),
        Call::Note(text) => client.note(text).map(|()| Answer::None).map_err(widen),
        Call::Archived(shapes) => client.archived(shapes).map(Answer::Number).map_err(widen),
        Call::Measure(frame) if frame.len() % 2 == 0 => {
            client.measure(frame.clone()).map(Answer::Number).map_err(widen)
        }
        Call::Measure(frame) => client
            .blob(frame.len())
            .and_then(|mut blob| {
                blob.copy_from_slice(frame);
                client.measure(blob).map(Answer::Number)
            })
            .map_err(widen),
        Call::Render(from, wanted) => {
            client.render(from.clone(), *wanted).map(|frame| Answer::Frame(frame.to_vec())).map_err(widen)
        }
    }
}

/// The same, with results that are read where they are. A few are kept, if they are copies.
fn look(client: &OddClient, call: &Call, kept: &mut Vec<(View<String>, String)>) -> Made {
    let view = client.view();
    let owned = "a valid view";
    match call {
        Call::Text(text) => view.text(text).map_err(widen).map(|view| {
            let read = view.to_owned().expect(owned);
            if !view.is_in_place() {
                kept.push((view, read.clone()));
            }
            if kept.len() > 2 {
                let (view, read) = kept.remove(0);
                assert_eq!(view.as_str(), read);
            }
            Answer::Text(read)
        }),
        Call::Bytes(bytes, wanted) => {
            view.bytes(bytes, *wanted).map(|view| Answer::Bytes(view.to_owned().expect(owned))).map_err(widen)
        }
        Call::Shape(shape) => {
            view.shape(shape.clone()).map(|view| Answer::Shape(view.to_owned().expect(owned)))
        }
        _ => make(client, call),
    }
}

/// Whether a call ended as it must, after what the client was shown.
fn judge(script: &mut Script, call: &Call, method: u16, sent: bool, due: Option<Due>, result: Made) {
    let outcome = result.as_ref().err().map(CallError::outcome);
    // The peer's counter proves something only if the peer closed the connection.
    let proved = script.end == Some(End::Closed)
        && script.taken.is_some_and(|taken| (1..=128).contains(&script.published.wrapping_sub(taken)));
    let right = match (&due, &result) {
        _ if !sent => outcome == Some(Outcome::NotRun),
        _ if method == ONEWAY => result == Ok(Answer::None),
        (Some(due), result) => replied(method, due, result) && !script.is_held(due),
        (None, Err(CallError::DeadlineExceeded { outcome, .. })) => {
            *outcome == Outcome::Unknown && script.end.is_none()
        }
        (None, Err(CallError::Disconnected { outcome, .. })) => {
            script.end.is_some() && (*outcome == Outcome::NotRun) == proved
        }
        _ => false,
    };
    if let (Some(Due { header: Header { kind: Kind::Failure, .. }, .. }), Some(Outcome::NotRun)) =
        (&due, outcome)
    {
        script.refused();
    }
    if !right {
        script.blame(format!("{call:?}, sent: {sent}, after {due:?} came to {result:?}"));
    }
}

fn replied(method: u16, due: &Due, result: &Made) -> bool {
    let payload = due.payload.as_deref().unwrap_or_default();
    let answer = |is_error| Answer::read(method, is_error, payload, due.blob());
    match (due.header.kind, result) {
        (Kind::Reply, Ok(made)) => answer(false).as_ref() == Some(made),
        (Kind::Reply, Err(CallError::BadReply(_))) => answer(false).is_none(),
        (Kind::ServiceError, Err(CallError::Service(made))) => {
            answer(true) == Some(Answer::Refused(made.clone()))
        }
        (Kind::ServiceError, Err(CallError::BadReply(_))) => answer(true).is_none(),
        (Kind::Failure, Err(error)) => match (service::failure(payload), error) {
            (Some((1, text)), CallError::Panicked(said))
            | (Some((2, text)), CallError::UnknownMethod(said))
            | (Some((3, text)), CallError::BadArguments(said))
            | (Some((4, text)), CallError::Overloaded(said)) => text == *said,
            (Some((code, text)), CallError::BadReply(said)) => !(1..=4).contains(&code) && text == *said,
            (None, CallError::BadReply(_)) => true,
            _ => false,
        },
        _ => false,
    }
}

/// It ended as it had to, and did nothing that it must not do.
fn finish(script: &Mutex<Script>) {
    let mut script = lock(script);
    script.is_over();
    assert_eq!(script.fault, None);
    let wire = script.wire.as_mut().expect("an open lane");
    // The product closes its end: it was poisoned, or its client is gone.
    while wire.frame().is_some() {}
    if script.serves {
        assert!(script.end.is_some(), "a lane ended with nothing wrong");
    }
}
