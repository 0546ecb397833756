//! A peer over sockets that says what it likes: hellos, lanes and frames, cut anywhere.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::iter::from_fn;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrIn, UnixCredentials, bind, connect,
    sendmsg, setsockopt, socket, sockopt,
};
use shmrpc_transport::connection::Carrier;
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::slot::{HEADER, Header, Kind};

use crate::support::BOUND;
use crate::target::question;

/// Over what a peer comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Way {
    Uds,
    Tcp,
}

pub(crate) const WAYS: [Way; 2] = [Way::Uds, Way::Tcp];

/// Where the evil ones come from. Honest ones have 127.0.0.1.
const EVIL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) struct At {
    pub(crate) unix: PathBuf,
    pub(crate) tcp: SocketAddr,
}

impl At {
    pub(crate) fn endpoint(&self, way: Way) -> String {
        match way {
            Way::Uds => format!("uds:{}", self.unix.display()),
            Way::Tcp => format!("tcp:{}", self.tcp),
        }
    }

    /// Connects, and says nothing. A TCP socket reads and writes as a Unix one does.
    pub(crate) fn dial(&self, way: Way) -> UnixStream {
        self.try_dial(way).unwrap()
    }

    pub(crate) fn try_dial(&self, way: Way) -> io::Result<UnixStream> {
        let stream = match way {
            Way::Uds => UnixStream::connect(&self.unix)?,
            Way::Tcp => {
                let SocketAddr::V4(to) = self.tcp else { panic!("{:?}", self.tcp) };
                let flags = SockFlag::SOCK_CLOEXEC;
                let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
                bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(EVIL, 0)))?;
                connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
                setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
                UnixStream::from(fd)
            }
        };
        stream.set_read_timeout(Some(BOUND))?;
        stream.set_write_timeout(Some(BOUND))?;
        Ok(stream)
    }

    /// Says hello as a good client does, and is let in.
    pub(crate) fn join(&self, way: Way) -> Peer {
        self.try_join(way).unwrap()
    }

    /// The same, or why it is not let in.
    pub(crate) fn try_join(&self, way: Way) -> Result<Peer, String> {
        let main = self.try_dial(way).map_err(|error| error.to_string())?;
        send(&main, way, &hello(), &[]);
        let (header, payload) = receive(&main).ok_or("no hello")?;
        if header.kind != Kind::Hello {
            return Err(String::from_utf8_lossy(&payload).into_owned());
        }
        Ok(Peer { at: self.clone(), way, main, token: Hello::from_bytes(&payload).unwrap().token })
    }
}

/// A peer that was let in.
pub(crate) struct Peer {
    at: At,
    way: Way,
    pub(crate) main: UnixStream,
    pub(crate) token: [u8; 16],
}

impl Peer {
    /// Asks for a lane. The answer comes on it.
    pub(crate) fn ask(&self, number: u32) -> UnixStream {
        self.try_ask(number).unwrap()
    }

    fn try_ask(&self, number: u32) -> io::Result<UnixStream> {
        match self.way {
            Way::Tcp => {
                let lane = self.at.try_dial(Way::Tcp)?;
                send(&lane, Way::Tcp, &lane_hello(self.token, number), &[]);
                Ok(lane)
            }
            Way::Uds => uds_lane(&self.main, number),
        }
    }

    /// A lane that is served.
    pub(crate) fn lane(&self, number: u32) -> UnixStream {
        self.try_lane(number).unwrap()
    }

    /// The same, or why it is not.
    pub(crate) fn try_lane(&self, number: u32) -> Result<UnixStream, String> {
        let lane = self.try_ask(number).map_err(|error| error.to_string())?;
        let (header, payload) = receive(&lane).ok_or("no answer")?;
        let text = String::from_utf8_lossy(&payload);
        if header.kind == Kind::LaneOpen { Ok(lane) } else { Err(text.into_owned()) }
    }

    /// Waits until the server has ended the connection, and says what it said there.
    pub(crate) fn is_ended(&self) -> Vec<(Header, String)> {
        let frames = from_fn(|| receive(&self.main));
        frames.map(|(header, text)| (header, String::from_utf8_lossy(&text).into_owned())).collect()
    }
}

/// Asks for a lane of the connection whose Unix socket this is.
pub(crate) fn uds_lane(main: &UnixStream, number: u32) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(BOUND))?;
    ours.set_write_timeout(Some(BOUND))?;
    let open = Header { block: number, ..Header::new(Kind::LaneOpen) };
    send(main, Way::Uds, &frame(open, &[]), &[theirs.as_raw_fd()]);
    Ok(ours)
}

/// A frame, with the length of its payload.
pub(crate) fn frame(header: Header, payload: &[u8]) -> Vec<u8> {
    let header = Header { length: payload.len().try_into().unwrap(), ..header };
    [&header.to_frame()[..], payload].concat()
}

/// A client's hello that shares no memory.
pub(crate) fn hello() -> Vec<u8> {
    let mut hello = Hello::new(64 << 20, 64, shmrpc::Memory::Memfd, question());
    (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
    frame(Header::new(Kind::Hello), &hello.to_bytes())
}

/// What a TCP client says to have one more lane.
pub(crate) fn lane_hello(token: [u8; 16], lane: u32) -> Vec<u8> {
    let mut hello = Hello::new(0, 0, shmrpc::Memory::Memfd, Vec::new());
    (hello.carrier, hello.base_len, hello.token, hello.lane) = (Carrier::Streams, 0, token, lane);
    frame(Header::new(Kind::Hello), &hello.to_bytes())
}

/// Sends all of it, unless the other end is gone.
pub(crate) fn send(socket: &UnixStream, way: Way, bytes: &[u8], fds: &[RawFd]) {
    let credentials = UnixCredentials::new();
    let all = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(fds)];
    let control = match (way, fds) {
        (Way::Tcp, _) => &[][..],
        (Way::Uds, []) => &all[..1],
        (Way::Uds, _) => &all[..],
    };
    let parts = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None).unwrap_or(bytes.len());
    drop((&*socket).write_all(&bytes[sent..]));
}

/// The next frame; none if the stream ends. Panics if it does neither.
pub(crate) fn receive(socket: &UnixStream) -> Option<(Header, Vec<u8>)> {
    match receive_in_time(socket) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing comes, and no end"),
        received => received.ok(),
    }
}

/// The next frame.
pub(crate) fn receive_in_time(mut socket: &UnixStream) -> io::Result<(Header, Vec<u8>)> {
    let mut head = [0; HEADER];
    socket.read_exact(&mut head)?;
    let header = Header::from_frame(&head).unwrap();
    let mut payload = vec![0; header.length as usize];
    socket.read_exact(&mut payload)?;
    Ok((header, payload))
}

/// Why the server ended this; nothing else comes, and then the end.
pub(crate) fn reason(socket: &UnixStream) -> String {
    let (header, text) = receive(socket).expect("hung up without a reason");
    assert!(matches!(header.kind, Kind::Failure | Kind::LaneReset), "{header:?}");
    assert_eq!(receive(socket), None);
    String::from_utf8(text).unwrap()
}

/// Ends it; over TCP with a reset, whatever is under way.
pub(crate) fn reset(socket: UnixStream, way: Way) {
    if way == Way::Tcp {
        let stream = TcpStream::from(OwnedFd::from(socket));
        setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    }
}
