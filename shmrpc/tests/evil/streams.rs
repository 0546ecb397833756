//! Attacks over streams, Unix ones and TCP: frames that are nearly right, cut, too long or too many; connections and lanes
//! without end; replies that nobody reads.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use shmrpc_transport::slot::{HEADER, Header, Kind};

use super::attacks::{Evil, LANES_OF_ONE, MAX_MESSAGE, OF_ONE, request};
use super::process::rounds;
use super::raw::PATIENCE;
use super::socket::harmless_and_last;
use super::target::{ADD, BLOB, NOTE, SUM, archive};
use crate::peer::{Peer, Way, frame, hello, lane_hello, reason, receive, receive_in_time, reset, send};

/// Lanes of a connection.
const LANES: u32 = 64;
/// How long an answer is waited for that has to come.
const SURE: Duration = Duration::from_secs(10);

/// A request on a lane.
pub(crate) fn asks(method: u16, payload: &[u8]) -> Vec<u8> {
    let kind = if method == NOTE { Kind::OneWay } else { Kind::Request };
    frame(Header { method, call_id: 7, ..Header::new(kind) }, payload)
}

/// Whether a good call is answered, and rightly.
pub(crate) fn is_served(lane: &UnixStream, way: Way) -> bool {
    send(lane, way, &asks(ADD, &archive(&(40_u32, 2_u32))), &[]);
    receive_in_time(lane).is_ok_and(|(header, sum)| header.kind == Kind::Reply && sum == 42_u32.to_le_bytes())
}

