//! What a fuzzer does as a server, and what its client must make of it.

use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use shmrpc::Outcome;
use shmrpc_transport::slot::{HEADER, Header, Kind};

use super::Ground;
use super::caller::{Failed, Made};
use super::end::frame;
use super::service::{Answer, Call, IDS, MEASURE, METHODS, ONEWAY, WORDS};
use crate::archive::{decode, encode};
use crate::input::Input;
use crate::service::text;
use crate::wire::{BOUND, GIFTS, MAX_MESSAGE};

/// Time for each wait where something may be waited for in vain.
const SHORT: Duration = Duration::from_millis(20);
/// Where a header says what kind of frame it is.
const KIND: usize = 10;

pub(super) struct Plan {
    pub(super) ground: Ground,
    pub(super) greeting: Greeting,
    pub(super) openings: Vec<Opening>,
    pub(super) calls: Vec<Call>,
    /// One for each call.
    pub(super) deeds: Vec<Deed>,
}

/// What is said to a hello.
pub(super) enum Greeting {
    Good { max_message: u64, lanes: u32, ids: Vec<u8> },
    Spoiled { max_message: u64, ids: Vec<u8>, at: u16, with: u8 },
    Raw(Vec<u8>),
    Refusal(String),
    Silence,
}

/// What is said to a lane that is opened.
pub(super) enum Opening {
    Good,
    Refused(String),
    Odd { kind: u8, call_id: u32 },
    Raw(Vec<u8>),
    Close,
    Silence,
}

/// What is done to a request.
#[derive(Debug)]
pub(super) enum Deed {
    Good,
    /// Signs of life, and then the reply.
    Pings(usize),
    /// The reply, cut in two.
    Pieces(u16),
    /// The reply, and descriptors beside it.
    Descriptors(RawFd),
    /// Another reply.
    Say(Kind, Vec<u8>),
    WrongId(u32),
    /// A byte of the header changed.
    Odd {
        at: usize,
        with: u8,
    },
    Raw(Vec<u8>),
    TooLarge(u32),
    /// Some of the reply, and the end of the lane.
    Half(u16),
    /// The end of the lane, with so many messages taken.
    GoAway(u32),
    /// Something on the first socket, and the reply.
    Main(Vec<u8>),
    Twice,
    /// The end of the first socket.
    Hangup,
    Silence,
}

impl Plan {
    pub(super) fn new(ground: Ground, input: &mut Input<'_>) -> Self {
        let greeting = greeting(input);
        let openings = (0..input.below(3)).map(|_| opening(input)).collect();
        let mut plan = Self { ground, greeting, openings, calls: Vec::new(), deeds: Vec::new() };
        for _ in 0..=input.below(4) {
            let call = Call::sample(u16::from(input.byte()) % METHODS, input);
            // Others could not be told apart: tables lie as they happen to, and blobs where we do not look.
            let alike = |method| [WORDS, MEASURE].contains(&method) && call.method() == method;
            let like = |other: &Call| *other == call || alike(other.method());
            if !plan.calls.iter().any(like) {
                plan.deeds.push(deed(&call, input));
                plan.calls.push(call);
            }
        }
        plan
    }

    /// The time of each wait: short, if there may be nothing to wait for.
    pub(super) fn time(&self) -> Duration {
        let greeting = match &self.greeting {
            Greeting::Good { lanes, .. } => *lanes == 0,
            Greeting::Spoiled { .. } | Greeting::Raw(_) | Greeting::Silence => true,
            Greeting::Refusal(_) => false,
        };
        let opening = self.openings.iter().any(|opening| {
            matches!(opening, Opening::Odd { .. } | Opening::Raw(_) | Opening::Silence | Opening::Refused(_))
        });
        let deed = self.deeds.iter().any(|deed| {
            matches!(deed, Deed::Odd { .. } | Deed::Raw(_) | Deed::Main(_) | Deed::Hangup | Deed::Silence)
        });
        if greeting || opening || deed { SHORT } else { BOUND }
    }

