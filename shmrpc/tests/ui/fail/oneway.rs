#[shmrpc::service]
pub trait OneWay {
    #[oneway]
    fn with_result(&self) -> u64;
    #[oneway]
    fn with_error(&self) -> Result<(), String>;
    #[oneway(fast)]
    fn with_arguments(&self);
    #[oneway]
    #[oneway]
    fn twice(&self);
    #[shmrpc::oneway]
    fn with_path(&self);
    #[oneway]
    fn fine(&self) -> ();
}

fn main() {}
