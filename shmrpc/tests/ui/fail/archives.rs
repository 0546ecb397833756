use shmrpc::prelude::*;

#[shmrpc::service]
pub trait Archives {
    fn maybe(&self, text: Option<&Archived<String>>) -> u64;
    fn pair(&self, pair: (&Archived<String>, u32)) -> u64;
    fn list(&self, texts: Vec<&shmrpc::Archived<String>>, slice: &[&Archived<String>]) -> u64;
    fn nested(&self, text: &Archived<Option<&Archived<String>>>) -> u64;
    fn slice(&self, numbers: &Archived<[u32]>) -> u64;
    fn text(&self, text: &Archived<str>, borrowed: &Archived<&str>) -> u64;
    fn unsized_inside(&self, texts: Vec<str>, lists: Option<[u8]>) -> u64;
    fn context(&self, ctx: Option<&Context>) -> Result<&Context, String>;
    fn result(&self) -> Option<&Archived<String>>;
    fn bare(&self, text: &Archived, two: &Archived<String, u8>, inside: Vec<Archived>) -> u64;
    fn fine(&self, text: &Archived<Option<String>>) -> u64;
}

fn main() {}
