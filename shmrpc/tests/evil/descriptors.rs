//! Attacks by descriptors: floods, wrong ones, and memory that changes after it was sent.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use memmap2::MmapOptions;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::memfd::MFdFlags;
use shmrpc_transport::slot::{Header, Kind};

use super::attacks::Evil;
use super::raw::{self, BASE, Memory, SEALS, dial, frame, hello, memfd, receive, send};

/// As many descriptors as the kernel lets pass beside frames that want none.
pub(crate) fn descriptor_flood(evil: &mut Evil) {
    let nothing = File::open("/dev/null").unwrap();
    let ping = frame(Header::new(Kind::Ping), &[]);
    evil.again_and_again(1, |evil, peer| {
        let count = [1, 7, 8, 9, 100, 253][evil.rng.below(6)];
        let fds: Vec<RawFd> = vec![nothing.as_raw_fd(); count];
        let mut sent = 0;
        while !peer.is_over() && send(&peer.socket, &ping, &fds).is_ok() {
            sent += 1;
            evil.tally.deeds += count as u64;
            assert!(sent < 10_000, "the server keeps {sent} times {count} descriptors");
            evil.call(peer, 0, false);
        }
        // The same beside a hello.
        if let Ok(socket) = dial(&evil.at.unix) {
            let memory = Memory::new(BASE);
            let _ = send(&socket, &hello(1 << 20), &[&[memory.fd.as_raw_fd()], &fds[1..]].concat());
            let _ = receive(&socket);
        }
    });
}

/// Memory of `length` bytes with these seals.
fn sealed(length: usize, flags: MFdFlags, seals: SealFlag) -> Option<OwnedFd> {
    let made =
        nix::sys::memfd::memfd_create(c"evil", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | flags);
    let file = File::from(made.ok()?);
    file.set_len(length as u64).ok()?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).ok()?;
    Some(file.into())
}

/// Descriptors that are no memory of `length` bytes as the protocol asks for.
pub(crate) fn wrong(length: usize) -> Vec<(String, OwnedFd)> {
    let mut all: Vec<(String, OwnedFd)> = Vec::new();
    let mut add = |name: &str, fd: Option<OwnedFd>| all.extend(fd.map(|fd| (name.to_owned(), fd)));
    let opened =
        |path: &str, flags| File::options().read(true).custom_flags(flags).open(path).ok().map(OwnedFd::from);
    add("a pipe", nix::unistd::pipe().ok().map(|(read, _)| read));
    add("a socket", std::os::unix::net::UnixStream::pair().ok().map(|(one, _)| one.into()));
    add("/dev/null", opened("/dev/null", 0));
    add("/dev/zero", opened("/dev/zero", 0));
    add("a directory", opened("/", libc::O_DIRECTORY));
    add("a file", opened("/proc/self/exe", 0));
    add("memory of a process", opened("/proc/self/mem", 0));
    // Without a name, so nothing is left of it.
    let temporary = std::env::temp_dir();
    let file = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(temporary).ok();
    add(
        "a file of the right size",
        file.filter(|file| file.set_len(length as u64).is_ok()).map(OwnedFd::from),
    );
    add("memory that cannot be sealed", {
        let file = File::from(memfd(MFdFlags::empty()));
        file.set_len(length as u64).unwrap();
        Some(file.into())
    });
    add("memory without seals", sealed(length, MFdFlags::empty(), SealFlag::empty()));
    for seal in SEALS.iter() {
        add(&format!("memory without {seal:?}"), sealed(length, MFdFlags::empty(), SEALS.difference(seal)));
    }
    for other in [0, 1, length - 1, length + 1, length + 4096, 1 << 40] {
        add(&format!("memory of {other} bytes"), sealed(other, MFdFlags::empty(), SEALS));
    }
    let good = sealed(length, MFdFlags::empty(), SEALS).unwrap();
    let own = format!("/proc/self/fd/{}", good.as_raw_fd());
    add("memory that can only be written", File::options().write(true).open(&own).ok().map(OwnedFd::from));
    add("memory that is only a path", opened(&own, libc::O_PATH));
    let huge = length.next_multiple_of(2 << 20);
    add("huge pages", sealed(huge, MFdFlags::MFD_HUGETLB, SEALS));
    all
}

/// Every wrong descriptor, as the base and as a further segment. None is taken, and the right one is.
pub(crate) fn wrong_descriptors(evil: &mut Evil) {
    while evil.lasts() {
        for (name, fd) in wrong(BASE) {
            let socket = dial(&evil.at.unix).unwrap();
            send(&socket, &hello(1 << 20), &[fd.as_raw_fd()]).unwrap();
            let answer = receive(&socket);
            let refused = matches!(&answer, Ok((header, ..)) if header.kind == Kind::Failure);
            assert!(refused, "{name} as a base: {answer:?}");
            evil.tally.ended += 1;
            evil.tally.deeds += 1;
        }
        for length in [4096, 2 << 20] {
            for (name, fd) in wrong(length) {
                let Some(peer) = evil.join(1) else { continue };
                let mut header = Header::new(Kind::SegmentAdd);
                header.block = 1;
                send(&peer.socket, &frame(header, &(length as u64).to_le_bytes()), &[fd.as_raw_fd()])
                    .unwrap();
                let said = receive(&peer.socket);
                let told = matches!(&said, Ok((header, ..)) if header.kind == Kind::Failure);
                assert!(told, "{name} as a segment of {length}: {said:?}");
                let end = receive(&peer.socket).map_err(|error| error.kind());
                let ended = matches!(end, Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset));
                assert!(ended, "{name} as a segment of {length}: {end:?}");
                evil.tally.ended += 1;
                evil.tally.deeds += 1;
            }
            let mut peer = evil.join(1).unwrap();
            peer.add_segment(1, &Memory::new(length)).unwrap();
            assert!(evil.sure_call(&mut peer, 0, true), "the right memory was refused");
        }
        evil.tally.rounds += 1;
    }
}

/// What was sent cannot be cut, punched, written by others or unsealed.
pub(crate) fn sealed_for_good(evil: &mut Evil) {
    evil.again_and_again(1, |evil, peer| {
        let fd = &peer.own.fd;
        assert_eq!(raw::seals(fd) & SEALS, SEALS);
        let file = File::from(fd.try_clone().unwrap());
        for length in [0, 4096, BASE as u64 - 4096, BASE as u64 + 4096] {
            assert!(file.set_len(length).is_err());
        }
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        assert_eq!(fallocate(fd, punch, 0, 1 << 20), Err(Errno::EPERM));
        assert!(fallocate(fd, FallocateFlags::FALLOC_FL_ZERO_RANGE, 0, 1 << 20).is_err());
        assert!(fallocate(fd, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 1 << 20).is_err());
        assert!((&file).write_all(b"evil").is_err());
        assert!(MmapOptions::new().len(BASE).map_raw(&file).is_err(), "a second mapping that can write");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert!(File::options().write(true).truncate(true).open(path).is_err());
        assert!(fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
        peer.own.forget_pages();
        let mut turn = 0;
        while evil.lasts_with(peer, turn) {
            turn += 1;
            peer.own.forget_pages();
            evil.tally.deeds += u64::from(evil.sure_call(peer, 0, true));
        }
        assert!(!peer.is_over(), "nothing had changed");
    });
}
