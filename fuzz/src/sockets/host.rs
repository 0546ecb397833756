//! The fuzzer as the server of a real client.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shmrpc_transport::connection::Carrier;
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{FLAG_BLOCK, Header, Kind};

use super::Ground;
use super::caller::Calls;
use super::end::{End, frame};
use super::plan::{Deed, Greeting, Opening, Plan};
use super::service::Call;
use crate::ground::Ground as Shared;
use crate::input::Input;
use crate::wire::{Address, BOUND, GIFTS};

/// The token of every connection over TCP.
const TOKEN: [u8; 16] = [7; 16];

/// Where clients come.
struct Trap {
    unix: Address,
    unix_door: UnixListener,
    tcp: SocketAddr,
    tcp_door: TcpListener,
    /// One client at a time.
    one: Mutex<()>,
}

static TRAP: LazyLock<Trap> = LazyLock::new(|| {
    let (unix, unix_door) = Address::hidden(|path| UnixListener::bind(path).unwrap());
    let tcp_door = TcpListener::bind("127.0.0.1:0").unwrap();
    Trap { unix, unix_door, tcp: tcp_door.local_addr().unwrap(), tcp_door, one: Mutex::default() }
});

impl Trap {
    fn accept(&self, ground: Ground) -> End {
        match ground {
            Ground::Tcp => self.tcp_door.accept().unwrap().0.into(),
            _ => self.unix_door.accept().unwrap().0.into(),
        }
    }
}

pub(super) fn receive(input: &mut Input<'_>) {
    let _one = TRAP.one.lock().unwrap_or_else(PoisonError::into_inner);
    let ground = Ground::of(input);
    let plan = Plan::new(ground, input);
    let at = match ground {
        Ground::Tcp => format!("tcp:{}", TRAP.tcp),
        _ => format!("uds:{}", TRAP.unix.path().display()),
    };
    let (results, heard) = std::thread::scope(|scope| {
        let calls = Calls::of(&plan);
        let client = scope.spawn(move || calls.make(&at));
        let heard = Host::new(&plan, TRAP.accept(ground)).serve();
        (client.join().unwrap(), heard)
    });
    plan.check(results, &heard);
    // What a client left behind when it gave up.
    TRAP.tcp_door.set_nonblocking(true).unwrap();
    while TRAP.tcp_door.accept().is_ok() {}
    TRAP.tcp_door.set_nonblocking(false).unwrap();
}

struct Host<'a> {
    plan: &'a Plan,
    main: End,
    lanes: Vec<Lane>,
    /// The client's memory.
    theirs: Option<Shared>,
    /// Lanes that were asked for.
    opened: usize,
    /// Which calls have come.
    heard: Vec<bool>,
}

struct Lane {
    end: End,
    /// Over TCP a lane is one when it has said so.
    joined: bool,
    over: bool,
}

impl<'a> Host<'a> {
    fn new(plan: &'a Plan, main: End) -> Self {
        let heard = vec![false; plan.calls.len()];
        Self { plan, main, lanes: Vec::new(), theirs: None, opened: 0, heard }
    }

    /// Does what is planned, until the client goes.
    fn serve(mut self) -> Vec<bool> {
        if self.greet() {
            while self.turn() {}
        }
        self.heard
    }

