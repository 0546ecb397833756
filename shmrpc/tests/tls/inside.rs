//! Hostile bytes of a client that has shaken hands and shown a certificate: it is told what is wrong, and others go on.

use std::io::{Read, Write};
use std::time::Duration;

use shmrpc::ServerBuilder;
use shmrpc::prelude::*;
use shmrpc_transport::slot::{Header, Kind};

use crate::raw::{Link, failure};
use crate::support::authority::{Authority, Identity};
use crate::support::until;
use crate::{WorkClient, client, says, serve_with};

/// Bytes of a message, as the server takes them.
const MAX_MESSAGE: u32 = 1 << 20;

struct Scene {
    authority: Authority,
    server: ServerHandle,
    endpoint: String,
    eve: Identity,
    other: WorkClient,
}

impl Scene {
    fn new() -> Self {
        Self::with(|server| server)
    }

    fn with(options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let authority = Authority::new();
        let (server, endpoint, _keeper) =
            serve_with(authority.tls("127.0.0.1"), |server| options(server.max_message(MAX_MESSAGE.into())));
        let other = client(&endpoint, authority.tls("bob")).unwrap();
        assert_eq!(other.add(1, 2), Ok(3));
        let eve = authority.sign("eve");
        Self { authority, server, endpoint, eve, other }
    }

    fn dial(&self) -> Link {
        Link::connect(&self.endpoint, &self.authority, Some(&self.eve))
    }

    /// Others are served, those who are there and those who come.
    fn goes_on(&self) {
        assert_eq!(self.other.add(20, 3), Ok(23));
        assert_eq!(client(&self.endpoint, self.authority.tls("alice")).unwrap().add(3, 4), Ok(7));
    }
}

fn end_of(link: &mut Link) {
    let end = link.socket.read(&mut [0; 64]);
    assert!(matches!(end, Ok(0)), "{end:?}");
}

#[test]
fn who_speaks_something_else_is_told() {
    let scene = Scene::new();
    let head = |kind, length| Header { length, ..Header::new(kind) }.to_frame().to_vec();
    for (said, why) in [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "does not speak shmrpc"),
        (head(Kind::Request, 8), "hello"),
        (head(Kind::Hello, 2 << 20), "above the limit"),
        ([head(Kind::Hello, 200), vec![0; 200]].concat(), "shmrpc"),
    ] {
        let mut link = scene.dial();
        link.socket.write_all(&said).unwrap();
        let reason = failure(&mut link.socket);
        says(&reason, why);
        end_of(&mut link);
    }
    scene.goes_on();
}

/// The handshake of TLS is done, and the hello never is.
#[test]
fn who_does_not_say_hello_is_gone_in_time() {
    let scene = Scene::with(|server| server.hello_timeout(Duration::from_secs(2)));
    for said in [0, 1, 23, 24] {
        let mut link = scene.dial();
        let head = Header { length: 200, ..Header::new(Kind::Hello) }.to_frame();
        link.socket.write_all(&head[..said]).unwrap();
        link.socket.flush().unwrap();
        says(&failure(&mut link.socket), "no hello came: the time was over");
        end_of(&mut link);
    }
    scene.goes_on();
}

#[test]
fn a_frame_above_the_limit_ends_its_connection_alone() {
    let scene = Scene::new();
    for length in [u32::MAX, MAX_MESSAGE + 1] {
        let (mut control, mut lane) = (scene.dial(), scene.dial());
        let token = control.meet("Work");
        lane.lane(token).unwrap();
        lane.socket.write_all(&Header { length, ..Header::new(Kind::Request) }.to_frame()).unwrap();
        says(
            &failure(&mut control.socket),
            &format!("a frame of {length} bytes is above the limit of {MAX_MESSAGE}"),
        );
        end_of(&mut control);
        scene.goes_on();
    }
}

/// Half a request, and half of what says how long one is.
#[test]
fn who_stops_in_the_middle_holds_up_nobody() {
    let scene = Scene::new();
    let mut control = scene.dial();
    let token = control.meet("Work");
    let mut lanes: Vec<Link> = (0..2).map(|_| scene.dial()).collect();
    for (number, lane) in (0..).zip(&mut lanes) {
        lane.lane_at(token, number).unwrap();
    }
    let head = Header { length: MAX_MESSAGE, ..Header::new(Kind::Request) }.to_frame();
    lanes[0].socket.write_all(&[&head[..], &[0; 1000]].concat()).unwrap();
    lanes[1].socket.write_all(&head[..10]).unwrap();
    scene.goes_on();
    drop((control, lanes));
    until("they are forgotten", || scene.server.connections() == 1);
    scene.goes_on();
}
