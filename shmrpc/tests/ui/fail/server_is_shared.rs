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
    let _ = CounterServer::new(Local(Cell::new(0)));
    let _ = CounterServer::new(Other);
}
