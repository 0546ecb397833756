//! What the macros ask of types when a service or a message is compiled, to say it where the user wrote them: whether what
//! a field is made of are messages, and whether elements of collections take bytes. `Schema` asks the latter once more, of
//! those that only appear when a generic message gets its arguments.

use std::hash::Hash;
use std::marker::PhantomData;

use shmrpc_transport::message::Wire;
use shmrpc_transport::rkyv::rancor::Fallible;
use shmrpc_transport::rkyv::with::{ArchiveWith, DeserializeWith, Identity, SerializeWith};
use shmrpc_transport::rkyv::{Archive, Archived, Place};

use crate::schema::{Declared, Describe, IsHasher, Schema};

/// [`Wire`], asked of a message with `for`: of what that is made of, rustc then says nothing where a type is no message.
pub trait Sent<'a>: Wire {}

impl<T: Wire> Sent<'_> for T {}

/// Looks at a type that may be no message, which is reported elsewhere. What does not hold for it is as in [`Overlook`].
#[derive(Debug)]
pub struct Look<T: ?Sized>(PhantomData<T>);

impl<T: Archive> Look<T> {
    /// Whether it takes bytes in an archive.
    pub const TAKES_BYTES: bool = size_of::<Archived<T>>() != 0;
}

impl<T: Schema> Look<T> {
    /// Whether the elements of collections in it do.
    pub const ELEMENTS_TAKE_BYTES: bool = !T::EMPTY_ELEMENTS;
    /// As in its schema.
    pub const EMPTY_ELEMENTS: bool = T::EMPTY_ELEMENTS;
    /// As in its schema.
    pub const RECURSIVE: bool = T::RECURSIVE;
}

impl<T: Declared> Look<T> {
    /// Whether it is said to be a message.
    pub const MESSAGE: bool = true;
}

impl<T: Declared + Hash + Eq + Archive<Archived: Hash + Eq>> Look<T> {
    /// Whether it can be a key of a hash map.
    pub const HASHED_KEY: bool = true;
}

impl<T: Declared + Ord + Archive<Archived: Ord>> Look<T> {
    /// Whether it can be a key of an ordered map.
    pub const ORDERED_KEY: bool = true;
}

impl<T: IsHasher> Look<T> {
    /// Whether it can be the hasher of a map.
    pub const HASHER: bool = true;
}

/// What is seen of a type that is no message.
pub trait Overlook {
    /// Nothing is said of it here.
    const TAKES_BYTES: bool = true;
    /// Nor here.
    const ELEMENTS_TAKE_BYTES: bool = true;
    /// It has no schema.
    const EMPTY_ELEMENTS: bool = false;
    /// It has no schema.
    const RECURSIVE: bool = false;
    /// It is none.
    const MESSAGE: bool = false;
    /// It is none.
    const HASHED_KEY: bool = false;
    /// It is none.
    const ORDERED_KEY: bool = false;
    /// It is none.
    const HASHER: bool = false;
}

impl<T: ?Sized> Overlook for Look<T> {}

/// Whether all of these types are what they are asked to be.
#[doc(hidden)]
#[macro_export]
macro_rules! __are {
    ($($type:ty: $what:ident),*) => {{
        #[allow(unused_imports, reason = "of no use for types that are messages")]
        use $crate::private::Overlook as _;
        true $(&& $crate::private::Look::<$type>::$what)*
    }};
}

/// How a field is archived: as `W` says, or, if anything in it is no message, not at all. What is derived for its message
/// then compiles, and one error says where the mistake is instead of many that follow from it.
///
/// In the schema, `W` is the type of the field.
#[derive(Debug)]
pub struct Checked<const MESSAGE: bool, W = Identity>(PhantomData<W>);

impl<F, W: ArchiveWith<F>> ArchiveWith<F> for Checked<true, W> {
    type Archived = W::Archived;
    type Resolver = W::Resolver;

    #[inline(always)]
    fn resolve_with(field: &F, resolver: W::Resolver, out: Place<W::Archived>) {
        W::resolve_with(field, resolver, out);
    }
}

impl<F, S: Fallible + ?Sized, W: SerializeWith<F, S>> SerializeWith<F, S> for Checked<true, W> {
    #[inline(always)]
    fn serialize_with(field: &F, serializer: &mut S) -> Result<W::Resolver, S::Error> {
        W::serialize_with(field, serializer)
    }
}

impl<A, F, D: Fallible + ?Sized, W: DeserializeWith<A, F, D>> DeserializeWith<A, F, D> for Checked<true, W> {
    #[inline(always)]
    fn deserialize_with(archived: &A, deserializer: &mut D) -> Result<F, D::Error> {
        W::deserialize_with(archived, deserializer)
    }
}

impl<F, W> ArchiveWith<F> for Checked<false, W> {
    type Archived = ();
    type Resolver = ();

    fn resolve_with(_: &F, (): (), _: Place<()>) {}
}

impl<F, S: Fallible + ?Sized, W> SerializeWith<F, S> for Checked<false, W> {
    fn serialize_with(_: &F, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<F, D: Fallible + ?Sized, W> DeserializeWith<(), F, D> for Checked<false, W> {
    fn deserialize_with((): &(), _: &mut D) -> Result<F, D::Error> {
        unreachable!("a message with such a field does not compile")
    }
}

/// How a field is archived whose type was refused: as `T` is, which was advised in its place. So whoever reads it has one error
/// to read, and not one more wherever he does.
#[derive(Debug)]
pub struct Instead<T>(PhantomData<T>);

impl<F, T: Archive> ArchiveWith<F> for Instead<T> {
    type Archived = Archived<T>;
    type Resolver = ();

    fn resolve_with(_: &F, (): (), _: Place<Archived<T>>) {}
}

impl<F, S: Fallible + ?Sized, T: Archive> SerializeWith<F, S> for Instead<T> {
    fn serialize_with(_: &F, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<F, D: Fallible + ?Sized, T: Archive> DeserializeWith<Archived<T>, F, D> for Instead<T> {
    fn deserialize_with(_: &Archived<T>, _: &mut D) -> Result<F, D::Error> {
        unreachable!("a message with such a field does not compile")
    }
}

impl<F: Schema> Schema for Checked<true, F> {
    const RECURSIVE: bool = F::RECURSIVE;
    const EMPTY_ELEMENTS: bool = F::EMPTY_ELEMENTS;

    fn describe(to: &mut Describe) {
        F::describe(to);
    }
}

impl<F: 'static> Schema for Checked<false, F> {
    fn describe(_: &mut Describe) {}
}

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
