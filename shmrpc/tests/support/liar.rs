//! A peer whose booleans are bytes: it says `bool`, and sends what is neither true nor false.

use shmrpc::private::rkyv;

/// Says that it is a `bool`, and travels as a byte.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = rkyv)]
pub(crate) struct Bool(pub(crate) u8);

impl shmrpc::Schema for Bool {
    fn describe(to: &mut shmrpc::Describe) {
        bool::describe(to);
    }
}

impl shmrpc::private::Recheck for ArchivedBool {}
impl shmrpc::Message for Bool {}
impl shmrpc::private::Declared for Bool {}
