//! One TCP connection under TLS: the socket, and the session that encrypts for it.
//!
//! Two locks. `incoming` is held by the one thread that receives, while it waits for the socket, too. `session` is held only
//! while bytes are encrypted or decrypted and the socket takes what it takes at once; nobody waits behind it. So any
//! thread may send, and end the link, while another one waits to receive.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, recv, sendmsg, shutdown};
use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError, Connection, Error};

use super::Broken;

/// Bytes that are taken from the socket at once: a whole record.
const ROOM: usize = 17 << 10;
/// The first bytes of the records of TLS (RFC 8446, 5.1).
const RECORDS: std::ops::RangeInclusive<u8> = 20..=23;

/// One end.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    incoming: Mutex<Incoming>,
    session: Mutex<Connection>,
    /// Whether this side wants to receive no more. Then an end is no cut.
    deaf: AtomicBool,
}

/// Bytes from the socket that the session has not taken.
#[derive(Debug)]
struct Incoming {
    bytes: Box<[u8; ROOM]>,
    start: usize,
    end: usize,
    begun: bool,
    /// What is wrong with bytes that came after good ones.
    broken: Option<Broken>,
}

impl Incoming {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

impl Link {
    pub(super) fn new(stream: TcpStream, session: Connection) -> Self {
        let incoming = Incoming { bytes: Box::new([0; ROOM]), start: 0, end: 0, begun: false, broken: None };
        let (incoming, session) = (Mutex::new(incoming), Mutex::new(session));
        Self { stream, incoming, session, deaf: AtomicBool::new(false) }
    }

    /// Goes on with the handshake, as far as one read leads. False if the socket has to be waited for.
    pub(crate) fn shake_hands(&self) -> Result<bool, Broken> {
        let mut incoming = self.incoming.lock();
        self.write_out(&mut self.session.lock())?;
        if incoming.rest().is_empty() && self.session.lock().is_handshaking() {
            self.fill(&mut incoming, MsgFlags::MSG_DONTWAIT)?;
        }
        let mut session = self.session.lock();
        while session.is_handshaking() && !incoming.rest().is_empty() {
            self.digest(&mut session, &mut incoming)?;
        }
        Ok(self.write_out(&mut session)? && !session.is_handshaking())
    }

    /// Whether this side, a server, has said something in the handshake.
    pub(crate) fn has_answered(&self) -> bool {
        self.session.lock().protocol_version().is_some()
    }

    /// What the other end has shown of itself: its own certificate, as DER.
    pub(crate) fn certificate(&self) -> Option<Arc<[u8]>> {
        let session = self.session.lock();
        session.peer_certificates()?.first().map(|own| Arc::from(own.as_ref()))
    }

