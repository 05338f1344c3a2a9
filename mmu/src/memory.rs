//! Guest physical memory: RAM and ROM in one anonymous mapping, but for the pages that are mapped twice ([`crate::share`]), with
//! per-page dirty and code tracking.
//!
//! Nothing here calls back. Who keeps something derived from memory (decoded or translated code, a write path that
//! skips the tracking) marks it and compares [`GuestMemory::code_epoch`] and [`GuestMemory::code_page_epoch`] later.

use crate::shadow::Shadow;
use crate::share::Shared;
use core::mem::size_of;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use memmap2::{Advice, MmapOptions, MmapRaw};
use ringworld_core::{FastMap, GuestPhys, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use zerocopy::FromZeros;

/// Bytes covered by one bit of a page's code bitmap.
pub const SUB_BLOCK_SIZE: u32 = 64;

/// One past the highest guest-physical address that the architecture can form (MAXPHYADDR is at most 52).
const ADDRESS_LIMIT: u64 = 1 << 52;

/// Writes to a page of code before its marks are given up until code runs there again.
const WATCHED_WRITES: u8 = 8;
/// See [`GuestMemory::code_replaced`]; 128 writes are the most.
const MOST_PATIENCE: u8 = 4;
/// Pages that the host is asked about at once.
const PAGES_AT_ONCE: usize = 512;
/// How many changes of code are remembered.
const CODE_CHANGES: usize = 1024;

/// What backs a [`MemoryRegion`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum RegionKind {
    /// Readable and writable.
    Ram,
    /// Readable; writes are lost, except those of [`GuestMemory::load_rom`].
    Rom,
}

/// A page-aligned range of guest-physical addresses that is backed by memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct MemoryRegion {
    /// Where it starts.
    pub base: GuestPhys,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    pub kind: RegionKind,
}

/// Why a memory layout cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// There is nothing to back.
    #[error("a machine needs at least one memory region")]
    NoRegions,
    /// A region of zero bytes.
    #[error("the memory region at {0} is empty")]
    Empty(GuestPhys),
    /// A region that does not start and end at a page boundary.
    #[error("the memory region at {base} of {size:#x} bytes is not aligned to {PAGE_SIZE} bytes")]
    Unaligned {
        /// The region's start.
        base: GuestPhys,
        /// The region's size in bytes.
        size: u64,
    },
    /// A region that ends above the 52-bit physical address space.
    #[error("the memory region at {base} of {size:#x} bytes ends above the 52-bit physical address space")]
    TooBig {
        /// The region's start.
        base: GuestPhys,
        /// The region's size in bytes.
        size: u64,
    },
    /// Two regions that share addresses.
    #[error("the memory regions at {0} and {1} overlap")]
    Overlap(GuestPhys, GuestPhys),
    /// The host has no room for it.
    #[error("the host cannot provide {size:#x} bytes of guest memory")]
    OutOfMemory {
        /// The sum of all regions, in bytes.
        size: u64,
        /// What the host said.
        source: io::Error,
    },
}

/// An access to an address that no memory backs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no memory at guest-physical address {0}")]
pub struct Unbacked(
    /// The first address that is not backed. Bytes before it have been transferred.
    pub GuestPhys,
);

/// The host's view of one guest page. The pointer is valid for [`PAGE_SIZE`] bytes for as long as the
/// [`GuestMemory`] lives; other CPUs and devices may write there at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostPage {
    /// The page's first byte.
    pub ptr: *mut u8,
    /// The page's number in the tracking arrays.
    pub index: usize,
    /// Writes must be dropped.
    pub rom: bool,
}

/// What is tracked of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageFlags {
    /// Written since the last [`GuestMemory::take_dirty`].
    pub dirty: bool,
    /// Holds marked code: writes have to go through [`GuestMemory::note_write`].
    pub code: bool,
}

/// A region and where it lies in the mapping.
#[derive(Clone, Copy, Debug)]
struct Backing {
    base: u64,
    size: u64,
    /// The index of its first page.
    first_page: usize,
    rom: bool,
}

