//! Clients: connecting, and the options that every client has.

use std::marker::PhantomData;
use std::time::Duration;

use shmrpc_transport::connection::BlobMut;
use shmrpc_transport::message::Number;
use shmrpc_transport::peers::Peers;
use shmrpc_transport::rendezvous::Policy;
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::tls::Tls;

use crate::channel::Channel;
use crate::context::TransportInfo;
use crate::dial::Dialer;
use crate::endpoint::Endpoint;
use crate::error::{CallError, ConnectError};
use crate::link::Link;
use crate::schema::ServiceSchema;

/// What every generated client can do besides its service's methods. Bring it into scope with the prelude.
///
/// A service may have methods of these names: they win, and the trait's are still there as `Client::view(&kv)`.
///
/// A client outlives its connections. When one has ended, the next call connects again, to the first endpoint of the list
/// that can be reached, and waits for that as long as its time limit allows. A call that is known not to have run is sent
/// again; one that may have run is not, and returns [`Outcome::Unknown`](crate::Outcome::Unknown). One-way calls that were
/// on their way to a server that died are lost. [`ClientBuilder::reconnect`] turns this off.
///
/// Whoever drops the last clone waits until the server has run the one-way calls that were sent, no longer than
/// [`ClientBuilder::timeout`] says of a call.
pub trait Client: Clone + Send + Sync + Sized + 'static {
    /// The same service, with results that are read where they arrived.
    type View;

    #[doc(hidden)]
    fn from_channel(channel: Channel) -> Self;

    #[doc(hidden)]
    fn channel(&self) -> &Channel;

    #[doc(hidden)]
    fn schema() -> ServiceSchema;

    /// The same service, with results that are read where they arrived: each method returns a
    /// [`View`](crate::View).
    fn view(&self) -> Self::View;

    /// The same client with another time limit for each call. Cheap: the connection is shared.
    ///
    /// The default is 10 s. A wait ends at most 100 ms after its limit, also that for a server to connect to. `Duration::MAX`
    /// means for ever.
    fn with_timeout(&self, timeout: Duration) -> Self {
        Self::from_channel(Client::channel(self).with_timeout(timeout))
    }

    /// The time limit of each call.
    fn timeout(&self) -> Duration {
        Client::channel(self).timeout()
    }

    /// Memory for an argument of `length` numbers: filled in place, and where memory is shared with the server not copied
    /// on its way. What it holds at first is unspecified.
    ///
    /// ```no_run
    /// # use shmrpc::prelude::*;
    /// # #[shmrpc::service]
    /// # pub trait Frames { fn checksum(&self, frame: Blob) -> u64; }
    /// let frames = FramesClient::connect("shm:frames")?;
    /// let mut frame = frames.blob(1 << 20)?;
    /// frame.fill(7);
    /// frames.checksum(frame)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError::NotEncoded`] if it is more than the server takes, or if the server held all that it may hold until the
    /// time limit of a call was over; [`CallError::Disconnected`] if the client could not connect again in that time;
    /// [`CallError::Forked`].
    fn blob<T: Number + Default>(&self, length: usize) -> Result<BlobMut<T>, CallError> {
        Client::channel(self).blob(length)
    }

    /// Which transport is in use now, why, and how often the client has connected. While it is not connected, that of the
    /// last connection; in a forked child, that of the first.
    fn transport(&self) -> TransportInfo {
        Client::channel(self).transport()
    }
}

/// Options of a client. `KvClient::builder()` makes one.
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder<C> {
    policy: Policy,
    tls: Option<Tls>,
    timeout: Duration,
    connect_timeout: Duration,
    reconnect: bool,
    client: PhantomData<fn() -> C>,
}

impl<C: Client> ClientBuilder<C> {
    /// The defaults: 10 s for a call, 5 s to connect, messages up to 64 MiB, the same user on both sides.
    pub fn new() -> Self {
        Self {
            policy: Policy::default(),
            tls: None,
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            reconnect: true,
            client: PhantomData,
        }
    }

