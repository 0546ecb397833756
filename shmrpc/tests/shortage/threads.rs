//! Threads (EAGAIN).

use shmrpc::prelude::*;

use super::{Limited, ShortClient, child_place, connect, descriptors, serve};
use crate::support::process::{Process, say};
use crate::support::{BOUND, Place, until};

/// Starts a part as a user whom RLIMIT_NPROC binds. `None` if that cannot be had.
fn as_somebody(part: &str, place: &Place) -> Option<Process> {
    Process::start_as(65534, part, place)
}

#[test]
fn a_server_without_threads_refuses_lanes_and_serves_those_it_has() {
    let place = Place::open_to_all();
    let Some(mut process) = as_somebody("child_server", &place) else { return };
    process.says("ready");
    let first = connect(&place);
    first.leave_no_thread().unwrap();
    let second = connect(&place);
    let error = second.pid().unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotRun);
    assert!(matches!(&error, CallError::Overloaded(text) if text.contains("ulimit -u")), "{error}");
    // Who has a lane shares it.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(first.sum(&[1; 10_000]), Ok(10_000));
                }
            });
        }
    });
    first.restore().unwrap();
    assert_eq!(second.pid(), first.pid());
}

#[test]
fn child_client_without_threads() {
    let Some(endpoint) = child_place() else { return };
    let builder = ShortClient::builder().allow(Peers::Any).timeout(BOUND).reconnect(false);
    let open = descriptors();
    let limited = Limited::threads();
    for _ in 0..3 {
        let error = builder.connect(&endpoint).unwrap_err().to_string();
        assert!(error.contains("watcher") && error.contains("ulimit -u"), "{error}");
        // The watcher's own two stay. Without its thread, the next attempt asks whether the server has let go of the memory
        // of this one, and drops the descriptor that knows.
        assert!(descriptors() <= open + 2 + 3, "{} of {open}", descriptors());
    }
    drop(limited);
    assert_ne!(builder.connect(&endpoint).unwrap().pid(), Ok(std::process::id()));
    say("well");
}

#[test]
fn a_client_without_threads_says_so_and_goes_on() {
    let place = Place::open_to_all();
    let server = serve(&place.endpoint(), Memory::Memfd);
    let Some(mut process) = as_somebody("threads::child_client_without_threads", &place) else { return };
    process.says("well");
    assert!(process.ends().success());
    until("nobody is left", || server.connections() == 0);
}
