//! Names: the runtime directory, the socket, its lock, and who may have them.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

#[path = "names/directory.rs"]
mod directory;
mod support;

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use shmrpc::ServeError;
use shmrpc::prelude::*;
use support::process::{ENDPOINT, Process, say, until_orphaned};
use support::{BOUND, Place, until};

#[shmrpc::service]
pub trait Named {
    /// The number that the server was started with.
    fn number(&self) -> u32;
}

struct Number(u32);

impl Named for Number {
    fn number(&self) -> u32 {
        self.0
    }
}

fn start(endpoint: impl Into<String>, number: u32) -> Result<ServerHandle, ServeError> {
    Server::builder().service(NamedServer::new(Number(number))).listen(endpoint).start()
}

fn ask(endpoint: impl AsRef<str>) -> u32 {
    NamedClient::builder().timeout(BOUND).connect(endpoint).unwrap().number().unwrap()
}

/// Each is printed: SECURITY.md says how many.
fn refusal<T>(result: Result<T, impl ToString>) -> String {
    let error = result.err().expect("it is refused").to_string();
    println!("refused: {error}");
    error
}

// The children's parts. They return at once when they run as tests.

#[test]
fn child_server() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let _server = start(&endpoint, 7).unwrap();
    say("ready");
    until_orphaned();
}

/// Takes the name as often as it is told, each time as the only one.
#[test]
fn child_that_races() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let mut won = 0;
    while won < 20 {
        match start(&endpoint, std::process::id()) {
            Err(error) => assert!(error.to_string().contains("a server already listens at"), "{error}"),
            Ok(server) => {
                assert_eq!(ask(&endpoint), std::process::id());
                won += 1;
                drop(server);
            }
        }
    }
    say("done");
}

/// Ends when it would listen. Who may connect then is said by a number of a user, or it is the same user.
#[test]
fn child_that_never_listens() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let allow = match std::env::var(ALLOW) {
        Ok(user) => Peers::Users(vec![user.parse().unwrap()]),
        Err(_) => Peers::SameUser,
    };
    end_at_listen();
    let server = Server::builder().service(NamedServer::new(Number(1))).listen(endpoint).allow(allow);
    let _server = server.start().unwrap();
    say("it listens");
}

const ALLOW: &str = "SHMRPC_TEST_ALLOW";

