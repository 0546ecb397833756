macro_rules! text {
    () => {
        String
    };
}

#[shmrpc::service]
pub trait Odd {
    const fn constant(&self);
    fn inferred(&self, value: _) -> u32;
    fn by_macro(&self) -> text!();
    fn lifetimes(&self, value: Borrowed<'static>);
    fn indexed(&self) -> Result<(), IndexSet<String>>;
}

fn main() {}
