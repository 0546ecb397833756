//! Measures shmrpc against the limits of the machine it runs on.
//!
//! `cargo run --release -p shmrpc-benches --bin report -- --json FILE` starts a second process, measures in
//! interleaved rounds what the hardware and the kernel allow (the limits, `limit`) and what shmrpc needs for the
//! same work (the subjects), and prints every figure with its quartiles, its goal, and whether it is met.
//! Figures are ratios of one round: both numbers of a ratio were taken milliseconds apart, pinned alike.

// In the order of a run; a module uses only modules declared after it.

pub mod report;

pub mod side_by_side;

mod groups {
    //! What is measured, one group of figures per file.
    pub(crate) mod asleep;
    pub(crate) mod blob;
    pub(crate) mod call;
    pub(crate) mod connect;
    pub(crate) mod contended;
    pub(crate) mod idle;
    pub(crate) mod lane;
    pub(crate) mod memfd;
    pub(crate) mod payload;
    pub(crate) mod survive;
}

mod setup;

mod keys;

mod figures;

mod obey;

mod peer;

mod closed_loop;

mod subject;

mod raw_lane;

mod limit {
    //! What no library can beat here: the same work without the library.
    //!
    //! Each file has the caller's side and the peer's side (`serve`) of one raw exchange between two processes.
    pub(crate) mod futex;
    pub(crate) mod handoff;
    pub(crate) mod ring;
    pub(crate) mod spin;
    pub(crate) mod tcp;
    pub(crate) mod uds;
}

mod batch;

mod histogram;

mod samples;

mod channel;

mod scratch;

mod identity;

mod process;

mod shared;

mod work;

mod error;
