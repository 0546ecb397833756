pub struct Entry {
    pub key: String,
}

pub struct Version(u64);

pub struct Note(String);

#[shmrpc::message]
pub struct Stored {
    size: (usize, Entry),
    versions: &'static [Version],
    mark: std::rc::Rc<Note>,
}

#[shmrpc::service]
pub trait Kv {
    fn resize(&self, size: usize) -> u64;
    fn put(&self, entry: Entry) -> Vec<Entry>;
    fn versions(&self, sizes: (usize, Version)) -> Option<&Version>;
    fn notes(&self, note: Option<&Note>) -> (usize, &[Note]);
    fn all(&self) -> Vec<std::rc::Rc<u8>>;
}

fn main() {}
