//! Models of every ordering argument of a lane, run by loom: `RUSTFLAGS="--cfg loom" cargo test -p shmrpc-transport
//! --release --test loom`. A lost wake-up shows as a deadlock, a missing fence as a wrong value.
#![cfg(loom)]

use core::ops::Deref;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{Ordering, fence};
use loom::thread;
use shmrpc_transport::exclusive::Exclusive;
use shmrpc_transport::life::Life;
use shmrpc_transport::shm::arena::{Arena, Block, UNIT};
use shmrpc_transport::shm::consumer::{Consumer, Wait};
use shmrpc_transport::shm::producer::Producer;
use shmrpc_transport::shm::release::ReleaseWord;
use shmrpc_transport::slot::{Header, Kind, LaneSide};
use shmrpc_transport::sync::Word;
use shmrpc_transport::sys::futex::{Stop, Until};

#[derive(Clone)]
struct Side(Arc<LaneSide>);

impl Deref for Side {
    type Target = LaneSide;
    fn deref(&self) -> &LaneSide {
        &self.0
    }
}

fn lane() -> (Producer<Side>, Consumer<Side>) {
    let (ours, theirs) = (Side(Arc::default()), Side(Arc::default()));
    (Producer::new(ours.clone(), theirs.clone()), Consumer::new(theirs, ours))
}

fn header(call_id: u32) -> Header {
    Header { call_id, length: 40, ..Header::new(Kind::Request) }
}

/// What is published is read whole, in order.
#[test]
fn publish_and_consume() {
    loom::model(|| {
        let (mut producer, mut consumer) = lane();
        let sender = thread::spawn(move || {
            for call_id in 0..2 {
                assert!(producer.try_claim().unwrap());
                producer.publish(header(call_id), &[u64::from(call_id) + 1; 5]);
            }
        });
        for call_id in 0..2 {
            while !consumer.ready() {
                thread::yield_now();
            }
            let mut payload = [0; 5];
            assert_eq!(consumer.take(&mut payload).unwrap().call_id, call_id);
            assert_eq!(payload, [u64::from(call_id) + 1; 5]);
            consumer.finish();
        }
        sender.join().unwrap();
    });
}

/// A sleeper is woken by whatever is published after it looked, or sees it.
#[test]
fn sleep_and_wake() {
    loom::model(|| {
        let (mut producer, mut consumer) = lane();
        let sender = thread::spawn(move || {
            producer.publish(header(7), &[1; 5]);
            producer.notify();
        });
        let stop = Stop::default();
        assert_eq!(consumer.wait(&stop, &mut Until::never()).unwrap(), Wait::Ready);
        assert_eq!(consumer.take(&mut [0; 5]).unwrap().call_id, 7);
        sender.join().unwrap();
    });
}

/// Two messages and one look at the sleeper: a batch wakes whoever sleeps on any of it.
#[test]
fn a_batch_wakes_too() {
    loom::model(|| {
        let (mut producer, mut consumer) = lane();
        let sender = thread::spawn(move || {
            producer.publish(header(0), &[1; 5]);
            producer.publish(header(1), &[1; 5]);
            producer.notify();
        });
        let stop = Stop::default();
        for call_id in 0..2 {
            assert_eq!(consumer.wait(&stop, &mut Until::never()).unwrap(), Wait::Ready);
            assert_eq!(consumer.take(&mut [0; 5]).unwrap().call_id, call_id);
        }
        sender.join().unwrap();
    });
}

/// A server publishes at once and looks at sleepers when it has nothing more to do.
#[test]
fn a_late_look_wakes_too() {
    loom::model(|| {
        let (ours, theirs) = (Side(Arc::default()), Side(Arc::default()));
        let mut replies = Producer::new(theirs.clone(), ours.clone());
        let mut requests = Consumer::new(theirs.clone(), ours.clone());
        let mut caller = Consumer::new(ours, theirs);
        let server = thread::spawn(move || {
            replies.publish(header(7), &[1; 5]);
            replies.wake_seen_sleeper();
            replies.tell_the_sleeping(&mut requests);
        });
        let stop = Stop::default();
        assert_eq!(caller.wait(&stop, &mut Until::never()).unwrap(), Wait::Ready);
        assert_eq!(caller.take(&mut [0; 5]).unwrap().call_id, 7);
        server.join().unwrap();
    });
}

/// A sender without credits sleeps until the receiver gives one back, and overwrites only what was read.
#[test]
fn credits() {
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(3);
    bounded.check(|| {
        let (ours, theirs) = (Side(Arc::default()), Side(Arc::default()));
        let mut producer = Producer::new(ours.clone(), theirs.clone());
        let mut replies = Producer::new(theirs.clone(), ours.clone());
        let mut consumer = Consumer::new(theirs, ours);
        // Payloads are written as bytes, too: loom reports one that does not come after the last was read.
        let payloads = Arc::new([Memory::default(), Memory::default()]);
        let read = Arc::clone(&payloads);
        // A ring of two is full before the threads meet.
        for call_id in 0..2 {
            payloads[call_id as usize].0.with_mut(|_| ());
            producer.publish(header(call_id), &[u64::from(call_id); 5]);
        }
        let receiver = thread::spawn(move || {
            let stop = Stop::default();
            for call_id in 0..3u32 {
                if !consumer.ready() {
                    replies.tell_the_sleeping(&mut consumer);
                }
                assert_eq!(consumer.wait(&stop, &mut Until::never()).unwrap(), Wait::Ready);
                let mut payload = [0; 5];
                assert_eq!(consumer.take(&mut payload).unwrap().call_id, call_id);
                assert_eq!(payload, [u64::from(call_id); 5]);
                read[call_id as usize % 2].0.with(|_| ());
                consumer.finish();
            }
        });
        let stop = Stop::default();
        while !producer.try_claim().unwrap() {
            producer.sleep_for_credit(&stop, &mut Until::never()).unwrap();
        }
        payloads[0].0.with_mut(|_| ());
        producer.publish(header(2), &[2; 5]);
        producer.notify();
        receiver.join().unwrap();
    });
}

