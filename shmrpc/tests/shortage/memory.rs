//! Address space (ENOMEM), the size of files (SIGXFSZ), and a full /dev/shm (ENOSPC).

use std::fs::{self, File};
use std::process::Command;

use shmrpc::Transport;
use shmrpc::prelude::*;

use super::{
    LARGE, Limited, ShortClient, child_place, connect, descriptors, disconnected, in_child, large, lost,
    not_encoded, serve, start_server, why_streams,
};
use crate::support::process::{Process, say};
use crate::support::{BOUND, Place, skipped, until};

#[test]
fn child_client_without_memory() {
    let Some(endpoint) = child_place() else { return };
    let builder = ShortClient::builder().timeout(BOUND).reconnect(false);
    let client = builder.connect(&endpoint).unwrap();
    let bytes = large();
    let open = descriptors();
    // Enough for what the allocator may want, not for a segment.
    let limited = Limited::memory(1 << 20);
    let text = not_encoded(client.sum(&bytes));
    assert!(text.contains("cannot map") && text.contains("ulimit -v"), "{text}");
    assert_eq!(client.sum(&[1; 100_000]), Ok(100_000));
    // A new connection does without memory, and says why.
    let reason = why_streams(&builder.connect(&endpoint).unwrap());
    assert!(reason.contains("cannot map") && reason.contains("ulimit -v"), "{reason}");
    drop(limited);
    // The watcher closes what the ended connection had.
    until("nothing is left", || descriptors() == open);
    assert_eq!(client.sum(&bytes), Ok(LARGE.into()));
    assert!(builder.connect(&endpoint).is_ok());
    say("well");
}

#[test]
fn a_client_without_memory_says_so_and_goes_on() {
    in_child("memory::child_client_without_memory");
}

#[test]
fn a_server_without_memory_loses_no_more_than_a_call_or_a_connection() {
    let place = Place::new();
    let _process = start_server(&place);
    let first = connect(&place);
    let open = first.open().unwrap();
    let second = connect(&place);
    second.pid().unwrap();
    first.prepare(LARGE).unwrap();
    first.leave_memory(1 << 20).unwrap();
    let text = lost(first.take());
    assert!(text.contains("cannot map") && text.contains("ulimit -v"), "{text}");
    let text = disconnected(second.sum(&large()));
    assert!(text.contains("the peer gave up") && text.contains("ulimit -v"), "{text}");
    // What the lost connection had is free again, so less is to be left for the next one. The client lets go when it is
    // dropped.
    drop(second);
    until("nothing is left of it", || first.open().as_ref() == Ok(&open));
    first.leave_memory(1 << 20).unwrap();
    let reason = why_streams(&connect(&place));
    assert!(reason.contains("cannot map") && reason.contains("ulimit -v"), "{reason}");
    assert_eq!(first.sum(&[1; 100_000]), Ok(100_000));
    first.restore().unwrap();
    first.prepare(LARGE).unwrap();
    assert_eq!(first.take().unwrap(), large());
    assert_eq!(connect(&place).sum(&large()), Ok(LARGE.into()));
}

// The size of files (SIGXFSZ).

/// Below what a base segment has, and above what it has room for.
const SMALL_FILES: u64 = 1 << 20;
const FILES: &str = "a file of this process may have 1048576; raise the limit (ulimit -f";

#[test]
fn child_client_with_small_files() {
    let Some(endpoint) = child_place() else { return };
    let over_socket = endpoint.replace("shm:", "uds:");
    let bytes = large();
    for memory in [Memory::Memfd, Memory::PosixShm] {
        let builder = ShortClient::builder().memory(memory).timeout(BOUND).reconnect(false);
        let client = builder.connect(&endpoint).unwrap();
        let streams = builder.connect(&over_socket).unwrap();
        assert_eq!(client.pid(), streams.pid());
        let open = descriptors();
        let limited = Limited::files_of(SMALL_FILES);
        let text = not_encoded(client.sum(&bytes));
        assert!(text.contains(FILES), "{text}");
        assert_eq!(client.sum(&[1; 100_000]), Ok(100_000));
        // What finds no memory goes over the socket.
        assert_eq!(streams.sum(&bytes), Ok(LARGE.into()));
        let reason = why_streams(&builder.connect(&endpoint).unwrap());
        assert!(reason.contains(FILES), "{reason}");
        assert_eq!(builder.connect(&over_socket).unwrap().sum(&bytes), Ok(LARGE.into()));
        drop(limited);
        // What an earlier round had may have counted, too.
        until("nothing is left", || descriptors() <= open);
        // What is asked for beyond the need does not fail a call.
        let limited = Limited::files_of(u64::from(LARGE) + (1 << 19));
        assert_eq!(client.sum(&bytes), Ok(LARGE.into()));
        drop(limited);
        assert_eq!(builder.connect(&endpoint).unwrap().transport().transport(), Transport::Shm);
    }
    say("well");
}

