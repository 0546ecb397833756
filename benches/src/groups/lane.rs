//! Small messages with 64 in flight: the raw lane beside raw rings.

use std::time::Instant;

use crate::{
    error::Result,
    figures::{Figures, Goal},
    limit::ring,
    raw_lane::RawLane,
    samples::interleave,
    setup::Setup,
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Column {
    Ring,
    Lane,
}

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut peer = setup.pinned_peer()?;
    let count = setup.count(1_000_000);
    let served = peer.serve("lane")?;
    let mut lane = RawLane::connect(&served.lane)?;
    let samples = interleave(setup.rounds(), &[Column::Ring, Column::Lane], |column| {
        let time = match column {
            Column::Ring => {
                ring::clear(peer.shared());
                peer.batch(&format!("ring {count}"), |shared| {
                    let start = Instant::now();
                    ring::call(shared, count)?;
                    Ok(start.elapsed())
                })?
            }
            Column::Lane => {
                lane.run(count / 10)?;
                let start = Instant::now();
                lane.run(count)?;
                start.elapsed()
            }
        };
        Ok(count as f64 / time.as_secs_f64())
    })?;
    figures.add("limit.ring.64_per_s", "1/s", samples.of(Column::Ring), Goal::None);
    figures.add("lane.shm.64_per_s", "1/s", samples.of(Column::Lane), Goal::AtLeast(15e6));
    Ok(())
}
