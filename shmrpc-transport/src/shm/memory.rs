//! What segments are made of: how each kind of memory is made, and what is asked of a peer's before it is mapped.

use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, posix_fallocate};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::Mode;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::sys::lease::{self, Others};
use crate::sys::shortage::{explain, is_shortage, largest_file};

/// What one side of a connection keeps its messages in, for the other side to read. Each side chooses its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Memory {
    /// Anonymous memory with seals (`memfd_create(2)`): nobody can change its size or write to it but its owner, so it
    /// is taken from anybody. Pages are taken when they are first written.
    #[default]
    Memfd,
    /// POSIX shared memory: a file in `/dev/shm` that has no name. It cannot be sealed, so only peers that trust each
    /// other share it: **whoever reads it can be killed by its owner**, who may cut it short at any time (`SIGBUS`).
    ///
    /// Every byte is reserved at once, 1.6 MB for a connection and more as messages need it. So a full `/dev/shm` is an
    /// error where memory is asked for, and not the death of whoever writes to it.
    PosixShm,
}

impl Memory {
    /// As it travels in a hello.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Memfd => 0,
            Self::PosixShm => 1,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Self> {
        [Self::Memfd, Self::PosixShm].into_iter().find(|memory| memory.code() == code)
    }

    /// Whether its owner cannot take back what it lends. If not, only peers that trust each other share it.
    pub fn is_sealed(self) -> bool {
        self == Self::Memfd
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Memfd => "memfd",
            Self::PosixShm => "PosixShm",
        })
    }
}

/// Memory that could not be made, or a descriptor that is not what the protocol asks for.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The system refused.
    #[error("cannot {what} {length} bytes of {memory} memory: {}", explain(error))]
    System {
        /// What was tried.
        what: &'static str,
        /// Bytes asked for.
        length: u64,
        /// The kind of memory.
        memory: Memory,
        /// What the system said.
        error: io::Error,
    },
    /// No room for POSIX shared memory.
    #[error(
        "cannot reserve {length} bytes in /dev/shm: {error}; make it larger (mount -o remount,size=SIZE /dev/shm), or use Memory::Memfd"
    )]
    Full {
        /// Bytes asked for.
        length: u64,
        /// What the system said.
        error: io::Error,
    },
    /// The process may make no file of this size.
    #[error(
        "cannot make {length} bytes of {memory} memory: a file of this process may have {limit}; raise the limit (ulimit -f, LimitFSIZE=)"
    )]
    Limited {
        /// Bytes asked for.
        length: u64,
        /// The kind of memory.
        memory: Memory,
        /// Bytes that it may have.
        limit: u64,
    },
    /// This process may not ask for seals, and so cannot tell what it was sent.
    #[error("cannot ask for the seals of shared memory: {error}")]
    Unasked {
        /// What the system said.
        error: io::Error,
    },
    /// The descriptor is no sealed memory.
    #[error("the peer sent memory whose seals are {found:#x}; {REQUIRED:?} are required")]
    Seals {
        /// The seals found, or -1 if the descriptor cannot be sealed.
        found: i32,
    },
    /// The descriptor is no memory of that kind.
    #[error("the peer announced {memory} memory and sent {found}")]
    Kind {
        /// What it announced.
        memory: Memory,
        /// What it sent.
        found: &'static str,
    },
    /// The descriptor has another size than announced.
    #[error("the peer announced {announced} bytes of memory and sent {found}")]
    Size {
        /// Bytes announced.
        announced: u64,
        /// Bytes found.
        found: u64,
    },
}

impl MemoryError {
    /// Whether it is our system that lacks something, and not the peer that broke a rule.
    pub fn is_ours(&self) -> bool {
        match self {
            // A descriptor that cannot be mapped for what it is, is the peer's doing.
            Self::System { error, .. } => is_shortage(error),
            Self::Full { .. } | Self::Limited { .. } | Self::Unasked { .. } => true,
            Self::Seals { .. } | Self::Kind { .. } | Self::Size { .. } => false,
        }
    }
}

