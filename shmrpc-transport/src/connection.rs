//! What both sides of one connection know: its memory, its socket, its limits, and whether it lives.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::life::Life;
use crate::message::{Budget, Draft, EncodeError, Pool};
use crate::peers::PeerInfo;
use crate::shm::consumer::Consumer;
use crate::shm::ledger::Account;
use crate::shm::memory::Memory;
use crate::shm::producer::Producer;
use crate::shm::segment::{FIRST_ARENA, MAX_LANES, Segment, Side};
use crate::slot::{Header, Kind, SLOTS};
use crate::sys::fork::Generation;
use crate::sys::futex::{Stop, Until};
use crate::sys::socket::{FrameReader, Socket};
use crate::sys::watcher::Token;

pub use self::blobs::{ArchivedOnWire, BadBlob, Blob, BlobMut, Loaned, OnWire};
pub use self::blocks::BadBlock;
pub(crate) use self::blocks::Encoded;
use self::handed::Handed;
use self::inbox::unwatch;
pub(crate) use self::inbox::watch;
use self::outbox::Outbox;
pub use self::segments::Mapped;
use self::segments::{Receiving, Sending};
#[cfg(feature = "instrument")]
pub use self::segments::{give_back_everywhere, has_ended, is_draining};
pub use self::streams::LaneStream;
use self::streams::Streams;
#[cfg(test)]
pub(crate) use self::streams::tests as streams_in_tests;
pub(crate) use self::streams::{Dial, NoStream, Redial, shutting_down};

// unsafe: hands out the memory of blocks.
mod blobs;
// unsafe: encodes into claimed slots and blocks; reads the blocks of the peer.
mod blocks;
mod segments;
mod streams;
mod handed;
mod inbox;
mod outbox;

/// What lanes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Two rings in shared memory.
    Rings,
    /// A byte stream.
    Streams,
}

impl Carrier {
    /// As it travels.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Rings => 0,
            Self::Streams => 1,
        }
    }

    /// Reads what a peer wrote.
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        [Self::Rings, Self::Streams].into_iter().find(|carrier| carrier.code() == code)
    }
}

/// What the two sides agreed on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Lanes that the connection may have.
    pub lanes: u32,
    /// What they are made of.
    pub carrier: Carrier,
    /// Bytes of a message that the peer takes.
    pub send_max: u64,
    /// Bytes of a message that we take.
    pub receive_max: u64,
    /// Bytes of memory for messages that the peer's process may hold, over all of its connections.
    pub lent_max: u64,
    /// What the memory of both sides is made of, ours first, if they share any. Not sealed only if the peer is trusted.
    pub memory: Option<[Memory; 2]>,
    /// Bytes from which on a message of ours over a stream lies in that memory.
    pub memory_from: u64,
}

/// What the owner of a connection does when the peer says something on the socket.
pub trait Events: Send + Sync {
    /// The peer opened `lane`, and somebody is to serve it; over `stream`, if it is not one of rings.
    ///
    /// # Errors
    /// Why nobody does, for the peer to read.
    fn lane_opened(
        &self,
        connection: &Arc<Connection>,
        lane: u32,
        stream: Option<LaneStream>,
    ) -> Result<(), String>;
    /// The connection ended. Called once.
    fn closed(&self, connection: &Connection);
}

/// What a peer says to a lane that we open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneAnswer {
    /// Somebody serves it.
    Served,
    /// Nobody serves it now, for this reason.
    Refused(String),
    /// Nothing, in the time it had.
    TimedOut,
}

/// Whether a lane is served, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Question {
    NotAsked,
    Asked,
    Answered(LaneAnswer),
}

/// A connection that can no longer be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// For people.
    pub reason: String,
    /// Whether the peer closed the connection: then it takes no more messages, and its counters are final.
    pub peer_closed: bool,
}

impl fmt::Display for Death {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.reason)
    }
}

