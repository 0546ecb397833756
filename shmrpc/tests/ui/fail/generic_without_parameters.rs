#[shmrpc::message]
pub struct Pair<T> {
    left: T,
    right: T,
}

#[shmrpc::service]
pub trait Pairs {
    fn swap(&self, pair: Pair) -> Pair;
    fn many(&self, pairs: Vec<Pair>, other: &shmrpc::Archived<Pair>) -> Result<u64, Pair>;
}

struct Here;

impl Pairs for Here {
    fn swap(&self, pair: Pair<u8>) -> Pair<u8> {
        pair
    }

    fn many(&self, _pairs: Vec<Pair<u8>>, _other: &shmrpc::Archived<Pair<u8>>) -> Result<u64, Pair<u8>> {
        Ok(0)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pairs = PairsClient::connect("shm:pairs")?;
    pairs.swap(Pair { left: 1, right: 2 })?;
    shmrpc::serve("shm:pairs", PairsServer::new(Here))?;
    Ok(())
}