/// Seals that a memfd has before it is sent: its size is fixed, nobody else can write to it, and no seal is added.
const REQUIRED: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE))
    .union(SealFlag::F_SEAL_SEAL);

/// Memory that was just made, as its owner holds it.
pub(crate) struct Fresh {
    memory: Memory,
    length: u64,
    /// For the owner, to map.
    file: File,
    /// For the peer, if it is not the same descriptor.
    reader: Option<OwnedFd>,
    witness: Option<Witness>,
}

/// Knows whether anybody but us still has some memory of ours.
#[derive(Debug)]
pub(crate) struct Witness(pub(super) File);

impl Witness {
    /// A second descriptor of `file`, which is open for writing, that can only read. `None` without /proc.
    fn new(file: &File) -> io::Result<Option<Self>> {
        Ok(reopened(file)?.map(Self))
    }

    /// Who has the memory mapped or open; we have unmapped it ourselves.
    pub(crate) fn others(&self) -> Others {
        lease::others(&self.0)
    }
}

/// The file again, for reading only. `None` without /proc.
fn reopened(file: &File) -> io::Result<Option<File>> {
    match File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_shortage(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

impl Fresh {
    pub(crate) fn new(memory: Memory, length: u64) -> Result<Self, MemoryError> {
        let failed = |what, error| MemoryError::System { what, length, memory, error };
        // Asked first: to be told by the system is to be killed.
        let limit = largest_file();
        if length > limit {
            return Err(MemoryError::Limited { length, memory, limit });
        }
        match memory {
            Memory::Memfd => {
                let file = File::from(memfd().map_err(|errno| failed("create", errno.into()))?);
                file.set_len(length).map_err(|error| failed("size", error))?;
                let reader = reopened(&file).map_err(|error| failed("lend", error))?.map(OwnedFd::from);
                let witness = Witness::new(&file).map_err(|error| failed("lend", error))?;
                Ok(Self { memory, length, file, reader, witness })
            }
            Memory::PosixShm => {
                let (file, reader) = posix_shm().map_err(|error| failed("create", error))?;
                match reserve(&file, length) {
                    Ok(()) => {
                        let witness = Witness::new(&file).map_err(|error| failed("lend", error))?;
                        Ok(Self { memory, length, file, reader: Some(reader), witness })
                    }
                    Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) => {
                        Err(MemoryError::Full { length, error: errno.into() })
                    }
                    Err(errno) => Err(failed("reserve", errno.into())),
                }
            }
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The descriptor for the peer, and who will know when it has let go. The memory has to be mapped by now: seals
    /// forbid further writable mappings.
    pub(crate) fn into_shared(self) -> Result<(OwnedFd, Option<Witness>), MemoryError> {
        let Self { memory, length, file, reader, witness } = self;
        if memory.is_sealed() {
            let failed =
                |errno: Errno| MemoryError::System { what: "seal", length, memory, error: errno.into() };
            fcntl(&file, FcntlArg::F_ADD_SEALS(REQUIRED)).map_err(failed)?;
            // Else the peer's could not be looked at either.
            let unasked = |errno: Errno| MemoryError::Unasked { error: errno.into() };
            fcntl(&file, FcntlArg::F_GET_SEALS).map_err(unasked)?;
        }
        match reader {
            Some(reader) => Ok((reader, witness)),
            // Then the peer has what we had, and nothing tells us when it lets go of that.
            None => Ok((file.into(), None)),
        }
    }
}

/// Whether it is the system that refuses to say what seals there are: a sandbox that has never heard of them. Memory of our own has some.
fn may_not_ask(errno: Errno) -> bool {
    // What has no seals says EINVAL.
    let is_forbidden = matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS);
    is_forbidden
        || memfd_create(c"shmrpc-seals", MFdFlags::MFD_CLOEXEC)
            .is_ok_and(|file| fcntl(&file, FcntlArg::F_GET_SEALS).is_err())
}

/// Checks what a peer sent as `announced` bytes of `memory`. Returns the bytes.
pub(crate) fn inspect(file: &File, announced: u64, memory: Memory) -> Result<usize, MemoryError> {
    // Only what lies in memory, a tmpfs or huge pages, has seals, be it no more than the one that forbids others. This is
    // asked first, because it is asked of nobody else: a file that a process of the peer's serves (FUSE) may take as long
    // as it likes to say what it is.
    let seals = match fcntl(file.as_fd(), FcntlArg::F_GET_SEALS) {
        Ok(seals) => seals,
        Err(errno) if may_not_ask(errno) => return Err(MemoryError::Unasked { error: errno.into() }),
        Err(_) => -1,
    };
    match memory {
        Memory::Memfd if seals < 0 || !SealFlag::from_bits_retain(seals).contains(REQUIRED) => {
            return Err(MemoryError::Seals { found: seals });
        }
        Memory::PosixShm if seals < 0 => {
            return Err(MemoryError::Kind { memory, found: "no regular file that lies on a tmpfs" });
        }
        _ => {}
    }
    let failed = |error| MemoryError::System { what: "stat", length: announced, memory, error };
    let found = file.metadata().map_err(failed)?;
    let kind = fstatfs(file).map_err(|errno| failed(errno.into()))?.filesystem_type();
    if !found.is_file() {
        return Err(MemoryError::Kind { memory, found: "no regular file" });
    }
    if kind != TMPFS_MAGIC {
        // Huge pages have seals too, and whoever reads one that is not there yet dies if there is none left.
        return Err(MemoryError::Kind { memory, found: "a file that does not lie on a tmpfs" });
    }
    if memory == Memory::PosixShm {
        let wrong = if found.nlink() != 0 {
            Some("a file that still has a name")
        } else if found.blocks().saturating_mul(512) < found.len() {
            // Who reads a hole asks for memory, and dies if there is none.
            Some("a file with holes")
        } else {
            None
        };
        if let Some(found) = wrong {
            return Err(MemoryError::Kind { memory, found });
        }
    }
    let found = found.len();
    let length = usize::try_from(announced).ok().filter(|_| found == announced && found != 0);
    length.ok_or(MemoryError::Size { announced, found })
}

fn memfd() -> Result<OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match memfd_create(c"shmrpc", flags | no_exec) {
        // Kernels before 6.3 do not know MFD_NOEXEC_SEAL.
        Err(Errno::EINVAL) => memfd_create(c"shmrpc", flags),
        made => made,
    }
}

/// A file in `/dev/shm` without a name: one descriptor to write, and one to read that a peer of another user cannot turn
/// into one to write.
fn posix_shm() -> io::Result<(File, OwnedFd)> {
    match unnamed() {
        Err(error) if without_tmpfile(&error) => named(),
        made => made,
    }
}

/// What a file system that knows no O_TMPFILE says, and a system without /proc.
fn without_tmpfile(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    error.kind() == io::ErrorKind::NotFound
        || errno.is_some_and(|errno| {
            [libc::EOPNOTSUPP, libc::EISDIR, libc::EINVAL, libc::ENOENT].contains(&errno)
        })
}

/// It never has a name, so a process that is killed leaves none behind.
fn unnamed() -> io::Result<(File, OwnedFd)> {
    let mut options = File::options();
    // O_EXCL: nobody can give it a name later.
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE | libc::O_EXCL);
    let file = options.open("/dev/shm")?;
    let reader = reopened(&file)?.ok_or(io::ErrorKind::NotFound)?;
    Ok((file, reader.into()))
}

