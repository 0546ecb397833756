#[shmrpc::message]
pub enum Numbers {
    First = 1,
    Second = 1,
    Third { fine: u8 },
}

fn main() {}
