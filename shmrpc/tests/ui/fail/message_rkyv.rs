#[shmrpc::message]
#[derive(Debug, rkyv::Archive, rkyv::Serialize)]
pub struct Derived(u64);

#[shmrpc::message]
#[rkyv(derive(Debug), archived = Other)]
pub struct Renamed(u64);

#[shmrpc::message]
pub struct Field {
    #[rkyv(omit_bounds)]
    value: u64,
}

#[shmrpc::message]
pub enum Variant {
    #[rkyv(other)]
    Value(u64),
}

fn main() {}
