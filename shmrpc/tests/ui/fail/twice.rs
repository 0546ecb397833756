#[shmrpc::message]
#[shmrpc::message]
pub struct Entry {
    key: String,
}

#[shmrpc::service]
#[shmrpc::service]
pub trait Kv {
    fn get(&self) -> Entry;
}

fn main() {
    let _ = KvClient::connect("shm:kv");
}
