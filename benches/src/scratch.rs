//! The directory of the subject's sockets, and leaving without it.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
    thread,
};

use nix::sys::signal::{SigSet, Signal};

use crate::error::Result;

/// The directory of this process, for [`leave`].
static OURS: OnceLock<PathBuf> = OnceLock::new();

/// A private directory that is gone when the report is.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Creates the directory, and sees to it that an interrupted report removes it too. To be called once, before
    /// any other thread runs.
    pub(crate) fn create() -> Result<Scratch> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        // Blocked here and in every later thread, so that the one that waits for them gets them.
        signals.thread_block()?;
        let path = std::env::temp_dir().join(format!("shmrpc-bench-{}", process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let path = OURS.get_or_init(|| path).clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || match signals.wait() {
            Ok(signal) => leave(128 + signal as i32),
            Err(_) => leave(1),
        })?;
        Ok(Scratch { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove();
    }
}

/// Where a peer's servers listen.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// The one that trusts peers of the same user. `shm:` and `uds:` find the same socket.
    pub(crate) trusting: PathBuf,
    /// The one that trusts nobody.
    pub(crate) wary: PathBuf,
    /// The first one's ports of TCP and of TLS; 0 to a process that was not told.
    pub(crate) ports: [u16; 2],
    /// Where the certificate lies.
    pub(crate) scratch: PathBuf,
    /// The one that echoes on a raw lane.
    pub(crate) lane: PathBuf,
}

impl Served {
    /// The servers called `name`.
    pub(crate) fn at(scratch: &Path, name: &str, ports: [u16; 2]) -> Served {
        Served {
            ports,
            scratch: scratch.to_owned(),
            trusting: scratch.join(format!("{name}.trusting")),
            wary: scratch.join(format!("{name}.wary")),
            lane: scratch.join(format!("{name}.lane")),
        }
    }
}

/// Ends the process from any thread. The peers follow: the kernel kills them when their parent dies.
pub(crate) fn leave(code: i32) -> ! {
    remove();
    process::exit(code)
}

fn remove() {
    if let Some(path) = OURS.get() {
        // A directory that is gone already is what is wanted.
        let _ = fs::remove_dir_all(path);
    }
}
