//! Peers that are slow to say hello, or never do.
#![cfg(not(loom))]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrIn, bind, connect as dial, sendmsg,
    setsockopt, socket, sockopt,
};
use shmrpc_transport::connection::{Connection, Events, LaneStream};
use shmrpc_transport::peers::PeerInfo;
use shmrpc_transport::rendezvous::net::{self, NetListener, Ports};
use shmrpc_transport::rendezvous::{Hello, Host, Listener, Policy, Refusal, connect};
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{HEADER, Header, Kind};

const BOUND: Duration = Duration::from_secs(30);
/// Tells a child where to connect.
const PATH: &str = "SHMRPC_TEST_HELLOS";

/// Lets everybody in and serves nothing.
struct Anybody;

impl Host for Anybody {
    fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        Ok((Vec::new(), Box::new(Self)))
    }
    fn connected(&self, _: &Arc<Connection>) {}
}

impl Events for Anybody {
    fn lane_opened(&self, _: &Arc<Connection>, _: u32, _: Option<LaneStream>) -> Result<(), String> {
        Err("nothing is served here".into())
    }
    fn closed(&self, _: &Connection) {}
}

/// A listener in a directory of its own.
struct Door {
    folder: PathBuf,
    path: PathBuf,
    _listener: Listener,
}

impl Door {
    fn new(hello_timeout: Duration) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("shmrpc-test-{}-hello-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("s");
        let policy = Policy { hello_timeout, ..Policy::default() };
        let listener = Listener::bind(&path, policy, Arc::new(Anybody)).unwrap();
        Self { folder, path, _listener: listener }
    }

