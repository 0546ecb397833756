use std::io::{self, IoSlice, PipeReader, Read, Write};
use std::os::fd::RawFd;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::super::{Events, Limits, Parts};
use super::*;
use crate::descriptors::BadDescriptors;
use crate::peers::{PeerCredentials, PeerInfo};
use crate::slot::HEADER;
use crate::sys::beside::pass_descriptors;
use crate::sys::socket::{FrameReader, Socket};

/// Nothing here waits so long unless something is broken.
const BOUND: Duration = Duration::from_secs(30);
const LANE: u32 = 5;

/// Passes on the lanes that were asked for.
struct Lanes(Sender<LaneStream>);

impl Events for Lanes {
    fn lane_opened(&self, _: &Arc<Connection>, _: u32, stream: Option<LaneStream>) -> Result<(), String> {
        self.0.send(stream.unwrap()).map_err(|error| error.to_string())
    }
    fn closed(&self, _: &Connection) {}
}

pub(crate) fn connection(socket: UnixStream, dial: Dial, lanes: Sender<LaneStream>) -> Arc<Connection> {
    connection_with(PeerInfo::new(PeerCredentials::own(), None), socket, dial, lanes)
}

fn connection_with(
    peer: PeerInfo,
    socket: UnixStream,
    dial: Dial,
    lanes: Sender<LaneStream>,
) -> Arc<Connection> {
    let limits = Limits {
        lanes: MAX_LANES,
        carrier: Carrier::Streams,
        send_max: 1 << 20,
        receive_max: 1 << 20,
        memory: None,
        memory_from: u64::MAX,
        lent_max: 4 << 20,
    };
    let parts = Parts {
        limits,
        peer,
        peer_is_client: matches!(dial, Dial::No),
        trusted: false,
        bases: None,
        budget: None,
        dial,
        socket: Socket::new(socket).unwrap(),
        reader: FrameReader::default(),
    };
    Connection::new(parts, Box::new(Lanes(lanes)))
}

/// A client of a service with descriptors, or without, and the other end of its socket.
pub(crate) fn client(descriptors: bool) -> (Arc<Connection>, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (connection(near, Dial::Pair { descriptors }, channel().0), far)
}

fn asked(connection: &Arc<Connection>) -> Result<(LaneStream, Reader), NoStream> {
    connection.open_stream(LANE, &mut Until::after(BOUND))
}

fn answer(count: usize) -> Header {
    Header { call_id: 1, block: LANE, ..Header::new(Kind::LaneOpen) }.with_descriptors(count)
}

/// A lane between a client and a server, as both have it.
fn lane(descriptors: bool) -> [LaneStream; 2] {
    let (client, far) = client(descriptors);
    let (lanes, asks) = channel();
    let server = connection(far, Dial::No, lanes);
    let asking = thread::spawn(move || asked(&client).unwrap().0);
    let mut theirs = loop {
        server.read_all_frames();
        if let Ok(stream) = asks.try_recv() {
            break stream;
        }
        thread::yield_now();
    };
    theirs.answer(&server, answer(0));
    [asking.join().unwrap(), theirs]
}

fn passes(from: &Stream, to: &Stream) {
    from.send(b"bytes", &mut Until::never()).unwrap();
    let mut room = [0; 9];
    let length = to.receive(&mut room, &mut Until::after(BOUND)).unwrap();
    assert_eq!(&room[..length], b"bytes");
}

fn sends_a_descriptor(from: &Stream) -> Result<(), (usize, Pause)> {
    let (_, writer) = io::pipe().unwrap();
    from.send_with(b"x", Some(&mut vec![writer.into()]), &mut Until::never())
}

#[test]
fn each_side_receives_where_no_descriptor_can_come() {
    let [ours, theirs] = lane(false);
    for [from, to] in [[&ours, &theirs], [&theirs, &ours]] {
        passes(from, to);
        assert!(to.is_local() && !to.carries_descriptors());
        let refused = sends_a_descriptor(from);
        let is_permitted = |error: &io::Error| error.raw_os_error() != Some(Errno::EPERM as i32);
        assert!(matches!(&refused, Err((0, Pause::System(error))) if !is_permitted(error)), "{refused:?}");
        assert!(matches!(to.claim(1, false), Err(BadDescriptors::Number { found: 0, announced: 1 })));
        // Nothing of it has come.
        passes(from, to);
    }
    // What one side ends the other one sees, and no more than that.
    theirs.end_receiving();
    assert!(matches!(ours.send(b"x", &mut Until::never()), Err((0, Pause::Closed))));
    passes(&theirs, &ours);
    theirs.end_sending();
    let end = ours.receive(&mut [0; 9], &mut Until::after(BOUND));
    assert!(matches!(end, Err(Pause::Closed)), "{end:?}");
}

