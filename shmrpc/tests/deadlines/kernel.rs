//! A kernel without `futex_waitv`, for this thread and those that it starts.

use nix::errno::Errno;
use nix::libc;

/// From now on `futex_waitv` is what it was before Linux 5.16: not there. For processes that a test started for this.
pub(crate) fn forget_waitv() {
    let missing = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::ENOSYS).unwrap();
    let number = u32::try_from(libc::SYS_futex_waitv).unwrap();
    let code = |part: u32| u16::try_from(part).unwrap();
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        // The number of the system call is the first word.
        step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, 0),
        step(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, number),
        step(code(libc::BPF_RET | libc::BPF_K), 0, 0, missing),
        step(code(libc::BPF_RET | libc::BPF_K), 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len().try_into().unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: the flag concerns this thread alone; nothing is read.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", Errno::last());
    let filter = core::ptr::from_ref(&filter);
    // SAFETY: the kernel copies the program, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, filter) };
    assert_eq!(result, 0, "{}", Errno::last());
    assert!(!has_waitv());
}

/// Whether the kernel has `futex_waitv`, for this thread.
fn has_waitv() -> bool {
    // SAFETY: an empty list is refused before anything is read.
    let result = unsafe { libc::syscall(libc::SYS_futex_waitv, core::ptr::null::<u8>(), 0, 0, 0, 0) };
    assert_eq!(result, -1);
    Errno::last() != Errno::ENOSYS
}
