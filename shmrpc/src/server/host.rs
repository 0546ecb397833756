//! Who is let in, which lanes are served, and what the connections of one server share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shmrpc_transport::connection::{Connection, Death, Events, LaneStream};
use shmrpc_transport::lane::ServingLane;
use shmrpc_transport::peers::{Party, PeerInfo};
use shmrpc_transport::places::{Place, Places};
use shmrpc_transport::rendezvous::{Host, Refusal};
use shmrpc_transport::sys::shortage::explain_thread;

use super::serving::ServedLane;
use super::team::Team;
use super::threads::Threads;
use crate::dispatch::Service;
use crate::greeting::{self, Table};

/// Why nobody is let in, and why those who are in have to go.
const SHUT_DOWN: &str = "the server is shutting down";

/// Why one more connection is refused.
const OPEN: &str = "connections are open";
/// How long a peer of a network that has left as many connections as it may have waits until they are gone. Where it closes one after
/// the other, on a machine that is busy, the next one may come first.
const LEAVING: Duration = Duration::from_millis(100);

/// What the listeners, connections and lanes of one server share.
pub(super) struct Shared {
    pub(super) this: Weak<Shared>,
    pub(super) services: Vec<Arc<dyn Service>>,
    /// Of connections, until all that they had is given back.
    pub(super) places: Arc<Places>,
    /// Of threads that serve lanes.
    pub(super) lanes: Arc<Places>,
    /// Of lanes that are streams.
    pub(super) streams: Arc<Places>,
    pub(super) threads: Arc<Threads>,
    pub(super) team: Arc<Team<ServedLane>>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Nobody is let in any more. Whoever says hello later came before.
    closing: bool,
    /// Those that live.
    pub(super) connections: HashMap<u64, Arc<Connection>>,
}

impl Shared {
    /// Lets nobody in any more. Returns who is in.
    pub(super) fn close(&self) -> Vec<Arc<Connection>> {
        let mut state = self.state.lock();
        state.closing = true;
        state.connections.values().cloned().collect()
    }

    /// Connections of a process or an address whose other end has not left.
    fn staying(&self, party: Party) -> usize {
        let is_own = |connection: &&Arc<Connection>| connection.peer().party().process() == party.process();
        let own: Vec<_> = self.state.lock().connections.values().filter(is_own).cloned().collect();
        own.iter().filter(|connection| !connection.is_left()).count()
    }
}

pub(super) fn shut_down(connection: &Connection) {
    connection.die(Death { reason: SHUT_DOWN.into(), peer_closed: false });
}

impl Host for Shared {
    fn welcome(&self, peer: &PeerInfo, application: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        if self.state.lock().closing {
            return Err(SHUT_DOWN.into());
        }
        let place = match peer.address() {
            // A thread of its own hears it, which may wait.
            Some(_) => self.places.take_soon(peer.party(), OPEN, Instant::now() + LEAVING, |open| {
                self.staying(peer.party()) < open
            })?,
            None => self.places.take(peer.party(), OPEN)?,
        };
        let (answer, table) = greeting::answer(&self.services, application).map_err(Refusal::lasting)?;
        let shared = self.this.upgrade().ok_or(SHUT_DOWN)?;
        Ok((answer, Box::new(Served { shared, table: Arc::new(table), _place: place })))
    }

    fn connected(&self, connection: &Arc<Connection>) {
        let mut state = self.state.lock();
        if state.closing {
            drop(state);
            // Welcomed just before: nobody else would end it.
            return shut_down(connection);
        }
        state.connections.insert(connection.id(), Arc::clone(connection));
    }
}

/// One connection of a server.
struct Served {
    shared: Arc<Shared>,
    table: Arc<Table>,
    /// Dropped with the connection, when nobody uses it any more.
    _place: Place,
}

impl Events for Served {
    fn lane_opened(
        &self,
        connection: &Arc<Connection>,
        lane: u32,
        stream: Option<LaneStream>,
    ) -> Result<(), String> {
        let refused = |reason: String| {
            tracing::warn!(reason, peer = %connection.peer(), "a lane was refused");
            reason
        };
        let party = connection.peer().party();
        let state = self.shared.state.lock();
        if state.closing {
            drop(state);
            // Whoever waits for the lanes to end does not know this one. The client may not have been told yet.
            connection.drain();
            return Err(SHUT_DOWN.into());
        }
        let place = self.shared.lanes.take(party, "threads serve clients");
        drop(state);
        let place = place.map_err(|full| refused(full.into()))?;
        let of_stream = stream.as_ref().map(|_| self.shared.streams.take(party, "lanes are streams"));
        let of_stream = of_stream.transpose().map_err(|full| refused(full.into()))?;
        let serving = ServingLane::new(connection, lane, stream).map_err(refused)?;
        let table = Arc::clone(&self.table);
        let lane = Box::new(ServedLane::new(serving, table, (of_stream, place)));
        let team = Arc::clone(&self.shared.team);
        let started = self.shared.threads.serve(Box::new(move || team.serve(lane)));
        let no_thread = |error| refused(format!("it cannot start a thread: {}", explain_thread(&error)));
        started.map_err(no_thread)
    }

    fn closed(&self, connection: &Connection) {
        self.shared.state.lock().connections.remove(&connection.id());
    }
}

