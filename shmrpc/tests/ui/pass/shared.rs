//! What a server is given: the service itself, or an `Arc` of it, also without its type.
#![deny(missing_docs, unsafe_code, unused)]

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use shmrpc::prelude::*;

/// Counts. With everything that a method may have.
#[shmrpc::service]
pub trait Counter: Debug + Send {
    /// Adds.
    fn add(self: &Self, r#by: u64, ctx: &Context) -> u64;
    /// Reads where it arrived.
    fn length(&self, text: &Archived<String>, more: &[f32], name: &str) -> Result<u64, String>;
    /// Has a body.
    fn twice(&self, value: u64) -> u64 {
        2 * value
    }
    /// Moves.
    fn drop_all(&self, file: OwnedFd, bytes: Blob) {
        drop((file, bytes));
    }
    /// Is not here.
    #[cfg(any())]
    fn never(&self, value: Missing) -> u64;
    /// Is here.
    #[cfg(all())]
    #[oneway]
    fn reset(&self);
    /// Is old.
    #[deprecated]
    fn old(&self);
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Counter for Count {
    fn add(&self, by: u64, _: &Context) -> u64 {
        self.0.fetch_add(by, Ordering::Relaxed) + by
    }
    fn length(&self, text: &Archived<String>, _: &[f32], _: &str) -> Result<u64, String> {
        u64::try_from(text.len()).map_err(|error| error.to_string())
    }
    fn twice(&self, value: u64) -> u64 {
        3 * value
    }
    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
    fn old(&self) {}
}

/// One whose implementation is an `Arc` already.
#[shmrpc::service]
pub trait Last {
    /// The last one.
    fn last(&self) -> Option<u64>;
}

impl Last for Arc<Mutex<Vec<u64>>> {
    fn last(&self) -> Option<u64> {
        self.lock().unwrap().last().copied()
    }
}

fn main() {
    let count = Arc::new(Count::default());
    let any: Arc<dyn Counter + Send + Sync> = count.clone();
    let server = Server::builder()
        .service(CounterServer::new(Arc::clone(&count)))
        .service(LastServer::new(Arc::new(Mutex::new(vec![1, 2]))))
        .listen("inproc:shared")
        .start()
        .unwrap();
    let other = Server::builder().service(CounterServer::new(any)).listen("inproc:any").start().unwrap();
    for endpoint in ["inproc:shared", "inproc:any"] {
        let counter = CounterClient::connect(endpoint).unwrap();
        counter.add(2).unwrap();
        assert_eq!(counter.twice(2).unwrap(), 6, "the implementation's own body");
        assert_eq!(counter.length(&"text".to_owned(), &[1.0], "name").unwrap(), 4);
    }
    assert_eq!(count.0.load(Ordering::Relaxed), 4, "both serve the same");
    assert_eq!(LastClient::connect("inproc:shared").unwrap().last().unwrap(), Some(2));
    drop((server, other));
}
