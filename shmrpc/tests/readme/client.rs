use shmrpc::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kv = KvClient::connect("shm:kv")?; // Clone + Send + Sync
    kv.put("a", b"1")?;
    let entry: Entry = kv.get("a")?; // owned
    let view = kv.view().get("a")?; // View<Entry>: read where it arrived
    assert_eq!(view.key, entry.key);
    kv.touch("a")?;
    match kv.get("b") {
        Err(CallError::Service(KvError::NotFound(key))) => println!("no {key}"),
        other => panic!("{other:?}"),
    }
    println!("{}", kv.transport());
    Ok(())
}
