//! Servers of TCP ports.

use shmrpc::Endpoint;

use crate::support::process::{ENDPOINT, Process, say, until_orphaned};
use crate::support::{BOUND, Place, until};
use crate::{Here, Server, ShortClient, ShortServer, connect};
use shmrpc::Peers;

#[test]
fn child_server() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let server = Server::builder().service(ShortServer::new(Here::default())).allow(Peers::Any);
    let server = server.listen(endpoint).listen("tcp:127.0.0.1:0").start().unwrap();
    let port = server.endpoints().iter().find_map(|at| match at {
        Endpoint::Tcp(at) => Some(at.to_string()),
        _ => None,
    });
    say(&format!("port {}", port.unwrap()));
    until_orphaned();
}

/// Where it listens.
fn port(process: &mut Process) -> String {
    process.tells("port").replace("port ", "tcp:")
}

fn try_to_connect(at: &str) -> Result<ShortClient, String> {
    let client = ShortClient::builder().timeout(BOUND).reconnect(false).connect_timeout(BOUND);
    client.connect(at).map_err(|error| error.to_string())
}

#[test]
fn a_port_without_descriptors_turns_peers_away_and_says_why() {
    let place = Place::new();
    let mut process = Process::start("shortage::ports::child_server", &place);
    let at = port(&mut process);
    let first = connect(&place);
    let open = first.open().unwrap();
    let mut refused = 0;
    let second = loop {
        first.leave_descriptors(refused).unwrap();
        let connected = try_to_connect(&at);
        first.restore().unwrap();
        match connected {
            Ok(second) => break second,
            Err(error) => {
                assert!(error.contains("it cannot take another connection"), "with {refused}: {error}");
                assert!(error.contains("ulimit -n"), "with {refused}: {error}");
                refused += 1;
            }
        }
        until("nothing is left of it", || first.open().as_ref() == Ok(&open));
    };
    // The socket itself, and the second descriptor of it.
    assert_eq!(refused, 2);
    assert_eq!(second.pid(), first.pid());

    // Many at once: each is told.
    first.leave_descriptors(0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let error = try_to_connect(&at).unwrap_err();
                assert!(error.contains("it cannot take another connection"), "{error}");
            });
        }
    });
    // So is who has a connection and asks for one more lane; it goes on with the one that it has.
    assert_eq!(second.pid(), first.pid());
    first.restore().unwrap();
    assert_eq!(try_to_connect(&at).unwrap().pid(), first.pid());
}

#[test]
fn a_port_without_threads_turns_peers_away_and_says_why() {
    let place = Place::open_to_all();
    let part = "shortage::ports::child_server";
    let Some(mut process) = Process::start_as(65534, part, &place) else { return };
    let at = port(&mut process);
    let first = connect(&place);
    // So that its lane has its thread.
    first.pid().unwrap();
    first.leave_no_thread().unwrap();
    for _ in 0..3 {
        let error = try_to_connect(&at).unwrap_err();
        assert!(error.contains("it has no thread to hear a hello"), "{error}");
        assert!(error.contains("ulimit -u"), "{error}");
    }
    first.restore().unwrap();
    assert_eq!(try_to_connect(&at).unwrap().pid(), first.pid());
}
