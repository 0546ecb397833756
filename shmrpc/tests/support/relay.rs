//! Somebody on the way between a client and a server, who sees all bytes and has no key.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::until;

pub(crate) struct Relay {
    scheme: String,
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    to: u16,
    /// Connections that are still to be cut in the middle of the handshake.
    cuts: u32,
    links: Vec<Link>,
    /// The first link that carries nothing now, towards the client and towards the server.
    holds: [Option<usize>; 2],
    /// Pieces that wait meanwhile.
    held: usize,
    spoils: bool,
    trickles: bool,
}

/// One connection on its way.
struct Link {
    near: TcpStream,
    far: TcpStream,
    /// Whether the client has ended it.
    ended: bool,
}

impl Relay {
    /// Leads to `endpoint`, which is `tcp:` or `tls:`.
    pub(crate) fn to(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = endpoint.split(':').next().unwrap().to_owned();
        let this = Self { scheme, port, shared: Arc::default() };
        this.leads_to(endpoint);
        let shared = Arc::clone(&this.shared);
        std::thread::spawn(move || {
            for mut near in listener.incoming().map(Result::unwrap) {
                let this = &shared;
                let to = this.state.lock().unwrap().to;
                if this.cuts_this_one() {
                    let _ = near.read(&mut [0; 100]);
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { return };
                let again = |socket: &TcpStream| socket.try_clone().unwrap();
                let links = &mut this.state.lock().unwrap().links;
                let number = links.len();
                links.push(Link { near: again(&near), far: again(&far), ended: false });
                for (from, to, up) in [(again(&near), again(&far), true), (far, near, false)] {
                    let this = Arc::clone(this);
                    std::thread::spawn(move || this.carry(number, from, to, up));
                }
            }
        });
        this
    }

    /// Where it leads from now on.
    pub(crate) fn leads_to(&self, endpoint: &str) {
        self.shared.state.lock().unwrap().to = endpoint.rsplit(':').next().unwrap().parse().unwrap();
    }

    /// So many further connections are cut in the middle of the handshake.
    pub(crate) fn cut(&self, next: u32) {
        self.shared.state.lock().unwrap().cuts = next;
    }

    /// How many of them are still to come.
    pub(crate) fn to_cut(&self) -> u32 {
        self.shared.state.lock().unwrap().cuts
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}:127.0.0.1:{}", self.scheme, self.port)
    }

    /// Ends all connections as whoever has no more to say does.
    pub(crate) fn end_all(&self) {
        for link in &self.shared.state.lock().unwrap().links {
            let _ = link.near.shutdown(Shutdown::Both);
            let _ = link.far.shutdown(Shutdown::Both);
        }
    }

    /// Tells the client of one connection, the first is 0, that its server has no more to say.
    pub(crate) fn end_towards_client(&self, number: usize) {
        let _ = self.shared.state.lock().unwrap().links[number].near.shutdown(Shutdown::Write);
    }

    /// Waits until the client has ended that connection.
    pub(crate) fn until_client_ends(&self, number: usize) {
        until("the client ends a connection", || self.shared.state.lock().unwrap().links[number].ended);
    }

    /// Carries nothing until [`Relay::release`], on this connection and those that came later.
    pub(crate) fn hold_from(&self, number: usize) {
        self.shared.state.lock().unwrap().holds = [Some(number); 2];
    }

    /// The same towards the client only.
    pub(crate) fn hold_answers_from(&self, number: usize) {
        self.shared.state.lock().unwrap().holds = [Some(number), None];
    }

    /// Waits until so many pieces lie here.
    pub(crate) fn until_held(&self, pieces: usize) {
        until("something is held", || self.shared.state.lock().unwrap().held >= pieces);
    }

    pub(crate) fn release(&self) {
        self.shared.state.lock().unwrap().holds = [None; 2];
        self.shared.changed.notify_all();
    }

    /// From now on bytes go to the client one by one, and slowly.
    pub(crate) fn trickle(&self) {
        self.shared.state.lock().unwrap().trickles = true;
    }

    /// Changes the last byte of whatever comes next.
    pub(crate) fn spoil(&self) {
        self.shared.state.lock().unwrap().spoils = true;
    }
}

impl Shared {
    fn cuts_this_one(&self) -> bool {
        let cuts = &mut self.state.lock().unwrap().cuts;
        let this_one = *cuts > 0;
        *cuts = cuts.saturating_sub(1);
        this_one
    }

    /// Carries what comes on one way of a link; `up` is towards the server.
    fn carry(&self, number: usize, mut from: TcpStream, mut to: TcpStream, up: bool) {
        let mut piece = [0; 4096];
        loop {
            let count = from.read(&mut piece).unwrap_or(0);
            let mut state = self.state.lock().unwrap();
            if count == 0 && up {
                state.links[number].ended = true;
            }
            state.held += 1;
            let holds = |state: &mut State| state.holds[usize::from(up)].is_some_and(|first| number >= first);
            let mut state = self.changed.wait_while(state, holds).unwrap();
            state.held -= 1;
            if count == 0 {
                break;
            }
            if std::mem::take(&mut state.spoils) {
                piece[count - 1] ^= 1;
            }
            let size = if state.trickles && !up { 1 } else { count };
            drop(state);
            let sent = piece[..count].chunks(size).all(|part| {
                // So long that a record takes many times what a call may.
                std::thread::sleep(if size == count { Duration::ZERO } else { Duration::from_millis(2) });
                to.write_all(part).is_ok()
            });
            if !sent {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.release();
        self.end_all();
        // The thread that lets in finds nobody to connect to, or the end of the process.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
