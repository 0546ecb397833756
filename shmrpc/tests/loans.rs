//! Memory that is lent comes back, also from calls that were refused and from results that came too late.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::iter::from_fn;
use std::sync::Mutex;
use std::time::Duration;

use shmrpc::prelude::*;
use support::{BOUND, Gate, Keeper, Place, gate, until};

/// Numbers of a blob: 1 MiB.
const LENGTH: u32 = 1 << 18;
/// Bytes of blobs that there may be at once, and one that has no room.
const LENT: u64 = 8 << 20;

#[shmrpc::service]
pub trait Loans {
    /// Waits at the gate.
    fn late(&self, ctx: &Context) -> Result<Blob<f32>, u32>;
    fn render(&self, ctx: &Context) -> Blob<f32>;
    fn bytes(&self) -> Vec<u8>;
    fn keep(&self, blob: Blob<f32>);
    fn give_up(&self);
    /// With a long text the message itself is copied, and with a longer one that needs room.
    fn take(&self, one: Blob<f32>, text: &str, other: Blob<f32>) -> u32;
    #[oneway]
    fn tell(&self, one: Blob<f32>, other: Blob<f32>);
}

struct Here(Gate, Mutex<Vec<Blob<f32>>>);

fn rendered(ctx: &Context) -> Blob<f32> {
    let mut blob = ctx.blob(LENGTH as usize);
    blob.fill(0.5);
    blob.into()
}

impl Loans for Here {
    fn late(&self, ctx: &Context) -> Result<Blob<f32>, u32> {
        self.0.pass();
        Ok(rendered(ctx))
    }
    fn render(&self, ctx: &Context) -> Blob<f32> {
        rendered(ctx)
    }
    fn bytes(&self) -> Vec<u8> {
        vec![7; 4 * LENGTH as usize]
    }
    fn keep(&self, blob: Blob<f32>) {
        self.1.lock().unwrap().push(blob);
    }
    fn give_up(&self) {
        self.1.lock().unwrap().clear();
    }
    fn take(&self, one: Blob<f32>, text: &str, other: Blob<f32>) -> u32 {
        u32::try_from(one.len() + text.len() + other.len()).unwrap()
    }
    fn tell(&self, one: Blob<f32>, other: Blob<f32>) {
        assert_eq!(one.len(), other.len());
    }
}

fn grounds(place: &Place) -> [String; 2] {
    ["shm", "uds"].map(|scheme| format!("{scheme}:{}", place.socket().display()))
}

fn start(endpoint: &str) -> (ServerHandle, LoansClient, Keeper) {
    let (gate, keeper) = gate();
    let server = Server::builder().service(LoansServer::new(Here(gate, Mutex::default())));
    let server = server.listen(endpoint).max_lent(LENT).start().unwrap();
    (server, LoansClient::builder().timeout(BOUND).connect(endpoint).unwrap(), keeper)
}

/// One call waits at the gate, and nobody waits for it.
fn be_late(client: &LoansClient, keeper: &Keeper) {
    let hasty = client.with_timeout(Duration::from_millis(5));
    until("a call is on its way and late", || {
        // A busy machine may not open a lane in that time, and then nothing was sent.
        hasty.late().unwrap_err().outcome() == Outcome::Unknown
    });
    keeper.entered();
}

#[test]
fn a_blob_that_comes_too_late_goes_back() {
    let place = Place::new();
    for endpoint in grounds(&place) {
        let (_server, client, keeper) = start(&endpoint);
        for round in 0..LENT >> 20 {
            be_late(&client, &keeper);
            keeper.release();
            // Its result is lent, and was not asked for by this call.
            until(&format!("{endpoint}, round {round}: a blob finds room"), || {
                client.render().is_ok_and(|blob| blob.is_in_place())
            });
        }
    }
}

/// Whoever asks for something else looks at no other lane than its own.
#[test]
fn late_blobs_on_other_lanes_make_room_for_any_result() {
    let place = Place::new();
    for endpoint in grounds(&place) {
        let (_server, client, keeper) = start(&endpoint);
        (0..LENT >> 20).for_each(|_| be_late(&client, &keeper));
        (0..LENT >> 20).for_each(|_| keeper.release());
        until(&format!("{endpoint}: a result finds room"), || client.bytes().is_ok());
    }
}

/// How many blobs there can be at once.
fn most(client: &LoansClient) -> usize {
    let now = client.with_timeout(Duration::from_millis(1));
    let all: Vec<_> = from_fn(|| now.blob::<f32>(LENGTH as usize).ok()).take(64).collect();
    all.len()
}

/// A loan takes what it holds, and not what messages that grow are rounded up to.
#[test]
fn all_that_may_be_lent_is_there_for_loans_of_the_largest_size() {
    let place = Place::new();
    let (gate, _keeper) = gate();
    let server = Server::builder().service(LoansServer::new(Here(gate, Mutex::default())));
    let _server = server.listen(place.endpoint()).max_message(1 << 20).start().unwrap();
    let client = LoansClient::builder().max_lent(LENT).timeout(BOUND).connect(place.endpoint()).unwrap();
    let largest = || client.with_timeout(Duration::from_millis(1)).blob::<u8>(1 << 20).ok();
    let all: Vec<_> = from_fn(largest).take(64).collect();
    // The base segment is lent as well.
    assert!(all.len() as u64 >= LENT / (1 << 20) - 1, "{}", all.len());
}

#[test]
fn blobs_of_a_call_that_is_refused_go_back() {
    let place = Place::new();
    for endpoint in grounds(&place) {
        let (gate, _keeper) = gate();
        let server = Server::builder().service(LoansServer::new(Here(gate, Mutex::default())));
        // So all is copied, and there is room for two messages and a bit.
        let server = server.listen(&endpoint).trust(Peers::Nobody).max_message(2 << 20);
        let _server = server.start().unwrap();
        let client = LoansClient::builder().max_lent(LENT).timeout(BOUND).connect(&endpoint).unwrap();
        let blob = || client.blob::<f32>(LENGTH as usize).unwrap();
        let before = most(&client);
        assert!((4..=8).contains(&before), "{before}");
        while client.keep(blob()).is_ok() {}
        for text in [1, 50, 10_000].map(|length| "x".repeat(length)) {
            for _ in 0..before {
                let refused = client.take(blob(), &text, blob()).unwrap_err();
                assert!(matches!(refused, CallError::Overloaded(_)), "{refused}");
                assert_eq!(most(&client), before, "{endpoint}");
            }
        }
        for _ in 0..before {
            client.tell(blob(), blob()).unwrap();
            // Behind it on the same lane.
            assert_eq!(client.keep(blob()).unwrap_err().outcome(), Outcome::NotRun);
            assert_eq!(most(&client), before, "{endpoint}");
        }
        client.give_up().unwrap();
        assert_eq!(client.take(blob(), "x", blob()), Ok(2 * LENGTH + 1));
        assert_eq!(most(&client), before, "{endpoint}");
    }
}
