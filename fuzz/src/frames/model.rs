//! What the product must make of frames and slots: the protocol once more, as short as it can be said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shmrpc_transport::slot::{DESCRIPTORS_MAX, FLAG_BLOCK, HEADER, Header, INLINE, Kind, SLOTS};

use crate::ground::Ground;
use crate::wire::{GIFTS, MAX_MESSAGE, base_len, is_served};

/// The peer broke the protocol, or gave up: the connection ends.
#[derive(Debug)]
pub(super) struct Poison;

pub(super) struct Model {
    /// Whether the fuzzer is the client.
    pub(super) as_client: bool,
    /// Of the lanes that the product serves: how many.
    lanes: u32,
    pub(super) next: u32,
    /// Segments that the product has mapped, and their bytes.
    pub(super) segments: BTreeMap<u32, u64>,
    /// Given up; mapped as long as a message lies in them.
    left: BTreeMap<u32, u64>,
    /// Descriptors that belong to no frame yet: places in [`GIFTS`].
    pending: VecDeque<usize>,
    pub(super) opened: BTreeSet<u32>,
    pub(super) going_away: bool,
    /// The fuzzer has said that it ends the connection.
    pub(super) gave_up: bool,
    /// Segments that the product gives up, and that we have not given up yet.
    pub(super) leaving: BTreeSet<u32>,
    /// The lane that the product asks for.
    pub(super) asked: Option<u32>,
    /// Lanes that the fuzzer serves.
    served: BTreeSet<u32>,
    /// Descriptors of messages that are not taken: by lane, of which call, and how many.
    pub(super) handed: BTreeMap<u32, (u32, usize)>,
    /// What the product must still say.
    pub(super) answers: VecDeque<(Kind, u32)>,
}

/// What lies in a ring.
#[derive(Debug)]
pub(super) enum Due {
    Nothing,
    Message(Header, Option<Place>),
}

/// Where a payload lies.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) generation: u32,
}

impl Model {
    /// The product serves `lanes` to a client, which the fuzzer is.
    pub(super) fn client(lanes: u32) -> Self {
        Self { as_client: true, ..Self::new(lanes) }
    }

    /// The product is the client.
    pub(super) fn server() -> Self {
        Self::new(0)
    }

    fn new(lanes: u32) -> Self {
        Self {
            as_client: false,
            lanes,
            next: 1,
            segments: BTreeMap::from([(0, base_len())]),
            left: BTreeMap::new(),
            pending: VecDeque::new(),
            opened: BTreeSet::new(),
            going_away: false,
            gave_up: false,
            leaving: BTreeSet::new(),
            asked: None,
            served: BTreeSet::new(),
            handed: BTreeMap::new(),
            answers: VecDeque::new(),
        }
    }

    /// Bytes that the product must have mapped, if messages lie in the segments `in_use`.
    pub(super) fn mapped(&mut self, in_use: &[u32]) -> u64 {
        self.left.retain(|id, _| in_use.contains(id));
        self.segments.values().sum::<u64>() + self.left.values().sum::<u64>()
    }

    /// Descriptors arrive beside some frames, which come whole.
    pub(super) fn gifts(&mut self, gifts: &[usize]) -> Result<(), Poison> {
        self.pending.extend(gifts);
        if self.pending.len() > DESCRIPTORS_MAX { Err(Poison) } else { Ok(()) }
    }

    /// Those frames are all there: none of their descriptors is for another frame.
    pub(super) fn no_gift_is_left(&self) -> Result<(), Poison> {
        if self.pending.is_empty() { Ok(()) } else { Err(Poison) }
    }