impl Evil {
    /// A connection; none if the server has no room for us just now.
    pub(crate) fn enter(&mut self) -> Option<Peer> {
        let joined = self.at.try_join(self.way);
        match &joined {
            Ok(peer) => {
                peer.main.set_read_timeout(Some(SURE)).unwrap();
                self.tally.joined += 1;
            }
            Err(_) => {
                self.tally.ended += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        joined.ok()
    }

    /// Does `evil` to one connection with a lane after the other.
    pub(crate) fn stream_by_stream(
        &mut self,
        least: u64,
        mut evil: impl FnMut(&mut Self, &Peer, &UnixStream),
    ) {
        while self.lasts() || self.tally.rounds < least {
            let Some(peer) = self.enter() else { continue };
            let Ok(lane) = peer.try_lane(0) else { continue };
            lane.set_read_timeout(Some(SURE)).unwrap();
            evil(self, &peer, &lane);
            self.tally.rounds += 1;
            // Half of them over TCP in the middle of something, and no port stays taken.
            reset(lane, self.way);
            reset(peer.main, self.way);
        }
    }

    /// Some connections with so many lanes each.
    pub(crate) fn crowd(&mut self, lanes: u32) -> Vec<(Peer, Vec<UnixStream>)> {
        let peers: Vec<Peer> = (0..4).filter_map(|_| self.enter()).collect();
        let with_lanes = |peer: Peer| {
            let lanes = (0..lanes).map_while(|number| peer.try_lane(number % LANES).ok()).collect();
            (peer, lanes)
        };
        peers.into_iter().map(with_lanes).collect()
    }

    fn rest(&self) {
        while self.goes_on() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Frames of which some bits are others, of the header and of what it heads.
pub(crate) fn stream_garbage(evil: &mut Evil) {
    let way = evil.way;
    evil.stream_by_stream(24, |evil, peer, lane| {
        lane.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..8 {
            let (method, payload) = request(&mut evil.rng, true);
            let asked = asks(method, &payload);
            let mut bytes = asked.clone();
            for _ in 0..evil.rng.below(4) {
                // Most of all the header, and the end, where the root is.
                let end = bytes.len();
                let at = [evil.rng.below(HEADER), end - 1 - evil.rng.below(end.min(64))][evil.rng.below(2)];
                match evil.rng.below(3) {
                    0 => bytes[at & !3..][..4].copy_from_slice(&evil.rng.odd().to_le_bytes()),
                    _ => bytes[at] ^= 1 << evil.rng.below(8),
                }
            }
            let on = if evil.rng.below(8) == 0 { &peer.main } else { lane };
            send(on, way, &bytes, &[]);
            evil.tally.deeds += u64::from(bytes != asked);
            // What has a part of its answer is no stream any more that we could read.
            if method != NOTE && receive_in_time(lane).is_err() {
                evil.tally.ended += 1;
                break;
            }
            evil.tally.answered += 1;
        }
    });
}

/// Frames that are cut anywhere. Some go on after a while, and are served then; some end with their stream, some with a reset;
/// the rest stay as they are.
pub(crate) fn half_frames(evil: &mut Evil) {
    let way = evil.way;
    while evil.lasts() {
        for (peer, lanes) in evil.crowd(8) {
            let mut stalled = Vec::new();
            for (number, lane) in lanes.into_iter().enumerate() {
                let bytes = asks(SUM, &archive(&(vec![3_u8; evil.rng.below(100_000)],)));
                let cut = [evil.rng.below(bytes.len()), evil.rng.below(HEADER + 8)][number % 2];
                let sent = cut.saturating_sub(16);
                send(&lane, way, &bytes[..sent], &[]);
                bytes[sent..cut].iter().for_each(|byte| send(&lane, way, std::slice::from_ref(byte), &[]));
                evil.tally.deeds += 1;
                match number {
                    0 => drop(lane),
                    1 => reset(lane, way),
                    _ => stalled.push((lane, bytes[cut..].to_vec())),
                }
            }
            for (lane, rest) in stalled.iter().take(3) {
                send(lane, way, rest, &[]);
                assert!(receive(lane).is_some(), "a slow frame was not served");
                evil.tally.answered += 1;
            }
            evil.tally.rounds += 1;
            drop(peer);
        }
    }
}

/// The same beside lanes, on eight connections at once: their lanes are served, and what was half said counts when it is whole.
pub(crate) fn stream_stalls(evil: &mut Evil) {
    let way = evil.way;
    let [ping, failure] = harmless_and_last();
    while evil.lasts() {
        let held: Vec<_> = [evil.crowd(1), evil.crowd(1)].into_iter().flatten().collect();
        let mut rests = Vec::new();
        for (turn, (peer, _)) in held.iter().enumerate() {
            let said = [&ping, &failure][turn % 2];
            let cut = 1 + evil.rng.below(said.len() - 1);
            send(&peer.main, way, &said[..cut], &[]);
            rests.push(&said[cut..]);
        }
        for ((turn, (peer, lanes)), rest) in held.into_iter().enumerate().zip(rests) {
            assert!(is_served(&lanes[0], way), "nothing is served beside half of a frame");
            evil.tally.deeds += 1;
            evil.tally.answered += 1;
            match turn % 4 {
                0 => {
                    send(&peer.main, way, rest, &[]);
                    assert!(is_served(&lanes[0], way), "the other half is a fault");
                }
                1 => {
                    send(&peer.main, way, rest, &[]);
                    while receive(&peer.main).is_some() {}
                    assert!(!is_open(&peer.main), "the server bears somebody who has given up");
                    evil.tally.ended += 1;
                }
                _ => {}
            }
            lanes.into_iter().chain([peer.main]).for_each(|socket| reset(socket, way));
        }
        evil.tally.rounds += 1;
    }
}

/// Pings without end, on lanes and beside them.
pub(crate) fn stream_pings(evil: &mut Evil) {
    let (until, pings) = (evil.until, frame(Header::new(Kind::Ping), &[]).repeat(2000));
    let way = evil.way;
    let held = evil.crowd(2);
    let flood = |mut socket: &UnixStream| while socket.write_all(&pings).is_ok() && Instant::now() < until {};
    std::thread::scope(|scope| {
        for (peer, lanes) in &held {
            lanes.iter().chain([&peer.main]).for_each(|socket| drop(scope.spawn(move || flood(socket))));
        }
    });
    for lane in held.iter().flat_map(|(_, lanes)| lanes) {
        assert!(is_served(lane, way), "pings are no fault");
        evil.tally.answered += 1;
        evil.tally.deeds += 1;
    }
    evil.tally.rounds += 1;
}

/// Connects until the server has no room for us, holds all, and begins anew.
pub(crate) fn stream_connections(evil: &mut Evil) {
    while evil.lasts() {
        let before = evil.tally.ended;
        let mut held: Vec<Peer> = Vec::new();
        while held.len() <= OF_ONE && evil.tally.ended < before + 8 {
            held.extend(evil.enter());
        }
        assert!(held.len() <= OF_ONE, "the server has no limit for one");
        // Later it may not have forgotten all of those before.
        assert!(held.len() == OF_ONE || evil.tally.rounds > 0, "{} before anybody had any", held.len());
        evil.tally.deeds += held.len() as u64;
        held.into_iter().for_each(|peer| reset(peer.main, evil.way));
        evil.tally.rounds += 1;
    }
}

/// Connects and says nothing, more often than the server lets wait.
pub(crate) fn stream_arrivals(evil: &mut Evil) {
    while evil.lasts() {
        let silent: Vec<UnixStream> = (0..300).filter_map(|_| evil.at.try_dial(evil.way).ok()).collect();
        // The last one is refused, and hears so at once.
        let refused = receive(silent.last().unwrap()).is_some_and(|(header, _)| header.kind == Kind::Failure);
        assert!(refused, "{} may all wait", silent.len());
        silent.into_iter().for_each(|socket| reset(socket, evil.way));
        evil.tally.ended += 1;
        evil.tally.deeds += 1;
        evil.tally.rounds += 1;
    }
}

/// Stops at every step of the hello, that of a connection and over TCP that of a lane. All of them are hung up on when the time
/// for it is over.
pub(crate) fn stream_hellos(evil: &mut Evil) {
    let way = evil.way;
    while evil.lasts() {
        let peer = evil.enter();
        let further = peer.as_ref().filter(|_| way == Way::Tcp).map(|peer| lane_hello(peer.token, 0));
        let hellos: Vec<_> = [Some(hello()), further].into_iter().flatten().collect();
        let mut held = Vec::new();
        for (bytes, turn) in hellos.iter().flat_map(|bytes| (0..12).map(move |turn| (bytes, turn))) {
            let Ok(socket) = evil.at.try_dial(way) else { continue };
            let cut = [0, 1, 10, 23, 24, bytes.len() / 2, bytes.len() - 1][turn % 7];
            send(&socket, way, &bytes[..cut], &[]);
            held.push(socket);
        }
        evil.tally.rounds += 1;
        evil.tally.joined += held.len() as u64;
        assert_eq!(held.len(), 12 * hellos.len(), "some were not let stall");
        for socket in &held {
            let reason = reason(socket);
            assert!(reason.starts_with("no hello came"), "{reason}");
            evil.tally.ended += 1;
            evil.tally.deeds += 1;
        }
    }
}

/// Takes all lanes that there are, again and again, and asks for more.
pub(crate) fn stream_lanes(evil: &mut Evil) {
    let way = evil.way;
    while evil.lasts() {
        let crowd = evil.crowd(2 * LANES);
        let all: usize = crowd.iter().map(|(_, lanes)| lanes.len()).sum();
        assert!(all <= LANES_OF_ONE, "the server has no limit for one: {all} lanes");
        assert!(all >= LANES as usize || evil.tally.rounds > 0, "{all} lanes before anybody had any");
        evil.tally.deeds += all as u64;
        for (peer, lanes) in crowd {
            assert!(lanes.len() <= LANES as usize, "the server has no limit for one connection");
            for lane in lanes.iter().step_by(8) {
                assert!(is_served(lane, way));
                evil.tally.answered += 1;
            }
            evil.tally.ended += u64::from(peer.try_lane(LANES + 1).is_err());
            evil.tally.rounds += 1;
            lanes.into_iter().for_each(|lane| reset(lane, way));
        }
    }
}

/// Asks for lanes of connections that it has no token of.
pub(crate) fn stolen_tokens(evil: &mut Evil) {
    evil.stream_by_stream(24, |evil, peer, _| {
        let mut token = peer.token;
        token[evil.rng.below(16)] ^= 1 << evil.rng.below(8);
        let Ok(socket) = evil.at.try_dial(evil.way) else { return };
        send(&socket, evil.way, &lane_hello(token, evil.rng.word() % LANES), &[]);
        let opened = receive(&socket).is_some_and(|(header, _)| header.kind == Kind::LaneOpen);
        assert!(!opened, "a lane for a token that nobody has");
        evil.tally.ended += 1;
        evil.tally.deeds += 1;
        reset(socket, evil.way);
    });
}

/// Frames as long as the server takes, longer ones, and ones that announce as much and bring little.
pub(crate) fn long_frames(evil: &mut Evil) {
    let way = evil.way;
    let most = asks(SUM, &archive(&(vec![1_u8; MAX_MESSAGE as usize - 64],)));
    evil.stream_by_stream(6, |evil, peer, lane| {
        let head = |length| Header { length, ..Header::new(Kind::Request) }.to_frame();
        match evil.tally.rounds % 3 {
            0 => {
                let above = [MAX_MESSAGE + 1, u32::MAX, 1 << 31][evil.rng.below(3)];
                send(lane, way, &head(above), &[]);
                // Nothing else is said, and nothing of it is waited for.
                while receive(lane).is_some() {}
                while receive(&peer.main).is_some() {}
                assert!(!is_open(&peer.main), "a frame above the limit is waited for");
                evil.tally.ended += 1;
            }
            1 => {
                send(lane, way, &most, &[]);
                let sum = receive(lane).map(|(_, sum)| sum);
                assert_eq!(sum, Some(u64::from(MAX_MESSAGE - 64).to_le_bytes().to_vec()));
                evil.tally.answered += 1;
            }
            _ => {
                let lanes: Vec<_> = (1..32).map_while(|number| peer.try_lane(number).ok()).collect();
                for lane in &lanes {
                    send(lane, way, &[&head(MAX_MESSAGE)[..], &[0; 1000]].concat(), &[]);
                }
                assert!(is_served(lane, way));
                assert!(!lanes.is_empty(), "no further lane");
                lanes.into_iter().for_each(|lane| reset(lane, way));
            }
        }
        evil.tally.deeds += 1;
    });
}

/// Sends requests as long as there is room, and reads no reply, for as long as the server has to bear it.
pub(crate) fn deaf_lanes(evil: &mut Evil) {
    let asked = asks(BLOB, &archive(&(1_u32 << 19, 1_u8))).repeat(64);
    let held = evil.crowd(2);
    for mut lane in held.iter().flat_map(|(_, lanes)| lanes) {
        lane.set_nonblocking(true).unwrap();
        // The rest of a request that found no room is never sent.
        while lane.write_all(&asked).is_ok() {}
        lane.set_nonblocking(false).unwrap();
        evil.tally.rounds += 1;
    }
    evil.rest();
    // What is read at last is what was asked for.
    for lane in held.iter().flat_map(|(_, lanes)| lanes) {
        let length = receive(lane).map_or(0, |(_, blob)| blob.len());
        assert!(length >= 1 << 19, "{length} bytes of a reply that waited");
        evil.tally.answered += 1;
        evil.tally.deeds += 1;
    }
}

/// One-way calls as fast as they are taken, and one that is answered behind them.
pub(crate) fn stream_oneways(evil: &mut Evil) {
    let (way, until) = (evil.way, evil.until);
    let notes = asks(NOTE, &archive(&("z".repeat(2000),))).repeat(16);
    let held = evil.crowd(2);
    let flood = |mut lane: &UnixStream| while lane.write_all(&notes).is_ok() && Instant::now() < until {};
    std::thread::scope(|scope| {
        held.iter().flat_map(|(_, lanes)| lanes).for_each(|lane| drop(scope.spawn(move || flood(lane))));
    });
    for lane in held.iter().flat_map(|(_, lanes)| lanes) {
        assert!(is_served(lane, way), "behind one-way calls");
        evil.tally.answered += 1;
        evil.tally.deeds += 1;
    }
    evil.tally.rounds += 1;
}

/// Is killed at some moment of its life.
pub(crate) fn stream_deaths(evil: &mut Evil) {
    let way = evil.way;
    rounds(evil, |evil| {
        let Some(peer) = evil.enter() else { return 0 };
        let lanes: Vec<_> = (0..2).map_while(|number| peer.try_lane(number).ok()).collect();
        for lane in &lanes {
            while evil.rng.below(2) == 0 && is_served(lane, way) {}
            let (method, payload) = request(&mut evil.rng, true);
            let bytes = asks(method, &payload);
            match evil.rng.below(3) {
                0 => drop(raise(Signal::SIGKILL)),
                1 => send(lane, way, &bytes[..evil.rng.below(bytes.len())], &[]),
                _ => send(lane, way, &asks(BLOB, &archive(&(60_000_u32, 1_u8))), &[]),
            }
        }
        0
    });
}

/// Stops in the middle of calls, with replies that wait. Whoever started it lets it go on, or kills it.
pub(crate) fn stream_freeze(evil: &mut Evil) {
    let held = evil.crowd(2);
    for lane in held.iter().flat_map(|(_, lanes)| lanes) {
        send(lane, evil.way, &asks(BLOB, &archive(&(5000_u32, 1_u8))).repeat(20), &[]);
        evil.tally.rounds += 1;
    }
    evil.stop();
    for lane in held.iter().flat_map(|(_, lanes)| lanes) {
        evil.tally.answered += u64::from(receive(lane).is_some());
    }
}

/// Whether the other end has not ended it, and says nothing.
pub(crate) fn is_open(lane: &UnixStream) -> bool {
    lane.set_nonblocking(true).unwrap();
    let end = std::io::Read::read(&mut &*lane, &mut [0]);
    lane.set_nonblocking(false).unwrap();
    matches!(end, Err(error) if error.kind() == ErrorKind::WouldBlock)
}