#[test]
fn a_client_whose_files_are_limited_says_so_and_goes_on() {
    in_child("memory::child_client_with_small_files");
}

#[test]
fn a_server_whose_files_are_limited_loses_no_more_than_a_call() {
    let place = Place::new();
    let _process = start_server(&place);
    let first = connect(&place);
    let pid = first.pid();
    first.prepare(LARGE).unwrap();
    first.leave_files_of(SMALL_FILES).unwrap();
    let text = lost(first.take());
    assert!(text.contains(FILES), "{text}");
    let second = connect(&place);
    let reason = why_streams(&second);
    assert!(reason.contains(FILES), "{reason}");
    assert_eq!((first.sum(&large()), second.sum(&large())), (Ok(LARGE.into()), Ok(LARGE.into())));
    second.prepare(LARGE).unwrap();
    assert_eq!(second.take().unwrap(), large());
    first.restore().unwrap();
    first.prepare(LARGE).unwrap();
    assert_eq!(first.take().unwrap(), large());
    assert_eq!(first.pid(), pid);
    assert_eq!(connect(&place).transport().transport(), Transport::Shm);
}

// A full /dev/shm (ENOSPC).

/// Client and server, in a /dev/shm of their own that has 16 MiB.
#[test]
fn child_in_a_small_dev_shm() {
    let Some(endpoint) = child_place() else { return };
    let _server = serve(&endpoint, Memory::PosixShm);
    let builder = ShortClient::builder().memory(Memory::PosixShm).timeout(BOUND).reconnect(false);
    let client = builder.connect(&endpoint).unwrap();
    let filler = "/dev/shm/filler";
    let fill = || {
        let left = nix::sys::statvfs::statvfs("/dev/shm").unwrap();
        let left = left.blocks_available() * left.fragment_size();
        let file = File::create(filler).unwrap();
        nix::fcntl::posix_fallocate(&file, 0, i64::try_from(left).unwrap()).unwrap();
    };
    fill();
    let advice = "make it larger (mount -o remount,size=SIZE /dev/shm), or use Memory::Memfd";
    let text = not_encoded(client.sum(&large()));
    assert!(text.contains("cannot reserve") && text.contains(advice), "{text}");
    client.prepare(LARGE).unwrap();
    let text = lost(client.take());
    assert!(text.contains("cannot reserve") && text.contains(advice), "{text}");
    assert_eq!(client.sum(&[1; 100_000]), Ok(100_000));
    // Neither side of a new connection has room; so it does without, whichever of them it is.
    for client in [builder.connect(&endpoint).unwrap(), ShortClient::connect(&endpoint).unwrap()] {
        let reason = why_streams(&client);
        assert!(reason.contains(advice), "{reason}");
        assert_eq!(client.sum(&large()), Ok(LARGE.into()));
    }

    fs::remove_file(filler).unwrap();
    assert!(ShortClient::connect(&endpoint).is_ok());
    assert!(builder.connect(&endpoint).is_ok());
    assert_eq!(client.sum(&vec![1; 2 << 20]), Ok(2 << 20));
    // What could not be had leaves nothing behind, and nothing has a name.
    assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
    say("well");
}

#[test]
fn a_full_dev_shm_is_an_error_and_not_a_death() {
    let place = Place::new();
    let mount = "mount -t tmpfs -o size=16m tmpfs /dev/shm";
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", &format!("{mount} && {script}"), "sh"]);
        command
    };
    if !unshared("true").output().is_ok_and(|output| output.status.success()) {
        return skipped("this machine gives no mount namespace with a /dev/shm of its own");
    }
    let mut command = unshared("exec \"$@\"");
    command.arg(std::env::current_exe().unwrap()).args([
        "--exact",
        "memory::child_in_a_small_dev_shm",
        "--nocapture",
    ]);
    let mut process = Process::spawn(command, &place.endpoint()).unwrap();
    process.says("well");
    assert!(process.ends().success());
}
