//! The work that limit and subject have in common, so that both read a payload alike.

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// The payload sizes of the report, in bytes.
pub(crate) const SIZES: [usize; 5] = [64, 4096, 65536, 1 << 20, 16 << 20];

/// The largest of [`SIZES`].
pub(crate) const LARGEST: usize = 16 << 20;

/// The sum of one byte of every cache line.
#[inline(never)]
pub fn touch_lines(data: &[u8]) -> u64 {
    data.iter().step_by(LINE).map(|byte| u64::from(*byte)).sum()
}

/// A private, warm buffer whose bytes and whose sum depend on `seed`.
pub fn payload(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|at| seed.wrapping_add((at / LINE).to_le_bytes()[0])).collect()
}
