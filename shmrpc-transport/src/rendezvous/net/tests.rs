use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Sender, channel};

use nix::sys::socket::{getsockopt, sockopt};

use super::super::Refusal;
use super::*;
use crate::connection::LaneStream;
use crate::lane::ServingLane;

const BOUND: Duration = Duration::from_secs(30);

/// Whether small messages go at once; and what the kernel does about a silent host: asks, from when, how often, how many
/// times, and (ms) whether what it has not taken ends the connection.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Asks(bool, bool, u32, u32, u32, u32);

impl Asks {
    fn of(socket: BorrowedFd<'_>) -> Self {
        Self(
            getsockopt(&socket, sockopt::TcpNoDelay).unwrap(),
            getsockopt(&socket, sockopt::KeepAlive).unwrap(),
            getsockopt(&socket, sockopt::TcpKeepIdle).unwrap(),
            getsockopt(&socket, sockopt::TcpKeepInterval).unwrap(),
            getsockopt(&socket, sockopt::TcpKeepCount).unwrap(),
            getsockopt(&socket, sockopt::TcpUserTimeout).unwrap(),
        )
    }
}

/// Tells how the lanes that it opens are watched.
struct Lanes(Sender<Asks>);

impl Events for Lanes {
    fn lane_opened(
        &self,
        connection: &Arc<Connection>,
        lane: u32,
        stream: Option<LaneStream>,
    ) -> Result<(), String> {
        let asks = Asks::of(stream.as_ref().unwrap().as_socket().unwrap());
        self.0.send(asks).unwrap();
        drop(ServingLane::new(connection, lane, stream).unwrap());
        Ok(())
    }
    fn closed(&self, _: &Connection) {}
}

impl Host for Lanes {
    fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        Ok((Vec::new(), Box::new(Lanes(self.0.clone()))))
    }
    fn connected(&self, _: &Arc<Connection>) {}
}

/// On the way between two hosts a lane may be forgotten, and the connection's own socket not. A lane that takes nothing is
/// busy, and no sign of that.
#[test]
fn a_lane_that_is_silent_is_asked_on_both_sides_and_may_be_busy() {
    for (seconds, asks) in
        [(25, Asks(true, true, 10, 5, 3, 0)), (u64::MAX, Asks(true, true, 28_800, 14_400, 3, 0))]
    {
        let policy = Policy { max_silence: Duration::from_secs(seconds), ..Policy::default() };
        let (say, said) = channel();
        let at = HostPort { host: "127.0.0.1".into(), port: 0 };
        let ports = Ports::bind(&at, &policy, None).unwrap();
        let at = ports.addresses()[0].into();
        let _listener = ports.start(policy.clone(), Arc::new(Lanes(say.clone()))).unwrap();
        let met = connect(&at, &policy, None, &[], BOUND, Box::new(Lanes(say))).unwrap();
        let (lane, _) = met.connection.open_stream(0, &mut Until::after(BOUND)).unwrap();
        assert_eq!(Asks::of(lane.as_socket().unwrap()), asks);
        assert_eq!(said.recv_timeout(BOUND), Ok(asks));
        met.connection.give_up("the test is over".into());
    }
}

/// Time may mend what is wrong with one of them, whichever comes first.
#[test]
fn a_host_is_given_up_only_if_all_its_addresses_are() {
    let at = HostPort { host: "two.test".into(), port: 7 };
    let no_host = |kind: io::ErrorKind| MeetError::NoHost { at: "two.test:7".into(), error: kind.into() };
    let forbidden = || no_host(io::ErrorKind::PermissionDenied);
    let refused = || no_host(io::ErrorKind::ConnectionRefused);
    let other = || MeetError::Unwelcome("another shape".into());
    let late = || MeetError::TimedOut(BOUND);
    let address = |last| SocketAddr::from(([127, 0, 0, last], 7));
    let of = |one, two| none_of(&at, vec![(address(2), one), (address(3), two)]);
    for (one, two) in [
        (forbidden(), refused()),
        (refused(), forbidden()),
        (forbidden(), late()),
        (other(), refused()),
        (late(), other()),
    ] {
        let error = of(one, two).unwrap();
        assert!(!error.is_lasting(), "{error}");
        let text = error.to_string();
        assert!(text.contains("at 127.0.0.2:7: ") && text.contains("at 127.0.0.3:7: "), "{text}");
    }
    assert!(of(forbidden(), other()).unwrap().is_lasting());
    // Whoever answered comes first.
    let text = of(refused(), other()).unwrap().to_string();
    assert!(text.starts_with("cannot reach two.test:7: at 127.0.0.3:7: the server refused: another shape; "));
    assert!(of(late(), late()).is_none(), "the time of all was over");
    assert!(none_of(&at, vec![(address(2), forbidden())]).unwrap().is_lasting());
}

#[test]
fn a_name_that_is_unknown_is_not_a_server_that_does_not_run() {
    let at = HostPort { host: "one.test".into(), port: 7 };
    let text = no_host(&at, BOUND, unknown("no such name")).to_string();
    assert_eq!(
        text,
        "cannot reach one.test:7: no such name; is the name right? `getent ahosts NAME` asks the system the same"
    );
    let text = no_host(&at, BOUND, io::ErrorKind::ConnectionRefused.into()).to_string();
    assert!(text.ends_with("; is the server running there?"), "{text}");
    // No name is so long, so the system asks nobody.
    let at = HostPort { host: "x".repeat(300), port: 7 };
    let error = at.resolve(&mut Until::after(BOUND)).unwrap_err();
    assert!(
        error.kind() == io::ErrorKind::NotFound && error.to_string().contains("is the name right?"),
        "{error}"
    );
}

/// Two addresses, and a port that is free at the first of them alone: 127.0.0.1 and 127.0.0.2 stand for those of a name.
#[test]
fn a_port_that_is_taken_at_one_address_is_chosen_anew() {
    let wanted = ["127.0.0.1:0", "127.0.0.2:0"].map(|address| address.parse().unwrap());
    let mut others = Vec::new();
    let bound = bind_all(&wanted, |address| {
        // Somebody else is faster, three times.
        if address.port() != 0 && others.len() < 3 {
            others.push(TcpListener::bind(address).unwrap());
        }
        TcpListener::bind(address)
    });
    let ports: Vec<u16> = bound.unwrap().iter().map(|one| one.local_addr().unwrap().port()).collect();
    assert!(matches!(ports[..], [one, other] if one == other), "{ports:?}");
    assert_eq!(others.len(), 3);

    // A port that somebody asked for is not another one.
    let taken: Vec<SocketAddr> = others.iter().map(|other| other.local_addr().unwrap()).collect();
    let mut tries = 0;
    let none = bind_all(&taken[..1], |address| {
        tries += 1;
        TcpListener::bind(address)
    });
    assert_eq!((none.unwrap_err().kind(), tries), (io::ErrorKind::AddrInUse, 1));
}

/// A name of both kinds on a host that knows one of them, or whose files have it twice.
#[test]
fn a_name_is_served_at_those_of_its_addresses_that_the_host_has() {
    let wanted: [SocketAddr; 2] =
        [(Ipv6Addr::LOCALHOST, 0).into(), (std::net::Ipv4Addr::LOCALHOST, 0).into()];
    for lacking in [libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT] {
        let bound = bind_all(&wanted, |address| match address.is_ipv6() {
            true => Err(io::Error::from_raw_os_error(lacking)),
            false => TcpListener::bind(address),
        });
        assert_eq!(bound.unwrap().len(), 1);
    }
    let [six, four] = wanted;
    assert_eq!(each_once(vec![four, six, four, four]), [four, six]);
}
