//! The smallest call: over shared memory with both sides awake, beside the raw round trip of a cache line; over sockets,
//! beside a raw echo.

use std::{process, time::Instant};

use crate::{
    batch::{self, ns_each},
    error::Result,
    figures::{Figures, Goal},
    limit::{
        spin::{self, Lines},
        tcp, uds,
    },
    peer::Peer,
    samples::{Samples, interleave, median},
    setup::Setup,
    subject::{self, Caller, Way},
};

/// Exchanges before the timer starts.
const WARM: u64 = 500;

/// The same over streams, where a batch is shorter.
const STREAM_WARM: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Column {
    Spin(Lines),
    Awake,
    Untrusted,
    Default,
    /// With a pause of [`uds::PAUSES`].
    RawUds(u64),
    /// Both sides poll.
    PollingUds,
    Uds,
    RawTcp(u64),
    PollingTcp,
    Tcp,
    Tls,
    Inproc,
}

/// Over shared memory, each limit before its subjects.
const RINGS: [Column; 6] = [
    Column::Spin(Lines::One),
    Column::Spin(Lines::Two),
    Column::Spin(Lines::Ring),
    Column::Awake,
    Column::Untrusted,
    Column::Default,
];

/// For streams a round is cut into so many. What a wake-up costs here changes within milliseconds, so the two numbers of a
/// ratio have to be taken close to each other, and often: with 164 rounds the median of a limit against itself was off
/// by 6 to 19 % on a busy machine.
const FINER: usize = 12;

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut peer = setup.pinned_peer()?;
    let mut free = setup.free_peer()?;
    let served = peer.serve("call")?;
    let (trusting, wary) = (subject::connect(&served, Way::Shm)?, subject::connect_wary(&served, Way::Shm)?);
    let (our_uds, our_tcp) = (subject::connect(&served, Way::Uds)?, subject::connect(&served, Way::Tcp)?);
    let our_tls = subject::connect(&served, Way::Tls)?;
    let default = setup.unpinned(|| subject::connect(&free.serve("default")?, Way::Shm))?;
    // Threads stay where they are started: the lane's is, by the first call.
    let name = format!("shmrpc-bench-{}", process::id());
    let (inproc, _server) = setup.at_peers_cpu(|| {
        let server = subject::serve_inside(&name)?;
        let caller = Caller::connect(&format!("inproc:{name}"))?;
        caller.add(1)?;
        Ok((caller, server))
    })?;
    let raw = format!("shmrpc-bench-{}-streams", process::id());
    let port = peer.prepare(&format!("streams {raw}"))?.parse()?;
    let mut uds = uds::connect(&raw)?;
    let mut tcp = tcp::connect(port)?;
    peer.finish()?;

    let mut message = [7; uds::MESSAGE];
    let count = setup.count(600) / FINER as u64;
    let warmed = STREAM_WARM + count;
    let mut measure = |column| match column {
        Column::Spin(lines) => fastest_spin(&mut peer, lines, setup.count(10_000)),
        Column::Awake => calls(setup, &trusting),
        Column::Untrusted => calls(setup, &wary),
        Column::Default => setup.unpinned(|| calls(setup, &default)),
        Column::RawUds(pause) => echoes(&mut peer, &format!("uds {warmed} {pause}"), count, || {
            uds::call(&mut uds, &mut message, pause)
        }),
        Column::PollingUds => {
            uds.set_nonblocking(true)?;
            let command = format!("uds_polling {warmed}");
            let time = echoes(&mut peer, &command, count, || uds::call_polling(&mut uds, &mut message));
            uds.set_nonblocking(false)?;
            time
        }
        Column::RawTcp(pause) => echoes(&mut peer, &format!("tcp {warmed} {pause}"), count, || {
            uds::call(&mut tcp, &mut message, pause)
        }),
        Column::PollingTcp => {
            tcp.set_nonblocking(true)?;
            let command = format!("tcp_polling {warmed}");
            let time = echoes(&mut peer, &command, count, || uds::call_polling(&mut tcp, &mut message));
            tcp.set_nonblocking(false)?;
            time
        }
        Column::Uds => exchanges(count, |count| our_uds.add(count)),
        Column::Tcp => exchanges(count, |count| our_tcp.add(count)),
        Column::Tls => exchanges(count, |count| our_tls.add(count)),
        Column::Inproc => exchanges(count, |count| inproc.add(count)),
    };
    let raw = uds::PAUSES.map(Column::RawUds).into_iter().chain([Column::PollingUds]);
    let raw = raw.chain(uds::PAUSES.map(Column::RawTcp)).chain([Column::PollingTcp]);
    let ours = [Column::Uds, Column::Tcp, Column::Tls, Column::Inproc];
    let columns: Vec<Column> = raw.chain(ours).collect();
    let rings = interleave(setup.rounds(), &RINGS, &mut measure)?;
    let streams = interleave(FINER * setup.rounds(), &columns, &mut measure)?;
    add(&rings, &streams, figures);
    Ok(())
}

