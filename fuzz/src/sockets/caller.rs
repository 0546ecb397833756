//! A real client's calls to a server that is none.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use shmrpc::{Blob, CallError, Outcome};

use super::plan::Plan;
use super::service::{Answer, Call, MixClient, Read, WORDS};
use crate::wire::MAX_MESSAGE;

/// How much later than its deadline a call may end, on whatever machine. The tests ask for less.
const LATE: Duration = Duration::from_secs(10);

/// A call that failed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failed {
    pub(super) outcome: Outcome,
    pub(super) text: String,
}

impl<E: Display> From<CallError<E>> for Failed {
    fn from(error: CallError<E>) -> Self {
        Self { outcome: error.outcome(), text: error.to_string() }
    }
}

/// What came of a client.
pub(super) enum Made {
    NotConnected(String),
    Calls(Vec<Result<Answer, Failed>>),
}

/// What a client is to do.
pub(super) struct Calls {
    calls: Vec<Call>,
    time: Duration,
}

impl Calls {
    pub(super) fn of(plan: &Plan) -> Self {
        Self { calls: plan.calls.clone(), time: plan.time() }
    }

    /// Connects, calls, and goes.
    pub(super) fn make(self, at: &str) -> Made {
        let Self { calls, time } = self;
        let start = Instant::now();
        // Nobody is there for a second connection.
        let builder = MixClient::builder().connect_timeout(time).timeout(time).max_message(MAX_MESSAGE);
        let builder = builder.reconnect(false);
        let client = builder.connect(at);
        assert!(start.elapsed() < time + LATE, "it connected for {:?}", start.elapsed());
        let client = match client {
            Ok(client) => client,
            Err(error) => return Made::NotConnected(error.to_string()),
        };
        let each = calls.into_iter().map(|call| {
            let start = Instant::now();
            let result = make(&client, call);
            assert!(start.elapsed() < time + LATE, "{result:?} took {:?}", start.elapsed());
            result
        });
        Made::Calls(each.collect())
    }

    /// Whether these are the arguments of the call.
    pub(super) fn is(call: &Call, arguments: &[u8]) -> bool {
        match Call::read(call.method(), arguments) {
            Read::Call(read) => read == *call,
            // A table lies as it happens to.
            Read::Either => call.method() == WORDS,
            // A blob in shared memory.
            Read::Block => true,
            Read::Nothing => false,
        }
    }
}

fn make(client: &MixClient, call: Call) -> Result<Answer, Failed> {
    Ok(match call {
        Call::Add(a, b) => Answer::Number(client.add(a, b)?),
        Call::Text(text) => Answer::Text(client.text(&text)?),
        Call::Bytes(bytes, wanted) => Answer::Bytes(client.bytes(&bytes, wanted)?),
        Call::Words(words) => Answer::Words(client.words(words.into_iter().collect::<HashMap<_, _>>())?),
        Call::Shape(shape) => Answer::Shape(client.shape(shape)?),
        Call::Measure(frame) => Answer::Number(client.measure(Blob::from(frame))?),
        Call::Render(length) => Answer::Frame(client.render(length)?.to_vec()),
        Call::Note(text) => {
            client.note(&text)?;
            Answer::None
        }
    })
}
