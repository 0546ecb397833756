//! A server whose clients are to wait for ever. It speaks the protocol as far as it must to be waited for.

use std::io::{IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::libc;
use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{Backlog, ControlMessage, MsgFlags, listen, sendmsg, setsockopt, sockopt};
use shmrpc::Client;
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::slot::{FLAG_BLOCK, Header, Kind};

use crate::raw::{BASE, DONE, LANES, Memory, Peer, SLOTS, Words, frame, futex, receive, requeue, send, wake};
use crate::support::process::say;
use crate::target::{TargetClient, archive};

/// Bytes of a message that this server says it takes: what a client may lend it is four times as much.
const MAX_MESSAGE: u64 = 1 << 20;
/// Where a thief leaves those that it moves: nobody wakes them there.
const NOWHERE: usize = 0;
/// Says of a receiver that it sleeps, here on the first message.
const ASLEEP: u64 = 1 << 32;

pub(crate) type Attack = fn(&Door);

/// The socket that clients come to.
pub(crate) enum Door {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Door {
    pub(crate) fn at(endpoint: &str) -> Self {
        let (scheme, at) = endpoint.split_once(':').unwrap();
        if scheme == "tcp" {
            let listener = TcpListener::bind(at).unwrap();
            // Else the kernel may take 32 MiB for us.
            setsockopt(&listener, sockopt::RcvBuf, &65_536).unwrap();
            return Self::Tcp(listener);
        }
        Self::Unix(UnixListener::bind(at).unwrap(), at.into())
    }

    pub(crate) fn endpoint(&self) -> String {
        match self {
            Self::Unix(_, path) => format!("shm:{}", path.display()),
            Self::Tcp(listener) => format!("tcp:{}", listener.local_addr().unwrap()),
        }
    }

    /// Who comes next. A TCP socket reads and writes as a Unix one does.
    pub(crate) fn accept(&self) -> UnixStream {
        match self {
            Self::Unix(listener, _) => listener.accept().unwrap().0,
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().unwrap();
                stream.set_nodelay(true).unwrap();
                OwnedFd::from(stream).into()
            }
        }
    }

    /// From now on nobody more finds room in the backlog, as long as what this returns is there.
    pub(crate) fn fill(&self) -> OwnedFd {
        let backlog = Backlog::new(0).unwrap();
        match self {
            Self::Unix(listener, path) => {
                listen(listener, backlog).unwrap();
                UnixStream::connect(path).unwrap().into()
            }
            Self::Tcp(listener) => {
                listen(listener, backlog).unwrap();
                TcpStream::connect(listener.local_addr().unwrap()).unwrap().into()
            }
        }
    }

    /// Lets a client in, as a server does.
    fn guest(&self) -> Peer {
        let socket = self.accept();
        let (_, _, fd) = receive(&socket).unwrap();
        let own = Arc::new(Memory::new(BASE));
        send(&socket, &hello(), &[own.fd.as_raw_fd()]).unwrap();
        Peer::over(socket, own, Memory::of_peer(fd.unwrap()).unwrap())
    }

    /// The same, and serves its lanes from now on, as far as saying so.
    pub(super) fn guest_with_lanes(&self) -> Peer {
        let guest = self.guest();
        let socket = guest.socket.try_clone().unwrap();
        std::thread::spawn(move || while answer_lane(&socket) {});
        guest
    }
}

/// Names all methods of the service, in the order in which the client asked.
pub(crate) fn answer() -> Hello {
    let methods: Vec<u16> = TargetClient::schema().methods.iter().map(|method| method.index).collect();
    let methods = archive(&methods);
    Hello::new(MAX_MESSAGE, LANES, shmrpc::Memory::Memfd, methods)
}

fn hello() -> Vec<u8> {
    frame(Header::new(Kind::Hello), &answer().to_bytes())
}

/// Reads one frame, and says that a lane is served if it asks for one. False when the client is gone.
fn answer_lane(socket: &UnixStream) -> bool {
    let Ok((question, _, _)) = receive(socket) else { return false };
    if question.kind == Kind::LaneOpen {
        let answer = Header { call_id: 1, block: question.block, ..Header::new(Kind::LaneOpen) };
        return send(socket, &frame(answer, &[]), &[]).is_ok();
    }
    true
}

fn for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Waits until the client has published its message at `position` of the first lane.
fn request(guest: &Peer, position: u32) {
    let stamp = guest.theirs.word(Peer::slot(0, position));
    while stamp.load(Ordering::Acquire) != position.wrapping_add(1) {
        std::thread::yield_now();
    }
}

// While connecting.

/// Its backlog is full and stays so.
pub(crate) fn full_backlog(door: &Door) {
    let _first = door.fill();
    say("ready");
    for_ever()
}

/// Lets clients in and never answers.
pub(crate) fn unanswered_hello(door: &Door) {
    say("ready");
    let _silent = door.accept();
    for_ever()
}

/// Freezes when it has a client.
pub(crate) fn frozen_hello(door: &Door) {
    say("ready");
    let _frozen = door.accept();
    raise(Signal::SIGSTOP).unwrap();
}

/// Answers byte by byte, as fast as it can: there is always something to read, and never the end.
pub(crate) fn trickled_hello(door: &Door) {
    say("ready");
    let socket = door.accept();
    let header = Header { length: 1 << 20, ..Header::new(Kind::Hello) };
    send(&socket, &header.to_frame(), &[]).unwrap();
    while (&socket).write_all(&[0]).is_ok() {}
}

/// Answers with a socket whose closing takes long.
pub(crate) fn lingering_descriptor(door: &Door) {
    let (stream, _listener) = lingering();
    say("ready");
    let socket = door.accept();
    receive(&socket).unwrap();
    send(&socket, &hello(), &[stream.as_raw_fd()]).unwrap();
    drop(stream);
    for_ever()
}

/// Sends one beside an urgent byte, which the kernel skips where nobody asks for it. What is beside it is closed then.
pub(crate) fn urgent_descriptor(door: &Door) {
    let (stream, _listener) = lingering();
    say("ready");
    let socket = door.accept();
    let fds = [stream.as_raw_fd()];
    let beside = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"x")], &beside, MsgFlags::MSG_OOB, None).unwrap();
    drop(stream);
    receive(&socket).unwrap();
    send(&socket, &hello(), &[]).unwrap();
    for_ever()
}

