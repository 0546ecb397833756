//! A service may have no methods, and a message no fields.

#![deny(missing_docs, warnings)]

/// Nothing to call.
#[shmrpc::service]
pub trait Nothing {}

/// Nothing to say.
#[shmrpc::message]
pub struct Unit;

/// Nothing inside.
#[shmrpc::message]
pub struct Braces {}

/// Nothing inside.
#[shmrpc::message]
pub struct Parens();

/// One thing to say.
#[shmrpc::message]
pub enum Only {
    /// This.
    This,
}

fn main() {}
