//! Who connects, and who is told why not.

use shmrpc::prelude::*;
use shmrpc::{PeerCredentials, ServeError, Transport};

use crate::ground::{At, Ground, How};
use crate::service::{PlayClient, WorkClient, newer, other, pattern};
use crate::support::{Place, until};

pub(crate) fn the_transport_is_what_was_asked_for(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let transport = client.transport();
    assert_eq!(transport.transport(), ground.transport, "{transport}");
    assert_eq!(transport.memory().is_some(), ground.shares, "{transport}");
    assert_eq!(transport.endpoint(), started.at());
}

pub(crate) fn whoever_calls_is_a_process_of_this_host_or_an_address(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let own = PeerCredentials::own();
    let own = (own.pid, own.uid, own.gid);
    // Where the server is, if that is an address.
    let at = matches!(ground.at, At::Port(_)).then(|| started.at().split_once(':').unwrap().1.to_owned());
    let transport = client.transport();
    let server = transport.peer();
    let credentials = server.credentials().map(|who| (who.pid, who.uid, who.gid));
    assert_eq!(credentials, at.is_none().then_some(own), "{server}");
    assert_eq!(server.address().map(|address| address.to_string()), at);

    let (credentials, name) = client.caller().unwrap();
    assert_eq!(credentials, at.is_none().then_some(own), "{name}");
    match at {
        None => assert_eq!(name, format!("process {} of user {}", own.0.unwrap(), own.1)),
        Some(at) => assert_eq!(name.rsplit_once(':').unwrap().0, at.rsplit_once(':').unwrap().0),
    }
}

pub(crate) fn what_differs_is_refused_by_name(ground: Ground) {
    let started = ground.start();
    let error = ground.client::<other::WorkClient>().connect(started.at()).unwrap_err();
    assert!(matches!(error, ConnectError::Meet { .. }), "{error:?}");
    let text = error.to_string();
    let named = ["Work::add", "add(u64,u32)->u32", "add(u32,u32)->u32"];
    assert!(named.iter().all(|part| text.contains(part)), "{text}");
    let error = ground.client::<PlayClient>().connect(started.at()).unwrap_err();
    assert!(matches!(error, ConnectError::Meet { .. }), "{error:?}");
    assert!(error.to_string().contains("`Play`"), "{error}");
    // Those that agree are served meanwhile and afterwards.
    assert_eq!(ground.client::<newer::WorkClient>().connect(started.at()).unwrap().ran(), Ok(0));
    until("those who were refused are gone", || started.server.connections() == 0);
}

pub(crate) fn one_connection_too_many_is_refused_with_a_reason(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_connections(1));
    let client = started.connect();
    assert_eq!(client.nothing(), Ok(()));
    let error = ground.client::<WorkClient>().connect(started.at()).unwrap_err();
    assert!(matches!(error, ConnectError::Meet { .. }), "{error:?}");
    assert!(error.to_string().contains("the server refused: 1 connections are open"), "{error}");
    assert_eq!(client.nothing(), Ok(()));
    // A place that is given back is there for the next.
    drop(client);
    until("the place is free", || ground.client::<WorkClient>().connect(started.at()).is_ok());
}

pub(crate) fn a_name_that_nobody_serves_is_named(ground: Ground) {
    let started = ground.start();
    let at = started.at();
    let client = started.connect();
    // Nor is there room for two.
    let second = ground.server().service(crate::service::WorkServer::new(started.worker.clone())).listen(&at);
    let error = second.start().unwrap_err();
    assert!(matches!(&error, ServeError::Listen { endpoint, .. } if *endpoint == at), "{error:?}");
    assert_eq!(client.nothing(), Ok(()));
    drop((client, started));
    let error = ground.client::<WorkClient>().connect(&at).unwrap_err();
    assert!(matches!(&error, ConnectError::Meet { endpoint, .. } if *endpoint == at), "{error:?}");
    // The test's directory went with its server, and no other ground is in one.
    assert_eq!(
        error.to_string().contains("there is no directory"),
        matches!(ground.at, At::Path(_)),
        "{error}"
    );
    // Of a list, every one is named.
    let error = ground.client::<WorkClient>().connect(format!("{at},inproc:nobody-{at:.3}")).unwrap_err();
    assert!(matches!(&error, ConnectError::All(errors) if errors.len() == 2), "{error:?}");
    assert!(error.to_string().contains(&at), "{error}");
}

#[test]
fn whoever_shares_no_memory_has_none_of_the_others_and_is_told_why() {
    for (servers, clients, why) in [
        (0, u64::MAX, Some("this client was told to share none")),
        (u64::MAX, 0, Some("the server was told to share none")),
        (u64::MAX, u64::MAX, Some("this client was told to share none")),
        (0, 0, None),
    ] {
        let ground = Ground::new(At::Path("shm"), Transport::Shm).how(How::Plain);
        let started = ground.start_with(|builder| builder.memory_from(servers));
        let client = started.connect_with(|builder| builder.memory_from(clients));
        let transport = client.transport();
        assert_eq!(transport.memory().is_none(), why.is_some(), "{transport}");
        let expected = if why.is_some() { Transport::Uds } else { Transport::Shm };
        assert_eq!(transport.transport(), expected, "{transport}");
        assert!(transport.reason().contains(why.unwrap_or("shares memory")), "{transport}");
        assert_eq!(client.is_pattern(pattern(1 << 20)), Ok(true));
        assert!(client.pattern(1 << 20).unwrap() == pattern(1 << 20));
    }
}

#[test]
fn a_client_is_told_why_it_has_less_than_rings() {
    let asked = "the endpoint asks for it";
    for (listens, connects, servers, clients, why) in [
        ("shm", "uds", 0, 0, asked.to_owned()),
        ("uds", "uds", 0, 0, asked.to_owned()),
        (
            "uds",
            "uds",
            u64::MAX,
            0,
            format!("{asked}, and no memory is shared: the server was told to share none"),
        ),
        (
            "uds",
            "uds",
            0,
            u64::MAX,
            format!("{asked}, and no memory is shared: this client was told to share none"),
        ),
        (
            "uds",
            "shm",
            0,
            0,
            "memory is shared, and there are no rings in it: the server listens there with `uds:`".into(),
        ),
        ("uds", "shm", u64::MAX, 0, "shared memory cannot be had: the server was told to share none".into()),
        ("uds", "shm", 0, u64::MAX, "shared memory cannot be had: this client was told to share none".into()),
    ] {
        let ground = Ground::new(At::Path(listens), Transport::Uds).how(How::Plain);
        let started = ground.start_with(|builder| builder.memory_from(servers));
        let at = started.at().replace(&format!("{listens}:"), &format!("{connects}:"));
        let client = ground.client::<WorkClient>().memory_from(clients).connect(&at).unwrap();
        let transport = client.transport();
        assert_eq!(transport.transport(), Transport::Uds, "{transport}");
        assert_eq!(transport.memory().is_some(), servers == 0 && clients == 0, "{transport}");
        assert_eq!(transport.reason(), why, "{listens} {connects} {servers} {clients}");
        assert_eq!(client.is_pattern(pattern(1 << 20)), Ok(true));
    }
}

/// A name of no scheme that is ours, on either side.
#[test]
fn a_place_is_needed_to_meet() {
    let place = Place::new();
    assert!(matches!(WorkClient::connect("work"), Err(ConnectError::Endpoint(_))));
    let nobody = Server::builder().listen(format!("shm:{}", place.socket().display()));
    assert!(matches!(nobody.start(), Err(ServeError::Incomplete(_))));
}
