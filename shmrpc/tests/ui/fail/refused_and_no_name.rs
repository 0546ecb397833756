//! A name that is not found is told of in the round in which something beside it is refused.

use shmrpc::Archived;

#[shmrpc::service]
trait Archive {
    fn misspelt(&self, x: Misspelt) -> Also<u8>;
    fn refused(&self, y: usize);
    fn both(&self, z: &Archived<Missing>, y: usize) -> Result<Nothing, isize>;
    fn of<T: Clone>(&self, t: T) -> Vec<T>;
}

#[shmrpc::service]
trait Of<'a, T> {
    fn get(&self, text: &'a str, t: Vec<T>) -> Lost;
}

#[shmrpc::message]
struct Entry {
    key: Strin,
    size: usize,
}

#[shmrpc::message]
union Both {
    key: u8,
}

#[shmrpc::message]
fn alone() -> Found {}

#[shmrpc::service]
impl Entry {}

struct Served;

impl Served {
    #[shmrpc::service]
    fn no_trait(&self) {}

    #[shmrpc::message]
    const NO_MESSAGE: u8 = 0;
}

unsafe extern "C" {
    #[shmrpc::message]
    static OUTSIDE: u8;
}

fn main() {
    #[shmrpc::service]
    trait Inside {
        fn refused(&self, y: usize, z: Elsewhere);
    }
    let _: Absent = helper();
    let _ = Served::no_trait;
}