/// One connection over shared memory.
pub struct Connection {
    id: u64,
    process: Generation,
    limits: Limits,
    peer: PeerInfo,
    /// Whether the peer is the side that connected.
    peer_is_client: bool,
    trusted: bool,
    shared: Option<Shared>,
    /// When to look for segments of ours that nobody needs. Not behind the lock of `sending`: the watcher asks for it
    /// while it holds its own lock, and whoever has that one may wait for the watcher's.
    look_at: Mutex<Option<Instant>>,
    /// For messages that are copied, or that come over a stream.
    pool: Arc<Pool>,
    /// For messages that are written for a stream.
    drafts: Arc<Pool>,
    /// The streams of its lanes, and how further ones are had.
    streams: Streams,
    handed: Handed,
    socket: Socket,
    outbox: Mutex<Outbox>,
    reader: Mutex<FrameReader>,
    /// Held while frames are handled, so that they are in the order in which they came.
    reading: Mutex<()>,
    life: Life<Death>,
    /// How and until when the peer has left, while its lanes may still say their last.
    left: OnceLock<(Death, Instant)>,
    questions: Mutex<[Question; MAX_LANES as usize]>,
    answered: Condvar,
    going_away: std::sync::atomic::AtomicBool,
    /// Lanes that the peer has opened, one bit each.
    opened: AtomicU64,
    /// Where the socket is watched.
    watched: OnceLock<Token>,
    /// Where the end of the peer's process is watched for.
    mourner: OnceLock<Token>,
    events: Box<dyn Events>,
}

/// Time that lanes have when the peer has closed the connection. What was lost on the way is sent again within some seconds.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The memory that the two sides share.
struct Shared {
    account: Arc<Account>,
    own_base: Arc<Segment>,
    peer_base: Arc<Segment>,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
}

/// The memory of both sides, when they have shaken hands.
pub(crate) struct Bases {
    pub(crate) account: Arc<Account>,
    pub(crate) own: Segment,
    pub(crate) peer: Segment,
}

impl Shared {
    fn new(bases: Bases, limits: Limits) -> Self {
        let Bases { account, own, peer } = bases;
        let (own_base, peer_base) = (Arc::new(own), Arc::new(peer));
        Self {
            account,
            sending: Mutex::new(Sending::new(&own_base)),
            receiving: Mutex::new(Receiving::new(&peer_base, limits.receive_max)),
            own_base,
            peer_base,
        }
    }
}

/// What a connection is made of, when the two sides have shaken hands.
pub(crate) struct Parts {
    pub(crate) limits: Limits,
    pub(crate) peer: PeerInfo,
    pub(crate) peer_is_client: bool,
    pub(crate) trusted: bool,
    /// None if the two share no memory.
    pub(crate) bases: Option<Bases>,
    /// What all peers of a server may have together, if that is bounded.
    pub(crate) budget: Option<Budget>,
    /// How a client has further streams.
    pub(crate) dial: Dial,
    pub(crate) socket: Socket,
    pub(crate) reader: FrameReader,
}

