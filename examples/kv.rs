//! The key-value store in one go: a server in a process of its own, and a session against it.
//!
//! ```text
//! cargo run --release --example kv
//! ```
//!
//! To play with it by hand, run `kv_server` in one terminal and `kv_client` in another.

#![forbid(unsafe_code)]

use kv_service::{KvClient, KvServer};
use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use command::Command;
use shmrpc::ConnectError;
use store::Store;

mod private_dir;
#[path = "kv/command.rs"]
mod command;
#[path = "kv/store.rs"]
mod store;

/// What is typed, and what comes of it.
const SESSION: [(&str, &str); 13] = [
    ("get a", "error: no such key: a"),
    ("put a 1", "version 1"),
    ("get a", "1 (version 1)"),
    ("cas a 2 1", "version 2"),
    ("cas a 3 1", "error: version is 2, expected 1"),
    ("cas b 1 1", "error: no such key: b"),
    ("cas b 1 0", "version 1"),
    ("touch a", "sent"),
    ("get a", "2 (version 3)"),
    ("put-entry a 9 9", "version 9"),
    ("put-entry a 5 5", "version 9"),
    ("get a", "9 (version 9)"),
    ("get b", "1 (version 1)"),
];

fn main() -> Result<(), Box<dyn Error>> {
    const SERVER: &str = "--as-server";
    if env::args().nth(1).as_deref() == Some(SERVER) {
        return server();
    }
    let mut server = process::Command::new(env::current_exe()?)
        .arg(SERVER)
        .stdin(Stdio::piped()) // closed when we end, however we end: see `server`
        .stdout(Stdio::piped())
        .process_group(0) // Ctrl-C ends us; the server then tidies up and ends by itself
        .spawn()?;
    let mut endpoint = String::new();
    BufReader::new(server.stdout.take().ok_or("no stdout")?).read_line(&mut endpoint)?;

    let done = session(endpoint.trim());
    drop(server.stdin.take());
    let ended = server.wait()?;
    done?;
    if ended.success() { Ok(()) } else { Err(format!("the server process failed: {ended}").into()) }
}

fn session(endpoint: &str) -> Result<(), Box<dyn Error>> {
    let kv = KvClient::connect(endpoint)?;
    for (typed, expected) in SESSION {
        let words: Vec<&str> = typed.split(' ').collect();
        let answer = Command::parse(&words)?.run(&kv).unwrap_or_else(|error| format!("error: {error}"));
        println!("{typed:18} {answer}");
        if answer != expected {
            return Err(format!("expected `{expected}`").into());
        }
    }
    Ok(())
}

/// Serves until standard input ends, which it takes for a SIGTERM.
fn server() -> Result<(), Box<dyn Error>> {
    let dir = private_dir::PrivateDir::new("kv")?;
    let endpoint = dir.endpoint();
    thread::spawn(move || {
        drop(wait_for(&endpoint)); // from here on, signals are handled
        drop(writeln!(io::stdout(), "{endpoint}"));
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        signal_hook::low_level::raise(signal_hook::consts::SIGTERM)
    });
    Ok(shmrpc::serve(&dir.endpoint(), KvServer::new(Store::default()))?)
}

/// Connects to a server that may still be starting.
fn wait_for(endpoint: &str) -> Result<KvClient, ConnectError> {
    let begin = Instant::now();
    loop {
        match KvClient::connect(endpoint) {
            Err(_) if begin.elapsed() < Duration::from_secs(5) => thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}
