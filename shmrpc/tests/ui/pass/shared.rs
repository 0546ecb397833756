//! What a server is given: the service itself, or an `Arc` of it, also without its type. An `Arc` of a service is none
//! by itself, so its methods are those that it has without shmrpc.
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

/// One whose implementation is an `Arc` already: `KvServer::new` takes it.
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

/// One that is implemented for a type and, by the user, for its `Arc`.
#[shmrpc::service]
pub trait Both {
    /// Whose body it is.
    fn name(&self) -> String;
}

struct Named;

impl Both for Named {
    fn name(&self) -> String {
        "by itself".to_owned()
    }
}

impl Both for Arc<Named> {
    fn name(&self) -> String {
        "by its arc".to_owned()
    }
}

/// An `Arc` keeps its own methods, and those of what it holds.
#[shmrpc::service]
pub trait Quiet {
    /// A name that `Arc` has, too.
    fn clone(&self) -> u64;
    /// A name that the type has, too.
    fn name(&self) -> String;
}

struct Shelf;

impl Shelf {
    fn name(&self) -> String {
        "shelf".to_owned()
    }
}

impl Quiet for Shelf {
    fn clone(&self) -> u64 {
        4
    }
    fn name(&self) -> String {
        "quiet".to_owned()
    }
}

struct Store(Arc<Shelf>);

impl Quiet for Store {
    fn clone(&self) -> u64 {
        let shelf: Arc<Shelf> = self.0.clone();
        Quiet::clone(&*shelf)
    }
    fn name(&self) -> String {
        self.0.name()
    }
}

fn main() {
    let count = Arc::new(Count::default());
    let any: Arc<dyn Counter + Send + Sync> = Arc::<Count>::clone(&count);
    let server = Server::builder()
        .service(CounterServer::from_arc(Arc::clone(&count)))
        .service(LastServer::new(Arc::new(Mutex::new(vec![1, 2]))))
        .service(BothServer::new(Arc::new(Named)))
        .service(QuietServer::<Store>::new(Store(Arc::new(Shelf))))
        .listen("inproc:shared")
        .start()
        .unwrap();
    let held: BothServer<Named, Arc<Named>> = BothServer::<Named>::from_arc(Arc::new(Named));
    let other = Server::builder()
        .service(CounterServer::from_arc(any))
        .service(held)
        .service(LastServer::<Arc<Mutex<Vec<u64>>>>::from_arc(Arc::default()))
        .listen("inproc:any")
        .start()
        .unwrap();
    for endpoint in ["inproc:shared", "inproc:any"] {
        let counter = CounterClient::connect(endpoint).unwrap();
        counter.add(2).unwrap();
        assert_eq!(counter.twice(2).unwrap(), 6, "the implementation's own body");
        assert_eq!(counter.length(&"text".to_owned(), &[1.0], "name").unwrap(), 4);
    }
    assert_eq!(count.0.load(Ordering::Relaxed), 4, "both serve the same");
    assert_eq!(LastClient::connect("inproc:shared").unwrap().last().unwrap(), Some(2));
    assert_eq!(LastClient::connect("inproc:any").unwrap().last().unwrap(), None);
    let both = |endpoint| BothClient::connect(endpoint).unwrap().name().unwrap();
    assert_eq!((both("inproc:shared"), both("inproc:any")), ("by its arc".into(), "by itself".into()));
    let quiet = QuietClient::connect("inproc:shared").unwrap();
    assert_eq!(quiet.name().unwrap(), "shelf", "the inherent method, and no recursion");
    assert_eq!(QuietClient::clone(&quiet).unwrap(), 4);
    drop((server, other));
}