#[test]
fn a_lane_that_may_carry_descriptors_is_one_socket() {
    let [ours, theirs] = lane(true);
    for [from, to] in [[&ours, &theirs], [&theirs, &ours]] {
        passes(from, to);
        assert!(to.carries_descriptors());
        sends_a_descriptor(from).unwrap();
        assert_eq!(to.receive(&mut [0], &mut Until::after(BOUND)).unwrap(), 1);
        assert_eq!(to.claim(1, false).unwrap().len(), 1);
    }
}

/// The connection has ended while the server's socket was on its way.
#[test]
fn a_lane_that_comes_too_late_ends_both_ways() {
    let (client, _far) = client(false);
    let (near, mut far) = UnixStream::pair().unwrap();
    let (sending, mut requests) = UnixStream::pair().unwrap();
    let stream = Stream::socket(near.into(), true).unwrap();
    let lane = client.streams.attach(stream, client.peer.party(), u32::MAX).unwrap();
    client.die(Death { reason: "by the test".into(), peer_closed: false });
    client.streams.go(&lane, EachWay::Sending(Facing::new(sending.into())));
    for socket in [&mut far, &mut requests] {
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    }
}

/// What a server has said on a lane's socket before its client reads any of it.
struct Said {
    socket: UnixStream,
    pipes: Vec<PipeReader>,
}

impl Said {
    /// More bytes, with as many writing ends of a pipe beside the first one.
    fn say(&mut self, bytes: &[u8], count: usize) {
        let (reader, writer) = io::pipe().unwrap();
        self.pass(bytes, &vec![writer.as_raw_fd(); count]);
        self.pipes.push(reader);
    }

    fn pass(&self, bytes: &[u8], fds: &[RawFd]) {
        let beside = [ControlMessage::ScmRights(fds)];
        let beside = if fds.is_empty() { &[][..] } else { &beside };
        let parts = [IoSlice::new(bytes)];
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, beside, MsgFlags::empty(), None).unwrap();
    }
}

/// What a client makes of that. All that it got is closed then.
fn heard(each_way: bool, say: impl FnOnce(&mut Said)) -> (NoStream, Arc<Connection>) {
    let (client, _far) = client(!each_way);
    let (near, socket) = UnixStream::pair().unwrap();
    let stream = Stream::socket(near.into(), true).unwrap();
    let stream = client.streams.attach(stream, client.peer.party(), u32::MAX).unwrap();
    let mut said = Said { socket, pipes: Vec::new() };
    say(&mut said);
    let none = client.hear_answer(&stream, each_way, &mut Until::after(BOUND)).unwrap_err();
    drop(stream);
    for pipe in &mut said.pipes {
        assert_eq!(pipe.read(&mut [0]).unwrap(), 0, "{none:?}");
    }
    (none, client)
}

fn is_broken((none, client): (NoStream, Arc<Connection>), why: &str) {
    let death = client.death().expect(why);
    assert!(matches!(&none, NoStream::Dead(said) if said == death) && death.reason.contains(why), "{death}");
}

const UNWANTED: &str = "descriptors came beside frames that want none";

#[test]
fn what_is_no_answer_ends_the_connection() {
    let not_wanted = "descriptors came with the answer to lane open";
    for (each_way, announced, count, why) in [
        (false, 1, 1, not_wanted),
        (true, 2, 2, not_wanted),
        (true, 1, 0, "0 descriptors came with a message that announces 1"),
        (true, 1, 2, UNWANTED),
        (true, 1, 1, "no Unix stream socket of the server's user"),
    ] {
        is_broken(heard(each_way, |said| said.say(&answer(announced).to_frame(), count)), why);
    }
    let ping = Header::new(Kind::Ping).to_frame();
    is_broken(heard(true, |said| said.say(&ping, 0)), "Ping came where the answer to lane open was due");
}

