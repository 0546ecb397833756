//! A server under attack: one attack after the other, and what is left of each.

use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::libc;

use super::attacks::Tally;
use super::good::{CLIENTS, Crowd};
use super::neighbour::Burden;
use super::target::TargetClient;
use crate::peer::Way;
use crate::support::process::Process;
use crate::support::{BOUND, Place, until};

pub(crate) const ATTACK: &str = "SHMRPC_EVIL_ATTACK";
pub(crate) const MILLIS: &str = "SHMRPC_EVIL_MILLIS";
pub(crate) const TRUSTED: &str = "SHMRPC_EVIL_TRUSTED";
pub(crate) const BURDEN: &str = "SHMRPC_EVIL_BURDEN";
/// Milliseconds that the server waits for a hello.
pub(crate) const HELLO: &str = "SHMRPC_EVIL_HELLO";

/// What a process has. The kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holdings {
    descriptors: usize,
    threads: usize,
    /// Mappings of shared memory.
    shared: usize,
}

impl Holdings {
    fn of(server: &Process) -> Self {
        let process = format!("/proc/{}", server.child.id());
        let entries = |folder| fs::read_dir(format!("{process}/{folder}")).unwrap().count();
        let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
        let shared = maps.lines().filter(|line| line.contains("memfd:")).count();
        Self { descriptors: entries("fd"), threads: entries("task"), shared }
    }
}

/// KiB that the server may have more than before: what its allocator keeps.
const KEPT: u64 = 24 << 10;

/// What an attack came to, on both sides.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) seconds: f64,
    pub(crate) tally: Tally,
    pub(crate) calls: u64,
    pub(crate) p99: Duration,
    /// The same beside an honest process that takes as much as the evil one did.
    pub(crate) p99_beside_neighbour: Option<Duration>,
    pub(crate) newcomers: Newcomers,
    /// KiB of memory that the server has resident afterwards.
    pub(crate) resident: u64,
}

/// Clients of another process that came while an attack went on. All of them are served: the evil process is at its
/// limits alone.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    pub(crate) served: u64,
    /// The longest that one took, from connecting to its answer.
    pub(crate) longest: Duration,
}

/// Over what everybody comes, and whether the server trusts them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground {
    /// Over which streams; `None` is shared memory.
    pub(crate) way: Option<Way>,
    pub(crate) trusted: bool,
}

impl std::fmt::Display for Ground {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = self.way.map_or("shm", |way| if way == Way::Uds { "uds" } else { "tcp" });
        write!(out, "{way} {:9}", if self.trusted { "trusted" } else { "untrusted" })
    }
}

impl Ground {
    /// Where a server listens that begins here.
    fn endpoint(self, place: &Place) -> String {
        match self.way {
            None => place.endpoint(),
            Some(Way::Uds) => format!("uds:{}", place.socket().display()),
            Some(Way::Tcp) => "tcp:127.0.0.1:0".into(),
        }
    }

    /// Descriptors that the server may keep for pieces of its memory that somebody may still have. It asks less and less
    /// often, so the last one may go late. Over TCP nobody has any.
    fn witnesses(self) -> usize {
        if self.way == Some(Way::Tcp) { 0 } else { 8 }
    }

    /// What a server has more for each client with one lane: descriptors, threads, mappings of shared memory.
    fn of_a_client(self) -> [usize; 3] {
        match self.way {
            // A base segment each way and a thread; its socket, its process, and who will know when it has let go of our
            // memory.
            None => [3, 1, 2],
            // The same and its lane.
            Some(Way::Uds) => [4, 1, 2],
            Some(Way::Tcp) => [2, 1, 0],
        }
    }
}

/// A real server process, its stderr in a file.
pub(crate) struct Siege<'a> {
    place: &'a Place,
    server: Process,
    /// Where it is.
    pub(crate) endpoint: String,
    pub(crate) ground: Ground,
    time: Duration,
    crowd: &'a Crowd,
    alone: Holdings,
    before: Option<Holdings>,
    resident_before: u64,
}

