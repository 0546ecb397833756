/// What is stored.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// Its key.
    pub key: String,
    value: Vec<T>,
    #[cfg(feature = "version")]
    version: Version,
}
