//! Attacks by what becomes of the evil process itself: it steals sleepers and dies, dies at any moment, freezes,
//! leaves its sockets to a child.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdout, fork};

use super::attacks::Evil;
use super::raw::{ARENA, Peer, Rng, requeue};
use super::streams::is_served;
use super::target::{self, archive};
use crate::peer::Way;
use crate::support::process::say;

/// Runs `part` in a forked child, which ends with what it returns.
fn forked(part: impl FnOnce() -> i32) -> Pid {
    // SAFETY: this process is the test's own, and no other thread of it runs code now.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(part)).unwrap_or(101);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(code) }
        }
    }
}

/// A fresh seed each round: a forked child's progress is lost. It has done its deed if it is killed, or ends with 1.
pub(crate) fn rounds(evil: &mut Evil, part: impl Fn(&mut Evil) -> i32) {
    while evil.lasts() {
        evil.rng = Rng(evil.rng.next());
        match waitpid(forked(|| part(evil)), None).unwrap() {
            WaitStatus::Exited(_, 101) => panic!("a child of the evil process panicked"),
            WaitStatus::Exited(_, code) => evil.tally.deeds += u64::from(code == 1),
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => evil.tally.deeds += 1,
            other => panic!("a child of the evil process ended with {other:?}"),
        }
        evil.tally.rounds += 1;
        evil.tally.joined += 1;
    }
}

/// Moves the server's threads from the words that they sleep on to one where nobody wakes them, and dies. Half of the
/// time it calls once more before: the server is not to notice, but nobody else may suffer.
pub(crate) fn requeue_theft(evil: &mut Evil) {
    rounds(evil, |evil| {
        let Some(mut peer) = evil.join(4) else { return 0 };
        let mut stolen = 0;
        for lane in 0..4 {
            evil.call(&mut peer, lane, false);
            let asleep = peer.theirs.wide(Peer::side(lane));
            let end = Instant::now() + Duration::from_secs(5);
            while asleep.load(Ordering::Acquire) == 0 && Instant::now() < end {
                std::thread::yield_now();
            }
            let word = peer.own.word(Peer::slot(lane, peer.sent[lane as usize]));
            // It says that it sleeps before it does.
            while stolen <= i64::from(lane) && Instant::now() < end {
                stolen += requeue(word, peer.own.word(0), word.load(Ordering::Relaxed)).max(0);
                std::thread::yield_now();
            }
            if evil.rng.below(2) == 0 {
                peer.post(lane, target::ADD, &archive(&(1_u32, 2_u32)), ARENA);
            }
        }
        i32::from(stolen > 0)
    });
}

/// Is killed at some moment of its life.
pub(crate) fn sudden_deaths(evil: &mut Evil) {
    rounds(evil, |evil| {
        let Some(mut peer) = evil.join(2) else { return 0 };
        for lane in [0, 1, 0, 1] {
            match evil.rng.below(4) {
                0 => drop(raise(Signal::SIGKILL)),
                1 => drop(evil.call(&mut peer, lane, true)),
                _ => drop(peer.post(lane, target::BLOB, &archive(&(60_000_u32, 1_u8)), ARENA)),
            }
        }
        0
    });
}

/// Stops in the middle of calls. Whoever started it lets it go on, or kills it.
pub(crate) fn freeze(evil: &mut Evil) {
    let mut peers: Vec<Peer> = (0..4).filter_map(|_| evil.join(2)).collect();
    for peer in &mut peers {
        for lane in 0..2 {
            evil.call(peer, lane, true);
            for _ in 0..150 {
                peer.post(lane, target::BLOB, &archive(&(5000_u32, 1_u8)), ARENA);
            }
            evil.tally.rounds += 1;
        }
    }
    evil.stop();
    for peer in &mut peers {
        evil.tally.answered += u64::from(peer.reply(0));
        evil.tally.ended += u64::from(peer.is_over());
    }
}

impl Evil {
    /// Freezes with what was begun so far. It may be killed there, so it says before what it has done.
    pub(crate) fn stop(&mut self) {
        self.tally.deeds = self.tally.rounds;
        say(&self.tally.to_text());
        raise(Signal::SIGSTOP).unwrap();
    }
}

/// Ends, and leaves a child that holds its sockets and its memory until nobody holds the other end of its stdin.
pub(crate) fn fork_and_hold(evil: &mut Evil) {
    let mut peers: Vec<Peer> = (0..4).filter_map(|_| evil.join(2)).collect();
    while evil.lasts() {
        for peer in &mut peers {
            evil.tally.deeds += u64::from(evil.call(peer, 0, true));
        }
        evil.tally.rounds += 1;
    }
    leave_an_heir();
}

/// The same over Unix sockets. Over TCP nobody can know that it is another process that has the connection now.
pub(crate) fn stream_fork_and_hold(evil: &mut Evil) {
    let held = evil.crowd(2);
    while evil.lasts() {
        let lanes = held.iter().flat_map(|(_, lanes)| lanes);
        evil.tally.answered += lanes.filter(|lane| is_served(lane, Way::Uds)).count() as u64;
        evil.tally.deeds = evil.tally.answered;
        evil.tally.rounds += 1;
    }
    leave_an_heir();
}

fn leave_an_heir() {
    let heir = forked(|| {
        let nowhere = std::fs::File::options().write(true).open("/dev/null").unwrap();
        dup2_stdout(&nowhere).unwrap();
        dup2_stderr(&nowhere).unwrap();
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        0
    });
    say(&format!("heir {heir}"));
}
