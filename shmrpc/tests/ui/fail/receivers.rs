use std::sync::Arc;

#[shmrpc::service]
pub trait Receivers {
    fn none() -> u64;
    fn none_but_parameters(key: &str, value: u64) -> u64;
    fn mutable(&mut self) -> u64;
    fn by_value(self) -> u64;
    fn boxed(self: Box<Self>) -> u64;
    fn counted(self: Arc<Self>) -> u64;
    fn changed(mut self) -> u64;
    fn spelled_out(self: &mut Self) -> u64;
    fn pinned(self: std::pin::Pin<&Self>) -> u64;
    fn fine(&self) -> u64;
    fn fine_too(self: &Self) -> u64;
}

fn main() {}
