//! One lane of a server: its requests, one after another, and what becomes of handlers that panic.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use shmrpc_transport::callers::Trails;
use shmrpc_transport::lane::{Incoming, Next, Patience, ServingLane};
use shmrpc_transport::places::Place;

use super::team::{After, Lane};
use crate::context::Context;
use crate::dispatch::{Failure, Request, fail, panic_text};
use crate::greeting::Table;

/// One lane, with all that its calls need: any thread may serve it.
pub(super) struct ServedLane {
    lane: ServingLane,
    table: Arc<Table>,
    context: Context,
    incoming: Incoming,
    /// Those of its handlers, while nobody serves it.
    trails: Trails,
    /// Given back after the lane.
    _places: (Option<Place>, Place),
}

impl ServedLane {
    pub(super) fn new(lane: ServingLane, table: Arc<Table>, places: (Option<Place>, Place)) -> Self {
        let context = Context::new(lane.connection());
        Self { lane, table, context, incoming: Incoming::empty(), trails: Trails::default(), _places: places }
    }
}

impl ServedLane {
    fn serve_on(&mut self, mut patience: Patience) -> After {
        let Self { lane, table, context, incoming, .. } = self;
        loop {
            match lane.next_with(incoming, patience) {
                Next::Request => {}
                Next::Nothing => return After::Nothing,
                Next::Ended => return After::Ended,
            }
            serve_one(lane, table, context, incoming);
            lane.finish();
            patience = Patience::UntilCrowded;
        }
    }
}

impl Lane for ServedLane {
    fn serve(&mut self, patience: Patience) -> After {
        self.trails.swap();
        let after = self.serve_on(patience);
        self.trails.swap();
        after
    }

    fn take_turn(&mut self) -> After {
        let Self { lane, table, context, incoming, trails, .. } = self;
        match lane.next_with(incoming, Patience::None) {
            Next::Request => {}
            Next::Nothing => return After::Nothing,
            Next::Ended => return After::Ended,
        }
        trails.swap();
        serve_one(lane, table, context, incoming);
        trails.swap();
        lane.finish();
        if !lane.is_due() {
            lane.tell_the_sleeping();
        }
        After::Nothing
    }

    fn is_due(&self) -> bool {
        self.lane.is_due()
    }

    fn forget_crowd(&mut self) {
        self.lane.forget_crowd();
    }
}

#[inline(always)]
fn serve_one(lane: &mut ServingLane, table: &Table, context: &mut Context, incoming: &mut Incoming) {
    context.timeout_ms = incoming.timeout_ms;
    if !incoming.descriptors.is_empty() && !hand_over(lane, context, incoming) {
        return;
    }
    let known = table.get(usize::from(incoming.method));
    let run = AssertUnwindSafe(|| {
        let request = Request { lane, incoming, context };
        match known {
            Some((service, index)) => service.dispatch(*index, request),
            None => request.unknown_method(),
        }
    });
    // A claim that a panic leaves behind was never published, so the lane is as it was.
    if let Err(panic) = catch_unwind(run) {
        panicked(lane, incoming, panic);
    }
    // A one-way call's arguments go back here, and descriptors that its method did not ask for.
    incoming.message.clear();
    context.descriptors.get_mut().clear();
}

/// Gives the handler what came with its call. False if there was too much of it: then the call is answered.
#[cold]
fn hand_over(lane: &mut ServingLane, context: &mut Context, incoming: &mut Incoming) -> bool {
    let came = mem::take(&mut incoming.descriptors);
    if let Some(lost) = came.lost() {
        fail(lane, incoming, Failure::Overloaded, lost);
        return false;
    }
    *context.descriptors.get_mut() = came;
    true
}

#[cold]
fn panicked(lane: &mut ServingLane, incoming: &mut Incoming, panic: Box<dyn Any + Send>) {
    let text = panic_text(&*panic);
    if incoming.answered {
        tracing::warn!(text, "a result panicked while it was dropped; its call is answered");
    } else {
        fail(lane, incoming, Failure::Panicked, text);
    }
    // What was thrown may throw again while it is dropped. Then the rest of it stays where it is.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        Box::leak(again);
    }
}
