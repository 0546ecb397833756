use shmrpc::prelude::*;
use std::os::fd::{BorrowedFd, RawFd};

#[shmrpc::message]
pub struct Opened {
    name: String,
    file: OwnedFd,
}

#[shmrpc::service]
pub trait Descriptors {
    fn borrowed(&self, file: &OwnedFd);
    fn lent(&self, file: BorrowedFd);
    fn number(&self, file: RawFd);
    fn many(&self, files: Vec<OwnedFd>);
    fn maybe(&self) -> Option<std::os::fd::OwnedFd>;
    fn two(&self) -> (OwnedFd, OwnedFd);
    fn as_error(&self) -> Result<u32, OwnedFd>;
}

fn main() {}
