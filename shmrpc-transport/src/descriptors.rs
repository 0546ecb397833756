//! Descriptors that came with messages: those of one message, and how many may wait until somebody takes them.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rkyv::{Archive, Deserialize, Serialize};

use crate::message::Recheck;
use crate::peers::Party;
use crate::places::{Limit, Place, Places};
use crate::slot::DESCRIPTORS_MAX;
use crate::sys::beside::LOST;
use crate::sys::closing::Foreign;
use crate::sys::fork::PerProcess;
use crate::sys::shortage::descriptor_limit;

/// What stands for a descriptor in a message: its place among those that come with it.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub struct Nth(pub u32);

/// It is any number, and compared with those that came.
impl Recheck for ArchivedNth {}

/// What came with one message, in the order in which it was sent. What nobody takes is closed.
#[derive(Debug, Default)]
pub struct Descriptors(Option<Box<All>>);

/// Apart, so that what has none is one word on the way of each call.
type All = Vec<One>;

#[derive(Debug)]
enum One {
    /// Nobody has taken it.
    Here(Passed),
    Taken,
    /// Too many were here already. It is closed.
    Lost,
}

/// A descriptor that came, and its place among those that wait.
#[derive(Debug)]
struct Passed {
    fd: Foreign,
    /// None inside one process, where nothing comes from a peer.
    _place: Option<Place>,
}

/// What a peer did with descriptors that no correct peer does, or what this process has too few of.
#[derive(Debug, thiserror::Error)]
pub enum BadDescriptors {
    /// They belong to nothing.
    #[error("descriptors came beside frames that want none")]
    Unwanted,
    /// It is not what was announced.
    #[error("{found} descriptors came with a message that announces {announced}")]
    Number {
        /// Those that came.
        found: usize,
        /// Those that the header counts.
        announced: usize,
    },
    /// They belong to another message of the lane.
    #[error("descriptors of call {found} came where those of call {expected} were due")]
    CallId {
        /// Whose they are.
        found: u32,
        /// Whose they should be.
        expected: u32,
    },
    /// This process has no descriptor left.
    #[error("{LOST}")]
    Lost,
    /// So many that came before are not closed yet, because their sender makes closing them take long.
    #[error("{0} descriptors that your process sent, and that nobody wants, cannot be closed yet")]
    Owed(usize),
}

impl BadDescriptors {
    /// Whether it is this process that lacks something.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Lost)
    }
}

impl Descriptors {
    fn new(all: All) -> Self {
        Self((!all.is_empty()).then(|| Box::new(all)))
    }

    /// Those that came from a process, as far as it may have so many here.
    pub(crate) fn admit(party: Party, came: impl IntoIterator<Item = Foreign>) -> Self {
        let mut all = Self::default();
        all.add(party, came);
        all
    }

    /// The same for more of them.
    pub(crate) fn add(&mut self, party: Party, came: impl IntoIterator<Item = Foreign>) {
        let mut came = came.into_iter().peekable();
        if came.peek().is_none() {
            return;
        }
        let share = share();
        self.0.get_or_insert_default().extend(came.map(|fd| match share.take(party, "descriptors wait") {
            Ok(place) => One::Here(Passed { fd, _place: Some(place) }),
            Err(_) => One::Lost,
        }));
    }

    /// Those that came from this process itself.
    pub(crate) fn own(fds: impl IntoIterator<Item = OwnedFd>) -> Self {
        let here = |fd| One::Here(Passed { fd: Foreign::new(fd, Party::own()), _place: None });
        Self::new(fds.into_iter().map(here).collect())
    }

    /// Takes the first `count` off.
    pub(crate) fn split_off(&mut self, count: usize) -> Self {
        let first = self.0.as_mut().map(|all| all.drain(..count.min(all.len())).collect());
        Self::new(first.unwrap_or_default())
    }

    /// How many there are, taken ones too.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }

