//! What the system counts of the calling thread.

use core::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

/// How long this thread has had a core. Time goes on as on the wall if the system does not say.
pub fn computed() -> Duration {
    let own = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    own.or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC)).map_or(Duration::ZERO, Duration::from)
}

/// How often this thread has slept, for whatever it waited. 0 if the system does not say.
pub fn times_slept() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD);
    usage.map_or(0, |usage| u64::try_from(usage.voluntary_context_switches()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint;
    use std::thread;

    #[test]
    fn who_computes_has_a_core() {
        let before = computed();
        while computed() - before < Duration::from_millis(1) {
            hint::spin_loop();
        }
    }

    #[test]
    fn a_sleep_is_counted() {
        let before = times_slept();
        thread::sleep(Duration::from_millis(1));
        assert!(times_slept() > before);
    }
}
