//! Servers: what is served where, a thread for each lane or for a crowd of them, and an orderly end.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shmrpc_transport::message::Budget;
use shmrpc_transport::peers::Peers;
use shmrpc_transport::places::{Limit, Places};
use shmrpc_transport::rendezvous::{Host, Policy};
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::sys::fork::Generation;
use shmrpc_transport::sys::futex::Until;
use shmrpc_transport::sys::shortage::descriptor_limit;
use shmrpc_transport::tls::Tls;

use crate::dispatch::Service;
use crate::endpoint::Endpoint;
use crate::error::ServeError;
use door::{Door, Threshold};
use host::{Shared, shut_down};

mod door;
mod host;
mod serving;
mod team;
mod threads;

/// Serves one service at one endpoint until SIGINT or SIGTERM; then calls in flight finish, for 5 s at most.
///
/// It takes over both signals for the whole process. A program that handles signals itself uses
/// [`Server::builder`].
///
/// # Errors
/// [`ServeError`] if it cannot start, or if calls were still in flight at the end.
pub fn serve(endpoint: &str, service: impl Service) -> Result<(), ServeError> {
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])
            .map_err(ServeError::Signals)?;
    let server = Server::builder().service(service).listen(endpoint).start()?;
    let signal = signals.forever().next();
    tracing::info!(signal, "draining");
    server.shutdown(Duration::from_secs(5))
}

/// Entry to [`ServerBuilder`].
#[derive(Debug)]
pub struct Server(());

impl Server {
    /// A server with nothing to serve yet.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            services: Vec::new(),
            endpoints: Vec::new(),
            policy: Policy::default(),
            tls: None,
            limits: Limits::default(),
            patience: Duration::ZERO,
        }
    }
}

/// Options of a server.
#[must_use]
pub struct ServerBuilder {
    services: Vec<Arc<dyn Service>>,
    endpoints: Vec<String>,
    policy: Policy,
    tls: Option<Tls>,
    limits: Limits,
    patience: Duration,
}

impl ServerBuilder {
    /// Adds a service.
    pub fn service(mut self, service: impl Service) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Adds an endpoint, or several separated by commas.
    pub fn listen(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Who may talk to this server. The same user by default. Other users cannot enter the runtime directory, so they
    /// need an endpoint with a path: its socket has mode 0666 if others may talk, else 0600.
    pub fn allow(mut self, peers: Peers) -> Self {
        self.policy.allow = peers;
        self
    }

    /// A trusted client is inside our memory-safety boundary for one thing: the bytes of a large message (above
    /// 4 KiB) while it is read in place. Messages of a client that is allowed and not trusted are copied once.
    /// The same user's clients are trusted by default.
    ///
    /// One thing more, if a trusted client chose [`Memory::PosixShm`] for its side: then it can end this process by
    /// cutting its memory short (`SIGBUS`). A client that is not trusted is refused then.
    pub fn trust(mut self, peers: Peers) -> Self {
        self.policy.trust = peers;
        self
    }

    /// What this server's memory is made of. [`Memory::Memfd`] by default. Memory of another kind is not sealed, and goes
    /// only to clients that are trusted and that trust this server's user; others are refused.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.policy.memory = memory;
        self
    }

    /// Bytes from which on a message of this server over a Unix socket lies in shared memory; smaller ones go through the
    /// socket. 4 KiB by default, from where on the project's report finds memory faster; less makes no difference. [`u64::MAX`]: this server shares no
    /// memory and takes none, so all goes through the socket, over `shm:` too.
    pub fn memory_from(mut self, bytes: u64) -> Self {
        self.policy.memory_from = bytes;
        self
    }

