//! The software TLB: a direct-mapped array that both engines look up inline.
//!
//! An entry is tagged by linear page *and* by a context number in the tag's low 12 bits. A context stands for everything
//! that a translation depends on besides the page: address space (PCID, later VPID and EPTP), privilege class, and the
//! control bits that change permissions. Changing any of them selects another context; nothing is flushed. Flushing an
//! address space gives it a new number, in constant time.

use ringworld_core::GuestVirt;
use std::collections::HashMap;
use std::hash::Hash;

/// Number of entries; a power of two.
pub const TLB_ENTRIES: usize = 2048;
/// A tag that no look-up produces (context 0 is never given out).
pub const NO_TAG: u64 = 0;
/// A context that no entry has: accesses under it take the slow path (alignment checks, watchpoints).
pub const NO_CONTEXT: u64 = 0xfff;

/// One page's translation. A tag is `page | context`, or [`NO_TAG`] where this kind of access must take the slow path.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TlbEntry {
    /// Matches reads.
    pub read: u64,
    /// Matches writes: the page is writable, marked dirty, and holds no decoded code.
    pub write: u64,
    /// Matches instruction fetches.
    pub fetch: u64,
    /// Host address minus linear address (wrapping).
    pub host: usize,
}

impl TlbEntry {
    /// Matches nothing.
    pub const EMPTY: Self = Self { read: NO_TAG, write: NO_TAG, fetch: NO_TAG, host: 0 };
}

/// The entries. Counters are kept by the users' slow paths.
pub struct Tlb {
    entries: Box<[TlbEntry; TLB_ENTRIES]>,
    /// Guest-physical page and page size (log2) of each entry, beside the hot array.
    physical: Box<[(u64, u8); TLB_ENTRIES]>,
    /// Whether a page of more than 4 KiB was entered since the last full flush.
    large: bool,
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            entries: Box::new([TlbEntry::EMPTY; TLB_ENTRIES]),
            physical: Box::new([(0, 12); TLB_ENTRIES]),
            large: false,
        }
    }
}

/// The slot of a linear address.
#[inline(always)]
const fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (TLB_ENTRIES - 1)
}

impl Tlb {
    /// The entry that may hold the page of `linear`.
    #[inline(always)]
    pub fn entry(&self, linear: u64) -> &TlbEntry {
        &self.entries[slot(linear)]
    }

    /// The guest-physical page of the entry for `linear`, meaningful after one of its tags matched.
    #[inline(always)]
    pub fn physical_page(&self, linear: u64) -> u64 {
        self.physical[slot(linear)].0
    }

    /// Enters a translation, replacing what the slot held; tags of the same page and context are merged when the host
    /// page is the same.
    pub fn insert(&mut self, linear: u64, entry: TlbEntry, physical_page: u64, page_shift: u8) {
        let i = slot(linear);
        let old = self.entries[i];
        let merge = |old: u64, new: u64, tag: u64| if new == NO_TAG && old == tag { old } else { new };
        let tag = [entry.read, entry.write, entry.fetch].into_iter().find(|&t| t != NO_TAG).unwrap_or(NO_TAG);
        self.entries[i] = if old.host == entry.host && self.physical[i].0 == physical_page {
            TlbEntry {
                read: merge(old.read, entry.read, tag),
                write: merge(old.write, entry.write, tag),
                fetch: merge(old.fetch, entry.fetch, tag),
                host: entry.host,
            }
        } else {
            entry
        };
        self.physical[i] = (physical_page, page_shift);
        self.large |= page_shift > 12;
    }

    /// Drops every entry.
    pub fn flush(&mut self) {
        self.entries.fill(TlbEntry::EMPTY);
        self.large = false;
    }

    /// Drops the page of `linear` in every context (so also global pages, SDM 3A 4.10.4.1), whole large pages included.
    pub fn flush_page(&mut self, linear: GuestVirt) {
        self.entries[slot(linear.0)] = TlbEntry::EMPTY;
        if self.large {
            for (entry, (_, shift)) in self.entries.iter_mut().zip(self.physical.iter()) {
                let tag = if entry.read != NO_TAG { entry.read } else { entry.fetch };
                if *shift > 12 && tag >> shift == linear.0 >> shift {
                    *entry = TlbEntry::EMPTY;
                }
            }
        }
    }

