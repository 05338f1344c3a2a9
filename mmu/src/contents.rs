//! Memory's contents as pages: for hashes and snapshots.

use crate::GuestMemory;
use ringworld_core::{GuestPhys, PAGE_SHIFT, PAGE_SIZE, StateHasher};
use std::collections::HashSet;

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_SIZE as usize];

const ZERO: PageBytes = [0; PAGE_SIZE as usize];

impl GuestMemory {
    /// Calls `visit` with each page (of RAMs and ROMs) that is not all zero, by address, until an error. Nobody should
    /// write meanwhile.
    pub fn visit_pages<E>(
        &self,
        mut visit: impl FnMut(GuestPhys, &PageBytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut page = ZERO;
        for region in self.regions() {
            let Some(first) = self.backing(region.base) else { continue };
            let start = first.index;
            for index in self.touched_pages(start..start + (region.size >> PAGE_SHIFT) as usize) {
                self.copy_page(index, &mut page);
                if page != ZERO {
                    visit(region.base.offset(((index - start) as u64) << PAGE_SHIFT), &page)?;
                }
            }
        }
        Ok(())
    }

    fn copy_page(&self, index: usize, to: &mut PageBytes) {
        // SAFETY: callers pass the index of a page that exists; the copy is private, as CPUs might still run.
        unsafe { self.page_pointer(index).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
    }

    /// The contents of the page at `addr`; `None` where no memory is.
    pub fn page_bytes(&self, addr: GuestPhys) -> Option<PageBytes> {
        let page = self.backing(addr)?;
        let mut bytes = ZERO;
        self.copy_page(page.index, &mut bytes);
        Some(bytes)
    }

    /// Puts contents into the page at `addr`, a ROM's too. An equal page stays as it is; another one becomes dirty, its code
    /// stale. False where no memory is.
    pub fn put_page(&self, addr: GuestPhys, bytes: &PageBytes) -> bool {
        let Some(page) = self.backing(addr) else { return false };
        let mut old = ZERO;
        self.copy_page(page.index, &mut old);
        if old != *bytes {
            // SAFETY: the pointer is valid for a page; nobody holds references into guest memory.
            unsafe { page.ptr.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            self.written(page.index, 0, PAGE_SIZE as u32);
        }
        true
    }

    /// Makes every page zero that is not one of `kept`, ROMs too.
    pub fn zero_except(&self, kept: &HashSet<GuestPhys>) {
        let mut gone = Vec::new();
        let none: Result<(), core::convert::Infallible> = self.visit_pages(|addr, _| {
            if !kept.contains(&addr) {
                gone.push(addr);
            }
            Ok(())
        });
        let Ok(()) = none;
        for addr in gone {
            self.put_page(addr, &ZERO);
        }
    }

    /// Adds the layout and the contents (of RAMs and ROMs) to `hasher`. Equal contents give equal hashes, whether or not
    /// a page of zeros was ever touched. Nobody should write meanwhile.
    pub fn hash_ram(&self, hasher: &mut StateHasher) {
        hasher.add(self.regions());
        let none: Result<(), core::convert::Infallible> = self.visit_pages(|addr, page| {
            hasher.add(&addr.0);
            hasher.add(page);
            Ok(())
        });
        let Ok(()) = none;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryRegion, RegionKind};

    fn memory() -> GuestMemory {
        let region = |base, kind| MemoryRegion { base: GuestPhys(base), size: 0x4000, kind };
        GuestMemory::new(&[region(0, RegionKind::Ram), region(0x10_0000, RegionKind::Rom)]).unwrap()
    }

    fn pages(memory: &GuestMemory) -> Vec<(u64, u8)> {
        let mut pages = Vec::new();
        let Ok(()) = memory.visit_pages(|addr, page| {
            pages.push((addr.0, page[5]));
            Ok::<_, core::convert::Infallible>(())
        });
        pages
    }

    #[test]
    fn contents_move_to_another_memory() {
        let one = memory();
        one.write_u8(GuestPhys(0x1005), 7).unwrap();
        one.write_u8(GuestPhys(0x3005), 0).unwrap();
        one.load_rom(GuestPhys(0x10_0005), &[9]).unwrap();
        assert_eq!(pages(&one), [(0x1000, 7), (0x10_0000, 9)]);
        let other = memory();
        other.write_u8(GuestPhys(0x2005), 3).unwrap();
        other.load_rom(GuestPhys(0x10_1005), &[9]).unwrap();
        other.take_dirty();
        for addr in [0x1000, 0x10_0000] {
            assert!(other.put_page(GuestPhys(addr), &one.page_bytes(GuestPhys(addr)).unwrap()));
        }
        other.zero_except(&[0x1000, 0x10_0000].map(GuestPhys).into());
        assert_eq!(pages(&other), pages(&one));
        let hash = |memory: &GuestMemory| {
            let mut hasher = StateHasher::new();
            memory.hash_ram(&mut hasher);
            hasher.digest()
        };
        assert_eq!(hash(&other), hash(&one));
        let dirty: Vec<u64> = other.take_dirty().iter().map(|page| page.0).collect();
        assert_eq!(dirty, [0x1000, 0x2000, 0x10_0000, 0x10_1000]);
        // What is equal does not become dirty.
        other.put_page(GuestPhys(0x1000), &one.page_bytes(GuestPhys(0x1000)).unwrap());
        assert!(other.take_dirty().is_empty());
        assert!(!other.put_page(GuestPhys(0x8000), &ZERO) && other.page_bytes(GuestPhys(0x8000)).is_none());
    }
}