impl<'a> Siege<'a> {
    /// A server that waits so long for a hello.
    pub(crate) fn new(
        place: &'a Place,
        crowd: &'a Crowd,
        ground: Ground,
        time: Duration,
        hello: Duration,
    ) -> Self {
        let stderr = fs::File::create(place.path().join("stderr")).unwrap();
        let mut server = Process::start_with("child_server", &ground.endpoint(place), |command| {
            command.env(TRUSTED, ground.trusted.to_string()).env(HELLO, hello.as_millis().to_string());
            command.stderr(Stdio::from(stderr))
        });
        let endpoint = server.tells("ready ").split_off("ready ".len());
        let alone = Holdings::of(&server);
        Self { place, server, endpoint, ground, time, crowd, alone, before: None, resident_before: 0 }
    }

    fn holdings(&self) -> Holdings {
        Holdings::of(&self.server)
    }

    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Whether a good client has lost something. It is gone then, so nothing else comes that is waited for.
    fn has_faults(&self) -> bool {
        !self.crowd.faults().is_empty()
    }

    /// One more client that comes, calls and goes. Whether it was served.
    fn newcomer(&self) -> Result<(), String> {
        let client = TargetClient::builder().timeout(BOUND).reconnect(false).connect(&self.endpoint);
        let client = client.map_err(|error| error.to_string())?;
        let answer = client.add(40, 2).map_err(|error| error.to_string())?;
        if answer == 42 { Ok(()) } else { Err(format!("40 and 2 are {answer}")) }
    }

    /// Remembers what the server has when the good clients alone are there.
    pub(crate) fn settle_in(&mut self) {
        self.newcomer().unwrap();
        let [descriptors, threads, shared] = self.ground.of_a_client().map(|each| each * CLIENTS as usize);
        let Holdings { descriptors: few, threads: some, .. } = self.alone;
        let settled = Holdings { descriptors: few + descriptors, threads: some + threads, shared };
        until("the newcomer is gone", || self.holdings() == settled || self.has_faults());
        self.before = Some(self.holdings());
        self.resident_before = self.resident();
    }

    fn evil(&self, part: &str, variables: &[(&str, String)]) -> Process {
        Process::start_with(part, &self.endpoint, |command| {
            command.env(MILLIS, self.time.as_millis().to_string());
            command.env(TRUSTED, self.ground.trusted.to_string());
            command.envs(variables.iter().map(|(name, value)| (name, value)))
        })
    }

