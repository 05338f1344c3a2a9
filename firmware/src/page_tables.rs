//! The page tables of guests that start in 64-bit mode.

use ringworld_core::GuestPhys;

const TABLE: usize = 4096;
const PRESENT_WRITABLE: u64 = 0b11;
/// Maps a 2-MiB page (SDM 3A table 5-18).
const PAGE_SIZE_BIT: u64 = 1 << 7;

/// The size of [`identity_4gib`]: a PML4, a page-directory-pointer table and four page directories.
pub(crate) const IDENTITY_SIZE: usize = 6 * TABLE;

/// Page tables, to be placed at `root`, that map the first 4 GiB one to one by 2-MiB pages, which every 64-bit CPU has.
pub(crate) fn identity_4gib(root: GuestPhys) -> Vec<u8> {
    let table = |index: u64| root.0 + index * TABLE as u64;
    let mut bytes = Vec::with_capacity(IDENTITY_SIZE);
    let mut push = |entries: &mut dyn Iterator<Item = u64>| {
        let end = bytes.len() + TABLE;
        bytes.extend(entries.flat_map(u64::to_le_bytes));
        bytes.resize(end, 0);
    };
    push(&mut [table(1) | PRESENT_WRITABLE].into_iter());
    push(&mut (2..6).map(|directory| table(directory) | PRESENT_WRITABLE));
    for gib in 0..4u64 {
        push(&mut (0..512).map(|page| gib << 30 | page << 21 | PAGE_SIZE_BIT | PRESENT_WRITABLE));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_below_4_gib_maps_to_itself() {
        let root = 0x9000;
        let bytes = identity_4gib(GuestPhys(root));
        assert_eq!(bytes.len(), IDENTITY_SIZE);
        let entry = |table: u64, index: u64| {
            let at = (table - root + index * 8) as usize;
            u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
        };
        for address in [0u64, 0x1f_ffff, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xfee0_0000, 0xffff_ffff] {
            let pml4e = entry(root, address >> 39 & 511);
            let pdpte = entry(pml4e & !0xfff, address >> 30 & 511);
            let pde = entry(pdpte & !0xfff, address >> 21 & 511);
            assert!(pml4e & pdpte & pde & PRESENT_WRITABLE == PRESENT_WRITABLE && pde & PAGE_SIZE_BIT != 0);
            assert_eq!((pde & !0x1f_ffff) | (address & 0x1f_ffff), address);
        }
        assert_eq!(entry(root, 1), 0);
    }
}
