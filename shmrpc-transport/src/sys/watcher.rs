//! One thread per process that watches every socket: new peers, control frames, deaths.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::close;
use parking_lot::Mutex;

use self::turn::Turn;
use super::fork::PerProcess;
use super::shortage::{descriptor_limit, explain_thread};

mod turn;

/// Something with a descriptor that becomes readable.
pub(crate) trait Source: Send + Sync {
    /// What to watch.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Reads all there is, or says that there is more. Called on the watcher's thread, so it must not block.
    fn ready(&self) -> Next;
    /// When [`Source::expired`] is due. Asked while the watcher holds its lock: it must not wait for anybody who may
    /// wait for the watcher.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// The deadline has passed. Whoever stays has a later one then, or none.
    fn expired(&self) -> Next {
        Next::Done
    }
}

/// What becomes of a source that was ready.
pub(crate) enum Next {
    Keep,
    /// It goes on at once, after others who want the core.
    More,
    /// It stays, and is not asked again before its deadline, but once if its socket is or goes down.
    Rest,
    /// It has rested long enough.
    Resume,
    Done,
}

/// Names a watched source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

/// The watcher of this process.
pub(crate) struct Watcher {
    /// Whether its thread runs.
    started: AtomicBool,
    /// Held while it is started.
    starting: Mutex<()>,
    epoll: Epoll,
    wake: EventFd,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    by_token: HashMap<Token, Arc<dyn Source>>,
    /// Who is to be called when.
    calls: Vec<(Instant, fn())>,
    last: u64,
}

const WAKE: u64 = 0;

