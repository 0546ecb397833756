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

use crate::connection::Carrier;
use crate::message::Refusal;
use crate::shm::memory::Memory;
use crate::shm::segment::BASE_LEN;

/// Version of the wire format.
pub const VERSION: u32 = 4;
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
    /// Lanes of a kind that we do not know.
    #[error(
        "the other end's lanes are of kind {found}, which we do not know; use the same shmrpc on both sides"
    )]
    Carrier {
        /// The kind, as it travels.
        found: u32,
    },
    /// What the server answers does not go with what we asked for.
    #[error("the server's hello makes no sense: {0}")]
    Answer(&'static str),
    /// The body is not valid.
    #[error("the body is not valid: {0}")]
    Body(Box<str>),
    /// A descriptor came with a hello that speaks of no memory.
    #[error("the hello came with a descriptor, and speaks of no memory")]
    Unwanted,
    /// The hello came without memory.
    #[error("the hello came without memory")]
    NoMemory,
}

/// What each side says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Bytes of the memory that comes with the hello; 0 without.
    pub base_len: u64,
    /// What all memory of the speaker is made of.
    pub memory: Memory,
    /// Bytes of a message that the speaker takes.
    pub max_message: u64,
    /// Lanes that the speaker offers.
    pub lanes: u32,
    /// What lanes are to be made of (client), or are (server).
    pub carrier: Carrier,
    /// The lane that is asked for, beside a token.
    pub lane: u32,
    /// What a client repeats to open a further lane where that takes a further connection; else zero.
    pub token: Token,
    /// Why no memory is shared, or lanes are not made of what was asked for (server).
    pub reason: String,
    /// What the application says.
    pub application: Vec<u8>,
}

/// Names a connection of a server to whoever holds the connection already.
pub(crate) type Token = [u8; 16];

#[derive(Archive, Serialize, Deserialize)]
struct Body {
    base_len: u64,
    max_message: u64,
    lanes: u32,
    memory: u32,
    carrier: u32,
    lane: u32,
    token: Token,
    reason: String,
    application: Vec<u8>,
}

impl Hello {
    /// A hello of this version, with memory and lanes of rings.
    pub fn new(max_message: u64, lanes: u32, memory: Memory, application: Vec<u8>) -> Self {
        Self {
            base_len: BASE_LEN as u64,
            memory,
            max_message,
            lanes,
            carrier: Carrier::Rings,
            lane: 0,
            token: Token::default(),
            reason: String::new(),
            application,
        }
    }

    /// The payload of a hello frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { base_len, memory, max_message, lanes, carrier, lane, token, reason, application } = self;
        let body = Body {
            base_len: *base_len,
            max_message: *max_message,
            lanes: *lanes,
            memory: memory.code(),
            carrier: carrier.code(),
            lane: *lane,
            token: *token,
            reason: reason.clone(),
            application: application.clone(),
        };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&FORMATS.to_le_bytes());
        match rkyv::to_bytes::<Refusal>(&body) {
            Ok(body) => bytes.extend_from_slice(&body),
            // The types above always archive.
            Err(refusal) => tracing::error!(%refusal, "a hello could not be archived"),
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
        let Body { base_len, max_message, lanes, memory, carrier, lane, token, reason, application } = body;
        let memory = Memory::from_code(memory).ok_or(HelloError::Memory { found: memory })?;
        let carrier = Carrier::from_code(carrier).ok_or(HelloError::Carrier { found: carrier })?;
        Ok(Self { base_len, memory, max_message, lanes, carrier, lane, token, reason, application })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_its_bytes() {
        for memory in [Memory::Memfd, Memory::PosixShm] {
            let mut hello = Hello::new(1 << 20, 64, memory, b"services".to_vec());
            assert_eq!(Hello::from_bytes(&hello.to_bytes()).unwrap(), hello);
            (hello.carrier, hello.base_len, hello.token) = (Carrier::Streams, 0, [7; 16]);
            hello.reason = "no memory".into();
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
        assert!(matches!(with(8, 2), Err(HelloError::Version { found: 2 })));
        assert!(matches!(with(12, 0xff), Err(HelloError::Formats { .. })));
        let body = Hello::from_bytes(&good[..20]).unwrap_err();
        assert!(matches!(&body, HelloError::Body(reason) if reason.contains("0x..")), "{body}");
        // The kinds lie side by side in the archive.
        let strange = |at: usize| {
            let mut bytes = good.clone();
            let end = bytes.len();
            bytes[end - at] = 2;
            Hello::from_bytes(&bytes)
        };
        let kinds: Vec<_> = (1..=64).filter_map(|at| strange(at).err()).collect();
        assert!(kinds.iter().any(|error| matches!(error, HelloError::Memory { found: 2 })));
        assert!(kinds.iter().any(|error| matches!(error, HelloError::Carrier { found: 2 })));
        assert!(matches!(Hello::from_bytes(b"GET / HTTP/1.1"), Err(HelloError::Magic)));
    }
}
