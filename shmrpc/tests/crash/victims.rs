//! The processes that are killed, and what must be true of those that are not.

use std::os::unix::process::ExitStatusExt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmrpc::prelude::*;

use crate::memory::Crash;
use crate::scenario::{self, End, Log, Logged, Logging, SweepServer};
use crate::support::process::{ENDPOINT, Process, say, until_orphaned};
use crate::support::{BOUND, Place, until};
use crate::trace::follow;

/// Where the parent says at which operation a child ends; 0: it does not end itself.
pub(crate) const KILL_AT: &str = "SHMRPC_TEST_KILL_AT";
/// Where the children write their log.
pub(crate) const LOG: &str = "SHMRPC_TEST_LOG";

/// Which side is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Server,
    Client,
}

/// What a sweep or a soak has found. All but the first two are to be zero.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) killed: u64,
    pub(crate) calls: u64,
    /// Calls that waited until their deadline although the other side was dead.
    pub(crate) unresolved: u64,
    pub(crate) replies_lost: u64,
    pub(crate) run_twice: u64,
    /// Calls whose outcome says what did not happen.
    pub(crate) outcomes_wrong: u64,
}

impl std::ops::AddAssign for Findings {
    fn add_assign(&mut self, other: Self) {
        self.killed += other.killed;
        self.calls += other.calls;
        self.unresolved += other.unresolved;
        self.replies_lost += other.replies_lost;
        self.run_twice += other.run_twice;
        self.outcomes_wrong += other.outcomes_wrong;
    }
}

impl Findings {
    /// Panics if something was found.
    pub(crate) fn expect_none(&self, what: &str) {
        let Self { killed: _, calls: _, unresolved, replies_lost, run_twice, outcomes_wrong } = *self;
        let all = [unresolved, replies_lost, run_twice, outcomes_wrong];
        assert_eq!(all, [0; 4], "{what}: {self:?}");
    }

    /// Compares how calls ended with what the server wrote down.
    pub(crate) fn judge(ends: &[(u64, End)], logged: &Logged) -> Self {
        let mut found = Self { calls: ends.len() as u64, ..Self::default() };
        for (id, end) in ends {
            let ran = logged.ran.get(id).copied().unwrap_or(0);
            let fits = match end {
                End::Replied | End::Failed(Outcome::Ran) => ran == 1,
                End::Failed(Outcome::NotRun) => ran == 0,
                End::Sent | End::Failed(Outcome::Unknown) | End::TimedOut => true,
            };
            found.outcomes_wrong += u64::from(!fits);
        }
        found.unresolved = ends.iter().filter(|(_, end)| *end == End::TimedOut).count() as u64;
        found.run_twice = logged.ran.values().filter(|times| **times > 1).count() as u64;
        let replied = ends.iter().filter(|(_, end)| *end == End::Replied).count();
        found.replies_lost = logged.published.saturating_sub(replied) as u64;
        found
    }
}

/// The server's part in a child: says "ready", waits for a line, then serves until its stdin ends, and shuts down.
pub(crate) fn server() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    install();
    say("ready");
    wait_for_line();
    let server =
        Server::builder().service(SweepServer::new(Logging(log()))).listen(endpoint).start().unwrap();
    say("serving");
    until_orphaned();
    server.shutdown(BOUND).unwrap();
}

/// The client's part in a child: says "ready", waits for a line, makes all calls once, and ends.
pub(crate) fn client() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    install();
    say("ready");
    wait_for_line();
    scenario::run(&endpoint);
}

fn log() -> Log {
    Log::at(std::env::var(LOG).unwrap().as_ref())
}

fn install() {
    let at = std::env::var(KILL_AT).unwrap().parse().unwrap();
    Crash::install(at, log());
}

fn wait_for_line() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// When a victim is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Before its operation on shared memory with this number.
    Operation(u64),
    /// At its system-call stop with this number: before it or after it.
    SystemCall(u64),
    /// This long after it began.
    After(Duration),
}

/// A victim that waits for its line.
pub(crate) struct Condemned {
    process: Process,
    tracer: Option<JoinHandle<()>>,
    after: Option<Duration>,
}

/// Starts a victim. `None` if it cannot be killed in this way here.
pub(crate) fn start(victim: Victim, when: When, place: &Place) -> Option<Condemned> {
    let part = match victim {
        Victim::Server => "child_server",
        Victim::Client => "child_client",
    };
    let log = log_path(place);
    let at = if let When::Operation(at) = when { at } else { 0 };
    let at = at.to_string();
    let environment = [(KILL_AT, at.as_ref()), (LOG, log.as_os_str())];
    let mut process = Process::start_with(part, &place.endpoint(), |command| command.envs(environment));
    process.says("ready");
    let tracer = match when {
        When::SystemCall(at) => Some(follow(process.child.id(), at)?),
        _ => None,
    };
    let after = if let When::After(time) = when { Some(time) } else { None };
    Some(Condemned { process, tracer, after })
}

impl Condemned {
    /// Lets it begin.
    fn begin(&mut self) {
        self.process.tell();
        if let Some(after) = self.after {
            let pid = Pid::from_raw(i32::try_from(self.process.child.id()).unwrap());
            self.tracer = Some(thread::spawn(move || {
                // Nothing to wait for: the moment is to be any.
                thread::sleep(after);
                // It is not reaped before this thread has ended, so the number is still its own.
                let _ended = kill(pid, Signal::SIGKILL);
            }));
        }
    }

    /// Waits for its end. True if it was killed.
    fn ends(mut self) -> bool {
        drop(self.process.child.stdin.take());
        self.process.is_silent();
        if let Some(tracer) = self.tracer.take() {
            tracer.join().unwrap();
        }
        let status = self.process.ends();
        assert!(status.success() || status.signal() == Some(9), "the victim ended by itself: {status}");
        !status.success()
    }
}

pub(crate) fn log_path(place: &Place) -> std::path::PathBuf {
    place.path().join("log")
}

/// Makes all calls to a server that may die at any time. True if it did.
pub(crate) fn attack_server(mut server: Condemned, place: &Place) -> (bool, Findings) {
    server.begin();
    let mut ends = Vec::new();
    if server.process.says_or_ends("serving") {
        ends = scenario::run(&place.endpoint());
    }
    let killed = server.ends();
    let mut found = Findings::judge(&ends, &Logged::read(&log_path(place)));
    found.killed = u64::from(killed);
    if !killed {
        assert!(ends.iter().all(|(_, end)| matches!(end, End::Replied | End::Sent)), "{ends:?}");
        assert_eq!(ends.len(), 18);
    }
    (killed, found)
}

/// Lets a client that may die at any time call a server of this process. True if it did.
pub(crate) fn attack_client(mut client: Condemned, place: &Place) -> (bool, Findings) {
    let log = Log::at(&log_path(place));
    let service = SweepServer::new(Logging(log));
    let server = Server::builder().service(service).listen(place.endpoint()).start().unwrap();
    client.begin();
    let killed = client.ends();
    until("the dead client is forgotten", || server.connections() == 0);
    // All handlers return, and whoever comes next is served.
    let ends = scenario::run(&place.endpoint());
    assert!(ends.iter().all(|(_, end)| matches!(end, End::Replied | End::Sent)), "{ends:?}");
    server.shutdown(BOUND).unwrap();
    // The dead client's calls and ours have the same numbers.
    let logged = Logged::read(&log_path(place));
    let run_twice = logged.ran.values().filter(|times| **times > 2).count() as u64;
    (
        killed,
        Findings { killed: u64::from(killed), calls: ends.len() as u64, run_twice, ..Findings::default() },
    )
}
