//! The subject: everything the report knows about shmrpc.

use std::{fmt::Display, hint::black_box, path::Path};

use shmrpc::{Peers, ServerHandle, prelude::*};

use crate::{
    error::{Error, Result},
    identity,
    scratch::Served,
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
    /// How long `frame` is; it is not read.
    fn length(&self, frame: Blob) -> u64;
    /// `records` again.
    fn echo(&self, records: Vec<Record>) -> Vec<Record>;
}

/// Something with parts, for the codec.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Record {
    /// A short text.
    pub key: String,
    /// Some bytes.
    pub value: Vec<u8>,
    /// A number.
    pub version: u64,
    /// Further texts.
    pub tags: Vec<String>,
}

/// The service, with a prepared reply.
struct Prepared {
    reply: Vec<u8>,
}

impl Default for Prepared {
    fn default() -> Prepared {
        Prepared { reply: payload(LARGEST, 3) }
    }
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

    fn length(&self, frame: Blob) -> u64 {
        frame.len() as u64
    }

    fn echo(&self, records: Vec<Record>) -> Vec<Record> {
        records
    }
}

/// How a client reaches the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `shm:`
    Shm,
    /// `uds:`
    Uds,
    /// `tcp:`
    Tcp,
    /// `tls:`
    Tls,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 4] = [Way::Shm, Way::Uds, Way::Tcp, Way::Tls];

    /// The scheme of its endpoints.
    pub fn name(self) -> &'static str {
        match self {
            Way::Shm => "shm",
            Way::Uds => "uds",
            Way::Tcp => "tcp",
            Way::Tls => "tls",
        }
    }
}

/// Servers in this process, until dropped.
pub(crate) struct Servers {
    /// The ports of the one that trusts: of TCP, and of TLS.
    pub(crate) ports: [u16; 2],
    _handles: [ServerHandle; 2],
}

/// A client.
pub struct Caller {
    client: BenchClient,
}

/// Serves where peers of the same user are trusted, and where nobody is.
pub(crate) fn serve(served: &Served) -> Result<Servers> {
    let server = || shmrpc::Server::builder().service(BenchServer::new(Prepared::default()));
    let shm = |path: &Path| format!("shm:{}", path.display());
    let trusting = server().listen(shm(&served.trusting)).listen("tcp:127.0.0.1:0,tls:127.0.0.1:0");
    let trusting = trusting.tls(identity::tls(&served.scratch)).start().map_err(failed)?;
    let wary = server().listen(shm(&served.wary)).trust(Peers::Nobody).start().map_err(failed)?;
    let addresses: Vec<String> = trusting.endpoints().iter().map(ToString::to_string).collect();
    let port = |scheme: &str| {
        let port = addresses.iter().find_map(|at| at.strip_prefix(scheme)?.strip_prefix(":127.0.0.1:"));
        Ok::<_, Error>(port.ok_or_else(|| Error::Subject(format!("listens at {addresses:?}")))?.parse()?)
    };
    Ok(Servers { ports: [port("tcp")?, port("tls")?], _handles: [trusting, wary] })
}

/// Serves in this process, for this process.
pub(crate) fn serve_inside(name: &str) -> Result<ServerHandle> {
    let service = BenchServer::new(Prepared::default());
    shmrpc::Server::builder().service(service).listen(format!("inproc:{name}")).start().map_err(failed)
}

/// Connects to the server that trusts.
pub(crate) fn connect(served: &Served, way: Way) -> Result<Caller> {
    let [tcp, tls] = served.ports;
    let endpoint = match way {
        Way::Tcp => format!("tcp:127.0.0.1:{tcp}"),
        Way::Tls => {
            let client = BenchClient::builder().tls(identity::tls(&served.scratch));
            let client = client.connect(format!("tls:127.0.0.1:{tls}")).map_err(failed)?;
            return Ok(Caller { client });
        }
        Way::Shm | Way::Uds => format!("{}:{}", way.name(), served.trusting.display()),
    };
    Caller::connect(&endpoint)
}

/// Connects to the server that trusts nobody; not over TCP and TLS, where nobody is trusted anyway.
pub(crate) fn connect_wary(served: &Served, way: Way) -> Result<Caller> {
    Caller::connect(&format!("{}:{}", way.name(), served.wary.display()))
}

/// Connects over Unix sockets, and sends messages of so many bytes or more in shared memory.
pub(crate) fn connect_with(server: &Path, memory_from: u64) -> Result<Caller> {
    let endpoint = format!("uds:{}", server.display());
    let client = BenchClient::builder().memory_from(memory_from).connect(endpoint).map_err(failed)?;
    Ok(Caller { client })
}

impl Caller {
    /// Connects.
    pub(crate) fn connect(endpoint: &str) -> Result<Caller> {
        Ok(Caller { client: BenchClient::connect(endpoint).map_err(failed)? })
    }

    /// Whether there is memory for large messages.
    pub(crate) fn shares_memory(&self) -> bool {
        self.client.transport().memory().is_some()
    }

    /// Sends records there and back.
    ///
    /// # Errors
    /// Those of the call.
    pub fn echo(&self, records: &[Record]) -> Result<Vec<Record>> {
        self.client.echo(records.to_vec()).map_err(failed)
    }

    /// `count` calls of `add`, in an ordinary loop.
    ///
    /// # Errors
    /// Those of the calls, and a wrong answer.
    pub fn add(&self, count: u64) -> Result<()> {
        for _ in 0..count {
            let sum = self.client.add(black_box(1), black_box(2)).map_err(failed)?;
            if sum != 3 {
                return Err(Error::Subject(format!("1 + 2 is {sum}")));
            }
        }
        Ok(())
    }

    /// `count` calls that hand `data` over; each answer is compared with `sum`.
    ///
    /// # Errors
    /// Those of the calls, and a wrong answer.
    pub fn touch(&self, data: &[u8], sum: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let answered = self.client.touch_lines(data).map_err(failed)?;
            if answered != sum {
                return Err(Error::Subject(format!("answered {answered} to a payload with the sum {sum}")));
            }
        }
        Ok(())
    }

    /// `count` calls that lend `len` bytes, of which one is written.
    ///
    /// # Errors
    /// Those of the calls, and a wrong answer.
    pub fn blob(&self, len: usize, count: u64) -> Result<()> {
        for _ in 0..count {
            let mut frame = self.client.blob::<u8>(len).map_err(failed)?;
            if let Some(first) = frame.first_mut() {
                *first = 1;
            }
            let length = self.client.length(frame).map_err(failed)?;
            if length != len as u64 {
                return Err(Error::Subject(format!("{length} bytes instead of {len}")));
            }
        }
        Ok(())
    }

    /// `count` calls whose reply of `len` bytes is read where it arrived, one byte of every line.
    ///
    /// # Errors
    /// Those of the calls, and a wrong answer.
    pub fn view(&self, len: usize, count: u64) -> Result<()> {
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
