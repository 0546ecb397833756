#[automatically_derived]
impl<T: ::shmrpc::Message> ::shmrpc::Schema for Entry<T>
where
    String: ::shmrpc::Message,
{
    const RECURSIVE: bool = ::shmrpc::Describe::any(
        &[
            <String as ::shmrpc::Schema>::RECURSIVE,
            <Vec<T> as ::shmrpc::Schema>::RECURSIVE,
            #[cfg(feature = "version")]
            <u64 as ::shmrpc::Schema>::RECURSIVE,
        ],
    );
    fn describe(to: &mut ::shmrpc::Describe) {
        to.structure::<
                Self,
            >(
            "Entry",
            |to| {
                to.field::<String>("key");
                to.field::<Vec<T>>("value");
                #[cfg(feature = "version")] to.field::<u64>("version");
            },
        );
    }
}
#[automatically_derived]
impl<T: ::shmrpc::Message> ::shmrpc::Message for Entry<T>
where
    String: ::shmrpc::Message,
    Self: ::shmrpc::private::Wire,
{}
#[derive(
    ::shmrpc::private::rkyv::Archive,
    ::shmrpc::private::rkyv::Serialize,
    ::shmrpc::private::rkyv::Deserialize,
    ::shmrpc::private::Recheck
)]
#[rkyv(crate = ::shmrpc::private::rkyv)]
#[recheck(crate = ::shmrpc)]
#[rkyv(
    archive_bounds(String:::shmrpc::Message),
    serialize_bounds(
        __S:::shmrpc::private::rkyv::ser::Writer+::shmrpc::private::rkyv::ser::Allocator,
        <__S
        as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source,
        String:::shmrpc::Message,
        String:::shmrpc::private::rkyv::Serialize<__S>
    ),
    deserialize_bounds(
        <__D
        as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source,
        String:::shmrpc::Message,
        <String
        as::shmrpc::private::rkyv::Archive>::Archived:::shmrpc::private::rkyv::Deserialize<String,
        __D>
    ),
    bytecheck(
        bounds(
            __C:::shmrpc::private::rkyv::validation::ArchiveContext,
            <__C
            as::shmrpc::private::rkyv::rancor::Fallible>::Error:::shmrpc::private::rkyv::rancor::Source,
            String:::shmrpc::Message,
            <String
            as::shmrpc::private::rkyv::Archive>::Archived:::shmrpc::private::rkyv::bytecheck::CheckBytes<__C>
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
    version: u64,
}