    /// A frame arrives, while messages lie in the segments `in_use`.
    pub(super) fn frame(
        &mut self,
        head: &[u8; HEADER],
        payload: &[u8],
        in_use: &[u32],
    ) -> Result<(), Poison> {
        let header = Header::from_frame(head).map_err(|_| Poison)?;
        if header.length as usize != payload.len() {
            // It is longer than a frame may be.
            return Err(Poison);
        }
        let Header { call_id, method, kind, flags, length, block, timeout_ms } = header;
        let count = header.descriptors();
        if (method, timeout_ms) != (0, 0) || flags & 0xf != 0 || (kind == Kind::Descriptors) != (count > 0) {
            return Err(Poison);
        }
        match (kind, call_id, length) {
            (Kind::SegmentAdd, 0, 8) => self.add(header, payload, in_use),
            (Kind::SegmentRetire, 0, 0) if block != 0 => {
                let bytes = self.segments.remove(&block).ok_or(Poison)?;
                self.left.insert(block, bytes);
                self.answers.push_back((Kind::SegmentRetire, block));
                Ok(())
            }
            (Kind::SegmentRetire, 1, 0) if self.leaving.remove(&block) => Ok(()),
            (Kind::LaneOpen, 0, 0) if block < 64 && self.as_client => {
                let served = self.opened.contains(&block) || block < self.lanes && is_served(block);
                if served {
                    self.opened.insert(block);
                }
                self.answers.push_back((if served { Kind::LaneOpen } else { Kind::LaneReset }, block));
                Ok(())
            }
            (Kind::LaneOpen, 1, 0) | (Kind::LaneReset, 1, _) if !self.as_client => {
                if self.asked.take_if(|asked| *asked == block).is_none() {
                    return Err(Poison);
                }
                if kind == Kind::LaneOpen {
                    self.served.insert(block)
                } else {
                    self.served.remove(&block)
                };
                Ok(())
            }
            (Kind::Descriptors, _, 0) => {
                let lanes = if self.as_client { &self.opened } else { &self.served };
                if !lanes.contains(&block) || self.asked == Some(block) || self.pending.len() < count {
                    return Err(Poison);
                }
                self.pending.drain(..count);
                if self.handed.insert(block, (call_id, count)).is_some() { Err(Poison) } else { Ok(()) }
            }
            (Kind::GoAway, 0, 0) if block == 0 && !self.as_client => {
                self.going_away = true;
                Ok(())
            }
            (Kind::Ping, 0, 0) if block == 0 => Ok(()),
            (Kind::Failure, 0, _) if block == 0 => {
                self.gave_up = true;
                Err(Poison)
            }
            _ => Err(Poison),
        }
    }

    fn add(&mut self, header: Header, payload: &[u8], in_use: &[u32]) -> Result<(), Poison> {
        let gift = self.pending.pop_front().ok_or(Poison)?;
        let announced = u64::from_le_bytes(payload.try_into().map_err(|_| Poison)?);
        let held = self.mapped(in_use);
        let count = self.segments.len() + self.left.len();
        let fits = announced <= (8 * MAX_MESSAGE).saturating_sub(held) && count < 256;
        if header.block != self.next || !fits || GIFTS[gift].refusal(announced).is_some() {
            return Err(Poison);
        }
        self.segments.insert(self.next, announced);
        self.next += 1;
        Ok(())
    }

    /// What the product must find at `position` of the ring of `lane` in the fuzzer's memory.
    pub(super) fn slot(&mut self, own: &Ground, lane: u32, position: u32) -> Result<Due, Poison> {
        let (found, expected) = (own.stamp(lane, position), position.wrapping_add(1));
        let last_lap = if position < SLOTS && found == 0 { 0 } else { expected.wrapping_sub(SLOTS) };
        if found != expected {
            return if found == last_lap { Ok(Due::Nothing) } else { Err(Poison) };
        }
        let (head, payload) = own.read_slot(lane, position);
        let header = Header::from_frame(&head).map_err(|_| Poison)?;
        if !matches!(header.kind, Kind::Request | Kind::OneWay) {
            return Err(Poison);
        }
        let due = (header.call_id, header.descriptors());
        if due.1 > 0 && self.handed.remove(&lane) != Some(due) {
            return Err(Poison);
        }
        let length = u64::from(header.length);
        if header.flags & FLAG_BLOCK == 0 {
            return if length <= INLINE as u64 { Ok(Due::Message(header, None)) } else { Err(Poison) };
        }
        let [ids, offset, ..] = payload;
        let place = Place { segment: ids as u32, generation: (ids >> 32) as u32 };
        let bytes = *self.segments.get(&place.segment).ok_or(Poison)?;
        let inside = offset.checked_add(length).is_some_and(|end| end <= bytes);
        if header.block < 4096 && length <= MAX_MESSAGE && offset.is_multiple_of(64) && inside {
            Ok(Due::Message(header, Some(place)))
        } else {
            Err(Poison)
        }
    }
}
