//! The lanes of a client: which thread calls on which.

use std::cell::Cell;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

pub use self::trails::Trails;
use self::trails::{Trail, has_trails, with_trails};
use crate::connection::{Connection, Death};
use crate::exclusive::{Exclusive, Taken};
use crate::lane::{CallerLane, NotOpened};
use crate::shm::segment::MAX_LANES;
use crate::sys::futex::Until;

mod trails;

/// How often a thread that waits for a lane looks for overdue replies.
const LOOK: Duration = Duration::from_millis(5);
/// How long a client whose server refused a lane does with those that it has, before it asks again.
const AGAIN: Duration = Duration::from_secs(1);
/// Connections that a client has left and whose servers have not ended them, at most.
const LEFT: usize = 8;

/// A connection that calls go over, and what the application knows of it.
#[derive(Debug)]
pub struct Session<T> {
    connection: Arc<Connection>,
    known: T,
    /// Lanes that are open, one bit each. Lowest first, if no old session is in the way.
    open: AtomicU64,
    opening: Mutex<Opening>,
}

/// The lanes of one client, opened when a thread first needs one. Its connections follow one another: a lane's place is
/// that of the lane with the same number of the next connection.
///
/// Threads stick to lanes: a thread comes back to the lane that it was on last, if nobody else is on it.
#[derive(Debug)]
pub struct Callers<T = ()> {
    id: u64,
    lanes: Box<[Padded<T>]>,
    sessions: Mutex<Sessions<T>>,
    waiting: AtomicU32,
    /// Whether a reply that nobody waits for may lie on some lane, and hold what came with it.
    overdue: AtomicBool,
    queue: Mutex<()>,
    freed: Condvar,
}

#[derive(Debug)]
struct Sessions<T> {
    current: Arc<Session<T>>,
    /// Those before it that may have something to finish.
    left: Vec<Weak<Connection>>,
}

/// Two cache lines, so that neighbours do not share.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(Exclusive<Option<Seat<T>>>);

/// A lane that is open, and whose it is.
#[derive(Debug)]
pub struct Seat<T> {
    /// The lane.
    pub lane: CallerLane,
    /// What it belongs to.
    pub session: Arc<Session<T>>,
}

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
    /// The connection ended, or takes no more calls, or opens no lane though it lives.
    Dead(Death),
}

/// A lane that one thread has to itself.
#[derive(Debug)]
pub struct Lease<'c, T = ()> {
    callers: &'c Callers<T>,
    index: u32,
    guard: Taken<'c, Option<Seat<T>>>,
}

thread_local! {
    /// The lane that this thread was on last, of whatever connection.
    static LAST: Cell<u32> = const { Cell::new(0) };
}

impl<T> Session<T> {
    fn new(connection: Arc<Connection>, known: T) -> Arc<Self> {
        let opening = Opening { limit: connection.limits().lanes, refused: None, busy: false };
        Arc::new(Self { connection, known, open: AtomicU64::new(0), opening: Mutex::new(opening) })
    }

    /// The connection.
    #[inline(always)]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// What the application knows of it.
    #[inline(always)]
    pub fn known(&self) -> &T {
        &self.known
    }

    /// Why no new calls go over it, if so.
    pub fn end(&self) -> Option<Death> {
        if let Some(death) = self.connection.end() {
            return Some(death.clone());
        }
        let reason = || "the server is shutting down and takes no new calls".into();
        self.connection.is_going_away().then(|| Death { reason: reason(), peer_closed: false })
    }
}

