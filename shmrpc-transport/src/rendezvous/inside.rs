//! How a client meets a server of its own process: without sockets, for tests. All else is as over a network.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use super::{Host, LARGEST, MeetError, Met, Policy};
use crate::connection::{self, Carrier, Connection, Death, Dial, Events, Limits, Parts, Redial};
use crate::peers::{PeerCredentials, PeerInfo};
use crate::shm::segment::MAX_LANES;
use crate::stream::{Pipe, Stream};
use crate::sys::futex::Until;
use crate::sys::inside::Inside;
use crate::sys::socket::{FrameReader, Socket};

/// Who serves a name; `None` if nobody does yet.
type Names = HashMap<String, Option<Arc<Served>>>;

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

struct Served {
    policy: Policy,
    host: Arc<dyn Host>,
}

/// A name that is ours, and that nobody serves yet.
#[derive(Debug)]
pub struct Name(String);

impl Name {
    /// Takes a name.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if a server of this process has it.
    pub fn take(name: &str) -> io::Result<Self> {
        let mut names = NAMES.lock();
        if names.contains_key(name) {
            let reason = format!("a server of this process already listens at `inproc:{name}`");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
        }
        names.insert(name.to_owned(), None);
        Ok(Self(name.to_owned()))
    }

    /// Serves it from now on.
    pub fn serve(self, policy: Policy, host: Arc<dyn Host>) -> Door {
        if let Some(place) = NAMES.lock().get_mut(&self.0) {
            *place = Some(Arc::new(Served { policy, host }));
        }
        Door(self)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // The host may be the last of its server, and is not to be dropped behind the lock.
        let served = NAMES.lock().remove(&self.0);
        drop(served);
    }
}

/// A name that is served, until dropped.
pub struct Door(Name);

impl fmt::Debug for Door {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Door").field(&self.0.0).finish()
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
    let served = NAMES.lock().get(name).cloned().flatten();
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
    let parts = |end, dial, send_max: u64, receive_max: u64| Parts {
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
        dial,
        socket: Socket::inside(end),
        reader: FrameReader::default(),
    };
    let (here, there) = (policy.max_message, served.policy.max_message);
    let server = Connection::new(parts(far, Dial::No, here, there), server_events);
    let again = Again(Arc::downgrade(&server));
    let client = Connection::new(parts(near, Dial::Again(Box::new(again)), there, here), events);
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
