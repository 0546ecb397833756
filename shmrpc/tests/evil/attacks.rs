//! What an evil process can do, by name, and what it tells of it.

use std::time::{Duration, Instant};

use super::raw::{self, Peer, Rng};
use super::{beside, descriptors, each_way, handed, memory, process, rings, socket, streams};
use crate::peer::{At, WAYS, Way};

/// Bytes of a message that the server takes.
pub(crate) const MAX_MESSAGE: u32 = 4 << 20;
/// Connections that the server takes: half of them from networks, so that one address leaves room for others.
pub(crate) const MAX_CONNECTIONS: usize = 96;
/// Connections that it takes from one process.
pub(crate) const OF_ONE: usize = 24;
/// Lanes that it serves of one process, or one address.
pub(crate) const LANES_OF_ONE: usize = 128;

/// How long the server waits for a hello of those that stall there, so that the time is over within a moment too.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// The attacks that stall there.
pub(crate) const STALLS: [&str; 2] = ["stalled_hellos", "stream_hellos"];

/// Turns that a connection has at least in an attack that goes on while there is time.
const TURNS: u64 = 8;

type Attack = fn(&mut Evil);

/// Every attack on rings: its name, how many lanes it keeps busy at once, and what it does.
pub(crate) const ATTACKS: [(&str, usize, Attack); 35] = [
    ("random_writes", 4, memory::random_writes),
    ("segment_writes", 2, memory::segment_writes),
    ("slot_flips", 1, rings::slot_flips),
    ("payload_flips", 1, rings::payload_flips),
    ("bad_stamps", 1, rings::bad_stamps),
    ("bad_counters", 1, rings::bad_counters),
    ("bad_sleepers", 2, rings::bad_sleepers),
    ("bad_releases", 1, rings::bad_releases),
    ("never_release", 4, memory::never_release),
    ("never_read", 16, memory::never_read),
    ("oneway_flood", 8, memory::oneway_flood),
    ("large_flood", 2, memory::large_flood),
    ("segment_games", 1, memory::segment_games),
    ("holes", 1, memory::holes),
    ("wake_storm", 16, rings::wake_storm),
    ("slow_turns", 4, rings::slow_turns),
    ("requeue_theft", 4, process::requeue_theft),
    ("sudden_deaths", 2, process::sudden_deaths),
    ("freeze", 8, process::freeze),
    ("freeze_and_die", 8, process::freeze),
    ("fork_and_hold", 4, process::fork_and_hold),
    ("connection_flood", 0, socket::connection_flood),
    ("arrival_flood", 0, socket::arrival_flood),
    ("stalled_hellos", 0, socket::stalled_hellos),
    ("bad_hellos", 0, socket::bad_hellos),
    ("lane_flood", 4, socket::lane_flood),
    ("control_frames", 1, socket::control_frames),
    ("stalled_controls", 8, socket::stalled_controls),
    ("frame_flood", 4, socket::frame_flood),
    ("deaf_socket", 4, socket::deaf_socket),
    ("descriptor_flood", 1, descriptors::descriptor_flood),
    ("wrong_descriptors", 1, descriptors::wrong_descriptors),
    ("sealed_for_good", 1, descriptors::sealed_for_good),
    ("handed_descriptors", 1, handed::handed_descriptors),
    ("blob_references", 1, handed::blob_references),
];

