//! The fuzzer as a client of a real server.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::PoisonError;
use std::thread::JoinHandle;

use shmrpc::ServeError;
use shmrpc_transport::connection::Carrier;
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{FLAG_BLOCK, HEADER, Header, Kind};

use super::Ground;
use super::end::{self, End, frame};
use super::house::{HOUSE, House};
use super::lane::{Lane, NO_CONNECTION};
use super::model::{self, Due, Fate};
use super::service::{Call, METHODS, ONEWAY, QUESTION};
use crate::ground::Ground as Shared;
use crate::input::Input;
use crate::wire::{GIFTS, MAX_MESSAGE};

/// Steps of one session.
const STEPS: usize = 40;
/// Lanes of one session.
const LANES: usize = 6;
/// Bytes that are said on one lane, at most: what is not read yet must fit into the sockets.
const SAID: usize = 40_000;

/// What is said to whoever says hello to a server that drains.
const SHUTS_DOWN: &[u8] = b"the server is shutting down";

pub(super) fn visit(input: &mut Input<'_>) {
    let mut house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    let ground = Ground::of(input);
    if let Some(mut session) = Session::begin(&mut house, ground, input) {
        for _ in 0..STEPS {
            if input.is_empty() || session.fate == Fate::Dies {
                break;
            }
            session.step(input);
        }
        session.end();
    }
    house.serves(input.half() >> 1);
    house.is_left();
}

struct Session<'a> {
    house: &'a mut House,
    /// The server, if it has begun to drain.
    drains: Option<JoinHandle<Result<(), ServeError>>>,
    ground: Ground,
    main: End,
    token: [u8; 16],
    /// Ours, if memory is shared.
    own: Option<Shared>,
    /// Whether only small messages may come.
    small: bool,
    lanes: Vec<Lane>,
    /// Blocks that were used.
    blocks: usize,
    /// Whether a message lies partly in memory that is written later. Nobody knows what was read there.
    strays: bool,
    fate: Fate,
}

impl<'a> Session<'a> {
    /// Says hello. None if that comes to nothing, as it has to.
    fn begin(house: &'a mut House, ground: Ground, input: &mut Input<'_>) -> Option<Self> {
        let mut main = house.dial(ground);
        let shared = (ground == Ground::Memory).then(Shared::own);
        let (own, fds): (_, Vec<RawFd>) = match &shared {
            Some((_, fd)) => (true, vec![fd.as_raw_fd()]),
            None => (false, vec![]),
        };
        let small = input.below(8) == 1;
        let bytes = spoiled(good(if small { 100 } else { MAX_MESSAGE }, own), input);
        let mut due = model::hello(&bytes, ground);
        for (turn, piece) in pieces(&bytes, input).into_iter().enumerate() {
            main.send(piece, if turn == 0 { &fds } else { &[] });
        }
        if let Due::More(why) = due {
            main.finish();
            if ground != Ground::Tcp {
                main.hear_all();
                assert!(main.heard.is_empty() || !fds.is_empty(), "{:?}", main.heard);
                return None;
            }
            due = Due::Refused(why.into());
        }
        let Some((header, payload)) = main.frame() else { panic!("hung up without a word: {due:?}") };
        match (header.kind, &due) {
            (Kind::Hello, Due::Welcome | Due::Either) => {}
            (Kind::Failure, Due::Refused(_) | Due::Either) => {
                let text = String::from_utf8(payload).unwrap();
                let Due::Refused(why) = due else { return None };
                // Memory that does not fit is refused in its own words.
                assert!(text.contains(&why) || own, "{text:?} does not say {why:?}");
                main.hear_all();
                return None;
            }
            (_, due) => {
                panic!("{header:?} came where {due:?} was due: {}", String::from_utf8_lossy(&payload))
            }
        }
        let (asked, theirs) =
            (Hello::from_bytes(&bytes[HEADER..]).unwrap(), Hello::from_bytes(&payload).unwrap());
        let token = theirs.token;
        assert_eq!(token == [0; 16], ground != Ground::Tcp);
        // What was changed in the hello changes what comes of it.
        if theirs.carrier == Carrier::Rings || asked.max_message < 100 || matches!(due, Due::Either) {
            return None;
        }
        let small = asked.max_message != MAX_MESSAGE;
        let own = shared.map(|(own, _)| own);
        let (lanes, fate) = (Vec::new(), Fate::Lives(0));
        let (drains, blocks, strays) = (None, 0, false);
        Some(Self { house, drains, ground, main, token, own, small, lanes, blocks, strays, fate })
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(16) {
            0 | 1 => self.open(input.byte().into()),
            2..=6 => self.request(input, false),
            7 | 8 => self.request(input, true),
            9 => {
                let bytes = input.bytes(HEADER + 8).to_vec();
                self.say(input, &bytes, &[]);
            }
            10 => self.leave(input),
            11 => self.open_oddly(input),
            12 => {
                let gift = GIFTS[input.below(GIFTS.len())].fd.as_raw_fd();
                let ping = frame(Header::new(Kind::Ping), &[]);
                let count = 1 + input.below(2);
                if self.ground != Ground::Tcp {
                    // Nobody asked for them.
                    self.fate = Fate::May;
                }
                self.say(input, &ping, &[gift; 2][..count]);
            }
            13 => self.control(input),
            14 => match input.short() {
                with if with % 4 == 3 => self.drain(with.into()),
                with => self.house.serves(with.into()),
            },
            _ => self.block(input),
        }
    }

