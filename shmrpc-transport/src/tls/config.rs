//! What rustls is told: TLS 1.3 alone, certificates on both sides, nothing remembered between connections.

use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, ServerConnection,
};

use super::link::explain;
use super::{Broken, Link, Pem, Tls, TlsError};

/// What both sides say that they speak: a service that says something else refuses the handshake.
const PROTOCOL: &[u8] = b"shmrpc";

/// The side that listens.
#[derive(Debug, Clone)]
pub struct Acceptor(Arc<ServerConfig>);

/// The side that connects to one server.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl Acceptor {
    /// Reads what `tls` names.
    ///
    /// # Errors
    /// [`TlsError`] says which file, and what is wrong with it.
    pub fn new(tls: Option<&Tls>) -> Result<Self, TlsError> {
        let tls = tls.ok_or(TlsError::NotSaid)?;
        let identity = tls.identity.as_ref().ok_or(TlsError::NoIdentity)?;
        let (provider, roots) = (provider(), roots(&tls.roots)?);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let clients = if tls.anybody { clients.allow_unauthenticated() } else { clients };
        let clients = clients.build().map_err(|error| unusable(&tls.roots, &error))?;
        let (chain, key) = read_identity(identity)?;
        // Of what a client would object to, its age is what we can tell.
        if let Ok(verifier) =
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()
            && let [own, between @ ..] = chain.as_slice()
            && let Ok(anybody) = ServerName::try_from("localhost")
        {
            let checked = verifier.verify_server_cert(own, between, &anybody, &[], UnixTime::now());
            in_its_time(&identity[0], checked)?;
        }
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let config = config.map_err(|error| unusable(&tls.roots, &error))?.with_client_cert_verifier(clients);
        let mut config = config.with_single_cert(chain, key).map_err(|error| not_ours(identity, &error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn accept(&self, stream: TcpStream) -> Result<Link, Broken> {
        let session = ServerConnection::new(Arc::clone(&self.0)).map_err(|error| explain(&error))?;
        Ok(Link::new(stream, session.into()))
    }
}

impl Connector {
    /// Reads what `tls` names, for a server that is reached as `host`.
    ///
    /// # Errors
    /// [`TlsError`] says which file, and what is wrong with it.
    pub fn new(tls: Option<&Tls>, host: &str) -> Result<Self, TlsError> {
        let tls = tls.ok_or(TlsError::NotSaid)?;
        let name = tls.server_name.as_deref().unwrap_or(host);
        let server = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        let (provider, roots) = (provider(), roots(&tls.roots)?);
        let config =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
        let config = config.map_err(|error| unusable(&tls.roots, &error))?;
        let config = config.with_root_certificates(Arc::clone(&roots));
        let mut config = match &tls.identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = read_identity(identity)?;
                if let Ok(verifier) = WebPkiClientVerifier::builder_with_provider(roots, provider).build()
                    && let [own, between @ ..] = chain.as_slice()
                {
                    in_its_time(&identity[0], verifier.verify_client_cert(own, between, UnixTime::now()))?;
                }
                config.with_client_auth_cert(chain, key).map_err(|error| not_ours(identity, &error))?
            }
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { config: Arc::new(config), server })
    }

    pub(crate) fn connect(&self, stream: TcpStream) -> Result<Link, Broken> {
        let session = ClientConnection::new(Arc::clone(&self.config), self.server.clone());
        Ok(Link::new(stream, session.map_err(|error| explain(&error))?.into()))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(from: &Pem) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(from)? {
        roots.add(certificate).map_err(|error| unusable(from, &error))?;
    }
    Ok(Arc::new(roots))
}

fn certificates(from: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = from.read()?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found.map_err(|error| unusable(from, &error))? {
        none if none.is_empty() => Err(TlsError::Missing { what: "certificate", pem: from.clone() }),
        some => Ok(some),
    }
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_identity([chain, key]: &[Pem; 2]) -> Result<Own, TlsError> {
    let certificates = certificates(chain)?;
    let found = PrivateKeyDer::from_pem_slice(&key.read()?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::Missing { what: "private key", pem: key.clone() },
        error => unusable(key, &error),
    })?;
    Ok((certificates, found))
}

fn unusable(pem: &Pem, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::Unusable { pem: pem.clone(), reason: reason.to_string() }
}

/// Why a certificate and a key are no identity.
fn not_ours([chain, key]: &[Pem; 2], error: &Error) -> TlsError {
    match error {
        Error::InconsistentKeys(_) => TlsError::OtherKey { key: key.clone(), chain: chain.clone() },
        Error::InvalidCertificate(error) => unusable(chain, error),
        error => unusable(key, error),
    }
}

/// Refuses a certificate of ours whose time has not come, or is over. Whether the other end believes it is not for us to
/// say.
fn in_its_time<T>(chain: &Pem, checked: Result<T, Error>) -> Result<(), TlsError> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match checked {
        Err(Error::InvalidCertificate(
            error @ (Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }),
        )) => Err(unusable(chain, &error)),
        _ => Ok(()),
    }
}
