//! The line between two hosts: packets are taken from one, and come to the other later, or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

/// A network device whose packets this process reads and writes.
pub(crate) struct Tun(File);

impl Tun {
    pub(crate) const NAME: &str = "line";

    /// In the namespace of this thread.
    pub(crate) fn new() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: all zero is a value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(Self::NAME.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the kernel reads and writes a request that is ours for as long as the call takes.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if made == 0 { Ok(Self(file)) } else { Err(io::Error::last_os_error()) }
    }
}

/// What the line does.
#[derive(Default)]
struct State {
    cut: AtomicBool,
    /// Of each packet, in ns.
    delay: AtomicU64,
    /// Of 1,000 packets.
    lossy: AtomicU64,
    lost: AtomicU64,
}

/// Both directions. Ends with the process.
#[derive(Clone, Default)]
pub(crate) struct Line(Arc<State>);

impl Line {
    pub(crate) fn connect(&self, near: Tun, far: Tun) -> io::Result<()> {
        for (from, to) in [(near.0.try_clone()?, far.0.try_clone()?), (far.0, near.0)] {
            let (send, sent) = channel();
            let state = Arc::clone(&self.0);
            thread::spawn(move || take(from, &state, |at, packet| send.send((at, packet)).is_ok()));
            thread::spawn(move || deliver(&sent, to));
        }
        Ok(())
    }

    /// From now on each packet takes `delay`, and `lossy` of 1,000 get lost.
    pub(crate) fn shape(&self, delay: Duration, lossy: u64) {
        self.0.delay.store(delay.as_nanos() as u64, Ordering::SeqCst);
        self.0.lossy.store(lossy, Ordering::SeqCst);
    }

    /// Nothing gets through.
    pub(crate) fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn mend(&self) {
        self.0.cut.store(false, Ordering::SeqCst);
    }

    /// Packets that did not arrive.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::SeqCst)
    }
}

/// Takes packets from one host, and says when each is to arrive.
fn take(mut from: File, state: &State, mut send: impl FnMut(Instant, Vec<u8>) -> bool) {
    let mut packet = [0; 1 << 16];
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    while let Ok(length) = from.read(&mut packet) {
        // Marsaglia's xorshift: the same packets are lost each time.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        if state.cut.load(Ordering::SeqCst) || dice % 1000 < state.lossy.load(Ordering::SeqCst) {
            state.lost.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let at = Instant::now() + Duration::from_nanos(state.delay.load(Ordering::SeqCst));
        if !send(at, packet[..length].to_vec()) {
            return;
        }
    }
}

/// Gives packets to the other host when it is their time.
fn deliver(sent: &Receiver<(Instant, Vec<u8>)>, mut to: File) {
    for (at, packet) in sent {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        // A host that takes no more loses it, as it would elsewhere.
        let _ = to.write(&packet);
    }
}
