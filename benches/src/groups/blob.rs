//! Blobs: a call that lends so many bytes and has them read by nobody costs what it costs to lend a few.

use crate::{
    batch,
    error::Result,
    figures::{Figures, Goal},
    samples::interleave,
    setup::Setup,
    subject::{self, Way},
    work::SIZES,
};

/// The size that has a goal, and the one that it is compared with.
const LARGE: usize = 1 << 20;
const SMALL: usize = 64;
/// Calls before the timer starts.
const WARM: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Column {
    way: Way,
    size: usize,
}

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut peer = setup.pinned_peer()?;
    let served = peer.serve("blob")?;
    let (shm, uds) = (subject::connect(&served, Way::Shm)?, subject::connect(&served, Way::Uds)?);
    let columns: Vec<Column> =
        [Way::Shm, Way::Uds].into_iter().flat_map(|way| SIZES.map(|size| Column { way, size })).collect();
    let samples = interleave(setup.rounds(), &columns, |Column { way, size }| {
        let caller = if way == Way::Shm { &shm } else { &uds };
        batch::subject(setup.batch_time() / 4, 1, WARM, |count| caller.blob(size, count))
    })?;
    for column in &columns {
        let Column { way, size } = *column;
        figures.add(format!("payload.{}.{size}.blob_ns", way.name()), "ns", samples.of(*column), Goal::None);
    }
    let at = |size| Column { way: Way::Shm, size };
    let ratios = samples.ratios(at(LARGE), at(SMALL));
    figures.add(format!("ratio.blob.{LARGE}"), "x 64 bytes", &ratios, Goal::AtMost(1.2));
    Ok(())
}
