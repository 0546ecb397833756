//! Attacks by what slots and words say: lengths, offsets, tags, stamps, counters, sleepers, generations; and by waking
//! whoever sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::attacks::{Evil, request};
use super::memory::beside;
use super::raw::{ARENA, BASE, BLOCKS, DONE, Peer, RELEASE, Rng, TAKEN, Words, wake};
use super::target::{self, archive};

/// Changes one to three fields of a slot.
fn spoil(evil: &mut Evil, words: &mut Words) {
    for _ in 0..=evil.rng.below(3) {
        let odd = u64::from(evil.rng.odd());
        let [call, route, room, ids, offset, ..] = &mut words.0;
        let field = evil.rng.below(12);
        // Of a block, most of all where it is and how long.
        match if *route >> 24 & 1 == 1 && field > 8 { 9 } else { field % 10 } {
            0 => *call = odd << 32,
            1 => *route = *route & !0xffff | odd & 0xffff,
            2 => *route = *route & !0xff_0000 | (odd & 0xff) << 16,
            3 => *route = *route & !0xff00_0000 | (odd & 3) << 24,
            4 | 5 => *route = *route & 0xffff_ffff | odd << 32,
            6 => *room = *room & !0xffff_ffff | odd,
            7 => *ids = *ids & !0xffff_ffff | odd,
            8 => *ids = *ids & 0xffff_ffff | odd << 32,
            _ => {
                let far = evil.rng.next() & !63;
                *offset = [odd & !63, odd, BASE as u64 - 64, u64::MAX - 63, far][evil.rng.below(5)];
            }
        }
    }
    let length = evil.tame((words.0[1] >> 32) as u32);
    words.set_length(length);
}

/// Messages whose header or block reference is wrong, and changes while they are read.
pub(crate) fn slot_flips(evil: &mut Evil) {
    evil.so_often(24, 1, |evil, peer| {
        while !peer.is_over() {
            let (method, payload) = request(&mut evil.rng, false);
            let good = peer.compose(0, method, &payload, ARENA + evil.rng.below(64) * 4096);
            let mut bad = good;
            if evil.rng.below(3) != 0 {
                spoil(evil, &mut bad);
                evil.tally.deeds += 1;
            }
            let at = Peer::slot(0, peer.sent[0]);
            let stamp = peer.sent[0].wrapping_add(1);
            peer.publish(0, &bad, stamp);
            for _ in 0..evil.rng.below(200) {
                let index = 1 + evil.rng.below(7);
                peer.own.wide(at + index * 8).store(good.0[index], Ordering::Relaxed);
                peer.own.wide(at + index * 8).store(bad.0[index], Ordering::Relaxed);
            }
            evil.tally.answered += u64::from(method != target::NOTE && peer.reply(0));
            if evil.rng.below(8) == 0 {
                break;
            }
        }
    });
}

/// Good slots, and payloads that are not what they should be.
pub(crate) fn payload_flips(evil: &mut Evil) {
    evil.again_and_again(1, |evil, peer| {
        let mut turn = 0;
        while evil.lasts_with(peer, turn) {
            turn += 1;
            let (method, mut payload) = request(&mut evil.rng, !evil.trusted);
            for _ in 0..=evil.rng.below(4) {
                let at = match payload.len() {
                    0 => break,
                    // The root is at the end, and refers to all the rest.
                    length => length - 1 - evil.rng.below(length.min(64)),
                };
                payload[at] ^= 1 << evil.rng.below(8);
            }
            // Any method may be told that these are its arguments.
            let method = if evil.rng.below(2) == 0 { method } else { evil.rng.word() as u16 % 7 };
            peer.post(0, method, &payload, ARENA);
            evil.tally.deeds += 1;
            evil.tally.answered += u64::from(method != target::NOTE && peer.reply(0));
        }
    });
}

pub(crate) fn bad_stamps(evil: &mut Evil) {
    evil.so_often(12, 1, |evil, peer| {
        for _ in 0..evil.rng.below(4) {
            evil.call(peer, 0, false);
        }
        let right = peer.sent[0].wrapping_add(1);
        let words = peer.compose(0, target::ADD, &archive(&(1_u32, 2_u32)), ARENA);
        let stamp = [
            right.wrapping_add(1),
            right.wrapping_sub(1),
            right.wrapping_add(128),
            right.wrapping_sub(256),
            0,
            evil.rng.odd(),
        ][evil.rng.below(6)];
        peer.publish(0, &words, stamp);
        evil.tally.deeds += u64::from(stamp != right);
        evil.tally.answered += u64::from(peer.reply(0));
    });
}

