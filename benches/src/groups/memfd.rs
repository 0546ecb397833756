//! Where a message over a Unix socket should lie: in a block of shared memory, or in the socket. From this comes the
//! default of `memory_from`. Both processes are on one CPU: what is compared is work, and between two CPUs each wake-up costs
//! more than the work, and never the same.

use crate::{
    batch,
    error::{Error, Result},
    figures::{Figures, Goal},
    samples::{Samples, interleave, median},
    setup::Setup,
    subject::{self, Caller},
    work::{payload, touch_lines},
};

/// Payload bytes.
const SIZES: [usize; 8] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 1 << 20, LARGE];
/// The size that has a goal.
const LARGE: usize = 16 << 20;
/// All that is larger than what a lane always has room for.
const ALWAYS: u64 = 0;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Column {
    /// In a block, which a server that trusts reads in place.
    InPlace,
    /// In a block, which a server that does not trust copies first.
    Copied,
    /// Through the socket, which is a copy whoever trusts whom.
    Socket,
}

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut peer = setup.peer_beside()?;
    let served = peer.serve("memfd")?;
    let in_place = subject::connect_with(&served.trusting, ALWAYS)?;
    let copied = subject::connect_with(&served.wary, ALWAYS)?;
    let socket = subject::connect_with(&served.trusting, u64::MAX)?;
    // What is compared is what it is called.
    for (caller, shares) in [(&in_place, true), (&copied, true), (&socket, false)] {
        if caller.shares_memory() != shares {
            return Err(Error::Subject(format!("shares memory: {}, although told: {shares}", !shares)));
        }
    }
    let mut all = Vec::new();
    for (seed, size) in (1..).zip(SIZES) {
        let bytes = payload(size, seed);
        let sum = touch_lines(&bytes);
        let warm = ((256_u64 << 10) / size as u64).clamp(1, 10);
        let calls = |caller: &Caller| {
            batch::subject(setup.batch_time(), 1, warm, |count| caller.touch(&bytes, sum, count))
        };
        let columns = [Column::InPlace, Column::Socket, Column::Copied];
        let samples = interleave(setup.rounds(), &columns, |column| match column {
            Column::InPlace => calls(&in_place),
            Column::Copied => calls(&copied),
            Column::Socket => calls(&socket),
        })?;
        let mut ns = |what, column| {
            figures.add(format!("memfd.{size}.{what}_ns"), "ns", samples.of(column), Goal::None);
        };
        ns("inplace", Column::InPlace);
        ns("copied", Column::Copied);
        ns("socket", Column::Socket);
        let goal = if size == LARGE { Goal::AtMost(0.5) } else { Goal::None };
        let ratios = samples.ratios(Column::InPlace, Column::Socket);
        figures.add(format!("ratio.memfd.{size}"), "x socket", &ratios, goal);
        let ratios = samples.ratios(Column::Copied, Column::Socket);
        figures.add(format!("ratio.memfd.{size}.copied"), "x socket", &ratios, Goal::None);
        all.push((size, samples));
    }
    for (what, column) in [("inplace", Column::InPlace), ("copied", Column::Copied)] {
        let from = faster_from(&all, column);
        figures.add(format!("memfd.faster_from.{what}_bytes"), "bytes", &from, Goal::None);
    }
    Ok(())
}

/// The size from which on the socket is slower, at all sizes that follow; none, if it is never.
fn faster_from(all: &[(usize, Samples<Column>)], column: Column) -> Vec<f64> {
    let faster = |samples: &Samples<Column>| median(&samples.ratios(column, Column::Socket)) < 1.0;
    let from = all.iter().rev().take_while(|(_, samples)| faster(samples)).last();
    from.map(|(size, _)| *size as f64).into_iter().collect()
}
