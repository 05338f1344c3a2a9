//! What walks have found, page by page: behind the arrays of the [TLB](crate::tlb), which know of 4 KiB at a time and one page
//! a slot. A large page is found here after one walk, wherever in it the next access is; a global page in every address space.
//!
//! Entries carry the number of an address space, which is new after each flush, so that nothing has to be cleared then.

use super::paging::Translation;
use ringworld_core::GuestPhys;

/// Places for pages of 4 KiB, and for larger ones; powers of two.
const SMALL: usize = 4096;
const LARGE: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// 0: none.
    space: u64,
    linear: u64,
    /// What the translation depends on besides.
    control: u32,
    page: Translation,
}

/// First-stage translations of pages.
#[derive(Debug, Default)]
pub struct PageCache {
    /// Empty until something is entered.
    entries: Vec<Entry>,
}

/// The sizes that are kept (SDM 3A 4.2, table 4-1), as log2.
const SHIFTS: [u32; 3] = [12, 21, 30];

fn place(linear: u64, shift: u32) -> usize {
    let number = linear >> shift;
    let mixed = (number ^ number >> 12) as usize;
    if shift == 12 { mixed & (SMALL - 1) } else { SMALL + (mixed ^ shift as usize & 1) % LARGE }
}

fn base(linear: u64, shift: u32) -> u64 {
    linear >> shift << shift
}

impl PageCache {
    /// The translation of an address, if one of these address spaces has it.
    pub fn get(&self, spaces: [u64; 2], control: u32, linear: u64) -> Option<Translation> {
        for shift in SHIFTS {
            let entry = self.entries.get(place(linear, shift))?;
            if entry.linear == base(linear, shift)
                && u32::from(entry.page.shift) == shift
                && entry.control == control
                && entry.space != 0
                && spaces.contains(&entry.space)
            {
                let offset = linear - base(linear, shift);
                return Some(Translation { gpa: GuestPhys(entry.page.gpa.0 | offset), ..entry.page });
            }
        }
        None
    }

    /// Enters what a walk for `linear` has found.
    pub fn insert(&mut self, space: u64, control: u32, linear: u64, page: Translation) {
        let shift = u32::from(page.shift);
        if !SHIFTS.contains(&shift) {
            return;
        }
        let page = Translation { gpa: GuestPhys(base(page.gpa.0, shift)), ..page };
        let entry = Entry { space, linear: base(linear, shift), control, page };
        if self.entries.is_empty() {
            self.entries.resize(SMALL + LARGE, Entry { space: 0, ..entry });
        }
        self.entries[place(linear, shift)] = entry;
    }

    /// Forgets the page of an address, in all address spaces.
    pub fn remove(&mut self, linear: u64) {
        for shift in SHIFTS {
            if let Some(entry) = self.entries.get_mut(place(linear, shift))
                && entry.linear == base(linear, shift)
            {
                entry.space = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(gpa: u64, shift: u8) -> Translation {
        Translation {
            gpa: GuestPhys(gpa),
            shift,
            writable: true,
            user: false,
            executable: true,
            dirty: true,
            global: false,
            pat_index: 0,
            key: 0,
        }
    }

    #[test]
    fn pages_of_all_sizes_are_found_and_forgotten() {
        let mut cache = PageCache::default();
        assert!(cache.get([1, 2], 7, 0x5000).is_none());
        for (shift, linear) in [(12, 0x7fff_1234_5678), (21, 0xffff_8000_1234_5678), (30, 0x12_3456_789a)] {
            cache.insert(1, 7, linear, page(0x40_0000_0000 | linear & 0x3fff_ffff, shift));
            let gpa = |spaces, control, at| cache.get(spaces, control, at).map(|page| page.gpa.0);
            let wanted = 0x40_0000_0000 | linear & 0x3fff_ffff;
            assert_eq!(gpa([1, 9], 7, linear), Some(wanted));
            assert_eq!(gpa([9, 1], 7, linear ^ 1), Some(wanted ^ 1));
            assert_eq!(gpa([1, 1], 7, linear ^ 0x1000).is_some(), shift > 12);
            assert_eq!(gpa([1, 1], 7, linear ^ 1 << shift), None);
            assert_eq!((gpa([2, 3], 7, linear), gpa([1, 1], 6, linear)), (None, None));
            cache.remove(linear ^ 0xfff);
            assert!(cache.get([1, 1], 7, linear).is_none());
        }
        // 4-MiB pages are left out.
        cache.insert(1, 7, 0x40_0000, page(0x40_0000, 22));
        assert!(cache.get([1, 1], 7, 0x40_0000).is_none());
    }
}
