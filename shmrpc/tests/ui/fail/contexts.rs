use shmrpc::prelude::*;

#[shmrpc::service]
pub trait Contexts {
    fn two(&self, a: &Context, key: &str, b: &shmrpc::Context) -> u64;
    fn by_value(&self, ctx: Context) -> u64;
    fn mutable(&self, ctx: &mut Context) -> u64;
    fn inside(&self, ctx: Option<Context>) -> u64;
    fn fine(&self, key: &str, ctx: &Context) -> u64;
}

fn main() {}