impl Backing {
    fn page_count(&self) -> usize {
        (self.size >> PAGE_SHIFT) as usize
    }
}

/// The guest's physical memory, shared by its CPUs and devices.
#[derive(Debug)]
pub struct GuestMemory {
    mapping: MmapRaw,
    /// The largest region first, so that the usual lookup ends at the first comparison.
    backings: Box<[Backing]>,
    regions: Box<[MemoryRegion]>,
    dirty: Box<[AtomicU8]>,
    /// A bit for each sub-block that holds code.
    code: Box<[AtomicU64]>,
    /// The bytes that are marked as code, by page: a bit for each.
    code_bytes: Mutex<FastMap<usize, Box<[u64; PAGE_SIZE as usize / 64]>>>,
    /// Writes to the page since code was last marked in it.
    code_writes: Box<[AtomicU8]>,
    /// The power of two that the writes until the page gives up its marks are multiplied by.
    code_patience: Box<[AtomicU8]>,
    generations: Box<[AtomicU32]>,
    code_epoch: AtomicU64,
    /// The pages of the last changes of code, by epoch.
    code_changes: Box<[(AtomicU32, AtomicU64)]>,
    code_page_epoch: AtomicU64,
    pub(crate) shadow: Shadow,
    shared: Shared,
}

macro_rules! accessors {
    ($($read:ident $write:ident $type:ty, $atomic:ty;)*) => { $(
        /// Reads a little-endian value; in one piece if it is naturally aligned.
        #[inline]
        pub fn $read(&self, addr: GuestPhys) -> Result<$type, Unbacked> {
            if addr.0 % size_of::<$type>() as u64 == 0 {
                let page = self.page(addr).ok_or(Unbacked(addr))?;
                // SAFETY: aligned, so it lies within the page; the mapping lives as long as `self`, and all of its
                // concurrent users write by atomics or raw copies.
                let cell = unsafe { <$atomic>::from_ptr(page.ptr.add(addr.page_offset() as usize).cast()) };
                return Ok(<$type>::from_le(cell.load(Ordering::Relaxed)));
            }
            let mut bytes = [0; size_of::<$type>()];
            self.read(addr, &mut bytes)?;
            Ok(<$type>::from_le_bytes(bytes))
        }

        /// Writes a little-endian value; in one piece if it is naturally aligned. Otherwise as [`Self::write`].
        #[inline]
        pub fn $write(&self, addr: GuestPhys, value: $type) -> Result<(), Unbacked> {
            if addr.0 % size_of::<$type>() as u64 == 0 {
                let page = self.page_to_write(addr).ok_or(Unbacked(addr))?;
                if !page.rom {
                    // SAFETY: as for reading.
                    let cell = unsafe { <$atomic>::from_ptr(page.ptr.add(addr.page_offset() as usize).cast()) };
                    cell.store(value.to_le(), Ordering::Relaxed);
                    self.written(page.index, addr.page_offset() as u32, size_of::<$type>() as u32);
                }
                return Ok(());
            }
            self.write(addr, &value.to_le_bytes())
        }
    )* };
}

macro_rules! compare_exchange {
    ($($name:ident $type:ty, $atomic:ty;)*) => { $(
        /// Replaces the little-endian value at the naturally aligned `addr` by `new` if it is `old`, as one atomic
        /// access: the value found, as `Ok` if it was `old`. In a ROM nothing is stored. `None` where no memory is, or
        /// if `addr` is not aligned.
        #[inline]
        pub fn $name(&self, addr: GuestPhys, old: $type, new: $type) -> Option<Result<$type, $type>> {
            if addr.0 % size_of::<$type>() as u64 != 0 {
                return None;
            }
            let page = self.page(addr)?;
            // SAFETY: aligned, so it lies within the page; the mapping lives as long as `self`, and all of its
            // concurrent users write by atomics or raw copies.
            let cell = unsafe { <$atomic>::from_ptr(page.ptr.add(addr.page_offset() as usize).cast()) };
            if page.rom {
                let found = <$type>::from_le(cell.load(Ordering::Relaxed));
                if found != old {
                    return Some(Err(found));
                }
                // A ROM takes no write; the RAM behind it may.
                let _ = self.write(addr, &new.to_le_bytes());
                return Some(Ok(found));
            }
            let result = cell
                .compare_exchange(old.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst)
                .map(<$type>::from_le)
                .map_err(<$type>::from_le);
            if result.is_ok() {
                self.written(page.index, addr.page_offset() as u32, size_of::<$type>() as u32);
            }
            Some(result)
        }
    )* };
}

