//! The threads that serve lanes. One that has served its lane waits a moment for another: to start a thread and to end it costs a
//! server more than it costs a client to ask for a lane, and all threads of the process feel it (`munmap` interrupts them).

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;

/// How long a thread waits for its next lane: longer than a client that connects again takes, and short enough that nobody
/// looks for whose they are. A fuzz target waits for the end of its thread.
const IDLE: Duration = Duration::from_millis(if cfg!(fuzzing) { 0 } else { 100 });

/// Serves one lane until it ends.
type Lane = Box<dyn FnOnce() + Send>;

/// Threads of one server.
pub(super) struct Threads {
    /// The one that has waited least is the last, and is asked first: the others may end.
    waiting: Mutex<Vec<Waiting>>,
    idle: Duration,
}

struct Waiting {
    thread: ThreadId,
    next: Sender<Lane>,
}

impl Default for Threads {
    fn default() -> Self {
        Self::with(IDLE)
    }
}

impl Threads {
    fn with(idle: Duration) -> Self {
        Self { waiting: Mutex::default(), idle }
    }

    /// Has a thread serve the lane: one that waits, or a new one.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn serve(self: &Arc<Self>, mut lane: Lane) -> io::Result<()> {
        let waiting = self.waiting.lock().pop();
        if let Some(waiting) = waiting {
            match waiting.next.send(lane) {
                Ok(()) => return Ok(()),
                Err(SendError(back)) => lane = back,
            }
        }
        let threads = Arc::clone(self);
        let thread = thread::Builder::new().name("shmrpc-lane".into());
        thread.spawn(move || threads.serve_all(lane)).map(drop)
    }

    fn serve_all(&self, first: Lane) {
        let (next, lanes) = channel();
        let mut lane = Some(first);
        while let Some(serve) = lane {
            serve();
            lane = self.wait(&next, &lanes);
        }
    }

    /// The next lane, if one comes in time.
    fn wait(&self, next: &Sender<Lane>, lanes: &Receiver<Lane>) -> Option<Lane> {
        let thread = thread::current().id();
        self.waiting.lock().push(Waiting { thread, next: next.clone() });
        lanes.recv_timeout(self.idle).ok().or_else(|| self.end(thread, lanes))
    }

    /// Ends a thread that has waited for long enough, unless somebody has just asked it: then its lane comes.
    fn end(&self, thread: ThreadId, lanes: &Receiver<Lane>) -> Option<Lane> {
        let mut waiting = self.waiting.lock();
        if let Some(at) = waiting.iter().position(|waiting| waiting.thread == thread) {
            waiting.remove(at);
            return None;
        }
        drop(waiting);
        lanes.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + BOUND;
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            thread::yield_now();
        }
    }

    /// Serves a lane that ends at once, and returns whose it was.
    fn served_by(threads: &Arc<Threads>) -> ThreadId {
        let (tell, told) = channel();
        threads.serve(Box::new(move || tell.send(thread::current().id()).unwrap())).unwrap();
        told.recv_timeout(BOUND).unwrap()
    }

    #[test]
    fn a_thread_serves_one_lane_after_another() {
        let threads = Arc::new(Threads::with(BOUND));
        let first = served_by(&threads);
        for _ in 0..100 {
            until("it does not wait for the next one", || threads.waiting.lock().len() == 1);
            assert_eq!(served_by(&threads), first);
        }
    }

    #[test]
    fn nobody_waits_for_a_lane_that_lasts() {
        let threads = Arc::new(Threads::with(BOUND));
        let (end, lasts) = channel::<()>();
        threads.serve(Box::new(move || assert!(lasts.recv().is_err()))).unwrap();
        let other = served_by(&threads);
        until("it does not wait for the next one", || threads.waiting.lock().len() == 1);
        drop(end);
        until("the one that lasted waits, too", || threads.waiting.lock().len() == 2);
        // Whoever came last is asked first.
        assert_ne!(served_by(&threads), other);
    }

    #[test]
    fn who_has_waited_for_long_enough_ends() {
        let threads = Arc::new(Threads::with(Duration::from_nanos(1)));
        served_by(&threads);
        until("it waits on", || Arc::strong_count(&threads) == 1);
        assert!(threads.waiting.lock().is_empty());
    }

    #[test]
    fn who_was_asked_when_its_time_was_over_serves_once_more() {
        let threads = Threads::with(BOUND);
        let (next, lanes) = channel::<Lane>();
        let thread = thread::current().id();
        threads.waiting.lock().push(Waiting { thread, next });
        // Asked, and the lane is on its way.
        let asked = threads.waiting.lock().pop().unwrap();
        asked.next.send(Box::new(|| {})).unwrap();
        assert!(threads.end(thread, &lanes).is_some(), "a lane is lost");
        threads.waiting.lock().push(asked);
        assert!(threads.end(thread, &lanes).is_none());
        assert!(threads.waiting.lock().is_empty(), "somebody would ask who has ended");
    }
}
