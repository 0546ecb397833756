#[shmrpc::message]
pub enum Numbers {
    First = 1,
    Second = 1,
    Third,
}

fn main() {}