    /// Whether the client may be in.
    fn greet(&mut self) -> bool {
        let Some((header, _)) = self.main.frame() else { return false };
        assert_eq!(header.kind, Kind::Hello);
        let mut hello = Hello::new(0, 0, Memory::Memfd, vec![]);
        (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
        let mut fds = Vec::new();
        let own;
        if self.plan.ground == Ground::Tcp {
            hello.token = TOKEN;
        } else if self.plan.ground == Ground::Memory {
            let mut given = self.main.fds.drain(..).collect();
            self.theirs = Some(Shared::product(&mut given));
            hello.base_len = crate::wire::base_len();
            own = Shared::own();
            fds.push(own.1.as_raw_fd());
        }
        self.main.fds.clear();
        match &self.plan.greeting {
            Greeting::Good { max_message, lanes, ids } => {
                (hello.max_message, hello.lanes, hello.application) = (*max_message, *lanes, ids.clone());
                self.main.send(&frame(Header::new(Kind::Hello), &hello.to_bytes()), &fds);
                true
            }
            Greeting::Spoiled { max_message, ids, at, with } => {
                (hello.max_message, hello.lanes, hello.application) = (*max_message, 64, ids.clone());
                let mut bytes = frame(Header::new(Kind::Hello), &hello.to_bytes());
                let at = usize::from(*at) % bytes.len();
                bytes[at] = *with;
                self.main.send(&bytes, &fds);
                true
            }
            Greeting::Raw(bytes) => {
                self.main.send(bytes, &[]);
                false
            }
            Greeting::Refusal(reason) => {
                self.main.send(&frame(Header::new(Kind::Failure), reason.as_bytes()), &[]);
                false
            }
            Greeting::Silence => {
                self.main.hear_all();
                false
            }
        }
    }

    /// Waits until the client says something, and answers. False when it is gone.
    fn turn(&mut self) -> bool {
        let mut fds = vec![PollFd::new(self.main.as_fd(), PollFlags::POLLIN)];
        fds.push(PollFd::new(TRAP.tcp_door.as_fd(), PollFlags::POLLIN));
        fds.extend(self.lanes.iter().map(|lane| PollFd::new(lane.end.as_fd(), PollFlags::POLLIN)));
        let ready = match poll(&mut fds, PollTimeout::try_from(BOUND).unwrap()) {
            // The fuzzer's own alarm.
            Err(Errno::EINTR) => return true,
            ready => ready.unwrap(),
        };
        assert!(ready > 0, "the client hangs");
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        if ready[0] && !self.main_said() {
            return false;
        }
        for at in 0..self.lanes.len() {
            if ready.get(at + 2) == Some(&true) {
                self.lane_said(at);
            }
        }
        self.lanes.retain(|lane| !lane.over);
        if ready[1] {
            let end = TRAP.accept(Ground::Tcp);
            self.lanes.push(Lane { end, joined: false, over: false });
        }
        true
    }

    fn main_said(&mut self) -> bool {
        let goes_on = self.main.hear();
        while let Some((header, _)) = self.main.cut() {
            match header.kind {
                Kind::LaneOpen => {
                    let fd: OwnedFd = self.main.fds.remove(0);
                    let end = UnixStream::from(fd).into();
                    self.lanes.push(Lane { end, joined: true, over: false });
                    self.open(self.lanes.len() - 1, header.block, header.call_id != 0);
                }
                Kind::SegmentAdd => drop(self.main.fds.remove(0)),
                Kind::SegmentRetire | Kind::Failure => {}
                other => panic!("{other:?} from a client"),
            }
        }
        goes_on
    }

    /// Answers to a lane. It may have a socket each way, if its client says so.
    fn open(&mut self, at: usize, number: u32, each_way: bool) {
        let lane = &mut self.lanes[at];
        let good = Header { call_id: 1, block: number, ..Header::new(Kind::LaneOpen) };
        let plan = self.plan.openings.get(self.opened).unwrap_or(&Opening::Good);
        self.opened += 1;
        let each_way = each_way && (self.opened + self.plan.calls.len()).is_multiple_of(2);
        match plan {
            Opening::Good if each_way => {
                let (near, far) = UnixStream::pair().unwrap();
                lane.end.send(&frame(good.with_descriptors(1), &[]), &[far.as_raw_fd()]);
                lane.end.hear_at(near);
            }
            Opening::Good => lane.end.send(&frame(good, &[]), &[]),
            Opening::Refused(reason) => {
                let header = Header { kind: Kind::LaneReset, ..good };
                lane.end.send(&frame(header, reason.as_bytes()), &[]);
            }
            Opening::Odd { kind, call_id } => {
                let kind = Kind::from_byte(*kind).unwrap_or(Kind::Ping);
                let odd = Header { kind, call_id: *call_id, ..good }.with_descriptors(each_way.into());
                let gifts = [GIFTS[self.opened % GIFTS.len()].fd.as_raw_fd()];
                lane.end.send(&frame(odd, &[]), &gifts[..usize::from(each_way)]);
            }
            Opening::Raw(bytes) => lane.end.send(bytes, &[]),
            Opening::Close => lane.over = true,
            Opening::Silence => {}
        }
    }

    fn lane_said(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        lane.over |= !lane.end.hear();
        while let Some((header, payload)) = self.lanes[at].end.cut() {
            if !self.lanes[at].joined {
                let hello = Hello::from_bytes(&payload).expect("a hello");
                assert!(header.kind == Kind::Hello && (hello.token == TOKEN || self.plan.is_spoiled()));
                self.lanes[at].joined = true;
                self.open(at, hello.lane, false);
                continue;
            }
            assert!(matches!(header.kind, Kind::Request | Kind::OneWay), "{header:?} from a client");
            let arguments = self.arguments(header, payload);
            let first = self.heard.iter().rposition(|heard| *heard).map_or(0, |last| last + 1);
            let is_it = |call: &Call| {
                self.plan.is_spoiled()
                    || call.method() == header.method
                        && arguments.as_ref().is_none_or(|bytes| Calls::is(call, bytes))
            };
            let Some(call) = self.plan.calls[first..].iter().position(is_it) else {
                assert!(self.plan.is_spoiled(), "{header:?} is no call that was made");
                return;
            };
            self.heard[first + call] = true;
            if header.kind == Kind::Request {
                let call_id = header.call_id;
                self.answer(at, call_id, first + call);
            }
        }
    }

    /// What the client sent, if it can be seen from here.
    fn arguments(&self, header: Header, payload: Vec<u8>) -> Option<Vec<u8>> {
        if header.flags & FLAG_BLOCK == 0 {
            return Some(payload);
        }
        let segment = u32::from_le_bytes(payload[..4].try_into().unwrap());
        let offset = u64::from_le_bytes(payload[8..16].try_into().unwrap());
        let theirs = self
            .theirs
            .as_ref()
            .expect("memory that is shared")
            .read(usize::try_from(offset).unwrap(), header.length as usize);
        theirs.filter(|_| segment == 0)
    }

    fn answer(&mut self, at: usize, call_id: u32, call: usize) {
        let lane = &mut self.lanes[at];
        let (kind, payload) = self.plan.good(call);
        let good = frame(Header { call_id, ..Header::new(kind) }, &payload);
        let ping = frame(Header::new(Kind::Ping), &[]);
        match &self.plan.deeds[call] {
            Deed::Good => lane.end.send(&good, &[]),
            Deed::Pings(count) => lane.end.send(&[ping.repeat(*count), good].concat(), &[]),
            Deed::Pieces(cut) => {
                let (first, second) = good.split_at(usize::from(*cut) % good.len());
                lane.end.send(first, &[]);
                lane.end.send(second, &[]);
            }
            Deed::Descriptors(fd) => lane.end.send(&good, &[*fd; 2]),
            Deed::Say(kind, payload) => {
                lane.end.send(&frame(Header { call_id, ..Header::new(*kind) }, payload), &[]);
            }
            Deed::WrongId(by) => {
                let call_id = call_id.wrapping_add(*by);
                lane.end.send(&frame(Header { call_id, ..Header::new(kind) }, &payload), &[]);
            }
            Deed::Odd { at, with } => {
                let mut bytes = good;
                bytes[*at] = *with;
                lane.end.send(&bytes, &[]);
            }
            Deed::Raw(bytes) => lane.end.send(bytes, &[]),
            Deed::TooLarge(length) => {
                let header = Header { call_id, length: *length, ..Header::new(kind) };
                lane.end.send(&header.to_frame(), &[]);
            }
            Deed::Half(cut) => {
                lane.end.send(&good[..usize::from(*cut) % good.len()], &[]);
                lane.over = true;
            }
            Deed::GoAway(taken) => {
                let header = Header { call_id: *taken, ..Header::new(Kind::GoAway) };
                lane.end.send(&frame(header, &[]), &[]);
            }
            Deed::Main(bytes) => {
                self.main.send(bytes, &[]);
                lane.end.send(&good, &[]);
            }
            Deed::Twice => lane.end.send(&good.repeat(2), &[]),
            Deed::Hangup => self.main.finish(),
            Deed::Silence => {}
        }
    }
}
