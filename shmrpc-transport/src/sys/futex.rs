//! Futexes: wait on a shared word and on a private stop word at once; wake.

#[cfg(not(loom))]
pub use self::kernel::{times_displaced, wait, wake, yield_now};
#[cfg(loom)]
pub use self::model::{times_displaced, wait, wake, yield_now};

use core::time::Duration;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};

/// The longest a wait stays in the kernel when it has a deadline.
pub const SLICE: Duration = Duration::from_millis(100);

/// Ends the waits of one lane, whatever the peer does. Private to this process.
#[derive(Debug, Default)]
pub struct Stop {
    word: AtomicU32,
}

impl Stop {
    /// Whether [`Stop::set`] was called.
    #[inline(always)]
    pub fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire) != 0
    }

    /// Ends every wait with this stop word, now and later.
    pub fn set(&self) {
        self.word.store(1, Ordering::Release);
        #[cfg(not(loom))]
        kernel::wake_private(&self.word);
    }
}

/// When a wait ends. The clock is first read at the first slow check, so that a fast call reads none.
#[derive(Debug, Clone, Copy)]
pub struct Until {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
}

impl Until {
    /// A wait that ends `timeout` after its first slow check.
    #[inline(always)]
    pub fn after(timeout: Duration) -> Self {
        Self { timeout: Some(timeout), deadline: None }
    }

    /// A wait without end.
    pub fn never() -> Self {
        Self { timeout: None, deadline: None }
    }

    /// Whether the time is over.
    pub fn is_over(&mut self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// The time left; `None` without end.
    pub fn left(&mut self) -> Option<Duration> {
        let timeout = self.timeout?;
        let now = Instant::now();
        match self.deadline {
            Some(deadline) => Some(deadline.saturating_duration_since(now)),
            None => {
                self.deadline = now.checked_add(timeout);
                if self.deadline.is_none() {
                    self.timeout = None;
                }
                self.timeout
            }
        }
    }

    /// What is left of a time limit of `timeout_ms`, as [`in_ms`] has it: all of it, before the first slow check.
    #[inline(always)]
    pub(crate) fn left_of(&mut self, timeout_ms: u32) -> u32 {
        if self.deadline.is_none() || timeout_ms == 0 { timeout_ms } else { self.left_now() }
    }

    #[cold]
    fn left_now(&mut self) -> u32 {
        self.left().map_or(0, in_ms)
    }
}

/// A time limit as it travels: at least 1 ms; 0, for ever, if it does not fit.
#[inline(always)]
pub fn in_ms(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis().max(1)).unwrap_or(0)
}

#[cfg(not(loom))]
mod kernel {
    use core::time::Duration;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use nix::errno::Errno;
    use nix::libc;
    use nix::sys::resource::{UsageWho, getrusage};

    use super::{SLICE, Stop, Until};
    use crate::sync::Word;

    /// Cleared once the kernel says that it has no futex_waitv (before 5.16).
    static HAS_WAITV: AtomicBool = AtomicBool::new(true);

    /// One entry of futex_waitv's list (`struct futex_waitv` of linux/futex.h).
    #[repr(C)]
    struct Waiter {
        value: u64,
        address: u64,
        flags: u32,
        reserved: u32,
    }

    const SIZE_U32: u32 = 2;
    const PRIVATE: u32 = 128;

    /// Sleeps while `word` holds `expected` and `stop` is not set, for [`SLICE`] at most if there is a deadline.
    /// May return early.
    pub fn wait(word: &Word, expected: u32, stop: &Stop, until: &mut Until) {
        let timeout = until.left().map(|left| left.min(SLICE));
        if HAS_WAITV.load(Ordering::Relaxed) {
            if wait_either(word, expected, &stop.word, timeout) {
                return;
            }
            HAS_WAITV.store(false, Ordering::Relaxed);
        }
        if !stop.is_set() {
            // Without futex_waitv the stop word is looked at once a slice.
            wait_one(word, expected, timeout.unwrap_or(SLICE).min(SLICE));
        }
    }

