#[shmrpc::message]
pub struct Borrowed<'a, T> {
    text: &'a str,
    more: Vec<T>,
}

fn main() {}
