//! Somebody on the way, who sees all bytes and has no key.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::raw::port;

pub(crate) struct Relay {
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
    sockets: Vec<TcpStream>,
    holds: bool,
    spoils: bool,
}

impl Relay {
    pub(crate) fn to(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self { port: listener.local_addr().unwrap().port(), shared: Arc::default() };
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
                this.state.lock().unwrap().sockets.extend([again(&near), again(&far)]);
                for (from, to) in [(again(&near), again(&far)), (far, near)] {
                    let this = Arc::clone(this);
                    std::thread::spawn(move || this.carry(from, to));
                }
            }
        });
        this
    }

    /// Where it leads from now on.
    pub(crate) fn leads_to(&self, endpoint: &str) {
        self.shared.state.lock().unwrap().to = port(endpoint);
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
        format!("tls:127.0.0.1:{}", self.port)
    }

    /// Ends all connections as whoever has no more to say does.
    pub(crate) fn end_all(&self) {
        for socket in self.shared.state.lock().unwrap().sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Carries nothing until [`Relay::release`].
    pub(crate) fn hold(&self) {
        self.shared.state.lock().unwrap().holds = true;
    }

    pub(crate) fn release(&self) {
        self.shared.state.lock().unwrap().holds = false;
        self.shared.changed.notify_all();
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

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            let mut state = self.changed.wait_while(self.state.lock().unwrap(), |state| state.holds).unwrap();
            if std::mem::take(&mut state.spoils) {
                piece[count - 1] ^= 1;
            }
            drop(state);
            if to.write_all(&piece[..count]).is_err() {
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