    /// Time limit of each call, and of the wait for one-way calls when the client is dropped. 10 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Time limit of connecting, each time, for all endpoints of a list together. 5 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whose servers may be talked to. The same user's by default.
    pub fn allow(mut self, peers: Peers) -> Self {
        self.policy.allow = peers;
        self
    }

    /// A trusted server is inside our memory-safety boundary for one thing: the bytes of a large result (above
    /// 4 KiB) while it is read in place. Results of a server that is allowed and not trusted are copied once.
    /// The same user's servers are trusted by default.
    ///
    /// One thing more, if a trusted server chose [`Memory::PosixShm`] for its side: then it can end this process by
    /// cutting its memory short (`SIGBUS`). A server that is not trusted is refused then.
    pub fn trust(mut self, peers: Peers) -> Self {
        self.policy.trust = peers;
        self
    }

    /// What this client's memory is made of. [`Memory::Memfd`] by default. Memory of another kind is not sealed, and goes
    /// only to a server that is trusted and that trusts this client's user; another one refuses the connection.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.policy.memory = memory;
        self
    }

    /// Bytes from which on a message of this client over a Unix socket lies in shared memory; smaller ones go through the
    /// socket. 4 KiB by default, from where on the project's report finds memory faster; less makes no difference. [`u64::MAX`]: this client shares no
    /// memory and takes none, so all goes through the socket, over `shm:` too.
    pub fn memory_from(mut self, bytes: u64) -> Self {
        self.policy.memory_from = bytes;
        self
    }

    /// Who this client is at endpoints `tls:HOST:PORT`, and which servers it believes: those with a certificate that is signed
    /// by the roots and is for HOST, or for the name that [`Tls::server_name`] says.
    ///
    /// ```no_run
    /// # use shmrpc::prelude::*;
    /// use shmrpc::Tls;
    /// # #[shmrpc::service]
    /// # pub trait Kv { fn put(&self, key: &str) -> u64; }
    ///
    /// let kv = KvClient::builder()
    ///     .tls(Tls::with_roots("ca.pem").identity("alice.pem", "alice.key"))
    ///     .connect("tls:kv.example.org:7000")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Allows `tcp:` to addresses of other hosts. Whoever is on the way can read and change all that goes over plain TCP.
    /// Not allowed by default: then such an address is an error.
    pub fn allow_plain_tcp(mut self) -> Self {
        self.policy.plain_tcp = true;
        self
    }

    /// How long the host of a server may be silent, over TCP, until the connection counts as ended; a fifth more at most, or a
    /// second. It is asked meanwhile, and answers without the server's doing. 25 s by default, 1 s at least, 20 hours at most.
    pub fn max_silence(mut self, time: Duration) -> Self {
        self.policy.max_silence = time;
        self
    }

    /// Bytes of a result that this client takes. 64 MiB by default, just under 2 GiB at most.
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.policy.max_message = bytes;
        self
    }

    /// Bytes of this client's memory that the server's process may hold, over all connections to it: large arguments in
    /// flight, and what it has mapped of connections that ended. By default four times what both sides take as one
    /// message, and 4 MiB at least.
    pub fn max_lent(mut self, bytes: u64) -> Self {
        self.policy.max_lent = Some(bytes);
        self
    }

    /// Whether the client connects again when its connection has ended. It does by default: the next call then tries the
    /// endpoints in order, under its own time limit, and a call that is known not to have run is sent again. A call that
    /// may have run never is. If not, every call fails once the connection has ended.
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Connects to the first of the comma-separated endpoints that serves the service.
    ///
    /// # Errors
    /// [`ConnectError`] says, for each endpoint, what is wrong and what to do.
    pub fn connect(&self, endpoint: impl AsRef<str>) -> Result<C, ConnectError> {
        let dialer = Dialer {
            endpoints: Endpoint::parse_list(endpoint.as_ref())?,
            policy: self.policy.clone(),
            tls: self.tls.clone(),
            timeout: self.connect_timeout,
            schema: C::schema(),
        };
        let link = Link::connect(dialer, self.reconnect, self.timeout)?;
        Ok(C::from_channel(Channel::new(link, self.timeout)))
    }
}

impl<C: Client> Default for ClientBuilder<C> {
    fn default() -> Self {
        Self::new()
    }
}
