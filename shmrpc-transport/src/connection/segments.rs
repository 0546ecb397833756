//! The segments of a connection beyond the base: ours are made when the arena needs room and given back when it has
//! not needed them for a while; the peer's come and go as it says.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::inbox::Fault;
use super::{Connection, Shared};
use crate::message::EncodeError;
use crate::shm::arena::Arena;
use crate::shm::segment::{ARENA_OFFSET, BASE_LEN, Handout, Segment};
use crate::slot::{Header, Kind};
use crate::sys::shortage::{explain, is_shortage, largest_file};
use crate::sys::socket::Frame;
use crate::sys::watcher::Watcher;

/// Segments that one direction may have. A mapping each, of which a process may have 65,530 (`vm.max_map_count`).
const MAX_SEGMENTS: usize = 64;
/// How often the arena is looked at for segments that nobody needs, at first; twice as long each time that there are
/// none, up to the second. A segment goes that was not used from one look to the next.
const REST: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(64)];

/// Bytes of segments that whoever takes messages of `max_message` bytes maps of one peer.
fn mapped_max(max_message: u64) -> u64 {
    max_message.saturating_mul(8).max(8 << 20)
}

/// Memory that we send from.
pub(super) struct Sending {
    pub(super) arena: Arena,
    /// What is mapped, by id. Ids are not used again, so that a late slot cannot name a new segment by an old id.
    segments: BTreeMap<u32, Arc<Segment>>,
    next: u32,
    /// Bytes of the segments that we gave up and the peer has not yet.
    leaving: BTreeMap<u32, u64>,
    /// Bytes of all of them.
    bytes: u64,
    /// How long the next look is put off.
    rest: Duration,
}

/// Memory of the peer that we read.
pub(super) struct Receiving {
    segments: BTreeMap<u32, Arc<Segment>>,
    next: u32,
    /// Given up by the peer; mapped as long as a message lies in them.
    left: Vec<Weak<Segment>>,
    cap: u64,
}

/// Bytes of memory that the two sides of a connection have mapped for messages, base segments included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Ours, which the peer reads; also what we gave up and the peer has not yet.
    pub sending: u64,
    /// The peer's, which we read.
    pub receiving: u64,
}

impl Sending {
    pub(super) fn new(base: &Arc<Segment>) -> Self {
        let mut arena = Arena::default();
        arena.add_segment(0, ARENA_OFFSET as u64, BASE_LEN as u64);
        Self {
            arena,
            segments: BTreeMap::from([(0, Arc::clone(base))]),
            next: 1,
            leaving: BTreeMap::new(),
            bytes: BASE_LEN as u64,
            rest: REST[0],
        }
    }

    pub(super) fn segment(&self, id: u32) -> Option<&Segment> {
        self.segments.get(&id).map(|segment| &**segment)
    }
}

impl Receiving {
    pub(super) fn new(base: &Arc<Segment>, max_message: u64) -> Self {
        Self {
            segments: BTreeMap::from([(0, Arc::clone(base))]),
            next: 1,
            left: Vec::new(),
            cap: mapped_max(max_message),
        }
    }

    /// Bytes that are mapped now.
    fn bytes(&mut self) -> u64 {
        self.left.retain(|segment| segment.strong_count() > 0);
        let left = self.left.iter().filter_map(Weak::upgrade);
        self.segments.values().cloned().chain(left).map(|segment| segment.len() as u64).sum()
    }

    fn count(&self) -> usize {
        self.segments.len() + self.left.len()
    }
}

impl Connection {
    /// What is mapped for messages now.
    pub fn mapped(&self) -> Mapped {
        let bytes = |shared: &Shared| Mapped {
            sending: shared.sending.lock().bytes,
            receiving: shared.receiving.lock().bytes(),
        };
        self.shared.as_ref().map_or(Mapped { sending: 0, receiving: 0 }, bytes)
    }

    /// Gives back the segments of our arena that were not used since the last call. The watcher calls this a
    /// second after the arena grew, and again until it is as small as it was.
    pub fn give_back(&self) {
        self.pool.trim();
        self.drafts.trim();
        let warm = self.pool.is_warm() || self.drafts.is_warm();
        let Some(shared) = &self.shared else {
            *self.look_at.lock() = warm.then(|| Instant::now() + REST[0]);
            return;
        };
        let mut sending = shared.sending.lock();
        let released = |id| shared.peer_base.release_word(id).map_or(0, |word| word.released());
        sending.arena.reclaim(usize::MAX, released);
        let retired = sending.arena.retire();
        for id in &retired {
            if let Some(segment) = sending.segments.remove(id) {
                sending.leaving.insert(*id, segment.len() as u64);
            }
        }
        let [first, longest] = REST;
        sending.rest = if retired.is_empty() { (sending.rest * 2).min(longest) } else { first };
        *self.look_at.lock() = (sending.arena.segments() > 1 || warm).then(|| Instant::now() + sending.rest);
        drop(sending);
        for id in retired {
            tracing::debug!(segment = id, "arena shrunk");
            let mut header = Header::new(Kind::SegmentRetire);
            header.block = id;
            self.tell(header);
        }
    }

