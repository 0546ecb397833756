//! Whether a connection lives, and how its end reaches the threads of its lanes.

#[cfg(not(loom))]
use std::sync::OnceLock;

#[cfg(loom)]
use self::model::OnceLock;
use crate::sys::futex::Stop;
use crate::sys::membarrier;

/// The life of a connection: why it ended, once it has, and the words that end the waits of its lanes.
#[derive(Debug)]
pub struct Life<D> {
    death: OnceLock<D>,
    stops: Box<[Stop]>,
}

impl<D> Life<D> {
    /// Of a connection with so many lanes.
    pub fn new(lanes: u32) -> Self {
        Self { death: OnceLock::new(), stops: (0..lanes).map(|_| Stop::default()).collect() }
    }

    /// Why it ended, if it has.
    pub fn death(&self) -> Option<&D> {
        self.death.get()
    }

    /// The word that ends the waits of `lane`.
    #[inline(always)]
    pub fn stop(&self, lane: u32) -> Option<&Stop> {
        self.stops.get(lane as usize)
    }

    /// Ends the waits of all lanes; what was published is still served.
    pub fn stop_all(&self) {
        for stop in &self.stops {
            stop.set();
        }
    }

    /// Remembers why it ended. False if it had ended before: the first reason stays.
    pub fn end(&self, death: D) -> bool {
        self.death.set(death).is_ok()
    }

    /// What follows [`Life::end`] and [`Life::stop_all`], before the peer can see the end: a lane that takes a message now
    /// either shows the peer that it did, or sees the end itself and runs nothing ([`Life::may_run`]).
    pub fn reach_all(&self) {
        membarrier::everywhere();
    }

    /// Whether a message that was just taken may be run. No, if the connection has ended: the peer may have been told
    /// that the message was not taken.
    ///
    /// Stands after the store of `taken`; partner: the barrier in [`Life::reach_all`], after the stores of the stop
    /// words, which reaches every thread, so that this side needs none.
    #[inline(always)]
    pub fn may_run(&self, lane: u32) -> bool {
        membarrier::here();
        !self.stop(lane).is_some_and(Stop::is_set) || self.death.get().is_none()
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::atomic::{AtomicBool, Ordering};

    /// One whose orderings loom sees.
    #[derive(Debug)]
    pub(super) struct OnceLock<T> {
        is_set: AtomicBool,
        value: std::sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        pub(super) fn new() -> Self {
            Self { is_set: AtomicBool::new(false), value: std::sync::OnceLock::new() }
        }

        pub(super) fn get(&self) -> Option<&T> {
            self.is_set.load(Ordering::Acquire).then(|| self.value.get()).flatten()
        }

        pub(super) fn set(&self, value: T) -> Result<(), T> {
            self.value.set(value)?;
            self.is_set.store(true, Ordering::Release);
            Ok(())
        }
    }
}
