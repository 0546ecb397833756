//! Types without a size that stand for text.

use std::borrow::Cow;
use std::ffi::{CStr, OsStr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

#[shmrpc::message]
pub struct Held {
    path: &'static Path,
    os: &'static OsStr,
    c: &'static CStr,
    many: Vec<&'static std::path::Path>,
    boxed: (Box<CStr>, Box<OsStr>, Box<std::path::Path>),
    shared: (Rc<Path>, Arc<OsStr>, Rc<core::ffi::CStr>, Arc<PathBuf>),
    borrowed: (Cow<'static, Path>, Cow<'static, CStr>),
    slices: &'static [&'static CStr],
    options: Option<&'static PathBuf>,
}

#[shmrpc::service]
pub trait Taken {
    fn behind(&self, a: &Path, b: &OsStr, c: &CStr, d: &core::ffi::CStr, e: &std::path::Path, f: &PathBuf);
    fn slices(&self, a: &[&Path], b: &[&CStr], c: &[OsStr]);
    fn inside(&self, a: Vec<&Path>, b: Option<&CStr>, c: (&OsStr, u8), d: &Vec<PathBuf>);
    fn itself(&self, a: std::path::Path, b: OsStr, c: CStr);
    fn boxed(&self, a: Box<CStr>, b: Box<OsStr>, c: &Box<std::path::Path>);
    fn shared(&self, a: Rc<Path>, b: Arc<CStr>, c: Cow<'static, OsStr>, d: &Rc<CStr>);
    fn archives(&self, a: &Archived<CStr>, b: &Archived<Rc<OsStr>>, c: &&Path);
}

#[shmrpc::service]
pub trait Returned {
    fn path(&self) -> &Path;
    fn os(&self) -> Result<&OsStr, &CStr>;
    fn many(&self) -> Vec<&Path>;
    fn itself(&self) -> Option<CStr>;
    fn boxed(&self) -> Box<OsStr>;
}

#[shmrpc::message]
pub struct ByValue {
    // It might be a message of this name.
    boxed: Box<Path>,
}

fn main() {}
