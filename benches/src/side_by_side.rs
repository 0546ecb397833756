//! What `cargo bench` needs of this crate: a server process, a client over each transport, and the same work for all.

use std::{env, process::ExitCode};

use crate::{obey, peer::CHILD, scratch::Served, setup::Setup, subject};

pub use crate::{
    error::{Error, Result},
    subject::{Caller, Record, Way},
    work::{payload, touch_lines},
};

/// The main function of a bench program: runs `measure` beside a server process, both pinned. In that process, serves.
pub fn main(measure: impl FnOnce(&Ground) -> Result<()>) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == CHILD => obey::main(rest),
        _ => with_server(measure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn with_server(measure: impl FnOnce(&Ground) -> Result<()>) -> Result<()> {
    let setup = Setup::create(false)?;
    let mut peer = setup.pinned_peer()?;
    measure(&Ground { served: peer.serve("bench")? })
}

/// A server process that can be reached in every way.
pub struct Ground {
    served: Served,
}

impl Ground {
    /// A client.
    ///
    /// # Errors
    /// Those of connecting.
    pub fn connect(&self, way: Way) -> Result<Caller> {
        subject::connect(&self.served, way)
    }
}