/// `taken` and `done` that run backwards and ahead, while replies wait for credit.
pub(crate) fn bad_counters(evil: &mut Evil) {
    evil.so_often(12, 1, |evil, peer| {
        let add = archive(&(1_u32, 2_u32));
        for position in 0..300_u32 {
            let done = match evil.rng.below(64) {
                0 => evil.rng.odd(),
                1 => position.wrapping_sub(evil.rng.word() % 4),
                2 => position + 1 + evil.rng.word() % 200,
                _ => 0,
            };
            peer.own.word(Peer::side(0) + TAKEN).store(evil.rng.odd(), Ordering::Relaxed);
            peer.own.word(Peer::side(0) + DONE).store(done, Ordering::Release);
            wake(peer.own.word(Peer::side(0) + DONE));
            peer.post(0, target::ADD, &add, ARENA);
            evil.tally.deeds += 1;
            if position % 16 == 0 && peer.is_over() {
                return;
            }
        }
    });
}

/// Says that it sleeps when it does not, and where it cannot.
pub(crate) fn bad_sleepers(evil: &mut Evil) {
    evil.again_and_again(2, |evil, peer| {
        let (own, mut rng) = (Arc::clone(&peer.own), Rng(evil.rng.next()));
        let liar = || {
            let side = Peer::side(rng.word() % 2);
            own.wide(side).store(1 << 32 | u64::from(rng.odd()), Ordering::Relaxed);
            own.word(side + 8).store(rng.odd(), Ordering::Relaxed);
        };
        let lies = beside(liar, || {
            let mut turn = 0;
            while evil.lasts_with(peer, turn) {
                turn += 1;
                evil.call(peer, 0, false);
                evil.call(peer, 1, false);
            }
        });
        evil.tally.deeds += lies;
    });
}

/// Gives blocks back too early, too late, never, and some that it never got.
pub(crate) fn bad_releases(evil: &mut Evil) {
    evil.again_and_again(1, |evil, peer| {
        peer.releases = false;
        let blob = archive(&(30_000_u32, 1_u8));
        let mut turn = 0;
        while evil.lasts_with(peer, turn) {
            turn += 1;
            for _ in 0..8 {
                let most = BLOCKS as usize >> evil.rng.below(12);
                let id = evil.rng.below(most);
                let generation = if evil.rng.below(2) == 0 { evil.rng.odd() } else { evil.rng.word() % 64 };
                peer.own.word(RELEASE + id * 4).store(generation, Ordering::Release);
                evil.tally.deeds += 1;
            }
            peer.post(0, target::BLOB, &blob, ARENA);
            evil.tally.answered += u64::from(peer.reply(0));
        }
    });
}

/// Calls that are over at once on all lanes, so that one thread of the server may serve them with those of others, and then one
/// that takes long.
pub(crate) fn slow_turns(evil: &mut Evil) {
    const LANES: u32 = 4;
    let slow = archive(&(1_u32 << 20, 1_u8));
    evil.again_and_again(LANES, |evil, peer| {
        let mut turn = 0;
        while evil.lasts_with(peer, turn) {
            turn += 1;
            for call in 0..64 {
                peer.post(call % LANES, target::ADD, &archive(&(call, call)), ARENA);
                evil.tally.answered += u64::from(peer.reply(call % LANES));
            }
            for lane in 0..evil.rng.below(LANES as usize) as u32 {
                peer.post(lane, target::BLOB, &slow, ARENA);
                evil.tally.deeds += u64::from(peer.reply(lane));
            }
        }
    });
}

/// Wakes the server's threads without end, for nothing.
pub(crate) fn wake_storm(evil: &mut Evil) {
    const LANES: u32 = 16;
    evil.again_and_again(LANES, |evil, peer| {
        for lane in 0..LANES {
            evil.call(peer, lane, false);
        }
        let (own, sent, woken) = (Arc::clone(&peer.own), peer.sent, AtomicU64::new(0));
        let storm = || {
            for lane in 1..LANES {
                let slot = wake(own.word(Peer::slot(lane, sent[lane as usize])));
                let room = wake(own.word(Peer::side(lane) + DONE));
                woken.fetch_add(slot as u64 + room as u64, Ordering::Relaxed);
            }
        };
        beside(storm, || {
            let mut turn = 0;
            while evil.lasts_with(peer, turn) {
                turn += 1;
                evil.call(peer, 0, false);
            }
        });
        // Threads that slept.
        evil.tally.deeds += woken.into_inner();
    });
}
