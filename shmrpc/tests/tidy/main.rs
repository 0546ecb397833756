//! The rules of the layout: who may use whom, how long a file may be, where unsafe code may stand.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod lengths;
mod order;
mod pages;
mod said;

use std::fs;
use std::path::{Path, PathBuf};

use quote::ToTokens;
use said::Said;

/// Packages whose layout shows their architecture.
const PACKAGES: [&str; 4] = ["shmrpc", "shmrpc-transport", "shmrpc-macros", "benches"];

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

fn parsed(path: &Path) -> syn::File {
    let text = fs::read_to_string(path).unwrap();
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The path of a file's module from the crate's root.
fn module_of(root: &Path, file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").strip_prefix(root).unwrap().iter().map(text).collect();
    path.pop_if(|last| last == "mod");
    path
}

fn text(name: &std::ffi::OsStr) -> String {
    name.to_str().unwrap().to_owned()
}

/// Files that may contain `unsafe`, below shmrpc-transport/src.
const UNSAFE: &[&str] = &[
    "message.rs",
    "message/draft.rs",
    "message/encode.rs",
    "message/number.rs",
    "message/pool/lines.rs",
    "message/recheck/collections.rs",
    "connection/blobs.rs",
    "connection/blocks.rs",
    "exclusive.rs",
    "shm/segment.rs",
    "sys/beside.rs",
    "sys/closing.rs",
    "sys/fork.rs",
    "sys/futex.rs",
    "sys/lease.rs",
    "sys/membarrier.rs",
    "sys/process.rs",
    "sync.rs",
];

#[test]
fn unsafe_code_stands_where_it_may() {
    let mut found = Vec::new();
    for name in ["shmrpc", "shmrpc-transport"] {
        let folder = root().join(name).join("src");
        for file in sources(&folder).into_iter().filter(|file| Said::of(file).is_unsafe) {
            found.push(format!("{name}/{}", file.strip_prefix(&folder).unwrap().display()));
        }
    }
    found.sort();
    let mut may: Vec<_> = UNSAFE.iter().map(|file| format!("shmrpc-transport/{file}")).collect();
    may.sort();
    assert_eq!(found, may);
    let lib = fs::read_to_string(root().join("shmrpc/src/lib.rs")).unwrap();
    assert!(lib.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn nothing_is_left_open() {
    for name in ["shmrpc", "shmrpc-transport", "shmrpc-macros"] {
        for file in sources(&root().join(name).join("src")) {
            let code = fs::read_to_string(&file).unwrap();
            for hole in ["todo!(", "unimplemented!(", "dbg!("] {
                assert!(!code.contains(hole), "{} has {hole}", file.display());
            }
        }
    }
}

#[test]
fn every_shared_word_says_who_writes_it() {
    let mut seen = 0;
    for file in ["slot.rs", "shm/segment.rs"] {
        let file = root().join("shmrpc-transport/src").join(file);
        for item in parsed(&file).items {
            let syn::Item::Struct(item) = item else { continue };
            if !item.attrs.iter().any(|attr| attr.to_token_stream().to_string().contains("repr (C")) {
                continue;
            }
            for field in &item.fields {
                let ty = field.ty.to_token_stream().to_string();
                if !["Word", "Wide", "Slot", "LaneSide"].iter().any(|shared| ty.contains(shared)) {
                    continue;
                }
                seen += 1;
                let doc: String = field.attrs.iter().map(|attr| attr.to_token_stream().to_string()).collect();
                let says = ["Written", "Ordered by", "ring that the owner", "side of a lane"];
                assert!(
                    says.iter().any(|word| doc.contains(word)),
                    "{}: {}: does not say who writes it",
                    item.ident,
                    field.ident.as_ref().unwrap()
                );
            }
        }
    }
    assert!(seen >= 12, "found {seen} shared fields only");
}

/// A receiver maps what it reads read-only, so nothing shared is read and written at once, whoever owns it.
#[test]
fn no_shared_word_is_read_and_written_at_once() {
    let code = fs::read_to_string(root().join("shmrpc-transport/src/sync.rs")).unwrap();
    assert!(code.contains("self.value.store("));
    for operation in
        ["fetch_", "swap(", "compare_exchange", "pub value", "pub(crate) value", "-> &atomic", "get_mut("]
    {
        assert!(!code.contains(operation), "sync.rs has {operation}");
    }
}
