//! Attacks by memory: random bytes all over it, memory that is never given back, floods.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shmrpc_transport::slot::{FLAG_BLOCK, Header, Kind};

use super::attacks::{Evil, MAX_MESSAGE};
use super::raw::{
    ARENA, BASE, BLOCKS, Memory, Peer, QUIET, RELEASE, RING, Rng, SIDE, SIDES, SLOTS, Words, frame, send,
};
use super::target::{self, archive};
use crate::support::until;

/// The lane that large messages go over. A trusting server reads those in place, so their slots and bytes are left
/// alone there.
const LARGE: u32 = 3;

/// In sum the server maps as much of one connection as so many of its largest messages, the base included.
const SEGMENTS: u32 = 8;

/// Writes random words all over the base segment, most of them where the server looks.
fn scribble(own: &Memory, trusted: bool, rng: &mut Rng) {
    let large = SIDES + LARGE as usize * SIDE..SIDES + (LARGE as usize + 1) * SIDE;
    for _ in 0..64 {
        let at = match rng.below(4) {
            0 => rng.below(BASE),
            1 => RELEASE + rng.below(4 * BLOCKS as usize),
            2 => SIDES + rng.below(LARGE as usize * SIDE),
            // The first slots and words of the first lanes.
            _ => SIDES + rng.below(LARGE as usize) * SIDE + rng.below(RING + 8 * 64),
        } & !7;
        if trusted && (large.contains(&at) || at >= QUIET) {
            continue;
        }
        let mut value =
            if rng.below(2) == 0 { rng.next() } else { u64::from(rng.odd()) << 32 | u64::from(rng.odd()) };
        let in_side = at.checked_sub(SIDES).map(|at| at % SIDE);
        let is_route = in_side.is_some_and(|at| at >= RING && at % 64 == 8);
        if trusted && is_route && (4097..=u64::from(MAX_MESSAGE)).contains(&(value >> 32)) {
            value = value & 0xffff_ffff | u64::from(u32::MAX) << 32;
        }
        own.wide(at).store(value, Ordering::Relaxed);
    }
    std::thread::yield_now();
}

/// Runs `part` while another thread does `deed` again and again; once before, in any case. Returns how often.
pub(crate) fn beside(mut deed: impl FnMut() + Send, part: impl FnOnce()) -> u64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                deed();
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        while done.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        part();
        stop.store(true, Ordering::Relaxed);
    });
    done.into_inner()
}

/// Random words all over the base segment while calls go on.
pub(crate) fn random_writes(evil: &mut Evil) {
    evil.so_often(8, LARGE + 1, |evil, peer| {
        let (own, trusted, mut rng) = (Arc::clone(&peer.own), evil.trusted, Rng(evil.rng.next()));
        let writer = || scribble(&own, trusted, &mut rng);
        let scribbled = beside(writer, || {
            let mut turn = 0;
            while evil.lasts_with(peer, turn) {
                let lane = turn as u32 % (LARGE + 1);
                turn += 1;
                evil.call(peer, lane, lane == LARGE || !evil.trusted);
            }
        });
        evil.tally.deeds += scribbled;
    });
}

/// Random bytes all over a further segment while messages in it are read.
pub(crate) fn segment_writes(evil: &mut Evil) {
    const LENGTH: usize = 1 << 20;
    evil.again_and_again(2, |evil, peer| {
        let further = Memory::new(LENGTH);
        if peer.add_segment(1, &further).is_err() {
            return;
        }
        let mut rng = Rng(evil.rng.next());
        let writer = || further.wide(rng.below(LENGTH) & !7).store(rng.next(), Ordering::Relaxed);
        beside(writer, || {
            let mut turn = 0;
            while evil.lasts_with(peer, turn) {
                turn += 1;
                let end = if evil.trusted { 4096 } else { 200_000 };
                let length = 41 + u32::try_from(evil.rng.below(end - 41)).unwrap();
                let method = [target::SUM, target::SHAPES, target::ECHO][evil.rng.below(3)];
                let call_id = peer.sent[0];
                let header =
                    Header { call_id, method, flags: FLAG_BLOCK, length, ..Header::new(Kind::Request) };
                let offset = evil.rng.below(LENGTH - 200_000) as u64 & !63;
                let words = Words::inline(header, [1, offset, 0, 0, 0]);
                peer.publish(0, &words, call_id.wrapping_add(1));
                evil.tally.answered += u64::from(peer.reply(0));
            }
        });
        // Those that lay in that memory.
        evil.tally.deeds += u64::from(peer.taken_of_ours(0));
    });
}

