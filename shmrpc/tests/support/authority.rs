//! Certificates, made when they are needed and kept in memory.

use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use shmrpc::Tls;

/// One that signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: Vec<u8>,
}

/// What it has signed, and the key that belongs to it.
pub(crate) struct Identity {
    pub(crate) der: Vec<u8>,
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self::named(&format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Signs a certificate for a name or an address.
    pub(crate) fn sign(&self, name: &str) -> Identity {
        self.sign_until(name, 4000)
    }

    /// The same until the beginning of a year.
    pub(crate) fn sign_until(&self, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let (der, chain) = (signed.der().to_vec(), signed.pem().into_bytes());
        Identity { der, chain, key: key.serialize_pem().into_bytes() }
    }

    /// Believes whom this one has signed for.
    pub(crate) fn roots(&self) -> Tls {
        Tls::with_roots(&*self.pem)
    }

    /// The same, as `name`.
    pub(crate) fn tls(&self, name: &str) -> Tls {
        self.sign(name).with(self.roots())
    }
}

impl Identity {
    pub(crate) fn with(&self, tls: Tls) -> Tls {
        tls.identity(&*self.chain, &*self.key)
    }
}
