//! Hellos, from both sides: any bytes, cut anywhere, with any descriptors beside them. Whoever is refused is told why.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::LazyLock;

use shmrpc_transport::connection::{Carrier, Limits};
use shmrpc_transport::peers::Peers;
use shmrpc_transport::rendezvous::{Hello, MeetError, connect};
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{HEADER, Header, Kind};

use crate::input::Input;
use crate::wire::{
    BOUND, GIFTS, Guests, House, MAX_MESSAGE, Trap, Wire, assert_few_descriptors, base_len, policy,
};

static HOUSE: LazyLock<House> = LazyLock::new(|| House::new(Peers::SameUser));
static TRAP: LazyLock<Trap> = LazyLock::new(Trap::new);

/// The fuzzer as a client of a real listener, or as the server that a real client has connected to.
pub fn handshake(data: &[u8]) {
    let mut input = Input(data);
    let as_client = input.flag();
    let plan = Plan::new(&mut input);
    if as_client {
        visit(&plan);
    } else {
        host(&plan);
    }
    assert_few_descriptors();
    crate::memory::assert_bounded();
}

/// Bytes of a reason that are shown.
const REASON_MAX: usize = 1024;

/// What the fuzzer says.
struct Plan {
    bytes: Vec<u8>,
    gifts: Vec<usize>,
    /// Bytes of the first piece, of the second, and so on.
    cuts: Vec<usize>,
}

/// What must come of it.
#[derive(Debug)]
enum Outcome {
    Welcome(Hello),
    /// The reason has these words, or those of the second one: which of two faults is seen first may depend on how much
    /// is there when the peer reads.
    Refused(String, Option<&'static str>),
    /// It ends before there is anything to refuse.
    Unfinished,
}

impl Plan {
    fn new(input: &mut Input<'_>) -> Self {
        let cuts = (0..input.below(4)).map(|_| input.short().into()).collect();
        let count = [1, 1, 1, 1, 0, 2, 8, 9][input.below(8)];
        // Every second one is right.
        let gifts =
            (0..count).map(|_| input.below(32)).map(|at| if at < GIFTS.len() { at } else { 0 }).collect();
        let bytes = match input.below(4) {
            0 => input.0.to_vec(),
            1 => {
                let mut header = Header::new(Kind::from_byte(input.byte() % 18).unwrap_or(Kind::Hello));
                header.length =
                    u32::try_from(input.0.len()).unwrap().wrapping_add_signed(input.byte() as i8 as i32);
                [&header.to_frame(), input.0].concat()
            }
            _ => hello(input),
        };
        Self { bytes, gifts, cuts }
    }

    fn say(&self, wire: &Wire) {
        let mut fds: Vec<RawFd> = self.gifts.iter().map(|at| GIFTS[*at].fd.as_raw_fd()).collect();
        let mut rest = self.bytes.as_slice();
        for cut in &self.cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            if !piece.is_empty() {
                wire.send(piece, &std::mem::take(&mut fds));
            }
            rest = after;
        }
        wire.send(rest, &fds);
        wire.finish();
    }

    /// The rules of a hello, once more.
    fn outcome(&self, by: Speaker) -> Outcome {
        if self.bytes.is_empty() {
            return Outcome::Unfinished;
        }
        const STRAY: &str = "descriptors came beside frames that want none";
        let refused = |why: String| Outcome::Refused(why, None);
        if self.gifts.len() > 1 {
            return refused(STRAY.into());
        }
        let Some((head, rest)) = self.bytes.split_first_chunk::<HEADER>() else { return Outcome::Unfinished };
        let header = match Header::from_frame(head) {
            Ok(header) => header,
            Err(bad) => return refused(bad.to_string()),
        };
        if header.length > 1 << 20 {
            return refused(format!("{} bytes is above 1048576", header.length));
        }
        let wants = matches!(header.kind, Kind::Hello | Kind::SegmentAdd);
        let Some(payload) = rest.get(..header.length as usize) else {
            return if wants || self.gifts.is_empty() { Outcome::Unfinished } else { refused(STRAY.into()) };
        };
        let refused =
            |why: String| Outcome::Refused(why, (!wants && !self.gifts.is_empty()).then_some(STRAY));
        // A failure says whether it lasts.
        let call_id = if header.kind == Kind::Failure { header.call_id.min(1) } else { 0 };
        if header != (Header { length: header.length, call_id, ..Header::new(header.kind) }) {
            return refused("fields that mean nothing there".into());
        }
        match header.kind {
            Kind::Hello => {}
            Kind::Failure => {
                let reason = String::from_utf8_lossy(payload);
                return refused(reason[..reason.floor_char_boundary(REASON_MAX)].to_owned());
            }
            other => return refused(format!("it began with {other:?}")),
        }
        let hello = match Hello::from_bytes(payload) {
            Ok(hello) => hello,
            Err(bad) => return refused(bad.to_string()),
        };
        if hello.base_len == 0 && !self.gifts.is_empty() {
            return refused("speaks of no memory".into());
        }
        if by == Speaker::Server && hello.carrier == Carrier::Rings && hello.base_len == 0 {
            return refused("rings, and no memory".into());
        }
        if hello.base_len == 0 {
            return Outcome::Welcome(hello);
        }
        let Some(first) = self.gifts.first() else { return refused("without memory".into()) };
        if hello.base_len != base_len() {
            return refused(format!("{} bytes where {}", hello.base_len, base_len()));
        }
        if hello.memory != Memory::Memfd {
            // None of the gifts is that, and there are many ways not to be.
            return refused(String::new());
        }
        match GIFTS[*first].refusal(hello.base_len) {
            Some(refusal) => refused(refusal),
            None => Outcome::Welcome(hello),
        }
    }
}

