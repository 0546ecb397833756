//! What a server must make of what comes: of a hello, and of the frames of a lane.

use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::slot::{BLOCK_REF, BadHeader, FLAG_BLOCK, HEADER, Header, Kind};

use super::service::{Answer, Call, ONEWAY, QUESTION, Read, WORDS};
use super::{Ground, service::METHODS};
use crate::archive::decode;
use crate::ground::{ARENA, Ground as Shared};
use crate::wire::{MAX_MESSAGE, base_len};

/// What comes of a hello.
#[derive(Debug)]
pub(super) enum Due {
    Welcome,
    /// The reason has these words.
    Refused(String),
    /// More has to come; an end there is answered with these words, over TCP.
    More(&'static str),
    /// A hello whose application is nobody's.
    Either,
}

/// The rules of a hello, once more. Descriptors beside it are right.
pub(super) fn hello(bytes: &[u8], ground: Ground) -> Due {
    let tcp = ground == Ground::Tcp;
    let refused = |why: &str| Due::Refused(why.to_owned());
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else { return Due::More("no hello came") };
    let header = match Header::from_frame(head) {
        Ok(header) => header,
        Err(BadHeader::Stamp { found, .. }) if tcp && found & 0xffff == 0x0316 => {
            return refused("this port speaks plain TCP, and the client TLS");
        }
        Err(bad) if tcp => {
            return Due::Refused(format!("the other end does not speak shmrpc: bad frame: {bad}"));
        }
        Err(bad) => return Due::Refused(bad.to_string()),
    };
    if header.length > 1 << 20 {
        return refused("above");
    }
    let length = if tcp && header.flags & FLAG_BLOCK != 0 { BLOCK_REF } else { header.length as usize };
    let Some(payload) = rest.get(..length) else { return Due::More("no hello came") };
    if header != (Header { length: header.length, ..Header::new(header.kind) }) {
        return refused("fields that mean nothing there");
    }
    match header.kind {
        Kind::Hello => {}
        Kind::Failure if !tcp => return Due::Refused(String::from_utf8_lossy(payload).into_owned()),
        other => return Due::Refused(format!("it began with {other:?}")),
    }
    match Hello::from_bytes(payload) {
        Err(bad) => Due::Refused(bad.to_string()),
        Ok(hello) if tcp && hello.token != [0; 16] => refused("there is no such connection any more"),
        Ok(hello) if hello.application == *QUESTION && hello.base_len == 0 && ground != Ground::Memory => {
            Due::Welcome
        }
        Ok(hello)
            if hello.application == *QUESTION && ground == Ground::Memory && hello.base_len == base_len() =>
        {
            Due::Welcome
        }
        Ok(_) => Due::Either,
    }
}

/// What a server says to a request.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    Answer(u16, Answer),
    /// Arguments that are none.
    Refused,
    /// No such method.
    Unknown,
    /// An answer to some words, or that they are none.
    Words,
    Any,
}

/// How a lane ends if the fuzzer says no more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// It goes on, after so many messages.
    Lives(u32),
    /// The server drains: it serves what has come before, and maybe more.
    Drains,
    /// It goes on, or not.
    May,
    /// The connection ends.
    Dies,
}

/// What a server says on a lane.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    /// To which message: the first is 1.
    pub(super) to: u32,
    pub(super) call_id: u32,
    pub(super) reply: Reply,
}

/// What comes of all that was said on a lane, and how it ends.
pub(super) fn lane(said: &[u8], own: Option<&Shared>) -> (Vec<Said>, Fate) {
    let (mut rest, mut replies, mut taken, mut may) = (said, Vec::new(), 0, false);
    while let Some((head, behind)) = rest.split_first_chunk::<HEADER>() {
        let Ok(header) = Header::from_frame(head) else { return (replies, Fate::Dies) };
        if u64::from(header.length) > MAX_MESSAGE {
            return (replies, Fate::Dies);
        }
        let block = header.flags & FLAG_BLOCK != 0;
        if header.flags & !FLAG_BLOCK != 0 {
            // Descriptors, which are not there.
            return (replies, Fate::May);
        }
        let length = if block { BLOCK_REF } else { header.length as usize };
        let Some((payload, behind)) = behind.split_at_checked(length) else { break };
        rest = behind;
        match header.kind {
            Kind::Ping => continue,
            Kind::Request | Kind::OneWay => {}
            _ => return (replies, Fate::Dies),
        }
        let arguments = if block { in_memory(header, payload, own) } else { Some(payload.to_vec()) };
        let Some(arguments) = arguments else { return (replies, Fate::Dies) };
        taken += 1;
        let read = Call::read(header.method, &arguments);
        let reply = match read {
            Read::Block if own.is_none() => return (replies, Fate::Dies),
            Read::Block => {
                may = true;
                Reply::Any
            }
            _ if header.method >= METHODS => Reply::Unknown,
            Read::Nothing => Reply::Refused,
            Read::Either => Reply::Words,
            Read::Call(call) => Reply::Answer(header.method, call.answer()),
        };
        // A oneway method that is called as another one is not answered; the caller's mistake.
        let silent =
            header.kind == Kind::OneWay || header.method == ONEWAY && matches!(reply, Reply::Answer(..));
        if !silent {
            replies.push(Said { to: taken, call_id: header.call_id, reply });
        }
    }
    (replies, if may { Fate::May } else { Fate::Lives(taken) })
}

/// What a block holds, if it is one.
fn in_memory(header: Header, place: &[u8], own: Option<&Shared>) -> Option<Vec<u8>> {
    let segment = u32::from_le_bytes(place[..4].try_into().unwrap());
    let offset = u64::from_le_bytes(place[8..16].try_into().unwrap());
    let end = offset.checked_add(header.length.into())?;
    if header.block >= 4096 || segment != 0 || offset % 64 != 0 || end > base_len() {
        return None;
    }
    own?.read(usize::try_from(offset).unwrap(), header.length as usize)
}

/// Whether a server's frame is this reply. What lies in its memory is not looked at.
pub(super) fn is_reply(header: Header, payload: &[u8], call_id: u32, reply: &Reply, shared: bool) -> bool {
    if header.call_id != call_id {
        return false;
    }
    let code = || decode::<(u32, String)>(payload).map(|(code, _)| code);
    let in_memory = header.flags & FLAG_BLOCK != 0;
    match (header.kind, reply) {
        (_, Reply::Any) => true,
        // A blob, which lies there too.
        (Kind::Reply, Reply::Answer(_, Answer::Frame(_))) if shared => true,
        (Kind::Failure, Reply::Refused) => in_memory || code() == Some(3),
        (Kind::Failure, Reply::Unknown) => in_memory || code() == Some(2),
        (Kind::Failure, Reply::Words) => in_memory || code() == Some(3),
        (Kind::Reply, Reply::Words) => in_memory || Answer::read(WORDS, false, payload).is_some(),
        (Kind::Reply, Reply::Answer(_, Answer::Refused(_))) => false,
        (Kind::Reply, Reply::Answer(method, answer)) => {
            in_memory || Answer::read(*method, false, payload).as_ref() == Some(answer)
        }
        (Kind::ServiceError, Reply::Answer(method, answer @ Answer::Refused(_))) => {
            in_memory || Answer::read(*method, true, payload).as_ref() == Some(answer)
        }
        _ => false,
    }
}

/// Where a fuzzer's block may lie.
pub(super) fn place(turn: usize) -> usize {
    ARENA + turn * 64
}
