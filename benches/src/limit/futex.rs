//! The round trip of a word to a process that sleeps in FUTEX_WAIT: what a call costs if the other side does not poll.

use std::{
    io, ptr,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use nix::{errno::Errno, libc};

use crate::{error::Result, shared::Shared};

/// How the caller waits for the answer. Which is faster differs between machines, so a round tries both.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Caller {
    /// Asleep too.
    Sleeps,
    /// Looking: the peer's wake-up call finds nobody.
    Looks,
}

/// The caller: asks question `round`, counted from 1, and waits until it is answered.
pub(crate) fn call(shared: &Shared, round: u32, caller: Caller) -> Result<()> {
    publish(shared.futex_word(0), round)?;
    let answer = shared.futex_word(4);
    match caller {
        Caller::Sleeps => wait(answer, round),
        Caller::Looks => {
            while answer.load(SeqCst) != round {
                std::hint::spin_loop();
            }
            Ok(())
        }
    }
}

/// The peer: answers `1..=count`, asleep between them.
pub(crate) fn serve(shared: &Shared, count: u32) -> Result<()> {
    for round in 1..=count {
        wait(shared.futex_word(0), round)?;
        publish(shared.futex_word(4), round)?;
    }
    Ok(())
}

fn publish(word: &AtomicU32, value: u32) -> Result<()> {
    word.store(value, SeqCst);
    // Without asking whether the other side sleeps: here it always does.
    futex(word, libc::FUTEX_WAKE, 1)
}

fn wait(word: &AtomicU32, value: u32) -> Result<()> {
    loop {
        let now = word.load(SeqCst);
        if now == value {
            return Ok(());
        }
        futex(word, libc::FUTEX_WAIT, now)?;
    }
}

fn futex(word: &AtomicU32, operation: i32, argument: u32) -> Result<()> {
    let forever = ptr::null::<libc::timespec>();
    // SAFETY: the word outlives the call and is aligned; no timeout is given; the futex is shared between processes.
    let done = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, argument, forever) };
    if done >= 0 {
        return Ok(());
    }
    match Errno::last() {
        // The word had changed already, or a signal came: the caller looks again.
        Errno::EAGAIN | Errno::EINTR => Ok(()),
        error => Err(io::Error::from(error).into()),
    }
}
