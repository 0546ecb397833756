//! Either side is killed while descriptors are on their way: whoever is left closes what it had, and its calls end as they
//! should.

use std::io::pipe;

use shmrpc::prelude::*;

use super::{FilesClient, assert_forgotten, with_a_server, zero, zeros_held};
use crate::support::process::{ENDPOINT, Process, say, until_orphaned};
use crate::support::{BOUND, until};

/// The client of a test below.
#[test]
fn leaves_one_behind() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let client = FilesClient::connect(endpoint).unwrap();
    client.wait().unwrap();
    client.leave(zero()).unwrap();
    say("left");
    until_orphaned();
}

/// The client of the tests below: the call that it makes is answered, or not.
#[test]
fn waits_for_one() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let client = FilesClient::builder().timeout(BOUND).reconnect(false).connect(endpoint).unwrap();
    match client.wait_and_zero() {
        Ok(_file) => say(&format!("got {} of them", zeros_held())),
        Err(error) => say(&format!("failed: {error}")),
    }
    drop(client);
    until("the end of the descriptor", || zeros_held() == 0);
    say("well");
    until_orphaned();
}

#[test]
fn a_client_that_was_killed_leaves_nothing() {
    with_a_server(|endpoint, _, client| {
        let mut other = Process::start_with("deaths::leaves_one_behind", endpoint, |command| command);
        other.says("left");
        if endpoint.starts_with("shm") {
            until("the descriptor that waits", || client.zeros().unwrap() == 1);
        }
        other.kill();
        client.let_out().unwrap();
        until("the end of the descriptor", || client.zeros().unwrap() == 0);
    });
}

#[test]
fn a_server_that_was_killed_leaves_nothing() {
    with_a_server(|_, server, client| {
        let (reader, writer) = pipe().unwrap();
        client.wait().unwrap();
        client.leave(writer).unwrap();
        server.kill();
        assert_forgotten(&reader);
        let (reader, writer) = pipe().unwrap();
        let error = client.take(writer).unwrap_err();
        assert!(matches!(&error, CallError::Disconnected { outcome: Outcome::NotRun, .. }), "{error}");
        assert_forgotten(&reader);
    });
}

#[test]
fn a_server_that_was_killed_with_a_call_leaves_nothing() {
    with_a_server(|_, server, client| {
        let (reader, writer) = pipe().unwrap();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| client.wait_with(writer));
            until("the call", || client.waits().unwrap() == (1, 0));
            server.kill();
            let error = call.join().unwrap().unwrap_err();
            assert!(matches!(&error, CallError::Disconnected { outcome: Outcome::Unknown, .. }), "{error}");
        });
        assert_forgotten(&reader);
    });
}

/// The client sleeps, and when it wakes, it finds the reply, and that the server is dead.
#[test]
fn what_a_server_sent_before_it_was_killed_is_had() {
    with_a_server(|endpoint, server, client| {
        let mut other = Process::start_with("deaths::waits_for_one", endpoint, |command| command);
        until("the call", || client.waits().unwrap() == (1, 0));
        other.stop();
        client.let_out().unwrap();
        until("the reply", || client.waits().unwrap() == (1, 1) && client.zeros().unwrap() == 0);
        server.kill();
        other.go_on();
        assert_eq!(other.tells("got"), "got 1 of them");
        other.says("well");
    });
}

#[test]
fn a_result_for_a_client_that_was_killed_is_closed() {
    with_a_server(|endpoint, _, client| {
        let mut other = Process::start_with("deaths::waits_for_one", endpoint, |command| command);
        until("the call", || client.waits().unwrap() == (1, 0));
        other.kill();
        client.let_out().unwrap();
        until("the result", || client.waits().unwrap() == (1, 1));
        until("the end of the descriptor", || client.zeros().unwrap() == 0);
    });
}

#[test]
fn arguments_of_a_client_that_was_killed_are_the_handlers() {
    with_a_server(|endpoint, _, client| {
        let mut other = Process::start_with("deaths::hands_one_over", endpoint, |command| command);
        until("the call", || client.waits().unwrap() == (1, 0));
        other.kill();
        assert_eq!(client.zeros(), Ok(1), "the handler has it");
        client.let_out().unwrap();
        until("the end of the descriptor", || client.zeros().unwrap() == 0);
    });
}

/// The client of the test above.
#[test]
fn hands_one_over() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let client = FilesClient::builder().timeout(BOUND).connect(endpoint).unwrap();
    client.wait_with(zero()).unwrap();
}
