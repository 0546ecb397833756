//! Models of every ordering argument of a lane, run by loom: `RUSTFLAGS="--cfg loom" cargo test -p shmrpc-transport
//! --release --test loom`. A lost wake-up shows as a deadlock, a missing fence as a wrong value.
#![cfg(loom)]

use core::ops::Deref;

use loom::sync::Arc;
use loom::thread;
use shmrpc_transport::shm::consumer::{Consumer, Wait};
use shmrpc_transport::shm::producer::Producer;
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

/// A sender without credits sleeps until the receiver gives one back, and overwrites only what was read.
#[test]
fn credits() {
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(3);
    bounded.check(|| {
        let (mut producer, mut consumer) = lane();
        // A ring of two is full before the threads meet.
        for call_id in 0..2 {
            producer.publish(header(call_id), &[u64::from(call_id); 5]);
        }
        let receiver = thread::spawn(move || {
            let stop = Stop::default();
            for call_id in 0..3u32 {
                if !consumer.ready() {
                    consumer.tell_creditor();
                }
                assert_eq!(consumer.wait(&stop, &mut Until::never()).unwrap(), Wait::Ready);
                let mut payload = [0; 5];
                assert_eq!(consumer.take(&mut payload).unwrap().call_id, call_id);
                assert_eq!(payload, [u64::from(call_id); 5]);
                consumer.finish();
            }
        });
        let stop = Stop::default();
        while !producer.try_claim().unwrap() {
            producer.sleep_for_credit(&stop, &mut Until::never()).unwrap();
        }
        producer.publish(header(2), &[2; 5]);
        producer.notify();
        receiver.join().unwrap();
    });
}

/// The release word of a block: what the receiver read of it comes before what the sender writes next.
#[test]
fn release() {
    loom::model(|| {
        let release = Arc::new(Word::default());
        let block = Arc::new(Word::default());
        let (word, memory) = (Arc::clone(&release), Arc::clone(&block));
        let receiver = thread::spawn(move || {
            // The receiver may only see the value of its own message.
            assert_eq!(memory.load(loom::sync::atomic::Ordering::Relaxed), 0);
            word.store(1, loom::sync::atomic::Ordering::Release);
        });
        if release.load(loom::sync::atomic::Ordering::Acquire) == 1 {
            block.store(2, loom::sync::atomic::Ordering::Relaxed);
        }
        receiver.join().unwrap();
    });
}

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
            handler.store(1, loom::sync::atomic::Ordering::Relaxed);
        });
        let ran = effect.load(loom::sync::atomic::Ordering::Relaxed) == 1;
        loom::sync::atomic::fence(loom::sync::atomic::Ordering::Acquire);
        if ran {
            assert!(producer.was_taken(0));
        }
        receiver.join().unwrap();
    });
}
