//! A memory whose process ends at its N-th operation, as if by `kill -9`.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmrpc_transport::sync::instrument::{self, Memory};

use crate::scenario::Log;

/// Ends the process before the operation with this number, counted from 1. Looks that find what the same thread's last
/// one found are not counted: a crash between two of them differs from none before the first in nothing.
pub(crate) struct Crash {
    at: u64,
    count: AtomicU64,
    log: Log,
}

impl Crash {
    /// Puts it behind all words of this process; replies that are published go to the log.
    pub(crate) fn install(at: u64, log: Log) {
        instrument::install(Box::leak(Box::new(Self { at, count: AtomicU64::new(0), log })));
    }

    fn step(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
            kill(Pid::this(), Signal::SIGKILL).unwrap();
        }
    }
}

thread_local! {
    static LAST: Cell<(usize, u64)> = const { Cell::new((0, 0)) };
}

impl Memory for Crash {
    fn loaded(&self, address: usize, value: u64) -> u64 {
        if LAST.replace((address, value)) != (address, value) {
            self.step();
        }
        value
    }

    fn storing(&self, _address: usize, _value: u64) {
        self.step();
    }

    fn copied(&self, _address: usize, _copy: &mut [u8]) {
        self.step();
    }

    fn published(&self) {
        self.log.published();
    }

    fn sent(&self) {
        self.log.published();
    }
}
