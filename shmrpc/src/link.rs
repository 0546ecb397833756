//! What all clones of a client share: its lanes, and how it connects again.
//!
//! ARCHITECTURE.md, "How a client connects again", says when and for how long.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use shmrpc_transport::callers::Callers;
use shmrpc_transport::connection::{Connection, Death};
use shmrpc_transport::sys::fork::Generation;
use shmrpc_transport::sys::futex::Until;
use shmrpc_transport::sys::shortage::explain_thread;

use crate::context::TransportInfo;
use crate::dial::{Dialer, Known};
use crate::error::ConnectError;

pub(crate) struct Link {
    pub(crate) callers: Callers<Known>,
    /// Names for errors, by the method's index in the trait.
    pub(crate) names: Box<[&'static str]>,
    pub(crate) process: Generation,
    /// Whether it connects again.
    pub(crate) reconnect: bool,
    dialer: Arc<Dialer>,
    /// How long the last one-way calls are waited for.
    linger: Duration,
    /// What a forked child is told, where the locks are its parent's.
    first: TransportInfo,
    dialing: Mutex<Dialing>,
    changed: Condvar,
}

impl fmt::Debug for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.dialer.endpoints.iter().map(ToString::to_string)).finish()
    }
}

/// How it is done by one thread for all who wait.
#[derive(Debug)]
struct Dialing {
    /// Whether there is that thread.
    busy: bool,
    /// Callers that wait for it.
    waiting: usize,
    /// Connections so far.
    times: u64,
    /// Attempts that failed.
    failures: u64,
    /// Why the last one did, and whether time alone does not mend it.
    last: Option<(String, bool)>,
}

impl Link {
    /// Connects for the first time.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(crate) fn connect(dialer: Dialer, reconnect: bool, linger: Duration) -> Result<Self, ConnectError> {
        let (connection, known) = dialer.dial(1)?;
        let schema = &dialer.schema;
        let names = (0..known.methods.len()).map(|index| {
            let named = schema.methods.iter().find(|method| usize::from(method.index) == index);
            named.map_or("?", |method| method.name)
        });
        Ok(Self {
            names: names.collect(),
            first: known.transport.clone(),
            callers: Callers::new(connection, known),
            process: Generation::current(),
            reconnect,
            linger,
            dialer: Arc::new(dialer),
            dialing: Mutex::new(Dialing { busy: false, waiting: 0, times: 1, failures: 0, last: None }),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn transport(&self) -> TransportInfo {
        if !self.process.is_current() {
            return self.first.clone();
        }
        self.callers.session().known().transport.clone()
    }

    /// Returns when there is a connection that takes calls. `lost` says why the last one does not.
    ///
    /// # Errors
    /// Why there is none, and will be none by waiting, or was none until the time was over.
    pub(crate) fn revive(self: &Arc<Self>, lost: &str, until: &mut Until) -> Result<(), String> {
        let mut dialing = self.dialing.lock();
        let (seen, mut has_begun) = (dialing.failures, false);
        dialing.waiting += 1;
        let revived = loop {
            if self.callers.session().end().is_none() {
                break Ok(());
            }
            if let Some((reason, true)) = &dialing.last
                && dialing.failures != seen
            {
                break Err(format!("{lost}; connecting again: {reason}"));
            }
            let left = until.left();
            if left.is_some_and(|left| left.is_zero()) {
                let reason = match &dialing.last {
                    Some((reason, _)) if dialing.failures != seen => reason,
                    _ => "no answer yet",
                };
                break Err(format!("{lost}; connecting again, until the call's time was over: {reason}"));
            }
            // A connection that ended as soon as it was made is none, and the next one is not made at once.
            if !dialing.busy && !has_begun {
                dialing.busy = self.start_dialing(lost, &mut dialing);
            }
            has_begun = dialing.busy;
            let left = left.unwrap_or(FOR_EVER);
            let wait = if dialing.busy { left } else { left.min(PAUSE_MAX) };
            self.changed.wait_for(&mut dialing, wait);
        };
        dialing.waiting -= 1;
        if dialing.waiting == 0 {
            // The thread need not go on.
            self.changed.notify_all();
        }
        revived
    }

    fn start_dialing(self: &Arc<Self>, lost: &str, dialing: &mut Dialing) -> bool {
        let service = self.dialer.schema.name;
        tracing::info!(service, reason = lost, "connecting again");
        let (link, dialer) = (Arc::downgrade(self), Arc::clone(&self.dialer));
        let thread = std::thread::Builder::new().name("shmrpc-connect".into());
        match thread.spawn(move || dial_until_done(&link, &dialer)) {
            Ok(_) => true,
            Err(error) => {
                dialing.fail(explain_thread(&error), false);
                false
            }
        }
    }

    /// What became of one attempt. True after a pause if there is to be another one.
    fn dialed(&self, met: Result<(Arc<Connection>, Known), (String, bool)>, pause: Duration) -> bool {
        let mut dialing = self.dialing.lock();
        match met {
            Ok((connection, known)) => {
                dialing.times += 1;
                self.callers.replace(connection, known);
                dialing.busy = false;
            }
            Err((reason, is_lasting)) => {
                tracing::debug!(reason, "not connected yet");
                dialing.fail(reason, is_lasting);
                dialing.busy = !is_lasting && dialing.waiting > 0;
            }
        }
        self.changed.notify_all();
        let end = Instant::now() + pause;
        while dialing.busy {
            if dialing.waiting == 0 {
                dialing.busy = false;
            } else if self.changed.wait_until(&mut dialing, end).timed_out() {
                return true;
            }
        }
        false
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.callers.finish(&mut Until::after(self.linger));
        }
    }
}

impl Dialing {
    fn fail(&mut self, reason: String, is_lasting: bool) {
        self.failures += 1;
        self.last = Some((reason, is_lasting));
    }
}

/// The first pause between two attempts, and the longest.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Longer than any program runs.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// Tries until it is connected, or nobody waits for it, or it is of no use.
fn dial_until_done(link: &Weak<Link>, dialer: &Dialer) {
    let mut pause = PAUSE;
    loop {
        let times = link.upgrade().map_or(0, |link| link.dialing.lock().times + 1);
        // Somebody else's code runs there: a subscriber of events.
        let met = catch_unwind(AssertUnwindSafe(|| dialer.dial(times)));
        let met = match met {
            Ok(met) => met.map_err(|error| (error.to_string(), error.is_lasting())),
            Err(_) => Err(("it panicked".to_owned(), true)),
        };
        let Some(link) = link.upgrade() else {
            if let Ok((connection, _)) = met {
                connection.die(Death { reason: "the client was dropped".into(), peer_closed: false });
            }
            return;
        };
        if !link.dialed(met, less_some(pause)) {
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Up to a half less, by chance: not all clients of a server come back at once.
fn less_some(pause: Duration) -> Duration {
    let chance = RandomState::new().hash_one(()) % 512;
    pause - pause * u32::try_from(chance).unwrap_or(0) / 1024
}
