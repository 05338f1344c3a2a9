//! The jump cache: where the code of a guest address is.

use crate::arena::ArenaError;
use crate::words::Words;
use std::io;

/// Entries of the near table; a power of two.
pub const JUMPS: usize = 1 << 16;
/// Entries of the far table; a power of two, not beyond 2^32.
pub const FAR_JUMPS: usize = 1 << 20;
/// The size of a pair as log2.
pub const JUMP_SHIFT: u32 = 4;

/// Two direct-mapped tables of pairs, a guest address (negated) and a host address. The near one goes by an address's lowest
/// bits, and is what a jump looks at first, below 2 GiB so that this needs no register; functions at the same places of many
/// pages take turns in it. Whom another one displaces goes to the far one, which goes by CRC-32C of the whole address, as the
/// instruction computes it from zero. An entry says where code *was* translated for an address: the code itself has to check
/// that the address still leads to it.
pub struct JumpCache {
    near: Words,
    far: Words,
}

/// Where an address stands in the far table.
fn far_slot(linear: u64) -> usize {
    let mut crc = 0_u64;
    // SAFETY: it computes with registers alone, and `new` has asked for the instruction.
    unsafe {
        core::arch::asm!(
            "crc32 {crc}, {linear}",
            crc = inout(reg) crc, linear = in(reg) linear, options(pure, nomem, nostack, preserves_flags)
        );
    }
    crc as usize & (FAR_JUMPS - 1)
}

fn near_slot(linear: u64) -> usize {
    linear as usize & (JUMPS - 1)
}

impl JumpCache {
    /// Makes empty tables.
    ///
    /// # Errors
    /// The host has no memory below 2 GiB, or no CRC32 instruction.
    pub fn new() -> Result<Self, ArenaError> {
        if !std::is_x86_feature_detected!("sse4.2") {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
        let mut new = Self { near: Words::low(2 * JUMPS)?, far: Words::anywhere(2 * FAR_JUMPS)? };
        new.clear();
        Ok(new)
    }

    /// The address of the near table: a positive 32-bit displacement.
    pub fn base(&self) -> i32 {
        self.near.address() as i32
    }

    /// The address of the far table.
    pub fn far_address(&self) -> usize {
        self.far.address()
    }

    /// The code of an address, if the near table has it: who looks in the other one is translated code.
    pub fn get(&self, linear: u64) -> Option<usize> {
        look(&self.near, near_slot(linear), linear)
    }

    /// Enters the code of an address.
    pub fn insert(&mut self, linear: u64, code: usize) {
        let slot = near_slot(linear);
        let near: &mut [u64; 2] = &mut self.near.words_mut().as_chunks_mut().0[slot];
        let old = core::mem::replace(near, [linear.wrapping_neg(), code as u64]);
        if old[0] != near[0] && old[0] != empty(slot) {
            self.far.words_mut().as_chunks_mut().0[far_slot(old[0].wrapping_neg())] = old;
        }
    }

    /// Forgets the code of an address.
    pub fn remove(&mut self, linear: u64) {
        for (table, slot) in [(&mut self.near, near_slot(linear)), (&mut self.far, far_slot(linear))] {
            let pair: &mut [u64; 2] = &mut table.words_mut().as_chunks_mut().0[slot];
            if pair[0].wrapping_add(linear) == 0 {
                *pair = [empty(slot), 0];
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        for table in [&mut self.near, &mut self.far] {
            table.clear();
            table.words_mut()[0] = empty(0);
        }
    }
}

fn look(table: &Words, slot: usize, linear: u64) -> Option<usize> {
    let [known, code] = table.words().as_chunks().0[slot];
    (known.wrapping_add(linear) == 0).then_some(code as usize)
}

/// What an empty slot holds: address 0 sits in slot 0 of either table, which asks for 1.
const fn empty(slot: usize) -> u64 {
    if slot == 0 { u64::MAX } else { 0 }
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

    #[test]
    fn one_place_of_many_pages() {
        let mut jumps = JumpCache::new().unwrap();
        let at = |page: u64| 0x7f12_3450_0120 + (page << 12);
        (0..5000).for_each(|page| jumps.insert(at(page), page as usize));
        let get = |jumps: &JumpCache, page| {
            jumps.get(at(page)).or_else(|| look(&jumps.far, far_slot(at(page)), at(page)))
        };
        let found =
            |jumps: &JumpCache| (0..5000).filter(|&page| get(jumps, page) == Some(page as usize)).count();
        assert!(found(&jumps) > 4900, "{} are found", found(&jumps));
        (0..5000).step_by(2).for_each(|page| jumps.remove(at(page)));
        assert_eq!(get(&jumps, 2), None);
        assert!((2400..=2500).contains(&found(&jumps)));
        jumps.clear();
        assert_eq!(found(&jumps), 0);
    }
}