    /// What the socket is to be waited for.
    pub(crate) fn wanted(&self) -> PollFlags {
        let waits = self.session.lock().wants_write();
        if waits { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Encrypts some of `bytes`, and sends what the socket takes. Returns how many will go, now or with a
    /// [`flush`](Self::flush): none while earlier ones wait.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut session = self.session.lock();
        if !self.write_out(&mut session)? {
            return Ok(0);
        }
        let taken = session.writer().write(bytes)?;
        self.write_out(&mut session)?;
        Ok(taken)
    }

    /// Sends what waits. False if the socket did not take all of it.
    pub(crate) fn flush(&self) -> Result<bool, Broken> {
        self.write_out(&mut self.session.lock())
    }

    /// Receives some bytes, at least one; zero at the end. Waits as long as the socket's own limit says, or with `now` not at
    /// all; `None` if that brought none. The socket is read once: what arrives there piece by piece, or says nothing to us, would keep
    /// whoever reads for as long as it comes.
    pub(crate) fn receive(&self, room: &mut [u8], now: bool) -> Result<Option<usize>, Broken> {
        let mut incoming = self.incoming.lock();
        let mut session = self.session.lock();
        if let Some(received) = self.decrypt(&mut session, &mut incoming, room)? {
            return Ok(Some(received));
        }
        // What the socket says to this is found when it is read.
        let waits = !self.write_out(&mut session).unwrap_or(true);
        drop(session);
        let flags = if now || waits { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        match self.fill(&mut incoming, flags) {
            Ok(true) => self.decrypt(&mut self.session.lock(), &mut incoming, room),
            Ok(false) => Ok(None),
            Err(Broken::Cut) if self.deaf.load(Ordering::Relaxed) => Ok(Some(0)),
            Err(broken) => Err(broken),
        }
    }

    /// Receives what one read brings, all of it, so that nothing is left here that makes no descriptor readable. Waits for
    /// nothing: then `None`. Zero at the end.
    pub(crate) fn receive_all(&self, bytes: &mut Vec<u8>) -> Result<Option<usize>, Broken> {
        let mut piece = [0; 4096];
        let before = bytes.len();
        let mut received = self.receive(&mut piece, true)?;
        let mut incoming = self.incoming.lock();
        let mut session = self.session.lock();
        loop {
            match received {
                Some(count @ 1..) => bytes.extend_from_slice(piece.get(..count).unwrap_or_default()),
                // What came before an end or an error counts, and the next one finds it.
                end => return Ok(if bytes.len() > before { Some(bytes.len() - before) } else { end }),
            }
            received = self.decrypt(&mut session, &mut incoming, &mut piece).unwrap_or_else(|broken| {
                incoming.broken = Some(broken);
                None
            });
        }
    }

    /// Bytes without TLS, for an end that speaks none.
    pub(crate) fn say_plainly(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.stream).write_all(bytes)
    }

    /// This side wants to receive no more: from now on an end is no cut.
    pub(crate) fn turn_deaf(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// Ends one or both directions. Whoever is at the other end is told first, if the socket takes it now.
    pub(crate) fn shut(&self, how: Shutdown) {
        let mut told = true;
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            let mut session = self.session.lock();
            session.send_close_notify();
            told = self.write_out(&mut session).unwrap_or(true);
        }
        // With what waits still to go, the socket stays open for it.
        if !told && how == Shutdown::Write {
            return;
        }
        if let Err(error) = shutdown(self.stream.as_raw_fd(), how) {
            tracing::trace!(%error, "the link was down already");
        }
    }

    /// What the session has for us: bytes, zero at the end, `None` if it needs more.
    fn decrypt(
        &self,
        session: &mut Connection,
        incoming: &mut Incoming,
        room: &mut [u8],
    ) -> Result<Option<usize>, Broken> {
        loop {
            match session.reader().read(room) {
                Ok(received) => return Ok(Some(received)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(broken) = incoming.broken.take() {
                return Err(broken);
            }
            if incoming.rest().is_empty() {
                return Ok(None);
            }
            self.digest(session, incoming)?;
        }
    }

    /// The session takes some of what has arrived.
    fn digest(&self, session: &mut Connection, incoming: &mut Incoming) -> Result<(), Broken> {
        let taken = session.read_tls(&mut incoming.rest())?;
        if taken == 0 {
            return Err(Broken::Cut);
        }
        incoming.start += taken;
        if let Err(error) = session.process_new_packets() {
            // What the other end did wrong, it is told.
            if let Err(error) = self.write_out(session) {
                tracing::debug!(%error, "the other end was not told");
            }
            return Err(explain(&error));
        }
        Ok(())
    }

    /// Reads from the socket. False if nothing is there.
    fn fill(&self, incoming: &mut Incoming, flags: MsgFlags) -> Result<bool, Broken> {
        loop {
            let received = match recv(self.stream.as_raw_fd(), incoming.bytes.as_mut_slice(), flags) {
                Ok(0) | Err(Errno::ECONNRESET) => return Err(Broken::Cut),
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Ok(false),
                Err(errno) => return Err(Broken::System(errno.into())),
            };
            (incoming.start, incoming.end) = (0, received);
            let begun = std::mem::replace(&mut incoming.begun, true);
            return match incoming.bytes.first() {
                Some(first) if !begun && !RECORDS.contains(first) => Err(Broken::Plain),
                _ => Ok(true),
            };
        }
    }

    /// Sends what is encrypted. False if the socket did not take all of it.
    fn write_out(&self, session: &mut Connection) -> Result<bool, Broken> {
        while session.wants_write() {
            match session.write_tls(&mut Out(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error)
                    if matches!(error.raw_os_error(), Some(nix::libc::EPIPE | nix::libc::ECONNRESET)) =>
                {
                    return Err(Broken::Cut);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Where records go: into the socket, as much as it takes at once.
struct Out<'a>(&'a TcpStream);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), parts, &[], flags, None) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What rustls says, in words that help.
pub(super) fn explain(error: &Error) -> Broken {
    match unfit(error) {
        Some(reason) => Broken::Unfit(reason),
        None => Broken::Tls(match error {
            Error::AlertReceived(AlertDescription::InternalError) => {
                "the other end has no place for one more peer that says hello, or its TLS failed; try again"
                    .into()
            }
            error => format!("the other end broke TLS: {error}"),
        }),
    }
}

/// Why the two do not go together, if that is what is wrong.
fn unfit(error: &Error) -> Option<String> {
    use AlertDescription as Alert;
    Some(match error {
        Error::InvalidCertificate(wrong) => unbelieved(wrong),
        Error::NoCertificatesPresented => "the client has no certificate, and this server wants one".into(),
        Error::AlertReceived(Alert::CertificateRequired) => {
            "the server wants a certificate, and this client has none; say `.identity(\"own.pem\", \"own.key\")` on its `Tls`".into()
        }
        Error::AlertReceived(Alert::UnknownCA) => {
            "the other end refuses our certificate: it is signed by nobody in its roots".into()
        }
        Error::AlertReceived(Alert::DecryptError) => {
            "the other end refuses our certificate: it is signed by nobody in its roots, but by another key of the same name"
                .into()
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            "the other end refuses our certificate: its time is over, or has not come".into()
        }
        Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::AccessDenied),
        ) => format!("the other end refuses our certificate ({alert:?})"),
        Error::AlertReceived(Alert::NoApplicationProtocol) | Error::NoApplicationProtocol => {
            "the other end speaks TLS, and not shmrpc".into()
        }
        Error::AlertReceived(Alert::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!("the two have no TLS in common, TLS 1.3 is needed: {error}")
        }
        Error::AlertReceived(
            Alert::HandshakeFailure | Alert::InsufficientSecurity | Alert::UnrecognisedName,
        ) => format!("the other end refuses what this one offers: {error}"),
        _ => return None,
    })
}

/// What is wrong with the other end's certificate.
fn unbelieved(wrong: &CertificateError) -> String {
    match wrong {
        CertificateError::UnknownIssuer => {
            "the other end's certificate is signed by nobody in our roots".into()
        }
        CertificateError::BadSignature => {
            "the other end's certificate is signed by nobody in our roots, but by another key of the same name".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the server's certificate is for {presented:?}, and not for `{}`; if it is the right one, say `.server_name(..)` on the client's `Tls`",
            expected.to_str()
        ),
        CertificateError::NotValidForName => {
            "the server's certificate is for another name; if it is the right one, say `.server_name(..)` on the client's `Tls`".into()
        }
        wrong => format!("the other end's certificate is refused: {wrong}"),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{PeerIncompatible, PeerMisbehaved};

    use super::*;

    /// Waiting mends none of the first, and may mend the others.
    #[test]
    fn what_lasts_is_that_the_two_do_not_go_together() {
        use AlertDescription as Alert;
        for lasts in [
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            Error::InvalidCertificate(CertificateError::NotValidForName),
            Error::InvalidCertificate(CertificateError::Expired),
            Error::AlertReceived(Alert::CertificateRequired),
            Error::AlertReceived(Alert::UnknownCA),
            Error::AlertReceived(Alert::DecryptError),
            Error::AlertReceived(Alert::CertificateExpired),
            Error::AlertReceived(Alert::BadCertificate),
            Error::AlertReceived(Alert::NoApplicationProtocol),
            Error::AlertReceived(Alert::ProtocolVersion),
            Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
        ] {
            let broken = explain(&lasts);
            assert!(broken.is_lasting(), "{broken}");
        }
        assert!(Broken::Plain.is_lasting());
        for may_pass in [
            // There was no place.
            Error::AlertReceived(Alert::InternalError),
            // Somebody on the way.
            Error::DecryptError,
            Error::AlertReceived(Alert::BadRecordMac),
            Error::PeerMisbehaved(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec),
        ] {
            let broken = explain(&may_pass);
            assert!(!broken.is_lasting(), "{broken}");
        }
        assert!(!Broken::Cut.is_lasting());
    }
}
