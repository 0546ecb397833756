//! One way to reach a server, and what is started there.

use std::sync::Arc;

use shmrpc::prelude::*;
use shmrpc::{ClientBuilder, ServerBuilder, Transport};

use crate::service::{WorkClient, WorkServer, Worker};
use crate::support::process::Process;
use crate::support::{BOUND, Keeper, Place, gate};

/// Where the parent says on which ground a child is.
const GROUND: &str = "SHMRPC_TEST_GROUND";

/// One way to reach a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground {
    pub(crate) name: &'static str,
    pub(crate) at: At,
    pub(crate) how: How,
    /// What clients are told.
    pub(crate) transport: Transport,
    /// Whether both sides have memory that the other one reads,
    pub(crate) shares: bool,
    /// and read large messages there.
    pub(crate) in_place: bool,
}

/// What an endpoint is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    /// A scheme, and a socket of the test's own.
    Path(&'static str),
    /// A name of the test's own, in the abstract namespace.
    Abstract,
    /// A scheme, and a name of the test's own.
    Name(&'static str),
    /// Any port.
    Port(&'static str),
}

/// What both builders say besides.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    Plain,
    Untrusted,
    Memory(Memory),
    WithoutMemory,
    #[cfg(feature = "tls")]
    Tls,
}

impl Ground {
    pub(crate) const fn new(at: At, transport: Transport) -> Self {
        Self { name: "", at, how: How::Plain, transport, shares: false, in_place: false }
    }

    pub(crate) const fn sharing(self) -> Self {
        Self { shares: true, ..self }
    }

    pub(crate) const fn in_place(self) -> Self {
        Self { in_place: true, ..self }
    }

    pub(crate) const fn how(self, how: How) -> Self {
        Self { how, ..self }
    }

    /// The ground that a parent named; `None` in whoever is no child.
    pub(crate) fn of_child() -> Option<Self> {
        Self::named(&std::env::var(GROUND).ok()?)
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        crate::GROUNDS.iter().find(|(known, _)| *known == name).map(|(_, ground)| *ground)
    }

    pub(crate) fn endpoint(self, place: &Place) -> String {
        let own = place.path().file_name().unwrap().display();
        match self.at {
            At::Path(scheme) => format!("{scheme}:{}", place.socket().display()),
            At::Abstract => format!("uds:@{own}"),
            At::Name(scheme) => format!("{scheme}:{own}"),
            At::Port(endpoint) => endpoint.to_owned(),
        }
    }

    /// A server's builder, with nothing to serve.
    pub(crate) fn server(self) -> ServerBuilder {
        let builder = Server::builder();
        match self.how {
            How::Plain => builder,
            How::Untrusted => builder.trust(Peers::Nobody),
            How::Memory(memory) => builder.memory(memory),
            How::WithoutMemory => builder.memory_from(u64::MAX),
            #[cfg(feature = "tls")]
            How::Tls => builder.tls(certificates::tls()),
        }
    }

    /// A client's builder, with plenty of time.
    pub(crate) fn client<C: Client>(self) -> ClientBuilder<C> {
        let builder = ClientBuilder::new().timeout(BOUND).connect_timeout(BOUND);
        match self.how {
            How::Plain => builder,
            How::Untrusted => builder.trust(Peers::Nobody),
            How::Memory(memory) => builder.memory(memory),
            How::WithoutMemory => builder.memory_from(u64::MAX),
            #[cfg(feature = "tls")]
            How::Tls => builder.tls(certificates::tls()),
        }
    }

    pub(crate) fn start(self) -> Started {
        self.start_with(|builder| builder)
    }

    pub(crate) fn start_with(self, options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Started {
        let (place, (gate, keeper)) = (Place::new(), gate());
        let worker = Arc::new(Worker::new(gate));
        let service = WorkServer::new(Arc::clone(&worker));
        let server = options(self.server().service(service)).listen(self.endpoint(&place)).start().unwrap();
        Started { server, worker, keeper, ground: self, _place: place }
    }

    /// A child process with this part, on this ground.
    pub(crate) fn child(self, part: &str, endpoint: &str) -> Process {
        Process::start_with(part, endpoint, |command| {
            #[cfg(feature = "tls")]
            command.env(certificates::INHERITED, certificates::all());
            command.env(GROUND, self.name)
        })
    }
}

/// A server of this process.
pub(crate) struct Started {
    pub(crate) server: ServerHandle,
    pub(crate) worker: Arc<Worker>,
    pub(crate) keeper: Keeper,
    ground: Ground,
    _place: Place,
}

impl Started {
    /// Where it is.
    pub(crate) fn at(&self) -> String {
        self.server.endpoints()[0].to_string()
    }

    pub(crate) fn connect(&self) -> WorkClient {
        self.connect_with(|builder| builder)
    }

    /// A client that ends with its connection.
    pub(crate) fn connect_once(&self) -> WorkClient {
        self.connect_with(|builder| builder.reconnect(false))
    }

    pub(crate) fn connect_with(
        &self,
        options: impl FnOnce(ClientBuilder<WorkClient>) -> ClientBuilder<WorkClient>,
    ) -> WorkClient {
        options(self.ground.client()).connect(self.at()).unwrap()
    }
}

/// What both sides are under TLS, and whom they believe: the same in a process and its children.
#[cfg(feature = "tls")]
mod certificates {
    use std::sync::LazyLock;

    use shmrpc::Tls;

    use crate::support::authority::Authority;

    /// Where a child finds its parent's.
    pub(super) const INHERITED: &str = "SHMRPC_TEST_CERTIFICATES";
    /// Between roots, chain and key. It is in no PEM.
    const BETWEEN: char = '|';

    pub(super) fn all() -> &'static str {
        static ALL: LazyLock<String> = LazyLock::new(|| {
            std::env::var(INHERITED).unwrap_or_else(|_| {
                let authority = Authority::new();
                let own = authority.sign("127.0.0.1");
                let parts = [authority.pem, own.chain, own.key].map(|part| String::from_utf8(part).unwrap());
                parts.join(&BETWEEN.to_string())
            })
        });
        &ALL
    }

    pub(super) fn tls() -> Tls {
        let parts: Vec<_> = all().split(BETWEEN).map(str::as_bytes).collect();
        Tls::with_roots(parts[0]).identity(parts[1], parts[2])
    }
}