/// A socket whose last holder waits, as he closes it, until all is sent, for a minute at most; and nobody reads what is to
/// be sent.
fn lingering() -> (TcpStream, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 65_536]).is_ok() {}
    let linger = libc::linger { l_onoff: 1, l_linger: 60 };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
    stream.set_nonblocking(false).unwrap();
    (stream, listener)
}

// While a lane is opened.

/// Does not serve the lane, and does not refuse it.
pub(crate) fn unanswered_lane(door: &Door) {
    say("ready");
    let _guest = door.guest();
    for_ever()
}

/// The same, and freezes.
pub(crate) fn frozen_lane(door: &Door) {
    say("ready");
    let guest = door.guest();
    receive(&guest.socket).unwrap();
    raise(Signal::SIGSTOP).unwrap();
}

/// Says all the time that it lives, and nothing else.
pub(crate) fn signs_of_life(door: &Door) {
    say("ready");
    let guest = door.guest();
    let frames = frame(Header::new(Kind::Ping), &[]).repeat(100);
    while (&guest.socket).write_all(&frames).is_ok() {}
}

// While a reply is waited for.

/// Takes nothing and answers nothing.
pub(crate) fn silence(door: &Door) {
    say("ready");
    let _guest = door.guest_with_lanes();
    for_ever()
}

/// Freezes in the middle of a call.
pub(crate) fn freeze(door: &Door) {
    say("ready");
    let guest = door.guest_with_lanes();
    request(&guest, 0);
    raise(Signal::SIGSTOP).unwrap();
}

/// Moves the caller from the word that it sleeps on to another one, again and again. Says when it first had somebody.
fn steal(guest: &Peer, mut meanwhile: impl FnMut()) -> ! {
    let words = [Peer::slot(0, 0), Peer::side(0) + DONE];
    let mut any = false;
    loop {
        for at in words {
            let word = guest.own.word(at);
            let moved = requeue(word, guest.own.word(NOWHERE), word.load(Ordering::Relaxed));
            if moved > 0 && !any {
                any = true;
                say("stolen");
            }
            if moved > 0 {
                meanwhile();
            }
        }
        std::thread::yield_now();
    }
}

pub(crate) fn theft(door: &Door) {
    say("ready");
    let guest = door.guest_with_lanes();
    steal(&guest, || {})
}

