//! A name that is ours: a socket at a path, and a lock beside it.
//!
//! ARCHITECTURE.md, "Names", says in which order it is taken and given up, and why.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::libc;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};

use super::refusal::in_no_directory;
use crate::peers::{PeerCredentials, Peers};
use crate::sys::fork::{self, Generation, Inherited};
use crate::sys::shortage;
use crate::sys::socket::{abstract_name, address_of};

/// A socket that listens at a path, and that nobody serves yet. It may be served in a forked child.
#[derive(Debug)]
pub struct Bound {
    pub(super) socket: Inherited<UnixListener>,
    pub(super) name: Name,
}

impl Bound {
    /// Listens at `path`; `allow` says whether other users may connect. A socket that a dead server left there is
    /// replaced; a live server's never.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::AddrInUse`] if a server lives there.
    pub fn at(path: &Path, allow: &Peers) -> io::Result<Self> {
        if abstract_name(path).is_some() {
            return Self::abstractly(path);
        }
        let mode = if allow.reaches_beyond(PeerCredentials::own().uid) { 0o666 } else { 0o600 };
        let mut name = Name::lock(path)?;
        remove_stale(path)?;
        let socket = unix_socket()?;
        // The socket's file gets this mode, less what the umask takes off.
        fchmod(&socket, Mode::from_bits_truncate(mode))?;
        bind(socket.as_raw_fd(), &UnixAddr::new(path)?)
            .map_err(|errno| explain(errno.into(), "the socket", path))?;
        let found = fs::symlink_metadata(path)?;
        name.socket = Some(FileId::of(&found));
        // Nobody gets in before `listen`, so nobody who the mode keeps out. Where libc needs /proc for this, others can only
        // be allowed if there is one.
        if found.mode() & 0o777 != mode {
            fchmodat(AT_FDCWD, path, Mode::from_bits_truncate(mode), FchmodatFlags::NoFollowSymlink)?;
        }
        listen(&socket, Backlog::MAXALLOWABLE)?;
        Ok(Self { socket: Inherited::new(socket.into()), name })
    }

    /// A name that is in no file system: it is nobody's but the kernel's, needs no lock, and has no mode.
    fn abstractly(path: &Path) -> io::Result<Self> {
        let socket = unix_socket()?;
        bind(socket.as_raw_fd(), &address_of(path)?).map_err(|errno| match errno {
            Errno::EADDRINUSE => in_use(path, "somebody already listens at"),
            errno => explain(errno.into(), "the socket", path),
        })?;
        listen(&socket, Backlog::MAXALLOWABLE)?;
        let name = Name {
            path: path.to_owned(),
            socket: None,
            lock: None,
            process: Generation::current(),
            children: Some(fork::children()),
        };
        Ok(Self { socket: Inherited::new(socket.into()), name })
    }

    /// This process serves from now on: children that it forks later have no part in the name.
    pub(super) fn keep(&mut self) -> io::Result<()> {
        self.socket.keep()?;
        self.name.lock.as_mut().map_or(Ok(()), Inherited::keep)?;
        self.name.process = Generation::current();
        self.name.children = None;
        Ok(())
    }
}

/// How often the lock may change hands between our opening it and our having it.
const TRIES: u32 = 1_000;

/// The two files of a name; removed on drop by the process that has the name.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    /// The socket that we made.
    socket: Option<FileId>,
    /// None if the name is in no file system.
    lock: Option<Inherited<File>>,
    process: Generation,
    /// Until somebody serves: children of this process when it took the name. One that came later may serve.
    children: Option<u64>,
}

impl Name {
    /// Takes the lock that the server of `path` holds while it lives.
    fn lock(path: &Path) -> io::Result<Self> {
        let lock_path = lock_path(path);
        for _ in 0..TRIES {
            let file = open_lock(&lock_path)?;
            file.try_lock().map_err(|error| match error {
                TryLockError::Error(error) => explain(error, "the lock", &lock_path),
                TryLockError::WouldBlock => in_use(path, "a server already listens at"),
            })?;
            // Whoever held it may have removed the file before letting go: then ours is nobody's lock.
            if fs::symlink_metadata(&lock_path).is_ok_and(|found| FileId::of(&found).is(&file)) {
                return Ok(Self {
                    path: path.to_owned(),
                    socket: None,
                    lock: Some(Inherited::new(file)),
                    process: Generation::current(),
                    children: Some(fork::children()),
                });
            }
        }
        Err(in_use(path, &format!("servers came and went {TRIES} times while we tried to listen at")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if !self.process.is_current() || self.children.is_some_and(|before| before != fork::children()) {
            // Another process serves, or may.
            return;
        }
        let Some(file) = &self.lock else { return };
        let found = |path: &Path| fs::symlink_metadata(path).ok();
        if self.socket.is_some() && found(&self.path).map(|found| FileId::of(&found)) == self.socket {
            remove(&self.path);
        }
        let lock = lock_path(&self.path);
        if found(&lock).is_some_and(|found| FileId::of(&found).is(file)) {
            remove(&lock);
        }
        // Not left to the closing of the file: a child may have it open, from before we served.
        if let Err(error) = file.unlock() {
            tracing::debug!(%error, "the lock was not ours any more");
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(?path, %error, "cannot be removed");
    }
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn of(found: &Metadata) -> Self {
        Self(found.dev(), found.ino())
    }

    fn is(self, file: &File) -> bool {
        file.metadata().is_ok_and(|found| Self::of(&found) == self)
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn open_lock(path: &Path) -> io::Result<File> {
    // Not to wait for somebody who reads, if it is a pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(0o600).custom_flags(flags);
    let file = options.open(path).map_err(|error| match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => not_usable("the lock", path, kind(&found)),
        _ => match in_no_directory(path) {
            Some(lack) => {
                io::Error::new(error.kind(), format!("{lack}; make it, or choose another endpoint"))
            }
            None => explain(error, "the lock", path),
        },
    })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(not_usable("the lock", path, kind(&found)));
    }
    check_owner(&found, "the lock", path)?;
    Ok(file)
}

/// Removes the socket that a dead server left, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(not_usable("the socket", path, kind(&found)));
    }
    check_owner(&found, "the socket", path)?;
    match connect(unix_socket()?.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path),
        // Its backlog is full.
        Ok(()) | Err(Errno::EAGAIN) => Err(in_use(path, "somebody listens without the lock at")),
        Err(errno) => Err(explain(errno.into(), "the socket", path)),
    }
}

fn unix_socket() -> nix::Result<std::os::fd::OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

fn in_use(path: &Path, who: &str) -> io::Error {
    let text = format!("{who} {}; stop it or choose another name", path.display());
    io::Error::new(ErrorKind::AddrInUse, text)
}

fn explain(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {}", path.display(), shortage::explain(&error)))
}

fn not_usable(what: &str, path: &Path, why: &str) -> io::Error {
    let text =
        format!("{what} {} is {why}; choose another name, or remove it if nobody needs it", path.display());
    io::Error::new(ErrorKind::AlreadyExists, text)
}

fn check_owner(found: &Metadata, what: &str, path: &Path) -> io::Result<()> {
    if found.uid() == PeerCredentials::own().uid {
        return Ok(());
    }
    Err(not_usable(what, path, &format!("that of user {}", found.uid())))
}

fn kind(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_file() {
        "a plain file"
    } else {
        "a device"
    }
}
