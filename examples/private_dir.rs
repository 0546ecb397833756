//! A directory for the length of a program, which nobody else may enter.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::{env, fs, io, process};

/// Removed, with what is in it, when dropped.
pub(crate) struct PrivateDir(pub(crate) PathBuf);

impl PrivateDir {
    /// Makes `shmrpc-NAME-PID` among the temporary files.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let path = env::temp_dir().join(format!("shmrpc-{name}-{}", process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// An endpoint in this directory.
    pub(crate) fn endpoint(&self) -> String {
        format!("shm:{}/socket", self.0.display())
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}
