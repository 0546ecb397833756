use std::collections::HashMap;
use std::sync::Mutex;

#[derive(Default)]
struct Store(Mutex<HashMap<String, Entry>>);

impl Kv for Store {
    fn get(&self, key: &str) -> Result<Entry, KvError> {
        let entries = self.0.lock().unwrap();
        entries.get(key).cloned().ok_or_else(|| KvError::NotFound(key.to_owned()))
    }

    fn put(&self, key: &str, value: &[u8]) -> u64 {
        let mut entries = self.0.lock().unwrap();
        let version = entries.get(key).map_or(1, |entry| entry.version + 1);
        let entry = Entry { key: key.to_owned(), value: value.to_owned(), version };
        entries.insert(key.to_owned(), entry);
        version
    }

    fn touch(&self, key: &str) {
        println!("touched {key}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    shmrpc::serve("shm:kv", KvServer::new(Store::default()))?; // until SIGINT or SIGTERM; then it drains
    Ok(())
}