/// Who says a hello.
#[derive(Clone, Copy, PartialEq)]
enum Speaker {
    Client,
    Server,
}

/// A good hello, with some bytes changed, and something behind it.
fn hello(input: &mut Input<'_>) -> Vec<u8> {
    let changes: Vec<(u8, u8)> = (0..input.below(4)).map(|_| (input.byte(), input.byte())).collect();
    let application = match input.byte() {
        255 => b"not welcome",
        length => input.bytes(length.into()),
    };
    let mut hello = Hello::new(input.word(), input.half(), Memory::Memfd, application.to_vec());
    let kinds = input.byte();
    if kinds & 1 != 0 {
        hello.carrier = Carrier::Streams;
    }
    if kinds & 2 != 0 {
        hello.base_len = 0;
    }
    if kinds & 4 != 0 {
        hello.memory = Memory::PosixShm;
    }
    let payload = hello.to_bytes();
    let mut header = Header::new(Kind::Hello);
    header.length = u32::try_from(payload.len()).unwrap();
    let mut bytes = [&header.to_frame(), payload.as_slice(), input.0].concat();
    for (at, with) in changes {
        // The header, the preface and the end of the archive are what is decided on.
        let whole = HEADER + payload.len();
        let at = if at < 40 { at.into() } else { whole - 1 - usize::from(at - 40) % whole };
        bytes[at] = with;
    }
    bytes
}

fn assert_limits(limits: Limits, hello: &Hello) {
    assert_eq!(limits.memory.is_some(), hello.base_len > 0);
    assert!(limits.lanes <= 64 && limits.receive_max == MAX_MESSAGE);
    assert!(limits.send_max <= hello.max_message && limits.send_max < 1 << 31);
}

fn visit(plan: &Plan) {
    let (mut wire, told) = HOUSE.visit();
    plan.say(&wire);
    let answer = wire.frame();
    match plan.outcome(Speaker::Client) {
        Outcome::Unfinished => assert!(answer.is_none(), "{answer:?}"),
        Outcome::Refused(why, or) => {
            let (header, text) = answer.expect("a reason");
            assert_eq!(header.kind, Kind::Failure);
            let text = String::from_utf8(text).unwrap();
            assert!(
                text.contains(&why) || or.is_some_and(|or| text.contains(or)),
                "{text:?} does not say {why:?}"
            );
            assert!(wire.frame().is_none());
        }
        Outcome::Welcome(hello) if hello.application == b"not welcome" => {
            let (header, text) = answer.expect("a reason");
            assert_eq!(
                (header.kind, text.as_slice()),
                (Kind::Failure, &b"this application is not welcome"[..])
            );
        }
        Outcome::Welcome(hello) => {
            let (header, payload) = answer.expect("a hello");
            let shares = hello.base_len > 0;
            assert_eq!((header.kind, wire.fds.len()), (Kind::Hello, usize::from(shares)));
            let theirs = Hello::from_bytes(&payload).unwrap();
            let expected = if shares { base_len() } else { 0 };
            assert_eq!((theirs.max_message, theirs.base_len), (MAX_MESSAGE, expected));
            let rings = shares && hello.carrier == Carrier::Rings;
            assert_eq!(theirs.carrier == Carrier::Rings, rings);
            let connection = told.met();
            assert_limits(connection.limits(), &hello);
            assert!(connection.is_trusted());
            told.gone(&connection);
            return;
        }
    }
    assert!(wire.fds.is_empty(), "memory was given to whoever is not welcome");
}

fn host(plan: &Plan) {
    let (guests, told) = Guests::new();
    let policy = policy(Peers::SameUser);
    let (met, ()) = TRAP.receive(
        |path| connect(path, &policy, b"some application", BOUND, Box::new(guests)),
        |mut wire| {
            let (header, payload) = wire.frame().expect("a hello");
            assert_eq!((header.kind, wire.fds.len()), (Kind::Hello, 1));
            let hello = Hello::from_bytes(&payload).unwrap();
            assert_eq!(hello.application, b"some application");
            plan.say(&wire);
            while wire.frame().is_some() {}
        },
    );
    match (plan.outcome(Speaker::Server), met) {
        (Outcome::Welcome(hello), Ok(met)) => {
            assert_limits(met.connection.limits(), &hello);
            assert_eq!(met.connection.limits().lanes, hello.lanes.min(64));
            assert_eq!(met.application, hello.application);
            told.gone(&met.connection);
        }
        (Outcome::Refused(why, or), Err(error)) => {
            let text = error.to_string();
            assert!(
                text.contains(&why) || or.is_some_and(|or| text.contains(or)),
                "{text:?} does not say {why:?}"
            );
        }
        (Outcome::Unfinished, Err(MeetError::Ended(_))) => {}
        (expected, met) => panic!("{expected:?} came as {:?}", met.map(|met| met.connection)),
    }
}