    /// False if the kernel has no futex_waitv.
    fn wait_either(word: &Word, expected: u32, stop: &AtomicU32, timeout: Option<Duration>) -> bool {
        let waiters = [
            Waiter {
                value: u64::from(expected),
                address: word.as_ptr() as u64,
                flags: SIZE_U32,
                reserved: 0,
            },
            Waiter { value: 0, address: stop.as_ptr() as u64, flags: SIZE_U32 | PRIVATE, reserved: 0 },
        ];
        // futex_waitv takes an absolute time.
        let deadline = timeout.map(|timeout| timespec(monotonic() + timeout));
        let deadline = deadline.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: the list has two entries and outlives the call, and so does the deadline; the kernel only reads
        // the two words, which the references keep mapped.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex_waitv,
                waiters.as_ptr(),
                waiters.len(),
                0,
                deadline,
                libc::CLOCK_MONOTONIC,
            )
        };
        result >= 0 || !matches!(Errno::last(), Errno::ENOSYS | Errno::EPERM)
    }

    fn wait_one(word: &Word, expected: u32, timeout: Duration) {
        let timeout = timespec(timeout);
        // SAFETY: the kernel reads the word, which the reference keeps mapped, and the time, which outlives the call.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                expected,
                core::ptr::from_ref(&timeout),
            )
        };
    }

    /// Wakes the one that sleeps on a word of ours, which is the peer's thread that has that end of the lane.
    ///
    /// One and no more: a word of ours is one that the peer can wait on, with as many threads as it can have, and each
    /// that is woken costs us some microseconds. We never sleep on a word of ours, so that what another thread of the
    /// peer takes of a wake is the peer's own.
    #[cold]
    #[inline(never)]
    pub fn wake(word: &Word) {
        // SAFETY: FUTEX_WAKE uses the address as a name only.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    /// Wakes all that sleep on a word of this process, which nobody else can wait on.
    pub(super) fn wake_private(word: &AtomicU32) {
        // SAFETY: FUTEX_WAKE uses the address as a name only.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                i32::MAX,
            )
        };
    }

    /// Lets another thread run.
    pub fn yield_now() {
        std::thread::yield_now();
    }

    /// How often another thread has run in the place of this one though this one could have gone on: its turns for others
    /// that somebody took, and its preemptions. 0 if the system does not say.
    pub fn times_displaced() -> u64 {
        let usage = getrusage(UsageWho::RUSAGE_THREAD);
        usage.map_or(0, |usage| u64::try_from(usage.involuntary_context_switches()).unwrap_or(0))
    }

    fn monotonic() -> Duration {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        now.map_or(Duration::ZERO, Duration::from)
    }

    fn timespec(duration: Duration) -> libc::timespec {
        *nix::sys::time::TimeSpec::from_duration(duration).as_ref()
    }

    #[cfg(test)]
    mod tests {
        use std::sync::mpsc::channel;

        use nix::unistd::gettid;

        use super::*;

        /// Nothing here takes so long unless something is broken.
        const BOUND: Duration = Duration::from_secs(30);

        #[test]
        fn a_wait_ends_at_its_deadline_with_and_without_waitv() {
            let words: Box<[u32; 16]> = Box::new([0; 16]);
            // SAFETY: Word is a transparent AtomicU32; the box is not touched otherwise.
            let word = unsafe { &*words.as_ptr().cast::<Word>() };
            let stop = Stop::default();
            assert!(wait_either(word, 0, &stop.word, Some(Duration::from_millis(1))));
            wait_one(word, 0, Duration::from_millis(1));
            // A word that differs does not sleep at all.
            let mut until = Until::never();
            wait(word, 1, &stop, &mut until);
        }

        #[test]
        fn a_wake_wakes_one_of_a_crowd() {
            const CROWD: i64 = 3;
            let words: Box<[[u32; 16]; 2]> = Box::default();
            let [apart, word] = words.each_ref().map(|word| {
                // SAFETY: Word is a transparent AtomicU32; the box is not touched otherwise.
                unsafe { &*word.as_ptr().cast::<Word>() }
            });
            std::thread::scope(|scope| {
                for _ in 0..CROWD {
                    scope.spawn(|| wait_one(apart, 0, Duration::from_secs(60)));
                }
                // Whom the kernel moves sleeps. All at once: whom it interrupts goes back to where he was.
                while counted(apart, libc::FUTEX_REQUEUE, 0, word) < CROWD {
                    counted(word, libc::FUTEX_REQUEUE, 0, apart);
                    std::thread::yield_now();
                }
                wake(word);
                assert_eq!(counted(word, libc::FUTEX_WAKE, i32::MAX, word), CROWD - 1);
            });
        }

        /// How many this operation has woken or moved.
        fn counted(word: &Word, operation: i32, woken: i32, to: &Word) -> i64 {
            // SAFETY: both operations use the addresses as names only.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    word.as_ptr(),
                    operation,
                    woken,
                    i64::from(i32::MAX),
                    to.as_ptr(),
                )
            }
        }

        #[test]
        fn a_stop_ends_a_wait_without_end() {
            let words: Box<[u32; 16]> = Box::new([0; 16]);
            // SAFETY: Word is a transparent AtomicU32; the box is not touched otherwise.
            let word = unsafe { &*words.as_ptr().cast::<Word>() };
            let stop = Stop::default();
            let (say, said) = channel();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    say.send(gettid()).unwrap();
                    while !stop.is_set() {
                        wait(word, 0, &stop, &mut Until::never());
                    }
                    say.send(gettid()).unwrap();
                });
                let stat = format!("/proc/self/task/{}/stat", said.recv().unwrap());
                while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
                    std::thread::yield_now();
                }
                stop.set();
                let ended = said.recv_timeout(BOUND);
                // It has to end if the test fails.
                wake(word);
                assert!(ended.is_ok(), "it sleeps on");
            });
        }
    }
}

#[cfg(loom)]
mod model {
    use super::{Stop, Until};
    use crate::sync::Word;

    /// Sleeps while `word` holds `expected`.
    pub fn wait(word: &Word, expected: u32, _stop: &Stop, _until: &mut Until) {
        word.wait_while(expected);
    }

    /// Wakes one that sleeps on `word`.
    pub fn wake(word: &Word) {
        word.wake();
    }

    /// Lets another thread run.
    pub fn yield_now() {
        loom::thread::yield_now();
    }

    /// Nobody counts.
    pub fn times_displaced() -> u64 {
        0
    }
}
