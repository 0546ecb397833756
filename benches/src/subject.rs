//! The subject: everything the report knows about shmrpc. Not there yet, so nothing here can be called.

use std::path::Path;

use crate::error::Result;

/// Servers in this process, until dropped.
pub(crate) enum Servers {}

/// A client.
pub(crate) enum Caller {}

/// Serves at `trusting`, where peers of the same user are trusted, and at `wary`, where nobody is.
pub(crate) fn serve(_trusting: &Path, _wary: &Path) -> Result<Option<Servers>> {
    Ok(None)
}

/// Connects to one of the two; none means that there is nothing to measure yet.
pub(crate) fn connect(_path: &Path) -> Result<Option<Caller>> {
    Ok(None)
}

impl Caller {
    /// `count` calls of `add`, in an ordinary loop.
    pub(crate) fn add(&self, _count: u64) -> Result<()> {
        match *self {}
    }

    /// `count` calls that hand `data` over; each answer is compared with `sum`.
    pub(crate) fn touch(&self, _data: &[u8], _sum: u64, _count: u64) -> Result<()> {
        match *self {}
    }

    /// `count` calls whose reply of `len` bytes is read where it arrived, one byte of every line.
    pub(crate) fn view(&self, _len: usize, _count: u64) -> Result<()> {
        match *self {}
    }
}

/// Whether [`lane`] measures something: NOT YET, so the report says that it was not measured.
pub(crate) const LANE: bool = false;

/// The caller's side of `count` echoes over a raw lane, 64 in flight. `_scratch` is for its socket.
pub(crate) fn lane(_scratch: &Path, _count: u64) -> Result<()> {
    Ok(())
}

/// The peer's side of [`lane`].
pub(crate) fn serve_lane(_scratch: &Path, _count: u64) -> Result<()> {
    Ok(())
}
