//! The certificate that the report and its peers show each other over TLS: one for all, which is its own root.

use std::{fmt::Display, fs, path::Path};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use shmrpc::Tls;

use crate::error::{Error, Result};

const CERTIFICATE: &str = "tls.pem";
const KEY: &str = "tls.key";

/// Makes it, for [`tls`] in this process and in its peers.
pub(crate) fn create(scratch: &Path) -> Result<()> {
    let failed = |error: &dyn Display| Error::Subject(format!("no certificate: {error}"));
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(|error| failed(&error))?;
    fs::write(scratch.join(CERTIFICATE), cert.pem())?;
    Ok(fs::write(scratch.join(KEY), signing_key.serialize_pem())?)
}

/// What both sides of a connection are.
pub(crate) fn tls(scratch: &Path) -> Tls {
    let certificate = scratch.join(CERTIFICATE);
    Tls::with_roots(&*certificate).identity(&*certificate, scratch.join(KEY))
}
