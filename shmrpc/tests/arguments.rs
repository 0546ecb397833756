//! Arguments that the server cannot read: a client that says one thing about a type and archives another.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use shmrpc::prelude::*;
use support::{BOUND, Place};

#[shmrpc::service]
pub trait Switch {
    fn flip(&self, on: bool) -> bool;
    fn count(&self) -> u32;
    #[oneway]
    fn set(&self, on: bool);
}

#[derive(Default)]
struct Here(std::sync::atomic::AtomicU32);

impl Here {
    fn ran(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Switch for Here {
    fn flip(&self, on: bool) -> bool {
        self.ran();
        !on
    }
    fn count(&self) -> u32 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
    fn set(&self, _on: bool) {
        self.ran();
    }
}

/// The same service, by somebody whose booleans are bytes.
mod liar {
    pub(crate) use crate::support::liar::Bool;

    #[shmrpc::service]
    pub(crate) trait Switch {
        fn flip(&self, on: Bool) -> Bool;
        #[oneway]
        fn set(&self, on: Bool);
    }
}

#[test]
fn bad_arguments_fail_their_call_only() {
    let place = Place::new();
    let server = Server::builder().service(SwitchServer::new(Here::default())).listen(place.endpoint());
    let _server = server.max_lanes(2).max_lanes_per_client(2).start().unwrap();
    let honest = SwitchClient::builder().timeout(BOUND).connect(place.endpoint()).unwrap();
    let liar = liar::SwitchClient::builder().timeout(BOUND).connect(place.endpoint()).unwrap();
    assert_eq!(liar.flip(liar::Bool(1)), Ok(liar::Bool(0)));
    for _ in 0..3 {
        let error = liar.flip(liar::Bool(2)).unwrap_err();
        assert!(matches!(&error, CallError::BadArguments(reason) if reason.contains("bool")), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun);
        // Nobody hears of it, and it does not run.
        liar.set(liar::Bool(2)).unwrap();
    }
    // On the same lane, in order: what came before has been refused.
    assert_eq!(liar.flip(liar::Bool(0)), Ok(liar::Bool(1)));
    assert_eq!(honest.count(), Ok(2));
    assert_eq!(honest.flip(true), Ok(false));
}
