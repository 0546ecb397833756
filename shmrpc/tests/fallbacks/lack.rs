//! What a process lacks, how it is taken from it, and what it says then.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::geteuid;

use crate::support::Place;

/// What a process lacks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lack {
    Nothing,
    /// `futex_waitv` (Linux 5.16).
    Waitv,
    /// `SO_PASSPIDFD` and `SCM_PIDFD` (Linux 6.5).
    Pidfd,
    /// `SO_PASSRIGHTS` (Linux 6.16).
    Rights,
    /// `/proc`.
    Proc,
    /// `memfd_create`: no memory can be shared.
    Memfd,
    /// `F_ADD_SEALS`: the same.
    Seals,
    /// `F_GET_SEALS`: none of either kind can be shared.
    AskSeals,
}

const LACK: &str = "SHMRPC_TEST_LACK";
/// linux/fcntl.h.
const F_ADD_SEALS: u32 = 1024 + 9;
const F_GET_SEALS: u32 = 1024 + 10;
/// asm-generic/socket.h.
const SO_PASSPIDFD: u8 = 76;
const SO_PASSRIGHTS: u8 = 83;

impl Lack {
    const ALL: [Self; 8] = [
        Self::Nothing,
        Self::Waitv,
        Self::Pidfd,
        Self::Rights,
        Self::Proc,
        Self::Memfd,
        Self::Seals,
        Self::AskSeals,
    ];

    /// What was taken from this process.
    pub(crate) fn own() -> Self {
        let own = std::env::var(LACK).unwrap();
        Self::ALL.into_iter().find(|known| format!("{known:?}") == own).unwrap()
    }

    /// Takes it from the program that the command starts.
    pub(crate) fn deprive(self, command: &mut Command) -> &mut Command {
        command.env(LACK, format!("{self:?}"));
        let no_option = |option: u8| {
            let sol_socket = u32::try_from(libc::SOL_SOCKET).unwrap();
            filter(libc::SYS_setsockopt, &[(1, sol_socket), (2, option.into())], Errno::ENOPROTOOPT)
        };
        let filter = match self {
            Self::Nothing => return command,
            Self::Waitv => filter(libc::SYS_futex_waitv, &[], Errno::ENOSYS),
            Self::Pidfd => no_option(SO_PASSPIDFD),
            Self::Rights => no_option(SO_PASSRIGHTS),
            Self::Memfd => filter(libc::SYS_memfd_create, &[], Errno::EPERM),
            Self::Seals => filter(libc::SYS_fcntl, &[(1, F_ADD_SEALS)], Errno::EINVAL),
            Self::AskSeals => filter(libc::SYS_fcntl, &[(1, F_GET_SEALS)], Errno::EPERM),
            // SAFETY: between fork and exec there are only system calls.
            Self::Proc => return unsafe { command.pre_exec(hide_proc) },
        };
        // SAFETY: as above; the filter is there already.
        unsafe { command.pre_exec(move || install(&filter)) }
    }

    /// Panics if this process has it all the same.
    pub(crate) fn expect(self) {
        match self {
            Self::Nothing => {}
            Self::Waitv => {
                // SAFETY: an empty list is refused before anything is read.
                let result = unsafe { libc::syscall(libc::SYS_futex_waitv, 0, 0, 0, 0, 0) };
                assert_eq!((result, Errno::last()), (-1, Errno::ENOSYS));
            }
            Self::Pidfd => has_no_option(SO_PASSPIDFD),
            Self::Rights => has_no_option(SO_PASSRIGHTS),
            Self::Proc => assert!(!Path::new("/proc/self").exists()),
            Self::Memfd => assert_eq!(memfd_create(c"lack", MFdFlags::empty()).err(), Some(Errno::EPERM)),
            Self::Seals => {
                let file = memfd_create(c"lack", MFdFlags::MFD_ALLOW_SEALING).unwrap();
                let sealed = fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW));
                assert_eq!(sealed, Err(Errno::EINVAL));
            }
            Self::AskSeals => {
                let file = memfd_create(c"lack", MFdFlags::MFD_ALLOW_SEALING).unwrap();
                assert_eq!(fcntl(&file, FcntlArg::F_GET_SEALS), Err(Errno::EPERM));
            }
        }
    }

    /// What it keeps from being done, and what the system says then.
    pub(crate) fn refusal(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Memfd => Some(["cannot create ", " bytes of memfd memory: Operation not permitted"]),
            Self::Seals => Some(["cannot seal ", " bytes of memfd memory: Invalid argument"]),
            Self::AskSeals => {
                Some(["cannot ask for the seals of", " shared memory: Operation not permitted"])
            }
            _ => None,
        }
    }

    /// Where a server listens to whom it matters.
    pub(crate) fn endpoint(self, place: &Place) -> String {
        let shm = place.endpoint();
        if self == Self::Rights { shm.replace("shm:", "uds:") } else { shm }
    }

    /// Whether it can be taken from a process here.
    pub(crate) fn is_possible(self) -> bool {
        let possible = self != Self::Proc || geteuid().is_root();
        if !possible {
            crate::support::skipped("only root can hide /proc from a process");
        }
        possible
    }
}

fn has_no_option(option: u8) {
    let (socket, _other) = UnixStream::pair().unwrap();
    let off = 0_i32;
    // SAFETY: the option is an int.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option.into(), (&raw const off).cast(), 4)
    };
    assert_eq!((result, Errno::last()), (-1, Errno::ENOPROTOOPT));
}

/// A program (seccomp(2)) that answers this system call with an error where its arguments are these, by their place.
fn filter(call: libc::c_long, arguments: &[(u32, u32)], error: Errno) -> Vec<libc::sock_filter> {
    // `struct seccomp_data`: the number, then, after 12 bytes, six arguments of 8 bytes, the low half first.
    let number = (0, u32::try_from(call).unwrap());
    let wanted = arguments.iter().map(|(place, value)| (16 + 8 * place, *value));
    let wanted: Vec<_> = std::iter::once(number).chain(wanted).collect();
    let op = |code, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf, k };
    let mut program = Vec::new();
    for (at, (offset, value)) in wanted.iter().enumerate() {
        // From the comparison to the last operation, which allows.
        let skip = u8::try_from(2 * (wanted.len() - at) - 1).unwrap();
        program.push(op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, *offset));
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, *value));
    }
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(error as i32).unwrap();
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, refuse));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    program
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program =
        libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_ptr().cast_mut() };
    // SAFETY: takes no memory.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the kernel copies the program, which is there.
    Errno::result(unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    })?;
    Ok(())
}

fn hide_proc() -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: takes no memory.
    Errno::result(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the strings end with zero.
    Errno::result(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let tmpfs = c"tmpfs".as_ptr();
    // SAFETY: as above.
    Errno::result(unsafe { libc::mount(tmpfs, c"/proc".as_ptr(), tmpfs, 0, none.cast()) })?;
    Ok(())
}
