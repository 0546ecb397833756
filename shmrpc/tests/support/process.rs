//! Child processes of the tests: the test program again, with a test's name and an endpoint in the environment.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Place;

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

/// A child process, killed on drop.
pub(crate) struct Process {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(part: &str, place: &Place) -> Self {
        Self::start_with(part, place, &[])
    }

    /// The same, with more in its environment.
    pub(crate) fn start_with(part: &str, place: &Place, environment: &[(&str, &OsStr)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", part, "--nocapture"]).envs(environment.iter().copied());
        Self::spawn(command, place).unwrap()
    }

    /// The same for a command that starts the part in its own way.
    pub(crate) fn spawn(mut command: Command, place: &Place) -> std::io::Result<Self> {
        command.env(ENDPOINT, place.endpoint()).stdin(Stdio::piped()).stdout(Stdio::piped());
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
        let mut line = String::new();
        while line.trim() != word {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return false;
            }
        }
        true
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

    /// Freezes it.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Thaws it.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits until nobody has the child's stdout any more.
    pub(crate) fn is_silent(&mut self) {
        self.lines.read_to_end(&mut Vec::new()).unwrap();
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
