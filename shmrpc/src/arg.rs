//! How arguments are written by clients and read by handlers.
//!
//! A client writes a tuple of [`Text`], [`Slice`] and [`Ref`]; its archive is that of the tuple of owned types that
//! the server reads.

use std::cell::OnceCell;
use std::mem::needs_drop;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use shmrpc_transport::connection::Connection;
use shmrpc_transport::message::{
    self as transport, Encode, EncodeError, Encoder, Held, Refusal, Wire, decode,
};
use shmrpc_transport::rkyv::string::{ArchivedString, StringResolver};
use shmrpc_transport::rkyv::vec::{ArchivedVec, VecResolver};
use shmrpc_transport::rkyv::{self, Archive, Archived, Place, Serialize};

pub use shmrpc_transport::message::Number;

use crate::{Message, Schema};

/// A tuple of arguments as a client writes them.
pub trait Args: Encode {
    /// Whether any of them is of a recursive type.
    const RECURSIVE: bool;
    /// Whether any of them is a descriptor.
    const DESCRIPTORS: bool;
    /// Whether any of them is a blob.
    const BLOBS: bool;

    /// The descriptors among them, once. `None` if the method has none.
    fn descriptors(&self) -> Option<Vec<OwnedFd>>;

    /// Makes them ready to be encoded for `connection`. Once for each connection that is tried.
    ///
    /// # Errors
    /// [`EncodeError`] if one that has to be copied for that finds no room.
    fn prepare(&self, connection: &Arc<Connection>) -> Result<(), EncodeError>;

    /// Says whether the message that they are in was published, and is the receiver's: he has not refused it.
    fn settle(&self, published: bool);
}

/// One argument as a client writes it.
pub trait Arg {
    /// Whether it is of a recursive type.
    const RECURSIVE: bool = false;
    /// Whether it is a descriptor.
    const DESCRIPTOR: bool = false;
    /// Whether it is a blob.
    const BLOB: bool = false;

    /// Gives its descriptor away, if it is one.
    #[inline(always)]
    fn hand_over(&self) -> Option<OwnedFd> {
        None
    }

    /// Makes it ready to be encoded for `connection`.
    ///
    /// # Errors
    /// [`EncodeError`] if it has to be copied for that and there is no room.
    #[inline(always)]
    fn prepare(&self, _connection: &Arc<Connection>) -> Result<(), EncodeError> {
        Ok(())
    }

    /// Says whether the message that it is in was published, and not refused.
    #[inline(always)]
    fn settle(&self, _published: bool) {}
}

/// A `&str`, archived as a `String`.
#[derive(Debug)]
pub struct Text<'a>(pub &'a str);

/// A `&[number]`, archived as a `Vec<number>`.
#[derive(Debug)]
pub struct Slice<'a, T>(pub &'a [T]);

/// A value that the caller keeps, archived as itself.
#[derive(Debug)]
pub struct Ref<'a, T>(pub &'a T);

impl Arg for Text<'_> {}
impl<T> Arg for Slice<'_, T> {}
impl<T: Schema> Arg for Ref<'_, T> {
    const RECURSIVE: bool = T::RECURSIVE;
}

impl Archive for Text<'_> {
    type Archived = ArchivedString;
    type Resolver = StringResolver;

    #[inline(always)]
    fn resolve(&self, resolver: StringResolver, out: Place<ArchivedString>) {
        ArchivedString::resolve_from_str(self.0, resolver, out);
    }
}

impl<'s> Serialize<Encoder<'s>> for Text<'_> {
    #[inline(always)]
    fn serialize(&self, encoder: &mut Encoder<'s>) -> Result<StringResolver, Refusal> {
        ArchivedString::serialize_from_str(self.0, encoder)
    }
}

impl<T: Number> Archive for Slice<'_, T> {
    type Archived = ArchivedVec<Archived<T>>;
    type Resolver = VecResolver;

    #[inline(always)]
    fn resolve(&self, resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(self.0, resolver, out);
    }
}

impl<'s, T: Number> Serialize<Encoder<'s>> for Slice<'_, T> {
    #[inline(always)]
    fn serialize(&self, encoder: &mut Encoder<'s>) -> Result<VecResolver, Refusal> {
        ArchivedVec::serialize_from_slice(self.0, encoder)
    }
}

impl<T: Archive> Archive for Ref<'_, T> {
    type Archived = T::Archived;
    type Resolver = T::Resolver;

    #[inline(always)]
    fn resolve(&self, resolver: T::Resolver, out: Place<T::Archived>) {
        self.0.resolve(resolver, out);
    }
}

