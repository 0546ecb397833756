//! What the macros accept, and what they say about what they refuse.
//!
//! `TRYBUILD=overwrite cargo test -p shmrpc --test ui` writes the texts anew. Read each one: it is what a user sees.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
