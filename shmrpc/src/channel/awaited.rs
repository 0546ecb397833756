//! What a call waits for, beyond the message that it comes in.

use std::marker::PhantomData;
use std::sync::Arc;

use shmrpc_transport::connection::{Blob, Connection};
use shmrpc_transport::lane::{Discard, Reply};
use shmrpc_transport::message::Number;
use shmrpc_transport::slot::Kind;

use super::bad_reply;
use crate::Schema;
use crate::blob::BlobWire;
use crate::error::CallError;

/// A result.
pub(super) trait Awaited {
    /// What becomes of it if it comes when nobody waits for it any more.
    const DISCARD: Option<Discard> = None;
    /// Whether something is held as long as nobody takes a late one off its lane.
    const HOLDS: bool = false;

    fn came_over(&mut self, _connection: &Arc<Connection>) {}
}

/// The message holds all of it.
pub(super) struct Owned;

impl Awaited for Owned {}

/// A descriptor is open.
pub(super) struct Handed;

impl Awaited for Handed {
    const HOLDS: bool = true;
}

/// A blob lies elsewhere: in memory of the connection that its message came over.
pub(super) struct BlobFrom<T>(Option<Arc<Connection>>, PhantomData<T>);

impl<T: Number + Schema> BlobFrom<T> {
    pub(super) fn new() -> Self {
        Self(None, PhantomData)
    }

    /// The blob in a reply that came.
    pub(super) fn receive(self, reply: &Reply) -> Result<Blob<T>, CallError> {
        let connection = self.0.ok_or_else(|| bad_reply(&"it came over no connection"))?;
        let wire = reply.message.access::<BlobWire<T>>().map_err(|invalid| bad_reply(&invalid))?;
        connection.receive_blob(wire).map_err(|bad| bad_reply(&bad))
    }
}

impl<T: Number + Schema> Awaited for BlobFrom<T> {
    /// Its memory goes back.
    const DISCARD: Option<Discard> = Some(|connection, reply| {
        if reply.kind == Kind::Reply
            && let Ok(wire) = reply.message.access::<BlobWire<T>>()
            && let Err(bad) = connection.return_blob(wire)
        {
            tracing::debug!(%bad, "a blob that came too late was none");
        }
    });
    const HOLDS: bool = true;

    fn came_over(&mut self, connection: &Arc<Connection>) {
        self.0 = Some(Arc::clone(connection));
    }
}