    /// Whether none came.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why some of them are not here, if that is so.
    pub fn lost(&self) -> Option<String> {
        self.0.iter().flat_map(|all| all.iter()).any(|one| matches!(one, One::Lost)).then(|| {
            let Limit { of_all, of_one } = limit();
            format!(
                "{of_one} descriptors of one peer, or {of_all} of all, wait here to be taken already; send fewer at once, \
                 or raise the limit on descriptors (ulimit -n, LimitNOFILE=)"
            )
        })
    }

    /// The one that `at` names, once.
    pub fn take(&mut self, at: &ArchivedNth) -> Option<OwnedFd> {
        match std::mem::replace(self.0.as_mut()?.get_mut(at.0.to_native() as usize)?, One::Taken) {
            One::Here(passed) => passed.fd.keep(),
            One::Taken | One::Lost => None,
        }
    }

    /// The one that came, if it is the only one.
    pub(crate) fn only(mut self) -> Option<OwnedFd> {
        if self.len() == 1 { self.take(&ArchivedNth(0.into())) } else { None }
    }

    /// Closes those that nobody took.
    #[inline(always)]
    pub fn clear(&mut self) {
        if self.0.is_some() {
            self.0 = None;
        }
    }
}

/// An eighth of what this process may have, and half of that for one peer; one whole message of each of two in any case.
fn limit() -> Limit {
    let of_all = (descriptor_limit() / 8).max(2 * DESCRIPTORS_MAX);
    Limit::new(of_all, Some(of_all / 2))
}

/// Of all that wait in this process.
fn share() -> &'static Arc<Places> {
    static ONE: PerProcess<Arc<Places>> = PerProcess::new();
    let Ok(share) = ONE.get(|| Ok::<_, Infallible>(Places::new(limit())));
    share
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::peers::PeerCredentials;

    fn pipes(count: usize) -> (Vec<std::io::PipeReader>, Vec<Foreign>) {
        let pipes = (0..count).map(|_| std::io::pipe().unwrap());
        pipes.map(|(reader, writer)| (reader, Foreign::new(writer.into(), Party::own()))).unzip()
    }

    #[test]
    fn what_is_taken_is_not_closed_and_what_is_not_is() {
        let (mut readers, writers) = pipes(2);
        let party = Party::new(&PeerCredentials::own(), None);
        let mut came = Descriptors::admit(party, writers);
        let nth = |at: u32| ArchivedNth(at.into());
        let taken = came.take(&nth(0)).unwrap();
        assert!(came.take(&nth(0)).is_none() && came.take(&nth(2)).is_none());
        assert_eq!((came.len(), came.lost()), (2, None));
        came.clear();
        assert_eq!(readers[1].read(&mut [0]).unwrap(), 0, "it has no writer left");
        std::io::Write::write_all(&mut std::fs::File::from(taken), b"x").unwrap();
        assert_eq!(readers[0].read(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn too_many_of_one_peer_are_closed_and_said_to_be() {
        // No process has this number, so nobody else counts for it.
        let party = Party::new(&PeerCredentials { pid: Some(i32::MAX), ..PeerCredentials::own() }, None);
        let (mut readers, writers) = pipes(1);
        let most = limit().of_one;
        let nothing = std::fs::File::open("/dev/null").unwrap();
        // Those that are not closed yet count too, and whoever owes so many is not listened to.
        let many = (0..most).map(|_| Foreign::new(nothing.try_clone().unwrap().into(), party));
        let waiting = Descriptors::admit(party, many);
        assert_eq!(waiting.lost(), None);
        let mut more = Descriptors::admit(party, writers);
        assert!(more.lost().unwrap().contains(&most.to_string()));
        assert!(more.take(&ArchivedNth(0.into())).is_none());
        assert_eq!(readers[0].read(&mut [0]).unwrap(), 0, "it has no writer left");
        drop(waiting);
        assert_eq!(Descriptors::admit(party, [Foreign::new(nothing.into(), Party::own())]).lost(), None);
    }
}