/// Asks for replies in blocks and keeps the blocks, until it gets no more.
pub(crate) fn never_release(evil: &mut Evil) {
    let mut peers: Vec<Peer> = (0..4).filter_map(|_| evil.join(1)).collect();
    peers.iter_mut().for_each(|peer| peer.releases = false);
    let mut refused = 0;
    while evil.lasts() || refused == 0 {
        evil.tally.rounds += 1;
        for peer in &mut peers {
            peer.post(0, target::BLOB, &archive(&(100_000_u32, 1_u8)), ARENA);
            let answered = peer.reply(0);
            evil.tally.answered += u64::from(answered);
            refused += u64::from(answered && peer.kind == Some(Kind::Failure));
        }
        evil.tally.deeds = peers.iter().map(|peer| peer.kept).sum();
    }
}

/// Sends requests as long as there is room, and reads no reply; at last more than there is room for.
pub(crate) fn never_read(evil: &mut Evil) {
    let mut peers: Vec<Peer> = (0..4).filter_map(|_| evil.join(4)).collect();
    // A ring of requests, then one more, whose replies find no room.
    for taken in [SLOTS, SLOTS + 1] {
        post_a_ring(evil, &mut peers);
        let takes = |peer: &Peer| (0..4).all(|lane| peer.taken_of_ours(lane) >= taken);
        until("requests are taken whose replies nobody reads", || peers.iter().all(takes));
        evil.tally.deeds += 4 * peers.len() as u64;
    }
    while evil.goes_on() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(!peers.iter().any(Peer::is_over), "the server does not wait for room");
    post_a_ring(evil, &mut peers);
}

fn post_a_ring(evil: &mut Evil, peers: &mut [Peer]) {
    for round in 0..SLOTS {
        for peer in &mut *peers {
            for lane in 0..4 {
                peer.post(lane, target::BLOB, &archive(&(round * 10, 1_u8)), ARENA);
            }
        }
        evil.tally.rounds += 1;
    }
}

/// One-way calls as fast as they are taken.
pub(crate) fn oneway_flood(evil: &mut Evil) {
    let note = archive(&("z".repeat(2000),));
    evil.again_and_again(8, |evil, peer| {
        let mut turn = 0;
        while evil.lasts_with(peer, turn) {
            turn += 1;
            for lane in 0..8 {
                let done = peer.theirs.word(Peer::side(lane) + super::raw::DONE);
                let sent = peer.sent[lane as usize];
                let room = 128_u32.saturating_sub(sent.wrapping_sub(done.load(Ordering::Acquire)));
                for at in 0..room as usize {
                    peer.post(lane, target::NOTE, &note, ARENA + at * 4096 % (QUIET - ARENA));
                }
            }
        }
        let taken = || (0..8).map(|lane| u64::from(peer.taken_of_ours(lane))).sum::<u64>();
        until("one-way calls are taken", || taken() > 0 || peer.is_over());
        evil.tally.deeds += taken();
    });
}

/// Messages as large as the server takes, in memory that was never written, in one segment after the other until it takes no
/// more. The kernel makes a page for whoever reads a hole, so this is memory that the reader pays for.
pub(crate) fn holes(evil: &mut Evil) {
    const LENGTH: u32 = MAX_MESSAGE;
    const SLICE: u32 = 512 << 10;
    evil.again_and_again(1, |evil, peer| {
        let mut sent = Vec::new();
        for segment in 1..=2 * SEGMENTS {
            let further = Memory::new(LENGTH as usize);
            // All that we write is the root of the archive: a slice of the bytes before it, which a trusting server reads here. One
            // that does not copies the whole message.
            let root = u64::from(SLICE.wrapping_neg()) | u64::from(SLICE) << 32;
            further.wide(LENGTH as usize - 8).store(root, Ordering::Relaxed);
            let before = further.pages();
            if peer.add_segment(segment, &further).is_err() {
                break;
            }
            let call_id = peer.sent[0];
            let header =
                Header { call_id, method: target::SUM, flags: FLAG_BLOCK, ..Header::new(Kind::Request) };
            let mut words = Words::inline(header, [u64::from(segment), 0, 0, 0, 0]);
            words.set_length(LENGTH);
            peer.publish(0, &words, call_id.wrapping_add(1));
            sent.push((before, further));
            if !peer.sure_reply(0) {
                break;
            }
            evil.tally.answered += 1;
        }
        assert!(peer.is_over(), "the server maps {} segments of {LENGTH} bytes", sent.len());
        let made: u64 = sent.iter().map(|(before, further)| further.pages() - before).sum();
        let most = u64::from(SEGMENTS * LENGTH) / 4096;
        assert!(made <= most, "the server has made {made} pages, and may map {most}");
        evil.tally.deeds += made;
    });
}

