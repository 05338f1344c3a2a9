//! Hash maps for keys of a few integers that nobody chooses to collide for gain: a guest that makes them slow slows itself.

use crate::{PAGE_MASK, PAGE_SHIFT};
use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;

/// A map of integers, or of tuples of them.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// A hash of an address whose lowest bits keep what is in one page side by side, as it is in the code that is run: for tables that
/// are larger than the host's caches.
#[inline(always)]
pub const fn hash_by_page(address: u64) -> u64 {
    ((address >> PAGE_SHIFT).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).wrapping_add(address & PAGE_MASK)
}

/// Multiplies and rotates.
#[derive(Clone, Copy, Debug, Default)]
pub struct FastHasher(u64);

impl Hasher for FastHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(b.into());
        }
    }
    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }
    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}
