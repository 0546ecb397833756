//! Every byte of a message that is copied is fetched once: what is checked is what is used.
#![cfg(not(loom))]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmrpc_transport::callers::Callers;
use shmrpc_transport::connection::{Connection, Events, LaneStream, Loaned, OnWire};
use shmrpc_transport::lane::{Incoming, Outgoing, Reply, ServingLane};
use shmrpc_transport::message::Encode;
use shmrpc_transport::peers::{PeerInfo, Peers};
use shmrpc_transport::rendezvous::{Host, Listener, Policy, Refusal, connect};
use shmrpc_transport::slot::{Header, Kind};
use shmrpc_transport::sync::instrument::{self, Memory};
use shmrpc_transport::sys::futex::Until;

const BOUND: Duration = Duration::from_secs(30);

/// Counts, for as long as it is told to. What was copied it overwrites at its source at once, so that whoever fetches
/// it again gets something else.
#[derive(Default)]
struct Counter(Mutex<Option<Fetched>>);

/// Written over what was copied.
const OVERWRITTEN: u8 = 0xee;

#[derive(Default)]
struct Fetched {
    words: HashMap<usize, u32>,
    /// Where a payload lay that was copied, and its bytes.
    copies: Vec<(usize, usize)>,
}

impl Fetched {
    /// Stamp, call id, route, room, and five words of payload, all in one line, each once; and `others` in no such line,
    /// each once. The address of the slot.
    fn expect_one_slot(&self, others: usize) -> usize {
        assert!(self.words.values().all(|times| *times == 1), "{:?}", self.words);
        let in_line = |line: usize| self.words.keys().filter(|address| **address / 64 == line).count();
        let slot = self.words.keys().map(|address| address / 64).find(|line| in_line(*line) == 9);
        assert_eq!(self.words.len(), 9 + others, "{:?}", self.words);
        slot.unwrap_or_else(|| panic!("no slot: {:?}", self.words)) * 64
    }

    /// Where the one payload of `length` bytes lay that was copied, which is overwritten by now.
    fn expect_one_copy(&self, length: usize) {
        let [(source, copied)] = self.copies[..] else { panic!("{:?}", self.copies) };
        assert_eq!(copied, length);
        // SAFETY: the mapping is there as long as the connection, and nobody writes to it now.
        let found =
            unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(source), length) };
        assert!(found.iter().all(|byte| *byte == OVERWRITTEN), "the source was not overwritten");
    }
}

impl Counter {
    fn begin(&self) {
        *self.0.lock().unwrap() = Some(Fetched::default());
    }

    fn end(&self) -> Fetched {
        self.0.lock().unwrap().take().unwrap()
    }
}

impl Memory for Counter {
    fn loaded(&self, address: usize, value: u64) -> u64 {
        if let Some(fetched) = &mut *self.0.lock().unwrap() {
            *fetched.words.entry(address).or_default() += 1;
        }
        value
    }

    fn copied(&self, address: usize, copy: &mut [u8]) {
        if let Some(fetched) = &mut *self.0.lock().unwrap() {
            fetched.copies.push((address, copy.len()));
            overwrite(address, copy.len());
        }
    }
}

/// One mapping of this process (proc_pid_maps(5)).
struct Mapping {
    start: usize,
    end: usize,
    permissions: String,
    offset: usize,
    inode: String,
}

impl Mapping {
    fn all() -> Vec<Self> {
        let hex = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mapping = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (start, end) = fields[0].split_once('-').unwrap();
            let [permissions, inode] = [fields[1], fields[4]].map(str::to_owned);
            Self { start: hex(start), end: hex(end), permissions, offset: hex(fields[2]), inode }
        };
        maps.lines().map(mapping).collect()
    }
}

/// Overwrites bytes of the peer's memory, which we map read-only: through the peer's own mapping, which is in this process,
/// too.
fn overwrite(address: usize, length: usize) {
    let all = Mapping::all();
    let ours = all.iter().find(|mapping| (mapping.start..mapping.end).contains(&address)).unwrap();
    assert_eq!(ours.permissions, "r--s", "the receiver may write to what it was sent");
    let same = |mapping: &&Mapping| mapping.inode == ours.inode && mapping.permissions == "rw-s";
    let theirs = all.iter().find(same).expect("the sender has its memory mapped");
    let target = address - ours.start + ours.offset - theirs.offset + theirs.start;
    assert!(target + length <= theirs.end);
    // SAFETY: the sender's mapping has these bytes, and it has sent them: nobody else writes there. Whoever reads them now
    // is what this test looks for.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(target).write_bytes(OVERWRITTEN, length) };
}

struct Deaf(Mutex<Sender<Arc<Connection>>>);

impl Host for Deaf {
    fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        Ok((Vec::new(), Box::new(Serving)))
    }
    fn connected(&self, connection: &Arc<Connection>) {
        self.0.lock().unwrap().send(Arc::clone(connection)).unwrap();
    }
}

struct Serving;

impl Events for Serving {
    fn lane_opened(&self, _: &Arc<Connection>, _: u32, _: Option<LaneStream>) -> Result<(), String> {
        // The test serves it by hand.
        Ok(())
    }
    fn closed(&self, _: &Connection) {}
}

