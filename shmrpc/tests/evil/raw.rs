//! A peer written from ARCHITECTURE.md, "The bytes", without the library's rings: it can write anything anywhere in
//! its own memory, at any time, and say anything on the socket.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, sendmsg};
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::slot::{FLAG_BLOCK, HEADER, Header, Kind};

use crate::support::BOUND;

pub(crate) const SLOTS: u32 = 128;
pub(crate) const LANES: u32 = 64;
pub(crate) const BLOCKS: u32 = 4096;
pub(crate) const RELEASE: usize = 64;
pub(crate) const SIDES: usize = 16_448;
pub(crate) const SIDE: usize = 8_320;
pub(crate) const TAKEN: usize = 64;
pub(crate) const DONE: usize = 68;
pub(crate) const RING: usize = 128;
pub(crate) const ARENA: usize = 552_960;
pub(crate) const BASE: usize = 1_601_536;
/// Where messages lie that a trusting server reads in place: from here to the end of the base segment.
pub(crate) const QUIET: usize = ARENA + (512 << 10);
/// How long anybody waits for an answer that may never come.
pub(crate) const PATIENCE: Duration = Duration::from_millis(40);

pub(crate) const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE))
    .union(SealFlag::F_SEAL_SEAL);

/// Random enough, and the same for the same seed.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.next() as u32
    }

    /// A number that code likes to get wrong, or any.
    pub(crate) fn odd(&mut self) -> u32 {
        const ODD: [u32; 16] = [
            0,
            1,
            39,
            40,
            41,
            63,
            64,
            127,
            128,
            4095,
            4096,
            0x0100_0000,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_fffe,
            u32::MAX,
        ];
        if self.below(4) == 0 { self.word() } else { ODD[self.below(ODD.len())] }
    }
}

/// Memory that is mapped, and its descriptor.
pub(crate) struct Memory {
    map: MmapRaw,
    pub(crate) fd: OwnedFd,
}

pub(crate) fn memfd(flags: MFdFlags) -> OwnedFd {
    memfd_create(c"evil", MFdFlags::MFD_CLOEXEC | flags).unwrap()
}

impl Memory {
    /// Memory as an honest peer makes it.
    pub(crate) fn new(length: usize) -> Self {
        let fd = memfd(MFdFlags::MFD_ALLOW_SEALING);
        let file = std::fs::File::from(fd);
        file.set_len(length as u64).unwrap();
        let map = MmapOptions::new().len(length).map_raw(&file).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        Self { map, fd: file.into() }
    }

    pub(crate) fn of_peer(fd: OwnedFd) -> io::Result<Self> {
        let file = std::fs::File::from(fd);
        let map = MmapOptions::new().len(BASE).map_raw_read_only(&file)?;
        Ok(Self { map, fd: file.into() })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Those that somebody has written or read.
    pub(crate) fn pages(&self) -> u64 {
        let file = std::fs::File::from(self.fd.try_clone().unwrap());
        // Blocks of 512 bytes.
        file.metadata().unwrap().blocks() / 8
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len());
        // SAFETY: inside the mapping and aligned, as just checked; whoever else has it mapped uses atomics or is
        // the server that is attacked.
        unsafe { AtomicU32::from_ptr(self.start().wrapping_add(offset).cast()) }
    }

    pub(crate) fn wide(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len());
        // SAFETY: the same.
        unsafe { AtomicU64::from_ptr(self.start().wrapping_add(offset).cast()) }
    }

    /// Asks the kernel to drop the pages, as a punched hole would. It may not: the seals forbid it.
    pub(crate) fn forget_pages(&self) {
        // SAFETY: the mapping is atomics to everybody; zeros in it would be as good as any bytes.
        let result = unsafe { libc::madvise(self.start().cast(), self.len(), libc::MADV_REMOVE) };
        assert_eq!(result, -1, "MADV_REMOVE works on sealed memory");
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        for (at, piece) in (offset..).step_by(8).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.wide(at).store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }
}

pub(crate) fn dial(path: &Path) -> io::Result<UnixStream> {
    let socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.set_write_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// Sends bytes with descriptors beside them, and says who we are.
pub(crate) fn send(socket: &UnixStream, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let credentials = UnixCredentials::new();
    let all = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &all[..1] } else { &all[..] };
    Ok(sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?)
}

pub(crate) fn frame(mut header: Header, payload: &[u8]) -> Vec<u8> {
    header.length = u32::try_from(payload.len()).unwrap();
    [&header.to_frame()[..], payload].concat()
}

pub(crate) fn hello(max_message: u64) -> Vec<u8> {
    frame(
        Header::new(Kind::Hello),
        &Hello::new(max_message, LANES, shmrpc::Memory::Memfd, super::target::question()).to_bytes(),
    )
}

