//! The attribute macros of shmrpc. Use them through the `shmrpc` crate, which re-exports both.
//!
//! The way of one attribute, one module per step (`expand` leads through it):
//!
//! ```text
//! tokens -> args  -> parse -> model -> check  -> expand -> tokens
//!           what     what     one      what is   trait, client, view, server
//!           it was   was      plain    refused,  or item, rkyv derives, Schema
//!           told     written  tree     and why
//! ```
//!
//! Every mistake is collected on the way (`errors`) and reported in one go, on the tokens that caused it.

mod expand;

mod check;
mod schema;

mod parse;
mod args;

mod model;
mod syntax;

mod errors;

use proc_macro::TokenStream;

/// Makes a trait a service: generates a blocking client, its view and a server beside it.
///
/// On `pub trait Kv`, the macro leaves the trait as written (less its markers) and adds, with the trait's visibility:
///
/// - `KvClient`: one method per trait method. A result `T` becomes `Result<T, CallError>`, and `Result<T, E>`
///   becomes `Result<T, CallError<E>>`.
/// - `KvView`, reached by `Client::view`: the same calls, whose results are read where they arrived (`View<T>`).
/// - `KvServer<T>`: serves any `T: Kv + Send + Sync + 'static`. `KvServer::new` takes it; `KvServer::from_arc` takes an
///   `Arc<T>` that the rest of the program keeps, too, also an `Arc<dyn Kv + Send + Sync>`.
///
/// Every method takes `&self`. Its parameters may be:
///
/// | in the trait | in the client | sent as | the handler sees |
/// | --- | --- | --- | --- |
/// | `T`, a message | `T` | `T` | an owned `T` |
/// | `&Archived<T>` | `&T` | `T` | the archive, where it arrived |
/// | `&str` | `&str` | `String` | the text, where it arrived |
/// | `&[u8]`, `&[f32]`, ... | the same | `Vec<u8>`, ... | the numbers, where they arrived |
/// | `Blob`, `Blob<f32>`, ... | a `BlobMut`, or a `Vec` | its memory | a `Blob` that it may keep |
/// | `OwnedFd` | an `OwnedFd`, or what owns one | a descriptor | an `OwnedFd` of its own |
/// | `&Context` | (none) | (nothing) | the call's context |
///
/// A `T` that owns memory of the heap costs the server that memory for as long as the call runs, and the client a share of what
/// its process may have there (`ServerBuilder::max_message`); what is read where it arrived costs nothing more.
///
/// The macro sees names, and not what they stand for: `Archived`, `Blob`, `OwnedFd`, `Context`, `Result` and `str` are known by
/// these, with or without a path, and not by other names (`use shmrpc::Context as Ctx`). So are `CStr`, `RawFd`, `Streaming<T>` and
/// `View<T>`, which are refused.
///
/// Supertraits are asked of what implements the service, and are no part of it: if one is a service, too, it is served and called
/// by its own server and client, at the same endpoint if you like.
///
/// What the trait or a method says with `allow` or `expect` is allowed in what is generated of it, too. `warn`, `deny` and
/// `forbid` are for what the user wrote.
///
/// Marker: `#[oneway]` (no reply, no result). Argument: `crate = path`, where shmrpc is found if not at `::shmrpc`.
#[proc_macro_attribute]
pub fn service(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::service(arguments.into(), item.into()).into()
}

/// Makes a struct or an enum a message: something that a service takes or returns.
///
/// The macro leaves the item as written and adds rkyv's `Archive`, `Serialize` and `Deserialize` (through shmrpc's own
/// re-export of rkyv) and `shmrpc::Schema`. Generic items are messages for every parameter that is one.
///
/// Arguments: `recursive`, for a type that contains itself, directly or through others (such values are limited in
/// depth); `crate = path`, where shmrpc is found if not at `::shmrpc`.
///
/// `#[rkyv(derive(..))]`, `#[rkyv(compare(..))]` and `#[rkyv(attr(..))]` on the item shape its archived type, as they
/// do in rkyv. The first one does not work for generic items: a struct's archive, and that of an enum without named fields, can have
/// impls by hand, as `impl<T: Message> PartialEq for ArchivedPair<T> where Archived<T>: PartialEq`.
///
/// What a message says with `allow` or `expect` is allowed in what is generated of it, too. If it is deprecated or may hold what is,
/// `ArchivedPair` is an alias.
#[proc_macro_attribute]
pub fn message(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::message(arguments.into(), item.into()).into()
}

/// The second half of `#[shmrpc::message(crate = path)]`, found by that path. Only for the expansion of [`macro@message`].
#[doc(hidden)]
#[proc_macro_attribute]
pub fn message_found(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::message_found(arguments.into(), item.into()).into()
}

/// Takes the item away, once the derives above it have seen it. Only for the expansion of [`macro@message`].
#[doc(hidden)]
#[proc_macro_attribute]
pub fn discard(_: TokenStream, _: TokenStream) -> TokenStream {
    TokenStream::new()
}

/// What belongs to a service some of whose methods have a `#[cfg]`. Only for the expansion of [`macro@service`]; a derive,
/// because it sees the variants, one for each method, that `#[cfg]` leaves.
#[doc(hidden)]
#[proc_macro_derive(Methods, attributes(service))]
pub fn methods(item: TokenStream) -> TokenStream {
    expand::methods(item.into()).into()
}

/// What rkyv's derives leave to us, of the archive that they make. Only for the expansion of [`macro@message`]; a derive,
/// because it sees the fields that `#[cfg]` leaves.
#[doc(hidden)]
#[proc_macro_derive(Recheck, attributes(recheck))]
pub fn recheck(item: TokenStream) -> TokenStream {
    expand::recheck(item.into()).into()
}
