//! A message as the fuzzer makes it up: good, or odd in one respect.

use shmrpc_transport::slot::{FLAG_BLOCK, INLINE, Kind};

use super::script::Tape;
use super::service::{Answer, Call, METHODS, ONEWAY, sample_failure};
use crate::ground::{ARENA, Ground};
use crate::input::Input;
use crate::wire::{MAX_MESSAGE, base_len};

pub(super) struct Plan {
    /// Call id, route, room, and five of payload, as they are read.
    pub(super) words: [u64; 8],
    /// What lies in the block, if it is in one.
    pub(super) payload: Vec<u8>,
}

impl Plan {
    /// A request if the product `serves`; else a reply to the call of the method that is waited for.
    pub(super) fn new(tape: &mut Tape, serves: bool, awaiting: Option<(u32, u16)>) -> Self {
        tape.read(|input| {
            let odd = input.byte();
            let odd = if odd < 96 { None } else { Some(odd % 18) };
            let choice = input.byte();
            let mut method = u16::from(choice) % METHODS as u16;
            let (mut call_id, asked) = awaiting.unwrap_or((choice.into(), method));
            if !serves && choice % 8 != 7 {
                method = asked;
            }
            let (mut kind, mut payload) = if serves {
                let oneway = method == ONEWAY || choice >= 196;
                let kind = if oneway { Kind::OneWay } else { Kind::Request };
                (kind as u8, Call::sample(method, input).payload(input))
            } else {
                reply(method, choice, input)
            };
            let (mut block, mut segment) = (u32::from(choice), 0);
            let mut in_block = payload.len() > INLINE;
            match odd {
                Some(0) => payload = input.bytes(choice.into()).to_vec(),
                Some(1..=3) => {
                    for _ in 0..=choice % 3 {
                        let at = usize::from(input.short()) % payload.len().max(1);
                        payload.iter_mut().rev().nth(at).into_iter().for_each(|byte| *byte ^= input.byte());
                    }
                }
                Some(4) => kind = input.byte(),
                Some(5) => call_id = input.half(),
                Some(6) => method = input.short(),
                Some(7) => block = input.half(),
                Some(8) => segment = input.half(),
                Some(9 | 10) => in_block = true,
                Some(11) => {
                    payload = input.bytes(INLINE).to_vec();
                    in_block = choice & 1 == 1;
                }
                _ => {}
            }
            in_block |= payload.len() > INLINE;
            let mut length = payload.len() as u32;
            let mut flags = if in_block { FLAG_BLOCK } else { 0 };
            let room = (base_len() - ARENA as u64 - u64::from(length)) / 64;
            let mut offset = ARENA as u64 + u64::from(choice) * 37 % room * 64;
            match odd {
                Some(12) if choice & 1 == 1 => length = input.half(),
                // As long as a message may be, or longer, and all of it there.
                Some(12) => {
                    length = MAX_MESSAGE as u32 + u32::from(choice % 8) * 64;
                    (flags, offset) = (FLAG_BLOCK, u64::from(choice) * 64);
                }
                Some(13) => length = input.short().into(),
                Some(14) => length = length.wrapping_add_signed((input.byte() as i8).into()),
                Some(15) => flags = input.byte(),
                Some(16) => offset = input.word(),
                Some(17) => offset = base_len() - u64::from(input.byte()) * 32,
                _ => {}
            }
            let method = if serves { method } else { 0 };
            let route =
                u64::from(method) | u64::from(kind) << 16 | u64::from(flags) << 24 | u64::from(length) << 32;
            let timeout = if serves { u64::from(choice) << 32 } else { 0 };
            let ids = u64::from(segment) | u64::from(!block) << 32;
            let [first, second, third, fourth, fifth] =
                if flags & FLAG_BLOCK != 0 { [ids, offset, 0, 0, 0] } else { inline(&payload) };
            let room = u64::from(block) | timeout;
            let words = [call_id.into(), route, room, first, second, third, fourth, fifth];
            Self { words, payload }
        })
    }

    /// Puts the payload where the product reads it in place.
    pub(super) fn write(&self, own: &Ground) {
        let at = self.words[4];
        if at >= ARENA as u64 && at.is_multiple_of(64) && self.payload.len() > INLINE {
            let room = base_len().saturating_sub(at) as usize / 8 * 8;
            own.write(at as usize, &self.payload[..self.payload.len().min(room)]);
        }
    }
}

/// The payload as a slot has it, cut to what that holds.
fn inline(payload: &[u8]) -> [u64; INLINE / 8] {
    let mut bytes = [0; INLINE];
    let length = payload.len().min(INLINE);
    bytes[..length].copy_from_slice(&payload[..length]);
    std::array::from_fn(|at| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap()))
}

/// An answer, and its kind.
fn reply(method: u16, choice: u8, input: &mut Input<'_>) -> (u8, Vec<u8>) {
    match choice {
        0..200 => {
            let answer = Answer::sample(method, input);
            let is_error = matches!(answer, Answer::Refused(_)) != (choice >= 190);
            (if is_error { Kind::ServiceError } else { Kind::Reply } as u8, answer.payload(input))
        }
        _ => (Kind::Failure as u8, sample_failure(input)),
    }
}
