//! The programs of README.md are these files, word for word, and they run.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use support::Place;
use support::process::{ENDPOINT, Process};

pub mod service {
    include!("readme/service.rs");
}

mod server {
    use super::service::*;
    include!("readme/server.rs");

    pub(super) fn run() {
        main().unwrap();
    }
}

mod client {
    use super::service::*;
    include!("readme/client.rs");

    pub(super) fn run() {
        main().unwrap();
    }
}

#[allow(dead_code, reason = "compiled, and not run")]
pub mod descriptors {
    include!("readme/descriptors.rs");
}

/// The blocks of README.md in this language.
fn blocks(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_programs_are_the_files_that_are_compiled() {
    let files = [
        include_str!("readme/service.rs"),
        include_str!("readme/server.rs"),
        include_str!("readme/client.rs"),
        include_str!("readme/descriptors.rs"),
    ];
    assert_eq!(blocks("rust"), files);
}

#[test]
fn the_dependencies_are_those_of_this_package() {
    let manifests =
        ["Cargo.toml", "../Cargo.toml"].map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    let [own, workspace] = manifests.map(|path| std::fs::read_to_string(path).unwrap());
    let blocks = blocks("toml");
    let [dependencies] = &*blocks else { panic!("{blocks:?}") };
    for line in dependencies.lines().filter(|line| line.contains(" = ")) {
        let (name, what) = line.split_once(" = ").unwrap();
        let version = what.split('"').nth(1).unwrap();
        match name {
            "shmrpc" => assert!(own.contains("name = \"shmrpc\"")),
            other => {
                assert!(
                    workspace.contains(&format!("{other} = \"{version}.")),
                    "{line}: not the version used here"
                );
            }
        }
    }
}

#[test]
fn child_server() {
    if std::env::var(ENDPOINT).is_ok() {
        server::run();
    }
}

#[test]
fn child_client() {
    if std::env::var(ENDPOINT).is_ok() {
        client::run();
    }
}

#[test]
fn the_programs_run() {
    let place = Place::new();
    let run = |part| {
        Process::start_with(part, "shm:kv", |command| {
            command.env("SHMRPC_RUNTIME_DIR", place.path().join("run"))
        })
    };
    let mut server = run("child_server");
    let socket = place.path().join("run/kv");
    support::until("the server listens", || UnixStream::connect(&socket).is_ok());
    let mut client = run("child_client");
    assert_eq!(client.tells("no "), "no b");
    assert!(client.ends().success());
    server.tells("touched a");
    server.terminate();
    assert!(server.ends().success());
}

/// The README and the docs of `CallError` have one table of outcomes.
#[test]
fn the_outcomes_are_those_of_the_docs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = |file: &str| -> Vec<String> {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let lines = text.lines().map(|line| line.trim_start_matches("/// "));
        let table = lines.skip_while(|line| !line.starts_with("| variant | when |")).skip(1);
        table.take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
    };
    let table = rows("src/error.rs");
    assert!(table.len() > 10, "{table:?}");
    assert_eq!(rows("../README.md"), table);
}
