use shmrpc::prelude::*;
use std::sync::Arc;

pub type Fallible<T> = std::result::Result<T, String>;

#[shmrpc::service]
pub trait Results {
    fn text(&self) -> &str;
    fn bytes(&self) -> Result<&[u8], String>;
    fn size(&self) -> usize;
    fn sizes(&self) -> Result<Vec<usize>, Arc<str>>;
    fn alias(&self) -> std::io::Result<u64>;
    fn alias_of_refused(&self) -> std::io::Result<Vec<usize>>;
    fn never(&self) -> !;
    fn hidden(&self) -> impl Iterator<Item = u64>;
    fn archive(&self) -> Archived<u64>;
    fn view(&self) -> View<u64>;
    fn context(&self) -> Context;
    fn own(&self) -> Self;
    fn units(&self) -> Vec<()>;
    fn fine(&self) -> Result<u64, String>;
}

fn main() {}