/// The same over streams, and over which of them.
pub(crate) const STREAM_ATTACKS: [(&str, usize, &[Way], Attack); 24] = [
    ("stream_garbage", 1, &WAYS, streams::stream_garbage),
    ("half_frames", 8, &WAYS, streams::half_frames),
    ("stream_stalls", 8, &WAYS, streams::stream_stalls),
    ("long_frames", 8, &WAYS, streams::long_frames),
    ("stream_pings", 8, &WAYS, streams::stream_pings),
    ("stream_oneways", 8, &WAYS, streams::stream_oneways),
    ("deaf_lanes", 8, &WAYS, streams::deaf_lanes),
    ("stream_connections", 0, &WAYS, streams::stream_connections),
    ("stream_arrivals", 0, &WAYS, streams::stream_arrivals),
    ("stream_hellos", 0, &WAYS, streams::stream_hellos),
    ("stream_lanes", 8, &WAYS, streams::stream_lanes),
    ("stolen_tokens", 1, &[Way::Tcp], streams::stolen_tokens),
    ("stream_deaths", 2, &WAYS, streams::stream_deaths),
    ("stream_freeze", 8, &WAYS, streams::stream_freeze),
    ("stream_freeze_and_die", 8, &WAYS, streams::stream_freeze),
    ("stream_fork_and_hold", 8, &[Way::Uds], process::stream_fork_and_hold),
    ("unasked_descriptors", 1, &[Way::Uds], beside::unasked_descriptors),
    ("wrong_lanes", 1, &[Way::Uds], beside::wrong_lanes),
    ("urgent_descriptors", 1, &[Way::Uds], each_way::urgent_descriptors),
    ("lanes_each_way", 2, &[Way::Uds], each_way::lanes_each_way),
    ("stream_blocks", 1, &[Way::Uds], beside::stream_blocks),
    ("stream_wrong_memory", 1, &[Way::Uds], beside::stream_wrong_memory),
    ("stream_blobs", 1, &[Way::Uds], beside::stream_blobs),
    ("stream_handed", 1, &WAYS, handed::stream_handed),
];

/// The attacks on whoever comes over these streams, or over rings.
pub(crate) fn attacks(way: Option<Way>) -> Vec<(&'static str, usize, Attack)> {
    let on_rings = ATTACKS.into_iter().filter(|_| way.is_none());
    let over_streams = STREAM_ATTACKS.into_iter().filter_map(|(name, lanes, ways, attack)| {
        ways.iter().any(|one| Some(*one) == way).then_some((name, lanes, attack))
    });
    on_rings.chain(over_streams).collect()
}

/// What an attack came to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Things tried.
    pub(crate) rounds: u64,
    /// What the attack is there for, and how often it was done. Each has to do some of it, however little time it has.
    pub(crate) deeds: u64,
    /// Connections that stood.
    pub(crate) joined: u64,
    /// Connections that the server ended, or did not let stand.
    pub(crate) ended: u64,
    /// Calls that were answered all the same.
    pub(crate) answered: u64,
}

impl Tally {
    /// As it is told to the parent.
    pub(crate) fn to_text(self) -> String {
        let Self { rounds, deeds, joined, ended, answered } = self;
        format!("tally {rounds} {deeds} {joined} {ended} {answered}")
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut numbers = text.strip_prefix("tally ")?.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next()?;
        let (rounds, deeds) = (next()?, next()?);
        Some(Self { rounds, deeds, joined: next()?, ended: next()?, answered: next()? })
    }
}

/// The evil process.
pub(crate) struct Evil {
    /// Where the server is; over TCP our own address is not that of the good clients.
    pub(crate) at: At,
    /// Over what, where streams are attacked.
    pub(crate) way: Way,
    pub(crate) until: Instant,
    /// Whether the server reads our large messages in place: then their bytes are left alone while it does.
    pub(crate) trusted: bool,
    pub(crate) rng: Rng,
    pub(crate) tally: Tally,
}

impl Evil {
    /// Runs the attack of this name.
    pub(crate) fn run(mut self, name: &str) -> Tally {
        let all = [None, Some(Way::Uds), Some(Way::Tcp)].into_iter().flat_map(attacks);
        let (.., attack) = all.into_iter().find(|(known, ..)| *known == name).unwrap();
        attack(&mut self);
        self.tally
    }

    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Whether it has time, or has not done anything yet.
    pub(crate) fn lasts(&self) -> bool {
        self.goes_on() || self.tally.rounds == 0 || self.tally.deeds == 0
    }

