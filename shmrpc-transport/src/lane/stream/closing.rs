//! The end of a lane that its caller leaves in order: nothing that it sent is to be lost.

use core::mem;

use super::super::{NoReply, Reply};
use super::{Caller, Line};
use crate::sys::futex::Until;

impl Caller {
    /// Whether the server may not be done with one-way calls that were sent.
    fn has_oneway(&self) -> bool {
        // A call whose reply is overdue came last.
        !self.connection.is_done(self.lane, self.overdue.unwrap_or(self.next_call))
    }

    /// No call follows. If the server is not done with the one-way calls that were sent, it is told, so that it says when it is.
    pub(in crate::lane) fn close(&mut self) {
        self.is_free();
        if self.has_oneway() {
            self.line = match mem::replace(&mut self.line, Line::Closed) {
                Line::Open(open) => {
                    open.stream.end_sending();
                    Line::Closing(open)
                }
                line => line,
            };
        }
    }

    /// Waits until the server is done with them, or never will be. After [`Caller::close`].
    pub(in crate::lane) fn finish(&mut self, until: &mut Until) {
        while self.has_oneway() && matches!(self.line, Line::Closing(_)) {
            let due = self.overdue.take().unwrap_or(self.next_call);
            match self.receive(due, &mut Reply::empty(), Some(&mut *until)) {
                Err(none) if matches!(*none, NoReply::TimedOut { .. }) => return,
                _ => {}
            }
        }
    }
}