    fn dial(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn join(path: &Path) -> Result<(), String> {
    connect(path, &Policy::default(), &[], BOUND, Box::new(Anybody))
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Tries until it is not told to try again: who has just come makes no room.
fn soon<T>(mut tries: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let begin = Instant::now();
    loop {
        match tries() {
            Err(reason) if reason.contains("try again") && begin.elapsed() < BOUND => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Why the server ended this connection. Nothing else comes, and then the end.
fn refusal(mut socket: impl Read) -> String {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    let (head, text) = bytes.split_first_chunk::<HEADER>().expect("hung up without a reason");
    let header = Header::from_frame(head).unwrap();
    assert_eq!((header.kind, header.length as usize), (Kind::Failure, text.len()));
    String::from_utf8(text.to_vec()).unwrap()
}

/// A hello as it is sent.
fn hello() -> Vec<u8> {
    let body = Hello::new(1 << 20, 1, Memory::Memfd, Vec::new()).to_bytes();
    let header = Header { length: body.len().try_into().unwrap(), ..Header::new(Kind::Hello) };
    [&header.to_frame()[..], &body].concat()
}

#[test]
fn whoever_says_no_hello_in_time_is_hung_up_on() {
    assert_eq!(Policy::default().hello_timeout, Duration::from_secs(5));
    let door = Door::new(Duration::from_millis(50));
    let hello = hello();
    let silent = [0, 1, HEADER, hello.len() - 1].map(|said| {
        let mut socket = door.dial();
        socket.write_all(&hello[..said]).unwrap();
        socket
    });
    for socket in &silent {
        assert_eq!(refusal(socket), "no hello came in time");
    }
    assert_eq!(join(&door.path), Ok(()));
}

/// A server that closes a socket closes what was sent into it, too, and the sender may have seen to it that this takes an
/// hour.
#[test]
fn nobody_waits_for_what_a_refused_peer_has_sent() {
    let door = Door::new(Duration::from_millis(50));
    for said in [vec![0xff; 10_000], hello()[..HEADER].to_vec(), Vec::new()] {
        let mut socket = door.dial();
        let (lingers, _far) = lingering();
        socket.write_all(&said).unwrap();
        for _ in 0..3 {
            // The server may have hung up already.
            let _ = send_beside(&socket, &lingers);
        }
        // If it has, this is the last one, and takes an hour.
        thread::spawn(move || drop(lingers));
        let (path, (done, is_done)) = (door.path.clone(), channel());
        thread::spawn(move || done.send(join(&path)));
        assert_eq!(is_done.recv_timeout(BOUND), Ok(Ok(())), "the server waits for {} bytes", said.len());
    }
}

/// A TCP socket whose closing takes an hour, and its other end.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    while near.write(&[0; 65_536]).is_ok() {}
    setsockopt(&near, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 3600 }).unwrap();
    (near, far)
}

fn send_beside(socket: &UnixStream, sent: &TcpStream) -> nix::Result<usize> {
    let fds = [sent.as_raw_fd()];
    let beside = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"x")], &beside, MsgFlags::MSG_NOSIGNAL, None)
}

/// No clock can tell such a time.
#[test]
fn a_hello_may_take_for_ever() {
    let door = Door::new(Duration::MAX);
    let silent = door.dial();
    assert_eq!(join(&door.path), Ok(()));
    let port = Port::new(Duration::MAX);
    let silent_too = port.dial();
    assert_eq!(port.join(), Ok(()));
    drop((silent, silent_too));
}

/// A byte now and then earns no more time.
#[test]
fn whoever_says_hello_slowly_is_hung_up_on() {
    let door = Door::new(Duration::from_millis(50));
    let header = Header { length: 1 << 20, ..Header::new(Kind::Hello) };
    let mut socket = door.dial();
    socket.write_all(&header.to_frame()).unwrap();
    let end = Instant::now() + BOUND;
    // At this pace it would take 17 minutes.
    while socket.write_all(&[0]).is_ok() {
        assert!(Instant::now() < end, "it is still listened to");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn child() {
    let Some(path) = std::env::var_os(PATH) else { return };
    join(Path::new(&path)).unwrap();
}

/// Another process that connects. Whether it was let in.
fn other_process(path: &Path) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child"]).env(PATH, path).stdin(Stdio::null()).stdout(Stdio::null());
    command.status().unwrap().success()
}

/// What a server lets one process or address have; the rest of its 256 is for others.
const OF_ONE: usize = 32;
const MADE_ROOM: &str = "it said no hello yet, and its place was wanted; try again";

#[test]
fn a_process_that_says_no_hello_makes_room_for_its_own_that_do() {
    let door = Door::new(Duration::from_secs(3600));
    let mut silent: Vec<UnixStream> = (0..OF_ONE).map(|_| door.dial()).collect();
    assert!(other_process(&door.path), "another process is refused");
    for round in 0..OF_ONE * 2 {
        assert_eq!(soon(|| join(&door.path)), Ok(()), "round {round}");
        // The oldest one has made room, and no other.
        assert_eq!(refusal(&silent[round]), MADE_ROOM);
        let next = &silent[round + 1];
        next.set_nonblocking(true).unwrap();
        let unheard = (&*next).read(&mut [0]).unwrap_err();
        assert_eq!(unheard.kind(), std::io::ErrorKind::WouldBlock);
        next.set_nonblocking(false).unwrap();
        silent.push(door.dial());
    }
    assert!(other_process(&door.path), "another process is refused");
}

/// A port, and whoever comes to it from another address than honest clients do.
struct Port {
    at: SocketAddr,
    _listener: NetListener,
}

impl Port {
    fn new(hello_timeout: Duration) -> Self {
        let policy = Policy { hello_timeout, ..Policy::default() };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ports = Ports::bind(&any.into(), &policy, None).unwrap();
        let at = ports.addresses()[0];
        Self { at, _listener: ports.start(policy, Arc::new(Anybody)).unwrap() }
    }

    fn dial(&self) -> TcpStream {
        self.dial_from(2)
    }

    fn dial_from(&self, last: u8) -> TcpStream {
        let SocketAddr::V4(at) = self.at else { panic!("{}", self.at) };
        let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::from(from)).unwrap();
        dial(socket.as_raw_fd(), &SockaddrIn::from(at)).unwrap();
        let socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    }

    fn join(&self) -> Result<(), String> {
        net::connect(&self.at.into(), &Policy::default(), None, &[], BOUND, Box::new(Anybody))
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

#[test]
fn whoever_says_no_hello_in_time_over_tcp_is_hung_up_on() {
    let port = Port::new(Duration::from_millis(50));
    let hello = hello();
    let silent = [0, 1, HEADER, hello.len() - 1].map(|said| {
        let mut socket = port.dial();
        socket.write_all(&hello[..said]).unwrap();
        socket
    });
    for socket in &silent {
        assert_eq!(refusal(socket), "no hello came: the time was over");
    }
    // Whoever ends is told so, too, if he still listens.
    let socket = port.dial();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(refusal(&socket), "no hello came: the stream was closed");
    assert_eq!(port.join(), Ok(()));
}

#[test]
fn whoever_says_hello_slowly_over_tcp_is_hung_up_on() {
    let port = Port::new(Duration::from_millis(50));
    let header = Header { length: 1 << 20, ..Header::new(Kind::Hello) };
    let mut socket = port.dial();
    socket.write_all(&header.to_frame()).unwrap();
    let end = Instant::now() + BOUND;
    while socket.write_all(&[0]).is_ok() {
        assert!(Instant::now() < end, "it is still listened to");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Says hello, and is answered by one.
fn answered(mut socket: TcpStream, hello: &[u8]) -> Result<(), String> {
    let again = |error: std::io::Error| format!("try again: {error}");
    socket.write_all(hello).map_err(again)?;
    let mut head = [0; HEADER];
    socket.read_exact(&mut head).map_err(again)?;
    match Header::from_frame(&head).unwrap() {
        Header { kind: Kind::Hello, .. } => Ok(()),
        header => Err(format!("try again: {:?}", header.kind)),
    }
}

/// Says nothing, and keeps nobody out: neither of its own address nor of another one.
#[test]
fn an_address_that_says_no_hello_makes_room_for_its_own_that_do() {
    let port = Port::new(Duration::from_secs(3600));
    let mut silent: Vec<TcpStream> = (0..OF_ONE).map(|_| port.dial()).collect();
    let hello = hello();
    for round in 0..OF_ONE * 2 {
        assert_eq!(soon(|| answered(port.dial(), &hello)), Ok(()), "round {round}");
        assert_eq!(port.join(), Ok(()), "another address is refused");
        // Whoever has begun and does not go on is silent, too.
        let mut next = port.dial();
        next.write_all(&hello[..round % hello.len()]).unwrap();
        silent.push(next);
    }
    for socket in &silent[..OF_ONE * 2] {
        assert_eq!(refusal(socket), MADE_ROOM);
    }
}

#[test]
fn those_of_all_addresses_together_make_room() {
    // All 256 places, which are made for 4,096 descriptors, and of which both ends are ours.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let port = Port::new(Duration::from_secs(3600));
    let silent: Vec<TcpStream> =
        (2..10).flat_map(|at| (0..OF_ONE).map(move |_| at)).map(|at| port.dial_from(at)).collect();
    for _ in 0..8 {
        assert_eq!(soon(|| port.join()), Ok(()));
        assert_eq!(soon(|| answered(port.dial_from(10), &hello())), Ok(()));
    }
    assert_eq!(refusal(&silent[0]), MADE_ROOM);
}
