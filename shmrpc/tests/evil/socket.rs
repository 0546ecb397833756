//! Attacks on the socket: floods of connections, lanes and frames, stalls, nonsense, answers that nobody reads.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use shmrpc_transport::slot::{Header, Kind};

use super::attacks::{Evil, LANES_OF_ONE, OF_ONE};
use super::handed::{call_with, expect_end};
use super::raw::{BASE, LANES, Memory, Peer, dial, frame, hello, receive, send};
use super::target::{PASS, archive};

/// Connects until the server has no room for this process, holds all, and begins anew.
pub(crate) fn connection_flood(evil: &mut Evil) {
    while evil.lasts() {
        let before = evil.tally.ended;
        let mut held: Vec<Peer> = Vec::new();
        while held.len() <= OF_ONE && evil.tally.ended < before + 8 {
            held.extend(evil.join(0));
        }
        assert!(held.len() <= OF_ONE, "the server has no limit for one process");
        // Later it may not have forgotten all of those before.
        assert!(held.len() == OF_ONE || evil.tally.rounds > 0, "{} before anybody had any", held.len());
        evil.tally.deeds += held.len() as u64;
        evil.tally.rounds += 1;
    }
}

/// Connects and says nothing, more often than the server lets wait.
pub(crate) fn arrival_flood(evil: &mut Evil) {
    while evil.goes_on() || evil.tally.ended == 0 {
        let silent: Vec<UnixStream> = (0..300).filter_map(|_| dial(&evil.at.unix).ok()).collect();
        // The last one is refused, and hears so at once; unless the first ones' time is over, on a machine that is slow enough.
        let refused = receive(silent.last().unwrap()).is_ok_and(|(header, ..)| header.kind == Kind::Failure);
        evil.tally.ended += u64::from(refused);
        evil.tally.deeds = evil.tally.ended;
        evil.tally.rounds += 1;
        assert!(evil.tally.ended > 0 || evil.tally.rounds < 20, "{} may all wait", silent.len());
    }
}

/// Stops at every step of the handshake. Whoever does not come to its end is hung up on when the time for it is over.
pub(crate) fn stalled_hellos(evil: &mut Evil) {
    let hello = hello(1 << 20);
    let memory = Memory::new(BASE);
    let fd = [memory.fd.as_raw_fd()];
    let stall = |path, step| -> std::io::Result<UnixStream> {
        let socket = dial(path)?;
        match step {
            0 => {}
            1 => drop(send(&socket, &hello[..10], &[])?),
            2 => drop(send(&socket, &hello[..24], &[])?),
            3 => drop(send(&socket, &hello[..24], &fd)?),
            4 => drop(send(&socket, &hello[..hello.len() / 2], &fd)?),
            // Whole, but without memory: refused.
            5 => drop(send(&socket, &hello, &[])?),
            // Whole, and the answer is never read.
            6 => drop(send(&socket, &hello, &fd)?),
            _ => {
                for byte in &hello {
                    send(&socket, std::slice::from_ref(byte), &[])?;
                }
            }
        }
        Ok(socket)
    };
    while evil.lasts() {
        let held: Vec<_> =
            (0..24).filter_map(|turn| Some((turn % 8, stall(&evil.at.unix, turn % 8).ok()?))).collect();
        evil.tally.rounds += 1;
        evil.tally.joined += held.len() as u64;
        assert_eq!(held.len(), 24, "some were not let stall");
        for (step, socket) in &held {
            let (header, reason, _) = receive(socket).unwrap();
            let expected = match step {
                0..=4 => "no hello came in time",
                // It is in, and keeps its place until it goes.
                6 => {
                    assert_eq!(header.kind, Kind::Hello);
                    continue;
                }
                _ => "the peer's hello is not usable: the hello came without memory",
            };
            let reason = String::from_utf8(reason).unwrap();
            assert_eq!((header.kind, &*reason), (Kind::Failure, expected), "stalled at step {step}");
            evil.tally.ended += 1;
            evil.tally.deeds += 1;
        }
    }
}

