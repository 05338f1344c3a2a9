//! Tables that translated code reads.

use crate::arena::ArenaError;
use std::io;

/// Words that translated code reads and writes while nothing here runs.
pub(crate) struct Words {
    words: *mut u64,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for Words {}

impl Words {
    /// So many words below 2 GiB, all zero: their address is a positive 32-bit displacement, which needs no register. There is 1 GiB
    /// of such memory for all CPUs.
    ///
    /// # Errors
    /// The host has none left.
    pub(crate) fn low(len: usize) -> Result<Self, ArenaError> {
        Self::new(len, libc::MAP_32BIT)
    }

    /// So many words, all zero.
    ///
    /// # Errors
    /// The host has no memory.
    pub(crate) fn anywhere(len: usize) -> Result<Self, ArenaError> {
        Self::new(len, libc::MAP_NORESERVE)
    }

    fn new(len: usize, flags: libc::c_int) -> Result<Self, ArenaError> {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                8 * len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(ArenaError::from(io::Error::last_os_error()));
        }
        Ok(Self { words: at.cast(), len })
    }

    /// The address.
    pub(crate) fn address(&self) -> usize {
        self.words as usize
    }

    /// The words.
    pub(crate) fn words(&self) -> &[u64] {
        // SAFETY: the mapping has so many words, which nobody writes while `self` is borrowed.
        unsafe { core::slice::from_raw_parts(self.words, self.len) }
    }

    /// The words.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as in `words`, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.words, self.len) }
    }

    /// Makes all words zero; those that nobody writes again take no memory.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the mapping is private and anonymous, and `self` is borrowed mutably.
        let given_back = unsafe { libc::madvise(self.words.cast(), 8 * self.len, libc::MADV_DONTNEED) };
        if given_back != 0 {
            self.words_mut().fill(0);
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.words.cast(), 8 * self.len) };
    }
}