impl Watcher {
    /// The watcher of this process; its thread starts with the first call. A forked child has no threads of its
    /// parent, and gets one of its own.
    pub(crate) fn get() -> io::Result<&'static Self> {
        static ONE: PerProcess<Watcher> = PerProcess::new();
        let watcher = ONE.get(Watcher::new)?;
        if !watcher.started.load(Ordering::Acquire) {
            watcher.start()?;
        }
        Ok(watcher)
    }

    fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        make_room_for_descriptors(&epoll.0);
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (started, starting, sources) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Ok(Self { started, starting, epoll, wake, sources })
    }

    /// Starts the thread, unless somebody was faster. If it cannot be had, the next one who asks tries again.
    fn start(&'static self) -> io::Result<()> {
        let _one = self.starting.lock();
        if self.started.load(Ordering::Acquire) {
            return Ok(());
        }
        let thread = thread::Builder::new().name("shmrpc-watcher".into());
        thread.spawn(|| self.run()).map_err(|error| {
            let text = format!("cannot start the watcher's thread: {}", explain_thread(&error));
            io::Error::new(error.kind(), text)
        })?;
        self.started.store(true, Ordering::Release);
        Ok(())
    }

    /// Watches `source` until it says that it is done.
    pub(crate) fn watch(&self, source: Arc<dyn Source>) -> io::Result<Token> {
        let mut sources = self.sources.lock();
        sources.last += 1;
        let token = Token(sources.last);
        let hurries = source.deadline().is_some();
        self.epoll.add(source.fd(), EpollEvent::new(EpollFlags::EPOLLIN, token.0))?;
        sources.by_token.insert(token, source);
        drop(sources);
        if hurries {
            self.hurry();
        }
        Ok(token)
    }

    /// Calls `whom` at `time`, on the watcher's thread; earlier wishes of the same function are forgotten.
    pub(crate) fn call_at(&self, time: Instant, whom: fn()) {
        let mut sources = self.sources.lock();
        sources.calls.retain(|(_, other)| !core::ptr::fn_addr_eq(*other, whom));
        sources.calls.push((time, whom));
        drop(sources);
        self.hurry();
    }

    /// Says whether `source`, which is watched as `token`, is also ready when its descriptor takes bytes.
    pub(crate) fn watch_room(&self, token: Token, source: &impl AsFd, wanted: bool) {
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, wanted);
        if let Err(error) = self.epoll.modify(source, &mut EpollEvent::new(flags, token.0)) {
            tracing::debug!(%error, "a descriptor was not watched");
        }
    }

    /// Forgets a source.
    pub(crate) fn unwatch(&self, token: Token) {
        let source = self.sources.lock().by_token.remove(&token);
        if let Some(source) = source {
            self.forget(&*source);
        }
    }

    fn forget(&self, source: &dyn Source) {
        if let Err(error) = self.epoll.delete(source.fd()) {
            tracing::debug!(%error, "a descriptor was not watched");
        }
    }

    fn run(&self) {
        let mut events = [EpollEvent::empty(); 64];
        let mut turn = Turn::new();
        loop {
            let timeout = self.expire(&mut turn);
            let count = match turn.without(|| self.epoll.wait(&mut events, timeout)) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "epoll failed; nobody watches for deaths any more");
                    return;
                }
            };
            for event in events.iter().take(count) {
                match event.data() {
                    WAKE => drop(self.wake.read()),
                    token => self.ready_for_a_while(Token(token), &mut turn),
                }
            }
        }
    }

    /// Others have the core in between, and other sources afterwards.
    fn ready_for_a_while(&self, token: Token, turn: &mut Turn) {
        for _ in 0..AT_ONCE {
            let more = self.ready(token);
            turn.end_if_long();
            if !more {
                return;
            }
        }
    }

    /// Returns whether it goes on.
    fn ready(&self, token: Token) -> bool {
        let source = self.sources.lock().by_token.get(&token).cloned();
        let Some(source) = source else { return false };
        let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| source.ready()));
        match next {
            Ok(Next::More) => return true,
            Ok(Next::Keep | Next::Resume) => {}
            // A socket that is down is told of in any case: so once, and not again and again.
            Ok(Next::Rest) => self.ask(&*source, token, EpollFlags::EPOLLET),
            Ok(Next::Done) | Err(_) => self.unwatch(token),
        }
        false
    }

    fn ask(&self, source: &dyn Source, token: Token, what: EpollFlags) {
        if let Err(error) = self.epoll.modify(source.fd(), &mut EpollEvent::new(what, token.0)) {
            tracing::debug!(%error, "a descriptor was not watched");
        }
    }

    /// Tells whoever is late. Returns how long to sleep.
    fn expire(&self, turn: &mut Turn) -> EpollTimeout {
        loop {
            let now = Instant::now();
            let mut sources = self.sources.lock();
            let calls: Vec<_> = sources.calls.extract_if(.., |(time, _)| *time <= now).collect();
            let (mut late, mut next) = (Vec::new(), sources.calls.iter().map(|(time, _)| *time).min());
            for (token, source) in &sources.by_token {
                match source.deadline() {
                    Some(deadline) if deadline <= now => late.push((*token, Arc::clone(source))),
                    Some(deadline) => next = Some(next.map_or(deadline, |next: Instant| next.min(deadline))),
                    None => {}
                }
            }
            drop(sources);
            if late.is_empty() && calls.is_empty() {
                return next.map_or(EpollTimeout::NONE, |next| {
                    let left = next - now + Duration::from_millis(1);
                    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
                });
            }
            for (token, source) in late {
                match source.expired() {
                    Next::Done => self.unwatch(token),
                    Next::Resume => self.ask(&*source, token, EpollFlags::EPOLLIN),
                    Next::Keep | Next::More | Next::Rest => {}
                }
                turn.end_if_long();
            }
            for (_, call) in calls {
                call();
                turn.end_if_long();
            }
        }
    }

    /// A source has a deadline now that it did not have before.
    pub(crate) fn hurry(&self) {
        if let Err(error) = self.wake.write(1) {
            tracing::debug!(%error, "the watcher could not be woken");
        }
    }
}

/// How often one source goes on before the next one's turn.
const AT_ONCE: usize = 32;

/// Descriptors that the table of this process has room for from the start, if it may have as many.
const TABLE: usize = 4096;

