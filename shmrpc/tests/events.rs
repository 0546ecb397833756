//! What is said to whoever listens to `tracing`: which transport was chosen, why each earlier choice failed, and what was
//! lost. One test, since one process has one subscriber.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::sync::{Mutex, MutexGuard};

use shmrpc::prelude::*;
use support::listener::{Listener, Said};
use support::{BOUND, Place, until};

#[shmrpc::service]
pub trait Told {
    fn add(&self, a: u32, b: u32) -> u32;
}

struct Here;

impl Told for Here {
    fn add(&self, a: u32, b: u32) -> u32 {
        a + b
    }
}

static SAID: Mutex<Vec<Said>> = Mutex::new(Vec::new());

fn said() -> MutexGuard<'static, Vec<Said>> {
    SAID.lock().unwrap()
}

/// The latest event with these words.
fn last(words: &str) -> Option<Said> {
    said().iter().rev().find(|event| event["message"] == words).cloned()
}

/// The event of a client that has just connected says what its `transport()` says.
fn connected(client: &ToldClient) -> String {
    let event = last("connected").unwrap();
    let transport = client.transport();
    assert_eq!(event["level"], "INFO");
    assert_eq!(event["service"], "Told");
    assert_eq!(event["transport"], transport.to_string());
    assert_eq!(event["times"], transport.times_connected().to_string());
    assert!(event["transport"].contains(transport.reason()), "{event:?}");
    transport.reason().to_owned()
}

fn serve(endpoint: &str) -> ServerHandle {
    Server::builder().service(ToldServer::new(Here)).listen(endpoint).start().unwrap()
}

#[test]
fn what_was_chosen_and_why_is_said() {
    tracing::subscriber::set_global_default(Listener(|event| SAID.lock().unwrap().push(event))).unwrap();
    let (place, nobodys) = (Place::new(), Place::new());
    let builder = ToldClient::builder().timeout(BOUND).connect_timeout(BOUND);

    let server = serve(&place.endpoint());
    assert_eq!(last("listening").unwrap()["endpoint"], place.endpoint());
    let first = builder.clone().connect(place.endpoint()).unwrap();
    assert_eq!(connected(&first), "the endpoint asks for it and the server shares memory");

    // Earlier choices, each with its reason.
    let list = format!("{},tcp:127.0.0.1:1,{}", nobodys.endpoint(), place.endpoint());
    let second = builder.clone().connect(&list).unwrap();
    let reason = connected(&second);
    for words in [nobodys.endpoint(), "tcp:127.0.0.1:1".into(), "before that".into(), "refused".into()] {
        assert!(reason.contains(&words), "{reason:?} does not say {words:?}");
    }

    // Less than what was asked for.
    let third = builder.clone().memory_from(u64::MAX).connect(place.endpoint()).unwrap();
    let reason = connected(&third);
    assert!(reason.contains("shared memory cannot be had: this client was told to share none"), "{reason}");

    // An end, and another beginning.
    drop(server);
    until("the end is told", || last("disconnected").is_some());
    let ended = last("disconnected").unwrap();
    assert_eq!((ended["service"].as_str(), ended["level"].as_str()), ("Told", "INFO"));
    assert!(!ended["reason"].is_empty() && ended["endpoint"].starts_with("shm:"), "{ended:?}");
    drop((first, third));
    let _server = serve(&place.endpoint());
    assert_eq!(second.add(1, 2), Ok(3));
    let again = last("connecting again").unwrap();
    assert_eq!(again["service"], "Told");
    assert!(!again["reason"].is_empty(), "{again:?}");
    let reason = connected(&second);
    assert_eq!(second.transport().times_connected(), 2);
    assert!(reason.contains(&nobodys.endpoint()), "{reason}");
}
