//! The return cache: where the code of a return address is, by where on the stack the address lies.

use crate::arena::ArenaError;
use std::io;

/// The bits of a stack pointer that select a slot: depths of 4 KiB, of stacks that lie 16 KiB apart in two sets.
pub const RETURN_BITS: u64 = 0xff8 | 1 << 14;
/// Slots.
const SLOTS: usize = 1 << RETURN_BITS.count_ones();

/// Two direct-mapped tables, of guest return addresses (negated) and of host addresses, below 2 GiB so that translated code
/// needs no register to reach them. A call enters both, and a return with the same stack pointer finds them: however many
/// stacks there are, and whatever becomes of the calls, no slot has to be taken back. What a slot says is as true as what a
/// [jump cache](crate::JumpCache) says: the code itself has to check that the guest address still leads to it.
pub struct ReturnCache {
    linear: *mut u64,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for ReturnCache {}

impl ReturnCache {
    /// Makes the tables; call [`Self::clear`] before they are used.
    ///
    /// # Errors
    /// The host has no memory below 2 GiB.
    pub fn new() -> Result<Self, ArenaError> {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                16 * SLOTS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(ArenaError::from(io::Error::last_os_error()));
        }
        Ok(Self { linear: at.cast() })
    }

    /// Address of the negated guest addresses: a positive 32-bit displacement.
    pub fn linear_base(&self) -> i32 {
        self.linear as usize as i32
    }

    /// Address of the host addresses.
    pub fn code_base(&self) -> i32 {
        self.linear_base() + 8 * SLOTS as i32
    }

    /// Forgets all: every slot says that the code of guest address 0 is at `null`.
    pub fn clear(&mut self, null: usize) {
        for n in 0..SLOTS {
            // SAFETY: the mapping holds two tables of `SLOTS` entries.
            unsafe {
                *self.linear.add(n) = 0;
                *self.linear.add(SLOTS + n) = null as u64;
            }
        }
    }
}

impl Drop for ReturnCache {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.linear.cast(), 16 * SLOTS) };
    }
}
