#[automatically_derived]
impl ::shmrpc::Schema for KvError {
    const RECURSIVE: bool = ::shmrpc::Describe::any(
        &[<String as ::shmrpc::Schema>::RECURSIVE, <u64 as ::shmrpc::Schema>::RECURSIVE],
    );
    fn describe(to: &mut ::shmrpc::Describe) {
        to.enumeration::<
                Self,
            >(
            "KvError",
            |to| {
                to.variant(
                    "NotFound",
                    |to| {
                        to.element::<String>();
                    },
                );
                to.variant(
                    "Conflict=7",
                    |to| {
                        to.field::<u64>("found");
                    },
                );
                to.variant(
                    "Busy",
                    |to| {
                        let _: &mut ::shmrpc::Describe = to;
                    },
                );
            },
        );
    }
}
#[automatically_derived]
impl ::shmrpc::Message for KvError {}
#[automatically_derived]
impl ::shmrpc::private::Declared for KvError {}
/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// It is not there.
    #[error("no such key: {0}")]
    NotFound(String),
    /// Somebody else was faster.
    #[error("version is {found}")]
    Conflict {
        /// What it is.
        found: u64,
    } = 7,
    /// Not now.
    #[error("not now")]
    Busy,
}
const _: () = {
    #[derive(
        ::shmrpc::private::rkyv::Archive,
        ::shmrpc::private::rkyv::Serialize,
        ::shmrpc::private::rkyv::Deserialize,
        ::shmrpc::private::Recheck
    )]
    #[rkyv(crate = ::shmrpc::private::rkyv, resolver = __ShmrpcKvErrorResolver)]
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
    #[rkyv(derive(Debug))]
    #[::shmrpc::private::discard]
    pub enum KvError {
        NotFound(#[rkyv(omit_bounds)] String),
        Conflict { #[rkyv(omit_bounds)] found: u64 } = 7,
        Busy,
    }
};
/// An archived [`KvError`].
#[allow(dead_code, reason = "a program may not look into the archive")]
pub type ArchivedKvError = ::shmrpc::private::rkyv::Archived<KvError>;
