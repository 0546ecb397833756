//! Plain numbers: archived as they are, so that a slice of them is read where it lies.

use rkyv::Archived;
use rkyv::vec::ArchivedVec;

use super::Wire;

/// A number whose archive has the bytes of the number itself, at the same alignment.
pub trait Number: Wire + Copy + sealed::Sealed {
    /// The archived numbers as native ones, without a copy.
    fn slice(archived: &ArchivedVec<Archived<Self>>) -> &[Self];
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        const _: () = {
            assert!(size_of::<$number>() == size_of::<Archived<$number>>());
            assert!(align_of::<$number>() <= align_of::<Archived<$number>>());
        };
        impl sealed::Sealed for $number {}
        impl Number for $number {
            #[inline(always)]
            fn slice(archived: &ArchivedVec<Archived<Self>>) -> &[Self] {
                let archived = archived.as_slice();
                // SAFETY: on a little-endian machine (the crate compiles on no other) the archived number has the
                // bytes of the native one; size and alignment are asserted above, and any bits are valid.
                unsafe { core::slice::from_raw_parts(archived.as_ptr().cast(), archived.len()) }
            }
        }
    )*};
}

numbers!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

#[cfg(test)]
mod tests {
    use super::*;
    use rkyv::rancor::Error;

    #[test]
    fn numbers_are_read_where_they_lie() {
        let floats = vec![1.5f32, -0.0, f32::MIN];
        let bytes = rkyv::to_bytes::<Error>(&floats).unwrap();
        let archived = rkyv::access::<rkyv::Archived<Vec<f32>>, Error>(&bytes).unwrap();
        assert_eq!(f32::slice(archived), floats);
    }
}
