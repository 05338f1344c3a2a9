use super::*;
use proptest::prelude::*;
use ringworld_core::StateHasher;

const RAM: RegionKind = RegionKind::Ram;
const ROM: RegionKind = RegionKind::Rom;

fn region(base: u64, size: u64, kind: RegionKind) -> MemoryRegion {
    MemoryRegion { base: GuestPhys(base), size, kind }
}

/// Two adjacent RAMs of four pages, a gap, a ROM of two pages, a RAM above 4 GiB.
fn memory() -> GuestMemory {
    GuestMemory::new(&[
        region(0x1_0000_0000, 0x8000, RAM),
        region(0, 0x4000, RAM),
        region(0x4000, 0x4000, RAM),
        region(0xf_0000, 0x2000, ROM),
    ])
    .unwrap()
}

fn index(memory: &GuestMemory, addr: u64) -> usize {
    memory.page(GuestPhys(addr)).unwrap().index
}

fn digest(memory: &GuestMemory) -> u128 {
    let mut hasher = StateHasher::new();
    memory.hash_ram(&mut hasher);
    hasher.digest()
}

#[test]
fn layouts_that_cannot_be_had() {
    let page = PAGE_SIZE;
    let cases: [(&[MemoryRegion], &str); 9] = [
        (&[], "at least one"),
        (&[region(0x1000, 0, RAM)], "0x1000 is empty"),
        (&[region(0x800, page, RAM)], "not aligned"),
        (&[region(0, page + 1, RAM)], "not aligned"),
        (&[region(1 << 52, page, RAM)], "52-bit"),
        (&[region(u64::MAX << 12, page, RAM)], "52-bit"),
        (&[region(0, 1 << 51, RAM)], "cannot provide 0x8000000000000 bytes"),
        (&[region(page, page, ROM), region(0, 2 * page, RAM)], "0x0 and 0x1000 overlap"),
        (&[region(page, page, ROM), region(page, page, ROM)], "0x1000 and 0x1000 overlap"),
    ];
    for (regions, message) in cases {
        let error = GuestMemory::new(regions).unwrap_err().to_string();
        assert!(error.contains(message), "{regions:?}: {error}");
    }
}

#[test]
fn memory_larger_than_the_host_is_not_reserved() {
    let memory = GuestMemory::new(&[region(0, 1 << 40, RAM)]).unwrap();
    let last = GuestPhys((1 << 40) - 8);
    memory.write_u64(last, 5).unwrap();
    assert_eq!(memory.read_u64(last), Ok(5));
    assert_eq!(memory.ram_size(), 1 << 40);
}

#[test]
fn pages_and_addresses_are_inverse() {
    let memory = memory();
    assert_eq!(memory.ram_size(), 0x1_0000);
    assert_eq!(memory.regions()[0], region(0, 0x4000, RAM));
    let pages: Vec<u64> = (0..8u64).chain(0xf0..0xf2).chain(0x10_0000..0x10_0008).collect();
    for (number, frame) in pages.iter().enumerate() {
        let page = memory.page(GuestPhys((frame << 12) + 0x123)).unwrap();
        assert_eq!(page.index, number);
        assert_eq!(page.rom, frame >> 4 == 0xf);
        assert_eq!(memory.address_of(number), Some(GuestPhys(frame << 12)));
    }
    assert_eq!(memory.address_of(pages.len()), None);
    for hole in [0x8000, 0xe_ffff, 0xf_2000, 0xffff_ffff, 0x1_0000_8000, 1 << 52, u64::MAX] {
        assert_eq!(memory.page(GuestPhys(hole)), None, "{hole:#x}");
    }
}

#[test]
fn roms_are_written_by_their_loader_only() {
    let memory = memory();
    let addr = GuestPhys(0xf_0ffe);
    memory.load_rom(addr, &[1, 2, 3, 4]).unwrap();
    memory.write(addr, &[9; 4]).unwrap();
    memory.write_u8(addr, 9).unwrap();
    memory.write_u16(addr, 9).unwrap();
    assert_eq!(memory.read_u32(addr), Ok(0x0403_0201));
    // A page walker's A bit in a ROM: the exchange succeeds as far as the walker can tell.
    assert_eq!(memory.compare_exchange_u32(GuestPhys(0xf_1000), 0x0403, 0x0423), Some(Ok(0x0403)));
    assert_eq!(memory.compare_exchange_u32(GuestPhys(0xf_1000), 1, 2), Some(Err(0x0403)));
    assert_eq!(memory.read_u32(GuestPhys(0xf_1000)), Ok(0x0403));
    memory.clear().unwrap();
    assert_eq!(memory.read_u32(addr), Ok(0x0403_0201));
}