/// What was there before descriptors were refused is read with room for them.
#[test]
fn nothing_but_goaway_comes_behind_the_answer() {
    let (requests, _theirs) = UnixStream::pair().unwrap();
    let good = |said: &mut Said| said.pass(&answer(1).to_frame(), &[requests.as_raw_fd()]);
    let ping = Header::new(Kind::Ping).to_frame();
    let large = [&Header { length: 5000, ..Header::new(Kind::Reply) }.to_frame()[..], &[7; 100]].concat();
    for (behind, count, why) in [
        (&ping[..], 0, "Ping came where the answer to lane open was due"),
        (&ping[..7], 0, "half a frame came after the answer to lane open"),
        (&large, 3, "half a frame came after the answer to lane open"),
        (&ping[..], 1, "Ping came where the answer to lane open was due"),
        (&ping[..7], 16, UNWANTED),
    ] {
        let said = heard(true, |said| {
            good(said);
            said.say(behind, count);
        });
        is_broken(said, why);
    }
    let (none, client) = heard(true, |said| {
        good(said);
        said.say(&Header::new(Kind::GoAway).to_frame(), 0);
    });
    assert!(matches!(none, NoStream::Dead(_)) && client.is_going_away() && client.death().is_none());
}

/// A server that is asked for a lane by a client of this user: its end of the lane, and the client's, and the client's socket.
fn asked_for(uid: u32, refuses: bool) -> (LaneStream, UnixStream, Socket) {
    let (near, far) = UnixStream::pair().unwrap();
    let (lanes, asks) = channel();
    let peer = PeerInfo::new(PeerCredentials { uid, ..PeerCredentials::own() }, None);
    let server = connection_with(peer, far, Dial::No, lanes);
    let (ours, theirs) = UnixStream::pair().unwrap();
    assert!(pass_descriptors(ours.as_fd(), !refuses));
    let open = Header { call_id: 1, block: LANE, ..Header::new(Kind::LaneOpen) };
    let near = Socket::new(near).unwrap();
    near.send(open, &[], &[theirs.as_raw_fd()], || None).unwrap();
    server.read_all_frames();
    let mut stream = asks.recv().unwrap();
    stream.answer(&server, answer(0));
    (stream, ours, near)
}

/// Its answer may lie unread for as long as the client likes, and what is beside it counts for the server's user: for all that he
/// sends anybody.
#[test]
fn another_users_lane_is_one_socket_and_so_is_one_to_which_no_descriptor_can_be_sent() {
    let own = PeerCredentials::own().uid;
    for (uid, refuses, each_way) in [(own, false, true), (own + 1, false, false), (own, true, false)] {
        let (stream, mut ours, _near) = asked_for(uid, refuses);
        let mut said = [0; HEADER];
        ours.read_exact(&mut said).unwrap();
        assert_eq!(Header::from_frame(&said), Ok(answer(usize::from(each_way))), "{uid} {refuses}");
        assert_eq!(stream.carries_descriptors(), !each_way);
        if !each_way {
            ours.write_all(b"bytes").unwrap();
            assert_eq!(stream.receive(&mut [0; 9], &mut Until::after(BOUND)).unwrap(), 5);
        }
    }
}

/// Whoever gets requests gets them with the client's credentials: nobody else is to be had for that.
#[test]
fn a_socket_that_another_user_made_is_none_of_the_servers() {
    let own = PeerCredentials::own();
    for (uid, is_taken) in [(own.uid, true), (own.uid + 1, false)] {
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = PeerInfo::new(PeerCredentials { uid, ..own }, None);
        let client = connection_with(peer, near, Dial::Pair { descriptors: false }, channel().0);
        let (near, socket) = UnixStream::pair().unwrap();
        let stream = Stream::socket(near.into(), true).unwrap();
        let stream = client.streams.attach(stream, client.peer.party(), u32::MAX).unwrap();
        // Both were made by this process.
        let (requests, _theirs) = UnixStream::pair().unwrap();
        let said = Said { socket, pipes: Vec::new() };
        said.pass(&answer(1).to_frame(), &[requests.as_raw_fd()]);
        let heard = client.hear_answer(&stream, true, &mut Until::after(BOUND));
        assert_eq!((heard.is_ok(), client.death().is_none()), (is_taken, is_taken), "{uid}");
    }
}

/// A thread may come back to what it sent when positions have begun anew.
#[test]
fn what_was_sent_long_ago_is_done() {
    let (client, _far) = client(true);
    for sent in [0, 1, 1000, u32::MAX] {
        client.set_done(LANE, sent.wrapping_sub(1));
        assert!(!client.is_done(LANE, sent));
        for later in [0, 1, u32::MAX / 2 - 1, u32::MAX / 2, u32::MAX / 2 + 1, u32::MAX - UNDER_WAY - 1] {
            client.set_done(LANE, sent.wrapping_add(later));
            assert!(client.is_done(LANE, sent), "{sent}, {later} later");
        }
    }
}