impl<'s, T: Serialize<Encoder<'s>>> Serialize<Encoder<'s>> for Ref<'_, T> {
    #[inline(always)]
    fn serialize(&self, encoder: &mut Encoder<'s>) -> Result<T::Resolver, Refusal> {
        self.0.serialize(encoder)
    }
}

macro_rules! args {
    ($($name:ident)*) => {
        impl<$($name: Arg),*> Args for ($($name,)*)
        where
            ($($name,)*): Encode,
        {
            const RECURSIVE: bool = false $(|| $name::RECURSIVE)*;
            const DESCRIPTORS: bool = false $(|| $name::DESCRIPTOR)*;
            const BLOBS: bool = false $(|| $name::BLOB)*;

            #[inline(always)]
            #[allow(non_snake_case, unused_variables, reason = "there may be no arguments; they are named as their types")]
            fn descriptors(&self) -> Option<Vec<OwnedFd>> {
                if !Self::DESCRIPTORS {
                    return None;
                }
                let ($($name,)*) = self;
                let all: Vec<Option<OwnedFd>> = vec![$($name.hand_over(),)*];
                Some(all.into_iter().flatten().collect())
            }

            #[inline(always)]
            #[allow(non_snake_case, unused_variables, reason = "there may be no arguments; they are named as their types")]
            fn prepare(&self, connection: &Arc<Connection>) -> Result<(), EncodeError> {
                let ($($name,)*) = self;
                $($name.prepare(connection)?;)*
                Ok(())
            }

            #[inline(always)]
            #[allow(non_snake_case, unused_variables, reason = "there may be no arguments; they are named as their types")]
            fn settle(&self, published: bool) {
                let ($($name,)*) = self;
                $($name.settle(published);)*
            }
        }
    };
}

args!();
args!(A);
args!(A B);
args!(A B C);
args!(A B C D);
args!(A B C D E);
args!(A B C D E F);
args!(A B C D E F G);
args!(A B C D E F G H);
args!(A B C D E F G H I);
args!(A B C D E F G H I J);
args!(A B C D E F G H I J K);
args!(A B C D E F G H I J K L);

/// Arguments that could not be read, and why.
#[derive(Debug)]
pub enum Rejected {
    /// The type itself refuses.
    Type(String),
    /// There was no room or no memory for a copy.
    Room(String),
}

/// A `String` argument as `&str`.
#[inline(always)]
pub fn text(archived: &ArchivedString) -> &str {
    archived.as_str()
}

/// A `Vec<number>` argument as `&[number]`.
#[inline(always)]
pub fn slice<T: Number>(archived: &ArchivedVec<Archived<T>>) -> &[T] {
    T::slice(archived)
}

/// What the arguments by value of one call have of the heap.
#[derive(Debug)]
pub struct Values<'a> {
    message: &'a transport::Message,
    connection: &'a Connection,
    held: OnceCell<Held>,
}

impl<'a> Values<'a> {
    /// Nothing yet.
    #[inline(always)]
    pub(crate) fn of(message: &'a transport::Message, connection: &'a Connection) -> Self {
        Self { message, connection, held: OnceCell::new() }
    }

    /// The room that they have, if they have any: to be dropped after them.
    #[inline(always)]
    pub(crate) fn into_held(self) -> Option<Held> {
        self.held.into_inner()
    }

    /// Takes room for all values that are made of the message, once.
    #[inline(always)]
    fn hold(&self) -> Result<(), Rejected> {
        if self.held.get().is_some() {
            return Ok(());
        }
        match self.connection.hold_values_of(self.message) {
            Ok(None) => {}
            Ok(Some(held)) => drop(self.held.set(held)),
            Err(full) => return Err(Rejected::Room(full.to_string())),
        }
        Ok(())
    }
}

/// An argument by value.
///
/// # Errors
/// [`Rejected`] if the type itself refuses, or there is no room for it on the heap.
#[inline(always)]
pub fn owned<T: Message>(archived: &rkyv::Archived<T>, values: &Values<'_>) -> Result<T, Rejected> {
    if needs_drop::<T>() {
        values.hold()?;
    }
    own::<T>(archived)
}

#[inline(always)]
fn own<T: Wire>(archived: &T::Archived) -> Result<T, Rejected> {
    decode::<T>(archived).map_err(|invalid| Rejected::Type(invalid.to_string()))
}
