//! An `Arc` of a service is no service: one error, which says what is one.
use std::sync::Arc;

use shmrpc::prelude::*;

#[shmrpc::service]
pub trait Counter {
    fn next(&self) -> u64;
}

struct Zero;

impl Counter for Zero {
    fn next(&self) -> u64 {
        0
    }
}

fn main() {
    let zero = Arc::new(Zero);
    let _server = Server::builder()
        .service(CounterServer::new(Arc::clone(&zero)))
        .service(CounterServer::from_arc(zero))
        .listen("inproc:zero")
        .start();
}
