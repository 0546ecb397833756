//! The processes that are killed, and what must be true of those that are not.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmrpc::ServeError;
use shmrpc::prelude::*;
use shmrpc_transport::connection::{has_ended, is_draining};

use crate::memory::Crash;
use crate::plan::{Ground, Plan, Story};
use crate::scenario::{self, Door, End, HELD, HandServer, Log, Logged, Logging, SweepServer};
use crate::support::process::{ENDPOINT, Process, say};
use crate::support::{BOUND, Place, until};
use crate::trace::follow;

/// Where the parent says at which operation a child ends; 0: it does not end itself.
pub(crate) const KILL_AT: &str = "SHMRPC_TEST_KILL_AT";
/// Where the children write their log.
pub(crate) const LOG: &str = "SHMRPC_TEST_LOG";
/// Where the parent says which plan it is, by its number.
const PLAN: &str = "SHMRPC_TEST_PLAN";

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

    /// For people. Of a killed client some counts are zero whatever happens: its calls end with it, so nobody is left whose
    /// call could stay unresolved, lose its reply or have a wrong outcome.
    pub(crate) fn told(&self, victim: Victim) -> String {
        let Self { killed, calls, unresolved, replies_lost, run_twice, outcomes_wrong } = *self;
        match victim {
            Victim::Server => format!(
                "points killed: {killed}, calls judged: {calls}, unresolved: {unresolved}, replies lost: {replies_lost}, \
                 handlers run twice: {run_twice}, outcomes wrong: {outcomes_wrong}"
            ),
            Victim::Client => format!(
                "points killed: {killed}, calls of whoever came next: {calls}, handlers run twice: {run_twice}, \
                 unresolved, replies lost and outcomes wrong: 0 by construction (the caller is dead)"
            ),
        }
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

/// The server's part in a child: says "ready", waits for a line, then serves; at the next line it shuts down, and at the
/// one after that the calls in flight return.
pub(crate) fn server() {
    if std::env::var(ENDPOINT).is_err() {
        return;
    }
    install();
    say("ready");
    wait_for_line();
    let host = Host::start(log(), plan().ground, log_path_of_child().parent().unwrap());
    say("serving");
    wait_for_line();
    let shutdown = shut_down(host.server);
    wait_for_line();
    host.door.open();
    shutdown.join().unwrap().unwrap();
}

/// The name of the thread that drains a server.
const DRAIN: &str = "drain";

fn shut_down(server: ServerHandle) -> JoinHandle<Result<(), ServeError>> {
    thread::Builder::new().name(DRAIN.into()).spawn(move || server.shutdown(BOUND)).unwrap()
}

/// Whether the thread that drains a server in that process has done all that it does at once.
fn waits_for_lanes(server: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{server}/task")) else { return false };
    let drain = format!("({DRAIN}) S ");
    let states = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    states.into_iter().any(|state| state.contains(&drain))
}

/// A server of this process, what its handlers keep, and what they wait at.
pub(crate) struct Host {
    pub(crate) server: ServerHandle,
    service: Arc<Logging>,
    door: Arc<Door>,
}

impl Host {
    pub(crate) fn start(log: Log, ground: Ground, place: &Path) -> Self {
        let door = Arc::new(Door::default());
        let service = Arc::new(Logging::new(log, &door));
        let [calls, hands] = [Arc::clone(&service), Arc::clone(&service)];
        let server =
            Server::builder().service(SweepServer::from_arc(calls)).service(HandServer::from_arc(hands));
        let server = ground.server(server).listen(ground.endpoint(place)).start().unwrap();
        Self { server, service, door }
    }
}

/// The client's part in a child: says "ready", waits for a line, makes all calls once, and ends.
pub(crate) fn client() {
    if std::env::var(ENDPOINT).is_err() {
        return;
    }
    install();
    say("ready");
    wait_for_line();
    let (plan, log) = (plan(), log_path_of_child());
    let place = log.parent().unwrap();
    match plan.story {
        Story::Calls | Story::Handed => scenario::run(plan, place, 1),
        Story::Drain => scenario::run_until_drained(plan.ground, place, |_| ()),
    };
}

fn plan() -> Plan {
    Plan::ALL[std::env::var(PLAN).unwrap().parse::<usize>().unwrap()]
}

fn log_path_of_child() -> PathBuf {
    std::env::var(LOG).unwrap().into()
}

fn log() -> Log {
    Log::at(&log_path_of_child())
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
pub(crate) fn start(victim: Victim, when: When, plan: Plan, place: &Place) -> Option<Condemned> {
    let part = match victim {
        Victim::Server => "child_server",
        Victim::Client => "child_client",
    };
    let log = log_path(place);
    let at = if let When::Operation(at) = when { at } else { 0 };
    let at = at.to_string();
    let plan = plan.number().to_string();
    let environment = [(KILL_AT, at.as_ref()), (LOG, log.as_os_str()), (PLAN, plan.as_ref())];
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

    /// Does something while it lives or not: that is told whether it is gone, and may send it lines.
    fn beside<T>(&mut self, work: impl FnOnce(&AtomicBool, &mut dyn FnMut()) -> T) -> T {
        let gone = AtomicBool::new(false);
        let mut stdin = self.process.child.stdin.take();
        thread::scope(|scope| {
            scope.spawn(|| {
                self.process.is_silent();
                gone.store(true, Ordering::Relaxed);
            });
            // If it is gone that shows elsewhere.
            let done = work(&gone, &mut || drop(stdin.as_mut().map(|stdin| stdin.write_all(b"\n"))));
            drop(stdin);
            done
        })
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

pub(crate) fn log_path(place: &Place) -> PathBuf {
    place.path().join("log")
}

/// Waits until calls are in flight that only a drain ends, or the child is gone.
fn until_held(gone: &AtomicBool, place: &Place) {
    let held = || {
        let ran = Logged::read(&log_path(place)).ran;
        HELD.iter().all(|id| ran.contains_key(id))
    };
    until("calls are in flight", || gone.load(Ordering::Relaxed) || held());
}

/// Waits until the calls in flight are all that the server still waits for, or the child is gone. True if a connection has
/// ended by then.
fn until_draining(gone: &AtomicBool, server: u32) -> bool {
    let drains = || is_draining() && waits_for_lanes(server);
    until("the server drains", || gone.load(Ordering::Relaxed) || drains());
    has_ended()
}

/// Makes all calls to a server that may die at any time. True if it did.
pub(crate) fn attack_server(mut server: Condemned, plan: Plan, place: &Place) -> (bool, Findings) {
    server.begin();
    let (mut ends, mut ended_early) = (Vec::new(), false);
    let pid = server.process.child.id();
    if server.process.says_or_ends("serving") {
        ends = match plan.story {
            Story::Calls | Story::Handed => scenario::run(plan, place.path(), 1),
            Story::Drain => server.beside(|gone, tell| {
                scenario::run_until_drained(plan.ground, place.path(), |call| {
                    until_held(gone, place);
                    tell();
                    until("nobody listens", || gone.load(Ordering::Relaxed) || !place.socket().exists());
                    call();
                    ended_early = until_draining(gone, pid);
                    tell();
                })
            }),
        };
    }
    let killed = server.ends();
    let mut found = Findings::judge(&ends, &Logged::read(&log_path(place)));
    found.killed = u64::from(killed);
    if !killed {
        assert!(!ended_early, "a drain ended a connection that has calls in flight");
        expect_unharmed(plan.story, &ends);
    }
    (killed, found)
}

fn expect_unharmed(story: Story, ends: &[(u64, End)]) {
    let well = |end: &End| matches!(end, End::Replied | End::Sent);
    match story {
        Story::Calls | Story::Handed => {
            assert!(ends.iter().all(|(_, end)| well(end)), "{ends:?}");
            assert_eq!(ends.len(), if story == Story::Calls { 18 } else { 8 });
        }
        Story::Drain => {
            let not_run = |end: &End| *end == End::Failed(Outcome::NotRun);
            let right = |(id, end): &(u64, End)| match id {
                6 => well(end) || not_run(end),
                7 => not_run(end),
                _ => well(end),
            };
            assert!(ends.iter().all(right), "{ends:?}");
            assert_eq!(ends.len(), 7);
        }
    }
}

/// The first number of the calls of whoever comes after a dead client: none of them has the number of one of his, so one
/// that runs twice shows.
const NEXT: u64 = 1_000_000;

/// Lets a client that may die at any time call a server of this process. True if it did.
pub(crate) fn attack_client(client: Condemned, plan: Plan, place: &Place) -> (bool, Findings) {
    let host = Host::start(Log::at(&log_path(place)), plan.ground, place.path());
    match plan.story {
        Story::Calls | Story::Handed => {
            let found = attack_guest(client, plan, &host, place);
            host.server.shutdown(BOUND).unwrap();
            found
        }
        Story::Drain => attack_drained(client, host, place),
    }
}

/// The same for a server that lives on: all handlers return, and whoever comes next is served.
pub(crate) fn attack_guest(
    mut client: Condemned,
    plan: Plan,
    host: &Host,
    place: &Place,
) -> (bool, Findings) {
    client.begin();
    client.beside(|gone, _| until("the client ends", || gone.load(Ordering::Relaxed)));
    until("the dead client is forgotten", || host.server.connections() == 0);
    let ends = scenario::run(plan, place.path(), NEXT);
    expect_unharmed(plan.story, &ends);
    host.service.let_go();
    let killed = client.ends();
    (killed, Findings { killed: u64::from(killed), calls: ends.len() as u64, ..run_twice(place) })
}

/// The same for a server that shuts down with calls of the client in flight.
fn attack_drained(mut client: Condemned, host: Host, place: &Place) -> (bool, Findings) {
    client.begin();
    let mut ended_early = false;
    client.beside(|gone, _| {
        until_held(gone, place);
        let shutdown = shut_down(host.server);
        ended_early = until_draining(gone, std::process::id());
        host.door.open();
        shutdown.join().unwrap().unwrap();
    });
    let killed = client.ends();
    assert!(killed || !ended_early, "a drain ended a connection that has calls in flight");
    (killed, Findings { killed: u64::from(killed), ..run_twice(place) })
}

/// What the log of a server says that outlived its client.
fn run_twice(place: &Place) -> Findings {
    let logged = Logged::read(&log_path(place));
    let run_twice = logged.ran.values().filter(|times| **times > 1).count() as u64;
    Findings { run_twice, ..Findings::default() }
}
