//! What `transport()` says where TLS was chosen, and where it was not.

use shmrpc::{Client, Tls, Transport, TransportInfo};

use super::{client, port, says, serve, worker};
use crate::support::Place;
use crate::support::authority::Authority;

const ASKED: &str = "the endpoint asks for it";

fn chosen(endpoints: &[&str], tls: Tls) -> TransportInfo {
    let work = client(&endpoints.join(","), tls).unwrap();
    assert_eq!(work.add(1, 2), Ok(3));
    work.transport()
}

#[track_caller]
fn is(info: &TransportInfo, transport: Transport, endpoint: &str) {
    assert_eq!(
        (info.transport(), info.endpoint(), info.times_connected()),
        (transport, endpoint, 1),
        "{info}"
    );
}

#[test]
fn a_client_of_tls_is_told_that_it_asked_for_it() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let info = chosen(&[&endpoint], authority.tls("alice"));
    is(&info, Transport::Tls, &endpoint);
    assert_eq!((info.reason(), info.memory(), info.peer_memory()), (ASKED, None, None));
    assert!(!info.reads_in_place());
    let at = info.peer().address().map(|address| (address.ip().to_string(), address.port()));
    assert_eq!(at, Some(("127.0.0.1".to_owned(), port(&endpoint))));
    let whole =
        format!("TLS to 127.0.0.1:{0} at {endpoint}, large results copied once: {ASKED}", port(&endpoint));
    assert_eq!(info.to_string(), whole);
}

#[test]
fn a_client_that_came_to_tls_is_told_what_failed_before() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    // A server that is not believed, and an endpoint at which nobody listens.
    let (_stranger, other, _keeper) = serve(Authority::new().tls("127.0.0.1"));
    let nobody = Place::new().endpoint();
    let info = chosen(&[&other, &nobody, &endpoint], authority.tls("alice"));
    is(&info, Transport::Tls, &endpoint);
    let [asked, first, second] = parts(&info);
    assert_eq!(asked, ASKED);
    says(first, &other);
    says(first, "signed by nobody in our roots");
    says(second, &nobody);
    says(second, "nobody listens at");
    // What was not tried is not spoken of.
    let info = chosen(&[&endpoint, &other, &nobody], authority.tls("alice"));
    is(&info, Transport::Tls, &endpoint);
    assert_eq!(info.reason(), ASKED);
}

#[test]
fn a_client_that_came_past_tls_is_told_why() {
    let (authority, place) = (Authority::new(), Place::new());
    let (builder, _keeper) = worker();
    let builder = builder.listen(place.endpoint()).listen("tcp:127.0.0.1:0");
    let server = builder.start().unwrap();
    let (shared, plain) = (server.endpoints()[0].to_string(), server.endpoints()[1].to_string());
    let (_other, secret, _keeper) = serve(authority.tls("127.0.0.1"));
    let wrong = plain.replace("tcp:", "tls:");
    let known = || authority.tls("alice");
    for (tls, failed, why) in [
        (Authority::new().tls("alice"), &secret, "signed by nobody in our roots"),
        (known().server_name("kv.example"), &secret, "and not for `kv.example`"),
        (known(), &wrong, "this port does not speak TLS"),
    ] {
        for (next, transport) in [(&plain, Transport::Tcp), (&shared, Transport::Shm)] {
            let info = chosen(&[failed, next], tls.clone());
            is(&info, transport, next);
            let [asked, before] = parts(&info);
            says(asked, ASKED);
            says(before, failed);
            says(before, why);
        }
    }
}

/// Why it is this transport, and why it is no earlier one.
#[track_caller]
fn parts<const N: usize>(info: &TransportInfo) -> [&str; N] {
    let parts: Vec<_> = info.reason().split("; before that: ").collect();
    parts.try_into().unwrap_or_else(|parts| panic!("{parts:?}"))
}
