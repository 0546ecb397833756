//! shmrpc under another path.

#![deny(missing_docs, warnings)]

use shmrpc::prelude::*;

/// A crate that re-exports shmrpc.
pub mod framework {
    pub use ::shmrpc as rpc;
}

/// A message.
#[framework::rpc::message(recursive, crate = crate::framework::rpc)]
pub enum Node {
    /// More.
    More {
        /// Those.
        nodes: Vec<Node>,
    },
}

/// A service.
#[framework::rpc::service(crate = crate::framework::rpc)]
pub trait Nodes {
    /// Gets.
    fn get(&self, key: &str) -> Result<Node, String>;
}

fn main() {
    assert_eq!(NodesClient::schema().name, "Nodes");
}
