//! The calls of a sweep, each with a number of its own, and a log of what ran.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Condvar, Mutex};

use shmrpc::ClientBuilder;
use shmrpc::prelude::*;
use shmrpc_transport::connection::give_back_everywhere;

use crate::counts::{handed_file, to_hand_over};
use crate::plan::{Ground, Plan, Story};
use crate::support::BOUND;

/// Bytes of a payload that makes both arenas grow: more than the 1 MiB of a base segment.
pub(crate) const LARGE: usize = (1 << 20) + (1 << 16);

/// Bytes of a blob: too many to be copied beside its message.
const LENT: usize = 1 << 16;

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(crate) struct Refused {
    pub(crate) id: u64,
}

#[shmrpc::service]
pub(crate) trait Sweep {
    fn add(&self, id: u64, a: u32, b: u32) -> u32;
    fn echo(&self, id: u64, data: &[u8]) -> Vec<u8>;
    fn refuse(&self, id: u64) -> Result<(), Refused>;
    #[oneway]
    fn note(&self, id: u64);
    /// The server gives back the segments that it does not need.
    fn shrink(&self, id: u64);
    /// Returns when the server's door is open.
    fn hold(&self, id: u64) -> u64;
}

/// What has more than bytes. Apart, since a client of what has no descriptors may have other lanes.
#[shmrpc::service]
pub(crate) trait Hand {
    /// The server keeps it, and lets go of the one before.
    fn keep(&self, id: u64, blob: Blob);
    /// What was kept last, which is not kept any more.
    fn kept(&self, id: u64) -> Blob;
    fn fill(&self, ctx: &Context, id: u64, byte: u8) -> Blob;
    /// Gives back what it gets.
    fn pass(&self, id: u64, file: OwnedFd) -> OwnedFd;
    #[oneway]
    fn leave(&self, id: u64, file: OwnedFd);
}

/// Writes down what ran and what was answered, so that it is there when the process is not. One record is one write.
#[derive(Debug)]
pub(crate) struct Log(File);

const RAN: u8 = b'r';
const PUBLISHED: u8 = b'p';

impl Log {
    pub(crate) fn at(path: &Path) -> Self {
        Self(OpenOptions::new().append(true).create(true).open(path).unwrap())
    }

    pub(crate) fn ran(&self, id: u64) {
        self.write(RAN, id);
    }

    /// A reply has been published; to which call is not known here.
    pub(crate) fn published(&self) {
        self.write(PUBLISHED, 0);
    }

    fn write(&self, what: u8, id: u64) {
        let mut record = [what; 9];
        record[1..].copy_from_slice(&id.to_le_bytes());
        (&self.0).write_all(&record).unwrap();
    }
}

/// What a log says.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    /// How often each handler ran, by the number of its call.
    pub(crate) ran: HashMap<u64, u32>,
    /// Replies that were published.
    pub(crate) published: usize,
}

impl Logged {
    pub(crate) fn read(path: &Path) -> Self {
        let mut logged = Self::default();
        let bytes = std::fs::read(path).unwrap_or_default();
        for record in bytes.chunks_exact(9) {
            match record[0] {
                RAN => {
                    let id = u64::from_le_bytes(record[1..].try_into().unwrap());
                    *logged.ran.entry(id).or_default() += 1;
                }
                _ => logged.published += 1,
            }
        }
        logged
    }
}

/// Shut until it is opened, once.
#[derive(Debug, Default)]
pub(crate) struct Door(Mutex<bool>, Condvar);

impl Door {
    pub(crate) fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// Serves the calls, and logs them.
pub(crate) struct Logging(pub(crate) Log, pub(crate) std::sync::Arc<Door>, Mutex<Option<Blob>>);

impl Logging {
    pub(crate) fn new(log: Log, door: &std::sync::Arc<Door>) -> Self {
        Self(log, std::sync::Arc::clone(door), Mutex::default())
    }