/// Hellos that are nearly right.
pub(crate) fn bad_hellos(evil: &mut Evil) {
    while evil.lasts() || evil.tally.rounds < 50 {
        let Ok(socket) = dial(&evil.at.unix) else { continue };
        let memory = Memory::new(BASE);
        let mut bytes = hello(u64::from(evil.rng.odd()) << evil.rng.below(33));
        match evil.rng.below(8) {
            0 => {
                bytes =
                    frame(Header::new(Kind::from_byte(1 + evil.rng.word() as u8 % 17).unwrap()), &bytes[24..])
            }
            1 => {
                bytes = frame(Header::new(Kind::Hello), &vec![evil.rng.word() as u8; evil.rng.below(1 << 20)])
            }
            2 => bytes[12..16].copy_from_slice(&evil.rng.odd().to_le_bytes()),
            3 => bytes.truncate(evil.rng.below(bytes.len())),
            4 => bytes.iter_mut().take(24).for_each(|byte| *byte = evil.rng.word() as u8),
            _ => {
                for _ in 0..=evil.rng.below(6) {
                    let at = 24 + evil.rng.below(bytes.len() - 24);
                    bytes[at] ^= 1 << evil.rng.below(8);
                }
            }
        }
        let fds = vec![memory.fd.as_raw_fd(); evil.rng.below(4)];
        let sent = send(&socket, &bytes, &fds).unwrap_or(0);
        drop((&socket).write_all(&bytes[sent..]));
        // What was cut short gets no answer; nothing more comes from here.
        let _ = socket.shutdown(std::net::Shutdown::Write);
        match receive(&socket) {
            Ok((header, ..)) if header.kind == Kind::Hello => evil.tally.joined += 1,
            answer => {
                evil.tally.deeds += u64::from(answer.is_ok());
                evil.tally.ended += 1;
            }
        }
        evil.tally.rounds += 1;
    }
}

/// Opens every lane, again and again, and lanes that there are not.
pub(crate) fn lane_flood(evil: &mut Evil) {
    while evil.lasts() {
        let mut held: Vec<Peer> = (0..4).filter_map(|_| evil.join(0)).collect();
        for lane in 0..2 * LANES {
            for peer in &held {
                let header = Header { block: lane % LANES, ..Header::new(Kind::LaneOpen) };
                let _ = send(&peer.socket, &frame(header, &[]), &[]);
            }
        }
        let mut all = 0;
        for peer in &mut held {
            let answers = (0..2 * LANES).map_while(|_| receive(&peer.socket).ok());
            let open = answers.filter(|(header, ..)| header.kind == Kind::LaneOpen);
            let lanes: BTreeSet<u32> = open.map(|(header, ..)| header.block).collect();
            all += lanes.len();
            for lane in lanes.into_iter().step_by(8) {
                assert!(evil.sure_call(peer, lane, false), "lane {lane} is open and not served");
            }
        }
        assert!(all <= LANES_OF_ONE, "the server has no limit for one process: {all} lanes");
        assert!(all == LANES_OF_ONE || evil.tally.rounds > 0, "{all} lanes before anybody had any");
        evil.tally.deeds += all as u64;
        for peer in &held {
            let mut header = Header::new(Kind::LaneOpen);
            header.block = LANES + evil.rng.word() % 3;
            let _ = send(&peer.socket, &frame(header, &[]), &[]);
            // The server ends it.
            while receive(&peer.socket).is_ok() {}
            assert!(peer.is_over(), "the server bears a lane that there is not");
            evil.tally.ended += 1;
        }
        evil.tally.rounds += 1;
    }
}

/// Frames of any kind that say anything.
pub(crate) fn control_frames(evil: &mut Evil) {
    evil.again_and_again(1, |evil, peer| {
        while !peer.is_over() {
            let kind = [Kind::LaneOpen, Kind::LaneReset, Kind::SegmentRetire, Kind::GoAway, Kind::Ping];
            let kind = match evil.rng.below(20) {
                0 => Kind::from_byte(1 + evil.rng.word() as u8 % 17).unwrap(),
                _ => kind[evil.rng.below(5)],
            };
            let mut header =
                Header { call_id: evil.rng.word() % 2, block: evil.rng.word() % 64, ..Header::new(kind) };
            let payload = vec![evil.rng.word() as u8; evil.rng.below(100)];
            if evil.rng.below(8) == 0 {
                (header.method, header.flags) = (evil.rng.word() as u16, evil.rng.word() as u8 % 4);
                (header.block, header.timeout_ms) = (evil.rng.odd(), evil.rng.odd());
            }
            let mut bytes = frame(header, &payload);
            if evil.rng.below(20) == 0 {
                let at = evil.rng.below(bytes.len());
                bytes[at] = evil.rng.word() as u8;
            }
            if send(&peer.socket, &bytes, &[]).is_err() {
                return;
            }
            evil.tally.deeds += 1;
            evil.call(peer, 0, false);
        }
    });
}