    /// Who this server is at endpoints `tls:HOST:PORT`, and who its clients have to be: whoever has a certificate that is
    /// signed by the roots may talk, and nobody else; [`allow`](Self::allow) knows users of this host only. What is wrong with
    /// the files, [`start`](Self::start) says.
    ///
    /// ```no_run
    /// # use shmrpc::prelude::*;
    /// use shmrpc::Tls;
    /// # #[shmrpc::service]
    /// # pub trait Kv { fn put(&self, key: &str) -> u64; }
    /// # struct Store;
    /// # impl Kv for Store { fn put(&self, _: &str) -> u64 { 0 } }
    ///
    /// let server = Server::builder()
    ///     .service(KvServer::new(Store))
    ///     .listen("tls:0.0.0.0:7000")
    ///     .tls(Tls::with_roots("ca.pem").identity("kv.pem", "kv.key"))
    ///     .start()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Allows `tcp:` at addresses that other hosts can reach. Whoever is on the way can read and change all that goes over
    /// plain TCP, and whoever reaches the port may talk: [`allow`](Self::allow) knows users of this host only. Not
    /// allowed by default: then such an address is an error.
    pub fn allow_plain_tcp(mut self) -> Self {
        self.policy.plain_tcp = true;
        self
    }

    /// How long the host of a client may be silent, over TCP, until the connection counts as ended; a fifth more at most, or a
    /// second. It is asked meanwhile, and answers without the client's doing. 25 s by default, 1 s at least, 20 hours at most.
    pub fn max_silence(mut self, time: Duration) -> Self {
        self.policy.max_silence = time;
        self
    }

