//! Who is let in, which lanes are served, and what the connections of one server share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use shmrpc_transport::connection::{Connection, Death, Events, LaneStream};
use shmrpc_transport::lane::ServingLane;
use shmrpc_transport::peers::PeerInfo;
use shmrpc_transport::places::{Place, Places};
use shmrpc_transport::rendezvous::{Host, Refusal};
use shmrpc_transport::sys::shortage::explain_thread;

use super::serving::serve_lane;
use crate::dispatch::Service;
use crate::greeting::{self, Table};

/// Why nobody is let in, and why those who are in have to go.
const SHUT_DOWN: &str = "the server is shutting down";

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
}

pub(super) fn shut_down(connection: &Connection) {
    connection.die(Death { reason: SHUT_DOWN.into(), peer_closed: false });
}

impl Host for Shared {
    fn welcome(&self, peer: &PeerInfo, application: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        if self.state.lock().closing {
            return Err(SHUT_DOWN.into());
        }
        let place = self.places.take(peer.party(), "connections are open")?;
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
        let thread = std::thread::Builder::new().name(format!("shmrpc-lane-{lane}"));
        let started = thread.spawn(move || {
            serve_lane(serving, &table);
            drop((of_stream, place));
        });
        let no_thread = |error| refused(format!("it cannot start a thread: {}", explain_thread(&error)));
        started.map(drop).map_err(no_thread)
    }

    fn closed(&self, connection: &Connection) {
        self.shared.state.lock().connections.remove(&connection.id());
    }
}
