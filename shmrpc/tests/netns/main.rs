//! Calls between hosts: two network namespaces with a line between them that is slow, loses packets, and is cut.
//!
//! Each test is run in a child of its own, with namespaces of its own, which end with it. What it needs is `unshare`
//! (util-linux), `ip` (iproute2), `/dev/net/tun`, and leave to make namespaces; where the machine lacks any of it the test
//! says so, and is skipped. The line is ours (`line`), and not netem's: it works on kernels that were built without
//! netem, and loses the same packets each time.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod line;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use line::Tun;
use shmrpc::prelude::*;
use shmrpc::{ClientBuilder, Endpoint, ServeError, ServerBuilder};
use support::{BOUND, Gate, Keeper, gate, skipped, until};
use world::{FAR, World, across, ip};

#[shmrpc::service]
pub trait Remote {
    fn add(&self, a: u32, b: u32) -> u32;
    fn is_zero(&self, bytes: &[u8]) -> bool;
    fn zeros(&self, length: u32) -> Vec<u8>;
    /// The same, once somebody opens the gate.
    fn zeros_later(&self, length: u32) -> Vec<u8>;
    #[oneway]
    fn note(&self, number: u32);
    fn noted(&self) -> Vec<u32>;
    fn sum(&self, frame: Blob<u32>) -> u64;
}

struct There {
    gate: Gate,
    notes: std::sync::Mutex<Vec<u32>>,
}

impl Remote for There {
    fn add(&self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    fn is_zero(&self, bytes: &[u8]) -> bool {
        bytes == vec![0; bytes.len()]
    }
    fn zeros(&self, length: u32) -> Vec<u8> {
        vec![0; length as usize]
    }
    fn zeros_later(&self, length: u32) -> Vec<u8> {
        self.gate.pass();
        vec![0; length as usize]
    }
    fn note(&self, number: u32) {
        self.notes.lock().unwrap().push(number);
    }
    fn noted(&self) -> Vec<u32> {
        self.notes.lock().unwrap().clone()
    }
    fn sum(&self, frame: Blob<u32>) -> u64 {
        frame.iter().map(|number| u64::from(*number)).sum()
    }
}

fn there() -> (RemoteServer<There>, Keeper) {
    let (gate, keeper) = gate();
    (RemoteServer::new(There { gate, notes: std::sync::Mutex::default() }), keeper)
}

fn client() -> ClientBuilder<RemoteClient> {
    patient().allow_plain_tcp()
}

fn patient() -> ClientBuilder<RemoteClient> {
    RemoteClient::builder().timeout(BOUND).connect_timeout(BOUND)
}

/// Both sides of TLS.
#[cfg(feature = "tls")]
fn tls() -> [shmrpc::Tls; 2] {
    let authority = support::authority::Authority::new();
    [FAR, "somebody"].map(|name| authority.tls(name))
}

/// How long the other side may be silent where a test waits for it. Longer than a busy machine keeps a line waiting.
const SILENCE: Duration = Duration::from_secs(6);
/// By when that is noticed: a fifth more, and what a busy machine takes. Less than if nobody asked for it.
const NOTICED: Duration = Duration::from_secs(20);

/// A server on the far host.
struct Scene<'w> {
    world: &'w World,
    server: ServerHandle,
    keeper: Keeper,
    silence: Duration,
}

impl<'w> Scene<'w> {
    fn new(world: &'w World) -> Self {
        Self::with_silence(world, Duration::from_secs(25))
    }

    fn with_silence(world: &'w World, silence: Duration) -> Self {
        Self::of(world, silence, |builder| builder.allow_plain_tcp().listen(format!("tcp:{FAR}:0")))
    }

    #[cfg(feature = "tls")]
    fn over_tls(world: &'w World, silence: Duration, own: shmrpc::Tls) -> Self {
        Self::of(world, silence, |builder| builder.tls(own).listen(format!("tls:{FAR}:0")))
    }

    fn of(world: &'w World, silence: Duration, at: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let (service, keeper) = there();
        let builder = at(Server::builder().service(service)).max_silence(silence);
        let server = world.far(move || builder.start()).unwrap();
        Self { world, server, keeper, silence }
    }

    fn at(&self) -> String {
        self.server.endpoints()[0].to_string()
    }

    fn connect(&self) -> RemoteClient {
        self.connect_with(client())
    }

    fn connect_with(&self, builder: ClientBuilder<RemoteClient>) -> RemoteClient {
        let client = builder.max_silence(self.silence).connect(self.at()).unwrap();
        // So that there is a lane.
        assert_eq!(client.add(1, 2), Ok(3));
        client
    }
}