    /// Bytes of a message that this server takes. 64 MiB by default, just under 2 GiB at most. Copies of messages, and values on the
    /// heap that are made of arguments, may have four times as many for one client process, and 4 MiB at least: a call that finds no
    /// room there fails with [`CallError::Overloaded`](crate::CallError::Overloaded).
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.policy.max_message = bytes;
        self
    }

    /// Connections at once; one more is refused with a reason. By default 1,024, or an eighth of the descriptors that this
    /// process may have when it binds (`RLIMIT_NOFILE`, the soft limit: 128 connections if that is 1,024). A connection
    /// takes three descriptors, and a fourth one at times. It counts until the last handler of it has returned.
    ///
    /// Other users than the server's own have half of this each, whatever their number of processes; of lanes, and of the
    /// peers that are saying hello, too.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections = Some(connections);
        self
    }

    /// Lanes at once of all connections: threads that serve calls. 1,024 by default. A client that is refused a
    /// lane shares those it has; one that has none gets [`CallError::Overloaded`](crate::CallError::Overloaded). A thread whose
    /// lane has ended serves the next one, of any client, that is opened within 100 ms, and threads that want the
    /// same core let one of them serve the calls of all: what a handler sets for its thread (thread-locals, priority) reaches
    /// other clients.
    pub fn max_lanes(mut self, lanes: usize) -> Self {
        self.limits.lanes = Some(lanes);
        self
    }

    /// Connections at once of one client process. By default a quarter of [`max_connections`](Self::max_connections),
    /// and 64 at least, but no more than half.
    pub fn max_connections_per_client(mut self, connections: usize) -> Self {
        self.limits.connections_of_one = Some(connections);
        self
    }

    /// Lanes at once of one client process, over all of its connections. By default a quarter of
    /// [`max_lanes`](Self::max_lanes), and 64 at least, but no more than half.
    pub fn max_lanes_per_client(mut self, lanes: usize) -> Self {
        self.limits.lanes_of_one = Some(lanes);
        self
    }

    /// Bytes of this server's memory that one client process may hold, over all of its connections: large results in
    /// flight, views, and what it has mapped of connections that ended. By default four times what both sides
    /// take as one message, and 4 MiB at least. A result that finds no room fails its call; a connection is refused while too
    /// much of ended ones is still mapped.
    pub fn max_lent(mut self, bytes: u64) -> Self {
        self.policy.max_lent = Some(bytes);
        self
    }

    /// Bytes that all clients of this server may have together: what it lends them of its memory (large results in flight, views, what
    /// is mapped of ended connections, and what a connection had use for and gives back only after it has rested for a while, a minute
    /// and more), copies of their messages, values on the heap that are made of arguments, and results on their way through a socket. An eighth of it may be with buffers that are kept warm. Not
    /// bounded by default but by what each may have, times their number. The first 1 MiB of each connection is not counted, and messages
    /// of up to 4 KiB are counted and never refused.
    ///
    /// A call that finds no room ends as one that finds none within [`max_lent`](Self::max_lent) or
    /// [`max_message`](Self::max_message): of arguments with [`CallError::Overloaded`](crate::CallError::Overloaded), of results with
    /// [`CallError::BadReply`](crate::CallError::BadReply). Where nobody is trusted to leave some to others, give each client
    /// less than this.
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.policy.budget = Some(Budget::new(bytes));
        self
    }

    /// How long a client may take to say hello, from connecting on; over TLS, to be done with that handshake too. Whoever
    /// takes longer is hung up on and told so. 5 s by default; [`Duration::MAX`] is for ever.
    pub fn hello_timeout(mut self, time: Duration) -> Self {
        self.policy.hello_timeout = time;
        self
    }

    /// How long to wait for endpoints that another server has. Not at all by default: then that is an error.
    ///
    /// For a successor: start it, then end the old server, which gives its endpoints up before it finishes what it has
    /// begun. Its clients come over by themselves.
    pub fn wait_for_endpoints(mut self, timeout: Duration) -> Self {
        self.patience = timeout;
        self
    }

    /// Starts to serve, and returns. Never touches signal handlers.
    ///
    /// # Errors
    /// [`ServeError`] names the endpoint and the reason.
    pub fn start(self) -> Result<ServerHandle, ServeError> {
        self.bind()?.start()
    }

    /// Takes the endpoints and listens, without serving: clients can connect, and wait. For a server that forks its
    /// worker: it has no threads yet, and [`BoundServer::start`] may be called in the child.
    ///
    /// # Errors
    /// [`ServeError`] names the endpoint and the reason.
    pub fn bind(self) -> Result<BoundServer, ServeError> {
        let Self { services, endpoints, policy, tls, limits, patience } = self;
        if services.is_empty() {
            return Err(ServeError::Incomplete("nothing to serve; add `.service(...)`"));
        }
        if endpoints.is_empty() {
            return Err(ServeError::Incomplete("nowhere to listen; add `.listen(\"shm:NAME\")`"));
        }
        let mut names = HashMap::new();
        for service in &services {
            let name = service.schema().name;
            if names.insert(name, ()).is_some() {
                return Err(ServeError::Duplicate(name));
            }
        }
        let lists = endpoints.iter().map(|list| Endpoint::parse_list(list));
        let endpoints = lists.collect::<Result<Vec<_>, _>>()?.concat();
        let places = match endpoints.iter().all(|at| matches!(at, Endpoint::Tcp(_) | Endpoint::Tls(_))) {
            true => Places::of_networks_alone,
            false => Places::new,
        };
        let shared = Arc::new_cyclic(|this| Shared {
            this: Weak::clone(this),
            services,
            places: places(limits.connections()),
            lanes: places(limits.lanes()),
            streams: places(Limits::streams()),
            threads: Arc::default(),
            team: Arc::default(),
            state: Mutex::default(),
        });
        let (mut bound, until) = (Vec::new(), &mut Until::after(patience));
        for endpoint in endpoints {
            let one = Threshold::take(&endpoint, &policy, tls.as_ref(), until)?;
            tracing::info!(%endpoint, "listening");
            bound.push((endpoint, one));
        }
        Ok(BoundServer { shared, policy, bound })
    }
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ServerBuilder")
            .field("endpoints", &self.endpoints)
            .field("policy", &self.policy)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// A server that has its endpoints and does not serve yet: [`ServerBuilder::bind`] makes one.
