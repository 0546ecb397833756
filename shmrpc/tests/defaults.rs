//! The defaults that README.md names are those of the builders, and of what they build. No test waits for one: where it is
//! a time, it is read; where it is a size, it is reached, and passed by one byte.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shmrpc::prelude::*;
use support::listener::{Listener, Said};
use support::{BOUND, Place};

/// Bytes of a message: the default of both sides.
const MAX_MESSAGE: usize = 64 << 20;
/// What an archive of bytes, or of a text, has besides them: where they are, and how many.
const ROOT: usize = 8;

#[shmrpc::service]
pub trait Large {
    fn count(&self, bytes: &[u8]) -> u64;
    fn gather(&self, parts: &Archived<Vec<Vec<u128>>>) -> u64;
    fn text(&self, length: u64) -> String;
    fn time(&self, ctx: &Context) -> Option<Duration>;
}

struct Here;

impl Large for Here {
    fn count(&self, bytes: &[u8]) -> u64 {
        bytes.len() as u64
    }
    fn gather(&self, parts: &Archived<Vec<Vec<u128>>>) -> u64 {
        parts.iter().map(|part| part.len() as u64).sum()
    }
    fn text(&self, length: u64) -> String {
        "7".repeat(usize::try_from(length).unwrap())
    }
    fn time(&self, ctx: &Context) -> Option<Duration> {
        ctx.timeout()
    }
}

/// One at a time: a thread that meets an event for the first time while another one begins to listen may leave it unheard
/// for all (tracing-core 0.1).
static TURN: Mutex<()> = Mutex::new(());

/// Without optimisation it takes a core 2 s to look at each byte of the largest messages, and cores may be busy.
const TIME: Duration = BOUND.saturating_mul(5);

fn start() -> (ServerHandle, Place, MutexGuard<'static, ()>) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let server = Server::builder().service(LargeServer::new(Here)).listen(place.endpoint());
    (server.start().unwrap(), place, turn)
}

/// The default of an option, as the table of README.md has it that follows these words.
fn in_the_readme(table: &str, option: &str) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, rows) = text.split_once(table).unwrap();
    let start = format!("| `{option}` | ");
    let row = rows.lines().find_map(|line| line.strip_prefix(&start));
    row.unwrap_or_else(|| panic!("{table} has no {option}")).split(" | ").next().unwrap().to_owned()
}

#[test]
fn the_readme_names_the_defaults() {
    let server = format!("{:?}", Server::builder());
    let client = format!("{:?}", LargeClient::builder());
    let of_both = [
        ("allow(Peers)", "`SameUser`", "allow: SameUser"),
        ("trust(Peers)", "`SameUser`", "trust: SameUser"),
        ("memory(Memory)", "`Memfd`", "memory: Memfd"),
        ("memory_from(bytes)", "4 KiB", "memory_from: 4096,"),
        ("max_message(bytes)", "64 MiB", "max_message: 67108864,"),
        ("max_lent(bytes)", "4 x `max_message`", "max_lent: None"),
    ];
    let of_servers = [
        ("allow_plain_tcp()", "not", "plain_tcp: false"),
        ("max_silence(Duration)", "25 s", "max_silence: 25s,"),
        ("hello_timeout(Duration)", "5 s", "hello_timeout: 5s }"),
        ("wait_for_endpoints(Duration)", "not", "patience: 0ns"),
    ];
    let of_clients = [
        ("timeout(Duration)", "10 s", " timeout: 10s,"),
        ("connect_timeout(Duration)", "5 s", "connect_timeout: 5s,"),
        ("allow_plain_tcp()`, `max_silence(Duration)", "not; 25 s", "max_silence: 25s,"),
        ("allow_plain_tcp()`, `max_silence(Duration)", "not; 25 s", "plain_tcp: false"),
        ("reconnect(bool)", "`true`", "reconnect: true"),
    ];
    let tables = [
        ("Server, on `Server::builder()`", &server, of_both.iter().chain(&of_servers)),
        ("Client, on `KvClient::builder()`", &client, of_both.iter().chain(&of_clients)),
    ];
    for (table, builder, rows) in tables {
        for (option, said, is) in rows {
            assert_eq!(in_the_readme(table, option), *said, "{table}: {option}");
            let is_so = *is == "max_lent: None" || builder.contains(is);
            assert!(is_so, "{option} is not {said}: {builder}");
        }
    }
}

