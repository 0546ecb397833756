use std::process::{Command, Stdio};

use super::*;
use crate::peers::Party;
use crate::shm::memory::Memory;
use crate::shm::segment::{BASE_LEN, Handout, Segment};
use crate::sys::process;

const MIB: u64 = 1 << 20;

fn account(name: &str, pidfd: bool) -> Arc<Account> {
    account_of(name, pidfd, None)
}

fn account_of(name: &str, pidfd: bool, budget: Option<&Budget>) -> Arc<Account> {
    let own = PeerCredentials::own();
    let peer = PeerInfo::new(own, pidfd.then(|| process::open(own.pid.unwrap()).unwrap()));
    Account::of(&peer, &Route { path: name.into(), listening: true }, budget)
}

/// Ours, on the account, and the peer's.
fn share(account: &Arc<Account>, memory: Memory) -> (Segment, Segment) {
    let (mut ours, Handout { descriptor, witness }) = Segment::create(1 << 20, memory).unwrap();
    assert!(witness.is_some());
    ours.charge(account.lend(MIB, 2 * MIB, witness).unwrap());
    (ours, Segment::accept(descriptor, Party::own(), MIB, memory).unwrap())
}

#[test]
fn what_a_peer_keeps_counts_until_it_lets_go() {
    for memory in [Memory::Memfd, Memory::PosixShm] {
        let account = account("keeps", true);
        let (ours, theirs) = share(&account, memory);
        assert_eq!(account.left(2 * MIB), MIB);
        drop(ours);
        assert_eq!(account.left(2 * MIB), MIB, "the peer has it still");
        assert!(account.lend(2 * MIB, 2 * MIB, None).is_err());
        assert_eq!(account.may_connect(MIB), Ok(()));
        assert_eq!(account.may_connect(MIB - 1), Err(Full::Bytes { held: MIB, cap: MIB - 1 }));
        // It is the same account for whoever comes back.
        assert!(Arc::ptr_eq(&account, &self::account("keeps", true)));
        drop(theirs);
        assert_eq!(account.may_connect(0), Ok(()));
        assert_eq!(account.left(2 * MIB), 2 * MIB);
    }
}

/// What somebody still has of the memory of ended connections counts, too.
#[test]
fn all_peers_of_a_server_have_one_budget() {
    let budget = Budget::new(3 * MIB);
    let [one, other] = ["budget one", "budget other"].map(|name| account_of(name, true, Some(&budget)));
    let (ours, theirs) = share(&one, Memory::Memfd);
    let lent = other.lend(MIB, 4 * MIB, None).unwrap();
    assert_eq!((other.left(4 * MIB), other.left(MIB)), (MIB, 0));
    assert!(other.scarce(4 * MIB).is_some() && other.scarce(MIB).is_none());
    let full = other.lend(2 * MIB, 4 * MIB, None).map(drop).unwrap_err();
    assert_eq!(full, Full::All { cap: 3 * MIB });
    drop(ours);
    assert_eq!((one.left(4 * MIB), other.left(4 * MIB)), (MIB, MIB), "the peer has it still");
    drop(theirs);
    assert_eq!(other.left(4 * MIB), 2 * MIB, "others are asked too");
    // Who follows the server in its process has a budget of its own.
    let next = Budget::new(MIB);
    let [unbounded, bounded] = [None, Some(&next)].map(|budget| account_of("budget other", true, budget));
    assert_eq!((unbounded.left(4 * MIB), bounded.left(4 * MIB)), (4 * MIB, MIB));
    drop(lent);
    assert_eq!(other.left(4 * MIB), 3 * MIB);
}

/// Their lanes may run on for a while, and hold them.
#[test]
fn base_segments_of_ended_connections_have_a_cap_of_their_own() {
    let account = account("bases", true);
    let most = BASES / BASE_LEN as u64;
    let theirs: Vec<_> = (0..=most)
        .map(|_| {
            assert_eq!(account.may_connect(MIB), Ok(()));
            let (mut ours, handout) = Segment::create(BASE_LEN, Memory::Memfd).unwrap();
            ours.charge(account.lend_base(BASE_LEN as u64, handout.witness));
            Segment::accept(handout.descriptor, Party::own(), BASE_LEN as u64, Memory::Memfd).unwrap()
        })
        .collect();
    assert_eq!(account.left(MIB), MIB, "they take nothing from messages");
    let held = (most + 1) * BASE_LEN as u64;
    assert_eq!(account.may_connect(MIB), Err(Full::Bytes { held, cap: BASES }));
    drop(theirs);
    assert_eq!(account.may_connect(0), Ok(()));
}

