//! Windows: ranges of host addresses at which a context's pages lie as they do in the guest, so that translated code accesses
//! them by the guest's own addresses, added to a segment's base, and without a look-up.
//!
//! A window shows one *chunk* of linear addresses. A page is in it only while the context's arrays have it for reads, and may be
//! written only while they have it for writes: a window knows nothing that a look-up would not find. Everything else is not
//! mapped, and an access to it raises SIGSEGV.

use crate::memory::GuestMemory;
use crate::share::take;
use crate::tlb::{TLB_ENTRIES, Tlb, Translations, slot};
use core::hash::Hash;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use ringworld_core::{GuestPhys, PAGE_MASK, PAGE_SIZE};
use std::os::fd::RawFd;

/// Log2 of a chunk's bytes.
pub const CHUNK_SHIFT: u32 = 40;
/// Chunks of the lower half of the addresses of 48 bits; others have no windows.
pub const CHUNKS: usize = 128;
/// Bytes on both sides of a window that nothing is ever mapped at: who knows that a register points into the chunk may access what is
/// this near.
pub const GUARD: u64 = 1 << 36;

const CHUNK: usize = 1 << CHUNK_SHIFT;
const RESERVED: usize = CHUNK + 2 * GUARD as usize;
/// Windows of all machines of this process: a quarter of the host's addresses.
const MOST_WINDOWS: usize = 24;
/// Pages in all windows: each may take three of the mappings that a process may have (65,530 by default).
const MOST_PAGES: usize = 8192;

static WINDOWS: AtomicUsize = AtomicUsize::new(0);
static PAGES: AtomicUsize = AtomicUsize::new(0);

/// Host addresses for one chunk.
#[derive(Debug)]
struct Window {
    chunk: u64,
    /// Where the reserved addresses begin.
    start: usize,
}