/// Lets the kernel's table of our descriptors grow now. When it grows later, with other threads there, whoever needed the next
/// descriptor waits until every core has been out of the kernel (an RCU grace period), which took a watcher more than 250 ms on a busy
/// machine: a peer that sends many descriptors could make it wait several times.
fn make_room_for_descriptors(any: &OwnedFd) {
    let last = descriptor_limit().min(TABLE).saturating_sub(1);
    let Ok(last) = RawFd::try_from(last) else { return };
    match fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(last)).map(close) {
        Ok(Ok(())) => {}
        Ok(Err(errno)) | Err(errno) => {
            tracing::debug!(%errno, "the table of descriptors grows when it has to")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::AtomicU32;

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    /// Always readable. Counts how often it is asked.
    struct Tired {
        event: EventFd,
        asked: AtomicU32,
        until: Mutex<Option<Instant>>,
    }

    impl Source for Tired {
        fn fd(&self) -> BorrowedFd<'_> {
            self.event.as_fd()
        }
        fn ready(&self) -> Next {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Next::Rest
        }
        fn deadline(&self) -> Option<Instant> {
            *self.until.lock()
        }
        fn expired(&self) -> Next {
            *self.until.lock() = None;
            Next::Resume
        }
    }

    /// Says that it was asked, once for each `write`.
    struct Awake {
        event: EventFd,
        asked: Mutex<std::sync::mpsc::Sender<()>>,
    }

    impl Source for Awake {
        fn fd(&self) -> BorrowedFd<'_> {
            self.event.as_fd()
        }
        fn ready(&self) -> Next {
            self.event.read().unwrap();
            self.asked.lock().send(()).unwrap();
            Next::Keep
        }
    }

    /// Never comes to an end.
    struct Endless {
        event: EventFd,
        asked: AtomicU32,
    }

    impl Source for Endless {
        fn fd(&self) -> BorrowedFd<'_> {
            self.event.as_fd()
        }
        fn ready(&self) -> Next {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Next::More
        }
    }

    #[test]
    fn who_never_comes_to_an_end_keeps_nobody_waiting() {
        let watcher = Watcher::get().unwrap();
        let (asked, was_asked) = std::sync::mpsc::channel();
        let awake = Arc::new(Awake { event: EventFd::new().unwrap(), asked: Mutex::new(asked) });
        let other = watcher.watch(Arc::clone(&awake) as Arc<dyn Source>).unwrap();
        let endless = Arc::new(Endless { event: EventFd::from_value(1).unwrap(), asked: AtomicU32::new(0) });
        let token = watcher.watch(Arc::clone(&endless) as Arc<dyn Source>).unwrap();
        let count = || endless.asked.load(Ordering::SeqCst);
        for _ in 0..20 {
            awake.event.write(1).unwrap();
            was_asked.recv_timeout(BOUND).unwrap();
            let (before, end) = (count(), Instant::now() + BOUND);
            while count() < before + 2 * u32::try_from(AT_ONCE).unwrap() {
                assert!(Instant::now() < end, "it does not go on");
                thread::yield_now();
            }
        }
        watcher.unwatch(token);
        watcher.unwatch(other);
    }

    #[test]
    fn the_table_of_descriptors_has_grown_before_it_has_to() {
        Watcher::get().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        assert!(size.trim().parse::<usize>().unwrap() >= descriptor_limit().min(TABLE), "{size}");
    }

    #[test]
    fn who_rests_is_not_asked_before_its_deadline_and_then_again() {
        let watcher = Watcher::get().unwrap();
        let (asked, was_asked) = std::sync::mpsc::channel();
        let awake = Arc::new(Awake { event: EventFd::new().unwrap(), asked: Mutex::new(asked) });
        let other = watcher.watch(Arc::clone(&awake) as Arc<dyn Source>).unwrap();
        let round = || {
            awake.event.write(1).unwrap();
            was_asked.recv_timeout(BOUND).unwrap();
        };
        let event = EventFd::from_value(1).unwrap();
        let tired = Arc::new(Tired { event, asked: AtomicU32::new(0), until: Mutex::default() });
        let token = watcher.watch(Arc::clone(&tired) as Arc<dyn Source>).unwrap();
        for times in 1..4 {
            let end = Instant::now() + BOUND;
            while tired.asked.load(Ordering::SeqCst) < times {
                assert!(Instant::now() < end, "not asked for the {times}. time");
                thread::yield_now();
            }
            (0..20).for_each(|_| round());
            assert_eq!(tired.asked.load(Ordering::SeqCst), times);
            *tired.until.lock() = Some(Instant::now());
            watcher.hurry();
        }
        watcher.unwatch(token);
        watcher.unwatch(other);
    }
}
