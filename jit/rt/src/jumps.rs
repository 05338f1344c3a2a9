//! The jump cache: where the code of a guest address is.

use crate::arena::ArenaError;
use crate::low::Low;

/// Entries; a power of two.
pub const JUMPS: usize = 1 << 16;
/// The size of a pair as log2.
pub const JUMP_SHIFT: u32 = 4;

/// A direct-mapped table of pairs, a guest address (negated) and a host address, below 2 GiB so that translated code needs no
/// register to reach it. An entry says where code *was* translated for an address: the code itself has to check that the
/// address still leads to it.
pub struct JumpCache {
    pairs: Low,
}

/// What an empty slot holds: address 0 never sits in another slot than 0, and slot 0 asks for 1.
const fn empty(slot: usize) -> u64 {
    (((slot + 1) & 1) as u64).wrapping_neg()
}

impl JumpCache {
    /// Makes an empty table.
    ///
    /// # Errors
    /// The host has no memory below 2 GiB.
    pub fn new() -> Result<Self, ArenaError> {
        let mut new = Self { pairs: Low::new(2 * JUMPS)? };
        new.clear();
        Ok(new)
    }

    /// Its address: a positive 32-bit displacement.
    pub fn base(&self) -> i32 {
        self.pairs.base()
    }

    fn slot(linear: u64) -> usize {
        linear as usize & (JUMPS - 1)
    }

    /// The code of an address.
    pub fn get(&self, linear: u64) -> Option<usize> {
        let [known, code] = self.pairs.words().as_chunks().0[Self::slot(linear)];
        (known.wrapping_add(linear) == 0).then_some(code as usize)
    }

    fn set(&mut self, n: usize, linear: u64, code: usize) {
        self.pairs.words_mut().as_chunks_mut().0[n] = [linear, code as u64];
    }

    /// Enters the code of an address.
    pub fn insert(&mut self, linear: u64, code: usize) {
        self.set(Self::slot(linear), linear.wrapping_neg(), code);
    }

    /// Forgets the code of an address.
    pub fn remove(&mut self, linear: u64) {
        let n = Self::slot(linear);
        self.set(n, empty(n), 0);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        for n in 0..JUMPS {
            self.set(n, empty(n), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_and_forgotten() {
        let mut jumps = JumpCache::new().unwrap();
        for linear in [0, 1, u64::MAX, 1 << 63, JUMPS as u64] {
            assert_eq!(jumps.get(linear), None);
            jumps.insert(linear, 7);
            assert_eq!(jumps.get(linear), Some(7));
            jumps.remove(linear);
            assert_eq!(jumps.get(linear), None);
        }
    }
}
