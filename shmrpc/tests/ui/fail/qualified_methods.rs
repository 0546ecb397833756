#[shmrpc::service]
pub trait Qualified {
    /// Documented.
    pub fn get(&self, key: &str) -> u64;
    #[oneway]
    pub(crate) default fn put(&self, _value: usize) {}
}

fn call(client: QualifiedClient) {
    client.get("a").unwrap();
    client.put(1).unwrap();
}

fn main() {}
