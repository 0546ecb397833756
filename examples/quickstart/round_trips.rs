//! Times of round trips, over shmrpc and over a plain Unix socket, measured in turns.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use shmrpc::prelude::*;

use crate::TracksClient;

/// Batches of each; the medians are printed.
const BATCHES: usize = 15;

type Done = Result<(), Box<dyn Error>>;

/// What either server does with a payload: looks at one byte of every cache line.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().step_by(64).map(|byte| u64::from(*byte)).sum()
}

/// Prints a table.
pub(crate) fn compare(tracks: &TracksClient, uds: &UnixStream) -> Done {
    println!("round trip in us, median (fastest) of {BATCHES} batches");
    println!("{:20} {:>18} {:>18}", "", "shmrpc", "Unix socket");
    let small = framed(&[7; 8]);
    row("add(1, 2), 8 bytes", 2_000, || done(tracks.add(1, 2)), || ask(uds, &small))?;
    for (name, size, calls) in [
        ("checksum(4 KiB)", 4 << 10, 500),
        ("checksum(64 KiB)", 64 << 10, 200),
        ("checksum(1 MiB)", 1 << 20, 25),
    ] {
        let bytes = vec![7; size];
        let message = framed(&bytes);
        row(name, calls, || done(tracks.checksum(&bytes)), || ask(uds, &message))?;
    }
    Ok(())
}

/// Runs batches in turns: one each to warm up, then [`BATCHES`] that count.
fn row(name: &str, calls: u32, mut shmrpc: impl FnMut() -> Done, mut uds: impl FnMut() -> Done) -> Done {
    batch(calls, &mut shmrpc)?;
    batch(calls, &mut uds)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        ours.push(batch(calls, &mut shmrpc)?);
        theirs.push(batch(calls, &mut uds)?);
    }
    let ((ours, our_best), (theirs, their_best)) = (median_and_least(ours), median_and_least(theirs));
    println!(
        "{name:20} {ours:8.2} ({our_best:7.2}) {theirs:8.2} ({their_best:7.2})  {:5.1} times as fast",
        theirs / ours
    );
    Ok(())
}

fn done<T>(answer: Result<T, CallError>) -> Done {
    answer.map(drop).map_err(Into::into)
}

/// Microseconds per call.
fn batch(calls: u32, call: &mut impl FnMut() -> Done) -> Result<f64, Box<dyn Error>> {
    let begin = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}

fn median_and_least(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |place: usize| times.get(place).copied().unwrap_or(f64::NAN);
    (at(times.len() / 2), at(0))
}

/// The rival's message: a length and the payload.
fn framed(payload: &[u8]) -> Vec<u8> {
    [&payload.len().to_le_bytes(), payload].concat()
}

/// The rival's client: sends a message, and waits for eight bytes.
fn ask(mut uds: &UnixStream, message: &[u8]) -> Done {
    uds.write_all(message)?;
    uds.read_exact(&mut [0; 8])?;
    Ok(())
}

/// The rival's server: answers until the other end is closed.
pub(crate) fn answer_over_uds(mut uds: &UnixStream) -> io::Result<()> {
    let mut reader = BufReader::new(uds);
    let mut payload = Vec::new();
    while !reader.fill_buf()?.is_empty() {
        let mut length = [0; 8];
        reader.read_exact(&mut length)?;
        payload.resize(usize::from_le_bytes(length), 0);
        reader.read_exact(&mut payload)?;
        uds.write_all(&checksum(&payload).to_le_bytes())?;
    }
    Ok(())
}