    /// Whether methods may have other ids than they should. Then nobody knows which call is which.
    pub(super) fn is_spoiled(&self) -> bool {
        match &self.greeting {
            Greeting::Spoiled { .. } => true,
            Greeting::Good { ids, .. } => *ids != *IDS,
            Greeting::Raw(_) | Greeting::Refusal(_) | Greeting::Silence => false,
        }
    }

    /// What a good server says to a call.
    pub(super) fn good(&self, call: usize) -> (Kind, Vec<u8>) {
        reply(&self.calls[call].clone().answer())
    }

    /// Each call ended as it must, `heard` or not.
    pub(super) fn check(&self, made: Made, heard: &[bool]) {
        let results = match made {
            Made::NotConnected(why) => {
                let good = matches!(&self.greeting, Greeting::Good { ids, .. } if *ids == *IDS);
                assert!(!good || self.time() == SHORT, "{why}");
                if let Greeting::Refusal(reason) = &self.greeting {
                    assert!(why.contains(reason), "{why:?} does not say {reason:?}");
                }
                return;
            }
            Made::Calls(_) if self.is_spoiled() => return,
            Made::Calls(results) => results,
        };
        let in_time = self.time() == BOUND;
        let mut clean = in_time && self.openings.is_empty();
        clean &=
            matches!(&self.greeting, Greeting::Good { max_message: MAX_MESSAGE, ids, .. } if *ids == *IDS);
        for (at, result) in results.into_iter().enumerate() {
            let (call, deed) = (&self.calls[at], &self.deeds[at]);
            let oneway = call.method() == ONEWAY;
            let said = if oneway { Some(Answer::None) } else { self.said(at) };
            match &result {
                Ok(answer) if oneway => assert_eq!(*answer, Answer::None),
                Ok(answer) => assert!(heard[at] && said.as_ref() == Some(answer), "{answer:?} to {deed:?}"),
                Err(failed) => self.check_failed(failed, at, heard[at]),
            }
            let exact = clean && !matches!(deed, Deed::Descriptors(_));
            if exact && let Some(said) = &said {
                let expected = match said {
                    Answer::Refused(refused) => Err(refused.to_string()),
                    said => Ok(said),
                };
                assert_eq!(result.as_ref().map_err(|failed| failed.text.clone()), expected, "to {deed:?}");
            }
            clean &= oneway || matches!(deed, Deed::Good | Deed::Pings(_) | Deed::Pieces(_));
        }
    }

    /// `NotRun` is the truth, and so is `Ran`.
    fn check_failed(&self, failed: &Failed, at: usize, heard: bool) {
        let deed = &self.deeds[at];
        match (failed.outcome, deed) {
            (Outcome::NotRun, Deed::GoAway(_)) => {}
            (Outcome::NotRun, Deed::Say(Kind::Failure, payload)) if heard => {
                let (code, _) = decode::<(u32, String)>(payload).expect("a failure");
                assert!((2..=4).contains(&code), "{failed:?} to {code}");
            }
            (Outcome::NotRun, _) => assert!(!heard, "{failed:?}, and the call has come: {deed:?}"),
            (Outcome::Ran, _) => assert!(heard, "{failed:?}, and no call has come"),
            (Outcome::Unknown, _) => {}
        }
        let known = ["disconnected", "no reply within", "overloaded", "the call ran", "the handler panicked"];
        let known = known.iter().chain(&["the server refused the arguments", "the server has no method"]);
        let mut known = known.chain(&["the message is larger than"]);
        let service =
            matches!(self.said(at), Some(Answer::Refused(ref why)) if why.to_string() == failed.text);
        assert!(service || known.any(|words| failed.text.contains(words)), "{failed:?}");
    }

