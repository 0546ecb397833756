//! The rules of the layout: who may use whom, how long a file may be, where unsafe code may stand.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// Files that may contain `unsafe`, below shmrpc-transport/src.
const UNSAFE: [&str; 13] = [
    "message.rs",
    "message/encode.rs",
    "message/number.rs",
    "shm/connection/blocks.rs",
    "shm/exclusive.rs",
    "shm/segment.rs",
    "sys/fork.rs",
    "sys/futex.rs",
    "sys/membarrier.rs",
    "sys/process.rs",
    "sys/socket.rs",
    "shm.rs",
    "sync.rs",
];
const LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The code of a file: without comments, and without its unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let text = text.split("#[cfg(all(test, not(loom)))]").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The modules that a file declares, in order.
fn modules(path: &Path) -> Vec<String> {
    let declared = |line: &str| {
        let line = line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
    };
    code(path).lines().filter_map(declared).filter(|name| name != "private").collect()
}

/// Does `code` name `crate::MODULE`, also in a braced list?
fn uses(code: &str, prefix: &str, module: &str) -> bool {
    let plain = format!("{prefix}::{module}");
    code.match_indices(&plain).any(|(at, _)| {
        !code[at + plain.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
    })
}

fn check_order(folder: &Path, declaring: &Path, prefix: &str, wrong: &mut Vec<String>) {
    let order = modules(declaring);
    for (at, module) in order.iter().enumerate() {
        let mut files: Vec<_> = sources_of(folder, module);
        files.sort();
        for file in files {
            let code = code(&file);
            for earlier in &order[..at] {
                if uses(&code, prefix, earlier) {
                    wrong.push(format!(
                        "{} uses {prefix}::{earlier}, declared before {module}",
                        file.display()
                    ));
                }
            }
        }
    }
}

fn sources_of(folder: &Path, module: &str) -> Vec<PathBuf> {
    let mut files = vec![folder.join(format!("{module}.rs"))];
    files.retain(|file| file.exists());
    let inside = folder.join(module);
    if inside.is_dir() {
        files.extend(sources(&inside));
    }
    files
}

#[test]
fn a_module_uses_only_modules_declared_after_it() {
    let mut wrong = Vec::new();
    for name in ["shmrpc", "shmrpc-transport", "shmrpc-macros", "benches"] {
        let folder = root().join(name).join("src");
        check_order(&folder, &folder.join("lib.rs"), "crate", &mut wrong);
    }
    let shm = root().join("shmrpc-transport/src");
    check_order(&shm.join("shm"), &shm.join("shm.rs"), "super", &mut wrong);
    check_order(&shm.join("sys"), &shm.join("sys.rs"), "super", &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_about_one_thing() {
    let mut wrong = Vec::new();
    for name in ["shmrpc", "shmrpc-transport", "shmrpc-macros", "benches"] {
        for file in sources(&root().join(name).join("src")) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > LINES {
                wrong.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_where_it_may() {
    let mut wrong = Vec::new();
    for name in ["shmrpc", "shmrpc-transport"] {
        let folder = root().join(name).join("src");
        for file in sources(&folder) {
            let inside = file.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
            let code = code(&file).replace("unsafe_code", "");
            if code.contains("unsafe ") && !(name == "shmrpc-transport" && UNSAFE.contains(&inside.as_str()))
            {
                wrong.push(file.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let lib = fs::read_to_string(root().join("shmrpc/src/lib.rs")).unwrap();
    assert!(lib.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn nothing_is_left_open() {
    for name in ["shmrpc", "shmrpc-transport", "shmrpc-macros"] {
        for file in sources(&root().join(name).join("src")) {
            let code = code(&file);
            for hole in ["todo!(", "unimplemented!(", "dbg!("] {
                assert!(!code.contains(hole), "{} has {hole}", file.display());
            }
        }
    }
}

#[test]
fn every_shared_word_says_who_writes_it() {
    let text = fs::read_to_string(root().join("shmrpc-transport/src/slot.rs")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let mut seen = 0;
    for (at, line) in lines.iter().enumerate() {
        let field = line.trim();
        let shared = [": Word,", ": Wide,", ": [Wide;", ": [Word;", ": [Slot;"]
            .iter()
            .any(|kind| field.contains(kind));
        if shared {
            seen += 1;
            let mut above = at - 1;
            while lines[above].trim().starts_with("#[") {
                above -= 1;
            }
            assert!(lines[above].trim().starts_with("///"), "line {}: {field}", at + 1);
        }
    }
    assert!(seen >= 9, "found {seen} shared fields only");
}