impl GuestMemory {
    /// Memory of zeros at `regions`, in any order. The host's memory is taken when the guest first touches a page.
    pub fn new(regions: &[MemoryRegion]) -> Result<Self, MemoryError> {
        let regions = checked_layout(regions)?;
        let mut first_page = 0;
        let mut backings: Box<[Backing]> = regions
            .iter()
            .map(|region| {
                let rom = region.kind == RegionKind::Rom;
                let backing = Backing { base: region.base.0, size: region.size, first_page, rom };
                first_page += backing.page_count();
                backing
            })
            .collect();
        backings.sort_by_key(|backing| core::cmp::Reverse(backing.size));
        let pages = first_page;
        // Cannot overflow: the regions are disjoint parts of a 52-bit space.
        let size = (pages as u64) << PAGE_SHIFT;
        let out_of_memory = |source| MemoryError::OutOfMemory { size, source };
        let mapping = MmapOptions::new()
            .len(pages << PAGE_SHIFT)
            .no_reserve_swap()
            .map_anon()
            .map(MmapRaw::from)
            .map_err(out_of_memory)?;
        // Fewer faults and TLB misses of the host; one without large pages runs all the same.
        let _ = mapping.advise(Advice::HugePage);
        let no_room = |_| out_of_memory(io::ErrorKind::OutOfMemory.into());
        Ok(Self {
            mapping,
            backings,
            regions,
            dirty: <[AtomicU8]>::new_box_zeroed_with_elems(pages).map_err(no_room)?,
            code: <[AtomicU64]>::new_box_zeroed_with_elems(pages).map_err(no_room)?,
            code_bytes: Mutex::default(),
            code_writes: <[AtomicU8]>::new_box_zeroed_with_elems(pages).map_err(no_room)?,
            code_patience: <[AtomicU8]>::new_box_zeroed_with_elems(pages).map_err(no_room)?,
            generations: <[AtomicU32]>::new_box_zeroed_with_elems(pages).map_err(no_room)?,
            code_epoch: AtomicU64::new(0),
            code_changes: (0..CODE_CHANGES).map(|_| Default::default()).collect(),
            code_page_epoch: AtomicU64::new(0),
            shadow: Shadow::default(),
            shared: Shared::default(),
        })
    }