#[test]
fn nobody_has_to_ask() {
    let account = account("asks", true);
    let (ours, theirs) = share(&account, Memory::Memfd);
    drop(ours);
    drop(theirs);
    // The witness is a descriptor, and goes when the timer has rung.
    while !account.books.lock().remains.is_empty() {
        std::thread::yield_now();
    }
}

/// Each piece costs a descriptor.
#[test]
fn many_small_pieces_are_too_many() {
    let account = account("pieces", true);
    let cap = pieces_max();
    let lend = || account.lend(1, MIB, None);
    let mut lent: Vec<_> = (0..cap).map(|_| lend().unwrap()).collect();
    let full = Full::Pieces { held: cap, cap };
    assert_eq!(lend().unwrap_err(), full);
    assert_eq!(account.may_connect(MIB), Err(full));
    // Another process has its own.
    let other = PeerInfo::new(PeerCredentials { pid: Some(1), ..PeerCredentials::own() }, None);
    let another = Account::of(&other, &account.route, None);
    drop(another.lend(1, MIB, None).unwrap());
    lent.pop();
    assert_eq!(account.may_connect(MIB), Ok(()));
    assert!(lend().is_ok());
}

/// Else nobody could connect any more, where the kernel gives no leases.
#[test]
fn a_witness_that_cannot_know_is_none() {
    let account = account("no leases", true);
    let blind = || Witness(std::fs::File::open("/dev/null").unwrap());
    drop(account.lend(MIB, MIB, Some(blind())).unwrap());
    drop(account.lend_base(MIB, Some(blind())));
    assert_eq!(account.may_connect(0), Ok(()));
    assert_eq!(account.left(MIB), MIB);
    assert_eq!(account.books.lock().remains.len(), 0, "its descriptor stays");
}

/// Each leaves what it held to somebody who lives, as a child of its would.
#[test]
fn who_dies_keeps_nobody_out_and_many_who_die_do() {
    let newcomer = account("heirs", true);
    let mut heirs = Vec::new();
    for dead in 1..=DEAD_BYTES + 1 {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let credentials = PeerCredentials { pid: Some(pid), ..PeerCredentials::own() };
        let peer = PeerInfo::new(credentials, Some(process::open(pid).unwrap()));
        let account = Account::of(&peer, &newcomer.route, None);
        let (mut ours, handout) = Segment::create(BASE_LEN, Memory::Memfd).unwrap();
        ours.charge(account.lend_base(BASES, handout.witness));
        heirs
            .push(Segment::accept(handout.descriptor, Party::own(), BASE_LEN as u64, Memory::Memfd).unwrap());
        drop(ours);
        drop(child.stdin.take());
        child.wait().unwrap();
        let full = Full::Bytes { held: dead * BASES, cap: DEAD_BYTES * BASES };
        let expected = if dead > DEAD_BYTES { Err(full) } else { Ok(()) };
        assert_eq!(newcomer.may_connect(MIB), expected, "{dead}");
    }
    drop(heirs);
    assert_eq!(newcomer.may_connect(MIB), Ok(()));
}

/// What a dead process holds is not on the account of whoever has its number then.
#[test]
fn a_number_that_is_used_again_has_another_account() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let credentials = PeerCredentials { pid: Some(pid), ..PeerCredentials::own() };
    let route = Route { path: "numbers".into(), listening: true };
    let of = |pidfd| Account::of(&PeerInfo::new(credentials, Some(pidfd)), &route, None);
    let first = of(process::open(pid).unwrap());
    assert!(Arc::ptr_eq(&first, &of(process::open(pid).unwrap())));
    drop(child.stdin.take());
    child.wait().unwrap();
    // We stand for somebody who has the number now.
    let living = process::open(PeerCredentials::own().pid.unwrap()).unwrap();
    assert!(!Arc::ptr_eq(&first, &of(living)));
}

#[test]
fn without_a_witness_nothing_is_known_of_what_is_over() {
    let account = account("blind", true);
    drop(account.lend(MIB, MIB, None).unwrap());
    assert_eq!(account.left(MIB), MIB);
}