    /// What the client reads of what is said to a call, if it is an answer.
    fn said(&self, call: usize) -> Option<Answer> {
        let (kind, payload) = match &self.deeds[call] {
            Deed::Good | Deed::Pings(_) | Deed::Pieces(_) | Deed::Descriptors(_) => self.good(call),
            Deed::Main(_) | Deed::Twice | Deed::Hangup => self.good(call),
            // A reply that calls itself an error is read as one.
            Deed::Odd { at: KIND, with } => (Kind::from_byte(*with)?, self.good(call).1),
            // A byte that does not matter.
            Deed::Odd { .. } => self.good(call),
            Deed::Say(kind, payload) => (*kind, payload.clone()),
            Deed::Raw(_) | Deed::TooLarge(_) | Deed::WrongId(_) | Deed::Half(_) => return None,
            Deed::GoAway(_) | Deed::Silence => return None,
        };
        if !matches!(kind, Kind::Reply | Kind::ServiceError) {
            return None;
        }
        Answer::read(self.calls[call].method(), kind == Kind::ServiceError, &payload)
    }
}

fn reply(answer: &Answer) -> (Kind, Vec<u8>) {
    let kind = if matches!(answer, Answer::Refused(_)) { Kind::ServiceError } else { Kind::Reply };
    (kind, answer.payload())
}

fn greeting(input: &mut Input<'_>) -> Greeting {
    let max_message = [MAX_MESSAGE, MAX_MESSAGE, MAX_MESSAGE, 300][input.below(4)];
    let ids = match input.below(8) {
        0 => input.bytes(20).to_vec(),
        1 => encode(&vec![u16::MAX; METHODS.into()]),
        _ => IDS.clone(),
    };
    match input.below(16) {
        0 => Greeting::Raw(input.bytes(60).to_vec()),
        1 => Greeting::Refusal("not you, for once".into()),
        2 => Greeting::Silence,
        3 | 4 => Greeting::Spoiled { max_message, ids, at: input.short(), with: input.byte() },
        5 => Greeting::Raw([&[0; 12][..], &u32::MAX.to_le_bytes(), &[0; 8]].concat()),
        _ => Greeting::Good { max_message, lanes: [64, 64, 64, 1, 0][input.below(5)], ids },
    }
}

fn opening(input: &mut Input<'_>) -> Opening {
    match input.below(10) {
        0 => Opening::Refused("no lane, for once".into()),
        1 => Opening::Odd { kind: input.byte() % 18, call_id: input.below(3) as u32 },
        2 => Opening::Raw(input.bytes(30).to_vec()),
        3 => Opening::Close,
        4 => Opening::Silence,
        _ => Opening::Good,
    }
}

fn deed(call: &Call, input: &mut Input<'_>) -> Deed {
    match input.below(24) {
        0 => Deed::Pings(input.below(20)),
        1 => Deed::Pieces(input.short()),
        2 => Deed::Descriptors(GIFTS[input.below(GIFTS.len())].fd.as_raw_fd()),
        3 | 4 => {
            let (kind, payload) = reply(&Answer::sample(call.method(), input));
            Deed::Say(kind, payload)
        }
        5 => Deed::Say(Kind::Failure, encode(&(u32::from(input.byte() % 8), text(input)))),
        6 | 7 => {
            let (kind, mut payload) = reply(&Answer::sample(call.method(), input));
            if !payload.is_empty() {
                let at = payload.len() - 1 - usize::from(input.byte()) % payload.len();
                payload[at] = input.byte();
            }
            Deed::Say(kind, payload)
        }
        8 => Deed::Say([Kind::ServiceError, Kind::Reply][input.below(2)], input.bytes(50).to_vec()),
        9 => Deed::WrongId(input.half().max(1)),
        10 | 11 => Deed::Odd { at: input.below(HEADER), with: input.byte() },
        12 => Deed::Raw(input.bytes(50).to_vec()),
        13 => Deed::TooLarge(u32::try_from(MAX_MESSAGE + 1).unwrap().max(input.half())),
        14 => Deed::Half(input.short()),
        15 => Deed::GoAway(input.below(3) as u32),
        16 => {
            let header = Header { block: input.below(2) as u32, ..Header::new(Kind::Ping) };
            let kind = Kind::from_byte(input.byte() % 18).unwrap_or(Kind::Ping);
            Deed::Main(frame(Header { kind, ..header }, input.bytes(4)))
        }
        17 => Deed::Twice,
        18 => Deed::Hangup,
        19 => Deed::Silence,
        _ => Deed::Good,
    }
}
