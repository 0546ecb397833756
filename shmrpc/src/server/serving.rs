//! One lane of a server: its requests, one after another, and what becomes of handlers that panic.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shmrpc_transport::lane::{Incoming, ServingLane};

use crate::context::Context;
use crate::dispatch::{Failure, Request, Service, fail, panic_text};
use crate::greeting::Table;

/// Serves one lane, inline and in order, until its connection ends.
pub(super) fn serve_lane(mut lane: ServingLane, table: &Table) {
    let methods: Box<[Method<'_>]> = table.iter().map(|(service, index)| (&**service, *index)).collect();
    let mut context = Context::new(lane.connection());
    let mut incoming = Incoming::empty();
    while lane.next(&mut incoming) {
        serve_one(&mut lane, &methods, &mut context, &mut incoming);
        lane.finish();
    }
}

/// A service, and the index of the method in it.
type Method<'a> = (&'a dyn Service, u16);

#[inline(always)]
fn serve_one(lane: &mut ServingLane, methods: &[Method<'_>], context: &mut Context, incoming: &mut Incoming) {
    context.timeout_ms = incoming.timeout_ms;
    if !incoming.descriptors.is_empty() && !hand_over(lane, context, incoming) {
        return;
    }
    let known = methods.get(usize::from(incoming.method));
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
