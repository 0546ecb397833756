use std::cell::Cell;

#[shmrpc::service]
pub trait Counter {
    fn next(&self) -> u64;
}

struct Local(Cell<u64>);

impl Counter for Local {
    fn next(&self) -> u64 {
        self.0.replace(self.0.get() + 1)
    }
}

struct Other;

fn main() {
    let _ = shmrpc::Server::builder().service(CounterServer::new(Local(Cell::new(0))));
    let _ = shmrpc::Server::builder().service(CounterServer::new(Other));
}