    /// Sends writes of a guest-physical page to the slow path, because the page now holds decoded code.
    pub fn drop_writes(&mut self, physical_page: u64) {
        for (entry, (page, _)) in self.entries.iter_mut().zip(self.physical.iter()) {
            if *page == physical_page {
                entry.write = NO_TAG;
            }
        }
    }

    /// Sends all writes to the slow path (dirty tracking was reset, or another CPU decoded code).
    pub fn drop_all_writes(&mut self) {
        for entry in self.entries.iter_mut() {
            entry.write = NO_TAG;
        }
    }

    /// Whether a page of more than 4 KiB may be in.
    pub fn has_large(&self) -> bool {
        self.large
    }

    /// The live entries, for a monitor: (entry, guest-physical page, page size as log2).
    pub fn iter(&self) -> impl Iterator<Item = (&TlbEntry, u64, u8)> {
        self.entries
            .iter()
            .zip(self.physical.iter())
            .filter(|(e, _)| e.read != NO_TAG || e.write != NO_TAG || e.fetch != NO_TAG)
            .map(|(e, (page, shift))| (e, *page, *shift))
    }
}

/// Gives context numbers (1 to 0xffe) to keys. When they run out, all are taken back and the TLB must be flushed.
#[derive(Debug)]
pub struct Contexts<K> {
    numbers: HashMap<K, u16>,
    next: u16,
}

impl<K> Default for Contexts<K> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), next: 1 }
    }
}

impl<K: Eq + Hash> Contexts<K> {
    /// The number of `key`, and whether all earlier numbers were taken back (the caller flushes the TLB).
    pub fn number(&mut self, key: K) -> (u16, bool) {
        if let Some(&number) = self.numbers.get(&key) {
            return (number, false);
        }
        let exhausted = self.next == 0xfff;
        if exhausted {
            self.numbers.clear();
            self.next = 1;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(key, number);
        (number, exhausted)
    }

    /// Forgets all keys; the caller flushes the TLB.
    pub fn clear(&mut self) {
        self.numbers.clear();
        self.next = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(page: u64, context: u64) -> TlbEntry {
        TlbEntry { read: page | context, write: NO_TAG, fetch: NO_TAG, host: 0x1000 }
    }

    #[test]
    fn entries_merge_per_kind_and_flush_by_page() {
        let mut tlb = Tlb::default();
        tlb.insert(0x5000, entry(0x5000, 3), 0x9000, 12);
        tlb.insert(0x5000, TlbEntry { read: NO_TAG, fetch: 0x5003, ..entry(0x5000, 3) }, 0x9000, 12);
        assert_eq!((tlb.entry(0x5123).read, tlb.entry(0x5123).fetch), (0x5003, 0x5003));
        // Another context replaces all kinds.
        tlb.insert(0x5000, entry(0x5000, 4), 0x9000, 12);
        assert_eq!((tlb.entry(0x5000).read, tlb.entry(0x5000).fetch), (0x5004, NO_TAG));
        tlb.flush_page(GuestVirt(0x5fff));
        assert_eq!(tlb.iter().count(), 0);
    }

    #[test]
    fn invlpg_drops_a_whole_large_page() {
        let mut tlb = Tlb::default();
        for page in [0x20_0000_u64, 0x20_1000, 0x3f_f000, 0x40_0000] {
            tlb.insert(page, entry(page, 1), page, 21);
        }
        tlb.flush_page(GuestVirt(0x2a_0000));
        let left: Vec<u64> = tlb.iter().map(|(e, ..)| e.read & !0xfff).collect();
        assert_eq!(left, [0x40_0000]);
    }

    #[test]
    fn contexts_run_out_and_start_again() {
        let mut contexts = Contexts::default();
        for key in 1..0xfff_u32 {
            assert_eq!(contexts.number(key), (key as u16, false));
        }
        assert_eq!(contexts.number(7), (7, false));
        assert_eq!(contexts.number(5000), (1, true));
    }
}
