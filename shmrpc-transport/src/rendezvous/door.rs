//! A listening socket, as the watcher sees it: whoever comes is let in, or told why not.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::sys::shortage::{explain, lacks_descriptors};
use crate::sys::watcher::{Next, Source};

/// How long nobody is let in when not even the spare descriptor is left.
const REST: Duration = Duration::from_millis(100);

/// What is behind a door: some kind of socket.
pub(super) trait Entrance: Send + Sync {
    /// A peer that has connected.
    type Peer;
    fn socket(&self) -> BorrowedFd<'_>;
    fn accept(&self) -> io::Result<Self::Peer>;
    /// It may say hello, or is turned away.
    fn let_in(&self, peer: Self::Peer);
    /// It is told why not.
    fn turn_away(&self, peer: Self::Peer, reason: &str);
}

pub(super) struct Door<E> {
    entrance: E,
    /// Given up for a moment when there is no other, to tell a peer why it is not let in.
    spare: Mutex<Option<OwnedFd>>,
    rests_until: Mutex<Option<Instant>>,
}

fn spare_descriptor() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}

/// Opens the spare descriptor again. It is an error if there is none to be had: until there is one nobody is let in, who
/// would take its place, and could not be told anything.
fn regain(spare: &mut Option<OwnedFd>) -> io::Result<()> {
    if spare.is_none() {
        match spare_descriptor() {
            Err(error) if lacks_descriptors(&error) => return Err(error),
            opened => *spare = opened.ok(),
        }
    }
    Ok(())
}

impl<E: Entrance> Door<E> {
    pub(super) fn new(entrance: E) -> io::Result<Self> {
        let spare = Mutex::new(Some(spare_descriptor()?));
        Ok(Self { entrance, spare, rests_until: Mutex::default() })
    }

    /// Tells the next peer why it is not let in, if what is lacking is a descriptor; else the error stays.
    fn turn_away(&self, error: io::Error) -> io::Result<()> {
        let mut spare = self.spare.lock();
        if !lacks_descriptors(&error) || spare.take().is_none() {
            return Err(error);
        }
        let reason = no_descriptor(&error);
        let turned = self.entrance.accept().map(|peer| {
            tracing::warn!(reason, "a peer was turned away");
            self.entrance.turn_away(peer, &reason);
        });
        // What the peer had sent is closed elsewhere, and with it the socket, which may take a while.
        regain(&mut spare)?;
        turned
    }
}

/// Why a peer is not let in that takes one descriptor more than there is.
pub(super) fn no_descriptor(error: &io::Error) -> String {
    format!("it cannot take another connection: {}", explain(error))
}

impl<E: Entrance> Source for Door<E> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.entrance.socket()
    }

    fn deadline(&self) -> Option<Instant> {
        *self.rests_until.lock()
    }

    fn expired(&self) -> Next {
        let lacking = regain(&mut self.spare.lock()).is_err();
        *self.rests_until.lock() = lacking.then(|| Instant::now() + REST);
        if lacking { Next::Rest } else { Next::Resume }
    }

    fn ready(&self) -> Next {
        let let_in = match self.entrance.accept() {
            Ok(peer) => {
                self.entrance.let_in(peer);
                Ok(())
            }
            Err(error) => self.turn_away(error),
        };
        match let_in {
            Ok(()) => Next::More,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Keep,
            // Whoever it was has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Next::More,
            Err(error) => {
                // The rest stays in the backlog for a while, and nobody spins on it.
                tracing::warn!(error = explain(&error), "cannot accept peers");
                *self.rests_until.lock() = Some(Instant::now() + REST);
                Next::Rest
            }
        }
    }
}
