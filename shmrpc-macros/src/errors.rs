//! The list of mistakes found so far, all reported in one go.

use std::cell::RefCell;
use std::fmt::Display;

use proc_macro2::Span;
use quote::ToTokens;

/// Collects mistakes. Dropping it without [`finish`](Self::finish) is a bug of the macro and panics.
#[derive(Debug)]
pub(crate) struct Errors {
    found: RefCell<Option<Vec<syn::Error>>>,
}

impl Errors {
    /// An empty list.
    pub(crate) fn new() -> Self {
        Self { found: RefCell::new(Some(Vec::new())) }
    }

    /// Adds a mistake, shown on `tokens`.
    pub(crate) fn refuse(&self, tokens: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(tokens.into_token_stream(), message));
    }

    /// Adds a mistake that syn found.
    pub(crate) fn push(&self, error: syn::Error) {
        if let Some(found) = self.found.borrow_mut().as_mut() {
            found.push(error);
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.found.borrow().as_ref().map_or(0, Vec::len)
    }

    /// All mistakes as one error, in the order of the user's source.
    pub(crate) fn finish(self) -> Result<(), syn::Error> {
        let mut found = self.found.take().unwrap_or_default();
        found.sort_by_key(|error| position(error.span()));
        let mut found = found.into_iter();
        let Some(mut all) = found.next() else { return Ok(()) };
        all.extend(found);
        Err(all)
    }
}

/// Line and column, which only a compiler knows.
fn position(span: Span) -> (usize, usize) {
    if !proc_macro::is_available() {
        return (0, 0);
    }
    let span = span.unwrap();
    (span.line(), span.column())
}

impl Drop for Errors {
    fn drop(&mut self) {
        assert!(
            self.found.borrow().is_none() || std::thread::panicking(),
            "the macro lost its list of mistakes"
        );
    }
}