#[cfg(test)]
mod tests {
    use shmrpc_transport::callers::{Callers, NoLane};
    use shmrpc_transport::connection::Carrier;
    use shmrpc_transport::places::Limit;
    use shmrpc_transport::rendezvous::net::{self, Ports};
    use shmrpc_transport::rendezvous::{Listener, Met, Policy, connect};
    use shmrpc_transport::sys::futex::Until;
    use std::net::SocketAddr;

    use super::super::Limits;
    use super::*;
    use crate::dispatch::{Answered, Request};
    use crate::schema::ServiceSchema;

    const BOUND: Duration = Duration::from_secs(30);

    struct Nothing;

    impl Service for Nothing {
        fn schema(&self) -> ServiceSchema {
            ServiceSchema { name: "Nothing", methods: Vec::new() }
        }
        fn dispatch(&self, _: u16, request: Request<'_>) -> Answered {
            request.unknown_method()
        }
    }

    struct Client;

    impl Events for Client {
        fn lane_opened(&self, _: &Arc<Connection>, _: u32, _: Option<LaneStream>) -> Result<(), String> {
            Err("a client serves nothing".into())
        }
        fn closed(&self, _: &Connection) {}
    }

    fn shared(connections: Limit) -> Arc<Shared> {
        Arc::new_cyclic(|this| Shared {
            this: Weak::clone(this),
            services: vec![Arc::new(Nothing)],
            places: Places::new(connections),
            lanes: Places::new(Limits::default().lanes()),
            streams: Places::new(Limits::streams()),
            threads: Arc::default(),
            team: Arc::default(),
            state: Mutex::default(),
        })
    }

    /// In the moment between the two steps of a shutdown: nobody has told the client, and the server counts its lanes already.
    fn asks_too_late(shared: &Shared, met: Met) {
        let Met { connection, .. } = met;
        let callers = Callers::new(Arc::clone(&connection), ());
        // A server over a Unix socket answers the hello before it takes note of its client.
        let end = Instant::now() + BOUND;
        while shared.state.lock().connections.is_empty() {
            assert!(Instant::now() < end, "the server knows of no client");
            std::thread::yield_now();
        }
        assert_eq!(shared.close().len(), 1);
        assert!(!connection.is_going_away());
        let none = callers.lease(&mut Until::after(BOUND)).unwrap_err();
        assert!(matches!(&*none, NoLane::Dead(death) if death.reason.contains("shutting down")), "{none:?}");
        assert!(connection.is_going_away(), "it was not told");
        assert_eq!(connection.death(), None);
        assert_eq!(shared.lanes.wait_until_empty(Some(Instant::now())), 0);
    }

    #[test]
    fn a_server_that_closes_opens_no_lane_and_says_goaway() {
        let question = greeting::question(&Nothing.schema());
        let path = std::env::temp_dir().join(format!("shmrpc-test-{}-host", std::process::id()));
        for carrier in [Carrier::Rings, Carrier::Streams] {
            let (shared, policy) =
                (shared(Limits::default().connections()), Policy { carrier, ..Policy::default() });
            let _listener = Listener::bind(&path, policy.clone(), Arc::clone(&shared) as _).unwrap();
            asks_too_late(&shared, connect(&path, &policy, &question, BOUND, Box::new(Client)).unwrap());
        }
        let (shared, policy) = (shared(Limits::default().connections()), Policy::default());
        let ports = Ports::bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into(), &policy, None).unwrap();
        let at = ports.addresses()[0].into();
        let _listener = ports.start(policy.clone(), Arc::clone(&shared) as _).unwrap();
        let met = net::connect(&at, &policy, None, &question, BOUND, Box::new(Client)).unwrap();
        asks_too_late(&shared, met);
    }

    /// Of as many connections as an address may have, the last one leaves, and is still in use here when the next one comes.
    #[test]
    fn who_comes_when_it_has_just_left_has_a_place() {
        let shared = shared(Limit { of_all: 2, of_one: 1 });
        let question = greeting::question(&Nothing.schema());
        let policy = Policy::default();
        let ports = Ports::bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into(), &policy, None).unwrap();
        let at = ports.addresses()[0].into();
        let _listener = ports.start(policy.clone(), Arc::clone(&shared) as _).unwrap();
        let connect = || net::connect(&at, &policy, None, &question, BOUND, Box::new(Client));
        let until = |what: &dyn Fn() -> bool| {
            let end = Instant::now() + BOUND;
            while !what() {
                assert!(Instant::now() < end);
                std::thread::yield_now();
            }
        };
        let first = connect().unwrap();
        let party = first.connection.peer().party();
        until(&|| shared.staying(party) == 1);
        let error = connect().map(drop).unwrap_err().to_string();
        assert!(error.contains("1 connections are open for this address"), "{error}");
        let used = shared.state.lock().connections.values().next().cloned().unwrap();
        shut_down(&first.connection);
        until(&|| shared.staying(party) == 0);
        let error = connect().map(drop).unwrap_err().to_string();
        assert!(error.contains("1 connections are open for this address"), "still in use: {error}");
        std::thread::scope(|scope| {
            // Where this thread has no core for as long as a peer is waited for, that peer is refused, and comes again.
            let next = scope.spawn(|| until(&|| connect().is_ok()));
            drop(used);
            next.join().unwrap();
        });
    }
}
