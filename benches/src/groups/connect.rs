//! How long it takes to connect, and to say the hello. The first call, which opens a lane, is not in it.

use std::time::{Duration, Instant};

use crate::{
    batch::ns_each,
    error::Result,
    figures::{Figures, Goal},
    samples::interleave,
    setup::Setup,
    subject::{self, Way},
};

pub(crate) fn measure(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let mut peer = setup.pinned_peer()?;
    let served = peer.serve("connect")?;
    let count = setup.count(20);
    let samples = interleave(setup.rounds(), &Way::ALL, |way| {
        let mut time = Duration::ZERO;
        for _ in 0..count {
            let start = Instant::now();
            let caller = subject::connect(&served, way)?;
            time += start.elapsed();
            // Ending it is not what is measured.
            drop(caller);
        }
        Ok(ns_each(time, count) / 1000.0)
    })?;
    for way in Way::ALL {
        figures.add(format!("connect.{}_us", way.name()), "us", samples.of(way), Goal::None);
    }
    Ok(())
}