    /// The regions, by address.
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions
    }

    /// The size of all RAM in bytes.
    pub fn ram_size(&self) -> u64 {
        self.regions.iter().filter(|region| region.kind == RegionKind::Ram).map(|region| region.size).sum()
    }

    /// The host page of the region that holds `addr`, whatever stands before it.
    #[inline]
    pub(crate) fn backing(&self, addr: GuestPhys) -> Option<HostPage> {
        let backing =
            self.backings.iter().find(|backing| addr.0.wrapping_sub(backing.base) < backing.size)?;
        let index = backing.first_page + ((addr.0 - backing.base) >> PAGE_SHIFT) as usize;
        Some(HostPage { ptr: self.page_pointer(index), index, rom: backing.rom })
    }

    /// The guest-physical address of the page of this index; `None` if there are not that many pages.
    pub fn address_of(&self, index: usize) -> Option<GuestPhys> {
        self.backings.iter().find_map(|backing| {
            let page = index.checked_sub(backing.first_page).filter(|page| *page < backing.page_count())?;
            Some(GuestPhys(backing.base + ((page as u64) << PAGE_SHIFT)))
        })
    }

    /// The first byte of a page. `index` must be below the number of pages.
    #[inline]
    pub(crate) fn page_pointer(&self, index: usize) -> *mut u8 {
        debug_assert!(index < self.dirty.len());
        self.mapping.as_mut_ptr().wrapping_add(index << PAGE_SHIFT)
    }

    /// Reads across pages, byte for byte.
    pub fn read(&self, addr: GuestPhys, data: &mut [u8]) -> Result<(), Unbacked> {
        let mut done = 0;
        while done < data.len() {
            let at = addr.offset(done as u64);
            let page = self.page(at).ok_or(Unbacked(at))?;
            let len = in_page(at, data.len() - done);
            let part = &mut data[done..][..len];
            // SAFETY: `part` ends within the page, and cannot overlap the mapping, of which no references exist.
            unsafe {
                page.ptr.add(at.page_offset() as usize).copy_to_nonoverlapping(part.as_mut_ptr(), part.len())
            };
            done += part.len();
        }
        Ok(())
    }

    /// Writes across pages, byte for byte, as a CPU or a device does: bytes for a ROM are lost.
    pub fn write(&self, addr: GuestPhys, data: &[u8]) -> Result<(), Unbacked> {
        self.store(addr, data, false)
    }

    /// Writes across pages, also into ROMs, whatever stands before them.
    pub fn load_rom(&self, addr: GuestPhys, data: &[u8]) -> Result<(), Unbacked> {
        self.store(addr, data, true)
    }

    fn store(&self, addr: GuestPhys, data: &[u8], into_rom: bool) -> Result<(), Unbacked> {
        let mut done = 0;
        while done < data.len() {
            let at = addr.offset(done as u64);
            let page = if into_rom { self.backing(at) } else { self.page_to_write(at) };
            let page = page.ok_or(Unbacked(at))?;
            let part = &data[done..][..in_page(at, data.len() - done)];
            if into_rom || !page.rom {
                let offset = at.page_offset();
                // SAFETY: as in `read`.
                unsafe { page.ptr.add(offset as usize).copy_from_nonoverlapping(part.as_ptr(), part.len()) };
                self.written(page.index, offset as u32, part.len() as u32);
            }
            done += part.len();
        }
        Ok(())
    }

    /// The tracking after each write into a page.
    #[inline]
    pub(crate) fn written(&self, index: usize, offset: u32, len: u32) {
        self.set_dirty(index);
        self.note_write(index, offset, len);
    }

    accessors! {
        read_u8 write_u8 u8, AtomicU8;
        read_u16 write_u16 u16, AtomicU16;
        read_u32 write_u32 u32, AtomicU32;
        read_u64 write_u64 u64, AtomicU64;
    }

    compare_exchange! {
        compare_exchange_u32 u32, AtomicU32;
        compare_exchange_u64 u64, AtomicU64;
    }

    /// Marks a page as written. Who keeps a write path to the page that does not come here must give it up when
    /// somebody calls [`Self::take_dirty`].
    #[inline]
    pub fn set_dirty(&self, index: usize) {
        // A read first: the line stays shared while several CPUs write.
        if let Some(flag) = self.dirty.get(index)
            && flag.load(Ordering::Relaxed) == 0
        {
            flag.store(1, Ordering::Release);
        }
    }

    /// Whether the page was written since the last [`Self::take_dirty`].
    #[inline]
    pub fn is_dirty(&self, index: usize) -> bool {
        self.dirty.get(index).is_some_and(|flag| flag.load(Ordering::Acquire) != 0)
    }

    /// The pages written since the last call, by address; forgets them.
    pub fn take_dirty(&self) -> Vec<GuestPhys> {
        let mut pages = Vec::new();
        for region in &self.regions {
            let Some(first) = self.backing(region.base) else { continue };
            for page in 0..region.size >> PAGE_SHIFT {
                let flag = &self.dirty[first.index + page as usize];
                if flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::AcqRel) != 0 {
                    pages.push(region.base.offset(page << PAGE_SHIFT));
                }
            }
        }
        pages
    }

    /// What is tracked of the page.
    #[inline]
    pub fn flags(&self, index: usize) -> PageFlags {
        PageFlags { dirty: self.is_dirty(index), code: self.is_code(index) }
    }

    /// Whether the page holds marked code.
    #[inline]
    pub fn is_code(&self, index: usize) -> bool {
        self.code.get(index).is_some_and(|bits| bits.load(Ordering::Acquire) != 0)
    }

    /// Marks `len` bytes from `offset` of a page as decoded or translated; to be called *before* the bytes are read,
    /// and again whenever derived code is brought back to life after a change of its page.
    ///
    /// True if the page held no marked code before: every write path to it that does not call [`Self::note_write`] must
    /// go. The caller drops its own; other CPUs see [`Self::code_page_epoch`] change.
    pub fn mark_code(&self, index: usize, offset: u32, len: u32) -> bool {
        let Some(bits) = self.code.get(index) else { return false };
        let mask = sub_blocks(offset, len);
        if mask == 0 {
            return false;
        }
        let mut all = self.code_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = all.entry(index).or_insert_with(|| Box::new([0; PAGE_SIZE as usize / 64]));
        let mut known = bits.load(Ordering::Relaxed) & mask == mask;
        for (block, bits) in bytes_by_sub_block(offset, len) {
            known &= bytes[block] & bits == bits;
            bytes[block] |= bits;
        }
        if known {
            return false;
        }
        self.code_writes[index].store(0, Ordering::Relaxed);
        let new_page = bits.fetch_or(mask, Ordering::SeqCst) == 0;
        if new_page {
            self.code_page_epoch.fetch_add(1, Ordering::SeqCst);
        }
        new_page
    }

    /// To be called *after* `len` bytes from `offset` of a page have been written: if that touched marked code, forgets the
    /// marks of the touched sub-blocks, bumps the page's generation and the epoch, and returns true. So it does with all of
    /// the page's marks when the page has often been written since code was last marked in it: somebody generates code
    /// there, and need not be watched until it runs. Where data lives beside code ([`Self::code_held`]), that takes longer.
    #[inline]
    pub fn note_write(&self, index: usize, offset: u32, len: u32) -> bool {
        self.code.get(index).is_some_and(|bits| {
            bits.load(Ordering::Acquire) != 0 && self.note_code_page_write(index, offset, len)
        })
    }

    #[cold]
    fn note_code_page_write(&self, index: usize, offset: u32, len: u32) -> bool {
        let patience = self.code_patience[index].load(Ordering::Relaxed);
        let often = self.code_writes[index].fetch_add(1, Ordering::Relaxed) >= WATCHED_WRITES << patience;
        let mask = if often { u64::MAX } else { sub_blocks(offset, len) };
        if self.code[index].load(Ordering::SeqCst) & mask == 0 {
            return false;
        }
        let mut all = self.code_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if often {
            if let Some(bytes) = all.get_mut(&index) {
                bytes.fill(0);
            }
        } else if let Some(bytes) = all.get_mut(&index) {
            if bytes_by_sub_block(offset, len).all(|(block, bits)| bytes[block] & bits == 0) {
                return false;
            }
            bytes_by_sub_block(offset, len).for_each(|(block, _)| bytes[block] = 0);
        }
        self.code[index].fetch_and(!mask, Ordering::SeqCst);
        drop(all);
        self.generations[index].fetch_add(1, Ordering::SeqCst);
        let epoch = self.code_epoch.load(Ordering::SeqCst);
        let (page, changed) = &self.code_changes[epoch as usize % CODE_CHANGES];
        page.store(index as u32, Ordering::SeqCst);
        changed.store(mask, Ordering::SeqCst);
        self.code_epoch.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// To be called when code of a page that has given up its marks is seen to be what it was: it is data beside it that was
    /// written.
    pub fn code_held(&self, index: usize) {
        if let Some(patience) = self.code_patience.get(index) {
            let more = patience.load(Ordering::Relaxed).saturating_add(1).min(MOST_PATIENCE);
            patience.store(more, Ordering::Relaxed);
        }
    }

    /// To be called when it is seen to have changed.
    pub fn code_replaced(&self, index: usize) {
        if let Some(patience) = self.code_patience.get(index) {
            patience.store(0, Ordering::Relaxed);
        }
    }

    /// How often marked code of the page has been overwritten. Code derived from the page at another generation is
    /// stale.
    #[inline]
    pub fn code_generation(&self, index: usize) -> u32 {
        self.generations.get(index).map_or(0, |generation| generation.load(Ordering::Acquire))
    }

    /// Changes whenever some page's [`Self::code_generation`] does.
    #[inline]
    pub fn code_epoch(&self) -> u64 {
        self.code_epoch.load(Ordering::Acquire)
    }

    /// The tracking indexes of the pages whose marked code has been overwritten since [`Self::code_epoch`] was `epoch`, and
    /// which [`sub_blocks`] have lost their marks; `None` if that is too long ago to say.
    pub fn code_changes_since(&self, epoch: u64) -> Option<Vec<(usize, u64)>> {
        let now = self.code_epoch();
        if now.wrapping_sub(epoch) > CODE_CHANGES as u64 {
            return None;
        }
        let mut pages: Vec<(usize, u64)> = (epoch..now)
            .map(|n| {
                let (page, changed) = &self.code_changes[n as usize % CODE_CHANGES];
                (page.load(Ordering::SeqCst) as usize, changed.load(Ordering::SeqCst))
            })
            .collect();
        pages.sort_unstable();
        pages.dedup_by(|(page, changed), (before, all)| {
            let same = page == before;
            if same {
                *all |= *changed;
            }
            same
        });
        Some(pages)
    }

    /// Changes whenever a page that held no marked code gets some (see [`Self::mark_code`]).
    #[inline]
    pub fn code_page_epoch(&self) -> u64 {
        self.code_page_epoch.load(Ordering::Acquire)
    }

    /// Makes all RAM zero and gives its memory back to the host; ROMs stay. Changed pages become dirty, their code
    /// stale.
    pub fn clear(&self) -> io::Result<()> {
        for backing in self.backings.iter().filter(|backing| !backing.rom) {
            let pages = backing.first_page..backing.first_page + backing.page_count();
            let touched: Vec<usize> = self.touched_pages(pages).collect();
            self.give_back(backing.first_page, backing.page_count())?;
            for index in touched {
                self.written(index, 0, PAGE_SIZE as u32);
            }
        }
        Ok(())
    }

    /// Makes the page at `addr` zero and gives its memory back to the host; a ROM stays.
    pub fn release_page(&self, addr: GuestPhys) -> Result<(), Unbacked> {
        let page = self.page(addr).ok_or(Unbacked(addr))?;
        if page.rom {
            return Ok(());
        }
        if self.give_back(page.index, 1).is_ok() {
            self.written(page.index, 0, PAGE_SIZE as u32);
            return Ok(());
        }
        // The host keeps the memory; the guest sees no difference.
        self.write(GuestPhys(addr.0 & !PAGE_MASK), &[0; PAGE_SIZE as usize])
    }

    /// Where a page is in a file that can be mapped a second time; from now on, if it was not yet. `None` if there are too many already,
    /// or the host has no such file.
    pub(crate) fn share(&self, index: usize) -> Option<(RawFd, u64)> {
        self.shared.place(index, self.page_pointer(index))
    }

    /// Makes pages zero and gives their memory back to the host.
    fn give_back(&self, first: usize, count: usize) -> io::Result<()> {
        // SAFETY: private anonymous memory reads as zeros afterwards, and what is in a file is made so below; no references to guest
        // memory exist.
        let result = unsafe {
            libc::madvise(self.page_pointer(first).cast(), count << PAGE_SHIFT, libc::MADV_DONTNEED)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        for index in self.shared.among(first..first + count) {
            // SAFETY: as above, a whole page.
            unsafe { self.page_pointer(index).write_bytes(0, PAGE_SIZE as usize) };
        }
        Ok(())
    }

    /// Those of the pages that the host has memory for; all others are zero.
    pub(crate) fn touched_pages(&self, pages: Range<usize>) -> impl Iterator<Item = usize> {
        // SAFETY: no pointers.
        let same_pages = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } == PAGE_SIZE as i64;
        // Without it, every page may have data.
        let map = File::open("/proc/self/pagemap").ok().filter(|_| same_pages);
        let first = self.page_pointer(0) as usize >> PAGE_SHIFT;
        let mut entries = [0; PAGES_AT_ONCE * 8];
        let shared = self.shared.among(pages.clone());
        pages.clone().step_by(PAGES_AT_ONCE).flat_map(move |start| {
            let count = PAGES_AT_ONCE.min(pages.end - start);
            let bytes = &mut entries[..count * 8];
            let known = map
                .as_ref()
                .is_some_and(|map| map.read_exact_at(bytes, ((first + start) * 8) as u64).is_ok());
            (start..start + count)
                .zip(bytes.chunks_exact(8))
                // Present or swapped out (Linux, admin-guide/mm/pagemap); of a file's pages it may say neither.
                .filter_map(|(index, entry)| {
                    let touched = !known || entry[7] & 0xc0 != 0 || shared.binary_search(&index).is_ok();
                    touched.then_some(index)
                })
                .collect::<Vec<_>>()
        })
    }
}