/// A block is overwritten only after its receiver has read it, and only when it gave back this use of it.
#[test]
fn release() {
    loom::model(|| {
        let (mut producer, mut consumer) = lane();
        let release = Arc::new(ReleaseWord::default());
        let memory = Arc::new(Memory::default());
        let mut arena = Arena::default();
        // One block fills it.
        arena.add_segment(0, 0, UNIT);
        let send = |producer: &mut Producer<Side>, block: Block| {
            memory.0.with_mut(|_| ());
            producer.publish(Header { block: block.generation, ..header(0) }, &[0; 5]);
            block
        };
        let block = arena.allocate(1, |_| release.released()).unwrap();
        let block = send(&mut producer, block);
        arena.lend(block);
        let (word, shared) = (Arc::clone(&release), Arc::clone(&memory));
        let receiver = thread::spawn(move || {
            let header = consumer.take(&mut [0; 5]).unwrap();
            shared.0.with(|_| ());
            word.release(header.block);
        });
        if let Some(again) = arena.allocate(1, |_| release.released()) {
            send(&mut producer, again);
        }
        receiver.join().unwrap();
    });
}

/// Memory of a block or a slot: loom reports a write that does not come after what was read before.
#[derive(Default)]
struct Memory(UnsafeCell<()>);

// SAFETY: that only one thread at a time has it is what the model checks.
unsafe impl Sync for Memory {}
// SAFETY: as above.
unsafe impl Send for Memory {}

/// The taken counter proves only what is true: a message whose handler may have begun counts as taken.
#[test]
fn taken_before_the_handler() {
    loom::model(|| {
        let (mut producer, mut consumer) = lane();
        let effect = Arc::new(Word::default());
        producer.publish(header(0), &[0; 5]);
        let handler = Arc::clone(&effect);
        let receiver = thread::spawn(move || {
            consumer.take(&mut [0; 5]).unwrap();
            handler.store(1, Ordering::Relaxed);
        });
        let ran = effect.load(Ordering::Relaxed) == 1;
        fence(Ordering::Acquire);
        if ran {
            assert!(producer.was_taken(0));
        }
        receiver.join().unwrap();
    });
}

/// A message that counts as not taken when the end of its connection can be seen is never run.
#[test]
fn not_taken_is_never_run() {
    loom::model(|| {
        let (mut producer, mut consumer) = lane();
        let life = Arc::new(Life::new(1));
        producer.publish(header(0), &[0; 5]);
        let alive = Arc::clone(&life);
        let server = thread::spawn(move || {
            // As `ServingLane::next` does it.
            alive.may_run(0) && consumer.take(&mut [0; 5]).is_ok() && alive.may_run(0)
        });
        assert!(life.end("closed"));
        life.stop_all();
        life.reach_all();
        // The socket is shut down here, so the client sees the end, and reads the counter.
        let taken = producer.was_taken(0);
        let ran = server.join().unwrap();
        assert!(taken || !ran);
    });
}

/// A drain stops the waits of lanes and nothing else: what is taken is run.
#[test]
fn a_drain_lets_run() {
    loom::model(|| {
        let life = Arc::new(Life::<()>::new(1));
        let draining = Arc::clone(&life);
        let drain = thread::spawn(move || draining.stop_all());
        assert!(life.may_run(0));
        drain.join().unwrap();
    });
}

/// Whoever sees a stop word of a connection that ended sees the end.
#[test]
fn who_is_stopped_knows_why() {
    loom::model(|| {
        let life = Arc::new(Life::new(1));
        let ending = Arc::clone(&life);
        let end = thread::spawn(move || {
            assert!(ending.end("closed"));
            ending.stop_all();
            ending.reach_all();
        });
        if life.stop(0).unwrap().is_set() {
            assert_eq!(life.death(), Some(&"closed"));
        }
        end.join().unwrap();
    });
}

/// A value behind a flag: one thread at a time has it, and sees what the last one did. Loom watches who has it.
#[test]
fn exclusive() {
    loom::model(|| {
        let value = Arc::new(Exclusive::new(0));
        let take = |value: &Exclusive<u32>| {
            if let Some(mut taken) = value.take() {
                *taken += 1;
            }
        };
        let threads = [(); 2].map(|()| {
            let value = Arc::clone(&value);
            thread::spawn(move || take(&value))
        });
        take(&value);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Program order over two lanes: a call that follows a one-way call which is done runs after it.
#[test]
fn trail() {
    loom::model(|| {
        let (ours, theirs) = (Side(Arc::default()), Side(Arc::default()));
        let mut first = Producer::new(ours.clone(), theirs.clone());
        let mut oneway = Consumer::new(theirs.clone(), ours);
        let (mut second, mut call) = lane();
        let effect = Arc::new(Word::default());
        first.publish(header(0), &[0; 5]);
        let trail = first.position();
        let handler = Arc::clone(&effect);
        let server = thread::spawn(move || {
            oneway.take(&mut [0; 5]).unwrap();
            handler.store(1, Ordering::Relaxed);
            oneway.finish();
        });
        let other = thread::spawn(move || {
            if call.ready() {
                call.take(&mut [0; 5]).unwrap();
                assert_eq!(effect.load(Ordering::Relaxed), 1);
            }
        });
        if Producer::<Side>::done_of(&theirs) == trail {
            second.publish(header(1), &[0; 5]);
        }
        server.join().unwrap();
        other.join().unwrap();
    });
}