#[test]
fn plain_tcp_between_hosts_has_to_be_allowed_on_both() {
    across("plain_tcp_between_hosts_has_to_be_allowed_on_both", |world| {
        let builder = Server::builder().service(there().0).listen(format!("tcp:{FAR}:0"));
        let error = world.far(move || builder.start()).unwrap_err();
        assert!(matches!(&error, ServeError::Listen { .. }), "{error:?}");
        assert!(error.to_string().contains("`.allow_plain_tcp()`"), "{error}");
        let scene = Scene::new(world);
        let error = RemoteClient::connect(scene.at()).unwrap_err();
        assert!(error.to_string().contains("`.allow_plain_tcp()`"), "{error}");
        assert_eq!(scene.connect().add(3, 4), Ok(7));
    });
}

#[test]
fn calls_cross_a_line_that_is_slow_and_loses_packets() {
    across("calls_cross_a_line_that_is_slow_and_loses_packets", |world| {
        world.line.shape(Duration::from_millis(10), 50);
        calls_of_every_kind(&Scene::new(world).connect());
        assert!(world.line.lost() > 0, "the line has lost nothing");
    });
}

#[cfg(feature = "tls")]
#[test]
fn tls_crosses_the_same_line() {
    across("tls_crosses_the_same_line", |world| {
        let [there, here] = tls();
        world.line.shape(Duration::from_millis(10), 50);
        let scene = Scene::over_tls(world, BOUND, there);
        let client = scene.connect_with(patient().tls(here));
        calls_of_every_kind(&client);
        assert!(world.line.lost() > 0, "the line has lost nothing");
        assert!(client.transport().peer().certificate().is_some());
    });
}

fn calls_of_every_kind(client: &RemoteClient) {
    for number in 0..20 {
        client.note(number).unwrap();
        assert_eq!(client.add(number, 1), Ok(number + 1));
    }
    assert_eq!(client.noted(), Ok((0..20).collect()));
    assert_eq!(client.is_zero(&vec![0; 1 << 20]), Ok(true));
    assert_eq!(client.zeros(1 << 20), Ok(vec![0; 1 << 20]));
    assert_eq!(client.sum(vec![1; 50_000]), Ok(50_000));
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                (0..5).for_each(|call| assert_eq!(client.add(thread, call), Ok(thread + call)))
            });
        }
    });
}

#[test]
fn sixteen_mebibytes_cross_a_line_that_loses_packets() {
    const LARGE: u32 = 16 << 20;
    across("sixteen_mebibytes_cross_a_line_that_loses_packets", |world| {
        let scene = Scene::new(world);
        let client = scene.connect();
        world.line.shape(Duration::ZERO, 2);
        assert_eq!(client.is_zero(&vec![0; LARGE as usize]), Ok(true));
        assert!(client.zeros(LARGE).unwrap().len() == LARGE as usize);
        assert!(world.line.lost() > 0, "the line has lost nothing");
    });
}

#[test]
fn a_deadline_shorter_than_the_way_ends_the_call() {
    across("a_deadline_shorter_than_the_way_ends_the_call", |world| {
        let scene = Scene::new(world);
        let client = scene.connect();
        world.line.shape(Duration::from_millis(250), 0);
        let limit = Duration::from_millis(20);
        for number in 0..3 {
            let error = client.with_timeout(limit).add(number, 1).unwrap_err();
            // A lane that is opened takes as long.
            let late = CallError::DeadlineExceeded { timeout: limit, outcome: Outcome::Unknown };
            assert!(error == late || matches!(error, CallError::Overloaded(_)), "{error:?}");
            assert!(number > 0 || error == late, "{error:?}");
        }
        // What comes late is for nobody else.
        assert_eq!(client.add(20, 1), Ok(21));
        let error = self::client().connect_timeout(limit).connect(scene.at()).unwrap_err();
        assert!(error.to_string().contains("within 20ms"), "{error}");
    });
}

#[test]
fn a_line_that_comes_back_in_time_costs_nothing() {
    across("a_line_that_comes_back_in_time_costs_nothing", |world| {
        let scene = Scene::new(world);
        let client = scene.connect();
        thread::scope(|scope| {
            let call = scope.spawn(|| client.zeros_later(1 << 20));
            scene.keeper.entered();
            let lost = world.line.lost();
            world.line.cut();
            scene.keeper.release();
            // The reply is sent, and sent again.
            until("packets are lost", || world.line.lost() > lost + 1);
            world.line.mend();
            assert_eq!(call.join().unwrap(), Ok(vec![0; 1 << 20]));
        });
        assert_eq!(client.add(1, 2), Ok(3));
    });
}

