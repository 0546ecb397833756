//! Slots, frames and hellos, without a connection: a producer and a consumer over memory that the fuzzer writes to.

use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::shm::consumer::Consumer;
use shmrpc_transport::shm::producer::Producer;
use shmrpc_transport::slot::{FLAG_BLOCK, HEADER, Header, INLINE, Kind, LaneSide, SLOTS};
use shmrpc_transport::sys::futex::{Stop, Until};

use crate::input::Input;

/// Slots, frames and hellos that a hostile peer wrote: nothing panics, and what is taken is within bounds.
pub fn slot(data: &[u8]) {
    if let Some(head) = data.first_chunk::<HEADER>()
        && let Ok(header) = Header::from_frame(head)
    {
        assert_eq!(&header.to_frame(), head);
    }
    drop(Hello::from_bytes(data));

    let (own, peer) = (Side::new(), Side::new());
    let mut producer = Producer::new(own.clone(), peer.clone());
    let mut consumer = Consumer::new(own, peer.clone());
    let stop = Stop::default();
    let mut input = Input(data);
    let mut position = 0_u32;
    while !input.is_empty() {
        match input.byte() % 7 {
            0 => peer.scribble(input.word() as usize, input.word()),
            1 => {
                // A well-formed stamp over whatever lies in the slot.
                let slot = 16 + (position % SLOTS) as usize * 8;
                let low = position.wrapping_add(1);
                peer.scribble(slot, u64::from(low) | input.word() << 32);
                peer.scribble(slot + 1, input.word());
                peer.scribble(slot + 2, input.word());
            }
            2 if consumer.ready() => {
                let mut payload = [0; INLINE / 8];
                let taken = consumer.take(&mut payload);
                position = position.wrapping_add(1);
                match taken {
                    Ok(header) if header.flags & FLAG_BLOCK == 0 => assert!(header.length as usize <= INLINE),
                    Ok(header) => assert_eq!(header.with_descriptors(0).flags, FLAG_BLOCK),
                    // The lane is poisoned.
                    Err(_) => return,
                }
                consumer.finish();
            }
            3 => match producer.try_claim() {
                Ok(true) => {
                    producer.publish(Header::new(Kind::Request), &[1; INLINE / 8]);
                    producer.notify();
                }
                Ok(false) => {}
                Err(_) => return,
            },
            4 => {
                if producer.refresh_credits().is_err() {
                    return;
                }
            }
            5 => {
                stop.set();
                if consumer.wait(&stop, &mut Until::after(Duration::ZERO)).is_err() {
                    return;
                }
            }
            _ => {
                let _ = producer.was_taken(input.byte().into());
                producer.tell_the_sleeping(&mut consumer);
            }
        }
        assert!(producer.outstanding() <= SLOTS);
    }
}

/// One side of a lane in plain memory that the fuzzer may write to, as a hostile peer writes to its own.
#[derive(Clone)]
struct Side(Rc<Memory>);

struct Memory(*mut u64);

const WORDS: usize = size_of::<LaneSide>() / 8;

impl Memory {
    fn layout() -> std::alloc::Layout {
        std::alloc::Layout::new::<LaneSide>()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `Side::new` with this layout.
        unsafe { std::alloc::dealloc(self.0.cast(), Memory::layout()) };
    }
}

impl Side {
    fn new() -> Self {
        // SAFETY: a lane side is not of size zero.
        let memory = unsafe { std::alloc::alloc_zeroed(Memory::layout()) };
        assert!(!memory.is_null());
        Self(Rc::new(Memory(memory.cast())))
    }

    /// What a hostile owner does: any bytes, anywhere.
    fn scribble(&self, word: usize, value: u64) {
        let at = self.0.0.wrapping_add(word % WORDS);
        // SAFETY: inside the allocation; one thread only.
        unsafe { at.write(value) };
    }
}

impl Deref for Side {
    type Target = LaneSide;

    fn deref(&self) -> &LaneSide {
        // SAFETY: zeroed memory of the size and alignment of a lane side, which is made of atomics.
        unsafe { &*self.0.0.cast() }
    }
}
