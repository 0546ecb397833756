//! Descriptors, by whatever path they are named; what is sent may be any owner of one.

use std::fs::File;
use std::os::fd as descriptors;

use shmrpc::prelude::*;

#[shmrpc::service]
pub trait Files {
    fn open(&self, path: &str) -> Result<OwnedFd, String>;
    fn null(&self) -> std::os::fd::OwnedFd;
    fn copy(&self, from: descriptors::OwnedFd, ctx: &Context, to: OwnedFd, length: u64) -> u64;
    #[oneway]
    fn take(&self, file: OwnedFd);
}

struct Server;

impl Files for Server {
    fn open(&self, path: &str) -> Result<OwnedFd, String> {
        File::open(path).map(OwnedFd::from).map_err(|error| error.to_string())
    }
    fn null(&self) -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }
    fn copy(&self, _: OwnedFd, _: &Context, _: OwnedFd, length: u64) -> u64 {
        length
    }
    fn take(&self, _: OwnedFd) {}
}

fn calls(files: &FilesClient, socket: std::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    let file: OwnedFd = files.open("/etc/hosts")?;
    let null: OwnedFd = files.view().null()?;
    files.copy(file, File::from(null), 7)?;
    files.take(socket)?;
    Ok(())
}

fn main() {
    let _ = (FilesServer::new(Server), calls);
}
