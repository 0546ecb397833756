//! Results that are read where they arrived.

use std::thread;

use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::service::pattern;

const LARGE: u32 = 300_000;

pub(crate) fn a_view_outlives_its_client_and_the_connection(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let (small, large) = (client.view().pattern(30).unwrap(), client.view().pattern(LARGE).unwrap());
    let entry = client.view().get("key").unwrap();
    // Others use their own memory.
    let many: Vec<_> = (0..8).map(|_| client.view().pattern(LARGE).unwrap()).collect();
    let read = || {
        assert_eq!(**small, *pattern(30));
        assert!(**large == *pattern(LARGE) && many.iter().all(|view| ***view == *pattern(LARGE)));
        assert_eq!((&*entry.key, entry.value.len()), ("key", 300));
    };
    read();
    drop(client);
    read();
    drop(started);
    thread::scope(|scope| scope.spawn(read).join().unwrap());
    // It goes to where nobody else has it.
    let moved =
        thread::spawn(move || (**large == *pattern(LARGE), large.to_owned().unwrap())).join().unwrap();
    assert!(moved.0 && moved.1 == pattern(LARGE));
}

pub(crate) fn views_are_read_where_trust_lets_them(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let view = client.view().pattern(LARGE).unwrap();
    assert_eq!(view.is_in_place(), ground.in_place);
    assert_eq!(client.transport().reads_in_place(), ground.in_place);
    // What is small is copied whoever sent it.
    assert!(!client.view().pattern(4000).unwrap().is_in_place());
}
