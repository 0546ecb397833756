//! One session over the hostile memory: what the product reads, what it must make of it, and what it did.

use std::collections::BTreeMap;

use shmrpc_transport::message::SMALL;
use shmrpc_transport::slot::{FLAG_BLOCK, HEADER, Header, INLINE, Kind};

use self::blobs::{Block, Borne, Lent, block_of};
use self::reads::MARKS;
pub(super) use self::reads::is_first_stamp;
use super::plan::Plan;
use super::service::{Answer, Call, METHODS, ONEWAY, failure};
use crate::ground::Ground;
use crate::input::Input;
use crate::service::is_block;
use crate::wire::Wire;

mod blobs;
mod reads;

/// The fuzzer's bytes.
pub(super) struct Tape {
    bytes: Vec<u8>,
    at: usize,
}

impl Tape {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0 }
    }

    pub(super) fn is_over(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn read<T>(&mut self, read: impl FnOnce(&mut Input<'_>) -> T) -> T {
        let mut input = Input(&self.bytes[self.at..]);
        let value = read(&mut input);
        self.at = self.bytes.len() - input.0.len();
        value
    }
}

/// Why the product must end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The fuzzer has closed it.
    Closed,
    /// It read what no good peer writes.
    Poisoned,
}

pub(super) struct Script {
    pub(super) tape: Tape,
    /// What its counter says when it is gone.
    last_words: Tape,
    /// There from when the lane is open.
    pub(super) wire: Option<Wire>,
    pub(super) own: Ground,
    pub(super) product: Ground,
    pub(super) trusted: bool,
    /// Whether the product is the server.
    pub(super) serves: bool,
    pub(super) end: Option<End>,
    /// What the product did that it must not do.
    pub(super) fault: Option<String>,
    /// Messages that the product took.
    pub(super) position: u32,
    /// Messages that it published.
    pub(super) published: u32,
    /// The call that it waits for.
    pub(super) awaiting: Option<u32>,
    /// The method that it called last.
    asked: u16,
    /// What it was last told of the messages that the peer took.
    pub(super) taken: Option<u32>,
    stage: Stage,
    /// What a look at the next stamp sees, until the product says that it will sleep.
    seen: Option<u32>,
    /// Whether the last look at the next stamp said that the message is there.
    is_there: bool,
    /// Whether the next look decides about sleeping.
    will_sleep: bool,
    /// How often it would have slept since it was to end.
    slept: u32,
    /// Where the product has its base segment.
    base: Option<usize>,
    /// Messages of the product that the peer is done with, as last believed.
    credited: u32,
    /// Whether nothing was asked of `done` since the last message.
    claims: bool,
    /// Whether the next look at `done` decides about sleeping, and is not believed.
    wants_credit: bool,
    /// Blocks of the product that the fuzzer has: their generations.
    lent: BTreeMap<u32, u32>,
    /// The block of the blob in the call that was made last.
    borne: Option<Block>,
}

enum Stage {
    Idle,
    /// Words of a message, one bit for each that was read.
    Reading(Plan, u8),
    Due(Due),
    /// Refused. Its payload may be copied before, or not.
    Refused {
        may_copy: bool,
    },
}

/// A message that was taken.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) header: Header,
    /// Its generation, if it is in a block that is to be given back.
    generation: Option<u32>,
    pub(super) in_place: bool,
    /// `None` until it is copied.
    pub(super) payload: Option<Vec<u8>>,
    copy: Vec<u8>,
    /// The blob in it.
    blob: Option<Borne>,
    ran: bool,
    answered: bool,
}

impl Due {
    fn call(&self) -> Option<Call> {
        Call::read(self.header.method, self.payload.as_ref()?, self.blob())
    }
}

impl Script {
    pub(super) fn new(mut tape: Tape, own: Ground, product: Ground, trusted: bool, serves: bool) -> Self {
        let last_words = if serves { vec![] } else { tape.read(|input| input.bytes(5).to_vec()) };
        let last_words = Tape::new(&last_words);
        // Real words say where they lie, and are nothing that a correct peer writes, so that nobody sleeps on them.
        own.write(0, &MARKS);
        Self {
            tape,
            last_words,
            wire: None,
            own,
            product,
            trusted,
            serves,
            end: None,
            fault: None,
            position: 0,
            published: 0,
            awaiting: None,
            asked: 0,
            taken: None,
            stage: Stage::Idle,
            seen: None,
            is_there: false,
            will_sleep: false,
            slept: 0,
            base: None,
            credited: 0,
            claims: true,
            wants_credit: false,
            lent: BTreeMap::new(),
            borne: None,
        }
    }

