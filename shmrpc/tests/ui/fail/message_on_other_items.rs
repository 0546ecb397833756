#[shmrpc::message]
pub union Number {
    int: u32,
    float: f32,
}

#[shmrpc::message]
pub fn get() {}

#[shmrpc::message]
pub trait Entry {}

#[shmrpc::message]
pub type Name = String;

fn main() {}