impl Window {
    fn new(chunk: u64) -> Option<Self> {
        if !take(&WINDOWS, MOST_WINDOWS) {
            return None;
        }
        match reserve(ptr::null_mut(), RESERVED, 0) {
            Some(start) => Some(Self { chunk, start }),
            None => {
                WINDOWS.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Host addresses minus linear addresses (wrapping).
    fn distance(&self) -> u64 {
        (self.start as u64 + GUARD).wrapping_sub(self.chunk << CHUNK_SHIFT)
    }

    /// The linear address that is at a host address.
    fn linear(&self, host: usize) -> Option<u64> {
        let linear = (host as u64).wrapping_sub(self.distance());
        (linear >> CHUNK_SHIFT == self.chunk).then_some(linear)
    }

    /// The host address of a page of the chunk.
    fn page(&self, linear: u64) -> *mut libc::c_void {
        debug_assert_eq!(linear >> CHUNK_SHIFT, self.chunk, "a page of the chunk");
        ptr::with_exposed_provenance_mut(linear.wrapping_add(self.distance()) as usize)
    }

    fn map(&self, linear: u64, (file, offset): (RawFd, u64), write: bool) -> bool {
        let rights = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
        // SAFETY: a page of the addresses that this window has reserved, at which no reference exists.
        let at = unsafe {
            libc::mmap(self.page(linear), PAGE_SIZE as usize, rights, flags, file, offset as libc::off_t)
        };
        at != libc::MAP_FAILED
    }

    /// Unmaps so many bytes from an address that is in the window, or all.
    fn unmap(&self, from: *mut libc::c_void, bytes: usize) {
        if reserve(from, bytes, libc::MAP_FIXED).is_none() {
            // What must not be seen any more is: nothing can go on.
            std::process::abort();
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: what `new` has reserved; no reference to it exists.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.start), RESERVED) };
        WINDOWS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reserves addresses at which nothing can be accessed.
fn reserve(at: *mut libc::c_void, bytes: usize, flags: libc::c_int) -> Option<usize> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: addresses that the host chooses, or (MAP_FIXED) that a window has reserved before.
    let start = unsafe { libc::mmap(at, bytes, libc::PROT_NONE, flags, -1, 0) };
    (start != libc::MAP_FAILED).then(|| start.expose_provenance())
}

/// The window of a context.
#[derive(Debug)]
pub(crate) struct Opened {
    window: Window,
    /// A bit for each slot of the arrays whose page is in it.
    slots: [u64; TLB_ENTRIES / 64],
    /// So many.
    count: usize,
}

impl Opened {
    /// Whether the page of a slot is in the window.
    pub(crate) const fn has(&self, n: usize) -> bool {
        self.slots[n / 64] >> (n % 64) & 1 != 0
    }

    /// It is not any more.
    #[cold]
    pub(crate) fn drop_page(&mut self, n: usize, linear: u64) {
        self.window.unmap(self.window.page(linear), PAGE_SIZE as usize);
        self.slots[n / 64] &= !(1 << (n % 64));
        self.count -= 1;
        PAGES.fetch_sub(1, Ordering::Relaxed);
    }

    /// Nor is any other.
    #[cold]
    pub(crate) fn drop_pages(&mut self) {
        if self.count != 0 {
            self.window.unmap(ptr::with_exposed_provenance_mut(self.window.start), RESERVED);
            self.slots.fill(0);
            PAGES.fetch_sub(self.count, Ordering::Relaxed);
            self.count = 0;
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        PAGES.fetch_sub(self.count, Ordering::Relaxed);
    }
}

impl Translations {
    /// Whether no window of another chunk shows anything: going from one to the other takes the host longer than many look-ups. One
    /// that shows nothing is what another process has left, or an earlier time.
    pub fn may_open(&self, chunk: u64) -> bool {
        self.opened.as_ref().is_none_or(|opened| opened.window.chunk == chunk || opened.count == 0)
    }

    fn open_window(&mut self, chunk: u64) -> bool {
        let Some(place) = self.windows.get(chunk as usize) else { return false };
        if *place != 0 {
            return true;
        }
        self.close_window();
        let Some(window) = Window::new(chunk) else { return false };
        self.windows[chunk as usize] = window.distance();
        self.opened = Some(Box::new(Opened { window, slots: [0; TLB_ENTRIES / 64], count: 0 }));
        true
    }

    pub(crate) fn close_window(&mut self) {
        if self.opened.take().is_some() {
            self.windows = [0; CHUNKS];
        }
    }

    /// Puts the page whose place in a window is at `host` there, as far as the arrays have it; false if that changes nothing.
    fn show(&mut self, host: usize, write: bool, memory: &GuestMemory) -> bool {
        let Some(opened) = &mut self.opened else { return false };
        let Some(linear) = opened.window.linear(host) else { return false };
        let linear = linear & !PAGE_MASK;
        let n = slot(linear);
        if !Self::matches(self.read[n], linear, 1) {
            return false;
        }
        let write = write && Self::matches(self.write[n], linear, 1);
        if opened.has(n) && !write {
            return false;
        }
        let Some(page) = memory.page(GuestPhys(self.physical[n] & !PAGE_MASK)) else { return false };
        if page.ptr as u64 != self.host[n].wrapping_add(linear) {
            return false;
        }
        let Some(place) = memory.share(page.index) else { return false };
        if !opened.has(n) && !take(&PAGES, MOST_PAGES) {
            return false;
        }
        let shown = opened.window.map(linear, place, write);
        if !opened.has(n) {
            if shown {
                opened.slots[n / 64] |= 1 << (n % 64);
                opened.count += 1;
            } else {
                PAGES.fetch_sub(1, Ordering::Relaxed);
            }
        }
        shown
    }
}

impl<K: Eq + Hash + Clone> Tlb<K> {
    /// Opens a window of the arrays that accesses use now to a chunk, if there is none to another one. If there are too many, other
    /// contexts lose theirs.
    pub fn open_window(&mut self, chunk: u64) -> bool {
        let Some(arrays) = self.current_mut().filter(|arrays| arrays.may_open(chunk)) else { return false };
        if arrays.open_window(chunk) {
            return true;
        }
        self.others_mut().for_each(Translations::close_window);
        self.current_mut().is_some_and(|arrays| arrays.open_window(chunk))
    }

    /// After an access has been done in another way that would have been to `host`, in a window of the arrays that accesses use now:
    /// puts the page there. False if that changes nothing.
    pub fn show_page(&mut self, host: usize, memory: &GuestMemory) -> bool {
        let epoch = self.write_epoch;
        self.current_mut().is_some_and(|arrays| {
            let write = arrays.write_epoch == epoch;
            arrays.show(host, write, memory)
        })
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