    /// The first fault stays.
    pub(super) fn blame(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    /// A call begins: what comes may be there by now.
    pub(super) fn look_anew(&mut self) {
        self.seen = None;
    }

    /// The message that was taken last, if it was not looked at yet.
    pub(super) fn take_due(&mut self) -> Option<Due> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Due(due) => Some(due),
            _ => None,
        }
    }

    /// All words of a message were read.
    fn received(&mut self, plan: Plan) {
        (self.seen, self.is_there) = (None, false);
        let mut head = [0; HEADER];
        head[4..8].copy_from_slice(&(plan.words[0] as u32).to_le_bytes());
        head[8..16].copy_from_slice(&plan.words[1].to_le_bytes());
        head[16..].copy_from_slice(&plan.words[2].to_le_bytes());
        let header = Header::from_frame(&head);
        let header = header.ok().filter(|h| h.flags & FLAG_BLOCK != 0 || h.length as usize <= INLINE);
        let Some(header) = header else {
            self.end = Some(End::Poisoned);
            return;
        };
        self.position = self.position.wrapping_add(1);
        self.stage = match self.due(header, plan) {
            Some(due) if self.is_welcome(header) => Stage::Due(self.looked_into(due)),
            // A server looks at the kind first, and at descriptors last.
            Some(_) => Stage::Refused {
                may_copy: !self.serves || matches!(header.kind, Kind::Request | Kind::OneWay),
            },
            None => Stage::Idle,
        };
        if !matches!(self.stage, Stage::Due(_)) {
            self.end = Some(End::Poisoned);
        } else if !self.serves {
            self.awaiting = None;
        }
    }

    /// Whether the kind and the call have their place in the ring.
    fn is_welcome(&self, header: Header) -> bool {
        // Nobody sends descriptors here.
        header.descriptors() == 0
            && match header.kind {
                Kind::Request | Kind::OneWay => self.serves,
                Kind::Reply | Kind::ServiceError | Kind::Failure => {
                    !self.serves && self.awaiting == Some(header.call_id)
                }
                _ => false,
            }
    }

    /// What is in the message; nothing, if there is no such memory.
    fn due(&self, header: Header, plan: Plan) -> Option<Due> {
        let length = header.length as usize;
        let mut due = Due {
            header,
            generation: None,
            in_place: false,
            payload: None,
            copy: plan.payload,
            blob: None,
            ran: false,
            answered: false,
        };
        let [ids, offset, ..] = plan.words[3..] else { unreachable!() };
        if header.flags & FLAG_BLOCK == 0 {
            let bytes = plan.words[3..].iter().flat_map(|word| word.to_le_bytes());
            due.payload = Some(bytes.take(length).collect());
            return Some(due);
        }
        if !is_block(header.block, ids as u32, header.length, offset) {
            return None;
        }
        due.generation = Some((ids >> 32) as u32);
        due.in_place = self.trusted && length > SMALL;
        if due.in_place {
            due.payload = Some(self.own.read(offset as usize, length).unwrap_or_default());
        }
        Some(due)
    }

    /// The payload was copied; what was there is up to the fuzzer.
    pub(super) fn copied(&mut self, copy: &mut [u8]) {
        let fresh = self.tape.read(|input| input.byte());
        copy.fill(fresh);
        self.stage = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Due(mut due) if due.payload.is_none() && copy.len() == due.header.length as usize => {
                let both = copy.len().min(due.copy.len());
                let (from, to) = (due.copy.len() - both, copy.len() - both);
                copy[to..].copy_from_slice(&due.copy[from..]);
                due.payload = Some(copy.to_vec());
                Stage::Due(self.looked_into(due))
            }
            Stage::Due(mut due) => {
                match due.blob {
                    Some(Borne::ToCopy(length, block)) if length == copy.len() => {
                        due.blob = Some(Borne::Bytes(copy.to_vec(), Some(block)));
                    }
                    _ => self.blame(format!("{} bytes were copied of {due:?}", copy.len())),
                }
                Stage::Due(due)
            }
            stage => {
                if !matches!(stage, Stage::Refused { may_copy: true }) {
                    self.blame(format!("{} bytes were copied that are no payload", copy.len()));
                }
                stage
            }
        };
    }

    /// A handler was called.
    pub(super) fn ran(&mut self, call: Call) {
        let (end, taken) = (self.end, self.product.taken(0));
        let fault = match &mut self.stage {
            _ if end.is_some() => Some(format!("{call:?} ran after the end")),
            _ if taken != self.position => Some(format!("{call:?} ran, and only {taken} count as taken")),
            Stage::Due(due) if !due.ran && due.call().as_ref() == Some(&call) => {
                due.ran = true;
                None
            }
            Stage::Due(due) => Some(format!("{call:?} ran for {due:?}")),
            _ => Some(format!("{call:?} ran for nothing")),
        };
        fault.into_iter().for_each(|fault| self.blame(fault));
    }

    /// The product has sent something.
    pub(super) fn published(&mut self) {
        let (head, words) = self.product.read_slot(0, self.published);
        self.published = self.published.wrapping_add(1);
        self.claims = true;
        let Ok(header) = Header::from_frame(&head) else {
            return self.blame(format!("a header that is none: {head:?}"));
        };
        let length = header.length as usize;
        let payload = if header.flags & FLAG_BLOCK == 0 {
            Some(words.iter().flat_map(|word| word.to_le_bytes()).take(length).collect())
        } else {
            if self.lent.insert(header.block, (words[0] >> 32) as u32).is_some() {
                self.blame(format!("block {} was lent twice", header.block));
            }
            // Further segments are not mapped here.
            if words[0] as u32 == 0 { self.product.read(words[1] as usize, length) } else { None }
        };
        // Who sent a blob that is none gets an answer, though his connection has ended.
        let refuses = matches!(&self.stage, Stage::Due(Due { blob: Some(Borne::Bad), .. }) if self.serves);
        if self.end == Some(End::Poisoned) && !refuses {
            self.blame(format!("{header:?} after what no good peer writes"));
        } else if self.serves {
            self.replied(header, payload);
        } else {
            self.requested(header, payload);
        }
    }

    fn replied(&mut self, header: Header, payload: Option<Vec<u8>>) {
        let blob = payload.as_ref().map(|payload| match &self.stage {
            Stage::Due(due) if header.kind == Kind::Reply => Answer::blob(due.header.method, payload),
            _ => None,
        });
        let blob = self.lent(blob.flatten());
        let held = matches!(&self.stage, Stage::Due(due) if self.is_held(due));
        let Stage::Due(due) = &mut self.stage else { return self.blame(format!("{header:?} for nothing")) };
        let asked = due.header.kind == Kind::Request && !due.answered && header.call_id == due.header.call_id;
        due.answered = true;
        let right = match (due.call().map(|call| call.answer()), &payload) {
            _ if held || !asked || header.method != 0 || header.timeout_ms != 0 => false,
            (Some(answer), payload) => {
                let is_error = matches!(answer, Answer::Refused(_));
                let kind = if is_error { Kind::ServiceError } else { Kind::Reply };
                let read = payload
                    .as_ref()
                    .filter(|_| blob != Lent::Elsewhere)
                    .map(|payload| Answer::read(due.header.method, is_error, payload, blob.bytes()));
                due.ran && header.kind == kind && read.is_none_or(|read| read == Some(answer))
            }
            (None, payload) => {
                let code = if usize::from(due.header.method) < METHODS { 3 } else { 2 };
                let read = payload.as_ref().map(|payload| failure(payload).map(|(code, _)| code));
                !due.ran && header.kind == Kind::Failure && read.is_none_or(|read| read == Some(code))
            }
        };
        if !right {
            let fault = format!("{header:?} with {payload:?} for {due:?}; arguments held: {held}");
            self.blame(fault);
        }
    }

    fn requested(&mut self, header: Header, payload: Option<Vec<u8>>) {
        let kind = if header.method == ONEWAY { Kind::OneWay } else { Kind::Request };
        let wire = payload.as_ref().and_then(|payload| Call::blob(header.method, payload));
        self.borne = wire.as_ref().and_then(block_of);
        let blob = self.lent(wire);
        let is_call = payload
            .filter(|_| blob != Lent::Elsewhere)
            .is_none_or(|payload| Call::read(header.method, &payload, blob.bytes()).is_some());
        if header.kind != kind || !is_call {
            self.blame(format!("{header:?} is no call"));
        }
        self.asked = header.method;
        if kind == Kind::Request && self.awaiting.replace(header.call_id).is_some() {
            self.blame("two calls wait on one lane".into());
        }
    }

    /// The product looks for the next message, or has ended: it is done with the one before.
    pub(super) fn is_over(&mut self) {
        if matches!(self.stage, Stage::Reading(..)) {
            self.blame("a message was left half read".into());
        }
        let Some(due) = self.take_due() else { return };
        if !self.serves {
            return;
        }
        let call = due.call();
        let is_due = due.header.kind == Kind::Request && (due.header.method != ONEWAY || call.is_none());
        let answered = due.answered == is_due || self.end.is_some() && !due.answered;
        let done = self.product.done(0) == self.position;
        let held = self.is_held(&due);
        if due.ran != call.is_some() || !answered || !done || held {
            self.blame(format!("{due:?} was not served; done: {done}, arguments held: {held}"));
        }
    }

    /// Nothing is left to read: the peer goes, and the product knows it before it goes on.
    fn close(&mut self) {
        if self.end.is_none() {
            self.end = Some(End::Closed);
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        let Some(wire) = &mut self.wire else { return self.blame("no lane is open".into()) };
        wire.finish();
        while wire.frame().is_some() {}
    }
}
