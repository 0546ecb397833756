//! Handing a payload over: copied into shared memory, published with one store, read by the other process, answered
//! with one store. Read where it lies, or copied into private memory first.

use std::sync::atomic::Ordering::{Acquire, Release};

use crate::{
    error::{Error, Result},
    shared::Shared,
    work::touch_lines,
};

/// The caller: hands `payload` over in each of the rounds `first..first + count` (from 1) and checks each answer.
pub(crate) fn call(shared: &Shared, payload: &[u8], sum: u64, first: u64, count: u64) -> Result<()> {
    let (ask, answer) = (shared.word(0), shared.word(4));
    for round in first..first + count {
        shared.copy_in(payload);
        ask.store(round, Release);
        let answered = loop {
            let word = answer.load(Acquire);
            if word >> 32 == round {
                break word & 0xffff_ffff;
            }
        };
        if answered != sum {
            return Err(Error::Peer(format!("answered {answered} to a payload with the sum {sum}")));
        }
    }
    Ok(())
}

/// The peer: reads one byte of every line in each of the rounds `1..=count`, where the payload lies.
pub(crate) fn serve(shared: &Shared, len: usize, count: u64) {
    answer(shared, count, || shared.touch(len));
}

/// The peer: the same, after a copy into `private`, which is as long as the payload and warm.
pub(crate) fn serve_copied(shared: &Shared, private: &mut [u8], count: u64) {
    answer(shared, count, || {
        shared.copy_out(private);
        touch_lines(private)
    });
}

#[inline(always)]
fn answer(shared: &Shared, count: u64, mut read: impl FnMut() -> u64) {
    let (ask, answer) = (shared.word(0), shared.word(4));
    for round in 1..=count {
        while ask.load(Acquire) != round {}
        // Round and sum in one word: the sum of the largest payload is below 2^27.
        answer.store(round << 32 | read(), Release);
    }
}
