//! Pages of guest memory that are in a file of their own, so that they can be mapped a second time. Most of the memory is in none:
//! hosts give files no large pages.

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use ringworld_core::{FastMap, PAGE_SIZE};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// Pages that may be in such files, of all machines of this process: each takes up to two of the mappings that a process may have
/// (65,530 by default).
const MOST: usize = 8192;

static SHARED: AtomicUsize = AtomicUsize::new(0);

/// Adds one to a counter, up to a limit.
pub(crate) fn take(counter: &AtomicUsize, most: usize) -> bool {
    let more = |n| (n < most).then_some(n + 1);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

/// The file, and what is in it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// None yet, or the host has none.
    file: Option<Option<File>>,
    /// By tracking index: the offset in the file.
    pages: FastMap<usize, u64>,
}

impl Shared {
    /// File and offset of the page of this index, which is at `pointer` and stays there.
    pub(crate) fn place(&self, index: usize, pointer: *mut u8) -> Option<(RawFd, u64)> {
        let Inner { file, pages } = &mut *self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let file = file.get_or_insert_with(|| create().ok()).as_ref()?;
        if let Some(&offset) = pages.get(&index) {
            return Some((file.as_raw_fd(), offset));
        }
        let offset = pages.len() as u64 * PAGE_SIZE;
        if !take(&SHARED, MOST) {
            return None;
        }
        if move_into(file, offset, pointer).is_err() {
            SHARED.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        pages.insert(index, offset);
        Some((file.as_raw_fd(), offset))
    }

    /// Which of these pages are in the file.
    pub(crate) fn among(&self, range: Range<usize>) -> Vec<usize> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if range.len() <= inner.pages.len() {
            return range.filter(|index| inner.pages.contains_key(index)).collect();
        }
        let mut among: Vec<usize> =
            inner.pages.keys().copied().filter(|index| range.contains(index)).collect();
        among.sort_unstable();
        among
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        SHARED.fetch_sub(self.pages.len(), Ordering::Relaxed);
    }
}

/// An empty file in memory, with room for all.
fn create() -> io::Result<File> {
    // SAFETY: a name that ends with a zero.
    let file = unsafe { libc::memfd_create(c"guest pages".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else owns it.
    let file = unsafe { File::from_raw_fd(file) };
    file.set_len(MOST as u64 * PAGE_SIZE)?;
    Ok(file)
}

/// Puts the page at `pointer` into the file, which is mapped in its place.
fn move_into(file: &File, offset: u64, pointer: *mut u8) -> io::Result<()> {
    // Nobody else writes guest memory meanwhile: one host thread runs the CPUs and the devices.
    let mut bytes = [0; PAGE_SIZE as usize];
    // SAFETY: a whole page of guest memory, which cannot overlap what is on the stack.
    unsafe { pointer.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    file.write_all_at(&bytes, offset)?;
    let map = |flags, file, offset| {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = flags | libc::MAP_FIXED;
        // SAFETY: a page of guest memory, of which no references exist; what it holds is in `bytes`.
        let at = unsafe { libc::mmap(pointer.cast(), bytes.len(), rights, flags, file, offset) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    map(libc::MAP_SHARED | libc::MAP_POPULATE, file.as_raw_fd(), offset as libc::off_t).inspect_err(|_| {
        // What was there may be gone.
        if map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0).is_err() {
            std::process::abort();
        }
        // SAFETY: a page that has just been mapped.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
    })
}
