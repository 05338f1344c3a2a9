//! Vector values and their lanes.

use zerocopy::{transmute_mut, transmute_ref};

/// A whole vector register, as in [`crate::Cpu::zmm`].
pub type V = [u64; 8];

/// 128 bits: the unit that most packed integer operations work in.
pub type Block = [u64; 2];

/// An element type: a view of a vector as its lanes, lowest first.
pub trait Lane: Copy + Default + PartialOrd + 'static {
    /// All lanes of 64 bytes.
    fn lanes(v: &V) -> &[Self];
    /// All lanes of 64 bytes.
    fn lanes_mut(v: &mut V) -> &mut [Self];
}

macro_rules! lanes {
    ($($t:ty: $n:expr;)*) => {$(
        impl Lane for $t {
            #[inline(always)]
            fn lanes(v: &V) -> &[Self] {
                let lanes: &[$t; $n] = transmute_ref!(v);
                lanes
            }
            #[inline(always)]
            fn lanes_mut(v: &mut V) -> &mut [Self] {
                let lanes: &mut [$t; $n] = transmute_mut!(v);
                lanes
            }
        }
    )*};
}

lanes! {
    u8: 64;
    u16: 32;
    u32: 16;
    u64: 8;
    i8: 64;
    i16: 32;
    i32: 16;
    i64: 8;
}

/// A mask of `n` (up to 64) ones.
#[inline(always)]
pub const fn ones(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// Lane `n` of `size` (1, 2, 4 or 8) bytes, zero-extended; `n` must be within 64 bytes.
#[inline]
pub fn lane(v: &V, size: usize, n: usize) -> u64 {
    let bit = 8 * size * n;
    v[bit / 64 & 7] >> (bit % 64) & ones(8 * size)
}

/// Sets lane `n` of `size` bytes.
#[inline]
pub fn set_lane(v: &mut V, size: usize, n: usize, value: u64) {
    let bit = 8 * size * n;
    let quad = &mut v[bit / 64 & 7];
    let mask = ones(8 * size) << (bit % 64);
    *quad = *quad & !mask | value << (bit % 64) & mask;
}
