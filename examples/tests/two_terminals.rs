//! What README.md says to do in two terminals: `kv_server` in one, `kv_client` in the other, until Ctrl-C.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "tests; their helpers too")]

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use kv_service::KvClient;
use private_dir::PrivateDir;
use shmrpc::Outcome;
use shmrpc::prelude::*;

#[path = "../private_dir.rs"]
mod private_dir;

/// How long anything may take before a test gives up. None waits that long unless something is broken.
const BOUND: Duration = Duration::from_secs(30);

/// The command line of the client, what it says, and its exit status.
const SESSION: [(&str, &str, i32); 14] = [
    ("get a", "error: no such key: a", 1),
    ("put a 1", "version 1", 0),
    ("get a", "1 (version 1)", 0),
    ("get b", "error: no such key: b", 1),
    ("cas a 2 1", "version 2", 0),
    ("cas a 3 1", "error: version is 2, expected 1", 1),
    ("cas b 1 1", "error: no such key: b", 1),
    ("cas b 1 0", "version 1", 0),
    ("touch a", "2 (version 3)", 0),
    ("touch c", "error: no such key: c", 1),
    ("put-entry a 9 9", "version 9", 0),
    ("put-entry a 5 5", "version 9", 0),
    ("get a", "9 (version 9)", 0),
    ("get b", "1 (version 1)", 0),
];

/// Two terminals of a user who has a runtime directory of his own.
struct Terminals(PrivateDir);

impl Terminals {
    fn new(name: &str) -> Self {
        Self(PrivateDir::new(name).unwrap())
    }

    fn command(&self, program: &str, words: &str) -> Command {
        let path = match program {
            "kv_server" => env!("CARGO_BIN_EXE_kv_server"),
            "kv_client" => env!("CARGO_BIN_EXE_kv_client"),
            other => panic!("there is no program {other}"),
        };
        let mut command = Command::new(path);
        command.args(words.split_whitespace()).env("SHMRPC_RUNTIME_DIR", self.0.0.join("run"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Returns when the server listens, and so has its signals already.
    fn server(&self, words: &str, socket: &Path) -> Server {
        let server = Server(Some(self.command("kv_server", words).spawn().unwrap()));
        let begin = Instant::now();
        while UnixStream::connect(socket).is_err() {
            assert!(begin.elapsed() < BOUND, "nobody listens at {}", socket.display());
            thread::yield_now();
        }
        server
    }

    /// What the client says, and its exit status.
    fn client(&self, words: &str) -> (String, i32) {
        let Output { status, stdout, stderr } = self.command("kv_client", words).output().unwrap();
        let said = [stdout, stderr].concat();
        (String::from_utf8(said).unwrap().trim_end().to_owned(), status.code().unwrap())
    }
}

/// Killed on drop, if it did not end by itself.
struct Server(Option<Child>);

impl Server {
    /// Sends a signal, and waits until it has ended; returns what it has said since it began.
    fn end_by(mut self, signal: Signal) -> Output {
        let child = self.0.take().unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The programs that README.md runs with cargo, each with its arguments.
fn lines_of_the_readme() -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("cargo run --release --bin kv_"));
    lines
        .map(|line| {
            let (program, words) = line.split_once(" -- ").unwrap_or((line, ""));
            (format!("kv_{program}"), words.to_owned())
        })
        .collect()
}

#[test]
fn what_the_readme_says_works() {
    let terminals = Terminals::new("two-terminals");
    let lines = lines_of_the_readme();
    let [(first, words), (second, call)] = &*lines else { panic!("{lines:?}") };
    assert_eq!((first.as_str(), second.as_str()), ("kv_server", "kv_client"));

    let server = terminals.server(words, &terminals.0.0.join("run/kv"));
    assert_eq!(terminals.client(call), ("version 1".into(), 0), "kv_client {call}");
    let ended = server.end_by(Signal::SIGTERM);
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_session_ends_with_ctrl_c() {
    let terminals = Terminals::new("session");
    let server = terminals.server("", &terminals.0.0.join("run/kv"));
    for (words, said, status) in SESSION {
        assert_eq!(terminals.client(words), (said.into(), status), "kv_client {words}");
    }
    let ended = server.end_by(Signal::SIGINT);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stdout, b"");
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.starts_with("going to serve at shm:kv until Ctrl-C\n"), "{said}");
    assert_eq!(fs::read_dir(terminals.0.0.join("run")).unwrap().count(), 0, "something is left behind");
}

#[test]
fn who_types_something_wrong_is_told() {
    let terminals = Terminals::new("mistakes");
    let (said, status) = terminals.client("get a");
    assert_eq!(status, 1, "{said}");
    assert!(said.starts_with("error: ") && said.contains("shm:kv"), "{said}");
    for (words, reason) in [
        ("", "a command is missing"),
        ("got a", "there is no command `got`"),
        ("get", "`get` takes other arguments"),
        ("put a", "`put` takes other arguments"),
        ("cas a 1 x", "`x` is no version: write a number from 0 on"),
    ] {
        let (said, status) = terminals.client(words);
        assert_eq!(status, 2, "{said}");
        assert!(said.starts_with("usage: kv_client ") && said.contains(reason), "{said}");
    }
    let told = terminals.command("kv_server", "kv").output().unwrap();
    assert_eq!(told.status.code(), Some(2), "{told:?}");
}

/// Whatever the moment: calls that the server has begun are answered, and the others were not run.
#[test]
fn a_server_that_is_told_to_end_finishes_what_it_has_begun() {
    const THREADS: u64 = 8;
    let terminals = Terminals::new("drain");
    let endpoint = terminals.0.endpoint();
    let server = terminals.server(&format!("--endpoint {endpoint}"), &terminals.0.0.join("socket"));
    let kv = KvClient::builder().reconnect(false).connect(&endpoint).unwrap();
    let (calls, is_calling) = channel();
    let ended = thread::scope(|scope| {
        let callers: Vec<_> = (0..THREADS)
            .map(|key| {
                let (kv, calls) = (&kv, calls.clone());
                scope.spawn(move || {
                    let (key, value) = (key.to_string(), vec![7; 1 << 20]);
                    for version in 1.. {
                        match kv.put(&key, &value) {
                            Ok(found) => assert_eq!(found, version),
                            Err(error) => return error,
                        }
                        if version == 10 {
                            calls.send(()).unwrap();
                        }
                    }
                    unreachable!()
                })
            })
            .collect();
        (0..THREADS).for_each(|_| is_calling.recv_timeout(BOUND).unwrap());
        let ended = server.end_by(Signal::SIGTERM);
        for caller in callers {
            let error = caller.join().unwrap();
            assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
            assert_eq!(error.outcome(), Outcome::NotRun, "{error:?}");
        }
        ended
    });
    assert!(ended.status.success(), "{ended:?}");
}
