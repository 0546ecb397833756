//! Clients in forked children.

use nix::sys::wait::{WaitStatus, waitpid};
use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::service::pattern;
use crate::support::process::{forked, say};

/// In a process of its own, where no other test holds a lock.
pub(crate) fn forked_clients_are_their_parents(ground: Ground) {
    let mut child = ground.child("child_that_forks", "");
    child.says("well");
    // By itself, so that it leaves nothing behind.
    assert!(child.ends().success());
}

pub(crate) fn parent() {
    let Some(ground) = Ground::of_child() else { return };
    let started = ground.start();
    let client = started.connect();
    // In an option, so that the child can drop it while the parent keeps it.
    let mut other = Some(started.connect());
    let view = client.view().pattern(300_000).unwrap();
    let child = forked(|| {
        let other = other.take().unwrap();
        let forked = CallError::Forked;
        assert_eq!(forked.outcome(), Outcome::NotRun);
        assert_eq!(client.add(1, 2), Err(forked.clone()));
        assert_eq!(client.note(1, 1), Err(forked.clone()));
        assert_eq!(client.blob::<u8>(10).map(drop), Err(forked.clone()));
        assert_eq!(other.view().pattern(10).map(drop), Err(forked));
        assert!(**view == *pattern(300_000));
        drop(other);
    });
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    // Nothing of the parent's has changed.
    assert_eq!(client.noted(1), Ok(vec![]));
    assert_eq!(other.unwrap().add(1, 2), Ok(3));
    assert!(**view == *pattern(300_000));
    say("well");
}