    /// Runs one attack and waits until the server has what it had before. `compare` measures the good clients once
    /// more beside an honest process that takes as much, and keeps so many lanes busy.
    pub(crate) fn attack(&mut self, name: &'static str, compare: Option<usize>) -> Outcome {
        self.crowd.measured();
        let (start, work) = (Instant::now(), work_of_children());
        let mut evil = self.evil("child_evil", &[(ATTACK, name.to_owned())]);
        let stdin = evil.child.stdin.take();
        let (freezes, dies) = (name.contains("freeze"), name.ends_with("die"));
        let mut frozen = false;
        let (status, newcomers) = self.until_it_ends(name, &mut evil, |evil| {
            if !frozen && start.elapsed() > self.time && state(evil.child.id()) == Some('T') {
                frozen = true;
                if dies { evil.kill() } else { evil.go_on() }
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        let (calls, p99) = self.crowd.measured();
        let share = (work_of_children() - work) / seconds;
        let mut said = String::new();
        evil.rest(&mut said);
        let as_it_should = if dies { status.signal() == Some(libc::SIGKILL) } else { status.success() };
        assert!(as_it_should, "{name}: the evil process ended with {status}\n{said}");
        assert_eq!(frozen, freezes, "{name}: it has not frozen");
        self.forgotten(name);
        let heir = said.lines().find_map(|line| line.strip_prefix("heir "));
        assert_eq!(heir.is_some(), name.ends_with("fork_and_hold"), "{name}: there is no heir");
        let is_gone = |heir: &str| matches!(state(heir), None | Some('Z'));
        assert!(!heir.is_some_and(is_gone), "{name}: the heir has not held anything");
        drop(stdin);
        until("the heir is gone", || heir.is_none_or(is_gone));
        self.recovered(name);
        let tally = said.lines().rev().find_map(Tally::from_text).unwrap_or_default();
        assert!(tally.rounds > 0 && tally.deeds > 0, "{name} did nothing: {tally:?}");
        let p99_beside_neighbour = compare.map(|lanes| {
            self.beside_neighbour(Burden { share, lanes, joins: tally.joined as f64 / seconds })
        });
        let resident = self.resident();
        assert!(resident < self.resident_before + KEPT, "{name}: {resident} KiB are resident");
        Outcome { name, seconds, tally, calls, p99, p99_beside_neighbour, newcomers, resident }
    }

    /// Lets newcomers come, one after the other, until `process` ends.
    fn until_it_ends(
        &self,
        name: &str,
        process: &mut Process,
        mut meanwhile: impl FnMut(&mut Process),
    ) -> (ExitStatus, Newcomers) {
        let end = Instant::now() + self.time + BOUND;
        let mut newcomers = Newcomers::default();
        loop {
            if let Some(status) = process.child.try_wait().unwrap() {
                return (status, newcomers);
            }
            assert!(Instant::now() < end, "{name}: the evil process does not end");
            let alive = !matches!(state(self.server.child.id()), None | Some('Z'));
            assert!(alive, "the server is dead; {:?}", self.crowd.faults());
            let came = Instant::now();
            self.newcomer().unwrap_or_else(|error| panic!("{name}: a newcomer was not served: {error}"));
            newcomers.served += 1;
            newcomers.longest = newcomers.longest.max(came.elapsed());
            meanwhile(process);
            // So that they do not crowd the others out.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The evil process is gone for the server, though a child of it may hold what it had.
    fn forgotten(&self, name: &str) {
        let before = self.before.unwrap();
        until(&format!("{name}: the evil process is forgotten"), || {
            let now = self.holdings();
            (now.threads, now.shared) == (before.threads, before.shared)
                && now.descriptors <= before.descriptors + self.ground.witnesses()
                || self.has_faults()
        });
        assert_eq!(self.crowd.faults(), Vec::<String>::new(), "{name}");
    }

    /// Nothing of the attack is left, and everybody is served.
    fn recovered(&self, name: &str) {
        self.forgotten(name);
        self.newcomer().unwrap_or_else(|error| panic!("{name}: nobody is served any more: {error}"));
        let calls = self.crowd.calls();
        until("the good clients go on", || self.crowd.calls() > calls + 16 || self.has_faults());
        assert_eq!(self.crowd.faults(), Vec::<String>::new(), "{name}");
        assert_eq!(fs::read_to_string(self.place.path().join("stderr")).unwrap(), "", "{name}");
    }

    fn beside_neighbour(&self, burden: Burden) -> Duration {
        let mut neighbour = self.evil("child_neighbour", &[(BURDEN, burden.to_text())]);
        neighbour.says("working");
        self.crowd.measured();
        assert!(self.until_it_ends("a neighbour", &mut neighbour, |_| {}).0.success());
        self.crowd.measured().1
    }

    /// The server ends by itself, and well.
    pub(crate) fn end(mut self) {
        assert!(self.server.child.try_wait().unwrap().is_none(), "the server is dead");
        drop(self.server.child.stdin.take());
        assert!(self.server.ends().success());
    }
}

/// The kernel's letter for what a process does; `None` if there is none.
fn state(process: impl Display) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Seconds that our children have computed, those that ended and were waited for.
fn work_of_children() -> f64 {
    let mut stat = String::new();
    fs::File::open("/proc/self/stat").unwrap().read_to_string(&mut stat).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // cutime and cstime, in hundredths of a second.
    let ticks: u32 = fields[13].parse::<u32>().unwrap() + fields[14].parse::<u32>().unwrap();
    f64::from(ticks) / 100.0
}