    /// The server begins to drain: it serves what has come, and lets in nobody and nothing more.
    fn drain(&mut self, with: u32) {
        if self.drains.is_some() {
            return;
        }
        for lane in &mut self.lanes {
            // The answer to its opening, if it is opened.
            while lane.end.heard.len() < HEADER && lane.end.hear() {}
            // What was sent over TCP may still be on its way.
            if self.ground != Ground::Tcp
                && let (_, Fate::Lives(said)) = model::lane(&lane.said, self.own.as_ref())
            {
                lane.kept = said;
            }
        }
        let late = self.house.dial(self.ground);
        self.drains = Some(self.house.drain(with));
        let mut frames = std::iter::from_fn(|| self.main.frame());
        let is_told = frames.any(|(header, _)| header.kind == Kind::GoAway);
        // Over Unix sockets a hello is answered before its client is known: then the connection ends without a word.
        let is_known = self.lanes.iter().any(|lane| !lane.end.heard.is_empty());
        if let Fate::Lives(_) = self.fate {
            assert!(is_told || self.strays || !is_known, "it is not told that the server drains");
            self.fate = if is_told { Fate::Drains } else { Fate::May };
        }
        says_hello_late(late, self.ground);
    }

    /// The connection ends; or not, if the server drains, since nobody knows what it still reads.
    fn dies(&mut self) {
        self.fate = if self.drains.is_some() { Fate::May } else { Fate::Dies };
    }

