//! Child processes of the tests: the test program again, with a test's name and an endpoint in the environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, geteuid};

use super::{Place, skipped};

/// Where the parent says at which endpoint a child has its part.
pub(crate) const ENDPOINT: &str = "SHMRPC_TEST_ENDPOINT";

/// Tells the parent, on a line of its own.
pub(crate) fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{word}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Returns when the parent is gone or has closed our stdin.
pub(crate) fn until_orphaned() {
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
}

/// Forks. The child's part is run there, and its process ends with 0 if it returns, else with 1. For processes that a
/// test started for itself alone.
pub(crate) fn forked(part: impl FnOnce()) -> Pid {
    // SAFETY: the child runs no code of other threads: nobody else of this process holds a lock that it needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(part)).is_ok();
            // SAFETY: ends the process at once, without what belongs to the parent.
            unsafe { nix::libc::_exit(i32::from(!well)) }
        }
    }
}

/// A child process, killed on drop.
pub(crate) struct Process {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(part: &str, place: &Place) -> Self {
        Self::start_with(part, &place.endpoint(), |command| command)
    }

    /// With another endpoint, and in surroundings of its own.
    pub(crate) fn start_with(
        part: &str,
        endpoint: &str,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", part, "--nocapture"]);
        with(&mut command);
        Self::spawn(command, endpoint).unwrap()
    }

    /// As a user whom limits bind: not as root. `None` if that cannot be had.
    pub(crate) fn start_as(uid: u32, part: &str, place: &Place) -> Option<Self> {
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", part, "--nocapture"]);
        if geteuid().is_root() {
            command.uid(uid).gid(uid).current_dir("/").env("TMPDIR", "/tmp");
        }
        match Self::spawn(command, &place.endpoint()) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                skipped("root has no such limit, and nobody else may run this program where it lies");
                None
            }
            process => Some(process.unwrap()),
        }
    }

    /// The same for a command that starts the part in its own way.
    pub(crate) fn spawn(mut command: Command, endpoint: &str) -> std::io::Result<Self> {
        command.env(ENDPOINT, endpoint).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().unwrap());
        Ok(Self { child, lines })
    }

    /// Waits until the child says this word.
    pub(crate) fn says(&mut self, word: &str) {
        assert!(self.says_or_ends(word), "the child ended without saying {word:?}");
    }

    /// Waits until the child says this word or ends. False if it ended.
    pub(crate) fn says_or_ends(&mut self, word: &str) -> bool {
        while let Some(line) = self.next_line(word) {
            if line == word {
                return true;
            }
        }
        false
    }

    /// The next line that begins with this word.
    pub(crate) fn tells(&mut self, word: &str) -> String {
        self.next_line(word).unwrap_or_else(|| panic!("the child ended without saying {word:?}"))
    }

    /// The next line that begins with this word; `None` if the child ended.
    fn next_line(&mut self, word: &str) -> Option<String> {
        let mut line = String::new();
        while !line.starts_with(word) {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
        }
        Some(line.trim_end().to_owned())
    }

    /// Sends the child an empty line. If it has ended, that shows elsewhere.
    pub(crate) fn tell(&mut self) {
        if let Some(stdin) = &mut self.child.stdin {
            let _ = stdin.write_all(b"\n");
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Freezes it, and waits until it is frozen.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let frozen = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(frozen, WaitStatus::Stopped(self.pid(), Signal::SIGSTOP));
    }

    /// Thaws it.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until nobody has the child's stdout any more.
    pub(crate) fn is_silent(&mut self) {
        self.lines.read_to_end(&mut Vec::new()).unwrap();
    }

    /// All that the child still says.
    pub(crate) fn rest(&mut self, said: &mut String) {
        self.lines.read_to_string(said).unwrap();
    }

    /// Waits until the child ends by itself. Its stdin stays open meanwhile.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        let stdin = self.child.stdin.take();
        let mut rest = Vec::new();
        self.lines.read_to_end(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        drop(stdin);
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
