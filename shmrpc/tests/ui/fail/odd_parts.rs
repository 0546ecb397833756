macro_rules! text {
    () => {
        String
    };
}

pub struct Borrowed<'a>(&'a u8);

pub struct IndexSet<T>(T);

#[shmrpc::service]
pub trait Odd {
    const fn constant(&self);
    fn inferred(&self, value: _) -> u32;
    fn by_macro(&self) -> text!();
    fn lifetimes(&self, value: Borrowed<'static>);
    fn indexed(&self) -> Result<(), IndexSet<String>>;
}

fn main() {}