#[test]
fn compare_exchange_stores_only_over_the_expected_value() {
    let memory = memory();
    let addr = GuestPhys(0x1008);
    memory.write_u64(addr, 7).unwrap();
    memory.take_dirty();
    assert_eq!(memory.compare_exchange_u64(addr, 6, 8), Some(Err(7)));
    assert!(!memory.is_dirty(index(&memory, 0x1008)));
    assert_eq!(memory.compare_exchange_u64(addr, 7, 8), Some(Ok(7)));
    assert_eq!(memory.read_u64(addr), Ok(8));
    assert_eq!(memory.take_dirty(), [GuestPhys(0x1000)]);
    assert_eq!(memory.compare_exchange_u64(GuestPhys(0x1004), 0, 0), None, "unaligned");
    assert_eq!(memory.compare_exchange_u32(GuestPhys(0x9000), 0, 0), None, "unbacked");
}

#[test]
fn an_access_beyond_memory_names_the_first_missing_byte() {
    let memory = memory();
    let mut data = [0xee; 4];
    assert_eq!(memory.write(GuestPhys(0x7ffe), &[1, 2, 3, 4]), Err(Unbacked(GuestPhys(0x8000))));
    assert_eq!(memory.read(GuestPhys(0x7ffe), &mut data), Err(Unbacked(GuestPhys(0x8000))));
    assert_eq!(data, [1, 2, 0xee, 0xee]);
    assert_eq!(memory.read_u64(GuestPhys(u64::MAX - 3)), Err(Unbacked(GuestPhys(u64::MAX - 3))));
    assert_eq!(memory.write_u16(GuestPhys(0x8000), 0), Err(Unbacked(GuestPhys(0x8000))));
}

#[test]
fn a_write_into_code_makes_it_stale() {
    let memory = memory();
    let page = index(&memory, 0x2000);
    assert!(memory.mark_code(page, 0x100, 0x41), "the page's first code");
    assert!(!memory.mark_code(page, 0x800, 1), "not the first");
    assert_eq!(memory.code_page_epoch(), 1);
    assert!(memory.flags(page).code);
    for (offset, len, hit) in [
        (0xff, 1, false),
        (0x180, 0x680, false),
        (0x840, 0x7c0, false),
        (0x13f, 1, true),
        (0x13f, 1, false),
        (0, 0x1000, true),
        (0, 0x1000, false),
    ] {
        let (generation, epoch) = (memory.code_generation(page), memory.code_epoch());
        memory.write(GuestPhys(0x2000 + offset), &vec![0; len]).unwrap();
        assert_eq!(memory.code_generation(page), generation + u32::from(hit), "{offset:#x}+{len:#x}");
        assert_eq!(memory.code_epoch(), epoch + u64::from(hit), "{offset:#x}+{len:#x}");
    }
    assert!(!memory.is_code(page));
    assert!(memory.mark_code(page, 0, 1), "a code page again");
    assert_eq!(memory.code_page_epoch(), 2);
    assert_eq!(memory.code_generation(page + 1), 0);
    memory.clear().unwrap();
    assert!(!memory.is_code(page), "clearing is a write");
}

/// Who keeps code of a page asks which parts of it have lost their marks: others still hold.
#[test]
fn changes_of_code_say_where() {
    let memory = memory();
    let (page, other) = (index(&memory, 0x2000), index(&memory, 0x1000));
    for (page, offset) in [(page, 0x100), (page, 0x17c), (page, 0x800), (other, 0)] {
        memory.mark_code(page, offset, 8);
    }
    let before = memory.code_epoch();
    assert_eq!(memory.code_changes_since(before), Some(vec![]));
    memory.write_u8(GuestPhys(0x2807), 1).unwrap();
    // No code.
    memory.write_u8(GuestPhys(0x2808), 1).unwrap();
    memory.write_u8(GuestPhys(0x1000), 1).unwrap();
    let between = memory.code_epoch();
    memory.write_u32(GuestPhys(0x217e), 1).unwrap();
    let all = vec![(other, 1), (page, 1 << 0x20 | 3 << 5)];
    assert_eq!(memory.code_changes_since(before), Some(all));
    assert_eq!(memory.code_changes_since(between), Some(vec![(page, 3 << 5)]));
    assert_eq!(memory.code_changes_since(between.wrapping_sub(u64::MAX / 2)), None);
    assert_eq!(sub_blocks(0x100, 8) & (1 << 0x20 | 3 << 5), 0, "the first still holds");
}

#[test]
fn marks_out_of_range_do_nothing() {
    let memory = memory();
    for (page, offset, len) in [(usize::MAX, 0, 1), (0, 0x1000, 1), (0, u32::MAX, u32::MAX), (0, 5, 0)] {
        assert!(!memory.mark_code(page, offset, len));
        assert!(!memory.note_write(page, offset, len));
    }
    assert!(memory.mark_code(0, 0xfff, u32::MAX));
    assert!(!memory.note_write(0, 0, 0xfc0));
    assert!(!memory.note_write(0, 0xffe, 1));
    assert!(memory.note_write(0, 0xfff, 1));
}

