use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::{CallerLane, Incoming, Outgoing, Reply, ServingLane};
use crate::connection::streams_in_tests::{client, connection};
use crate::connection::{Dial, watch};
use crate::sys::futex::Until;

/// Nothing here waits so long unless something is broken.
const BOUND: Duration = Duration::from_secs(30);
const LANE: u32 = 5;

/// Nobody but the server can end a lane inside a host: its own reason is told.
#[test]
fn a_server_that_gives_up_is_heard_over_any_lane() {
    for descriptors in [true, false] {
        let (client, far) = client(descriptors);
        let (lanes, asks) = channel();
        let server = connection(far, Dial::No, lanes);
        [&client, &server].into_iter().for_each(|side| watch(side).unwrap());
        let calling = thread::spawn(move || {
            let mut lane = CallerLane::open(&client, LANE, &mut Until::after(BOUND)).unwrap();
            let request =
                Outgoing { method: 0, value: &7_u32, recursive: false, descriptors: None, discard: None };
            lane.call(request, 0, &mut Reply::empty(), &mut Until::after(BOUND)).unwrap_err();
            // It says so last.
            while client.death().is_none() {
                thread::yield_now();
            }
            client.death().unwrap().clone()
        });
        let stream = asks.recv_timeout(BOUND).unwrap();
        let mut serving = ServingLane::new(&server, LANE, Some(stream)).unwrap();
        assert!(serving.next(&mut Incoming::empty()));
        server.give_up("it says why".into());
        drop(serving);
        let death = calling.join().unwrap();
        assert!(death.peer_closed && death.reason.contains("it says why"), "{descriptors}: {death:?}");
    }
}