/// Of a client without a builder, of one with, and what its server learns.
#[test]
fn a_call_has_ten_seconds() {
    let (_server, place, _turn) = start();
    let ten = Duration::from_secs(10);
    let plain = LargeClient::connect(place.endpoint()).unwrap();
    for client in [&plain, &LargeClient::builder().connect(place.endpoint()).unwrap()] {
        assert_eq!(client.timeout(), ten);
        // The first one waits until it has a lane, and that is no time that its handler has.
        assert!(client.time().unwrap() <= Some(ten));
        assert_eq!(client.time(), Ok(Some(ten)));
    }
}

#[test]
fn arguments_of_64_mib_pass_and_one_byte_more_is_refused() {
    let (_server, place, _turn) = start();
    let client = LargeClient::builder().timeout(TIME).connect(place.endpoint()).unwrap();
    let bytes = vec![1; MAX_MESSAGE];
    let most = MAX_MESSAGE - ROOT;
    assert_eq!(client.count(&bytes[..most]), Ok(most as u64));
    let error = client.count(&bytes[..=most]).unwrap_err();
    let CallError::NotEncoded(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("larger than the 67108864 bytes that its receiver takes"), "{text}");
    let whose =
        "send less, or raise max_message there: of the server for arguments, of the client for results";
    assert!(text.ends_with(whose), "{text}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    assert_eq!(client.count(&bytes[..3]), Ok(3));
    assert_eq!(client.count(&bytes[..most]), Ok(most as u64));
}

#[test]
fn results_of_64_mib_pass_and_one_byte_more_is_refused() {
    let (_server, place, _turn) = start();
    let client = LargeClient::builder().timeout(TIME).connect(place.endpoint()).unwrap();
    let most = MAX_MESSAGE - ROOT;
    assert_eq!(client.text(most as u64).unwrap().len(), most);
    let error = client.text(most as u64 + 1).unwrap_err();
    let CallError::BadReply(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("larger than the 67108864 bytes that its receiver takes"), "{text}");
    assert_eq!(error.outcome(), Outcome::Ran);
    assert_eq!(client.text(3), Ok("777".into()));
}

/// Of many parts of 1 MiB each, so that its size is known only at its end: it moves from segment to segment.
#[test]
fn a_message_of_nearly_64_mib_goes_through_segments_until_it_fits() {
    let (_server, place, _turn) = start();
    let client = LargeClient::builder().timeout(TIME).connect(place.endpoint()).unwrap();
    let mut parts = vec![vec![1; 1 << 16]; 63];
    let grown = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&grown);
    let growth = tracing::Dispatch::new(Listener(move |event: Said| {
        if event["message"] == "arena grown" {
            heard.lock().unwrap().push(event["length"].parse::<u64>().unwrap());
        }
    }));
    let found = tracing::dispatcher::with_default(&growth, || client.gather(&parts));
    assert_eq!(found, Ok(63 << 16));
    let segments = grown.lock().unwrap().clone();
    assert!(segments.len() >= 5, "{segments:?}");
    assert!(segments.is_sorted_by(|smaller, larger| 2 * smaller <= *larger), "{segments:?}");
    assert!(*segments.last().unwrap() >= 63 << 20, "{segments:?}");

    // The limit is met on the way, after most of it was written; and the next call finds all as it was.
    parts.push(vec![1; 1 << 16]);
    let error = client.gather(&parts).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("67108864")), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    parts.pop();
    assert_eq!(client.gather(&parts), Ok(63 << 16));
}