#[test]
fn a_cut_line_is_noticed_on_both_sides() {
    across("a_cut_line_is_noticed_on_both_sides", |world| {
        is_noticed(Scene::with_silence(world, SILENCE), client);
    });
}

#[cfg(feature = "tls")]
#[test]
fn a_cut_line_is_noticed_under_tls() {
    across("a_cut_line_is_noticed_under_tls", |world| {
        let [there, here] = tls();
        is_noticed(Scene::over_tls(world, SILENCE, there), || patient().tls(here.clone()));
    });
}

/// In the middle of calls: those with a deadline end by it, and the rest when the silence was too long; and so does the
/// connection at the server, which sees a handler return to nobody. The line comes back, and whoever may, too.
fn is_noticed(scene: Scene, how: impl Fn() -> ClientBuilder<RemoteClient>) {
    let Scene { world, server, keeper, .. } = &scene;
    let (client, again) = (scene.connect_with(how().reconnect(false)), scene.connect_with(how()));
    let limit = Duration::from_millis(500);
    thread::scope(|scope| {
        let limited = scope.spawn(|| client.with_timeout(limit).zeros_later(10));
        let unlimited = [&client, &again].map(|client| {
            let client = client.with_timeout(Duration::MAX);
            scope.spawn(move || client.zeros_later(10))
        });
        (0..3).for_each(|_| keeper.entered());
        world.line.cut();
        let cut = Instant::now();
        let late = CallError::DeadlineExceeded { timeout: limit, outcome: Outcome::Unknown };
        assert_eq!(limited.join().unwrap(), Err(late));
        for call in unlimited {
            let error = call.join().unwrap().unwrap_err();
            assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
            assert!(error.to_string().contains("the other end was silent for 6 s"), "{error}");
            assert_eq!(error.outcome(), Outcome::Unknown);
        }
        until("the server notices", || server.connections() == 0);
        assert!(cut.elapsed() < NOTICED, "noticed after {:?}", cut.elapsed());
    });
    let error = client.add(1, 2).unwrap_err();
    assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    // The handlers return to nobody.
    (0..3).for_each(|_| keeper.release());
    world.line.mend();
    assert_eq!(again.add(1, 2), Ok(3));
    assert_eq!(again.transport().times_connected(), 2);
    assert_eq!(scene.connect_with(how()).add(1, 2), Ok(3));
    scene.server.shutdown(BOUND).unwrap();
}

/// What a server said on the connection was not acknowledged, so it is not asked for signs of life; and it waits for room
/// for a reply, which nobody reads.
#[test]
fn a_line_that_is_cut_does_not_keep_a_server_from_its_end() {
    across("a_line_that_is_cut_does_not_keep_a_server_from_its_end", |world| {
        let scene = Scene::with_silence(world, SILENCE);
        let client = scene.connect().with_timeout(Duration::MAX);
        thread::scope(|scope| {
            let call = scope.spawn(|| client.zeros_later(16 << 20));
            scene.keeper.entered();
            world.line.cut();
            let cut = Instant::now();
            let Scene { server, keeper, .. } = scene;
            let ended = scope.spawn(|| server.shutdown(BOUND));
            keeper.release();
            ended.join().unwrap().unwrap();
            assert!(cut.elapsed() < NOTICED, "noticed after {:?}", cut.elapsed());
            let error = call.join().unwrap().unwrap_err();
            assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
        });
    });
}

#[test]
fn nobody_is_reached_over_a_cut_line() {
    across("nobody_is_reached_over_a_cut_line", |world| {
        let scene = Scene::new(world);
        let client = scene.connect();
        scene.world.line.cut();
        let limit = Duration::from_millis(300);
        let error = self::client().connect_timeout(limit).connect(scene.at()).unwrap_err();
        assert!(matches!(error, ConnectError::Meet { .. }), "{error:?}");
        assert!(error.to_string().contains("within 300ms"), "{error}");
        // The one lane is in use, and no other one can be had.
        let short = client.with_timeout(limit);
        thread::scope(|scope| {
            let calls: Vec<_> = (0..2).map(|_| scope.spawn(|| short.add(1, 2).unwrap_err())).collect();
            let mut outcomes: Vec<_> = calls.into_iter().map(|call| call.join().unwrap().outcome()).collect();
            outcomes.sort_by_key(|outcome| *outcome == Outcome::Unknown);
            assert_eq!(outcomes, [Outcome::NotRun, Outcome::Unknown]);
        });
    });
}

