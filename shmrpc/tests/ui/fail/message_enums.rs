#[shmrpc::message]
pub enum Empty {}

const HIGH: isize = 7;

#[shmrpc::message]
pub enum Discriminants {
    Fine = 1,
    Large = 256,
    Negative = -1,
    Named = HIGH,
}

#[shmrpc::message]
pub enum Last {
    Fine = 254,
    Last,
    TooMany,
}

#[shmrpc::message]
#[repr(C, packed(4))]
pub struct Packed {
    a: u8,
    b: u64,
}

fn main() {}