/// What may be said on a connection's socket without an answer, and what ends it.
pub(crate) fn harmless_and_last() -> [Vec<u8>; 2] {
    [
        frame(Header::new(Kind::Ping), &[]),
        frame(Header::new(Kind::Failure), "I give up. ".repeat(20).as_bytes()),
    ]
}

/// Says hello as it should, and then stops in the middle of a frame, on eight connections at once. Their lanes are served all the
/// same. Some go on: then it counts what they say, and not before.
pub(crate) fn stalled_controls(evil: &mut Evil) {
    let nothing = File::open("/dev/null").unwrap();
    let [ping, failure] = harmless_and_last();
    let descriptors = frame(Header::new(Kind::Descriptors).with_descriptors(1), &[]);
    while evil.lasts() {
        let mut held: Vec<Peer> = (0..8).filter_map(|_| evil.join(1)).collect();
        let mut rests = Vec::new();
        for (turn, peer) in held.iter().enumerate() {
            let said = [&ping, &failure, &descriptors, &failure][turn % 4];
            let fds = [nothing.as_raw_fd()];
            let cut = 1 + evil.rng.below(said.len() - 1);
            send(&peer.socket, &said[..cut], if turn % 4 == 2 { &fds } else { &[] }).unwrap();
            rests.push(&said[cut..]);
        }
        for peer in &mut held {
            assert!(evil.sure_call(peer, 0, false), "nothing is served beside half of a frame");
            evil.tally.deeds += 1;
        }
        for ((turn, peer), rest) in held.iter_mut().enumerate().zip(rests) {
            match turn % 4 {
                0 => {
                    send(&peer.socket, rest, &[]).unwrap();
                    assert!(evil.sure_call(peer, 0, false), "the other half is a fault");
                }
                1 => {
                    send(&peer.socket, rest, &[]).unwrap();
                    expect_end(evil, peer, "somebody who has given up");
                }
                2 => {
                    // Nobody waits for the other half.
                    call_with(peer, PASS, &archive(&(0_u32,)), 1);
                    expect_end(evil, peer, "a call whose descriptors are half announced");
                }
                _ => {}
            }
        }
        evil.tally.rounds += 1;
    }
}

/// Frames that want no answer, as fast as a socket carries them, from several connections.
pub(crate) fn frame_flood(evil: &mut Evil) {
    let pings = frame(Header::new(Kind::Ping), &[]).repeat(2000);
    let mut held: Vec<Peer> = (0..4).filter_map(|_| evil.join(1)).collect();
    let until = evil.until;
    std::thread::scope(|scope| {
        for peer in &held {
            let pings = &pings;
            scope.spawn(move || while (&peer.socket).write_all(pings).is_ok() && Instant::now() < until {});
        }
    });
    for peer in &mut held {
        assert!(evil.sure_call(peer, 0, false), "pings are no fault");
        evil.tally.deeds += 1;
    }
    evil.tally.rounds += 1;
}

/// Asks without end and reads no answer, so that the server's answers find no room.
pub(crate) fn deaf_socket(evil: &mut Evil) {
    while evil.lasts() {
        let held: Vec<Peer> = (0..4).filter_map(|_| evil.join(1)).collect();
        let question = frame(Header::new(Kind::LaneOpen), &[]);
        for peer in &held {
            peer.socket.set_nonblocking(true).unwrap();
            let mut sent = 0;
            // Until the server has ended it; it does so because it cannot answer.
            loop {
                match send(&peer.socket, &question, &[]) {
                    Ok(_) => sent += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(_) => break,
                }
                assert!(sent < 100_000, "the server still answers somebody who does not read");
            }
            evil.tally.ended += 1;
            evil.tally.deeds += 1;
        }
        evil.tally.rounds += 1;
    }
}
