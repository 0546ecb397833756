//! The first frame each way.
//!
//! ```text
//!  0                 8         12        16
//!  +-----------------+---------+---------+-------------------------------------------+
//!  | magic "shmrpc\0\0" | version | formats | rkyv archive of the body                  |
//!  +-----------------+---------+---------+-------------------------------------------+
//! ```

use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::message::Refusal;
use crate::shm::memory::Memory;
use crate::shm::segment::BASE_LEN;

/// Version of the wire format.
pub const VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"shmrpc\0\0";
/// Facts about archives that both sides must share: little-endian, 32-bit relative pointers, aligned, depth 128.
const FORMATS: u32 = 0x0001_2080;
const PREFACE: usize = 16;

/// A hello that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// It is not shmrpc at the other end.
    #[error("the other end does not speak shmrpc")]
    Magic,
    /// Another version.
    #[error(
        "the other end speaks version {found} of the wire format, and we speak {VERSION}; use the same shmrpc on both sides"
    )]
    Version {
        /// The other end's version.
        found: u32,
    },
    /// Another archive format.
    #[error(
        "the other end archives differently ({found:#x}, ours is {FORMATS:#x}); build both with the same rkyv features"
    )]
    Formats {
        /// The other end's facts.
        found: u32,
    },
    /// Another memory layout.
    #[error(
        "the other end's memory has {found} bytes where {expected} are due; use the same shmrpc on both sides"
    )]
    Geometry {
        /// Bytes announced.
        found: u64,
        /// Bytes of this version.
        expected: u64,
    },
    /// Memory of a kind that we do not know.
    #[error(
        "the other end's memory is of kind {found}, which we do not know; use the same shmrpc on both sides"
    )]
    Memory {
        /// The kind, as it travels.
        found: u32,
    },
    /// The body is not valid.
    #[error("the body is not valid: {0}")]
    Body(Box<str>),
    /// The hello came without memory.
    #[error("the hello came without memory")]
    NoMemory,
}

/// What each side says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    body: Body,
    memory: Memory,
}

#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
struct Body {
    base_len: u64,
    max_message: u64,
    lanes: u32,
    memory: u32,
    application: Vec<u8>,
}

impl Hello {
    /// A hello of this version.
    pub fn new(max_message: u64, lanes: u32, memory: Memory, application: Vec<u8>) -> Self {
        let body = Body { base_len: BASE_LEN as u64, max_message, lanes, memory: memory.code(), application };
        Self { body, memory }
    }

    /// Bytes of a message that the speaker takes.
    pub fn max_message(&self) -> u64 {
        self.body.max_message
    }

    /// Lanes that the speaker offers.
    pub fn lanes(&self) -> u32 {
        self.body.lanes
    }

    /// What all memory of the speaker is made of.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Bytes of the memory that comes with the hello.
    pub fn base_len(&self) -> u64 {
        self.body.base_len
    }

    /// What the application says.
    pub fn into_application(self) -> Vec<u8> {
        self.body.application
    }

    /// The payload of a hello frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&FORMATS.to_le_bytes());
        match rkyv::to_bytes::<Refusal>(&self.body) {
            Ok(body) => bytes.extend_from_slice(&body),
            Err(refusal) => tracing::error!(reason = %refusal.reason(), "a hello could not be encoded"),
        }
        bytes
    }

    /// Reads the payload of a hello frame.
    ///
    /// # Errors
    /// [`HelloError`] says what does not fit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HelloError> {
        let (preface, body) = bytes.split_first_chunk::<PREFACE>().ok_or(HelloError::Magic)?;
        let [m0, m1, m2, m3, m4, m5, m6, m7, v0, v1, v2, v3, f0, f1, f2, f3] = *preface;
        if [m0, m1, m2, m3, m4, m5, m6, m7] != MAGIC {
            return Err(HelloError::Magic);
        }
        let found = u32::from_le_bytes([v0, v1, v2, v3]);
        if found != VERSION {
            return Err(HelloError::Version { found });
        }
        let found = u32::from_le_bytes([f0, f1, f2, f3]);
        if found != FORMATS {
            return Err(HelloError::Formats { found });
        }
        let mut aligned = AlignedVec::<16>::with_capacity(body.len());
        aligned.extend_from_slice(body);
        let body = rkyv::from_bytes::<Body, Refusal>(&aligned);
        let body = body.map_err(|refusal| HelloError::Body(refusal.reason()))?;
        let memory = Memory::from_code(body.memory).ok_or(HelloError::Memory { found: body.memory })?;
        Ok(Self { body, memory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_its_bytes() {
        for memory in [Memory::Memfd, Memory::PosixShm] {
            let hello = Hello::new(1 << 20, 64, memory, b"services".to_vec());
            assert_eq!(Hello::from_bytes(&hello.to_bytes()).unwrap(), hello);
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        let good = Hello::new(1 << 20, 64, Memory::Memfd, vec![]).to_bytes();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Hello::from_bytes(&bytes)
        };
        assert!(matches!(with(0, b'x'), Err(HelloError::Magic)));
        assert!(matches!(with(8, 3), Err(HelloError::Version { found: 3 })));
        assert!(matches!(with(12, 0xff), Err(HelloError::Formats { .. })));
        let body = Hello::from_bytes(&good[..20]).unwrap_err();
        assert!(matches!(&body, HelloError::Body(reason) if reason.contains("0x..")), "{body}");
        let mut strange = Hello::new(1 << 20, 64, Memory::Memfd, vec![]);
        strange.body.memory = 2;
        let strange = Hello::from_bytes(&strange.to_bytes());
        assert!(matches!(strange, Err(HelloError::Memory { found: 2 })));
        assert!(matches!(Hello::from_bytes(b"GET / HTTP/1.1"), Err(HelloError::Magic)));
    }
}
