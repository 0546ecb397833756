//! One thread per process that watches every socket: new peers, control frames, deaths.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

/// Something with a descriptor that becomes readable.
pub(crate) trait Source: Send + Sync {
    /// What to watch.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Reads all there is. Called on the watcher's thread, so it must not block.
    fn ready(&self) -> Next;
    /// When to give up on it.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// The deadline has passed; the source is forgotten.
    fn expired(&self) {}
}

/// What becomes of a source that was ready.
pub(crate) enum Next {
    Keep,
    Done,
}

/// Names a watched source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

/// The watcher of this process.
pub(crate) struct Watcher {
    epoll: Epoll,
    wake: EventFd,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    by_token: HashMap<Token, Arc<dyn Source>>,
    last: u64,
}

const WAKE: u64 = 0;

impl Watcher {
    /// The watcher of this process; its thread starts with the first call.
    pub(crate) fn get() -> io::Result<&'static Self> {
        static WATCHER: OnceLock<Watcher> = OnceLock::new();
        static START: Mutex<()> = Mutex::new(());
        if let Some(watcher) = WATCHER.get() {
            return Ok(watcher);
        }
        let _one = START.lock();
        if let Some(watcher) = WATCHER.get() {
            return Ok(watcher);
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let watcher = WATCHER.get_or_init(|| Self { epoll, wake, sources: Mutex::default() });
        std::thread::Builder::new().name("shmrpc-watcher".into()).spawn(|| watcher.run())?;
        Ok(watcher)
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
            self.wake.write(1)?;
        }
        Ok(token)
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
        loop {
            let count = match self.epoll.wait(&mut events, self.expire(Instant::now())) {
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
                    token => self.ready(Token(token)),
                }
            }
        }
    }

    fn ready(&self, token: Token) {
        let source = self.sources.lock().by_token.get(&token).cloned();
        let Some(source) = source else { return };
        let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| source.ready()));
        match next {
            Ok(Next::Keep) => {}
            Ok(Next::Done) | Err(_) => self.unwatch(token),
        }
    }

    /// Gives up on whoever is late. Returns how long to sleep.
    fn expire(&self, now: Instant) -> EpollTimeout {
        let mut late = Vec::new();
        let mut next: Option<Duration> = None;
        for (token, source) in &self.sources.lock().by_token {
            match source.deadline() {
                Some(deadline) if deadline <= now => late.push(*token),
                Some(deadline) => {
                    let left = deadline - now;
                    next = Some(next.map_or(left, |next| next.min(left)));
                }
                None => {}
            }
        }
        for token in late {
            let source = self.sources.lock().by_token.remove(&token);
            if let Some(source) = source {
                self.forget(&*source);
                source.expired();
            }
        }
        next.map_or(EpollTimeout::NONE, |left| {
            EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
        })
    }
}
