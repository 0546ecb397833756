use shmrpc::Archived as Bytes;
use shmrpc::Context as Ctx;

type Text = str;

mod calls {
    pub(crate) use shmrpc::Context as Call;
}

#[shmrpc::service]
pub trait Renamed {
    fn context(&self, ctx: &Ctx, key: &str) -> u64;
    fn by_path(&self, ctx: &calls::Call) -> u64;
    fn archive(&self, value: &Bytes<String>) -> u64;
    fn text(&self, value: &Text) -> u64;
    fn numbers(&self, value: &u64, values: &Option<u64>) -> u64;
}

fn main() {}