/// It has a name for some microseconds. A process that is killed then leaves it behind.
fn named() -> io::Result<(File, OwnedFd)> {
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let (name, file) = loop {
        // Fresh random keys each time: nobody can have taken the names that come.
        let name = format!("/shmrpc-{:016x}", RandomState::new().build_hasher().finish());
        match shm_open(name.as_str(), OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR, mode) {
            Err(Errno::EEXIST) => {}
            made => break (name, made?),
        }
    };
    let reader = shm_open(name.as_str(), OFlag::O_RDONLY, Mode::empty());
    shm_unlink(name.as_str())?;
    Ok((file.into(), reader?))
}

/// Takes all pages now: whoever writes to one that cannot be had later dies.
fn reserve(file: &File, length: u64) -> Result<(), Errno> {
    let length = libc::off_t::try_from(length).map_err(|_| Errno::EFBIG)?;
    loop {
        match posix_fallocate(file, 0, length) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn fresh(memory: Memory, length: u64) -> File {
        Fresh::new(memory, length).unwrap().into_shared().unwrap().0.into()
    }

    fn refused(file: &File, length: u64, memory: Memory) -> String {
        inspect(file, length, memory).unwrap_err().to_string()
    }

    #[test]
    fn what_is_made_passes() {
        for memory in [Memory::Memfd, Memory::PosixShm] {
            assert_eq!(inspect(&fresh(memory, 5 * PAGE), 5 * PAGE, memory).unwrap(), 5 * 4096);
            assert_eq!(Memory::from_code(memory.code()), Some(memory));
        }
        assert_eq!(Memory::from_code(2), None);
    }

    #[test]
    fn both_ways_to_posix_shm_have_no_name_and_lend_no_right_to_write() {
        for made in [unnamed(), named()] {
            let (file, reader) = made.unwrap();
            reserve(&file, 3 * PAGE).unwrap();
            let reader = File::from(reader);
            assert_eq!(inspect(&reader, 3 * PAGE, Memory::PosixShm).unwrap(), 3 * 4096);
            assert_eq!(reader.metadata().unwrap().mode() & 0o777, 0o600);
            assert!(reader.set_len(0).is_err());
            assert!(io::Write::write(&mut &reader, b"x").is_err());
        }
    }

    #[test]
    fn a_memfd_without_seals_is_refused() {
        let file = File::from(memfd().unwrap());
        file.set_len(PAGE).unwrap();
        assert!(matches!(inspect(&file, PAGE, Memory::Memfd), Err(MemoryError::Seals { found: 0.. })));
        let file = File::open("/proc/self/exe").unwrap();
        assert!(matches!(inspect(&file, PAGE, Memory::Memfd), Err(MemoryError::Seals { found: -1 })));
    }

    /// Not even if its owner is trusted: it has to say what it sends.
    #[test]
    fn posix_shm_is_no_memfd() {
        let file = fresh(Memory::PosixShm, PAGE);
        assert!(matches!(inspect(&file, PAGE, Memory::Memfd), Err(MemoryError::Seals { .. })));
    }

    #[test]
    fn another_size_is_refused() {
        for memory in [Memory::Memfd, Memory::PosixShm] {
            let file = fresh(memory, 2 * PAGE);
            assert!(refused(&file, PAGE, memory).contains("announced 4096 bytes of memory and sent 8192"));
        }
        assert!(matches!(
            inspect(&named().unwrap().0, 0, Memory::PosixShm),
            Err(MemoryError::Size { announced: 0, found: 0 })
        ));
    }

    #[test]
    fn what_is_no_posix_shm_is_refused() {
        let refused = |file: &File| refused(file, PAGE, Memory::PosixShm);
        assert!(refused(&File::open("/dev/shm").unwrap()).contains("no regular file"));
        assert!(refused(&File::open("/dev/null").unwrap()).contains("no regular file"));
        assert!(
            refused(&File::open("/proc/self/status").unwrap())
                .contains("no regular file that lies on a tmpfs")
        );
        let (holes, _) = unnamed().unwrap();
        holes.set_len(PAGE).unwrap();
        assert!(refused(&holes).contains("holes"));

        let name = format!("/shmrpc-test-{}", std::process::id());
        let file: File =
            shm_open(name.as_str(), OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR, Mode::S_IRUSR)
                .unwrap()
                .into();
        let said = reserve(&file, PAGE).map(|()| refused(&file));
        shm_unlink(name.as_str()).unwrap();
        assert!(said.unwrap().contains("still has a name"));
    }
}
