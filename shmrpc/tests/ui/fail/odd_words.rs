#[shmrpc::service]
pub const trait Constant {
    fn get(&self, size: usize) -> u64;
}

#[shmrpc::service]
const unsafe trait Both {
    fn get(&self) -> u64;
}

#[shmrpc::service]
pub trait Methods {
    gen fn all(&self, _size: usize) -> u64 {
        yield 1;
    }
    async gen fn some(&self) -> u64;
    extern "C" fn foreign(&self, _size: usize) -> u64 {
        1
    }
    #[cfg_attr(all(), oneway)]
    fn put(&self, value: u64);
    fn numbered<const N: usize = 3>(&self) -> u64;
    fn typed<T = u8>(&self) -> u64 {
        1
    }
}

#[shmrpc::service]
pub trait Generic<const N: usize = 3, T = u8> {
    fn get(&self) -> u64;
}

#[shmrpc::message]
pub enum Fields {
    #[cfg_attr(all(), rkyv(attr(inline)))]
    A,
    B {
        #[cfg_attr(all(), rkyv(omit_bounds))]
        c: u8,
    },
}

fn main() {}