/// How many of `len` bytes from `addr` lie in its page.
fn in_page(addr: GuestPhys, len: usize) -> usize {
    len.min((PAGE_SIZE - addr.page_offset()) as usize)
}

/// The sub-blocks that `len` bytes from `offset` touch, and the bits of these bytes in each.
fn bytes_by_sub_block(offset: u32, len: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = offset.saturating_add(len).min(PAGE_SIZE as u32);
    (offset / SUB_BLOCK_SIZE..end.div_ceil(SUB_BLOCK_SIZE)).map(move |block| {
        let first = offset.saturating_sub(block * SUB_BLOCK_SIZE);
        let last = (end - block * SUB_BLOCK_SIZE).min(SUB_BLOCK_SIZE) - 1;
        (block as usize, u64::MAX << first & u64::MAX >> (63 - last))
    })
}

/// A bit for each sub-block of 64 bytes that `len` bytes from `offset` touch; bytes beyond the page do not count.
pub fn sub_blocks(offset: u32, len: u32) -> u64 {
    let end = offset.saturating_add(len).min(PAGE_SIZE as u32);
    if offset >= end {
        return 0;
    }
    let first = offset / SUB_BLOCK_SIZE;
    let last = (end - 1) / SUB_BLOCK_SIZE;
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

/// The regions by address, if they can be had.
fn checked_layout(regions: &[MemoryRegion]) -> Result<Box<[MemoryRegion]>, MemoryError> {
    for &MemoryRegion { base, size, .. } in regions {
        if size == 0 {
            return Err(MemoryError::Empty(base));
        }
        if (base.0 | size) & PAGE_MASK != 0 {
            return Err(MemoryError::Unaligned { base, size });
        }
        if base.0.checked_add(size).is_none_or(|end| end > ADDRESS_LIMIT) {
            return Err(MemoryError::TooBig { base, size });
        }
    }
    let mut regions: Box<[MemoryRegion]> = regions.into();
    regions.sort_by_key(|region| region.base);
    for pair in regions.windows(2) {
        if pair[0].base.0 + pair[0].size > pair[1].base.0 {
            return Err(MemoryError::Overlap(pair[0].base, pair[1].base));
        }
    }
    if regions.is_empty() { Err(MemoryError::NoRegions) } else { Ok(regions) }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
