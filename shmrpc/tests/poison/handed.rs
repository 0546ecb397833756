//! Messages that bring descriptors: nothing private lies around them, and beside them come those that are meant and no
//! others.
//!
//! With rings descriptors go over the socket before their message is published, and a tap would make them late. So nobody takes
//! the message before they have been passed on: of arguments, since a gate keeps the lane that they are for; of results,
//! since nobody waits for them any more.

use std::fs::File;
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use shmrpc::prelude::*;

use crate::poison::service::{Holes, Poisoned, Uneven, holes};
use crate::poison::tap::{Shown, Tap, which};
use crate::support::{BOUND, Gate, Keeper, Place, gate};
use crate::{ONE_AT_A_TIME, assert_none, leaks, poison_stack, tap};

#[shmrpc::service]
pub(crate) trait Hands {
    fn nothing(&self);
    /// Waits at the gate, and so does what comes behind it on its lane.
    #[oneway]
    fn wait(&self);
    fn take(&self, file: OwnedFd);
    fn take_between(&self, a: u8, one: OwnedFd, value: Holes, other: OwnedFd, maybe: Option<u64>) -> Uneven;
    fn take_before(&self, file: OwnedFd, text: &str) -> Result<u64, Uneven>;
    #[oneway]
    fn leave(&self, on: bool, file: OwnedFd, value: Holes);
    /// Gives a descriptor of that file, when it has waited at the gate.
    fn give(&self, file: u32) -> OwnedFd;
    fn give_or(&self, a: u8, file: u32) -> Result<OwnedFd, Uneven>;
}

struct Hand {
    gate: Gate,
    files: Vec<File>,
}

impl Hands for Hand {
    fn nothing(&self) {}
    fn wait(&self) {
        self.gate.pass();
    }
    fn take(&self, file: OwnedFd) {
        drop(file);
        poison_stack();
    }
    fn take_between(&self, _: u8, _: OwnedFd, value: Holes, _: OwnedFd, _: Option<u64>) -> Uneven {
        poison_stack();
        Uneven::Holes(value)
    }
    fn take_before(&self, _: OwnedFd, text: &str) -> Result<u64, Uneven> {
        poison_stack();
        if text.len() > 100 { Ok(text.len() as u64) } else { Err(Uneven::Text(text.into())) }
    }
    fn leave(&self, _: bool, _: OwnedFd, _: Holes) {
        poison_stack();
    }
    fn give(&self, file: u32) -> OwnedFd {
        self.gate.pass();
        let file = self.files[file as usize].try_clone().unwrap();
        poison_stack();
        file.into()
    }
    fn give_or(&self, _: u8, file: u32) -> Result<OwnedFd, Uneven> {
        Ok(self.give(file))
    }
}

/// One that nobody else has.
fn file() -> File {
    let (_, writer) = pipe().unwrap();
    File::from(OwnedFd::from(writer))
}

/// A client of a server, with a tap in between.
struct Connected<'s> {
    client: HandsClient,
    tap: Tap,
    keeper: &'s Keeper,
    /// What the server can give to this client, the place of it among all that the server has, and which file it is.
    gift: (u32, u64),
    /// What the client, and what the server means the other to have.
    meant: [Vec<u64>; 2],
}

impl Connected<'_> {
    /// Makes a call with so many descriptors, which its server does not take before they are there.
    fn hand<const N: usize, R: Send>(&mut self, call: impl FnOnce(&HandsClient, [File; N]) -> R + Send) -> R {
        let (client, files) = (&self.client, [(); N].map(|()| file()));
        let meant = &mut self.meant[0];
        meant.extend(files.iter().map(which));
        thread::scope(|scope| {
            let calling = scope.spawn(|| {
                client.wait().unwrap();
                poison_stack();
                call(client, files)
            });
            self.keeper.entered();
            self.tap.until_handed(meant.len());
            self.keeper.release();
            calling.join().unwrap()
        })
    }

    /// Makes a call whose result has a descriptor, and does not wait for it.
    fn ask(&mut self, call: impl FnOnce(&HandsClient, u32) -> Outcome) {
        // So that there is a lane.
        self.client.nothing().unwrap();
        let (place, which) = self.gift;
        poison_stack();
        let outcome = call(&self.client.with_timeout(Duration::from_millis(1)), place);
        assert_eq!(outcome, Outcome::Unknown);
        self.meant[1].push(which);
        self.keeper.entered();
        self.keeper.release();
        self.tap.until_handed(1);
    }
}

/// Arguments in every place, inside a slot and in a block.
fn arguments(to: &mut Connected<'_>) {
    to.hand(|client, [file]| client.take(file)).unwrap();
    for maybe in [None, Some(1)] {
        let answer = to.hand(|client, [a, b]| client.take_between(1, a, holes(2), b, maybe));
        assert_eq!(answer, Ok(Uneven::Holes(holes(2))));
    }
    for text in ["", "short"] {
        let answer = to.hand(|client, [file]| client.take_before(file, text));
        assert_eq!(answer, Err(CallError::Service(Uneven::Text(text.into()))));
    }
    for length in [101, 5000] {
        let text = "t".repeat(length);
        assert_eq!(to.hand(|client, [file]| client.take_before(file, &text)), Ok(length as u64));
    }
    to.hand(|client, [file]| client.leave(true, file, holes(3))).unwrap();
    to.client.nothing().unwrap();
}

fn a_result(to: &mut Connected<'_>) {
    to.ask(|client, file| client.give(file).unwrap_err().outcome());
}

fn a_result_or_an_error(to: &mut Connected<'_>) {
    to.ask(|client, file| client.give_or(1, file).unwrap_err().outcome());
}

/// Runs `part` with two clients of one server, each behind a tap. Returns all that they and the server could see of each other.
fn handed(scheme: &str, part: fn(&mut Connected<'_>)) -> Vec<Vec<u8>> {
    let (place, (gate, keeper)) = (Place::new(), gate());
    let files = vec![file(), file()];
    let gifts: Vec<_> = files.iter().map(which).collect();
    let server = Server::builder().service(Poisoned(HandsServer::new(Hand { gate, files })));
    let server = server.listen(format!("{scheme}:{}", place.socket().display())).start().unwrap();
    let mut both: Vec<_> = (0..)
        .zip(gifts)
        .map(|gift| {
            let (tap, endpoint) = tap(&place, scheme, &gift.0.to_string());
            poison_stack();
            let client = HandsClient::builder().timeout(BOUND).reconnect(false).connect(&endpoint).unwrap();
            Connected { client, tap, keeper: &keeper, gift, meant: Default::default() }
        })
        .collect();
    both.iter_mut().for_each(part);
    // What comes too late is published when this is over.
    server.shutdown(BOUND).unwrap();
    both.into_iter()
        .flat_map(|Connected { client, tap, meant, .. }| {
            drop(client);
            let shown = tap.shown();
            let streams = usize::from(scheme == "uds");
            let [client, server] = meant;
            let meant = [(streams, 1, client), (streams, 1, server)];
            assert_eq!(shown.each_ref().map(Shown::beside), meant, "what came beside the bytes");
            shown.iter().flat_map(Shown::pieces).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn descriptors_come_alone_and_nothing_private_comes_with_them() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for scheme in ["shm", "uds"] {
        for part in [arguments, a_result, a_result_or_an_error] {
            assert_none(&leaks(|| handed(scheme, part)));
        }
    }
}
