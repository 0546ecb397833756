//! A barrier that reaches every thread of this process, so that a hot path on the other side needs none.

#[cfg(not(loom))]
pub(crate) use self::kernel::{everywhere, here};
#[cfg(loom)]
pub(crate) use self::model::{everywhere, here};

#[cfg(not(loom))]
mod kernel {
    use std::sync::atomic::{Ordering, compiler_fence, fence};

    use nix::libc;

    use crate::sys::fork::AtLeastOnce;

    /// `MEMBARRIER_CMD_PRIVATE_EXPEDITED` and its registration (linux/membarrier.h).
    const EXPEDITED: i32 = 1 << 3;
    const REGISTER: i32 = 1 << 4;

    /// Every thread of this process passes a full barrier before this returns: what it stored before is visible to
    /// everybody, and what it loads afterwards sees what the caller stored before the call.
    pub(crate) fn everywhere() {
        static REGISTERED: AtLeastOnce = AtLeastOnce::new();
        REGISTERED.run(|| {
            membarrier(REGISTER);
        });
        fence(Ordering::SeqCst);
        if !membarrier(EXPEDITED) {
            tracing::warn!(
                "the kernel refuses membarrier; a call that ends with its connection may be reported too early"
            );
        }
    }

    /// The hot side's place between "write mine" and "read theirs"; partner: [`everywhere`].
    #[inline(always)]
    pub(crate) fn here() {
        compiler_fence(Ordering::SeqCst);
    }

    fn membarrier(command: i32) -> bool {
        // SAFETY: the call takes no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_kernel_knows_it() {
            super::everywhere();
            assert!(super::membarrier(super::EXPEDITED));
        }
    }
}

#[cfg(loom)]
mod model {
    use crate::sync::fence_seq_cst;

    /// What the barrier is worth to the thread that asks for it.
    pub(crate) fn everywhere() {
        fence_seq_cst();
    }

    /// What the barrier is worth to a thread that it reaches.
    pub(crate) fn here() {
        fence_seq_cst();
    }
}
