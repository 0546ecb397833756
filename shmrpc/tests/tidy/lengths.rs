//! How long a file and a function may be.

use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::{PACKAGES, parsed, root, sources};

/// STYLE: "usually under 400"; nothing is above this.
const LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
/// What is not below the `src` of a package. Pinned expansions are as long as they are.
const OTHERS: [&str; 5] =
    ["shmrpc/tests", "shmrpc-transport/tests", "examples", "benches/benches", "fuzz/src"];

#[test]
fn files_and_functions_are_about_one_thing() {
    let packages = PACKAGES.iter().map(|name| root().join(name).join("src"));
    let others = OTHERS.iter().map(|name| root().join(name));
    let mut wrong = Vec::new();
    for file in packages.chain(others).flat_map(|folder| sources(&folder)) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > LINES {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
        // Some cases of `ui` are no Rust.
        if !file.iter().any(|part| part == "ui") {
            let long = Functions::of(&file).0.into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES);
            wrong.extend(long.map(|(name, lines)| format!("{}: {name} has {lines} lines", file.display())));
        }
        let name = file.file_stem().unwrap().to_str().unwrap();
        if ["manager", "helper", "helpers", "utils", "util", "common", "misc"].contains(&name) {
            wrong.push(format!("{}: says nothing of what is in it", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All functions of a file, those of tests and those inside macros, too, and the lines of their bodies.
#[derive(Default)]
struct Functions(Vec<(String, usize)>);

impl Functions {
    fn of(path: &Path) -> Self {
        let mut functions = Self::default();
        functions.visit_file(&parsed(path));
        functions
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        self.body(&signature.ident, block.span());
    }

    fn body(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        self.0.push((name.to_string(), span.end().line - span.start().line + 1));
    }

    /// `fn`, a name, and what is in braces next: a macro may have its own idea of parameters.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut after_fn, mut name) = (false, None);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if after_fn => {
                    (after_fn, name) = (false, Some(ident));
                }
                TokenTree::Ident(ident) => after_fn = ident == "fn",
                TokenTree::Group(group) => {
                    if group.delimiter() == Delimiter::Brace
                        && let Some(name) = name.take()
                    {
                        self.body(&name, group.span());
                    }
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
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

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
    }
}

#[test]
fn functions_are_seen_wherever_they_are() {
    let text = "fn free() {\n}\nmod tests { impl T { fn inside(\n) {\n fn nested() {}\n} } }
        trait T { fn declared(); fn kept() {} }
        proptest! { #[test] fn by_macro(a in\n{ 1 }) {\n\n} }";
    let mut functions = Functions::default();
    functions.visit_file(&syn::parse_str(text).unwrap());
    let expected = [("free", 2), ("inside", 3), ("nested", 1), ("kept", 1), ("by_macro", 3)];
    assert_eq!(functions.0, expected.map(|(name, lines)| (name.to_owned(), lines)));
}
