//! The lanes of a client: which thread calls on which.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::connection::{Connection, Death};
use crate::exclusive::{Exclusive, Taken};
use crate::lane::{CallerLane, NotOpened};
use crate::sys::futex::Until;

/// How often a thread that waits for a lane looks for overdue replies.
const LOOK: Duration = Duration::from_millis(5);
/// How long a client whose server refused a lane does with those that it has, before it asks again.
const AGAIN: Duration = Duration::from_secs(1);

/// The lanes of one connection, opened when a thread first needs one.
///
/// Threads stick to lanes: a thread comes back to the lane that it was on last, if nobody else is on it.
#[derive(Debug)]
pub struct Callers {
    connection: Arc<Connection>,
    lanes: Box<[Padded]>,
    /// Lanes that are open: the first ones.
    open: AtomicU32,
    opening: Mutex<Opening>,
    waiting: AtomicU32,
    queue: Mutex<()>,
    freed: Condvar,
}

/// Two cache lines, so that neighbours do not share. Empty until the lane is opened.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(OnceLock<Exclusive<CallerLane>>);

/// How lanes are opened: one at a time.
#[derive(Debug)]
struct Opening {
    /// Lanes that may be open; lowered for [`AGAIN`] when the server refuses one.
    limit: u32,
    /// When it refused one.
    refused: Option<Instant>,
    /// Whether a thread waits for the server's answer. The others do not wait for that thread.
    busy: bool,
}

/// No lane could be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoLane {
    /// The server serves no lane to us, for this reason.
    Refused(String),
    /// Every lane was in use until the time was over.
    TimedOut,
    /// The connection ended.
    Dead(Death),
}

/// A lane that one thread has to itself.
#[derive(Debug)]
pub struct Lease<'c> {
    callers: &'c Callers,
    index: u32,
    guard: Taken<'c, CallerLane>,
}

thread_local! {
    /// The lane that this thread was on last, of whatever connection.
    static LAST: Cell<u32> = const { Cell::new(0) };
    /// One-way calls of this thread that may not have run yet: at most one entry a connection.
    static TRAILS: RefCell<Vec<Trail>> = const { RefCell::new(Vec::new()) };
    /// Whether `TRAILS` has entries: all that a call looks at.
    static HAS_TRAILS: Cell<bool> = const { Cell::new(false) };
}

/// Where this thread's latest one-way call on a connection went.
#[derive(Debug, Clone)]
struct Trail {
    connection: Weak<Connection>,
    lane: u32,
    /// The lane's position after that call.
    position: u32,
}

impl Trail {
    fn is_of(&self, connection: &Arc<Connection>) -> bool {
        self.connection.as_ptr() == Arc::as_ptr(connection)
    }
}

/// Reads or changes this thread's trails; those of connections that have ended go on the way. `None` in the destructors
/// of a thread that ends, where there are no trails any more.
fn with_trails<T>(work: impl FnOnce(&mut Vec<Trail>) -> T) -> Option<T> {
    let done = TRAILS.try_with(|trails| {
        let mut trails = trails.borrow_mut();
        trails.retain(|trail| {
            trail.connection.upgrade().is_some_and(|connection| connection.death().is_none())
        });
        let done = work(&mut trails);
        HAS_TRAILS.set(!trails.is_empty());
        done
    });
    if done.is_err() {
        HAS_TRAILS.set(false);
    }
    done.ok()
}

impl Callers {
    /// No lane is open yet.
    pub fn new(connection: Arc<Connection>) -> Self {
        let lanes = connection.limits().lanes;
        Self {
            connection,
            lanes: (0..lanes).map(|_| Padded(OnceLock::new())).collect(),
            open: AtomicU32::new(0),
            opening: Mutex::new(Opening { limit: lanes, refused: None, busy: false }),
            waiting: AtomicU32::new(0),
            queue: Mutex::new(()),
            freed: Condvar::new(),
        }
    }