/// The next frame, and the descriptor beside it.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<(Header, Vec<u8>, Option<OwnedFd>)> {
    let mut head = [0; HEADER];
    let mut control = nix::cmsg_space!([RawFd; 4], UnixCredentials, RawFd);
    let mut parts = [IoSliceMut::new(&mut head)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut found = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made them for us.
            found = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next().or(found);
        }
    }
    if message.bytes < HEADER {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let header = Header::from_frame(&head).map_err(io::Error::other)?;
    let mut payload = vec![0; header.length as usize];
    (&*socket).read_exact(&mut payload)?;
    Ok((header, payload, found))
}

/// A slot as it lies in memory, to be spoiled at will.
#[derive(Clone, Copy)]
pub(crate) struct Words(pub(crate) [u64; 8]);

impl Words {
    pub(crate) fn inline(header: Header, payload: [u64; 5]) -> Self {
        let bytes = header.to_frame();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let [a, b, c, d, e] = payload;
        Self([word(0), word(8), word(16), a, b, c, d, e])
    }

    /// The byte length of the payload is the upper half of the second word.
    pub(crate) fn set_length(&mut self, length: u32) {
        self.0[1] = self.0[1] & 0xffff_ffff | u64::from(length) << 32;
    }
}

/// A connection that stands, with all that an evil peer needs of it.
pub(crate) struct Peer {
    pub(crate) socket: UnixStream,
    pub(crate) own: Arc<Memory>,
    pub(crate) theirs: Memory,
    /// Whether blocks of replies are given back.
    pub(crate) releases: bool,
    /// Whether a call was not answered in time; the server may be at it.
    pub(crate) lost: bool,
    /// What the last reply was.
    pub(crate) kind: Option<Kind>,
    /// Blocks of replies that were not given back.
    pub(crate) kept: u64,
    /// Messages sent and replies taken, by lane.
    pub(crate) sent: [u32; LANES as usize],
    pub(crate) taken: [u32; LANES as usize],
}

impl Peer {
    pub(crate) fn join(path: &Path, max_message: u64) -> io::Result<Self> {
        let socket = dial(path)?;
        let own = Arc::new(Memory::new(BASE));
        send(&socket, &hello(max_message), &[own.fd.as_raw_fd()])?;
        let (header, payload, fd) = receive(&socket)?;
        if header.kind != Kind::Hello {
            return Err(io::Error::other(String::from_utf8_lossy(&payload).into_owned()));
        }
        let theirs = Memory::of_peer(fd.ok_or(io::ErrorKind::InvalidData)?)?;
        Ok(Self::over(socket, own, theirs))
    }

    /// With what two hellos brought, at either end.
    pub(crate) fn over(socket: UnixStream, own: Arc<Memory>, theirs: Memory) -> Self {
        let (sent, taken) = ([0; LANES as usize], [0; LANES as usize]);
        Self { socket, own, theirs, releases: true, lost: false, kind: None, kept: 0, sent, taken }
    }

    /// Opens a lane and waits until it is served.
    pub(crate) fn open(&self, lane: u32) -> io::Result<bool> {
        let mut header = Header::new(Kind::LaneOpen);
        header.block = lane;
        send(&self.socket, &frame(header, &[]), &[])?;
        loop {
            let (answer, _, _) = receive(&self.socket)?;
            if matches!(answer.kind, Kind::LaneOpen | Kind::LaneReset) && answer.block == lane {
                return Ok(answer.kind == Kind::LaneOpen);
            }
        }
    }

    /// Adds a segment of the arena; its id is for the caller to count.
    pub(crate) fn add_segment(&self, id: u32, memory: &Memory) -> io::Result<usize> {
        let mut header = Header::new(Kind::SegmentAdd);
        header.block = id;
        send(&self.socket, &frame(header, &(memory.len() as u64).to_le_bytes()), &[memory.fd.as_raw_fd()])
    }

    /// Where the slot of `position` lies, in either side's memory.
    pub(crate) fn slot(lane: u32, position: u32) -> usize {
        SIDES + lane as usize * SIDE + RING + (position % SLOTS) as usize * 64
    }

    pub(crate) fn side(lane: u32) -> usize {
        SIDES + lane as usize * SIDE
    }

    /// Writes a slot and stamps it, right or not, and wakes whoever sleeps on it.
    pub(crate) fn publish(&mut self, lane: u32, words: &Words, stamp: u32) {
        let at = Self::slot(lane, self.sent[lane as usize]);
        for (index, word) in words.0.iter().enumerate().skip(1) {
            self.own.wide(at + index * 8).store(*word, Ordering::Relaxed);
        }
        self.own.word(at + 4).store((words.0[0] >> 32) as u32, Ordering::Relaxed);
        self.own.word(at).store(stamp, Ordering::Release);
        wake(self.own.word(at));
        self.sent[lane as usize] = self.sent[lane as usize].wrapping_add(1);
    }

