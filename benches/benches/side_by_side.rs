//! The same work over every transport, side by side: `cargo bench -p shmrpc-benches`, with criterion's options behind
//! `--`, for instance `-- call` or `-- payload/uds`.
//!
//! The report compares with limits, in interleaved rounds; this compares transports, and commits with each other.

use std::{hint::black_box, process::ExitCode};

use criterion::{BenchmarkId, Criterion, Throughput};
use shmrpc_benches::side_by_side::{self, Caller, Ground, Record, Result, Way, payload, touch_lines};
use shmrpc_transport::rkyv;

/// Payload bytes: in a slot or not, in a block or not, and large.
const SIZES: [usize; 4] = [64, 4 << 10, 64 << 10, 1 << 20];

fn main() -> ExitCode {
    side_by_side::main(|ground| {
        let mut criterion = Criterion::default().configure_from_args();
        all(ground, &mut criterion)?;
        criterion.final_summary();
        Ok(())
    })
}

fn all(ground: &Ground, criterion: &mut Criterion) -> Result<()> {
    let mut clients = Vec::new();
    for way in Way::ALL {
        clients.push((way.name(), ground.connect(way)?));
    }
    call(&clients, criterion);
    payloads(&clients, criterion);
    views(&clients, criterion);
    blobs(&clients, criterion);
    codec(&clients, criterion);
    connect(ground, criterion);
    Ok(())
}

/// Fails the benchmark: what is measured does not fail.
fn sure<T>(done: Result<T>) -> T {
    match done {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Two numbers there, one back.
fn call(clients: &[(&str, Caller)], criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    for (name, client) in clients {
        group.bench_function(*name, |bencher| bencher.iter(|| sure(client.add(1))));
    }
}

/// Bytes there; the server reads one of every line.
fn payloads(clients: &[(&str, Caller)], criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("payload");
    for size in SIZES {
        let bytes = payload(size, 1);
        let sum = touch_lines(&bytes);
        group.throughput(Throughput::Bytes(size as u64));
        for (name, client) in clients {
            group.bench_function(BenchmarkId::new(*name, size), |bencher| {
                bencher.iter(|| sure(client.touch(&bytes, sum, 1)));
            });
        }
    }
}

/// Bytes back, read where they arrived.
fn views(clients: &[(&str, Caller)], criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("view");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        for (name, client) in clients {
            group.bench_function(BenchmarkId::new(*name, size), |bencher| {
                bencher.iter(|| sure(client.view(size, 1)));
            });
        }
    }
}

/// Memory that is lent, with one byte written: a page and more have to be had, not copied.
fn blobs(clients: &[(&str, Caller)], criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("blob");
    for size in SIZES {
        for (name, client) in clients {
            group.bench_function(BenchmarkId::new(*name, size), |bencher| {
                bencher.iter(|| sure(client.blob(size, 1)));
            });
        }
    }
}

/// A hundred records there and back: encoded, validated and decoded twice. `alone` does that without a transport.
fn codec(clients: &[(&str, Caller)], criterion: &mut Criterion) {
    let records: Vec<Record> = (0..100).map(record).collect();
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(2 * records.len() as u64));
    group.bench_function("alone", |bencher| bencher.iter(|| alone(alone(records.clone()))));
    for (name, client) in clients {
        group.bench_function(*name, |bencher| bencher.iter(|| black_box(sure(client.echo(&records)))));
    }
}

fn alone(records: Vec<Record>) -> Vec<Record> {
    let copied = rkyv::to_bytes::<rkyv::rancor::Error>(&records)
        .and_then(|bytes| rkyv::from_bytes::<Vec<Record>, rkyv::rancor::Error>(&bytes));
    match copied {
        Ok(copied) => copied,
        Err(error) => panic!("{error}"),
    }
}

fn record(number: u64) -> Record {
    let key = format!("key number {number}");
    let tags = vec![format!("tag {number}"), "another tag".to_owned()];
    Record { key, value: payload(200, 5), version: number, tags }
}

/// Connecting and the hello, and then the end of it.
fn connect(ground: &Ground, criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connect");
    for way in Way::ALL {
        group.bench_function(way.name(), |bencher| bencher.iter(|| sure(ground.connect(way))));
    }
}