    fn open(&mut self, number: u32) {
        if self.lanes.len() >= LANES {
            return;
        }
        let (end, number) = match self.ground {
            Ground::Tcp => {
                let mut end = self.house.dial(Ground::Tcp);
                end.send(&self.join(self.token, number), &[]);
                // Nothing may be said before the answer.
                while end.heard.len() < HEADER && end.hear() {}
                (end, number)
            }
            _ => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let (each_way, number) = (number & 64 != 0, number % 64);
                let open = Header { call_id: each_way.into(), block: number, ..Header::new(Kind::LaneOpen) };
                self.main.send(&frame(open, &[]), &[theirs.as_raw_fd()]);
                drop(theirs);
                let mut end: End = ours.into();
                // Where to say anything comes with the answer.
                while each_way && end.heard.len() < HEADER && end.hear() {}
                end.fds.pop().into_iter().for_each(|to| end.speak_at(to));
                (end, number)
            }
        };
        let late = self.drains.is_some();
        self.lanes.push(Lane {
            end,
            number,
            said: Vec::new(),
            kept: 0,
            late,
            forgets: false,
            finished: false,
        });
    }

    fn join(&self, token: [u8; 16], lane: u32) -> Vec<u8> {
        let mut hello = Hello::new(0, 0, Memory::Memfd, vec![]);
        (hello.carrier, hello.base_len, hello.token, hello.lane) = (Carrier::Streams, 0, token, lane);
        frame(Header::new(Kind::Hello), &hello.to_bytes())
    }

    /// A lane as nobody opens it.
    fn open_oddly(&mut self, input: &mut Input<'_>) {
        if self.ground == Ground::Tcp {
            let mut token = self.token;
            token[input.below(16)] ^= input.byte().max(1);
            let mut end = self.house.dial(Ground::Tcp);
            end.send(&self.join(token, 0), &[]);
            let (header, text) = end.frame().expect("a reason");
            assert_eq!((header.kind, text.as_slice()), (Kind::Failure, NO_CONNECTION));
            return end.hear_all();
        }
        let block = u32::from(input.byte());
        let open = Header { call_id: block / 5 % 2, block, ..Header::new(Kind::LaneOpen) };
        let gifts: Vec<RawFd> =
            (0..input.below(3)).map(|_| GIFTS[input.below(GIFTS.len())].fd.as_raw_fd()).collect();
        self.main.send(&frame(open, &[]), &gifts);
        if gifts.len() == 1 && open.block < 64 {
            self.fate = Fate::May;
        } else {
            self.dies();
        }
    }

    /// A frame on the first socket, where hardly any has a place.
    fn control(&mut self, input: &mut Input<'_>) {
        let kind = Kind::from_byte(input.byte() % 18).unwrap_or(Kind::Ping);
        let call_id = u32::from(input.byte() / 128);
        let block = u32::from(input.byte() / 64);
        let payload = input.bytes(input.0.len().min(3) * 4);
        let header = Header { call_id, block, ..Header::new(kind) };
        self.main.send(&frame(header, payload), &[]);
        let plain = header == Header::new(Kind::Ping) && payload.is_empty();
        match kind {
            Kind::Ping if plain => {}
            // The last words of a client, and what depends on segments that there are.
            Kind::Failure | Kind::SegmentRetire => self.fate = Fate::May,
            _ => self.dies(),
        }
    }

    /// A request as it should be; or with some bytes changed.
    fn request(&mut self, input: &mut Input<'_>, spoil: bool) {
        let call = Call::sample(u16::from(input.byte()) % METHODS, input);
        let kind = if call.method() == ONEWAY { Kind::OneWay } else { Kind::Request };
        let header = Header {
            method: call.method(),
            call_id: input.byte().into(),
            timeout_ms: 9,
            ..Header::new(kind)
        };
        let mut bytes = frame(header, &call.payload());
        for _ in 0..usize::from(spoil) + input.below(2) * usize::from(spoil) {
            let at = match input.below(4) {
                // The header, which is most of what is decided on; the root; anything.
                0 => 4 + input.below(HEADER - 4),
                1 => bytes.len() - 1 - input.below(HEADER.min(bytes.len())),
                2 => 8 + input.below(4),
                _ => usize::from(input.short()) % bytes.len(),
            };
            bytes[at] = input.byte();
        }
        self.say(input, &bytes, &[]);
    }

    /// A request whose arguments lie in our memory, or are said to.
    fn block(&mut self, input: &mut Input<'_>) {
        let call = Call::sample(u16::from(input.byte()) % METHODS, input);
        let payload = call.payload();
        let offset = model::place(self.blocks);
        let id = self.blocks as u32 % 4096;
        if let Some(own) = &self.own
            && self.blocks < 8_000
        {
            own.write(offset, &payload);
            self.blocks += payload.len().div_ceil(64).max(1);
        }
        let mut place = [0; 16];
        place[4..8].copy_from_slice(&7_u32.to_le_bytes());
        place[8..].copy_from_slice(&(offset as u64).to_le_bytes());
        let mut head = Header {
            flags: FLAG_BLOCK,
            method: call.method(),
            block: id,
            length: payload.len().try_into().unwrap(),
            ..Header::new(if call.method() == ONEWAY { Kind::OneWay } else { Kind::Request })
        };
        let odd = input.below(8);
        match odd {
            0 => place[input.below(16)] = input.byte(),
            1 => head.block = input.half(),
            2 => head.length = input.half() >> input.below(32),
            _ => {}
        }
        self.strays |= odd == 0 || odd == 2;
        let bytes = [&head.to_frame()[..], &place].concat();
        self.say(input, &bytes, &[]);
    }

    /// Says something on a lane, in pieces.
    fn say(&mut self, input: &mut Input<'_>, bytes: &[u8], fds: &[RawFd]) {
        let count = self.lanes.len().max(1);
        let Some(lane) = self.lanes.get_mut(input.below(count)) else { return };
        if lane.finished || lane.said.len() + bytes.len() > SAID {
            return;
        }
        lane.said.extend_from_slice(bytes);
        lane.end.send_astray(bytes, fds);
        lane.forgets = self.drains.is_some() && self.ground == Ground::Tcp;
        for (turn, piece) in pieces(bytes, input).into_iter().enumerate() {
            lane.end.send(piece, if turn == 0 { fds } else { &[] });
        }
        if lane.late {
            // Nobody reads it.
            return;
        }
        let (_, fate) = model::lane(&lane.said, self.own.as_ref());
        match (self.fate, fate) {
            (_, Fate::Dies) => self.dies(),
            (Fate::Lives(_) | Fate::Drains, Fate::May) => self.fate = Fate::May,
            _ => {}
        }
    }

    /// Says nothing more on a lane, in one way or another; maybe in the middle of a frame.
    fn leave(&mut self, input: &mut Input<'_>) {
        if self.lanes.is_empty() {
            return;
        }
        let at = input.below(self.lanes.len());
        match input.below(4) {
            0 | 1 => {
                self.lanes[at].end.finish();
                self.lanes[at].finished = true;
            }
            2 => drop(self.lanes.remove(at)),
            _ => self.lanes.remove(at).end.reset(),
        }
    }

    /// All that the server must have said is there, and it ends what it must.
    fn end(self) {
        let Self { mut main, own, mut lanes, mut fate, small, strays, drains, .. } = self;
        if fate == Fate::Dies {
            // By itself, whatever the fuzzer still holds. Replies that nobody reads may be in the way of what ends it.
            end::hear_until_over(&mut main, lanes.iter_mut().map(|lane| &mut lane.end).collect());
        }
        if strays && matches!(fate, Fate::Lives(_) | Fate::Drains) {
            fate = Fate::May;
        }
        for mut lane in lanes {
            lane.end.finish();
            lane.end.hear_all();
            lane.check(fate, own.as_ref(), small, strays);
        }
        let Some(drains) = drains else {
            main.finish();
            return main.hear_all();
        };
        // By itself, when all lanes have ended.
        main.hear_all();
        let mut frames = std::iter::from_fn(|| main.cut());
        let failed = frames.find(|(header, _)| header.kind == Kind::Failure);
        assert!(failed.is_none() || fate != Fate::Drains, "{failed:?}");
        assert!(drains.join().unwrap().is_ok(), "the server is still busy");
    }
}