impl Connection {
    pub(crate) fn new(parts: Parts, events: Box<dyn Events>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Parts { limits, peer, peer_is_client, trusted, bases, budget, dial, socket, mut reader } = parts;
        reader.expect_short();
        if peer_is_client && limits.carrier == Carrier::Streams {
            reader.expect_streams();
        }
        if limits.carrier == Carrier::Rings {
            reader.expect_descriptors();
        }
        // As much as we may have of the peer's in place.
        let copies = limits.receive_max.saturating_mul(4).max(4 << 20);
        let pool = match &bases {
            Some(bases) => Pool::sharing(bases.account.copies(), copies, FIRST_ARENA as u64),
            None => Pool::within(copies, budget.clone()),
        };
        let connection = Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            process: Generation::current(),
            limits,
            peer,
            peer_is_client,
            trusted,
            shared: bases.map(|bases| Shared::new(bases, limits)),
            look_at: Mutex::default(),
            pool,
            // One on each lane, and it is ours: nothing but the budget bounds it.
            drafts: Pool::within(i64::MAX.cast_unsigned(), budget),
            streams: Streams::new(dial),
            handed: Handed::default(),
            socket,
            outbox: Mutex::default(),
            reader: Mutex::new(reader),
            reading: Mutex::default(),
            life: Life::new(MAX_LANES),
            left: OnceLock::new(),
            questions: Mutex::new([const { Question::NotAsked }; MAX_LANES as usize]),
            answered: Condvar::new(),
            going_away: false.into(),
            opened: AtomicU64::new(0),
            watched: OnceLock::new(),
            mourner: OnceLock::new(),
            events,
        });
        #[cfg(feature = "instrument")]
        segments::register(&connection);
        connection
    }

    /// Tells this connection from all others of this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the two sides agreed on.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// Whether the peer is in our trust set: its large messages are read in place.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Why the connection ended, if it has.
    pub fn death(&self) -> Option<&Death> {
        self.life.death()
    }

    /// Why the connection takes no more calls, if it has ended, or the peer has closed it and its lanes may still say their last.
    pub(crate) fn end(&self) -> Option<&Death> {
        self.death().or_else(|| self.left.get().map(|(death, _)| death))
    }

    /// Whether a message that was just taken may be run. No, if the connection has ended.
    #[inline(always)]
    pub(crate) fn may_run(&self, lane: u32) -> bool {
        self.life.may_run(lane)
    }

    /// Whether no new calls are to be sent: the peer said that it takes none, or the connection has ended.
    #[inline(always)]
    pub fn is_going_away(&self) -> bool {
        self.going_away.load(Ordering::Relaxed)
    }

    /// Ends the connection. The first reason stays; every wait of every lane ends. In a forked child it does nothing
    /// but remember the reason: the connection is its parent's.
    pub fn die(&self, death: Death) {
        self.die_saying(death, None);
    }

    /// Ends the connection because this side cannot go on, and tells the peer why, if the socket takes it.
    pub(crate) fn give_up(&self, reason: String) {
        tracing::warn!(peer = ?self.peer, "connection given up: {reason}");
        self.die_saying(Death { reason: reason.clone(), peer_closed: false }, Some(&reason));
    }

    /// The peer has closed the connection. What a server's lanes say last goes ways of its own between hosts, and may come later.
    fn peer_left(&self, death: Death) {
        if self.peer_is_client || !self.process.is_current() || !self.streams.may_say_more() {
            return self.die(death);
        }
        // First: whoever sees that it has ended, and lets go of what is left of it, has to find that its lanes take no calls.
        self.goes_away();
        self.left.get_or_init(|| (death, Instant::now() + LAST_WORDS));
        // A server that lives, and has lost this connection only, says goaway when it has served what came.
        self.streams.end_sending();
        self.socket.shutdown();
        // The last lane may have gone meanwhile.
        self.settle();
    }

    /// Ends the connection if the peer has left, and no lane is there any more to say its last.
    pub(crate) fn settle(&self) {
        if let Some((death, _)) = self.left.get()
            && !self.streams.may_say_more()
        {
            self.die(death.clone());
        }
    }

    fn die_saying(&self, death: Death, last_words: Option<&str>) {
        if !self.life.end(death) || !self.process.is_current() {
            return;
        }
        self.goes_away();
        self.life.stop_all();
        self.life.reach_all();
        if let Some(reason) = last_words {
            self.say_last(reason);
        }
        // After that: who finds the end of a lane looks there for the reason.
        self.streams.end();
        self.socket.shutdown();
        if let Some(token) = self.mourner.get() {
            unwatch(*token);
        }
        if let (Some(_), Some(token)) = (self.left.get(), self.watched.get()) {
            // It rests there, and a socket that is down already wakes nobody.
            unwatch(*token);
        }
        if self.peer_is_client {
            // No further request is run. A reply may still be taken.
            self.handed.end();
        }
        // Whoever checks `death` and then waits holds the lock in between, so none of them misses this.
        drop(self.questions.lock());
        self.answered.notify_all();
        self.events.closed(self);
    }

    /// Ends the connection because the peer broke the protocol, and tells it how, if the socket takes that.
    pub(crate) fn poison(&self, what: &dyn fmt::Display) -> Death {
        tracing::warn!(peer = ?self.peer, "connection poisoned: {what}");
        let death = Death { reason: format!("the peer broke the protocol: {what}"), peer_closed: false };
        self.die_saying(death, Some(&format!("it was sent what breaks the protocol: {what}")));
        self.last_words()
    }

    /// Why the connection ended; for use once it has.
    pub(crate) fn last_words(&self) -> Death {
        self.end().cloned().unwrap_or(Death { reason: "closed".into(), peer_closed: false })
    }

    /// Tells the peer that no new calls are taken, and ends the waits of the lanes that have nothing to do; what was published is still served.
    pub fn drain(&self) {
        if self.streams.drains() {
            return;
        }
        self.tell(Header::new(Kind::GoAway));
        self.life.stop_all();
        self.streams.drain();
    }

    /// Asks the peer to serve `lane`, and waits for its answer.
    ///
    /// # Errors
    /// [`Death`] if the connection ends first.
    pub fn open_lane(&self, lane: u32, until: &mut Until) -> Result<LaneAnswer, Death> {
        // Whoever gave up on the answer has asked already.
        let asked =
            self.questions.lock().get_mut(lane as usize).map(|asked| mem::replace(asked, Question::Asked));
        if asked != Some(Question::Asked) {
            let mut header = Header::new(Kind::LaneOpen);
            header.block = lane;
            self.tell(header);
        }
        let mut questions = self.questions.lock();
        loop {
            if self.death().is_some() {
                return Err(self.last_words());
            }
            if let Some(Question::Answered(answer)) = questions.get(lane as usize) {
                return Ok(answer.clone());
            }
            match until.left() {
                Some(left) if left.is_zero() => return Ok(LaneAnswer::TimedOut),
                Some(left) => drop(self.answered.wait_for(&mut questions, left)),
                None => self.answered.wait(&mut questions),
            }
        }
    }

    /// The bare rings of `lane`, both at position zero, without a protocol; `None` if there is no such lane.
    pub fn rings(&self, lane: u32) -> Option<(Producer<Side>, Consumer<Side>)> {
        let (own, peer) = self.sides(lane)?;
        Some((Producer::new(own.clone(), peer.clone()), Consumer::new(own, peer)))
    }

    /// The two sides of `lane`: ours, and the peer's.
    fn sides(&self, lane: u32) -> Option<(Side, Side)> {
        let Shared { own_base, peer_base, .. } = self.shared.as_ref()?;
        Some((Side::new(own_base, lane)?, Side::new(peer_base, lane)?))
    }

    /// Whether the server is done with all messages of `lane` that have a position before `position`.
    pub(crate) fn is_done(&self, lane: u32, position: u32) -> bool {
        let (done, most) = match self.limits.carrier {
            Carrier::Streams => (self.streams.done(lane), streams::UNDER_WAY),
            Carrier::Rings => (self.sides(lane).map(|(_, peer)| Producer::<Side>::done_of(&peer)), SLOTS),
        };
        // Positions begin anew. No more messages than that are under way: what is further ahead is of the round before.
        done.is_none_or(|done| !(1..=most).contains(&position.wrapping_sub(done)))
    }

    /// What messages of streams are received into.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Memory to write a lane's messages into.
    ///
    /// # Errors
    /// [`EncodeError::System`] if there is none.
    pub(crate) fn draft(&self) -> Result<Draft, EncodeError> {
        Draft::new(&self.drafts)
    }

    /// No new calls are to be sent.
    pub(crate) fn goes_away(&self) {
        self.going_away.store(true, Ordering::Relaxed);
    }

    /// The word that ends the waits of `lane`.
    pub fn stop(&self, lane: u32) -> Option<&Stop> {
        self.life.stop(lane)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("limits", &self.limits)
            .field("trusted", &self.trusted)
            .field("death", &self.death())
            .finish_non_exhaustive()
    }
}
