//! Attacks by lanes that have a socket each way, and by urgent bytes, which the kernel skips where nobody asks for them.

use std::io::{self, IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use shmrpc_transport::slot::{Header, Kind};

use super::attacks::Evil;
use super::raw;
use super::streams::{asks, is_open};
use super::target::{ADD, archive};
use crate::peer::{Peer, Way, frame, receive, send};
use crate::support::BOUND;

/// How long a descriptor takes to be closed that is to take long, in seconds.
const LINGERS: libc::c_int = 10;

/// Sends a zero, with which each frame begins.
fn send_with(socket: &UnixStream, fds: &[RawFd], flags: MsgFlags) -> nix::Result<usize> {
    let beside = [ControlMessage::ScmRights(fds)];
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[0])], &beside, flags, None)
}

/// A socket whose last holder waits, as he closes it, until all is sent; and its other end, which reads nothing.
fn lingering() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.2:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nonblocking(true)?;
    while near.write(&[0; 65_536]).is_ok() {}
    setsockopt(&near, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: LINGERS })?;
    Ok((near, far))
}

/// Descriptors that take long to be closed, beside urgent bytes, on each socket that the server reads.
pub(crate) fn urgent_descriptors(evil: &mut Evil) {
    evil.stream_by_stream(6, |evil, peer, lane| {
        let (lingers, _far) = lingering().unwrap();
        let socket = if evil.tally.rounds.is_multiple_of(2) { &peer.main } else { lane };
        send_with(socket, &[lingers.as_raw_fd()], MsgFlags::MSG_OOB).unwrap();
        // If the server was faster, this is the last one.
        std::thread::spawn(move || drop(lingers));
        // Of a frame that has none.
        send(socket, Way::Uds, &frame(Header::new(Kind::Ping), &[])[1..], &[]);
        // The server ends it.
        while receive(&peer.main).is_some() {}
        assert!(!is_open(&peer.main), "what nobody asked for is kept");
        evil.tally.ended += 1;
        evil.tally.deeds += 1;
    });
}

/// Both ends of a lane that has a socket each way: where requests go, and where replies come. `None` on kernels that cannot
/// refuse descriptors.
fn ask_each_way(peer: &Peer, number: u32) -> io::Result<Option<[UnixStream; 2]>> {
    let (replies, theirs) = UnixStream::pair()?;
    replies.set_read_timeout(Some(BOUND))?;
    let open = Header { call_id: 1, block: number, ..Header::new(Kind::LaneOpen) };
    send(&peer.main, Way::Uds, &frame(open, &[]), &[theirs.as_raw_fd()]);
    drop(theirs);
    let (header, _, fd) = raw::receive(&replies)?;
    assert_eq!((header.kind, header.descriptors()), (Kind::LaneOpen, fd.iter().count()));
    let requests = fd.map(UnixStream::from);
    requests.iter().try_for_each(|requests| requests.set_write_timeout(Some(BOUND)))?;
    Ok(requests.map(|requests| [requests, replies]))
}

/// Descriptors where none can come, and where nobody looks; half frames; ends that are closed, shut or never read.
pub(crate) fn lanes_each_way(evil: &mut Evil) {
    let call = asks(ADD, &archive(&(40_u32, 2_u32)));
    evil.stream_by_stream(16, |evil, peer, lane| {
        evil.tally.deeds += 1;
        let Ok(Some([requests, replies])) = ask_each_way(peer, 1) else { return };
        let serves = || {
            send(&requests, Way::Uds, &call, &[]);
            receive(&replies).is_some_and(|(_, sum)| sum == 42_u32.to_le_bytes())
        };
        match evil.tally.rounds % 8 {
            0 => {
                for flags in [MsgFlags::empty(), MsgFlags::MSG_OOB] {
                    let refused = send_with(&requests, &[lane.as_raw_fd()], flags);
                    assert_eq!(refused, Err(Errno::EPERM), "descriptors come where nobody has room for them");
                }
                assert!(serves(), "a lane is not served any more whose peer was refused");
                evil.tally.answered += 1;
            }
            // What was the server's end goes on to it, and to nobody else.
            1 => {
                let _ = send_with(&requests, &[requests.as_raw_fd(); 2], MsgFlags::empty());
            }
            // The way back of the replies.
            2 => {
                for _ in 0..100 {
                    let _ = send_with(&replies, &[requests.as_raw_fd(); 9], MsgFlags::MSG_DONTWAIT);
                }
                assert!(serves(), "bytes where nobody looks end a lane");
                evil.tally.answered += 1;
            }
            3 => send(&requests, Way::Uds, &call[..11], &[]),
            4 => {
                drop(replies);
                (0..20).for_each(|_| send(&requests, Way::Uds, &call, &[]));
            }
            5 => {
                replies.shutdown(std::net::Shutdown::Read).unwrap();
                send(&requests, Way::Uds, &call, &[]);
            }
            6 => {
                // Until neither takes any more.
                requests.set_nonblocking(true).unwrap();
                while (&requests).write_all(&call).is_ok() && evil.goes_on() {}
            }
            _ => {
                drop(requests);
                // The server says how many it has taken.
                assert!(receive(&replies).is_none_or(|(header, _)| header.kind == Kind::GoAway));
            }
        }
    });
}