///
/// Between the two the process may fork, and whichever process calls [`BoundServer::start`] is the server: clients see
/// it as their peer, and the endpoints are its, whatever becomes of its parent. One process starts it. The others drop
/// it or exit, which takes nothing away. Other children that were forked meanwhile, and live without `exec`, keep the
/// endpoints taken as long as they live.
#[must_use]
pub struct BoundServer {
    shared: Arc<Shared>,
    policy: Policy,
    bound: Vec<(Endpoint, Threshold)>,
}

impl BoundServer {
    /// Starts to serve, in this process and in none that it forks later.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if the system refuses.
    pub fn start(self) -> Result<ServerHandle, ServeError> {
        let Self { shared, policy, bound } = self;
        let (mut listeners, mut endpoints) = (Vec::new(), Vec::new());
        for (endpoint, threshold) in bound {
            let host = Arc::clone(&shared) as Arc<dyn Host>;
            let (door, at) = threshold.open(&endpoint, &policy, host)?;
            listeners.push(door);
            endpoints.extend(at);
        }
        Ok(ServerHandle { shared, listeners, endpoints, process: Generation::current() })
    }
}

impl std::fmt::Debug for BoundServer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("BoundServer").field("bound", &self.bound).finish_non_exhaustive()
    }
}

/// A running server. Dropping it ends it at once; [`ServerHandle::shutdown`] lets calls in flight finish.
pub struct ServerHandle {
    shared: Arc<Shared>,
    listeners: Vec<Door>,
    endpoints: Vec<Endpoint>,
    process: Generation,
}

impl ServerHandle {
    /// Where it listens.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Connections that live now. One that has ended counts for the limits until nobody uses what came over it any more:
    /// a handler that runs, a [`View`](crate::View), a [`Blob`](crate::Blob).
    pub fn connections(&self) -> usize {
        self.shared.state.lock().connections.len()
    }

    /// Stops listening, tells the clients, serves what they have published, and ends. Another server can have the endpoints
    /// as soon as this one stops listening; its clients send new calls there.
    ///
    /// # Errors
    /// [`ServeError::StillBusy`] if handlers had not returned after `timeout`; their calls were cut off.
    pub fn shutdown(mut self, timeout: Duration) -> Result<(), ServeError> {
        if !self.process.is_current() {
            return Err(ServeError::Forked);
        }
        // Without end, if that is no time that the clock can tell.
        let deadline = Instant::now().checked_add(timeout);
        self.listeners.clear();
        for connection in self.shared.close() {
            connection.drain();
        }
        let lanes = self.shared.lanes.wait_until_empty(deadline);
        if lanes == 0 { Ok(()) } else { Err(ServeError::StillBusy { lanes, timeout }) }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.listeners.clear();
        if !self.process.is_current() {
            // A forked child: the server is its parent's, and so are the locks of this memory.
            return;
        }
        for connection in self.shared.close() {
            shut_down(&connection);
        }
    }
}

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ServerHandle").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// What a server gives its clients, as far as it was said.
#[derive(Debug, Clone, Copy, Default)]
struct Limits {
    connections: Option<usize>,
    connections_of_one: Option<usize>,
    lanes: Option<usize>,
    lanes_of_one: Option<usize>,
}

/// Connections, and threads for lanes, if nothing else is said.
const MOST: usize = 1024;

impl Limits {
    fn connections(self) -> Limit {
        // Four descriptors for each: half of them. Other shares are `arrivals::limit` and `ledger::pieces_max`.
        let of_all = self.connections.unwrap_or_else(|| (descriptor_limit() / 8).clamp(2, MOST));
        Limit::new(of_all, self.connections_of_one)
    }

    fn lanes(self) -> Limit {
        Limit::new(self.lanes.unwrap_or(MOST), self.lanes_of_one)
    }

    /// Two descriptors for each: a quarter of them.
    fn streams() -> Limit {
        Limit::new((descriptor_limit() / 8).clamp(2, MOST), None)
    }
}
