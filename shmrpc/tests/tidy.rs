//! The rules of the layout: who may use whom, how long a file may be, where unsafe code may stand.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

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
/// STYLE: "usually under 400"; nothing is above this.
const LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
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

fn is_test(attrs: &[syn::Attribute]) -> bool {
    attrs
        .iter()
        .any(|attr| attr.path().is_ident("cfg") && attr.to_token_stream().to_string().contains("test"))
}

/// The modules that a file declares in files of their own, in order. What macros need, `private`, is exempt.
fn modules(path: &Path) -> Vec<String> {
    let declared = parsed(path).items.into_iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() => Some(module.ident.to_string()),
        _ => None,
    });
    declared.filter(|name| name != "private").collect()
}

/// What a file says, less its tests: paths, unsafe code, long functions.
#[derive(Default)]
struct Said {
    /// Every path, in `use` and elsewhere, with braces taken apart.
    paths: Vec<Vec<String>>,
    is_unsafe: bool,
    /// Functions, and their lines.
    functions: Vec<(String, usize)>,
}

impl Said {
    fn of(path: &Path) -> Self {
        let mut said = Self::default();
        said.visit_file(&parsed(path));
        said
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.paths.push(with(&name.ident)),
            syn::UseTree::Rename(name) => self.paths.push(with(&name.ident)),
            syn::UseTree::Glob(_) => self.paths.push(before.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
        }
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        self.is_unsafe |= signature.safety_is_unsafe();
        let span = block.span();
        self.functions.push((signature.ident.to_string(), span.end().line - span.start().line + 1));
    }
}

/// What `unsafe fn` looks like to syn.
trait IsUnsafe {
    fn safety_is_unsafe(&self) -> bool;
}

impl IsUnsafe for syn::Signature {
    fn safety_is_unsafe(&self) -> bool {
        let text = self.to_token_stream().to_string();
        text.split("fn").next().is_some_and(|head| head.contains("unsafe"))
    }
}

impl<'ast> Visit<'ast> for Said {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.is_unsafe = true;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.is_unsafe |= item.unsafety.is_some();
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let head = item.to_token_stream().to_string();
        self.is_unsafe |= head.split(" trait ").next().is_some_and(|head| head.contains("unsafe"));
        visit::visit_item_trait(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.is_unsafe |= item.tokens.to_string().split_whitespace().any(|word| word == "unsafe");
    }

