//! Every byte of a message that is copied is fetched once: what is checked is what is used.
#![cfg(not(loom))]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::fs;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmrpc_transport::callers::Callers;
use shmrpc_transport::connection::{Connection, Events, LaneStream};
use shmrpc_transport::lane::{Incoming, Outgoing, ServingLane};
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
    /// Stamp, call id, route, room, and five words of payload, all in one line, each once; and no other word.
    fn expect_one_slot(&self) {
        assert_eq!(self.words.len(), 9, "{:?}", self.words);
        let line = self.words.keys().min().unwrap() / 64;
        let once = |(address, times): (&usize, &u32)| address / 64 == line && *times == 1;
        assert!(self.words.iter().all(once), "{:?}", self.words);
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

#[test]
fn every_word_and_every_byte_once() {
    let counter: &'static Counter = Box::leak(Box::default());
    instrument::install(counter);
    let folder = std::env::temp_dir().join(format!("shmrpc-test-{}-fetches", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("s");
    // Nobody is trusted, so every payload is copied.
    let policy = Policy { trust: Peers::Nobody, ..Policy::default() };
    let (connected, connections) = channel();
    let _listener = Listener::bind(&path, policy.clone(), Arc::new(Deaf(Mutex::new(connected)))).unwrap();
    let client = connect(&path, &policy, &[], BOUND, Box::new(Serving)).unwrap().connection;
    let server = connections.recv_timeout(BOUND).unwrap();

    // Inline: the ring alone.
    let (mut producer, _) = client.rings(5).unwrap();
    let (_, mut consumer) = server.rings(5).unwrap();
    producer.publish(Header::new(Kind::OneWay), &[1, 2, 3, 4, 5]);
    *counter.0.lock().unwrap() = Some(Fetched::default());
    let mut payload = [0; 5];
    assert!(consumer.ready());
    consumer.take(&mut payload).unwrap();
    let inline = counter.0.lock().unwrap().take().unwrap();
    assert_eq!(payload, [1, 2, 3, 4, 5]);
    inline.expect_one_slot();

    // In a block: one copy of its bytes, however often they are looked at afterwards.
    let callers = Callers::new(Arc::clone(&client), ());
    let mut lease = callers.lease(&mut Until::after(BOUND)).unwrap();
    let mut serving = ServingLane::new(&server, 0, None).unwrap();
    let data = vec![7_u8; 20_000];
    let request = Outgoing { method: 0, value: &data, recursive: false, descriptors: None };
    lease.seat().unwrap().lane.send(request, &mut Until::after(BOUND)).unwrap();
    lease.end();
    *counter.0.lock().unwrap() = Some(Fetched::default());
    let mut incoming = Incoming::empty();
    assert!(serving.next(&mut incoming));
    // By now its source is overwritten.
    assert_eq!(incoming.message.access::<Vec<u8>>().unwrap().as_slice(), data);
    assert_eq!(incoming.message.decode::<Vec<u8>>().unwrap(), data);
    let block = counter.0.lock().unwrap().take().unwrap();
    assert_eq!(block.copies.len(), 1, "{:?}", block.copies);
    let (source, length) = block.copies[0];
    assert_eq!(length, incoming.message.len());
    block.expect_one_slot();
    // SAFETY: the mapping is there as long as the connection, and nobody writes to it now.
    let found =
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(source), length) };
    assert!(found.iter().all(|byte| *byte == OVERWRITTEN), "the source was not overwritten");
    std::fs::remove_dir_all(&folder).unwrap();
}
