//! The return cache: where the code of a return address is, by where on the stack the address lies.

use crate::arena::ArenaError;
use crate::words::Words;

/// The bits of a stack pointer that select a slot: depths of 4 KiB, of stacks that lie 16 KiB apart in two sets.
pub const RETURN_BITS: u64 = 0xff8 | 1 << 14;
/// Slots.
const SLOTS: usize = 1 << RETURN_BITS.count_ones();

/// Two direct-mapped tables, of guest return addresses (negated) and of host addresses, below 2 GiB so that translated code
/// needs no register to reach them. A call enters both, and a return with the same stack pointer finds them: however many
/// stacks there are, and whatever becomes of the calls, no slot has to be taken back. What a slot says is as true as what a
/// [jump cache](crate::JumpCache) says: the code itself has to check that the guest address still leads to it.
pub struct ReturnCache {
    tables: Words,
    null: u64,
}

impl ReturnCache {
    /// Makes the tables. An empty slot says that the code of guest address 0 is at `null`.
    ///
    /// # Errors
    /// The host has no memory below 2 GiB.
    pub fn new(null: usize) -> Result<Self, ArenaError> {
        let mut new = Self { tables: Words::low(2 * SLOTS)?, null: null as u64 };
        new.clear();
        Ok(new)
    }

    /// Address of the negated guest addresses: a positive 32-bit displacement.
    pub fn linear_base(&self) -> i32 {
        self.tables.address() as i32
    }

    /// Address of the host addresses.
    pub fn code_base(&self) -> i32 {
        self.linear_base() + 8 * SLOTS as i32
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        let (linear, code) = self.tables.words_mut().split_at_mut(SLOTS);
        linear.fill(0);
        code.fill(self.null);
    }
}