/// What was measured, and its ratios to the limits.
fn add(rings: &Samples<Column>, streams: &Samples<Column>, figures: &mut Figures) {
    let of = |column| if RINGS.contains(&column) { rings } else { streams };
    let [bare, shorter, longer] = uds::PAUSES.map(Column::RawUds);
    let blocking_uds = fastest(streams, [bare, shorter, longer]);
    let raw_uds = fastest(streams, [blocking_uds, Column::PollingUds]);
    let blocking_tcp = fastest(streams, uds::PAUSES.map(Column::RawTcp));
    let raw_tcp = fastest(streams, [blocking_tcp, Column::PollingTcp]);

    let [one_line, two_lines, ring] = Lines::ALL.map(|lines| rings.of(Column::Spin(lines)));
    let spin: Vec<f64> = one_line.iter().zip(two_lines).map(|(one, two)| one.min(*two)).collect();

    figures.add("limit.spin_ns", "ns", &spin, Goal::None);
    let mut ns = |key, column| figures.add(key, "ns", of(column).of(column), Goal::None);
    ns("limit.spin.two_lines_ns", Column::Spin(Lines::Two));
    ns("limit.spin.ring_ns", Column::Spin(Lines::Ring));
    ns("limit.uds_ns", raw_uds);
    ns("limit.uds.blocking_ns", blocking_uds);
    ns("limit.tcp_ns", raw_tcp);
    ns("limit.tcp.blocking_ns", blocking_tcp);
    ns("call.shm.awake_ns", Column::Awake);
    ns("call.shm.untrusted_ns", Column::Untrusted);
    ns("call.shm.default_ns", Column::Default);
    ns("call.uds_ns", Column::Uds);
    ns("call.tcp_ns", Column::Tcp);
    ns("call.tls_ns", Column::Tls);
    ns("call.inproc_ns", Column::Inproc);
    let mut ratio = |key, unit, subject, limit: &[f64], goal| {
        let ratios: Vec<f64> =
            of(subject).of(subject).iter().zip(limit).map(|(over, under)| over / under).collect();
        figures.add(key, unit, &ratios, goal);
    };
    ratio("ratio.call.shm.awake", "x spin", Column::Awake, &spin, Goal::AtMost(1.25));
    ratio("ratio.call.shm.untrusted", "x spin", Column::Untrusted, &spin, Goal::AtMost(1.3));
    ratio("ratio.call.shm.awake.to_ring", "x ring", Column::Awake, ring, Goal::None);
    ratio("ratio.call.uds", "x raw", Column::Uds, streams.of(raw_uds), Goal::AtMost(1.15));
    ratio("ratio.call.tcp", "x raw", Column::Tcp, streams.of(raw_tcp), Goal::AtMost(1.15));
}

/// The round trip of the variant that is fastest now, of those with these lines.
fn fastest_spin(peer: &mut Peer<'_>, lines: Lines, count: u64) -> Result<f64> {
    let mut fastest = f64::INFINITY;
    for variant in lines.variants() {
        let time = peer.batch(&format!("spin {variant} {}", WARM + count), |shared| {
            spin::call(shared, variant, 0, WARM);
            let start = Instant::now();
            spin::call(shared, variant, WARM, count);
            Ok(start.elapsed())
        })?;
        fastest = fastest.min(ns_each(time, count));
    }
    Ok(fastest)
}

/// The column with the smallest median.
fn fastest<const COUNT: usize>(samples: &Samples<Column>, columns: [Column; COUNT]) -> Column {
    let faster = |one, other| if median(samples.of(other)) < median(samples.of(one)) { other } else { one };
    columns.into_iter().reduce(faster).unwrap_or(Column::PollingUds)
}

fn echoes(
    peer: &mut Peer<'_>,
    command: &str,
    count: u64,
    mut call: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let time = peer.batch(command, |_| {
        for _ in 0..STREAM_WARM {
            call()?;
        }
        let start = Instant::now();
        for _ in 0..count {
            call()?;
        }
        Ok(start.elapsed())
    })?;
    Ok(ns_each(time, count))
}

/// As many as the limit, and warmed up alike.
fn exchanges(count: u64, run: impl Fn(u64) -> Result<()>) -> Result<f64> {
    run(STREAM_WARM)?;
    let start = Instant::now();
    run(count)?;
    Ok(ns_each(start.elapsed(), count))
}

fn calls(setup: &Setup, caller: &Caller) -> Result<f64> {
    batch::subject(setup.batch_time(), 1, WARM, |count| caller.add(count))
}
