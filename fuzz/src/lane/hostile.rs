//! The memory that lies: between the product and what it shares, every word that the peer writes is what the fuzzer
//! says at that moment, and so is every copy of a payload. A model follows what the product read, and says what it may
//! do then.
//!
//! Looks at a stamp that is not there are repeated as often as time allows, so they see one answer until the product
//! says that it will sleep. All other reads are new each time. The same input makes the same run.

use std::cell::RefCell;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, Once};

use shmrpc_transport::sync::instrument::{self, Memory};

use super::script::{Script, is_first_stamp};
use super::service::Call;

struct Hostile;

thread_local! {
    static ROLE: RefCell<Role> = const { RefCell::new(Role(Part::Unknown)) };
}

/// What a thread does in a session.
struct Role(Part);

enum Part {
    Unknown,
    /// None of our business.
    Nothing,
    /// It reads and writes the shared memory of this session; when it ends, the session hears of it.
    Plays(Arc<Mutex<Script>>, Option<Sender<PathBuf>>),
}

impl Drop for Role {
    fn drop(&mut self) {
        if let Part::Plays(script, Some(ended)) = mem::replace(&mut self.0, Part::Nothing) {
            if std::thread::panicking() {
                script.lock().unwrap_or_else(|held| held.into_inner()).blame("its thread panicked".into());
            }
            // Nobody waits any more, if it is late.
            let _ = ended.send(Path::new("/proc").join(std::fs::read_link("/proc/thread-self").unwrap()));
        }
    }
}

/// The session whose lane a server's thread is to serve next: the one whose first look is at that session's memory.
static NEXT: Mutex<Option<Cast>> = Mutex::new(None);

type Cast = (Arc<Mutex<Script>>, Sender<PathBuf>);

/// The next thread that serves a lane plays in `script`; `ended` hears when it is about to end, and where it is in
/// /proc until it has.
pub(super) fn cast(script: &Arc<Mutex<Script>>, ended: Sender<PathBuf>) {
    install();
    *NEXT.lock().unwrap() = Some((Arc::clone(script), ended));
}

/// This thread plays in `script` while `scene` runs.
pub(super) fn play<T>(script: &Arc<Mutex<Script>>, scene: impl FnOnce() -> T) -> T {
    install();
    ROLE.with_borrow_mut(|role| role.0 = Part::Plays(Arc::clone(script), None));
    let done = scene();
    ROLE.with_borrow_mut(|role| role.0 = Part::Nothing);
    done
}

/// A handler ran.
pub(super) fn ran(call: Call) {
    with(false, |script| script.ran(call));
}

fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| instrument::install(&Hostile));
}

/// Only the threads that play see the fuzzer's memory: other targets may run beside this one, and threads of theirs were
/// at work before anybody looked. `is_first` says of the one who was cast that it looks for its first message.
fn with<T>(is_first: bool, work: impl FnOnce(&mut Script) -> T) -> Option<T> {
    let script = ROLE.try_with(|role| {
        let mut role = role.borrow_mut();
        if matches!(role.0, Part::Unknown) {
            let next = if is_first { NEXT.lock().unwrap().take() } else { None };
            role.0 = next.map_or(Part::Nothing, |(script, ended)| Part::Plays(script, Some(ended)));
        }
        match &role.0 {
            Part::Plays(script, _) => Some(Arc::clone(script)),
            _ => None,
        }
    });
    let script = script.ok()??;
    let mut script = script.lock().unwrap_or_else(|held| held.into_inner());
    Some(work(&mut script))
}

impl Memory for Hostile {
    fn loaded(&self, _: usize, value: u64) -> u64 {
        with(is_first_stamp(value), |script| script.loaded(value)).unwrap_or(value)
    }

    fn storing(&self, address: usize, value: u64) {
        with(false, |script| script.storing(address, value));
    }

    fn copied(&self, _: usize, copy: &mut [u8]) {
        with(false, |script| script.copied(copy));
    }

    fn published(&self) {
        with(false, Script::published);
    }
}
