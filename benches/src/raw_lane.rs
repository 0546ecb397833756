//! The raw lane: the rings of a shmrpc connection without calls on top, as a caller that pipelines would use them.

use std::{path::Path, sync::Arc, thread, time::Duration};

use shmrpc_transport::{
    connection::{Connection, Death, Events, LaneAnswer, LaneStream},
    peers::PeerInfo,
    rendezvous::{Host, Listener, Policy, Refusal, connect},
    shm::{
        consumer::{Consumer, Wait},
        producer::Producer,
        segment::Side,
    },
    slot::{Header, Kind},
    sys::futex::Until,
};

use crate::error::{Error, Result};

/// Messages in flight.
const IN_FLIGHT: u32 = 64;
/// Echoes that the caller takes before it sends as many new messages.
const BATCH: u32 = 16;
/// Bytes of a message: the most that a slot carries.
const LENGTH: u32 = 40;

/// Echoes what comes on lane 0 of every connection, until dropped.
pub(crate) fn serve(path: &Path) -> Result<Listener> {
    Ok(Listener::bind(path, Policy::default(), Arc::new(Echo))?)
}

struct Echo;

impl Host for Echo {
    fn welcome(&self, _: &PeerInfo, _: &[u8]) -> std::result::Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        Ok((Vec::new(), Box::new(Echo)))
    }

    fn connected(&self, _: &Arc<Connection>) {}
}

impl Events for Echo {
    fn lane_opened(
        &self,
        connection: &Arc<Connection>,
        lane: u32,
        _: Option<LaneStream>,
    ) -> std::result::Result<(), String> {
        let connection = Arc::clone(connection);
        thread::spawn(move || echo(&connection, lane));
        Ok(())
    }

    fn closed(&self, _: &Connection) {}
}

fn echo(connection: &Connection, lane: u32) -> Option<()> {
    let (mut producer, mut consumer) = connection.rings(lane)?;
    let stop = connection.stop(lane)?;
    loop {
        while consumer.ready() {
            let mut payload = [0; 5];
            let header = consumer.take(&mut payload).ok()?;
            if !producer.try_claim().ok()? {
                return None;
            }
            producer.publish(Header { kind: Kind::Reply, ..header }, &payload);
            consumer.finish();
        }
        producer.notify();
        if consumer.wait(stop, &mut Until::never()) != Ok(Wait::Ready) {
            return Some(());
        }
    }
}

/// The calling end.
pub(crate) struct RawLane {
    connection: Arc<Connection>,
    producer: Producer<Side>,
    consumer: Consumer<Side>,
}

impl RawLane {
    /// Connects to [`serve`].
    pub(crate) fn connect(path: &Path) -> Result<RawLane> {
        let met = connect(path, &Policy::default(), &[], Duration::from_secs(5), Box::new(Echo))
            .map_err(|error| failed(&error))?;
        let connection = met.connection;
        let opened = connection.open_lane(0, &mut Until::after(Duration::from_secs(5)));
        match (opened, connection.rings(0)) {
            (Ok(LaneAnswer::Served), Some((producer, consumer))) => {
                Ok(RawLane { connection, producer, consumer })
            }
            (opened, _) => Err(failed(&format!("lane 0 could not be opened: {opened:?}"))),
        }
    }

    /// Sends `count` messages, 64 in flight, and checks each echo.
    pub(crate) fn run(&mut self, count: u64) -> Result<()> {
        let count = u32::try_from(count).map_err(|_| failed(&"too many messages for one batch"))?;
        let (mut sent, mut back) = (0, 0);
        while back < count {
            let until = count.min(back + IN_FLIGHT);
            while sent < until {
                if !self.producer.try_claim().map_err(|error| failed(&error))? {
                    return Err(failed(&"no credit although echoes came back"));
                }
                let header = Header { call_id: sent, length: LENGTH, ..Header::new(Kind::Request) };
                self.producer.publish(header, &[u64::from(sent); 5]);
                sent += 1;
            }
            self.producer.notify();
            let last = count.min(back + BATCH);
            while back < last {
                self.wait()?;
                let mut payload = [0; 5];
                let header = self.consumer.take(&mut payload).map_err(|error| failed(&error))?;
                if header.call_id != back || payload != [u64::from(back); 5] {
                    return Err(failed(&format!("echoed {header:?} {payload:?} to message {back}")));
                }
                back += 1;
            }
            self.consumer.finish();
        }
        Ok(())
    }

    #[inline(always)]
    fn wait(&mut self) -> Result<()> {
        if self.consumer.ready() {
            return Ok(());
        }
        let stop = self.connection.stop(0).ok_or_else(|| failed(&"no lane 0"))?;
        match self.consumer.wait(stop, &mut Until::after(Duration::from_secs(5))) {
            Ok(Wait::Ready) => Ok(()),
            other => Err(failed(&format!("no echo: {other:?}"))),
        }
    }
}

impl Drop for RawLane {
    fn drop(&mut self) {
        self.connection.die(Death { reason: "measured".to_owned(), peer_closed: false });
    }
}

#[cold]
fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::Subject(error.to_string())
}
