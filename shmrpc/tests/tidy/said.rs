//! What a file says, as far as the rules ask.

use std::path::Path;

use quote::ToTokens;
use syn::visit::{self, Visit};

use crate::parsed;

/// What a file says, less its tests: paths, unsafe code.
#[derive(Default)]
pub(crate) struct Said {
    /// Every path, in `use` and elsewhere, with braces taken apart.
    pub(crate) paths: Vec<Vec<String>>,
    pub(crate) is_unsafe: bool,
}

impl Said {
    pub(crate) fn of(path: &Path) -> Self {
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

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.is_unsafe |= signature.safety_is_unsafe();
        visit::visit_signature(self, signature);
    }
}

fn is_test(attrs: &[syn::Attribute]) -> bool {
    attrs
        .iter()
        .any(|attr| attr.path().is_ident("cfg") && attr.to_token_stream().to_string().contains("test"))
}