    /// The same for a connection that has had so many turns: some it has in any case, unless it is over.
    pub(crate) fn lasts_with(&self, peer: &Peer, turns: u64) -> bool {
        (self.goes_on() || turns < TURNS) && !peer.is_over()
    }

    /// A connection with `lanes` lanes; none if the server has no room for us just now.
    pub(crate) fn join(&mut self, lanes: u32) -> Option<Peer> {
        self.join_taking(lanes, 1 << 20)
    }

    pub(crate) fn join_taking(&mut self, lanes: u32, max_message: u64) -> Option<Peer> {
        let joined = Peer::join(&self.at.unix, max_message)
            .and_then(|peer| (0..lanes).try_for_each(|lane| peer.open(lane).map(drop)).map(|()| peer));
        match joined {
            Ok(peer) => {
                self.tally.joined += 1;
                Some(peer)
            }
            Err(_) => {
                self.tally.ended += 1;
                std::thread::sleep(Duration::from_millis(1));
                None
            }
        }
    }

    /// Does `evil` to one connection after the other until the time is over; `evil` says when it is done with one.
    pub(crate) fn again_and_again(&mut self, lanes: u32, evil: impl FnMut(&mut Self, &mut Peer)) {
        self.so_often(1, lanes, evil);
    }

    /// The same, `least` times at least, however slow the machine is.
    pub(crate) fn so_often(&mut self, least: u64, lanes: u32, mut evil: impl FnMut(&mut Self, &mut Peer)) {
        while self.lasts() || self.tally.rounds < least {
            let Some(mut peer) = self.join(lanes) else { continue };
            evil(self, &mut peer);
            self.tally.rounds += 1;
            self.tally.ended += u64::from(peer.is_over());
        }
    }

    /// A call as a good client makes it.
    pub(crate) fn call(&mut self, peer: &mut Peer, lane: u32, large: bool) -> bool {
        // What a trusting server may still read stays as it is.
        let (method, payload) = request(&mut self.rng, large && !(self.trusted && peer.lost));
        let offset = if payload.len() > 4096 { raw::QUIET } else { raw::ARENA + self.rng.below(64) * 4096 };
        peer.post(lane, method, &payload, offset);
        let answered = method == super::target::NOTE || peer.reply(lane);
        peer.lost |= !answered;
        self.tally.answered += u64::from(answered);
        answered
    }

    /// The same, however slow the machine is. False if the connection ends instead.
    pub(crate) fn sure_call(&mut self, peer: &mut Peer, lane: u32, large: bool) -> bool {
        self.call(peer, lane, large) || peer.sure_reply(lane)
    }

    /// Bits of a length that a trusting server may not see: it would read in place what we write meanwhile.
    pub(crate) fn tame(&mut self, length: u32) -> u32 {
        match length {
            4097..=MAX_MESSAGE if self.trusted => [40, 4096, MAX_MESSAGE + 1, u32::MAX][self.rng.below(4)],
            other => other,
        }
    }
}

/// A method and its arguments.
pub(crate) fn request(rng: &mut Rng, large: bool) -> (u16, Vec<u8>) {
    use super::target::{self, Shape, archive};
    match rng.below(if large { 7 } else { 6 }) {
        0 | 1 => (target::ADD, archive(&(rng.word(), rng.word()))),
        2 => (target::ECHO, archive(&("x".repeat(rng.below(3000)),))),
        3 => (target::BLOB, archive(&(rng.word() % 50_000, 7_u8))),
        4 => {
            let named = Shape::Named { name: "n".repeat(rng.below(200)), letter: 'ß', filled: Some(true) };
            let shapes = vec![Shape::Point(1.0, 2.0), named, Shape::Many(vec![vec![1, 2, 3]; rng.below(50)])];
            (target::SHAPES, archive(&(shapes,)))
        }
        5 => (target::NOTE, archive(&("y".repeat(rng.below(100)),))),
        _ => (target::SUM, archive(&(vec![3_u8; 4097 + rng.below(60_000)],))),
    }
}