    fn visit_item_foreign_mod(&mut self, _: &'ast syn::ItemForeignMod) {
        self.is_unsafe = true;
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.function(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

/// Looks for uses against the order of the modules that `declaring` declares. `home` is the path of that file's module
/// from the crate's root.
fn check_order(root: &Path, declaring: &Path, home: &[String], wrong: &mut Vec<String>) {
    let folder = home.iter().fold(root.to_owned(), |folder, name| folder.join(name));
    let order = modules(declaring);
    let passed_on = passed_on(&Said::of(declaring).paths, home, &order);
    for (at, module) in order.iter().enumerate() {
        for file in sources_of(&folder, module) {
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

#[test]
fn files_and_functions_are_about_one_thing() {
    let mut wrong = Vec::new();
    for file in PACKAGES.iter().flat_map(|name| sources(&root().join(name).join("src"))) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > LINES {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
        let long = Said::of(&file).functions.into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES);
        wrong.extend(long.map(|(name, lines)| format!("{}: {name} has {lines} lines", file.display())));
        let name = file.file_stem().unwrap().to_str().unwrap();
        if ["manager", "helper", "helpers", "utils", "util", "common", "misc"].contains(&name) {
            wrong.push(format!("{}: says nothing of what is in it", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Pinned expansions are as long as they are.
#[test]
fn tests_and_examples_are_about_one_thing() {
    let folders =
        ["shmrpc/tests", "shmrpc-transport/tests", "examples", "benches/benches", "fuzz/src", "fuzz/tests"];
    let folders = folders.iter().map(|name| root().join(name)).filter(|folder| folder.exists());
    let mut wrong = Vec::new();
    for file in folders.flat_map(|folder| sources(&folder)) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > LINES {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A module has a row of its own, or one below another is named in that one's.
#[test]
fn every_module_is_in_the_code_map() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = page.split("\n## ").find(|section| section.starts_with("Code map")).unwrap();
    let mut wrong = Vec::new();
    for package in ["shmrpc", "shmrpc-transport", "shmrpc-macros"] {
        let (_, rows) = map.split_once(&format!("**`{package}`**")).unwrap();
        let rows: Vec<(&str, &str)> = rows
            .lines()
            .skip(1)
            .take_while(|line| !line.starts_with("**"))
            .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
            .collect();
        let row_of = |name: &str| rows.iter().find(|(names, _)| names.contains(&format!("`{name}`")));
        let folder = root().join(package).join("src");
        let modules: Vec<String> =
            sources(&folder).iter().map(|file| module_of(&folder, file).join("::")).collect();
        for module in modules.iter().filter(|module| *module != "lib" && !module.ends_with("tests")) {
            let in_parents = module.rsplit_once("::").is_some_and(|(parent, name)| {
                row_of(parent).is_some_and(|(_, says)| says.contains(&format!("`{name}`")))
            });
            // One that only declares others has their rows.
            let declares = rows.iter().any(|(names, _)| names.contains(&format!("`{module}::")));
            if row_of(module).is_none() && !in_parents && !declares {
                wrong.push(format!("{package}: the code map of ARCHITECTURE.md has no `{module}`"));
            }
        }
        for name in rows.iter().flat_map(|(names, _)| names.split('`').skip(1).step_by(2)) {
            if !modules.iter().any(|module| module == name) && name != "module" {
                wrong.push(format!("{package}: the code map has `{name}`, and there is no such file"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A page that says what shows something names a test that there is: `` `program::test` ``, or `` `module::test` `` of a unit test.
#[test]
fn pages_name_tests_that_there_are() {
    let mut wrong = Vec::new();
    for page in ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let Some((program, path)) = name.split_once("::") else { continue };
            let last = path.rsplit("::").next().unwrap();
            let is_type = last.starts_with(|first: char| first.is_uppercase());
            let files = files_of(program);
            if files.is_empty() || is_type {
                continue;
            }
            let words = [format!("fn {last}("), format!("fn {last}<"), format!("mod {last}")];
            let is_there = files.iter().any(|file| {
                let text = fs::read_to_string(file).unwrap();
                words.iter().any(|words| text.contains(words))
            });
            if !is_there {
                wrong.push(format!("{page}: there is no `{name}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Those of a test program or of a module, wherever it lies.
fn files_of(name: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let folders =
        PACKAGES.iter().flat_map(|package| ["src", "tests"].map(|folder| root().join(package).join(folder)));
    for folder in folders.filter(|folder| folder.is_dir()) {
        let is_in_it = |file: &PathBuf| module_of(&folder, file).iter().any(|part| part == name);
        files.extend(sources(&folder).into_iter().filter(is_in_it));
    }
    files
}

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

/// SECURITY.md puts a figure behind a name: `` `kills` 10000 ``. The names and figures are those of the last long runs.
#[test]
fn the_figures_of_security_are_those_of_the_record() {
    let security = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let record = fs::read_to_string(root().join("benches/survive.txt")).unwrap();
    for line in record.lines() {
        let (name, value) = line.split_once(' ').unwrap();
        let name = format!("`{name}` ");
        let said = security.match_indices(&name).map(|(at, _)| {
            let rest = &security[at + name.len()..];
            rest.split([' ', ';', ',', ')', '\n']).next().unwrap()
        });
        let said: Vec<&str> = said.collect();
        assert!(!said.is_empty(), "SECURITY.md does not say {line}");
        assert!(said.iter().all(|said| *said == value), "SECURITY.md: {name}{said:?}; the record: {value}");
    }
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
