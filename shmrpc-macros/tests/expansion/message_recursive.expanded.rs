#[automatically_derived]
impl<T: ::shmrpc::Message> ::shmrpc::Schema for Tree<T> {
    const RECURSIVE: bool = true;
    const EMPTY_ELEMENTS: bool = ::shmrpc::Describe::any(
        &[::shmrpc::private::are!(T : EMPTY_ELEMENTS)],
    );
    fn describe(to: &mut ::shmrpc::Describe) {
        to.structure::<
                Self,
            >(
            "Tree",
            |to| {
                to.field::<T>("value");
                to.field::<Vec<Tree<T>>>("children");
            },
        );
    }
}
#[automatically_derived]
impl<T: ::shmrpc::Message> ::shmrpc::Message for Tree<T>
where
    Self: ::shmrpc::private::Wire,
{}
#[automatically_derived]
impl<T: ::shmrpc::private::Declared> ::shmrpc::private::Declared for Tree<T> {}
#[derive(
    ::shmrpc::private::rkyv::Archive,
    ::shmrpc::private::rkyv::Serialize,
    ::shmrpc::private::rkyv::Deserialize,
    ::shmrpc::private::Recheck
)]
#[rkyv(crate = ::shmrpc::private::rkyv, resolver = __ShmrpcTreeResolver)]
#[recheck(crate = ::shmrpc, recursive)]
#[rkyv(
    archive_bounds(T:::shmrpc::private::rkyv::Archive),
    serialize_bounds(
        __S:::shmrpc::private::rkyv::ser::Writer+::shmrpc::private::rkyv::ser::Allocator,
        <__S
        as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source,
        T:::shmrpc::private::rkyv::Archive,
        T:::shmrpc::private::rkyv::Serialize<__S>
    ),
    deserialize_bounds(
        <__D
        as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source,
        T:::shmrpc::private::rkyv::Archive,
        <T
        as::shmrpc::private::rkyv::Archive>::Archived:::shmrpc::private::rkyv::Deserialize<T,
        __D>
    ),
    bytecheck(
        bounds(
            __C:::shmrpc::private::rkyv::validation::ArchiveContext,
            <__C
            as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source,
            T:::shmrpc::private::rkyv::Archive,
            <T
            as::shmrpc::private::rkyv::Archive>::Archived:::shmrpc::private::rkyv::bytecheck::CheckBytes<__C>
        )
    ),
)]
/// A tree.
pub struct Tree<T> {
    #[rkyv(omit_bounds, with = ::shmrpc::private::Nested)]
    value: T,
    #[rkyv(omit_bounds, with = ::shmrpc::private::Nested)]
    children: Vec<Tree<T>>,
}