/// Messages as large as the server takes, and larger.
pub(crate) fn large_flood(evil: &mut Evil) {
    let further = Memory::new(MAX_MESSAGE as usize + 4096);
    evil.again_and_again(2, |evil, peer| {
        if peer.add_segment(1, &further).is_err() {
            return;
        }
        let mut turn = 0;
        while evil.lasts_with(peer, turn) {
            turn += 1;
            let above = u32::from(evil.rng.below(20) == 0);
            let header = Header { method: target::SUM, flags: FLAG_BLOCK, ..Header::new(Kind::Request) };
            let mut words = Words::inline(header, [1, 0, 0, 0, 0]);
            words.set_length(MAX_MESSAGE + above);
            // The root of the archive: a slice of nearly all bytes before it.
            let length = MAX_MESSAGE - 8;
            let back = length.wrapping_neg();
            let root = u64::from(back) | u64::from(length) << 32;
            further.wide(MAX_MESSAGE as usize - 8).store(root, Ordering::Relaxed);
            for lane in 0..2 {
                words.0[0] = u64::from(peer.sent[lane as usize]) << 32;
                peer.publish(lane, &words, peer.sent[lane as usize].wrapping_add(1));
            }
            for lane in 0..2 {
                let answered = peer.reply(lane) || turn == 1 && peer.sure_reply(lane);
                evil.tally.answered += u64::from(answered);
                evil.tally.deeds += u64::from(answered);
            }
        }
    });
}

/// Segments out of turn, too many, too large, retired twice, named when they are gone.
pub(crate) fn segment_games(evil: &mut Evil) {
    evil.again_and_again(1, |evil, peer| {
        let (mut id, mut turn) = (1, 0);
        while evil.lasts_with(peer, turn) {
            turn += 1;
            let mut retire = Header::new(Kind::SegmentRetire);
            let sent = match evil.rng.below(16) {
                0 => peer.add_segment(evil.rng.odd(), &Memory::new(4096)),
                1 => peer.add_segment(id, &Memory::new(64 << 20)),
                2 => {
                    // A length that is not what the descriptor has.
                    let mut header = Header::new(Kind::SegmentAdd);
                    header.block = id;
                    let memory = Memory::new(8192);
                    let length = u64::from(evil.rng.odd()).to_le_bytes();
                    send(&peer.socket, &frame(header, &length), &[memory.fd.as_raw_fd()])
                }
                3 => {
                    retire.block = evil.rng.odd();
                    retire.call_id = evil.rng.word() % 2;
                    send(&peer.socket, &frame(retire, &[]), &[])
                }
                4..8 => {
                    retire.block = id.saturating_sub(1);
                    send(&peer.socket, &frame(retire, &[]), &[])
                }
                8 => {
                    let header = Header { flags: FLAG_BLOCK, length: 64, ..Header::new(Kind::Request) };
                    let words = Words::inline(header, [u64::from(id) - 1, 0, 0, 0, 0]);
                    let stamp = peer.sent[0].wrapping_add(1);
                    peer.publish(0, &words, stamp);
                    Ok(usize::from(peer.reply(0)))
                }
                _ => {
                    id += 1;
                    peer.add_segment(id - 1, &Memory::new(4096 * (1 + evil.rng.below(100))))
                }
            };
            if sent.is_err() {
                return;
            }
            evil.tally.deeds += 1;
        }
    });
}
