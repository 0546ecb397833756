//! A process that the report spawned, seen from the report. What it does is in [`obey`](crate::obey).

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{self, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    channel::Channel,
    error::Result,
    scratch::{Served, leave},
    shared::Shared,
};

/// The argument that makes this program a peer; what follows it is for [`obey::main`](crate::obey::main).
pub(crate) const CHILD: &str = "--child";

/// A process that the report spawned and commands; it ends when this is dropped.
pub(crate) struct Peer<'a> {
    shared: &'a Shared,
    scratch: &'a Path,
    channel: Channel,
    pid: Pid,
    /// Set before the peer is told to end: from then on its end is no failure.
    released: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl<'a> Peer<'a> {
    /// Spawns a process that runs on `cpus` only.
    pub(crate) fn spawn(cpus: &[usize], shared: &'a Shared, scratch: &'a Path) -> Result<Peer<'a>> {
        let (ours, theirs) = UnixStream::pair()?;
        let cpus = cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut child = Command::new("/proc/self/exe")
            .args([CHILD, &process::id().to_string(), &shared.path(), &cpus])
            .arg(scratch)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let released = Arc::new(AtomicBool::new(false));
        let expected = Arc::clone(&released);
        let watcher = thread::Builder::new().name("watcher".to_owned()).spawn(move || {
            let end = child.wait();
            // The report may be polling for an answer that never comes, so it cannot be told: it ends here.
            if !expected.load(SeqCst) {
                eprintln!("report: a peer process ended too early: {end:?}");
                leave(1);
            }
        })?;
        Ok(Peer { shared, scratch, channel: Channel::over(ours), pid, released, watcher: Some(watcher) })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The memory it maps too.
    pub(crate) fn shared(&self) -> &'a Shared {
        self.shared
    }

    /// Lets it do one thing and returns its answer.
    pub(crate) fn ask(&mut self, command: &str) -> Result<String> {
        self.channel.send(command)?;
        self.channel.expect("done")
    }

    /// Lets it get ready for a measurement; [`Peer::finish`] comes afterwards.
    pub(crate) fn prepare(&mut self, command: &str) -> Result<String> {
        self.channel.send(command)?;
        self.channel.expect("ready")
    }

    /// Tells a peer that waits for it to start now.
    pub(crate) fn go(&mut self) -> Result<()> {
        self.channel.send("go")
    }

    /// The answer to a command that was prepared.
    pub(crate) fn finish(&mut self) -> Result<String> {
        self.channel.expect("done")
    }

    /// Runs both sides of one batch: `command` in the peer, `caller` here. The words are zero when they start.
    pub(crate) fn batch<T>(&mut self, command: &str, caller: impl FnOnce(&Shared) -> Result<T>) -> Result<T> {
        self.shared.clear_words();
        self.prepare(command)?;
        let value = caller(self.shared)?;
        self.finish()?;
        Ok(value)
    }

    /// Starts its servers.
    pub(crate) fn serve(&mut self, name: &str) -> Result<Served> {
        let answer = self.ask(&format!("serve {name}"))?;
        let (tcp, tls) = answer.split_once(' ').unwrap_or_default();
        Ok(Served::at(self.scratch, name, [tcp.parse()?, tls.parse()?]))
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        self.released.store(true, SeqCst);
        self.channel.close();
        let Some(watcher) = self.watcher.take() else { return };
        let start = Instant::now();
        while !watcher.is_finished() {
            thread::sleep(Duration::from_millis(1));
            if start.elapsed() > Duration::from_secs(2) {
                // It hangs in a measurement that this side gave up. Not reaped yet, so the id is still its own.
                let _ = kill(self.pid, Signal::SIGKILL);
                break;
            }
        }
        // The watcher does not panic.
        let _ = watcher.join();
    }
}
