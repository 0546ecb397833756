#[automatically_derived]
impl<T: ::shmrpc::Message> ::shmrpc::Schema for Entry<T> {
    const RECURSIVE: bool = ::shmrpc::Describe::any(
        &[
            <String as ::shmrpc::Schema>::RECURSIVE,
            ::shmrpc::private::are!(Vec < T > : RECURSIVE),
            #[cfg(feature = "version")]
            <::shmrpc::private::Checked<
                { ::shmrpc::private::are!(Version : MESSAGE) },
                Version,
            > as ::shmrpc::Schema>::RECURSIVE,
        ],
    );
    const EMPTY_ELEMENTS: bool = ::shmrpc::Describe::any(
        &[::shmrpc::private::are!(Vec < T > : EMPTY_ELEMENTS)],
    );
    fn describe(to: &mut ::shmrpc::Describe) {
        to.structure::<
                Self,
            >(
            "Entry",
            |to| {
                to.field::<String>("key");
                to.field::<Vec<T>>("value");
                #[cfg(feature = "version")]
                to.field::<
                        ::shmrpc::private::Checked<
                            { ::shmrpc::private::are!(Version : MESSAGE) },
                            Version,
                        >,
                    >("version");
            },
        );
    }
}
#[automatically_derived]
impl<T: ::shmrpc::Message> ::shmrpc::Message for Entry<T>
where
    Self: ::shmrpc::private::Wire,
{}
#[automatically_derived]
impl<T: ::shmrpc::private::Declared> ::shmrpc::private::Declared for Entry<T> {}
#[cfg(feature = "version")]
const _: () = {
    #[allow(dead_code, reason = "only its bounds matter")]
    fn what_is_sent()
    where
        Version: ::shmrpc::Message,
    {}
};
#[derive(
    ::shmrpc::private::rkyv::Archive,
    ::shmrpc::private::rkyv::Serialize,
    ::shmrpc::private::rkyv::Deserialize,
    ::shmrpc::private::Recheck
)]
#[rkyv(crate = ::shmrpc::private::rkyv, resolver = __ShmrpcEntryResolver)]
#[recheck(crate = ::shmrpc)]
#[rkyv(
    archive_bounds(),
    serialize_bounds(
        __S:::shmrpc::private::rkyv::ser::Writer+::shmrpc::private::rkyv::ser::Allocator,
        <__S
        as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source
    ),
    deserialize_bounds(
        <__D
        as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source
    ),
    bytecheck(
        bounds(
            __C:::shmrpc::private::rkyv::validation::ArchiveContext,
            <__C
            as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source
        )
    ),
)]
/// What is stored.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// Its key.
    #[rkyv(omit_bounds)]
    pub key: String,
    value: Vec<T>,
    #[cfg(feature = "version")]
    #[rkyv(
        omit_bounds,
        with = ::shmrpc::private::Checked<{::shmrpc::private::are!(Version:MESSAGE)}>
    )]
    version: Version,
}
