use std::time::Duration;

#[shmrpc::service]
pub trait Kv {
    fn get(&self, key: &str) -> String;
}

fn call(kv: &KvClient) -> Result<(), Box<dyn std::error::Error>> {
    kv.view().get("a")?;
    kv.with_timeout(Duration::from_secs(1)).get("a")?;
    kv.timeout();
    kv.blob::<u8>(1)?;
    kv.transport();
    Ok(())
}

fn main() {}
