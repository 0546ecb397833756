/// A key-value store.
#[expect(clippy::too_many_arguments, reason = "no fewer would do")]
#[warn(clippy::pedantic)]
pub trait Kv {
    /// Reads an entry, which is not to [`Self::touch`] it.
    fn get(&self, key: &str) -> Result<Entry, KvError>;
    fn put(&self, key: &str, value: &[u8]) -> u64;
    fn put_entry(&self, entry: &Archived<Entry>) -> u64;
    fn compare_and_put(&self, ctx: &Context, entry: Entry, expected: u64) -> Result<u64, KvError>;
    #[oneway]
    fn touch(&self, key: &str);
    #[deprecated]
    fn r#clear(&self) {
        let _ = self;
    }
}