    /// The connection that the lanes belong to.
    #[inline(always)]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// A lane for the calling thread alone.
    ///
    /// # Errors
    /// [`NoLane`]; nothing was sent.
    #[inline(always)]
    pub fn lease(&self, until: &mut Until) -> Result<Lease<'_>, Box<NoLane>> {
        if !HAS_TRAILS.get()
            && !self.connection.is_going_away()
            && let Some(lease) = self.try_lane(LAST.get())
        {
            return Ok(lease);
        }
        self.lease_slowly(until)
    }

    /// The lane, if it is open and nobody is on it.
    #[inline(always)]
    fn try_lane(&self, index: u32) -> Option<Lease<'_>> {
        let mut guard = self.lanes.get(index as usize)?.0.get()?.take()?;
        guard.is_free().then_some(Lease { callers: self, index, guard })
    }

    /// Takes replies off the lanes that were set aside, as far as they have come. For those who must not let them lie there:
    /// what came with them is open as long.
    pub fn tidy(&self) {
        for index in 0..self.open.load(Ordering::Acquire) {
            if let Some(lease) = self.try_lane(index) {
                lease.end();
            }
        }
    }

    #[inline(never)]
    fn lease_slowly(&self, until: &mut Until) -> Result<Lease<'_>, Box<NoLane>> {
        let mut registered = Registered { callers: self, on: false };
        loop {
            if let Some(death) = self.connection.death() {
                return Err(Box::new(NoLane::Dead(death.clone())));
            }
            if self.connection.is_going_away() {
                let reason = "the server is shutting down and takes no new calls".into();
                return Err(Box::new(NoLane::Dead(Death { reason, peer_closed: false })));
            }
            if let Some(lease) = self.try_all(until).map_err(Box::new)? {
                return Ok(lease);
            }
            if until.is_over() {
                return Err(Box::new(NoLane::TimedOut));
            }
            if !registered.on {
                registered.enter();
                continue;
            }
            let mut queue = self.queue.lock();
            self.freed.wait_for(&mut queue, LOOK);
        }
    }

    /// One round over all lanes that program order allows: the trail's, the last one, any open one, a new one.
    fn try_all(&self, until: &mut Until) -> Result<Option<Lease<'_>>, NoLane> {
        if let Some(trail) = self.trail() {
            if let Some(lease) = self.try_lane(trail.lane) {
                return Ok(Some(lease));
            }
            if !self.has_run(trail) {
                // Another lane would overtake our own one-way call.
                return Ok(None);
            }
            self.forget_trail();
        }
        let last = LAST.get();
        let open = self.open.load(Ordering::Acquire);
        let lease = (0..open).find_map(|step| self.try_lane((last.wrapping_add(step)) % open));
        match lease {
            Some(lease) => {
                LAST.set(lease.index);
                Ok(Some(lease))
            }
            None => self.try_open(until),
        }
    }

    /// Opens one more lane, if there may be one more and nobody is at it.
    fn try_open(&self, until: &mut Until) -> Result<Option<Lease<'_>>, NoLane> {
        let mut opening = self.opening.lock();
        let index = self.open.load(Ordering::Acquire);
        if index >= opening.limit && opening.refused.is_some_and(|refused| refused.elapsed() >= AGAIN) {
            // What the server lacked it may have now.
            (opening.limit, opening.refused) = (self.connection.limits().lanes, None);
        }
        if opening.busy || index >= opening.limit {
            return Ok(None);
        }
        let Some(place) = self.lanes.get(index as usize) else { return Ok(None) };
        opening.busy = true;
        drop(opening);
        let opened = CallerLane::open(&self.connection, index, until);
        let mut opening = self.opening.lock();
        opening.busy = false;
        let lease = match opened {
            Ok(lane) => {
                place.0.get_or_init(|| Exclusive::new(lane));
                self.open.store(index + 1, Ordering::Release);
                LAST.set(index);
                // Another thread may have been faster; then the caller looks again.
                Ok(self.try_lane(index))
            }
            Err(NotOpened::Dead(death)) => Err(NoLane::Dead(death)),
            Err(NotOpened::TimedOut) => Err(NoLane::TimedOut),
            Err(NotOpened::Refused(reason)) if index == 0 => Err(NoLane::Refused(reason)),
            Err(NotOpened::Refused(reason)) => {
                tracing::debug!(
                    open = index,
                    reason,
                    "the server refused a further lane; those that are open are shared"
                );
                (opening.limit, opening.refused) = (index, Some(Instant::now()));
                Ok(None)
            }
        };
        drop(opening);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            self.wake_one();
        }
        lease
    }

    #[cold]
    fn wake_one(&self) {
        drop(self.queue.lock());
        self.freed.notify_one();
    }

    fn trail(&self) -> Option<Trail> {
        with_trails(|trails| trails.iter().find(|trail| trail.is_of(&self.connection)).cloned()).flatten()
    }

    fn forget_trail(&self) {
        with_trails(|trails| trails.retain(|trail| !trail.is_of(&self.connection)));
    }

    fn leave_trail(&self, lane: u32, position: u32) {
        let connection = Arc::downgrade(&self.connection);
        with_trails(|trails| {
            trails.retain(|trail| !trail.is_of(&self.connection));
            trails.push(Trail { connection, lane, position });
        });
    }

    /// Whether the server is done with everything up to the end of the trail.
    fn has_run(&self, trail: Trail) -> bool {
        self.connection.is_done(trail.lane, trail.position)
    }
}

/// A thread in the queue for a lane.
struct Registered<'c> {
    callers: &'c Callers,
    on: bool,
}

impl Registered<'_> {
    fn enter(&mut self) {
        self.callers.waiting.fetch_add(1, Ordering::SeqCst);
        self.on = true;
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if self.on {
            self.callers.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Lease<'_> {
    /// The lane.
    #[inline(always)]
    pub fn lane(&mut self) -> &mut CallerLane {
        &mut self.guard
    }

    /// Remembers that this thread sent a one-way call here.
    pub fn sent_oneway(&self) {
        self.callers.leave_trail(self.index, self.guard.position());
    }

    /// A reply came on this lane, so all that was sent before it on this lane has run.
    #[inline(always)]
    pub fn got_reply(&self) {
        if HAS_TRAILS.get() && self.callers.trail().is_some_and(|trail| trail.lane == self.index) {
            self.callers.forget_trail();
        }
    }

    /// Leaves the lane to others.
    #[inline(always)]
    pub fn end(self) {
        let Self { callers, index: _, guard } = self;
        drop(guard);
        // A thread that enters the queue after this look finds the lane free, or looks again after LOOK.
        if callers.waiting.load(Ordering::SeqCst) != 0 {
            callers.wake_one();
        }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.connection.die(Death { reason: "the client was dropped".into(), peer_closed: false });
        self.connection.forget_handed();
    }
}
