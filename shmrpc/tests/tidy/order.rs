//! Who may use whom.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

use crate::said::Said;
use crate::{PACKAGES, module_of, parsed, root, sources};

#[test]
fn a_module_uses_only_modules_declared_after_it() {
    let mut wrong = Vec::new();
    for name in PACKAGES {
        let folder = root().join(name).join("src");
        check_order(&folder, &folder.join("lib.rs"), &[], &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The check itself, on a tree that breaks the order in every way that `use` knows.
#[test]
fn the_order_is_checked_however_a_path_is_written() {
    let inside = ["shm", "segment"].map(str::to_owned);
    let file = syn::parse_str(
        "use crate::{shm::{rendezvous::VERSION, arena}, sync}; use super::{lane as l, *};
        fn f() { super::super::slot::go::<self::inner::T>(); }",
    )
    .unwrap();
    let mut said = Said::default();
    said.visit_file(&file);
    let mut paths: Vec<_> =
        said.paths.iter().filter_map(|path| Some(from_the_root(path, &inside)?.join("::"))).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "shm",
            "shm::arena",
            "shm::lane",
            "shm::rendezvous::VERSION",
            "shm::segment::inner::T",
            "slot::go",
            "sync"
        ]
    );
}

#[test]
fn a_name_that_is_passed_on_is_its_module_s() {
    let mut said = Said::default();
    said.visit_file(
        &syn::parse_str("pub use error::{CallError, Outcome}; use self::server::S; use other::X;").unwrap(),
    );
    let names = passed_on(&said.paths, &[], &["server", "error"].map(str::to_owned));
    let [error, server] = ["error", "server"].map(str::to_owned);
    let expected = [("CallError", &error), ("Outcome", &error), ("S", &server)];
    assert_eq!(names, expected.map(|(name, module)| (name.to_owned(), module.clone())).into());
}

/// Modules that turn numbers into numbers, with what of others they may use.
const PURE: [(&str, &[&str]); 2] = [("shm/arena.rs", &[]), ("slot.rs", &["sync"])];

#[test]
fn what_is_pure_uses_no_memory_clock_or_system() {
    let folder = root().join("shmrpc-transport/src");
    let mut wrong = Vec::new();
    for (name, may) in PURE {
        let file = folder.join(name);
        let outside = used_outside(Said::of(&file).paths, &module_of(&folder, &file));
        let impure = outside.into_iter().filter(|path| !may.contains(&path[0].as_str()));
        wrong.extend(impure.map(|path| format!("{name} uses {}", path.join("::"))));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_used_outside_of_a_module_is_seen() {
    let text = "use crate::sync::Word; use std::time::Instant; pub(crate) struct S { word: super::sys::futex::Stop }
        fn f() -> u64 { u64::MAX + core::mem::take(&mut 1) + Instant::now() + nix::unistd::getpid() + self::inner::g() }";
    let mut said = Said::default();
    said.visit_file(&syn::parse_str(text).unwrap());
    let outside = used_outside(said.paths, &["slot".to_owned()]);
    let mut outside: Vec<_> = outside.into_iter().map(|path| path.join("::")).collect();
    outside.sort();
    assert_eq!(outside, ["nix::unistd::getpid", "std::time::Instant", "sync::Word", "sys::futex::Stop"]);
}

/// Paths into other modules and other crates, less `core`, of a module at `inside`.
fn used_outside(paths: Vec<Vec<String>>, inside: &[String]) -> Vec<Vec<String>> {
    let is_name = |first: &str| first.starts_with(|first: char| first.is_ascii_lowercase());
    let is_number = |first: &str| first.trim_end_matches(|c: char| c.is_ascii_digit()).len() == 1;
    let paths = paths.into_iter().filter_map(|path| match from_the_root(&path, inside) {
        // `pub(crate)` leads nowhere.
        Some(path) => (!path.is_empty() && !path.starts_with(inside)).then_some(path),
        None => {
            let first = path.first()?;
            let is_crate = path.len() > 1 && is_name(first) && !is_number(first);
            (is_crate && !["core", "usize", "isize"].contains(&first.as_str())).then_some(path)
        }
    });
    paths.collect()
}

/// Looks for uses against the order of the modules that `declaring` declares. `home` is the path of that file's module
/// from the crate's root.
fn check_order(root: &Path, declaring: &Path, home: &[String], wrong: &mut Vec<String>) {
    let folder = home.iter().fold(root.to_owned(), |folder, name| folder.join(name));
    let order = modules(declaring);
    let passed_on = passed_on(&Said::of(declaring).paths, home, &order);
    for (at, module) in order.iter().enumerate() {
        // Tests may use whom they like, here as inside a file.
        for file in sources_of(&folder, module).into_iter().filter(|file| !file.ends_with("tests.rs")) {
            let inside = module_of(root, &file);
            for path in Said::of(&file).paths {
                let Some(path) = from_the_root(&path, &inside) else { continue };
                let Some(used) = path.strip_prefix(home).and_then(<[String]>::first) else { continue };
                let used = passed_on.get(used).unwrap_or(used);
                if order[..at].contains(used) {
                    wrong.push(format!(
                        "{} uses {}, declared before {module}",
                        file.display(),
                        path.join("::")
                    ));
                }
            }
        }
        let own = [home, std::slice::from_ref(module)].concat();
        let declaring = [folder.join(format!("{module}.rs")), folder.join(module).join("mod.rs")];
        for declares in declaring.iter().filter(|_| folder.join(module).is_dir()).filter(|file| file.exists())
        {
            check_order(root, declares, &own, wrong);
        }
    }
}

/// The names that a module has from those that it declares, by `use`, and whose they are.
fn passed_on(paths: &[Vec<String>], home: &[String], order: &[String]) -> HashMap<String, String> {
    let paths = paths.iter().filter_map(|path| {
        let path = from_the_root(path, home).unwrap_or_else(|| [home, path].concat());
        let [module, .., name] = path.strip_prefix(home)? else { return None };
        order.contains(module).then(|| (name.clone(), module.clone()))
    });
    paths.collect()
}

/// A path that begins with `crate`, `self` or `super`, from the root; `inside` is the module that says it.
fn from_the_root(path: &[String], inside: &[String]) -> Option<Vec<String>> {
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => inside.to_vec(),
        _ => return None,
    };
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        match first.as_str() {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            _ => break,
        }
        rest = tail;
    }
    base.extend_from_slice(rest);
    Some(base)
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

/// The modules that a file declares in files of their own, in order. What macros need, `private`, is exempt.
fn modules(path: &Path) -> Vec<String> {
    let declared = parsed(path).items.into_iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() => Some(module.ident.to_string()),
        _ => None,
    });
    declared.filter(|name| name != "private").collect()
}
