//! Endpoints of a server: taken first, served then.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use shmrpc_transport::connection::Carrier;
use shmrpc_transport::rendezvous::inside;
use shmrpc_transport::rendezvous::net::{NetListener, Ports};
use shmrpc_transport::rendezvous::{Bound, Host, Listener, Policy};
use shmrpc_transport::sys::futex::Until;
use shmrpc_transport::tls::{Acceptor, Tls};

use crate::endpoint::{Address, Endpoint};
use crate::error::ServeError;

/// How often a server that waits for an endpoint looks whether it is free.
const LOOK: Duration = Duration::from_millis(1);

/// An endpoint that is ours, and not served yet.
#[derive(Debug)]
pub(super) enum Threshold {
    Unix(Bound, Carrier),
    Tcp(Ports),
    Tls(Ports),
    Inside(inside::Name),
}

impl Threshold {
    /// Takes it; if another server has it, as soon as that gives it up.
    pub(super) fn take(
        endpoint: &Endpoint,
        policy: &Policy,
        tls: Option<&Tls>,
        until: &mut Until,
    ) -> Result<Self, ServeError> {
        let address = endpoint.to_listen()?;
        // Once: whoever waits for a name would read the files as often as it looks.
        let acceptor = match &address {
            Address::Tls(_) => Some(
                Acceptor::new(tls)
                    .map_err(|error| ServeError::Tls { endpoint: endpoint.to_string(), error })?,
            ),
            _ => None,
        };
        loop {
            match Self::take_now(endpoint, &address, policy, acceptor.clone()) {
                Err(ServeError::Listen { error, .. })
                    if error.kind() == ErrorKind::AddrInUse && !until.is_over() =>
                {
                    std::thread::sleep(LOOK);
                }
                taken => return taken,
            }
        }
    }

    fn take_now(
        endpoint: &Endpoint,
        address: &Address,
        policy: &Policy,
        acceptor: Option<Acceptor>,
    ) -> Result<Self, ServeError> {
        let taken = match address {
            Address::Unix(path, carrier) => {
                Bound::at(path, &policy.allow).map(|bound| Self::Unix(bound, *carrier))
            }
            Address::Tcp(at) => Ports::bind(at, policy, None).map(Self::Tcp),
            Address::Tls(at) => Ports::bind(at, policy, acceptor).map(Self::Tls),
            Address::Inside(name) => inside::Name::take(name).map(Self::Inside),
        };
        taken.map_err(|error| ServeError::Listen { endpoint: endpoint.to_string(), error })
    }

    /// Serves it. What it is then, and where.
    pub(super) fn open(
        self,
        endpoint: &Endpoint,
        policy: &Policy,
        host: Arc<dyn Host>,
    ) -> Result<(Door, Vec<Endpoint>), ServeError> {
        let failed = |error| ServeError::Listen { endpoint: endpoint.to_string(), error };
        let policy = policy.clone();
        match self {
            Self::Unix(bound, carrier) => {
                let listener = Listener::start(bound, Policy { carrier, ..policy }, host).map_err(failed)?;
                Ok((Door::Unix(listener), vec![endpoint.clone()]))
            }
            Self::Tcp(ports) => {
                let at = ports.addresses().iter().map(|at| Endpoint::Tcp((*at).into())).collect();
                Ok((Door::Net(ports.start(policy, host).map_err(failed)?), at))
            }
            Self::Tls(ports) => {
                let at = ports.addresses().iter().map(|at| Endpoint::Tls((*at).into())).collect();
                Ok((Door::Net(ports.start(policy, host).map_err(failed)?), at))
            }
            Self::Inside(name) => {
                Ok((Door::Inside(name.serve(policy, host).map_err(failed)?), vec![endpoint.clone()]))
            }
        }
    }
}

/// An endpoint that is served, until dropped.
#[derive(Debug)]
pub(super) enum Door {
    Unix(#[expect(dead_code, reason = "served as long as it is here")] Listener),
    Net(#[expect(dead_code, reason = "served as long as it is here")] NetListener),
    Inside(#[expect(dead_code, reason = "served as long as it is here")] inside::Door),
}
