//! What a hostile peer has in its hands: a socket, and descriptors of every sort.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, sendmsg};
use nix::sys::stat::Mode;
use shmrpc_transport::connection::{Connection, Events, LaneStream};
use shmrpc_transport::peers::{PeerInfo, Peers};
use shmrpc_transport::rendezvous::{Hello, Host, Listener, Policy, Refusal};
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{HEADER, Header};

/// No step of a target takes as long: whoever waits longer hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// Bytes of a message that the product takes in these targets.
pub(crate) const MAX_MESSAGE: u64 = 1 << 20;

/// The policy of the product's side.
pub(crate) fn policy(trust: Peers) -> Policy {
    Policy { trust, max_message: MAX_MESSAGE, ..Policy::default() }
}

/// The fuzzer's end of a socket.
pub(crate) struct Wire {
    stream: UnixStream,
    bytes: VecDeque<u8>,
    /// Descriptors that came and were not looked at.
    pub(crate) fds: VecDeque<OwnedFd>,
}

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.set_write_timeout(Some(BOUND)).unwrap();
        Self { stream, bytes: VecDeque::new(), fds: VecDeque::new() }
    }

    /// Sends bytes, the descriptors beside the first of them. A peer that is gone takes none.
    pub(crate) fn send(&self, bytes: &[u8], fds: &[RawFd]) {
        let credentials = UnixCredentials::new();
        let with_fds = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(fds)];
        let mut control = if fds.is_empty() { &with_fds[..1] } else { &with_fds[..] };
        let mut rest = bytes;
        while !rest.is_empty() {
            let parts = [IoSlice::new(rest)];
            match sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(sent) => (rest, control) = (&rest[sent..], &[]),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return,
                Err(error) => panic!("the product takes no more bytes: {error}"),
            }
        }
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&self) {
        // Not connected any more, if the product was faster.
        drop(self.stream.shutdown(std::net::Shutdown::Write));
    }

    /// The next frame of the product; none if it has closed the connection.
    pub(crate) fn frame(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(head) = self.bytes.make_contiguous().first_chunk::<HEADER>() {
                let header = Header::from_frame(head).expect("the product writes good frames");
                let whole = HEADER + header.length as usize;
                if self.bytes.len() >= whole {
                    return Some((header, self.bytes.drain(..whole).skip(HEADER).collect()));
                }
            }
            if !self.fill() {
                assert!(self.bytes.is_empty(), "the product ended in the middle of a frame");
                return None;
            }
        }
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 4096];
        let mut control = cmsg_space!([RawFd; 16]);
        let mut parts = [IoSliceMut::new(&mut piece)];
        let message = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                // It closed with bytes of ours unread.
                Err(Errno::ECONNRESET) => return false,
                Err(error) => panic!("the product does not answer: {error}"),
                Ok(message) => break message,
            }
        };
        for part in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(fds) = part {
                // SAFETY: the kernel has just made them for us.
                self.fds.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let length = message.bytes;
        self.bytes.extend(&piece[..length]);
        length != 0
    }
}

/// A descriptor to send, and what is right and wrong with it.
pub(crate) struct Gift {
    pub(crate) fd: OwnedFd,
    pub(crate) length: u64,
    /// Why the product must refuse it as memory of `length` bytes.
    pub(crate) fault: Option<&'static str>,
}

impl Gift {
    /// What the product must say of it when `announced` bytes are due.
    pub(crate) fn refusal(&self, announced: u64) -> Option<String> {
        match self.fault {
            Some(fault @ "whose seals are") => Some(fault.into()),
            _ if self.length != announced || announced == 0 => Some(format!("announced {announced} bytes")),
            fault => fault.map(Into::into),
        }
    }
}

/// Bytes of a base segment.
pub(crate) fn base_len() -> u64 {
    Hello::new(0, 0, Memory::Memfd, vec![]).base_len
}

fn sealed(length: u64, seals: SealFlag) -> OwnedFd {
    let fd = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&fd, i64::try_from(length).unwrap()).unwrap();
    seal(&fd, seals);
    fd
}

pub(crate) fn seal(fd: &OwnedFd, seals: SealFlag) {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
}

/// The seals that the product asks for.
pub(crate) fn required() -> SealFlag {
    let future_write = SealFlag::from_bits_retain(nix::libc::F_SEAL_FUTURE_WRITE);
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL | future_write
}

/// Every sort of descriptor. The first one is a base segment as it should be.
pub(crate) static GIFTS: LazyLock<Vec<Gift>> = LazyLock::new(|| {
    let gift = |fd, length, fault| Gift { fd, length, fault };
    let (base, seals) = (base_len(), "whose seals are");
    let again = |fd: &OwnedFd, flags| {
        open(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())), flags | OFlag::O_CLOEXEC, Mode::empty())
            .unwrap()
    };
    let good = sealed(base, required());
    let (pipe, _) = nix::unistd::pipe().unwrap();
    let (socket, _) = UnixStream::pair().unwrap();
    vec![
        gift(again(&good, OFlag::O_RDONLY), base, None),
        gift(sealed(4096, required()), 4096, None),
        gift(sealed(1 << 16, required() | SealFlag::F_SEAL_WRITE), 1 << 16, None),
        gift(sealed(1 << 20, required()), 1 << 20, None),
        gift(sealed(3 << 20, required()), 3 << 20, None),
        gift(sealed(100, required()), 100, None),
        gift(sealed(0, required()), 0, None),
        gift(sealed(base, required().difference(SealFlag::F_SEAL_SHRINK)), base, Some(seals)),
        gift(
            sealed(base, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL),
            base,
            Some(seals),
        ),
        gift(sealed(4096, SealFlag::empty()), 4096, Some(seals)),
        gift(again(&good, OFlag::O_WRONLY), base, Some("cannot map")),
        gift(again(&good, OFlag::O_PATH), base, Some(seals)),
        gift(pipe, 0, Some(seals)),
        gift(socket.into(), 0, Some(seals)),
        gift(open("/dev/zero", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).unwrap(), 0, Some(seals)),
        gift(open("/", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap(), 4096, Some(seals)),
    ]
});

