use std::collections::HashMap;

pub struct Version(u64);

#[shmrpc::message]
pub struct Inside {
    list: Vec<Version>,
    fine: u64,
}

#[shmrpc::message]
pub struct Optional(Option<Box<Version>>, (u8, [String; 2]));

#[shmrpc::message]
pub struct Mapped {
    versions: HashMap<String, Version>,
    again: Vec<Version>,
}

#[shmrpc::message]
pub enum Choice {
    Some(Version, u64),
    None,
}

#[shmrpc::message]
pub enum Named {
    Some { version: Version, fine: u64 },
    None,
}

fn main() {}
