pub struct Version(u64);

#[shmrpc::message]
pub struct Entry {
    pub key: String,
    pub version: Version,
}

fn main() {}
