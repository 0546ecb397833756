/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[rkyv(derive(Debug))]
pub enum KvError {
    /// It is not there.
    #[error("no such key: {0}")]
    NotFound(String),
    /// Somebody else was faster.
    #[error("version is {found}")]
    Conflict {
        /// What it is.
        found: u64,
    } = 7,
    /// Not now.
    #[error("not now")]
    Busy,
}
