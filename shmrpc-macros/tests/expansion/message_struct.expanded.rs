#[automatically_derived]
impl<T: ::shmrpc::Message> ::shmrpc::Schema for Entry<T> {
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
/// What is stored.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// Its key.
    pub key: String,
    value: Vec<T>,
    #[cfg(feature = "version")]
    version: u64,
}