impl<T> Callers<T> {
    /// No lane is open yet.
    pub fn new(connection: Arc<Connection>, known: T) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            lanes: (0..MAX_LANES).map(|_| Padded(Exclusive::new(None))).collect(),
            sessions: Mutex::new(Sessions { current: Session::new(connection, known), left: Vec::new() }),
            waiting: AtomicU32::new(0),
            overdue: AtomicBool::new(false),
            queue: Mutex::new(()),
            freed: Condvar::new(),
        }
    }

    /// The connection that new calls go over.
    pub fn session(&self) -> Arc<Session<T>> {
        Arc::clone(&self.sessions.lock().current)
    }

    /// New calls go over another connection from now on. What is under way on the last one stays there.
    pub fn replace(&self, connection: Arc<Connection>, known: T) {
        let session = Session::new(connection, known);
        let mut sessions = self.sessions.lock();
        let last = mem::replace(&mut sessions.current, session);
        sessions.left.retain(|left| left.upgrade().is_some_and(|left| left.death().is_none()));
        if last.connection.death().is_none() {
            sessions.left.push(Arc::downgrade(&last.connection));
        }
        let oldest = if sessions.left.len() > LEFT { sessions.left.remove(0).upgrade() } else { None };
        drop(sessions);
        if let Some(oldest) = oldest {
            let reason = format!("the client has left {LEFT} connections since, and none of them has ended");
            oldest.die(Death { reason, peer_closed: false });
        }
        (0..MAX_LANES).for_each(|lane| drop(self.free_place(lane)));
        last.connection.settle();
        drop(self.queue.lock());
        self.freed.notify_all();
    }

    /// A lane for the calling thread alone.
    ///
    /// # Errors
    /// [`NoLane`]; nothing was sent.
    #[inline(always)]
    pub fn lease(&self, until: &mut Until) -> Result<Lease<'_, T>, Box<NoLane>> {
        if !has_trails()
            && let Some(lease) = self.try_lane(LAST.get())
        {
            return Ok(lease);
        }
        self.lease_slowly(until)
    }

    /// The lane, if it is open, takes calls, and nobody is on it.
    #[inline(always)]
    fn try_lane(&self, index: u32) -> Option<Lease<'_, T>> {
        let mut guard = self.lanes.get(index as usize)?.0.take()?;
        let seat = guard.as_mut()?;
        // So it is of the current session: a session is left only when it takes no more calls.
        let connection = &seat.session.connection;
        // What is read there may be the end.
        if connection.is_going_away() || !seat.lane.is_free() || connection.is_going_away() {
            return None;
        }
        Some(Lease { callers: self, index, guard })
    }

    /// Waits until the servers are done with the one-way calls that were sent, as far as they will be and the time suffices.
    /// For whoever has no further call: the connection may not live on.
    pub fn finish(&self, until: &mut Until) {
        let mut taken: Vec<_> = self.lanes.iter().filter_map(|place| place.0.take()).collect();
        let mut lanes: Vec<_> = taken.iter_mut().filter_map(|seat| Some(&mut seat.as_mut()?.lane)).collect();
        lanes.iter_mut().for_each(|lane| lane.close());
        lanes.iter_mut().for_each(|lane| lane.finish(until));
    }

    /// Takes replies off the lanes that were set aside, as far as they have come. For those who must not let them lie there:
    /// what came with them is open as long.
    /// The time that is left is the caller's.
    pub fn tidy(&self, until: &mut Until) {
        if !self.overdue.swap(false, Ordering::Relaxed) {
            return;
        }
        let open = self.session().open.load(Ordering::Acquire);
        for index in (0..MAX_LANES).filter(|lane| open & (1 << lane) != 0) {
            // To look at a lane takes time already.
            let lane = if until.is_over() { None } else { self.try_lane(index) };
            match lane {
                Some(lease) => lease.end(),
                // The time is over; or somebody is on it, or it still waits. Somebody else will look.
                None => self.overdue.store(true, Ordering::Relaxed),
            }
        }
    }

    #[inline(never)]
    fn lease_slowly(&self, until: &mut Until) -> Result<Lease<'_, T>, Box<NoLane>> {
        let mut registered = Registered { waiting: &self.waiting, on: false };
        loop {
            let session = self.session();
            if let Some(death) = session.end() {
                return Err(Box::new(NoLane::Dead(death)));
            }
            if let Some(lease) = self.try_all(&session, until).map_err(Box::new)? {
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
    fn try_all(&self, session: &Arc<Session<T>>, until: &mut Until) -> Result<Option<Lease<'_, T>>, NoLane> {
        if let Some(trail) = self.trail() {
            if trail.connection.as_ptr() == Arc::as_ptr(&session.connection)
                && let Some(lease) = self.try_lane(trail.lane)
            {
                return Ok(Some(lease));
            }
            if !self.has_run(&trail) {
                // Another lane would overtake our own one-way call.
                return Ok(None);
            }
            self.forget_trail();
        }
        let (last, open) = (LAST.get(), session.open.load(Ordering::Acquire));
        let lanes = (0..MAX_LANES).map(|step| last.wrapping_add(step) % MAX_LANES);
        let lease = lanes.filter(|lane| open & (1 << lane) != 0).find_map(|lane| self.try_lane(lane));
        match lease {
            Some(lease) => {
                LAST.set(lease.index);
                Ok(Some(lease))
            }
            None => self.try_open(session, until),
        }
    }

    /// Opens one more lane, if there may be one more and nobody is at it.
    fn try_open(&self, session: &Arc<Session<T>>, until: &mut Until) -> Result<Option<Lease<'_, T>>, NoLane> {
        let mut opening = session.opening.lock();
        let open = session.open.load(Ordering::Acquire);
        let lanes = session.connection.limits().lanes;
        if open.count_ones() >= opening.limit && opening.refused.is_some_and(|when| when.elapsed() >= AGAIN) {
            // What the server lacked it may have now.
            (opening.limit, opening.refused) = (lanes, None);
        }
        if opening.busy || open.count_ones() >= opening.limit {
            return Ok(None);
        }
        let unopened = (0..lanes.min(MAX_LANES)).filter(|lane| open & (1 << lane) == 0);
        let found = unopened.filter_map(|lane| Some((lane, self.free_place(lane)?))).next();
        let Some((index, mut guard)) = found else { return Ok(None) };
        opening.busy = true;
        drop(opening);
        let opened = CallerLane::open(&session.connection, index, until);
        let mut opening = session.opening.lock();
        opening.busy = false;
        let lease = match opened {
            Ok(lane) => {
                *guard = Some(Seat { lane, session: Arc::clone(session) });
                session.open.fetch_or(1 << index, Ordering::Release);
                LAST.set(index);
                Ok(Some(Lease { callers: self, index, guard }))
            }
            Err(NotOpened::Dead(death)) => Err(NoLane::Dead(death)),
            Err(NotOpened::TimedOut) => Err(NoLane::TimedOut),
            // Not for want of a lane: it said so before.
            Err(_) if session.connection.is_going_away() => match session.end() {
                Some(death) => Err(NoLane::Dead(death)),
                None => Ok(None),
            },
            Err(NotOpened::Refused(reason)) if open == 0 => Err(NoLane::Refused(reason)),
            Err(NotOpened::Unreachable(reason)) if open == 0 => {
                Err(NoLane::Dead(Death { reason, peer_closed: false }))
            }
            Err(NotOpened::Refused(reason) | NotOpened::Unreachable(reason)) => {
                let open = open.count_ones();
                tracing::debug!(open, reason, "no further lane could be had; those that are open are shared");
                (opening.limit, opening.refused) = (open, Some(Instant::now()));
                Ok(None)
            }
        };
        drop(opening);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            self.wake_one();
        }
        lease
    }

    /// The place of a lane that is not open, if nobody is on it, and nothing of an older session is under way there: what is
    /// left of one goes.
    fn free_place(&self, lane: u32) -> Option<Taken<'_, Option<Seat<T>>>> {
        let mut place = self.lanes.get(lane as usize)?.0.take()?;
        if let Some(seat) = &mut *place {
            let connection = &seat.session.connection;
            // A lane that takes calls is that of a session that came after the one that the caller knows.
            let is_left = connection.is_going_away();
            if !is_left || (connection.death().is_none() && !seat.lane.is_done()) {
                return None;
            }
        }
        *place = None;
        Some(place)
    }

    #[cold]
    fn wake_one(&self) {
        drop(self.queue.lock());
        self.freed.notify_one();
    }

    fn trail(&self) -> Option<Trail> {
        with_trails(|trails| trails.iter().find(|trail| trail.client == self.id).cloned()).flatten()
    }

    fn forget_trail(&self) {
        with_trails(|trails| trails.retain(|trail| trail.client != self.id));
    }

    fn leave_trail(&self, connection: &Arc<Connection>, lane: u32, position: u32) {
        let trail = Trail { client: self.id, connection: Arc::downgrade(connection), lane, position };
        with_trails(|trails| {
            trails.retain(|trail| trail.client != self.id);
            trails.push(trail);
        });
    }

    /// Whether the server is done with everything up to the end of the trail.
    fn has_run(&self, trail: &Trail) -> bool {
        let Some(connection) = trail.connection.upgrade() else { return true };
        if connection.is_going_away()
            && let Some(place) = self.lanes.get(trail.lane as usize)
            && let Some(mut place) = place.0.take()
            && let Some(seat) = &mut *place
            && Arc::ptr_eq(&seat.session.connection, &connection)
        {
            // Nobody else reads what the server says there last.
            seat.lane.is_done();
        }
        connection.is_done(trail.lane, trail.position)
    }
}