/// From now on `listen(2)` ends this process, and what it did before stays as it is.
fn end_at_listen() {
    // It is to leave nothing else.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
    let code = |part: u32| u16::try_from(part).unwrap();
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        // The number of the system call is the first word.
        step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, 0),
        step(
            code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
            0,
            1,
            u32::try_from(libc::SYS_listen).unwrap(),
        ),
        step(code(libc::BPF_RET | libc::BPF_K), 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(code(libc::BPF_RET | libc::BPF_K), 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len().try_into().unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: the flag concerns this thread alone; nothing is read.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", Errno::last());
    // SAFETY: the kernel copies the program, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    assert_eq!(result, 0, "{}", Errno::last());
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// Only the runtime directory is made by a server.
#[test]
fn a_path_in_no_directory_is_an_error_that_says_what_to_do() {
    let place = Place::new();
    let (none, file) = (place.path().join("none"), place.path().join("file"));
    fs::write(&file, "").unwrap();
    let lacks = [
        (none.join("x"), format!("there is no directory {}", none.display())),
        (none.join("deep/x"), format!("there is no directory {}", none.join("deep").display())),
        (file.join("x"), format!("{} is no directory", file.display())),
        (file.join("deep/x"), format!("{} is no directory", file.join("deep").display())),
    ];
    for (path, lack) in &lacks {
        for scheme in ["shm", "uds"] {
            let endpoint = format!("{scheme}:{}", path.display());
            let error = refusal(start(&endpoint, 1));
            assert!(error.contains(&endpoint), "{error}");
            assert!(error.ends_with(&format!(": {lack}; make it, or choose another endpoint")), "{error}");
            let error = refusal(NamedClient::connect(&endpoint));
            let why = format!("nobody listens at {}: {lack}; is the endpoint right, and is", path.display());
            assert!(error.contains(&why), "{error}");
        }
    }
    assert!(!none.exists());
    // What is not in the file system lacks no directory there.
    let name = format!("@shmrpc-nobody-{}", std::process::id());
    let error = refusal(NamedClient::connect(format!("uds:{name}")));
    assert!(error.contains(&format!("nobody listens at {name}: Connection refused")), "{error}");
}

// The lock.

#[test]
fn what_is_no_lock_is_refused_and_left_alone() {
    let place = Place::new();
    let lock = place.path().join("s.lock");
    let victim = place.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    type Make = fn(&Path, &Path);
    let kinds: [(Make, &str); 4] = [
        (|lock, victim| symlink(victim, lock).unwrap(), "a symbolic link"),
        (|lock, _| fs::create_dir(lock).unwrap(), "a directory"),
        (|lock, _| mkfifo(lock, Mode::S_IRWXU).unwrap(), "a pipe"),
        (|lock, _| drop(UnixListener::bind(lock).unwrap()), "a socket"),
    ];
    for (make, kind) in kinds {
        make(&lock, &victim);
        let error = refusal(start(place.endpoint(), 1));
        let why = format!(
            "the lock {} is {kind}; choose another name, or remove it if nobody needs it",
            lock.display()
        );
        assert!(error.contains(&why), "{error}");
        assert!(fs::symlink_metadata(&lock).is_ok() && !place.socket().exists());
        fs::remove_file(&lock).or_else(|_| fs::remove_dir(&lock)).unwrap();
    }
    // A link to nothing is not followed to make something.
    symlink(place.path().join("made"), &lock).unwrap();
    refusal(start(place.endpoint(), 1));
    assert!(!place.path().join("made").exists());
    fs::remove_file(&lock).unwrap();
    if geteuid().is_root() {
        File::create(&lock).unwrap();
        chown(&lock, Some(12_345), None).unwrap();
        let error = refusal(start(place.endpoint(), 1));
        assert!(error.contains("s.lock is that of user 12345; choose another name"), "{error}");
        fs::remove_file(&lock).unwrap();
    } else {
        support::skipped("only root can give a lock away");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    // A lock that nobody holds is no hindrance.
    File::create(&lock).unwrap();
    start(place.endpoint(), 1).unwrap();
}

// The socket.

#[test]
fn what_is_no_stale_socket_is_refused_and_left_alone() {
    let place = Place::new();
    let socket = place.socket();
    let victim = place.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    type Make = fn(&Path, &Path);
    let kinds: [(Make, &str); 4] = [
        (|socket, _| fs::write(socket, "precious").unwrap(), "a plain file"),
        (|socket, victim| symlink(victim, socket).unwrap(), "a symbolic link"),
        (|socket, _| fs::create_dir(socket).unwrap(), "a directory"),
        (|socket, _| mkfifo(socket, Mode::S_IRWXU).unwrap(), "a pipe"),
    ];
    for (make, kind) in kinds {
        make(&socket, &victim);
        let error = refusal(start(place.endpoint(), 1));
        let why = format!(
            "the socket {} is {kind}; choose another name, or remove it if nobody needs it",
            socket.display()
        );
        assert!(error.contains(&why), "{error}");
        assert!(fs::symlink_metadata(&socket).is_ok());
        fs::remove_file(&socket).or_else(|_| fs::remove_dir(&socket)).unwrap();
    }
    if geteuid().is_root() {
        leave_stale(&socket);
        chown(&socket, Some(12_345), None).unwrap();
        let error = refusal(start(place.endpoint(), 1));
        assert!(error.contains("s is that of user 12345; choose another name"), "{error}");
        fs::remove_file(&socket).unwrap();
    } else {
        support::skipped("only root can give a socket away");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    // What is refused leaves no lock behind.
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn a_socket_that_somebody_else_listens_on_is_not_replaced() {
    let place = Place::new();
    let stranger = UnixListener::bind(place.socket()).unwrap();
    let listens = format!("somebody listens without the lock at {}", place.socket().display());
    let error = refusal(start(place.endpoint(), 1));
    assert!(error.contains(&listens), "{error}");
    // Nor if so many wait for it that one more cannot.
    listen(&stranger, Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    let error = loop {
        let error = refusal(start(place.endpoint(), 1));
        match enter(&place.socket()) {
            Some(stream) => waiting.push(stream),
            None => break error,
        }
        assert!(waiting.len() < 10, "its backlog never fills up");
    };
    assert!(error.contains(&listens), "{error}");
    let error = refusal(start(place.endpoint(), 1));
    assert!(error.contains(&listens), "{error}");
    // Nor does it keep a client waiting.
    let builder = NamedClient::builder().connect_timeout(Duration::from_millis(10));
    let error = refusal(builder.connect(place.endpoint()));
    assert!(error.contains("the server did not answer within 10ms"), "{error}");
    drop(stranger);
    // Now it is stale; or in a moment, if another test is starting a child, which has it until it is itself.
    until("it is stale", || start(place.endpoint(), 1).is_ok());

    let _log = UnixDatagram::bind(place.socket()).unwrap();
    let error = refusal(start(place.endpoint(), 1));
    assert!(error.contains("Protocol wrong type for socket"), "{error}");
    assert!(place.socket().exists());
}

fn unix_socket() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap()
}

/// A socket that nobody listens on.
fn leave_stale(path: &Path) {
    bind(unix_socket().as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
}

/// Without waiting; `None` if the backlog is full.
fn enter(path: &Path) -> Option<OwnedFd> {
    let fd = unix_socket();
    match connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()) {
        Ok(()) => Some(fd),
        Err(errno) => {
            assert_eq!(errno, Errno::EAGAIN);
            None
        }
    }
}

#[test]
fn the_mode_of_a_socket_follows_allow() {
    let own = geteuid().as_raw();
    for (allow, expected) in [
        (Peers::SameUser, 0o600),
        (Peers::Nobody, 0o600),
        (Peers::Users(vec![]), 0o600),
        (Peers::Users(vec![own]), 0o600),
        (Peers::Users(vec![own, own + 1]), 0o666),
        (Peers::Users(vec![own + 1]), 0o666),
        (Peers::Any, 0o666),
    ] {
        let place = Place::new();
        let server = Server::builder().service(NamedServer::new(Number(1))).listen(place.endpoint());
        let _server = server.allow(allow.clone()).start().unwrap();
        assert_eq!(mode(&place.socket()), expected, "{allow:?}");
        assert_eq!(mode(&place.path().join("s.lock")), 0o600);
    }
}

/// Nobody connects before a server listens.
#[test]
fn a_socket_has_its_mode_before_its_server_listens() {
    for (allow, expected) in [(None, 0o600), (Some(geteuid().as_raw() + 1), 0o666)] {
        let place = Place::new();
        let mut process = Process::start_with("child_that_never_listens", &place.endpoint(), |command| {
            command.envs(allow.map(|user| (ALLOW, user.to_string())))
        });
        assert_eq!(process.ends().signal(), Some(libc::SIGSYS));
        assert_eq!(mode(&place.socket()), expected, "{allow:?}");
        // A killed server's files are taken over.
        assert_eq!(start(place.endpoint(), 1).map(drop).map_err(|error| error.to_string()), Ok(()));
    }
}

#[test]
fn a_server_that_leaves_removes_what_is_its_own() {
    let place = Place::new();
    let server = start(place.endpoint(), 1).unwrap();
    fs::remove_file(place.socket()).unwrap();
    let stranger = UnixListener::bind(place.socket()).unwrap();
    drop(server);
    assert!(place.socket().exists() && !place.path().join("s.lock").exists());
    drop(stranger);
    // The same, if it is the lock that somebody took away.
    let first = start(place.endpoint(), 1).unwrap();
    fs::remove_file(place.path().join("s.lock")).unwrap();
    fs::rename(place.socket(), place.path().join("aside")).unwrap();
    let second = start(place.endpoint(), 2).unwrap();
    drop(first);
    assert_eq!(ask(place.endpoint()), 2);
    assert!(refusal(start(place.endpoint(), 3)).contains("a server already listens at"));
    drop(second);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn a_bound_server_that_is_not_started_leaves_nothing() {
    let place = Place::new();
    let bound = Server::builder().service(NamedServer::new(Number(1))).listen(place.endpoint()).bind();
    let bound = bound.unwrap();
    assert!(refusal(start(place.endpoint(), 2)).contains("a server already listens at"));
    drop(bound);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    // Nor does one whose second endpoint is taken.
    let other = start(place.endpoint(), 2).unwrap();
    let list = format!("shm:{}/a,{}", place.path().display(), place.endpoint());
    assert!(refusal(start(&list, 1)).contains("a server already listens at"));
    assert!(!place.path().join("a").exists() && !place.path().join("a.lock").exists());
    // If it is free, both are served.
    drop(other);
    let server = start(&list, 3).unwrap();
    let served = server.endpoints().iter().map(|endpoint| ask(endpoint.to_string()));
    assert_eq!(served.collect::<Vec<_>>(), [3, 3]);
}

// Two servers.

#[test]
fn of_two_servers_that_race_for_a_name_one_has_it() {
    let place = Place::new();
    let barrier = Barrier::new(2);
    // Who answers the winner, or why there is none. Looked at when all is over: nobody is left at the barrier.
    let round = |number: u32, turn: u32| {
        if turn.is_multiple_of(2) && number == 1 {
            leave_stale(&place.socket());
        }
        barrier.wait();
        let server = start(place.endpoint(), number);
        barrier.wait();
        // Both have tried, and the winner is still there.
        let answer = match &server {
            Ok(_) => NamedClient::connect(place.endpoint()).map(|client| client.number().ok()).ok().flatten(),
            Err(_) => None,
        };
        let result = server.map(|_ended| answer).map_err(|error| error.to_string());
        barrier.wait();
        result
    };
    let rounds = |number| (0..100).map(|turn| round(number, turn)).collect::<Vec<_>>();
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| rounds(1));
        let second = scope.spawn(|| rounds(2));
        (first.join().unwrap(), second.join().unwrap())
    });
    for both in first.into_iter().zip(second) {
        let loser = match both {
            (Ok(Some(1)), Err(loser)) | (Err(loser), Ok(Some(2))) => loser,
            both => panic!("{both:?}"),
        };
        assert!(loser.contains("a server already listens at"), "{loser}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn processes_that_race_for_a_name_have_it_one_after_the_other() {
    let place = Place::new();
    let mut racers: Vec<_> = (0..3).map(|_| Process::start("child_that_races", &place)).collect();
    for process in &mut racers {
        process.says("done");
        assert!(process.ends().success());
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_frozen_server_keeps_its_name_and_a_killed_one_does_not() {
    let place = Place::new();
    let mut process = Process::start("child_server", &place);
    process.says("ready");
    process.stop();
    let error = refusal(start(place.endpoint(), 1));
    let why =
        format!("a server already listens at {}; stop it or choose another name", place.socket().display());
    assert!(error.contains(&why), "{error}");
    // Nor does it lose it when somebody tidies up its lock.
    fs::remove_file(place.path().join("s.lock")).unwrap();
    let error = refusal(start(place.endpoint(), 1));
    assert!(error.contains("somebody listens without the lock at"), "{error}");
    process.go_on();
    assert_eq!(ask(place.endpoint()), 7);
    process.kill();
    assert!(place.socket().exists());
    let _server = start(place.endpoint(), 1).unwrap();
    assert_eq!(ask(place.endpoint()), 1);
}
