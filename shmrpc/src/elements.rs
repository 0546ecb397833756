//! What the macros ask of the elements of collections when a service or a message is compiled, to say it where the user
//! wrote them. `Schema` asks the same of those that only appear when a generic message gets its arguments.

use std::marker::PhantomData;

use shmrpc_transport::rkyv::{Archive, Archived};

/// Looks at a type that may be no message, which is reported elsewhere.
#[derive(Debug)]
pub struct Look<T>(PhantomData<T>);

impl<T: Archive> Look<T> {
    /// Whether it takes bytes in an archive.
    pub const TAKES_BYTES: bool = size_of::<Archived<T>>() != 0;
}

/// What is seen of a type that is no message.
pub trait Overlook {
    /// Nothing is said of it here.
    const TAKES_BYTES: bool = true;
}

impl<T> Overlook for Look<T> {}

/// Refuses elements of a collection, on the tokens of the call.
///
/// # Panics
/// If they take no bytes: while it is compiled.
#[track_caller]
pub const fn refuse_empty_elements(take_bytes: bool) {
    assert!(
        take_bytes,
        "elements of a collection must take bytes, or their number is bounded by nothing: send the number instead"
    );
}