    /// The peer's segment `id`. It was announced before the first slot that names it, so what the watcher has not read
    /// yet lies in the socket.
    pub(super) fn segment(self: &Arc<Self>, id: u32) -> Option<Arc<Segment>> {
        let shared = self.shared.as_ref()?;
        let known = || shared.receiving.lock().segments.get(&id).cloned();
        known().or_else(|| {
            self.read_frames_for(|| known().is_some());
            known()
        })
    }

    /// That the peer holds all that it may, and which bound that is: of its process, of this connection, or of all peers.
    pub(super) fn no_memory(&self) -> EncodeError {
        let (of_process, of_connection) = (self.limits.lent_max, mapped_max(self.limits.send_max));
        let scarce = self.shared.as_ref().and_then(|shared| shared.account.scarce(of_process));
        let (cap, raise) = match (scarce, of_connection < of_process) {
            (Some(budget), _) => (budget.cap(), "max_memory of the server, which all of its clients share"),
            (None, true) => (of_connection, "max_message on the side that receives"),
            (None, false) => (of_process, "max_lent on the side that sends"),
        };
        EncodeError::NoMemory { cap, raise }
    }

    /// Adds a segment with room for `bytes`. False if the cap leaves none; [`EncodeError::System`] if the system does.
    pub(super) fn grow_arena(
        &self,
        shared: &Shared,
        sending: &mut Sending,
        bytes: u64,
    ) -> Result<bool, EncodeError> {
        // What the peer has not confirmed gone may still be mapped there, and above its bound it ends the connection.
        let room = mapped_max(self.limits.send_max).saturating_sub(sending.bytes);
        let left = shared.account.left(self.limits.lent_max).min(room);
        let last = sending.segments.values().next_back().map_or(0, |segment| segment.len() as u64);
        let wanted = bytes.checked_next_power_of_two().unwrap_or(bytes).max(last.saturating_mul(2));
        let length = if wanted <= left.min(largest_file()) { wanted } else { bytes.next_multiple_of(4096) };
        if length > left || sending.segments.len() + sending.leaving.len() >= MAX_SEGMENTS {
            return Ok(false);
        }
        let (Ok(size), Some([own_memory, _])) = (usize::try_from(length), self.limits.memory) else {
            return Ok(false);
        };
        let lacking = |reason: String| EncodeError::System(reason.into());
        let (mut segment, Handout { descriptor, witness }) =
            Segment::create(size, own_memory).map_err(|error| lacking(error.to_string()))?;
        let Ok(lent) = shared.account.lend(length, self.limits.lent_max, witness) else { return Ok(false) };
        segment.charge(lent);
        let id = sending.next;
        let mut header = Header::new(Kind::SegmentAdd);
        header.block = id;
        match self.announce(header, &length.to_le_bytes(), &[descriptor]) {
            Ok(true) => {}
            // The peer has to read before it can know of more memory; whoever needs it asks again.
            Ok(false) => return Ok(false),
            Err(error) => {
                // For want of memory the call fails and the connection goes on: nothing was said.
                if !is_shortage(&error) {
                    self.not_sent(&error);
                }
                return Err(lacking(format!("it cannot be sent: {}", explain(&error))));
            }
        }
        tracing::debug!(segment = id, length, "arena grown");
        sending.next = id.wrapping_add(1);
        sending.arena.add_segment(id, 0, length);
        sending.bytes += length;
        sending.segments.insert(id, Arc::new(segment));
        sending.rest = REST[0];
        self.look_later();
        Ok(true)
    }

    /// Has the watcher look in a while for memory that nobody needs any more.
    pub(super) fn look_later(&self) {
        let mut look_at = self.look_at.lock();
        if look_at.is_none() {
            *look_at = Some(Instant::now() + REST[0]);
            drop(look_at);
            if let Ok(watcher) = Watcher::get() {
                watcher.hurry();
            }
        }
    }

