//! How a client gets a connection: an endpoint list, tried in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shmrpc_transport::connection::{Carrier, Connection, Death, Events, LaneStream};
use shmrpc_transport::rendezvous::{MeetError, Policy, connect, inside, net};
use shmrpc_transport::tls::{Connector, Tls};

use crate::context::{Transport, TransportInfo};
use crate::endpoint::{Address, Endpoint};
use crate::error::ConnectError;
use crate::greeting;
use crate::schema::ServiceSchema;

/// What connecting takes, as often as it is done.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) policy: Policy,
    pub(crate) tls: Option<Tls>,
    /// For all endpoints together.
    pub(crate) timeout: Duration,
    pub(crate) schema: ServiceSchema,
}

/// What a client knows of one connection.
#[derive(Debug)]
pub(crate) struct Known {
    /// The server's ids, by the method's index in the trait.
    pub(crate) methods: Box<[Option<u16>]>,
    pub(crate) transport: TransportInfo,
}

impl Dialer {
    /// Connects to the first endpoint that serves the service. `times` it is done then.
    ///
    /// # Errors
    /// [`ConnectError`] says, for each endpoint, what is wrong.
    pub(crate) fn dial(&self, times: u64) -> Result<(Arc<Connection>, Known), ConnectError> {
        let mut errors = Vec::new();
        let start = Instant::now();
        let count = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        for (left, endpoint) in (1..=count).rev().zip(&self.endpoints) {
            // One that does not answer leaves the others their part.
            let time = self.timeout.saturating_sub(start.elapsed()) / left;
            match self.dial_one(endpoint, time, &errors, times) {
                Ok(met) => return Ok(met),
                Err(error) => errors.push(error),
            }
        }
        Err(match errors.pop() {
            Some(error) if errors.is_empty() => error,
            last => {
                errors.extend(last);
                ConnectError::All(errors)
            }
        })
    }

    fn dial_one(
        &self,
        endpoint: &Endpoint,
        timeout: Duration,
        failed: &[ConnectError],
        times: u64,
    ) -> Result<(Arc<Connection>, Known), ConnectError> {
        let address = endpoint.to_connect()?;
        let question = greeting::question(&self.schema);
        let events = Box::new(ClientEvents { endpoint: endpoint.to_string(), service: self.schema.name });
        let met = match &address {
            Address::Unix(path, carrier) => {
                let descriptors = self.schema.methods.iter().any(|method| method.descriptors);
                let policy = Policy { carrier: *carrier, descriptors, ..self.policy.clone() };
                connect(path, &policy, &question, timeout, events)
            }
            Address::Tcp(at) => net::connect(at, &self.policy, None, &question, timeout, events),
            Address::Tls(at) => {
                let connector = Connector::new(self.tls.as_ref(), at.host_alone())
                    .map_err(|error| ConnectError::Tls { endpoint: endpoint.to_string(), error })?;
                net::connect(at, &self.policy, Some(&connector), &question, timeout, events)
            }
            Address::Inside(name) => inside::connect(name, &self.policy, &question, events),
        };
        let met = met.map_err(|error| {
            let error = match error {
                // Not less by what it took to get here.
                MeetError::TimedOut(_) if self.endpoints.len() == 1 => MeetError::TimedOut(self.timeout),
                MeetError::TimedOut(_) => MeetError::TimedOut(Duration::from_millis(in_ms(timeout))),
                error => error,
            };
            ConnectError::Meet { endpoint: endpoint.to_string(), error }
        })?;
        let methods = greeting::read_answer(&self.schema, &met.application).map_err(|reason| {
            met.connection.die(Death { reason: reason.clone(), peer_closed: false });
            ConnectError::Answer { endpoint: endpoint.to_string(), reason }
        })?;
        let mut transport = describe(&met.connection, endpoint, &met.reason, failed);
        transport.times_connected = times;
        tracing::info!(%transport, service = self.schema.name, times, "connected");
        Ok((met.connection, Known { methods, transport }))
    }
}

/// A part of the time, as it is told.
fn in_ms(time: Duration) -> u64 {
    u64::try_from((time + Duration::from_micros(500)).as_millis()).unwrap_or(u64::MAX)
}

fn describe(
    connection: &Connection,
    endpoint: &Endpoint,
    why_not: &str,
    failed: &[ConnectError],
) -> TransportInfo {
    let limits = connection.limits();
    let (transport, mut reason) = match limits.carrier {
        Carrier::Streams if matches!(endpoint, Endpoint::Tcp(_)) => {
            (Transport::Tcp, why_this_address(why_not))
        }
        Carrier::Streams if matches!(endpoint, Endpoint::Tls(_)) => {
            (Transport::Tls, why_this_address(why_not))
        }
        Carrier::Streams if matches!(endpoint, Endpoint::Inproc(_)) => {
            (Transport::Inproc, "the endpoint asks for it".to_owned())
        }
        Carrier::Rings => {
            (Transport::Shm, "the endpoint asks for it and the server shares memory".to_owned())
        }
        Carrier::Streams => (Transport::Uds, why_streams(endpoint, limits.memory.is_some(), why_not)),
    };
    for error in failed {
        reason.push_str("; before that: ");
        reason.push_str(&error.to_string());
    }
    TransportInfo {
        transport,
        endpoint: endpoint.to_string(),
        reason,
        reads_in_place: connection.is_trusted() && limits.memory.is_some(),
        memory: limits.memory,
        peer: connection.peer().clone(),
        times_connected: 1,
    }
}

/// Why a client of a host has not come to an earlier address of it.
fn why_this_address(why_not: &str) -> String {
    let asked = "the endpoint asks for it";
    if why_not.is_empty() {
        asked.to_owned()
    } else {
        format!("{asked}; other addresses of its host: {why_not}")
    }
}

/// Why a client of a Unix socket has no rings.
fn why_streams(endpoint: &Endpoint, shares_memory: bool, why_not: &str) -> String {
    let asked = matches!(endpoint, Endpoint::UdsName(_) | Endpoint::UdsPath(_) | Endpoint::UdsAbstract(_));
    match (asked, shares_memory) {
        (true, _) if why_not.is_empty() => "the endpoint asks for it".to_owned(),
        (true, _) => format!("the endpoint asks for it, and no memory is shared: {why_not}"),
        (false, true) => format!("memory is shared, and there are no rings in it: {why_not}"),
        (false, false) => format!("shared memory cannot be had: {why_not}"),
    }
}

/// A client serves no lanes.
struct ClientEvents {
    endpoint: String,
    service: &'static str,
}

impl Events for ClientEvents {
    fn lane_opened(&self, _: &Arc<Connection>, _: u32, _: Option<LaneStream>) -> Result<(), String> {
        Err("a client serves nobody".into())
    }

    fn closed(&self, connection: &Connection) {
        let Self { endpoint, service } = self;
        let reason = connection.death().map_or("", |death| &death.reason);
        tracing::info!(endpoint, service, reason, "disconnected");
    }
}