/// A folder for the socket, gone with this, also if the test fails.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("shmrpc-test-{}-fetches", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_word_and_every_byte_once() {
    let counter: &'static Counter = Box::leak(Box::default());
    instrument::install(counter);
    let folder = Folder::new();
    let path = folder.0.join("s");
    // Nobody is trusted on either side, so every payload is copied.
    let policy = Policy { trust: Peers::Nobody, ..Policy::default() };
    let (connected, connections) = channel();
    let _listener = Listener::bind(&path, policy.clone(), Arc::new(Deaf(Mutex::new(connected)))).unwrap();
    let client = connect(&path, &policy, &[], BOUND, Box::new(Serving)).unwrap().connection;
    let server = connections.recv_timeout(BOUND).unwrap();
    assert!(!client.is_trusted() && !server.is_trusted());
    let callers = Callers::new(Arc::clone(&client), ());
    let mut serving = ServingLane::new(&server, 0, None).unwrap();

    requests(counter, [&client, &server], &callers, &mut serving);
    replies(counter, &callers, &mut serving);
}

/// What the server reads of its client.
fn requests(
    counter: &Counter,
    [client, server]: [&Arc<Connection>; 2],
    callers: &Callers,
    serving: &mut ServingLane,
) {
    // Inline: the ring alone.
    let (mut producer, _) = client.rings(5).unwrap();
    let (_, mut consumer) = server.rings(5).unwrap();
    producer.publish(Header::new(Kind::OneWay), &[1, 2, 3, 4, 5]);
    counter.begin();
    let mut payload = [0; 5];
    assert!(consumer.ready());
    consumer.take(&mut payload).unwrap();
    let inline = counter.end();
    assert_eq!(payload, [1, 2, 3, 4, 5]);
    inline.expect_one_slot(0);

    // In a block: one copy of its bytes, however often they are looked at afterwards.
    for length in [100, 4000, 20_000] {
        let data = vec![7_u8; length];
        let incoming = received(counter, callers, serving, &data);
        // By now its source is overwritten.
        assert_eq!(incoming.message.access::<Vec<u8>>().unwrap().as_slice(), data);
        assert_eq!(incoming.message.decode::<Vec<u8>>().unwrap(), data);
        let block = counter.end();
        block.expect_one_slot(0);
        block.expect_one_copy(incoming.message.len());
        serving.finish();
    }

    // A blob: its message says where it lies, and is read before.
    let mut blob = client.blob::<u8>(20_000, &mut Until::after(BOUND)).unwrap();
    blob.fill(9);
    let loaned = Loaned::new(blob.into());
    loaned.prepare(client).unwrap();
    let incoming = received(counter, callers, serving, &*loaned.wire());
    counter.end();
    counter.begin();
    let blob = server.receive_blob::<u8>(incoming.message.access::<OnWire>().unwrap()).unwrap();
    assert!(blob.iter().all(|byte| *byte == 9), "it was read where it had been overwritten");
    assert!(!blob.is_in_place());
    let fetched = counter.end();
    assert_eq!(fetched.words.len(), 0, "{:?}", fetched.words);
    fetched.expect_one_copy(20_000);
    loaned.settle(true);
    serving.finish();
}

/// Sends a message, and counts from where it is received on.
fn received<T: Encode>(
    counter: &Counter,
    callers: &Callers,
    serving: &mut ServingLane,
    value: &T,
) -> Incoming {
    let mut lease = callers.lease(&mut Until::after(BOUND)).unwrap();
    let request = Outgoing { method: 0, value, recursive: false, descriptors: None, discard: None };
    lease.seat().unwrap().lane.send(request, &mut Until::after(BOUND)).unwrap();
    lease.end();
    counter.begin();
    let mut incoming = Incoming::empty();
    assert!(serving.next(&mut incoming));
    incoming
}

/// What the client reads of its server. Each reply is there before its call, so that the first look finds it: whoever has to
/// wait looks at the stamp as often as there is time for.
fn replies(counter: &Counter, callers: &Callers, serving: &mut ServingLane) {
    let mut lease = callers.lease(&mut Until::after(BOUND)).unwrap();
    let lane = &mut lease.seat().unwrap().lane;
    // Four requests came before them.
    for (call_id, length) in (4..).zip([20, 100, 4000, 20_000]) {
        let data = vec![8_u8; length];
        serving.reply(call_id, Kind::Reply, &data, false).unwrap();
        let request =
            Outgoing { method: 0, value: &call_id, recursive: false, descriptors: None, discard: None };
        let mut reply = Reply::empty();
        counter.begin();
        lane.call(request, 0, &mut reply, &mut Until::after(BOUND)).unwrap();
        let fetched = counter.end();
        assert_eq!(reply.kind, Kind::Reply);
        // The other word says whether the server sleeps, and is looked at when the request is published.
        let slot = fetched.expect_one_slot(1);
        match data.len() {
            20 => assert_eq!(fetched.copies, []),
            _ => fetched.expect_one_copy(reply.message.len()),
        }
        // Whatever looks there again, and in whatever way, finds something else: the source of a block is overwritten already.
        overwrite(slot, 64);
        counter.begin();
        assert_eq!(reply.message.access::<Vec<u8>>().unwrap().as_slice(), data);
        assert_eq!(reply.message.decode::<Vec<u8>>().unwrap(), data);
        let view = reply.message.into_view::<Vec<u8>>().unwrap();
        assert!(!view.is_in_place());
        assert_eq!(view.as_slice(), data);
        let later = counter.end();
        assert!(later.words.is_empty() && later.copies.is_empty(), "{:?}", later.words);
    }
    lease.end();
}