/// The lowest descriptor that is free stays low, unless somebody keeps what a peer sent.
pub(crate) fn assert_few_descriptors() {
    let lowest = GIFTS[0].fd.try_clone().unwrap();
    assert!(lowest.as_raw_fd() < 200, "{lowest:?} is the lowest that is free");
}

/// A socket that is listened at, and that no directory names any more, so that nothing is left behind.
pub(crate) struct Address {
    path: PathBuf,
    _fd: OwnedFd,
}

impl Address {
    /// Listens at a path of its own with `listen`.
    pub(crate) fn hidden<T>(listen: impl FnOnce(&Path) -> T) -> (Self, T) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("shmrpc-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let named = folder.join("s");
        let listening = listen(&named);
        let fd = open(&named, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        (Self { path: format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into(), _fd: fd }, listening)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Tells of connections that came to be and that ended.
#[derive(Clone)]
pub(crate) struct Guests {
    met: Sender<Arc<Connection>>,
    gone: Sender<u64>,
}

/// What [`Guests`] tells.
pub(crate) struct Told {
    met: Receiver<Arc<Connection>>,
    gone: Receiver<u64>,
}

impl Told {
    /// The connection that the product made of a hello.
    pub(crate) fn met(&self) -> Arc<Connection> {
        self.met.recv_timeout(BOUND).expect("a connection")
    }

    /// Waits until the connection has ended, which is told once.
    pub(crate) fn gone(&self, connection: &Connection) {
        assert_eq!(self.gone.recv_timeout(BOUND).expect("a connection that ends"), connection.id());
        assert!(connection.death().is_some());
    }
}

impl Guests {
    pub(crate) fn new() -> (Self, Told) {
        let ((met, met_told), (gone, gone_told)) = (channel(), channel());
        (Self { met, gone }, Told { met: met_told, gone: gone_told })
    }

    pub(crate) fn met(&self, connection: &Arc<Connection>) {
        self.met.send(Arc::clone(connection)).unwrap();
    }
}

/// Lanes that the product serves, if it is asked.
pub(crate) fn is_served(lane: u32) -> bool {
    lane % 5 != 4
}

impl Host for Guests {
    fn welcome(&self, _: &PeerInfo, application: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        match application {
            b"not welcome" => Err("this application is not welcome".into()),
            _ => Ok((application.to_vec(), Box::new(self.clone()))),
        }
    }

    fn connected(&self, connection: &Arc<Connection>) {
        self.met(connection);
    }
}

impl Events for Guests {
    fn lane_opened(&self, _: &Arc<Connection>, lane: u32, _: Option<LaneStream>) -> Result<(), String> {
        if is_served(lane) { Ok(()) } else { Err("not this one".into()) }
    }

    fn closed(&self, connection: &Connection) {
        // The target that listened may be done with it.
        let _ = self.gone.send(connection.id());
    }
}

/// The product listening.
pub(crate) struct House {
    address: Address,
    told: Mutex<Told>,
    _listener: Listener,
}

impl House {
    pub(crate) fn new(trust: Peers) -> Self {
        let (guests, told) = Guests::new();
        let listen = |path: &Path| Listener::bind(path, policy(trust), Arc::new(guests)).unwrap();
        let (address, listener) = Address::hidden(listen);
        Self { address, told: Mutex::new(told), _listener: listener }
    }

    /// One guest at a time.
    pub(crate) fn visit(&self) -> (Wire, MutexGuard<'_, Told>) {
        let told = self.told.lock().unwrap();
        (Wire::new(UnixStream::connect(self.address.path()).unwrap()), told)
    }
}

/// The fuzzer listening, for the product to connect to.
pub(crate) struct Trap {
    address: Address,
    listener: Mutex<UnixListener>,
}

impl Trap {
    pub(crate) fn new() -> Self {
        let (address, listener) = Address::hidden(|path| UnixListener::bind(path).unwrap());
        Self { address, listener: Mutex::new(listener) }
    }

    /// One visitor at a time: `visit` connects to the path on a thread of its own, `host` gets the other end.
    pub(crate) fn receive<A: Send, B>(
        &self,
        visit: impl FnOnce(&Path) -> A + Send,
        host: impl FnOnce(Wire) -> B,
    ) -> (A, B) {
        let listener = self.listener.lock().unwrap();
        std::thread::scope(|scope| {
            let visitor = scope.spawn(|| visit(self.address.path()));
            let (stream, _) = listener.accept().unwrap();
            let hosted = host(Wire::new(stream));
            (visitor.join().unwrap(), hosted)
        })
    }
}
