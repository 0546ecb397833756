//! What the pages say of the code.

use std::fs;
use std::path::PathBuf;

use crate::{PACKAGES, module_of, root, sources};

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

/// The paragraphs that say where tests lie name every program.
#[test]
fn pages_say_where_every_test_program_lies() {
    let mut wrong = Vec::new();
    for (page, begin) in [("ARCHITECTURE.md", "In brackets: "), ("SECURITY.md", "Tests are named ")] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let lists = text.split("\n\n").find(|paragraph| paragraph.starts_with(begin)).unwrap();
        for program in ["shmrpc", "shmrpc-transport"].iter().flat_map(|package| programs(package)) {
            if !lists.contains(&format!("`{program}`")) && !lists.contains(&format!("/tests/{program}.rs`")) {
                wrong.push(format!("{page} does not say where `{program}` lies"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files, and folders with a `main.rs`.
fn programs(package: &str) -> Vec<String> {
    let folder = root().join(package).join("tests");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.join("main.rs").exists() || path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
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
