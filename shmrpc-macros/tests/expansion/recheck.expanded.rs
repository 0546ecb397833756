#[automatically_derived]
impl<T> ::shmrpc::private::Recheck for ArchivedShape<T>
where
    T: ::shmrpc::Message,
    Vec<T>: ::shmrpc::Message,
    HashMap<u8, T>: ::shmrpc::Message,
{
    const NEEDED: bool = ::shmrpc::Describe::any(
        &[
            <::shmrpc::Archived<f32> as ::shmrpc::private::Recheck>::NEEDED,
            <::shmrpc::Archived<Vec<T>> as ::shmrpc::private::Recheck>::NEEDED,
            <::shmrpc::Archived<HashMap<u8, T>> as ::shmrpc::private::Recheck>::NEEDED,
        ],
    );
    fn recheck(&self) -> ::core::result::Result<(), ::shmrpc::private::Refusal> {
        match self {
            ArchivedShape::Dot {} => {}
            ArchivedShape::Round { 0: field0, 1: field1 } => {
                ::shmrpc::private::Recheck::recheck(field0)?;
                ::shmrpc::private::Recheck::recheck(field1)?;
            }
            ArchivedShape::Path { points: field0 } => {
                ::shmrpc::private::Recheck::recheck(field0)?;
            }
        }
        ::core::result::Result::Ok(())
    }
}