/// A thread in the queue for a lane.
struct Registered<'c> {
    waiting: &'c AtomicU32,
    on: bool,
}

impl Registered<'_> {
    fn enter(&mut self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.on = true;
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if self.on {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl<T> Lease<'_, T> {
    /// The lane, and what it belongs to. There is one, always.
    #[inline(always)]
    pub fn seat(&mut self) -> Option<&mut Seat<T>> {
        self.guard.as_mut()
    }

    /// Remembers that this thread sent a one-way call here.
    pub fn sent_oneway(&self) {
        if let Some(seat) = &*self.guard {
            self.callers.leave_trail(&seat.session.connection, self.index, seat.lane.position());
        }
    }

    /// A reply came on this lane, so all that was sent before it on this lane has run.
    #[inline(always)]
    pub fn got_reply(&self) {
        if has_trails() && self.callers.trail().is_some_and(|trail| trail.lane == self.index) {
            self.callers.forget_trail();
        }
    }

    /// The lane is set aside: a reply is to come that nobody waits for any more.
    #[cold]
    pub fn set_aside(&self) {
        self.callers.overdue.store(true, Ordering::Relaxed);
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

impl<T> Drop for Callers<T> {
    fn drop(&mut self) {
        let Sessions { current, left } = self.sessions.get_mut();
        for connection in left.iter().filter_map(Weak::upgrade).chain([Arc::clone(&current.connection)]) {
            connection.die(Death { reason: "the client was dropped".into(), peer_closed: false });
            connection.forget_handed();
        }
    }
}
