//! Ends a process before or after its N-th system call, counted over all of its threads.

use std::fs;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::skipped;

/// Follows all threads of the process `pid` from now on, and kills it at the system-call stop number `at`: entries and
/// exits are counted, from 1. The thread ends when the process is about to. `None` if the machine forbids it.
pub(crate) fn follow(pid: u32, at: u64) -> Option<JoinHandle<()>> {
    let (attached, is_attached) = channel();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    // A tracer is a thread: its tracees are free again when it ends.
    let tracer = thread::spawn(move || {
        let seized = seize(pid);
        let go_on = seized.is_ok();
        attached.send(seized).unwrap();
        if go_on {
            run(pid, at);
        }
    });
    match is_attached.recv().unwrap() {
        Ok(()) => Some(tracer),
        Err(error) => {
            skipped(&format!("system calls cannot be followed here (ptrace: {error})"));
            tracer.join().unwrap();
            None
        }
    }
}

fn seize(pid: Pid) -> Result<(), Errno> {
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXIT
        | Options::PTRACE_O_EXITKILL;
    for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread: i32 = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, options)?;
        ptrace::interrupt(thread)?;
    }
    Ok(())
}

fn run(pid: Pid, at: u64) {
    let mut count = 0;
    loop {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        // A thread that was killed meanwhile cannot be told to go on; its end comes next.
        let _gone = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                count += 1;
                if count == at {
                    kill(pid, Signal::SIGKILL).unwrap();
                    return;
                }
                ptrace::syscall(thread, None)
            }
            Ok(WaitStatus::PtraceEvent(thread, _, event)) => {
                if event == ptrace::Event::PTRACE_EVENT_EXIT as i32 && thread == pid {
                    return;
                }
                ptrace::syscall(thread, None)
            }
            Ok(WaitStatus::Stopped(thread, signal)) => ptrace::syscall(thread, signal),
            Ok(_) => Ok(()),
            Err(_) => return,
        };
    }
}
