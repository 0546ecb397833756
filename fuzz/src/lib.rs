//! The bodies of the fuzz targets, as plain functions, so that the corpora replay as tests on stable.

mod archive;
mod arena;
mod endpoint;
mod frames;
mod ground;
mod handshake;
mod input;
mod lane;
mod memory;
mod messages;
mod service;
mod slot;
mod sockets;
mod stream;
mod wire;

pub use arena::arena;
pub use endpoint::endpoint;
pub use frames::frames;
pub use handshake::handshake;
pub use lane::lane;
pub use messages::messages;
pub use slot::slot;
pub use sockets::sockets;
pub use stream::stream;

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn replay(name: &str, body: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 10, "the corpus has {count} files only");
    }

    macro_rules! replays {
        ($($name:ident)*) => {$(
            #[test]
            fn $name() {
                replay(stringify!($name), super::$name);
            }
        )*};
    }

    replays!(arena endpoint frames handshake lane messages slot sockets stream);
}