/// A name that has two addresses, of which the system says one first.
#[test]
fn each_address_of_a_name_is_tried_and_each_is_named_if_none_does() {
    across("each_address_of_a_name_is_tried_and_each_is_named_if_none_does", |world| {
        world.name("127.0.0.2 two.test\n127.0.0.3 two.test\n").unwrap();
        let found: Vec<SocketAddr> = ("two.test", 0).to_socket_addrs().unwrap().collect();
        let [dead, alive] = found[..] else { panic!("{found:?}") };
        let (service, _keeper) = there();
        let server = Server::builder().service(service).listen(format!("tcp:{}:0", alive.ip()));
        let server = server.start().unwrap();
        let Endpoint::Tcp(at) = &server.endpoints()[0] else { panic!("{:?}", server.endpoints()) };
        let port = at.port;
        let endpoint = format!("tcp:two.test:{port}");
        let client = RemoteClient::builder().timeout(BOUND).connect(&endpoint).unwrap();
        assert_eq!(client.add(1, 2), Ok(3));
        assert_eq!(client.transport().peer().address(), Some(SocketAddr::new(alive.ip(), port)));
        let reason = client.transport().reason().to_owned();
        assert!(
            reason.contains(&format!("{}:{port}: ", dead.ip())) && reason.contains("refused"),
            "{reason}"
        );
        drop(client);
        server.shutdown(BOUND).unwrap();
        let error = RemoteClient::connect(&endpoint).unwrap_err().to_string();
        for address in [dead, alive] {
            let words = format!("at {}:{port}: Connection refused", address.ip());
            assert!(error.contains(&words), "{error:?} does not say {words:?}");
        }
        assert!(error.contains(&endpoint), "{error}");
        // Whoever serves a name is at each of its addresses, by one port.
        let server = Server::builder().service(there().0).listen("tcp:two.test:0").start().unwrap();
        let ports: Vec<u16> = [dead.ip(), alive.ip()]
            .into_iter()
            .map(|address| {
                let is_at = |endpoint: &&Endpoint| matches!(endpoint, Endpoint::Tcp(at) if at.host == address.to_string());
                let endpoint = server.endpoints().iter().find(is_at).unwrap();
                assert_eq!(patient().connect(endpoint.to_string()).unwrap().add(1, 2), Ok(3), "{endpoint}");
                let Endpoint::Tcp(at) = endpoint else { unreachable!() };
                at.port
            })
            .collect();
        assert_eq!((server.endpoints().len(), ports[0]), (2, ports[1]));
    });
}

/// An address that is of each link needs the interface that leads to it.
#[test]
fn an_address_of_one_link_is_reached_by_its_interface() {
    across("an_address_of_one_link_is_reached_by_its_interface", |world| {
        let add = |address: &str| ip(&["-6", "address", "add", address, "dev", Tun::NAME, "nodad"]);
        if let Err(why) = add("fe80::77:1/64").and_then(|()| world.far(move || add("fe80::77:2/64"))) {
            return skipped(&format!("no IPv6: {why}"));
        }
        let (service, _keeper) = there();
        let server = Server::builder().service(service).allow_plain_tcp();
        let server = server.listen(format!("tcp:[fe80::77:2%{}]:0", Tun::NAME));
        let server = world.far(move || server.start()).unwrap();
        let Endpoint::Tcp(at) = &server.endpoints()[0] else { panic!("{:?}", server.endpoints()) };
        // It is said as it can be connected to, by the number of the interface over there.
        let number = at.host.strip_prefix("fe80::77:2%").unwrap().parse::<u32>().unwrap();
        assert!(number > 0, "{at}");
        let to = |scope: &str| format!("tcp:[fe80::77:2{scope}]:{}", at.port);
        let client = client().connect(to(&format!("%{}", Tun::NAME))).unwrap();
        assert_eq!(client.add(1, 2), Ok(3));
        let error = self::client().connect(to("%nosuch")).unwrap_err().to_string();
        let words = "there is no network interface `nosuch` here";
        assert!(error.contains(words) && error.contains("`ip link`"), "{error}");
        assert!(!error.contains("is the server running"), "{error}");
        // Plain TCP leaves the host there, too.
        let error = RemoteClient::connect(to(&format!("%{}", Tun::NAME))).unwrap_err().to_string();
        assert!(error.contains("`.allow_plain_tcp()`"), "{error}");
    });
}