/// A hello that comes when nobody is let in any more.
fn says_hello_late(mut end: End, ground: Ground) {
    let shared = (ground == Ground::Memory).then(Shared::own);
    let fds: Vec<RawFd> = shared.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    let hello = good(MAX_MESSAGE, !fds.is_empty());
    end.send(&frame(Header::new(Kind::Hello), &hello.to_bytes()), &fds);
    end.hear_all();
    // Or it was not even heard.
    if let Some((header, text)) = end.cut() {
        assert_eq!((header.kind, text.as_slice()), (Kind::Failure, SHUTS_DOWN));
    }
}

/// The hello of a client, with memory beside it or without.
fn good(max_message: u64, shares: bool) -> Hello {
    let mut good = Hello::new(max_message, 0, Memory::Memfd, QUESTION.clone());
    good.carrier = Carrier::Streams;
    good.base_len = if shares { good.base_len } else { 0 };
    good
}

/// A hello with something wrong, or with nothing.
fn spoiled(good: Hello, input: &mut Input<'_>) -> Vec<u8> {
    let whole = |hello: &Hello| frame(Header::new(Kind::Hello), &hello.to_bytes());
    let mut bytes = whole(&good);
    match input.below(16) {
        0 => return input.bytes(60).to_vec(),
        1 => return b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        2 => return [&[22, 3, input.byte(), 1, 0, 1, 0, 252, 3, 3][..], &[9; 50]].concat(),
        3 => bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes()),
        4 => bytes[input.below(HEADER)] = input.byte(),
        5 => bytes[HEADER + input.below(16)] = input.byte(),
        6 => {
            let at = bytes.len() - 1 - usize::from(input.byte());
            bytes[at] = input.byte();
        }
        7 => bytes.truncate(usize::from(input.short()) % bytes.len()),
        8 => {
            let token = input.array();
            bytes = whole(&Hello { token, ..good });
        }
        9 => bytes = whole(&Hello { application: input.bytes(30).to_vec(), ..good }),
        _ => {}
    }
    bytes
}

/// The bytes, cut in up to four.
fn pieces<'a>(bytes: &'a [u8], input: &mut Input<'_>) -> Vec<&'a [u8]> {
    let (mut rest, mut all) = (bytes, Vec::new());
    for _ in 0..input.below(8).saturating_sub(4) {
        let (piece, after) = rest.split_at(usize::from(input.byte()).min(rest.len()));
        if !piece.is_empty() {
            all.push(piece);
        }
        rest = after;
    }
    all.push(rest);
    all
}
