//! A whole connection over sockets, Unix ones and TCP: a real server whose client is the fuzzer, with honest clients
//! beside it; and a real client whose server is the fuzzer. Any bytes, cut anywhere, with any descriptors beside them;
//! hellos, tokens, lanes and frames as they should be, nearly so, or not at all.

use crate::input::Input;
use crate::wire::assert_few_descriptors;

mod caller;
mod end;
mod guest;
mod host;
mod house;
mod lane;
mod model;
mod plan;
mod service;

/// The fuzzer as a client of a real server, or as the server of a real client.
pub fn sockets(data: &[u8]) {
    let mut input = Input(data);
    if input.flag() {
        guest::visit(&mut input);
    } else {
        host::receive(&mut input);
    }
    assert_few_descriptors();
    assert_few_threads();
    crate::memory::assert_bounded();
}

/// Over what two sides meet.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ground {
    /// Unix sockets.
    Uds,
    /// The same, and memory is shared.
    Memory,
    Tcp,
}

impl Ground {
    fn of(input: &mut Input<'_>) -> Self {
        [Self::Uds, Self::Memory, Self::Tcp, Self::Tcp][input.below(4)]
    }
}

/// Threads of lanes and of hellos end with what they served.
fn assert_few_threads() {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(threads < 200, "{threads} threads");
}
