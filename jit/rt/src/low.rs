//! Tables that translated code reaches without a register.

use crate::arena::ArenaError;
use std::io;

/// Words below 2 GiB: their address is a positive 32-bit displacement. Translated code reads and writes them while nothing here
/// runs.
pub(crate) struct Low {
    words: *mut u64,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for Low {}

impl Low {
    /// So many words, all zero.
    ///
    /// # Errors
    /// The host has no memory below 2 GiB.
    pub(crate) fn new(len: usize) -> Result<Self, ArenaError> {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                8 * len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
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
    pub(crate) fn base(&self) -> i32 {
        self.words as usize as i32
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

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.words.cast(), 8 * self.len) };
    }
}
