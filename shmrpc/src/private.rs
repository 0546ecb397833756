//! What generated code names. No part of the public interface.

pub use crate::__are as are;
pub use crate::arg;
pub use crate::blob::{BlobWire, Loan};
pub use crate::channel::Channel;
pub use crate::context::{blob, descriptor};
pub use crate::descriptor::{DescriptorWire, Handed};
pub use crate::dispatch::{Answered, Request};
pub use crate::elements::{Checked, Instead, Look, Overlook, Sent, refuse_empty_elements};
pub use crate::schema::{
    Declared, HashedKey, IsHashedKey, IsHasher, IsOrderedKey, MethodSchema, OrderedKey, ServiceSchema,
};
pub use shmrpc_macros::{Methods, Recheck, discard, message_found};
pub use shmrpc_transport::message::{Nested, Recheck, Refusal, Wire};
pub use shmrpc_transport::rkyv;
