//! Every byte of a message that is copied is fetched once: what is checked is what is used.
#![cfg(not(loom))]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmrpc_transport::callers::Callers;
use shmrpc_transport::connection::{Connection, Events, LaneStream};
use shmrpc_transport::lane::{Incoming, Outgoing, ServingLane};
use shmrpc_transport::peers::{PeerInfo, Peers};
use shmrpc_transport::rendezvous::{Host, Listener, Policy, connect};
use shmrpc_transport::slot::{Header, Kind};
use shmrpc_transport::sync::instrument::{self, Memory};
use shmrpc_transport::sys::futex::Until;

const BOUND: Duration = Duration::from_secs(30);

/// Counts, for as long as it is told to.
#[derive(Default)]
struct Counter(Mutex<Option<Fetched>>);

#[derive(Default)]
struct Fetched {
    words: HashMap<usize, u32>,
    /// Where a payload lay that was copied, and its bytes.
    copies: Vec<(usize, usize)>,
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
        }
    }
}

struct Deaf(Mutex<Sender<Arc<Connection>>>);

impl Host for Deaf {
    fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), String> {
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
    // Stamp, call id, route, room, and five words of payload, all in one line.
    assert_eq!(inline.words.len(), 9);
    let line = inline.words.keys().min().unwrap() / 64;
    assert!(
        inline.words.iter().all(|(address, times)| address / 64 == line && *times == 1),
        "{:?}",
        inline.words
    );

    // In a block: one copy of its bytes, however often they are looked at afterwards.
    let callers = Callers::new(Arc::clone(&client));
    let mut lease = callers.lease(&mut Until::after(BOUND)).unwrap();
    let mut serving = ServingLane::new(&server, 0).unwrap();
    let data = vec![7_u8; 20_000];
    let request = Outgoing { method: 0, value: &data, recursive: false };
    lease.lane().send(request, &mut Until::after(BOUND)).unwrap();
    lease.end();
    *counter.0.lock().unwrap() = Some(Fetched::default());
    let mut incoming = Incoming::empty();
    assert!(serving.next(&mut incoming));
    assert_eq!(incoming.message.access::<Vec<u8>>().unwrap().as_slice(), data);
    assert_eq!(incoming.message.decode::<Vec<u8>>().unwrap(), data);
    let block = counter.0.lock().unwrap().take().unwrap();
    assert_eq!(block.copies.len(), 1, "{:?}", block.copies);
    assert_eq!(block.copies[0].1, incoming.message.len());
    std::fs::remove_dir_all(&folder).unwrap();
}
