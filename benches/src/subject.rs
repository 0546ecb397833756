//! The subject: everything the report knows about shmrpc.

use std::{fmt::Display, hint::black_box, path::Path};

use shmrpc::{Peers, ServerHandle, prelude::*};

use crate::{
    error::{Error, Result},
    work::{LARGEST, payload, touch_lines},
};

/// What the report calls.
#[shmrpc::service]
pub(crate) trait Bench {
    /// The sum of two numbers: as little work as a call can be.
    fn add(&self, a: u32, b: u32) -> u32;
    /// Reads one byte of every line of `data` and returns their sum.
    fn touch_lines(&self, data: &[u8]) -> u64;
    /// A reply of `len` bytes.
    fn bytes(&self, len: u32) -> Vec<u8>;
}

/// The service, with a prepared reply.
struct Prepared {
    reply: Vec<u8>,
}

impl Bench for Prepared {
    fn add(&self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }

    fn touch_lines(&self, data: &[u8]) -> u64 {
        touch_lines(data)
    }

    fn bytes(&self, len: u32) -> Vec<u8> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.reply.get(..len).unwrap_or_default().to_vec()
    }
}

/// Servers in this process, until dropped.
pub(crate) struct Servers {
    _handles: [ServerHandle; 2],
}

/// A client.
pub(crate) struct Caller {
    client: BenchClient,
}

/// Serves at `trusting`, where peers of the same user are trusted, and at `wary`, where nobody is.
pub(crate) fn serve(trusting: &Path, wary: &Path) -> Result<Option<Servers>> {
    let start = |path: &Path, trusted: Peers| {
        shmrpc::Server::builder()
            .service(BenchServer::new(Prepared { reply: payload(LARGEST, 3) }))
            .listen(format!("shm:{}", path.display()))
            .trust(trusted)
            .start()
            .map_err(failed)
    };
    Ok(Some(Servers { _handles: [start(trusting, Peers::SameUser)?, start(wary, Peers::Nobody)?] }))
}

/// Connects to one of the two.
pub(crate) fn connect(path: &Path) -> Result<Option<Caller>> {
    let client = BenchClient::connect(format!("shm:{}", path.display())).map_err(failed)?;
    Ok(Some(Caller { client }))
}

impl Caller {
    /// `count` calls of `add`, in an ordinary loop.
    pub(crate) fn add(&self, count: u64) -> Result<()> {
        for _ in 0..count {
            let sum = self.client.add(black_box(1), black_box(2)).map_err(failed)?;
            if sum != 3 {
                return Err(Error::Subject(format!("1 + 2 is {sum}")));
            }
        }
        Ok(())
    }

    /// `count` calls that hand `data` over; each answer is compared with `sum`.
    pub(crate) fn touch(&self, data: &[u8], sum: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let answered = self.client.touch_lines(data).map_err(failed)?;
            if answered != sum {
                return Err(Error::Subject(format!("answered {answered} to a payload with the sum {sum}")));
            }
        }
        Ok(())
    }

    /// `count` calls whose reply of `len` bytes is read where it arrived, one byte of every line.
    pub(crate) fn view(&self, len: usize, count: u64) -> Result<()> {
        let asked = u32::try_from(len).unwrap_or(u32::MAX);
        for _ in 0..count {
            let reply = self.client.view().bytes(asked).map_err(failed)?;
            if reply.len() != len {
                return Err(Error::Subject(format!("{} bytes instead of {len}", reply.len())));
            }
            black_box(touch_lines(&reply));
        }
        Ok(())
    }
}

/// Kept out of the loops: how it failed matters only once.
#[cold]
fn failed(error: impl Display) -> Error {
    Error::Subject(error.to_string())
}
