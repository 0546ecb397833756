//! A lane that the fuzzer has opened, and all that it was told there.

use shmrpc_transport::slot::{Header, Kind};

use super::end::End;
use super::model::{self, Fate, Said};
use crate::ground::Ground as Shared;

/// Bytes that nobody has read: there may be no room for a last word.
const MUCH: usize = 50_000;

/// Why a lane is not opened whose connection is another server's, or nobody's.
pub(super) const NO_CONNECTION: &[u8] = b"there is no such connection any more";

pub(super) struct Lane {
    pub(super) end: End,
    pub(super) number: u32,
    pub(super) said: Vec<u8>,
    /// Messages that were there when the server began to drain.
    pub(super) kept: u32,
    /// Whether that was before the lane was asked for.
    pub(super) late: bool,
    /// Whether more was said over TCP when the server had begun to drain. If it has closed its socket, the system forgets then
    /// what the fuzzer had no room for.
    pub(super) forgets: bool,
    /// Whether nothing more can be said.
    pub(super) finished: bool,
}

impl Lane {
    /// What it was told is what it had to be.
    pub(super) fn check(mut self, fate: Fate, own: Option<&Shared>, small: bool, strays: bool) {
        let much = self.end.heard.len() > MUCH;
        let (due, all) = model::lane(&self.said, own);
        let fate = if let Fate::Lives(_) = fate { all } else { fate };
        let messages = if let Fate::Lives(messages) = all { messages } else { u32::MAX };
        let is_sure = matches!(fate, Fate::Lives(_) | Fate::Drains);
        let Some((header, text)) = self.end.cut() else {
            assert!(!is_sure || self.late, "the lane was not opened");
            return;
        };
        if self.late {
            let drains = header == Header::new(Kind::GoAway);
            assert!(drains || header.kind == Kind::Failure && text == NO_CONNECTION, "{header:?}: {text:?}");
            return assert!(self.end.heard.is_empty());
        }
        if header.kind == Kind::Failure && !is_sure {
            // The connection was not there any more.
            return;
        }
        assert_eq!((header.kind, header.call_id, header.block), (Kind::LaneOpen, 1, self.number));
        let (mut due, mut answered) = (due.into_iter(), 0);
        while let Some((header, payload)) = self.end.cut() {
            let next = due.next();
            if header.kind == Kind::GoAway {
                assert!(self.end.heard.is_empty() && header.length == 0);
                let taken = header.call_id;
                match fate {
                    Fate::Lives(all) => assert_eq!((taken, next), (all, None)),
                    Fate::Drains => {
                        // What it has taken is answered, and nothing else.
                        let least = self.kept.max(answered);
                        let most = next.as_ref().map_or(messages, |next| next.to - 1);
                        assert!(
                            (least..=most).contains(&taken),
                            "{taken} were taken, and not {least} to {most}"
                        );
                    }
                    Fate::May | Fate::Dies => {}
                }
                return;
            }
            let Some(Said { to, call_id, reply }) = next else { panic!("{header:?} to nothing") };
            answered = to;
            let loose = (strays || small && payload.len() <= 100) && header.call_id == call_id;
            assert!(
                loose || model::is_reply(header, &payload, call_id, &reply, own.is_some()),
                "{header:?} came where {reply:?} to {call_id} was due"
            );
        }
        let to = due.next().map(|next| next.to);
        let may_lack = !is_sure || much && to.is_none() || fate == Fate::Drains && (much || self.forgets);
        assert!(may_lack, "{fate:?}: it ended without goaway, with a reply to {to:?} due");
    }
}