    /// Of what its handlers keep.
    pub(crate) fn let_go(&self) {
        *self.2.lock().unwrap() = None;
    }
}

impl Sweep for Logging {
    fn add(&self, id: u64, a: u32, b: u32) -> u32 {
        self.0.ran(id);
        a + b
    }
    fn echo(&self, id: u64, data: &[u8]) -> Vec<u8> {
        self.0.ran(id);
        data.to_vec()
    }
    fn refuse(&self, id: u64) -> Result<(), Refused> {
        self.0.ran(id);
        Err(Refused { id })
    }
    fn note(&self, id: u64) {
        self.0.ran(id);
    }
    fn shrink(&self, id: u64) {
        self.0.ran(id);
        give_back_everywhere();
    }
    fn hold(&self, id: u64) -> u64 {
        self.0.ran(id);
        self.1.pass();
        id
    }
}

impl Hand for Logging {
    fn keep(&self, id: u64, blob: Blob) {
        self.0.ran(id);
        *self.2.lock().unwrap() = Some(blob);
    }
    fn kept(&self, id: u64) -> Blob {
        self.0.ran(id);
        self.2.lock().unwrap().take().unwrap_or_else(|| Vec::new().into())
    }
    fn fill(&self, ctx: &Context, id: u64, byte: u8) -> Blob {
        self.0.ran(id);
        let mut blob = ctx.blob(LENT);
        blob.fill(byte);
        blob.into()
    }
    fn pass(&self, id: u64, file: OwnedFd) -> OwnedFd {
        self.0.ran(id);
        file
    }
    fn leave(&self, id: u64, file: OwnedFd) {
        self.0.ran(id);
        drop(file);
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With the reply that the handler gave.
    Replied,
    /// A one-way call that was published.
    Sent,
    Failed(Outcome),
    /// Not because the other side died: the time was over.
    TimedOut,
}

impl<E> From<&CallError<E>> for End {
    fn from(error: &CallError<E>) -> Self {
        match error {
            CallError::DeadlineExceeded { .. } => Self::TimedOut,
            other => Self::Failed(other.outcome()),
        }
    }
}

fn connect<C: Client>(ground: Ground, place: &Path) -> Option<C> {
    let endpoint = ground.endpoint(place);
    let client = ground.client(ClientBuilder::<C>::new());
    let client = client.timeout(BOUND).reconnect(false).connect(endpoint).ok()?;
    assert_eq!(client.transport().transport(), ground.transport(), "{}", client.transport());
    Some(client)
}

/// Makes all calls of a story without a drain, whatever becomes of them, and says how each ended. Their numbers begin at
/// `first`. A wrong reply panics.
pub(crate) fn run(plan: Plan, place: &Path, first: u64) -> Vec<(u64, End)> {
    if plan.story == Story::Handed {
        let client = connect(plan.ground, place);
        return client.map(|client| hand_over(&client, first, place)).unwrap_or_default();
    }
    let Some(client) = connect(plan.ground, place) else { return Vec::new() };
    let mut ends = calls(&client, first);
    // A second thread opens a second lane.
    ends.extend(std::thread::scope(|scope| {
        let other = scope.spawn(|| calls(&client, first + 1000));
        let mut ends = calls(&client, first + 100);
        ends.extend(other.join().unwrap());
        ends
    }));
    ends
}

/// Calls that are in flight while the server drains.
pub(crate) const HELD: [u64; 2] = [3, 4];

/// Both sides grow and shrink; then two calls are in flight and a third lane is idle while the server shuts down.
/// `meanwhile` is done when all is so far; with it a call is made that the server may take or not.
pub(crate) fn run_until_drained(
    ground: Ground,
    place: &Path,
    meanwhile: impl FnOnce(&mut dyn FnMut()),
) -> Vec<(u64, End)> {
    let Some(client) = connect::<SweepClient>(ground, place) else { return Vec::new() };
    let data = vec![7; LARGE];
    let add = |id| (id, ended(&client.add(id, 1, 2), |sum| *sum == 3));
    let mut ends = vec![(1, ended(&client.echo(1, &data), |echo| *echo == data))];
    give_back_everywhere();
    ends.push((2, ended(&client.shrink(2), |()| true)));
    ends.extend(std::thread::scope(|scope| {
        let held = HELD.map(|id| {
            let client = &client;
            scope.spawn(move || (id, ended(&client.hold(id), |held| *held == id)))
        });
        // What was said on the socket before this lane was opened has been read on both sides.
        let mut ends = vec![add(5)];
        let mut late = None;
        meanwhile(&mut || late = Some(scope.spawn(|| add(6))));
        ends.extend(held.into_iter().chain(late).map(|call| call.join().unwrap()));
        ends
    }));
    ends.push(add(7));
    ends
}

fn ended<T>(result: &Result<T, CallError>, right: impl FnOnce(&T) -> bool) -> End {
    result.as_ref().map_or_else(End::from, |value| replied(right(value)))
}

/// Blobs and descriptors, both ways. The blob that is kept last outlives its client, if that is the one that dies.
fn hand_over(client: &HandClient, first: u64, place: &Path) -> Vec<(u64, End)> {
    let keep = |id| {
        let blob = client.blob(LENT).map(|mut blob| {
            blob.fill(7);
            blob
        });
        (id, ended(&blob.and_then(|blob| client.keep(id, blob)), |()| true))
    };
    let is_full_of = |byte| move |blob: &Blob| blob.len() == LENT && blob.iter().all(|found| *found == byte);
    let mut ends = vec![keep(first), keep(first + 1)];
    // Held while other memory is lent.
    let kept = client.kept(first + 2);
    ends.push((first + 2, ended(&kept, is_full_of(7))));
    ends.push((first + 3, ended(&client.fill(first + 3, 9), is_full_of(9))));
    drop(kept);
    let handed = |fd: &OwnedFd| {
        let inode = |file: File| file.metadata().unwrap().ino();
        inode(fd.try_clone().unwrap().into()) == std::fs::metadata(handed_file(place)).unwrap().ino()
    };
    let passed = client.pass(first + 4, to_hand_over(place));
    ends.push((first + 4, ended(&passed, handed)));
    let left = client.leave(first + 5, to_hand_over(place));
    ends.push((first + 5, left.map_or_else(|error| End::from(&error), |()| End::Sent)));
    ends.extend([keep(first + 6), keep(first + 7)]);
    ends
}

/// One call of every kind; their numbers count from `first`.
pub(crate) fn calls(client: &SweepClient, first: u64) -> Vec<(u64, End)> {
    let data = vec![7; LARGE];
    let mut ends = Vec::new();
    let mut ended = |result: Result<End, End>| {
        let id = first + u64::try_from(ends.len()).unwrap();
        ends.push((id, result.unwrap_or_else(|end| end)));
        id + 1
    };
    let id = ended(client.add(first, 1, 2).map(|sum| replied(sum == 3)).map_err(|error| End::from(&error)));
    let id = ended(client.note(id).map(|()| End::Sent).map_err(|error| End::from(&error)));
    let echo = client.echo(id, &data);
    let id = ended(echo.map(|echo| replied(echo == data)).map_err(|error| End::from(&error)));
    let view = client.view().echo(id, &data);
    let seen = view.as_ref().map(|view| replied(view.as_slice() == data));
    let id = ended(seen.map_err(End::from));
    let id = ended(match client.refuse(id) {
        Err(CallError::Service(refused)) => Ok(replied(refused.id == id)),
        Ok(()) => panic!("it was to refuse"),
        Err(other) => Err(End::from(&other)),
    });
    drop(view);
    ended(client.add(id, 2, 3).map(|sum| replied(sum == 5)).map_err(|error| End::from(&error)));
    ends
}

fn replied(right: bool) -> End {
    assert!(right, "a wrong reply");
    End::Replied
}
