//! Blobs in the arguments of a call, received over a connection whose memory is the fuzzer's: refused, or so many numbers,
//! aligned, which are those that are there.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use shmrpc::Peers;
use shmrpc::private::BlobWire;
use shmrpc_transport::connection::{ArchivedOnWire, BadBlob, Connection, OnWire};
use shmrpc_transport::message::{Message, Number, Part, Pool, SMALL};
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{Header, Kind};

use super::{Changes, Lent};
use crate::archive::{decode, encode};
use crate::ground::{ARENA, Ground};
use crate::input::Input;
use crate::service::{is_block, on_wire, size};
use crate::wire::{House, MAX_MESSAGE, Wire, assert_few_descriptors, base_len};

/// What a server reads.
type Arguments = (BlobWire<u8>, BlobWire<f32>, u32, BlobWire<u64>);
/// The same for whoever knows no numbers.
type Wires = (OnWire, OnWire, u32, OnWire);

pub(super) fn blobs(mut input: Input<'_>) {
    let mode = input.byte();
    if mode.is_multiple_of(4) {
        check(input.0);
        return;
    }
    let changes = Changes::new(&mut input);
    // Half of the time the numbers of the last are not whole.
    let wires: [OnWire; 3] = std::array::from_fn(|_| on_wire(vec![7; size(&mut input) & !3], &mut input));
    let [first, second, third] = wires;
    // Above 4 KiB a payload is read in place, if its sender is trusted.
    let mut payload = vec![0; if mode % 4 == 1 { SMALL } else { 0 }];
    payload.extend(encode::<Wires>(&(first, second, input.half(), third)));
    changes.make(&mut payload);
    check(&payload);
}

fn check(payload: &[u8]) {
    let wires = decode::<Wires>(payload);
    for trusted in [false, true] {
        let mut message = Message::empty();
        message.admit(Lent::new(payload).0, trusted, Part::Message, &Pool::new(1 << 30));
        match (message.access::<Arguments>(), &wires) {
            (Ok(arguments), Some(wires)) => {
                let mut peer = Peer::of(trusted);
                peer.receive::<u8>(&arguments.0, &wires.0);
                peer.receive::<f32>(&arguments.1, &wires.1);
                peer.receive::<u64>(&arguments.3, &wires.3);
                peer.keep();
            }
            (Err(_), None) => {}
            (found, wires) => panic!("{wires:?} are arguments: {}", found.is_ok()),
        }
    }
    assert_few_descriptors();
}

/// The product's end of a connection, and the fuzzer's.
struct Peer {
    connection: Arc<Connection>,
    trusted: bool,
    product: Ground,
    _wire: Wire,
}

/// The fuzzer's memory, which it shows to all. Each word of its arena is another.
static OWN: LazyLock<(Ground, OwnedFd)> = LazyLock::new(|| {
    let (own, fd) = Ground::own();
    let words = (ARENA as u64..base_len()).step_by(8);
    let bytes: Vec<u8> = words.flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    own.write(ARENA, &bytes);
    (own, fd)
});

/// Those that no bad blob has ended.
static KEPT: Mutex<[Option<Peer>; 2]> = Mutex::new([None, None]);

impl Peer {
    fn of(trusted: bool) -> Self {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(trusted)].take();
        kept.unwrap_or_else(|| Self::new(trusted))
    }

    fn new(trusted: bool) -> Self {
        static HOUSES: LazyLock<[House; 2]> =
            LazyLock::new(|| [House::new(Peers::Nobody), House::new(Peers::SameUser)]);
        let (mut wire, told) = HOUSES[usize::from(trusted)].visit();
        let hello = Hello::new(MAX_MESSAGE, 1, Memory::Memfd, vec![]).to_bytes();
        let header = Header { length: hello.len() as u32, ..Header::new(Kind::Hello) };
        wire.send(&[&header.to_frame(), hello.as_slice()].concat(), &[OWN.1.as_raw_fd()]);
        assert_eq!(wire.frame().expect("a hello").0.kind, Kind::Hello);
        let product = Ground::product(&mut wire.fds);
        let connection = told.met();
        assert_eq!(connection.is_trusted(), trusted);
        Self { connection, trusted, product, _wire: wire }
    }

    /// For the next input, unless it has ended.
    fn keep(self) {
        if self.connection.death().is_none() {
            let trusted = usize::from(self.trusted);
            KEPT.lock().unwrap_or_else(PoisonError::into_inner)[trusted] = Some(self);
        }
    }

    /// Receives a blob as the code does that the macro writes, after what `wire` says of it.
    fn receive<T: Number>(&mut self, archived: &ArchivedOnWire, wire: &OnWire) {
        if self.connection.death().is_some() {
            // Its handler does not get this far.
            return;
        }
        let (bytes, block) = match wire {
            OnWire::Bytes(bytes) => (Some(bytes.clone()), None),
            OnWire::Block { id, segment, generation, length, offset } => {
                let is_block = is_block(*id, *segment, *length, *offset);
                let bytes = is_block.then(|| OWN.0.read(*offset as usize, *length as usize)).flatten();
                (bytes, is_block.then_some((*id, *generation)))
            }
        };
        let released = |product: &Ground| block.map(|(id, _)| product.released(id));
        let before = released(&self.product);
        let received = self.connection.receive_blob::<T>(archived);
        let is_whole = bytes.as_ref().is_some_and(|bytes| bytes.len() % size_of::<T>() == 0);
        match (&received, &bytes) {
            (Ok(blob), Some(bytes)) if is_whole => {
                assert!(blob.as_ptr().is_aligned() && size_of_val(&**blob) == bytes.len());
                // SAFETY: numbers have no padding, and so many bytes are theirs.
                let found = unsafe { std::slice::from_raw_parts(blob.as_ptr().cast::<u8>(), bytes.len()) };
                assert_eq!(found, bytes);
                let in_place = block.is_some() && self.trusted && bytes.len() > SMALL;
                assert_eq!(blob.is_in_place(), in_place);
                if in_place {
                    assert_eq!(released(&self.product), before, "given back while it is read");
                }
            }
            (Err(BadBlob::Length { length, size }), Some(bytes)) if !is_whole => {
                assert_eq!((*length, *size), (bytes.len(), size_of::<T>()));
            }
            (Err(BadBlob::Block(_)), None) => {}
            _ => panic!("{received:?} of {wire:?}"),
        }
        drop(received);
        assert_eq!(released(&self.product), block.map(|(_, generation)| generation), "not given back");
        assert_eq!(self.connection.death().is_some(), bytes.is_none(), "{wire:?}");
    }
}