    /// The peer has one more segment.
    pub(super) fn segment_added(&self, frame: &Frame) -> Result<(), Fault> {
        let fault = |what: &str| Fault::Peer(what.to_owned());
        let fd = self.reader.lock().take_descriptor();
        let fd = fd.ok_or_else(|| fault("a segment came without its descriptor"))?;
        let length = frame.payload.as_slice().try_into().map(u64::from_le_bytes);
        let length = length.map_err(|_| fault("a segment came without its length"))?;
        let (Some(shared), Some([_, peer_memory])) = (&self.shared, self.limits.memory) else {
            return Err(fault("a segment came, and no memory is shared"));
        };
        let mut receiving = shared.receiving.lock();
        let (held, cap) = (receiving.bytes(), receiving.cap);
        if receiving.count() >= MAX_SEGMENTS || receiving.next != frame.header.block {
            return Err(Fault::Peer(format!("segment {} out of turn", frame.header.block)));
        }
        if length > cap.saturating_sub(held) {
            return Err(Fault::Peer(format!("a segment of {length} bytes beside {held} is above {cap}")));
        }
        let from = fd.from();
        let fd = fd.keep().ok_or_else(|| fault("a segment came without its descriptor"))?;
        let segment = Segment::accept(fd, from, length, peer_memory);
        let segment = segment.map_err(|error| match error.is_ours() {
            true => Fault::Ours(error.to_string()),
            false => Fault::Peer(error.to_string()),
        })?;
        let id = receiving.next;
        receiving.next = id.wrapping_add(1);
        receiving.segments.insert(id, Arc::new(segment));
        Ok(())
    }

    /// The peer gives a segment up, or agrees that we do.
    pub(super) fn segment_retired(&self, header: Header) -> Result<(), Fault> {
        let id = header.block;
        let unknown = || Fault::Peer(format!("segment {id} cannot be retired: there is none"));
        let shared = self.shared.as_ref().ok_or_else(unknown)?;
        if header.call_id == 0 {
            let mut receiving = shared.receiving.lock();
            let segment = if id == 0 { None } else { receiving.segments.remove(&id) };
            let segment = segment.ok_or_else(unknown)?;
            receiving.left.push(Arc::downgrade(&segment));
            drop(receiving);
            // Unmapped here, unless a message lies in it.
            drop(segment);
            self.tell(Header { call_id: 1, ..header });
        } else {
            let mut sending = shared.sending.lock();
            let bytes = sending.leaving.remove(&id).ok_or_else(unknown)?;
            sending.bytes -= bytes;
        }
        Ok(())
    }
}

/// Every connection of this process, for tests.
#[cfg(feature = "instrument")]
static ALL: parking_lot::Mutex<Vec<Weak<Connection>>> = parking_lot::Mutex::new(Vec::new());

#[cfg(feature = "instrument")]
pub(super) fn register(connection: &Arc<Connection>) {
    let mut all = ALL.lock();
    all.retain(|known| known.strong_count() > 0);
    all.push(Arc::downgrade(connection));
}

/// Whether a connection of this process drains, on either side, or has ended. For tests (feature `instrument`).
#[cfg(feature = "instrument")]
pub fn is_draining() -> bool {
    let drains = |connection: Arc<Connection>| {
        connection.is_going_away() || connection.stop(0).is_some_and(crate::sys::futex::Stop::is_set)
    };
    ALL.lock().iter().filter_map(Weak::upgrade).any(drains)
}

/// Whether a connection of this process has ended, when all has been read that its peer has said. For tests (feature
/// `instrument`).
#[cfg(feature = "instrument")]
pub fn has_ended() -> bool {
    let all: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    all.iter().any(|connection| {
        connection.read_all_frames();
        connection.death().is_some()
    })
}

/// Gives back what no connection of this process needs, now and not after a while. For tests (feature `instrument`).
#[cfg(feature = "instrument")]
pub fn give_back_everywhere() {
    let all: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    for connection in all {
        // The first look forgets what was used before it.
        connection.give_back();
        connection.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Events, LaneStream};
    use crate::peers::PeerInfo;
    use crate::rendezvous::{Host, Listener, Policy, Refusal, connect};

    struct Silent;

    impl Host for Silent {
        fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
            Ok((Vec::new(), Box::new(Silent)))
        }
        fn connected(&self, _: &Arc<Connection>) {}
    }

    impl Events for Silent {
        fn lane_opened(&self, _: &Arc<Connection>, _: u32, _: Option<LaneStream>) -> Result<(), String> {
            Err("nobody serves".into())
        }
        fn closed(&self, _: &Connection) {}
    }

    /// Whoever grows the arena may wait for the watcher: to be told that the peer is gone, say.
    #[test]
    fn the_watcher_does_not_wait_for_an_arena() {
        let path = std::env::temp_dir().join(format!("shmrpc-test-{}-arena", std::process::id()));
        let _listener = Listener::bind(&path, Policy::default(), Arc::new(Silent)).unwrap();
        let join = || connect(&path, &Policy::default(), &[], Duration::from_secs(30), Box::new(Silent));
        let first = join().unwrap().connection;
        let growing = first.shared.as_ref().unwrap().sending.lock();
        // The watcher lets another one in, and before that it asks everybody for their deadlines.
        assert!(join().is_ok());
        drop(growing);
    }
}
