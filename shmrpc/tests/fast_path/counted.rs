//! What each thread asks of the allocator, of clocks and of the kernel, counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_long, c_void};
use std::mem::transmute;

use nix::libc;

/// What a thread has asked for so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) allocations: u32,
    pub(crate) clocks: u32,
    pub(crate) yields: u32,
    /// Futexes, and whatever else of the kernel goes through `syscall`.
    pub(crate) kernel: u32,
}

impl Counts {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            allocations: self.allocations - before.allocations,
            clocks: self.clocks - before.clocks,
            yields: self.yields - before.yields,
            kernel: self.kernel - before.kernel,
        }
    }
}

/// What a thread asks for, besides memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Clock,
    Yield,
    /// A sleep on a futex.
    Sleep,
    /// Whatever else of the kernel.
    Kernel,
}

/// What is done before a thread has what it asks for, and after.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hooks {
    pub(crate) before: fn(Event),
    pub(crate) after: fn(Event),
}

thread_local! {
    // They have no destructors, and take no memory when they are first used: an allocator may use them.
    static COUNTS: Cell<Counts> =
        const { Cell::new(Counts { allocations: 0, clocks: 0, yields: 0, kernel: 0 }) };
    static HOOKS: Cell<Hooks> = const { Cell::new(Hooks { before: nothing, after: nothing }) };
}

/// What a hook does by itself.
pub(crate) fn nothing(_: Event) {}

/// Those of this thread.
pub(crate) fn here() -> Counts {
    COUNTS.get()
}

/// From now on on this thread.
pub(crate) fn hook(hooks: Hooks) {
    HOOKS.set(hooks);
}

/// Does something of which nothing is counted, without hooks.
pub(crate) fn apart(what: impl FnOnce()) {
    let (counts, hooks) = (COUNTS.get(), HOOKS.replace(Hooks { before: nothing, after: nothing }));
    what();
    COUNTS.set(counts);
    HOOKS.set(hooks);
}

fn count(what: impl FnOnce(&mut Counts)) {
    let mut counts = COUNTS.get();
    what(&mut counts);
    COUNTS.set(counts);
}

fn counted<T>(event: Event, real: impl FnOnce() -> T) -> T {
    count(|counts| match event {
        Event::Clock => counts.clocks += 1,
        Event::Yield => counts.yields += 1,
        Event::Sleep | Event::Kernel => counts.kernel += 1,
    });
    (HOOKS.get().before)(event);
    let result = real();
    (HOOKS.get().after)(event);
    result
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all of it is the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|counts| counts.allocations += 1);
        // SAFETY: the caller promises what is asked.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller promises what is asked.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(|counts| counts.allocations += 1);
        // SAFETY: the caller promises what is asked.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// The function of this name that the program would have without ours.
fn next(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a string that ends.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?}");
    found
}

// SAFETY: it is what the C library has under this name.
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    // SAFETY: this is the type of the function of this name.
    let real: extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int =
        unsafe { transmute(next(c"clock_gettime")) };
    counted(Event::Clock, || real(clock, time))
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn sched_yield() -> c_int {
    // SAFETY: as above.
    let real: extern "C" fn() -> c_int = unsafe { transmute(next(c"sched_yield")) };
    counted(Event::Yield, || real())
}

// SAFETY: as above. It takes any number of arguments, seven at most, and all of them are passed like these.
#[unsafe(no_mangle)]
extern "C" fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    // SAFETY: as above.
    let real: extern "C" fn(c_long, usize, usize, usize, usize, usize, usize) -> c_long =
        unsafe { transmute(next(c"syscall")) };
    let operation = c_int::try_from(b & 0x7f).unwrap_or_default();
    let sleeps = number == libc::SYS_futex_waitv
        || number == libc::SYS_futex && [libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET].contains(&operation);
    let event = if sleeps { Event::Sleep } else { Event::Kernel };
    counted(event, || real(number, a, b, c, d, e, f))
}
