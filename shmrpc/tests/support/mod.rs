//! What the tests share: a place of their own, and a gate that a handler waits at.
#![allow(dead_code, reason = "each test crate uses a part")]

pub(crate) mod liar;
pub(crate) mod listener;
pub(crate) mod process;
pub(crate) mod relay;
#[cfg(feature = "tls")]
pub(crate) mod authority;

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. No test waits that long unless something is broken.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// A directory of this test's own, removed on drop.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        Self::inside(&std::env::temp_dir())
    }

    /// Where every user may go: in the temporary directory if it is such a place, else in `/tmp`.
    pub(crate) fn open_to_all() -> Self {
        let open = |path: &Path| {
            path.ancestors().all(|folder| {
                std::fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
            })
        };
        let temporary = std::env::temp_dir();
        Self::inside(if open(&temporary) { &temporary } else { Path::new("/tmp") })
    }

    fn inside(folder: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("shmrpc-test-{}-{number}", std::process::id()));
        // Whatever the umask is: nobody else may write there.
        std::fs::DirBuilder::new().mode(0o755).create(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("s")
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("shm:{}", self.socket().display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where a handler says that it is in, and waits until it is let out.
pub(crate) struct Gate {
    entered: Sender<()>,
    release: Mutex<Receiver<()>>,
}

/// The test's side of a [`Gate`]. Dropping it lets everybody out.
pub(crate) struct Keeper {
    entered: Receiver<()>,
    release: Sender<()>,
}

pub(crate) fn gate() -> (Gate, Keeper) {
    let (enter, entered) = channel();
    let (release, released) = channel();
    (Gate { entered: enter, release: Mutex::new(released) }, Keeper { entered, release })
}

impl Gate {
    pub(crate) fn pass(&self) {
        let _ = self.entered.send(());
        let _ = self.release.lock().unwrap().recv();
    }
}

impl Keeper {
    /// Waits until a handler is in.
    pub(crate) fn entered(&self) {
        self.entered.recv_timeout(BOUND).expect("no handler came to the gate");
    }

    /// Waits until the gate is dropped, and so the service that it is in.
    pub(crate) fn abandoned(&self) {
        let end = self.entered.recv_timeout(BOUND);
        assert_eq!(end, Err(RecvTimeoutError::Disconnected), "the service is still there");
    }

    /// Lets one handler out.
    pub(crate) fn release(&self) {
        self.release.send(()).unwrap();
    }
}

/// Says that this test, or a part of it, cannot be had here, and why; where it shows although the test does not fail. The harness
/// would keep `eprintln` to itself. CONTRIBUTING.md lists who says so.
pub(crate) fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// Waits until something holds that no channel reports.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "never came: {what}");
        std::thread::yield_now();
    }
}