#[test]
fn equal_contents_hash_equally() {
    let (touched, untouched) = (memory(), memory());
    let empty = digest(&untouched);
    for addr in [0, 0x3000, 0x1_0000_7000] {
        touched.write_u64(GuestPhys(addr), 1).unwrap();
        assert_ne!(digest(&touched), empty);
        touched.write_u64(GuestPhys(addr), 0).unwrap();
        assert_eq!(digest(&touched), empty);
    }
    touched.write_u8(GuestPhys(0x3000), 1).unwrap();
    untouched.write_u8(GuestPhys(0x4000), 1).unwrap();
    assert_ne!(digest(&touched), digest(&untouched), "the same bytes in another page");
    touched.clear().unwrap();
    assert_eq!(digest(&touched), empty);
    let other = GuestMemory::new(&[region(0, 0x4000, RAM)]).unwrap();
    assert_ne!(digest(&other), empty, "the layout counts");
}

proptest! {
    /// A plain array with the same holes is the model.
    #[test]
    fn reads_and_writes_agree_with_a_model(
        operations in prop::collection::vec((0u64..0xa000, 0usize..0x2800, any::<u8>()), 1..24)
    ) {
        let memory = memory();
        let mut model = vec![0u8; 0x8000];
        let mut dirty = std::collections::BTreeSet::new();
        for (addr, len, fill) in operations {
            let data: Vec<u8> = (0..len).map(|i| fill.wrapping_add(i as u8)).collect();
            let backed = len.min(0x8000usize.saturating_sub(addr as usize));
            let expected = if backed == len { Ok(()) } else { Err(Unbacked(GuestPhys(addr.max(0x8000)))) };
            prop_assert_eq!(memory.write(GuestPhys(addr), &data), expected);
            if backed > 0 {
                model[addr as usize..][..backed].copy_from_slice(&data[..backed]);
                dirty.extend(addr >> 12..=(addr + backed as u64 - 1) >> 12);
            }
            let mut back = vec![0; backed];
            prop_assert_eq!(memory.read(GuestPhys(addr), &mut back), Ok(()));
            prop_assert_eq!(&back, &data[..backed]);
        }
        let mut all = vec![0; 0x8000];
        memory.read(GuestPhys(0), &mut all).unwrap();
        prop_assert!(all == model);
        let taken: Vec<u64> = memory.take_dirty().iter().map(|addr| addr.page_number()).collect();
        prop_assert_eq!(taken, dirty.into_iter().collect::<Vec<_>>());
        prop_assert!(memory.take_dirty().is_empty());
    }

    /// Scalar accesses are little endian at any alignment, also across pages.
    #[test]
    fn scalars_are_little_endian(addr in 0u64..0x7ff8, value: u64) {
        let memory = memory();
        let addr = GuestPhys(addr);
        memory.write_u64(addr, value).unwrap();
        let mut bytes = [0; 8];
        memory.read(addr, &mut bytes).unwrap();
        prop_assert_eq!(bytes, value.to_le_bytes());
        prop_assert_eq!(memory.read_u64(addr), Ok(value));
        prop_assert_eq!(memory.read_u32(addr.offset(1)), Ok((value >> 8) as u32));
        prop_assert_eq!(memory.read_u16(addr.offset(3)), Ok((value >> 24) as u16));
        prop_assert_eq!(memory.read_u8(addr.offset(7)), Ok((value >> 56) as u8));
        memory.write_u32(addr.offset(2), 0).unwrap();
        memory.write_u16(addr, 0).unwrap();
        prop_assert_eq!(memory.read_u64(addr), Ok(value >> 48 << 48));
    }

    /// A write is noticed exactly if it shares a byte with marked code, and takes the marks of sub-blocks.
    #[test]
    fn code_is_marked_by_bytes(
        code in (0u32..0x1000, 1u32..0x1000), write in (0u32..0x1000, 1u32..0x1000)
    ) {
        let memory = memory();
        let blocks = |(offset, len): (u32, u32)| offset / 64..=(offset + len - 1).min(0xfff) / 64;
        let bytes = |(offset, len): (u32, u32)| offset..(offset + len).min(0x1000);
        let shared = bytes(code).any(|byte| bytes(write).contains(&byte));
        memory.mark_code(3, code.0, code.1);
        prop_assert_eq!(memory.note_write(3, write.0, write.1), shared);
        prop_assert!(!memory.note_write(3, write.0, write.1), "noticed once");
        let left = !shared || blocks(code).any(|block| !blocks(write).contains(&block));
        prop_assert_eq!(memory.is_code(3), left);
    }
}