    /// Publishes a message as an honest peer does, its payload at `offset` of the base segment if it needs a block.
    pub(crate) fn post(&mut self, lane: u32, method: u16, payload: &[u8], offset: usize) -> u32 {
        let words = self.compose(lane, method, payload, offset);
        let stamp = self.sent[lane as usize].wrapping_add(1);
        self.publish(lane, &words, stamp);
        stamp
    }

    pub(crate) fn compose(&mut self, lane: u32, method: u16, payload: &[u8], offset: usize) -> Words {
        let kind = if method == super::target::NOTE { Kind::OneWay } else { Kind::Request };
        let length = u32::try_from(payload.len()).unwrap();
        let call_id = self.sent[lane as usize];
        let header = Header { call_id, method, length, ..Header::new(kind) };
        if payload.len() <= 40 {
            let mut words = [0; 5];
            for (word, piece) in words.iter_mut().zip(payload.chunks(8)) {
                let mut bytes = [0; 8];
                bytes[..piece.len()].copy_from_slice(piece);
                *word = u64::from_le_bytes(bytes);
            }
            return Words::inline(header, words);
        }
        self.own.write(offset, payload);
        let block = call_id % BLOCKS;
        let header = Header { flags: FLAG_BLOCK, block, ..header };
        Words::inline(header, [u64::from(call_id) << 32, offset as u64, 0, 0, 0])
    }

    /// Takes the next reply of a lane, if one comes soon, and says so to the server.
    pub(crate) fn reply(&mut self, lane: u32) -> bool {
        let position = self.taken[lane as usize];
        let at = Self::slot(lane, position);
        let stamp = self.theirs.word(at);
        let end = Instant::now() + PATIENCE;
        for look in 1.. {
            if stamp.load(Ordering::Acquire) == position.wrapping_add(1) {
                break;
            }
            if Instant::now() > end || look % 16 == 0 && self.is_over() {
                return false;
            }
            std::thread::yield_now();
        }
        let load = |offset| self.theirs.wide(at + offset).load(Ordering::Relaxed);
        self.kind = Kind::from_byte((load(8) >> 16) as u8);
        let in_block = load(8) >> 24 & u64::from(FLAG_BLOCK) != 0;
        self.kept += u64::from(in_block && !self.releases);
        if in_block && self.releases {
            let id = load(16) as u32 % BLOCKS;
            self.own.word(RELEASE + id as usize * 4).store((load(24) >> 32) as u32, Ordering::Release);
        }
        let next = position.wrapping_add(1);
        self.taken[lane as usize] = next;
        self.own.word(Self::side(lane) + TAKEN).store(next, Ordering::Relaxed);
        self.own.word(Self::side(lane) + DONE).store(next, Ordering::Release);
        true
    }

    /// Takes the next reply of a lane, which has to come, however slow the machine is. False if the connection ends instead.
    pub(crate) fn sure_reply(&mut self, lane: u32) -> bool {
        let end = Instant::now() + BOUND;
        while !self.reply(lane) {
            if self.is_over() || Instant::now() > end {
                return false;
            }
        }
        true
    }

    /// Messages of this lane that the server has taken.
    pub(crate) fn taken_of_ours(&self, lane: u32) -> u32 {
        self.theirs.word(Self::side(lane) + TAKEN).load(Ordering::Acquire)
    }

    /// Whether the server has ended the connection.
    pub(crate) fn is_over(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let mut rest = [0; 4096];
        let over = loop {
            match (&self.socket).read(&mut rest) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
            }
        };
        self.socket.set_nonblocking(false).unwrap();
        over
    }
}

/// Returns how many slept there.
pub(crate) fn wake(word: &AtomicU32) -> i64 {
    futex(word, libc::FUTEX_WAKE, i32::MAX)
}

/// Wakes whoever sleeps on the word, or sleeps there while it holds `value`.
pub(crate) fn futex(word: &AtomicU32, operation: i32, value: i32) -> i64 {
    // SAFETY: FUTEX_WAKE uses the address as a name only, FUTEX_WAIT reads the word, too, and has no time.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, 0_usize) }
}

/// Moves whoever sleeps on `from`, while it holds `value`, to `to`, where no wake comes. Returns how many.
pub(crate) fn requeue(from: &AtomicU32, to: &AtomicU32, value: u32) -> i64 {
    // SAFETY: FUTEX_CMP_REQUEUE reads the first word and uses both addresses as names.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            from.as_ptr(),
            libc::FUTEX_CMP_REQUEUE,
            0,
            i64::from(i32::MAX),
            to.as_ptr(),
            value,
        )
    }
}

/// The seals that a descriptor has.
pub(crate) fn seals(fd: impl AsFd) -> SealFlag {
    SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS).unwrap())
}
