//! The same server, whose lanes are streams: a server may choose them, whatever its client asked for.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use shmrpc_transport::connection::Carrier;
use shmrpc_transport::slot::{HEADER, Header, Kind};

use super::hostile::{Door, answer};
use super::late::LARGEST;
use crate::raw::{frame, receive, send};
use crate::support::process::say;

/// Lets a client in.
fn guest(door: &Door) -> UnixStream {
    say("ready");
    let socket = door.accept();
    receive(&socket).unwrap();
    let mut hello = answer();
    (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
    if let Door::Tcp(_) = door {
        (hello.token, hello.max_message) = ([7; 16], 64 << 20);
    }
    send(&socket, &frame(Header::new(Kind::Hello), &hello.to_bytes()), &[]).unwrap();
    socket
}

/// Lets a client in, and does `evil` to each lane that it opens: over TCP by a connection of its own.
fn lanes(door: &Door, evil: fn(UnixStream)) {
    let socket = guest(door);
    loop {
        let stream = match door {
            Door::Tcp(_) => {
                let stream = door.accept();
                receive(&stream).unwrap();
                stream
            }
            Door::Unix(..) => {
                let Ok((_, _, fd)) = receive(&socket) else { return };
                UnixStream::from(fd.unwrap())
            }
        };
        thread::spawn(move || evil(stream));
    }
}

/// Lets a client in, and then nobody: the lane's connection stays on its way.
pub(crate) fn full_backlog(door: &Door) {
    let socket = guest(door);
    let first = door.fill();
    say("full");
    for_ever((socket, first))
}

/// Says all the time that it lives, on the connection's own socket, and freezes in a call.
pub(crate) fn signs_of_life(door: &Door) {
    let socket = guest(door);
    thread::spawn(move || ping(&socket));
    let lane = door.accept();
    receive(&lane).unwrap();
    serve(&lane).unwrap();
    for_ever(lane)
}

/// Freezes in the middle of a call.
pub(crate) fn frozen(door: &Door) {
    lanes(door, |stream| {
        serve(&stream).unwrap();
        request(&stream);
        raise(Signal::SIGSTOP).unwrap();
    });
}

pub(super) fn serve(mut stream: &UnixStream) -> io::Result<()> {
    stream.write_all(&Header { call_id: 1, ..Header::new(Kind::LaneOpen) }.to_frame())
}

fn request(mut stream: &UnixStream) {
    stream.read_exact(&mut [0; HEADER]).unwrap();
}

pub(super) fn for_ever<T>(_held: T) -> ! {
    loop {
        thread::park();
    }
}

/// Pings as fast as the stream takes them.
fn ping(mut stream: &UnixStream) {
    let pings = frame(Header::new(Kind::Ping), &[]).repeat(1000);
    while stream.write_all(&pings).is_ok() {}
}

/// Sends the beginning of a frame, and a little more all the time.
fn trickle(mut stream: &UnixStream, kind: Kind) {
    let header = Header { call_id: 0, length: 1 << 20, ..Header::new(kind) };
    stream.write_all(&header.to_frame()).unwrap();
    while stream.write_all(&[0]).is_ok() {
        // 3,000 bytes a second: a frame takes some minutes, and something always comes within a wait's slice.
        thread::sleep(Duration::from_micros(300));
    }
}

/// Does not answer when a lane is opened.
pub(crate) fn unanswered(door: &Door) {
    lanes(door, |stream| for_ever(stream));
}

pub(crate) fn trickled_answer(door: &Door) {
    lanes(door, |stream| trickle(&stream, Kind::LaneReset));
}

pub(crate) fn silent(door: &Door) {
    lanes(door, |stream| {
        serve(&stream).unwrap();
        for_ever(stream)
    });
}

pub(crate) fn pings(door: &Door) {
    lanes(door, |stream| {
        serve(&stream).unwrap();
        request(&stream);
        ping(&stream);
    });
}

pub(crate) fn trickled_reply(door: &Door) {
    lanes(door, |stream| {
        serve(&stream).unwrap();
        request(&stream);
        trickle(&stream, Kind::Reply);
    });
}

/// Replies by a message without an end, as fast as it is taken.
pub(crate) fn endless_reply(door: &Door) {
    lanes(door, |mut stream| {
        let header = Header { length: LARGEST, ..Header::new(Kind::Reply) }.to_frame();
        // Whoever has lost patience asks for the lane again.
        if serve(&stream).is_err() || stream.read_exact(&mut [0; HEADER]).is_err() {
            return;
        }
        let mut sent = stream.write_all(&header);
        while sent.is_ok() {
            sent = stream.write_all(&[0; 65_536]);
        }
    });
}

/// Takes what is sent bit by bit, so that there is always room for a little more, and pings meanwhile and afterwards.
pub(crate) fn slow_reader(door: &Door) {
    lanes(door, |stream| {
        serve(&stream).unwrap();
        let other = stream.try_clone().unwrap();
        thread::spawn(move || ping(&other));
        let mut some = [0; 4096];
        while (&stream).read(&mut some).is_ok_and(|read| read > 0) {
            thread::sleep(Duration::from_millis(5));
        }
        for_ever(stream)
    });
}