pub(crate) fn theft_and_death(door: &Door) {
    say("ready");
    let guest = door.guest_with_lanes();
    steal(&guest, || raise(Signal::SIGKILL).unwrap())
}

/// Thousands of its threads sleep where the caller's first message will lie, as its one thread may. Then the caller comes
/// once more, and is told how many its message has woken: each costs it some microseconds.
pub(crate) fn crowd(door: &Door) {
    /// Not enough to make a caller late on any machine, since other tests want threads as well: they are counted.
    const CROWD: i64 = 2000;
    let apart = Memory::new(4096);
    let apart = apart.word(0);
    std::thread::scope(|scope| {
        for _ in 0..CROWD {
            let sleeper = std::thread::Builder::new().stack_size(16 << 10);
            sleeper.spawn_scoped(scope, || futex(apart, libc::FUTEX_WAIT, 0)).unwrap();
        }
        say("ready");
        let guest = door.guest();
        let word = guest.theirs.word(Peer::slot(0, 0));
        // Whom the kernel has moved has slept.
        let mut moved = 0;
        while moved < CROWD {
            moved += requeue(apart, word, 0);
            std::thread::yield_now();
        }
        guest.own.wide(Peer::side(0)).store(ASLEEP, Ordering::Release);
        let socket = guest.socket.try_clone().unwrap();
        scope.spawn(move || while answer_lane(&socket) {});
        door.accept();
        let left = requeue(word, apart, 1);
        say(&format!("woken: {}", CROWD - left));
        for_ever()
    })
}

/// Wakes the caller without end, for nothing, from two threads.
pub(crate) fn wake_storm(door: &Door) {
    say("ready");
    let guest = door.guest_with_lanes();
    let storm = || {
        loop {
            wake(guest.own.word(Peer::slot(0, 0)));
            wake(guest.own.word(Peer::side(0) + DONE));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(storm);
        storm();
    });
}

/// Answers by a message in memory that it never announced, and keeps the client at reading its socket.
pub(crate) fn unknown_segment(door: &Door) {
    say("ready");
    let mut guest = door.guest_with_lanes();
    let socket = guest.socket.try_clone().unwrap();
    let pings = frame(Header::new(Kind::Ping), &[]).repeat(1000);
    std::thread::spawn(move || while (&socket).write_all(&pings).is_ok() {});
    request(&guest, 0);
    let header = Header { flags: FLAG_BLOCK, length: 64, ..Header::new(Kind::Reply) };
    guest.publish(0, &Words::inline(header, [1, 0, 0, 0, 0]), 1);
    for_ever()
}

// While there is no room.

/// Answers each call, and gives no memory back. It reads its socket until the first lane is asked for.
pub(crate) fn unreleased(door: &Door) {
    say("ready");
    let mut guest = door.guest();
    answer_lane(&guest.socket);
    for position in 0..SLOTS {
        request(&guest, position);
        let next = position.wrapping_add(1);
        guest.own.word(Peer::side(0) + DONE).store(next, Ordering::Release);
        let header = Header { call_id: position, length: 8, ..Header::new(Kind::Reply) };
        guest.publish(0, &Words::inline(header, [1, 0, 0, 0, 0]), next);
    }
    for_ever()
}

/// Has the client agree that segments go until its socket takes no more. It knows of all of them when it has taken the
/// reply to its first call, which lies in the last one.
pub(crate) fn full_socket(door: &Door) {
    /// More than a socket takes, and less than a client keeps.
    const SEGMENTS: u32 = 700;
    say("ready");
    let mut guest = door.guest();
    answer_lane(&guest.socket);
    request(&guest, 0);
    let memory = Memory::new(4096);
    memory.write(0, &archive(&3_u32));
    for id in 1..SEGMENTS {
        guest.add_segment(id, &memory).unwrap();
        let retire = Header { block: id, ..Header::new(Kind::SegmentRetire) };
        send(&guest.socket, &frame(retire, &[]), &[]).unwrap();
    }
    guest.add_segment(SEGMENTS, &memory).unwrap();
    guest.own.word(Peer::side(0) + DONE).store(1, Ordering::Release);
    let header = Header { flags: FLAG_BLOCK, length: 4, ..Header::new(Kind::Reply) };
    guest.publish(0, &Words::inline(header, [SEGMENTS.into(), 0, 0, 0, 0]), 1);
    for_ever()
}
