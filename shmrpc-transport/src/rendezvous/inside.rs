//! How a client meets a server of its own process: without sockets, for tests. All else is as over a network.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Host, LARGEST, MeetError, Met, Policy};
use crate::connection::{self, Carrier, Connection, Death, Dial, Events, Limits, Parts, Redial};
use crate::peers::{PeerCredentials, PeerInfo};
use crate::shm::segment::MAX_LANES;
use crate::stream::{Pipe, Stream};
use crate::sys::fork::{Generation, PerProcess};
use crate::sys::futex::Until;
use crate::sys::inside::Inside;
use crate::sys::socket::{FrameReader, Socket};

/// Who serves a name; `None` if nobody does yet.
type Names = HashMap<String, Option<Arc<Served>>>;

/// Those of this process. A forked child has none of its parent's, and does not wait for its lock.
fn names() -> &'static Mutex<Names> {
    static ONE: PerProcess<Mutex<Names>> = PerProcess::new();
    let Ok(names) = ONE.get(|| Ok::<_, Infallible>(Mutex::default()));
    names
}

struct Served {
    policy: Policy,
    host: Arc<dyn Host>,
}

/// A name that is ours, and that nobody serves yet. It may be served in a forked child.
#[derive(Debug)]
pub struct Name {
    name: String,
    process: Generation,
}

impl Name {
    /// Takes a name.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if a server of this process has it.
    pub fn take(name: &str) -> io::Result<Self> {
        let mut names = names().lock();
        if names.contains_key(name) {
            let reason = format!("a server of this process already listens at `inproc:{name}`");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
        }
        names.insert(name.to_owned(), None);
        Ok(Self { name: name.to_owned(), process: Generation::current() })
    }

    /// Serves it from now on, in this process and in none that it forks.
    ///
    /// # Errors
    /// As [`Name::take`], if it was taken before a fork.
    pub fn serve(self, policy: Policy, host: Arc<dyn Host>) -> io::Result<Door> {
        let own = if self.process.is_current() { self } else { Self::take(&self.name)? };
        if let Some(place) = names().lock().get_mut(&own.name) {
            *place = Some(Arc::new(Served { policy, host }));
        }
        Ok(Door(own))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // It is the parent's still.
            return;
        }
        // The host may be the last of its server, and is not to be dropped behind the lock.
        let served = names().lock().remove(&self.name);
        drop(served);
    }
}

/// A name that is served, until dropped.
pub struct Door(Name);

impl fmt::Debug for Door {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Door").field(&self.0.name).finish()
    }
}

/// Connects to the server of this process that has `name`.
///
/// # Errors
/// [`MeetError`] says what is wrong.
pub fn connect(
    name: &str,
    policy: &Policy,
    application: &[u8],
    events: Box<dyn Events>,
) -> Result<Met, MeetError> {
    let served = names().lock().get(name).cloned().flatten();
    let served = served.ok_or_else(|| MeetError::NoName { name: name.to_owned() })?;
    let own = PeerCredentials::own();
    let peer = PeerInfo::new(own, None);
    for (by, allow) in [("client", &policy.allow), ("server", &served.policy.allow)] {
        if !allow.contains(&own) {
            return Err(MeetError::Unwelcome(format!("the {by} allows {allow} only")));
        }
    }
    let system = |error| MeetError::System { what: "cannot make a connection", error };
    let (near, far) = Inside::pair().map_err(system)?;
    let (answer, server_events) = served.host.welcome(&peer, application)?;
    let lanes = served.policy.lanes.min(MAX_LANES);
    let parts = |end, dial, budget, send_max: u64, receive_max: u64| Parts {
        limits: Limits {
            lanes,
            carrier: Carrier::Streams,
            send_max: send_max.min(LARGEST),
            receive_max: receive_max.min(LARGEST),
            lent_max: 0,
            memory: None,
            memory_from: u64::MAX,
        },
        peer: peer.clone(),
        // Clients dial.
        peer_is_client: matches!(dial, Dial::No),
        trusted: false,
        bases: None,
        budget,
        dial,
        socket: Socket::inside(end),
        reader: FrameReader::default(),
    };
    let (here, there) = (policy.max_message, served.policy.max_message);
    let server =
        Connection::new(parts(far, Dial::No, served.policy.budget.clone(), here, there), server_events);
    let again = Again(Arc::downgrade(&server));
    let client = Connection::new(parts(near, Dial::Again(Box::new(again)), None, there, here), events);
    served.host.connected(&server);
    for connection in [&server, &client] {
        if let Err(error) = connection::watch(connection) {
            connection.die(Death { reason: "it cannot be watched".into(), peer_closed: false });
            return Err(system(error));
        }
    }
    Ok(Met { connection: client, application: answer, reason: String::new() })
}

/// How a client has one more lane.
struct Again(Weak<Connection>);

impl Redial for Again {
    fn dial(&self, lane: u32, _: &mut Until) -> io::Result<Stream> {
        let server = self.0.upgrade().filter(|server| server.death().is_none());
        let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = Pipe::pair();
        server.lane_asked(lane, Stream::pipe(far));
        Ok(Stream::pipe(near))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fork::tests::ends_well_in_a_child;

    /// Whatever another thread of the parent did with the names when it forked.
    #[test]
    fn a_child_has_names_of_its_own_and_waits_for_nobody() {
        let mut ours = Some(Name::take("names of a child").unwrap());
        let lock = names().lock();
        ends_well_in_a_child(|| {
            let again = Name::take("names of a child");
            drop(ours.take());
            let taken_twice = Name::take("names of a child").is_err();
            again.is_ok() && taken_twice
        });
        drop(lock);
        assert!(Name::take("names of a child").is_err(), "the child gave it up for its parent");
        drop(ours);
        drop(Name::take("names of a child").unwrap());
    }
}
