//! What a spawned process does: it obeys the report, one command per line.
//!
//! | command | what it does |
//! | --- | --- |
//! | `spin VARIANT COUNT`, `futex COUNT`, `ring COUNT` | the peer's side of one batch |
//! | `handoff LEN COUNT`, `handoff_copy LEN COUNT` | the same, for payloads |
//! | `streams NAME` | accepts one Unix and one TCP connection for `uds COUNT PAUSE` and `tcp COUNT PAUSE` |
//! | `serve NAME` | starts the subject's servers, and says their ports of TCP and TLS |
//! | `echo NAME` | starts a raw echo server |
//! | `client KIND NAME MS`, KIND `shm`, `uds` or `echo` | connects, waits for `go`, calls for that time, reports what it reached |
//!
//! The answer is `done TEXT` or `error TEXT`; before a batch there is `ready TEXT`.

use std::{
    io,
    net::TcpStream,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    sys::{prctl::set_pdeathsig, signal::SigSet, signal::Signal},
    unistd::getppid,
};

use shmrpc_transport::rendezvous::Listener;

use crate::{
    channel::Channel,
    closed_loop::{self, Reached},
    error::{Error, Result},
    limit::{futex, handoff, ring, spin, tcp, uds},
    process::pin,
    raw_lane,
    scratch::Served,
    shared::Shared,
    subject::{self, Way},
};

/// The main function of a spawned process.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let [parent, memory, cpus, scratch] = arguments else {
        return Err(Error::Usage("a peer is started by the report only".to_owned()));
    };
    // Dies with its parent, and not of a Ctrl-C that is meant for the parent.
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid().to_string() != *parent {
        return Ok(());
    }
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    interrupt.thread_block()?;
    pin(&cpus.split(',').map(str::parse).collect::<Result<Vec<_>, _>>()?)?;

    let stdin: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let mut channel = Channel::over(UnixStream::from(stdin));
    let mut side = Side {
        shared: Shared::open(memory)?,
        scratch: PathBuf::from(scratch),
        private: Vec::new(),
        uds: None,
        tcp: None,
        servers: None,
        lane: None,
    };
    while let Some(command) = channel.receive()? {
        let answer = match side.obey(&command, &mut channel) {
            Ok(text) => format!("done {text}"),
            Err(error) => format!("error {command}: {error}"),
        };
        channel.send(&answer)?;
    }
    Ok(())
}

/// What one spawned process has at hand.
struct Side {
    shared: Shared,
    scratch: PathBuf,
    /// A warm buffer for payloads that are copied first.
    private: Vec<u8>,
    uds: Option<UnixStream>,
    tcp: Option<TcpStream>,
    servers: Option<subject::Servers>,
    lane: Option<Listener>,
}

impl Side {
    fn obey(&mut self, command: &str, channel: &mut Channel) -> Result<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match *words.as_slice() {
            ["streams", name] => self.accept(name, channel)?,
            ["serve", name] => return self.serve(name),
            ["echo", name] => echo(name)?,
            ["client", kind, name, ms] => {
                let time = Duration::from_millis(ms.parse()?);
                return client(kind, &self.scratch, name, time, channel);
            }
            [batch, ref numbers @ ..] => {
                let numbers = numbers.iter().map(|word| word.parse()).collect::<Result<Vec<u64>, _>>()?;
                self.batch(batch, &numbers, channel)?;
            }
            [] => {}
        }
        Ok(String::new())
    }

    fn batch(&mut self, batch: &str, numbers: &[u64], channel: &mut Channel) -> Result<()> {
        if let ("handoff_copy", [len, _]) = (batch, numbers) {
            // Written, so that its pages are there before the batch.
            self.private.resize(length(*len), 1);
        }
        channel.send("ready")?;
        match (batch, numbers) {
            ("spin", [variant, count]) => spin::serve(&self.shared, *variant, *count),
            ("futex", [count]) => futex::serve(&self.shared, u32::try_from(*count).unwrap_or(u32::MAX))?,
            ("uds", [count, pause]) => uds::serve(connected(&mut self.uds)?, *count, *pause)?,
            ("uds_polling", [count]) => {
                let stream = connected(&mut self.uds)?;
                stream.set_nonblocking(true)?;
                uds::serve_polling(stream, *count)?;
                stream.set_nonblocking(false)?;
            }
            ("tcp_polling", [count]) => {
                let stream = connected(&mut self.tcp)?;
                stream.set_nonblocking(true)?;
                uds::serve_polling(stream, *count)?;
                stream.set_nonblocking(false)?;
            }
            ("tcp", [count, pause]) => uds::serve(connected(&mut self.tcp)?, *count, *pause)?,
            ("handoff", [len, count]) => handoff::serve(&self.shared, length(*len), *count),
            ("handoff_copy", [_, count]) => handoff::serve_copied(&self.shared, &mut self.private, *count),
            ("ring", [count]) => ring::serve(&self.shared, *count),
            _ => return Err(Error::Peer("unknown command".to_owned())),
        }
        Ok(())
    }

    fn accept(&mut self, name: &str, channel: &mut Channel) -> Result<()> {
        let (uds, tcp) = (uds::listen(name)?, tcp::listen()?);
        channel.send(&format!("ready {}", tcp.local_addr()?.port()))?;
        self.uds = Some(uds.accept()?.0);
        self.tcp = Some(tcp::at_once(tcp.accept()?.0)?);
        Ok(())
    }

    fn serve(&mut self, name: &str) -> Result<String> {
        let served = Served::at(&self.scratch, name, [0; 2]);
        let servers = subject::serve(&served)?;
        let [tcp, tls] = servers.ports;
        self.servers = Some(servers);
        self.lane = Some(raw_lane::serve(&served.lane)?);
        Ok(format!("{tcp} {tls}"))
    }
}

fn length(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn connected<T>(stream: &mut Option<T>) -> Result<&mut T> {
    stream.as_mut().ok_or_else(|| Error::Peer("has no streams yet".to_owned()))
}

/// A raw blocking echo server with a thread per connection.
fn echo(name: &str) -> Result<()> {
    let listener = uds::listen(name)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            // Ends when the client hangs up.
            thread::spawn(move || uds::serve(&mut stream, u64::MAX, 0));
        }
    });
    Ok(())
}

/// One of several clients that call at the same time.
fn client(kind: &str, scratch: &Path, name: &str, time: Duration, channel: &mut Channel) -> Result<String> {
    let reached = match kind {
        "shm" | "uds" => {
            let way = if kind == "shm" { Way::Shm } else { Way::Uds };
            let caller = subject::connect(&Served::at(scratch, name, [0; 2]), way)?;
            at_go(channel, time, || caller.add(1))?
        }
        _ => {
            let mut stream = uds::connect(name)?;
            let mut message = [7; uds::MESSAGE];
            at_go(channel, time, || uds::call(&mut stream, &mut message, 0))?
        }
    };
    Ok(reached.to_text())
}

fn at_go(channel: &mut Channel, time: Duration, mut call: impl FnMut() -> Result<()>) -> Result<Reached> {
    call()?;
    channel.send("ready")?;
    channel.expect("go")?;
    closed_loop::run(time, call)
}
