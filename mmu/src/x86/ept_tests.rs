use super::*;
use crate::x86::paging::{self, Access, AccessKind, EntryFormat, Mode, Paging, WalkFault};
use crate::{GuestMemory, Inspector, MemoryRegion, PhysicalTables, RegionKind};
use core::convert::Infallible;
use ringworld_core::GuestVirt;

const RWX: u64 = READ | WRITE | EXECUTE;
const WRITE_BACK: u64 = 6 << 3;
const TABLES: u64 = 0x10_0000;
const ADDRESS_USED: GuestPhys = GuestPhys(0x12_3456_789a);
const FRAME: u64 = 0x4000_0000;
const NOTHING: EptAccess = EptAccess { read: false, write: false, fetch: false, user: false };
const DATA_READ: EptAccess = EptAccess { read: true, ..NOTHING };
const DATA_WRITE: EptAccess = EptAccess { write: true, ..NOTHING };
const FETCH: EptAccess = EptAccess { fetch: true, ..NOTHING };
const USER_FETCH: EptAccess = EptAccess { user: true, ..FETCH };

fn ept(levels: u64, accessed_dirty: bool) -> Ept {
    Ept {
        eptp: table(levels as u8) | 6 | (levels - 1) << 3 | u64::from(accessed_dirty) << 6,
        execute_only: true,
        mode_based_execute: false,
        pages_1g: true,
        max_phys_bits: 46,
    }
}

fn table(level: u8) -> u64 {
    TABLES + u64::from(level) * 0x1000
}

fn entry_address(level: u8) -> GuestPhys {
    GuestPhys(table(level) + (ADDRESS_USED.0 >> (12 + 9 * (u32::from(level) - 1)) & 0x1ff) * 8)
}

fn ram(size: u64) -> GuestMemory {
    GuestMemory::new(&[MemoryRegion { base: GuestPhys(0), size, kind: RegionKind::Ram }]).unwrap()
}

/// Tables for one address, all rights; the entry at `leaf` maps a page.
fn path(levels: u8, leaf: u8) -> GuestMemory {
    let memory = ram(2 << 20);
    for level in leaf..=levels {
        let entry = match level {
            _ if level > leaf => table(level - 1) | RWX | USER_EXECUTE,
            1 => FRAME | RWX | USER_EXECUTE | WRITE_BACK,
            _ => FRAME | RWX | USER_EXECUTE | WRITE_BACK | PAGE,
        };
        memory.write_u64(entry_address(level), entry).unwrap();
    }
    memory
}

fn change(memory: &GuestMemory, level: u8, set: u64, clear: u64) {
    let address = entry_address(level);
    let entry = memory.read_u64(address).unwrap();
    memory.write_u64(address, (entry & !clear) | set).unwrap();
}

fn go(ept: &Ept, memory: &GuestMemory, access: EptAccess) -> Result<EptTranslation, EptFault<Infallible>> {
    walk(ept, ADDRESS_USED, access, &mut PhysicalTables(memory))
}

#[test]
fn pages_of_each_size() {
    for levels in [4, 5] {
        for (leaf, shift) in [(1, 12), (2, 21), (3, 30)] {
            let memory = path(levels, leaf);
            let found = go(&ept(levels.into(), false), &memory, DATA_WRITE).unwrap();
            assert_eq!(found.address.0, FRAME | (ADDRESS_USED.0 & ((1 << shift) - 1)));
            assert_eq!((found.shift, found.memory_type, found.ignore_pat), (shift, 6, false));
            assert!(found.dirty, "nothing to set");
            change(&memory, leaf, IGNORE_PAT, 0);
            assert!(go(&ept(levels.into(), false), &memory, DATA_READ).unwrap().ignore_pat);
        }
    }
}

/// SDM 3C 29.3.3.1, condition by condition: the level that maps the page, the level that changes, what is set and
/// cleared, without and with "execute only".
#[test]
fn misconfigurations() {
    let cases = [
        ("write only", 1, 1, 0u64, READ | EXECUTE, [true, true]),
        ("write and execute", 1, 1, 0, READ, [true, true]),
        ("write only, table", 1, 3, 0, READ | EXECUTE, [true, true]),
        ("execute only", 1, 1, 0, READ | WRITE, [true, false]),
        ("execute only, table", 1, 4, 0, READ | WRITE, [true, false]),
        ("memory type 2", 1, 1, 2 << 3, 7 << 3, [true, true]),
        ("memory type 3", 2, 2, 3 << 3, 7 << 3, [true, true]),
        ("memory type 7", 3, 3, 7 << 3, 7 << 3, [true, true]),
        ("memory type 5", 1, 1, 5 << 3, 7 << 3, [false, false]),
        ("address bit 46", 1, 1, 1 << 46, 0, [true, true]),
        ("address bit 51", 1, 4, 1 << 51, 0, [true, true]),
        ("bit 12 of a 2-MByte page", 2, 2, 1 << 12, 0, [true, true]),
        ("bit 20 of a 2-MByte page", 2, 2, 1 << 20, 0, [true, true]),
        ("bit 29 of a 1-GByte page", 3, 3, 1 << 29, 0, [true, true]),
        ("bit 3 of a table's entry", 1, 2, 1 << 3, 0, [true, true]),
        ("bit 6 of a table's entry", 1, 3, 1 << 6, 0, [true, true]),
        ("bit 7 of a PML4 entry", 1, 4, 1 << 7, 0, [true, true]),
        ("bit 7 of a PTE", 1, 1, 1 << 7, 0, [false, false]),
        ("bits 62:52", 1, 4, 0x7ff << 52, 0, [false, false]),
        ("bits 11:8 of a table's entry", 1, 3, 0xf << 8, 0, [false, false]),
        ("not present, with reserved bits", 1, 3, 1 << 51 | 0x78, RWX, [false, false]),
    ];
    for (name, leaf, level, set, clear, expected) in cases {
        for (execute_only, expected) in [false, true].into_iter().zip(expected) {
            let memory = path(4, leaf);
            change(&memory, level, set, clear);
            let found = go(&Ept { execute_only, ..ept(4, false) }, &memory, DATA_READ);
            let misconfigured = matches!(
                found,
                Err(EptFault::Misconfiguration { address: ADDRESS_USED, level: at, .. }) if at == level
            );
            assert_eq!(misconfigured, expected, "{name}: {found:?}");
        }
    }
    let memory = path(4, 3);
    let found = go(&Ept { pages_1g: false, ..ept(4, false) }, &memory, DATA_READ);
    assert!(matches!(found, Err(EptFault::Misconfiguration { level: 3, .. })), "no 1-GByte pages: {found:?}");
}

/// All rights of two levels against all accesses (SDM 3C 29.3.3.2), with and without mode-based execute control.
#[test]
fn rights_are_those_of_all_entries() {
    for mode_based_execute in [false, true] {
        let ept = Ept { mode_based_execute, ..ept(4, false) };
        let memory = path(4, 1);
        for rights in 0..256u64 {
            let [leaf, parent] =
                [rights & 15, rights >> 4].map(|bits| (bits & 7) | ((bits >> 3) * USER_EXECUTE));
            // A write right without a read right is another test's.
            if [leaf, parent].iter().any(|bits| bits & (READ | WRITE) == WRITE) {
                continue;
            }
            change(&memory, 1, leaf, RWX | USER_EXECUTE);
            change(&memory, 2, parent, RWX | USER_EXECUTE);
            let mask = if mode_based_execute { RWX | USER_EXECUTE } else { RWX };
            let (leaf, parent) = (leaf & mask, parent & mask);
            let both = leaf & parent;
            for (access, needed) in [
                (DATA_READ, READ),
                (DATA_WRITE, WRITE),
                (FETCH, EXECUTE),
                (USER_FETCH, if mode_based_execute { USER_EXECUTE } else { EXECUTE }),
            ] {
                let found = go(&ept, &memory, access);
                if parent != 0 && leaf != 0 && both & needed != 0 {
                    assert_eq!(found.unwrap().rights & mask, both);
                    continue;
                }
                let qualification = u64::from(access.read)
                    | u64::from(access.write) << 1
                    | u64::from(access.fetch) << 2
                    | (both & 7) << 3
                    | u64::from(both & USER_EXECUTE != 0) << 6;
                let level = if parent == 0 { 2 } else { 1 };
                let expected =
                    EptFault::Violation { address: ADDRESS_USED, level, qualification, suppress_ve: false };
                assert_eq!(found, Err(expected), "{leaf:#x} {parent:#x} {access:?}");
            }
        }
    }
}

/// SDM 3C 26.5.7.1: bit 63 of the entry with which the walk ends.
#[test]
fn violations_tell_of_suppressed_exceptions() {
    for level in [1, 3] {
        let memory = path(4, 1);
        change(&memory, level, SUPPRESS_VE, RWX);
        let found = go(&ept(4, false), &memory, DATA_READ);
        assert!(
            matches!(found, Err(EptFault::Violation { suppress_ve: true, level: at, .. }) if at == level),
            "{found:?}"
        );
    }
}

/// SDM 3C 29.3.5.
#[test]
fn accessed_and_dirty_flags() {
    for leaf in [1, 2, 3] {
        for (enabled, access) in [(false, DATA_WRITE), (true, DATA_READ), (true, FETCH), (true, DATA_WRITE)] {
            let memory = path(4, leaf);
            let found = go(&ept(4, enabled), &memory, access).unwrap();
            assert_eq!(found.dirty, !enabled || access.write);
            for level in leaf..=4 {
                let entry = memory.read_u64(entry_address(level)).unwrap();
                assert_eq!(entry & ACCESSED != 0, enabled, "{level}");
                assert_eq!(entry & DIRTY != 0, enabled && access.write && level == leaf, "{level}");
            }
        }
    }
    let memory = path(4, 1);
    change(&memory, 1, 0, WRITE);
    go(&ept(4, true), &memory, DATA_WRITE).unwrap_err();
    for level in 1..=4 {
        assert_eq!(memory.read_u64(entry_address(level)).unwrap() & ACCESSED != 0, level > 1);
    }
}

/// A guest with paging behind EPT: guest-physical pages lie 4 MiB above their number, each with its own entry.
struct Nested {
    memory: GuestMemory,
    ept: Ept,
    paging: Paging,
}

impl Nested {
    const ADDR: GuestVirt = GuestVirt(0x1234_5678);
    const PTE: GuestPhys = GuestPhys(0x1000 + (Self::ADDR.0 >> 12 & 0x1ff) * 8);

    fn new(levels: u8, accessed_dirty: bool) -> Self {
        let memory = ram(8 << 20);
        // The EPT's tables, from the root down; the last maps the guest's first 2 MiB.
        for level in 2..=levels {
            memory.write_u64(GuestPhys(table(level)), table(level - 1) | RWX).unwrap();
        }
        for page in 0..512 {
            let entry = (0x40_0000 + page * 0x1000) | RWX | WRITE_BACK;
            memory.write_u64(GuestPhys(table(1) + page * 8), entry).unwrap();
        }
        // The guest's tables are its pages 1 to 5.
        for level in 1..=levels {
            let shift = 12 + 9 * (u32::from(level) - 1);
            let host = GuestPhys(0x40_0000 + u64::from(level) * 0x1000 + (Self::ADDR.0 >> shift & 0x1ff) * 8);
            let target = if level == 1 { 0x10_0000 } else { (u64::from(level) - 1) * 0x1000 };
            memory.write_u64(host, target | paging::P | paging::RW | paging::US).unwrap();
        }
        let mode = if levels == 5 { Mode::Level5 } else { Mode::Level4 };
        let mut paging = Paging::new(EntryFormat {
            mode,
            nxe: true,
            pse: true,
            pse36: true,
            pages_1g: true,
            max_phys_bits: 46,
            amd: false,
        });
        paging.cr3 = u64::from(levels) * 0x1000;
        Self { memory, ept: ept(levels.into(), accessed_dirty), paging }
    }

    fn set_ept(&self, guest: GuestPhys, rights: u64) {
        let address = GuestPhys(table(1) + guest.page_number() * 8);
        let entry = self.memory.read_u64(address).unwrap();
        self.memory.write_u64(address, (entry & !RWX) | rights).unwrap();
    }

    fn ept_entry(&self, guest: GuestPhys) -> u64 {
        self.memory.read_u64(GuestPhys(table(1) + guest.page_number() * 8)).unwrap()
    }

    fn host(&self, guest: GuestPhys) -> u64 {
        self.memory.read_u64(guest.offset(0x40_0000)).unwrap()
    }

    fn walk(&self, kind: AccessKind) -> Result<paging::Translation, WalkFault<EptFault<Infallible>>> {
        let mut tables = PhysicalTables(&self.memory);
        let mut nested = NestedTables::new(&self.ept, &mut tables);
        paging::walk(&self.paging, Self::ADDR, Access { kind, user: false, ac: false }, &mut nested)
    }
}

/// Each of the guest's levels costs a walk of the second stage and itself, and the page another walk.
#[test]
fn references_of_nested_walks() {
    for (levels, count) in [(4, 24), (5, 35)] {
        for accessed_dirty in [false, true] {
            let nested = Nested::new(levels, accessed_dirty);
            let mut inspector = Inspector::new(&nested.memory);
            let mut tables = NestedTables::new(&nested.ept, &mut inspector);
            let access = Access { kind: AccessKind::Write, user: false, ac: false };
            let page = paging::walk(&nested.paging, Nested::ADDR, access, &mut tables).unwrap();
            let host = walk(&nested.ept, page.gpa, DATA_WRITE, &mut inspector).unwrap();
            assert_eq!(host.address, GuestPhys(0x50_0678));
            assert_eq!(inspector.references.len(), count);
            let first = inspector.references.iter().filter(|reference| reference.stage == Stage::First);
            assert_eq!(first.count(), usize::from(levels));
        }
    }
}

/// SDM 3C 29.3.3.2, and table 28-7: how accesses to the guest's tables are reported.
#[test]
fn violations_by_the_guests_tables() {
    use qualification as q;
    let only_read = READ << q::ALLOWED_SHIFT;
    let cases = [
        // Accessed and dirty flags of EPT, the page table's rights, the guest's PTE flags, access: the qualification.
        (false, 0, 0, AccessKind::Read, Some(q::READ)),
        (true, 0, 0, AccessKind::Read, Some(q::READ | q::WRITE)),
        (false, READ, 0, AccessKind::Read, Some(q::READ | q::WRITE | only_read)),
        (false, READ, paging::A, AccessKind::Read, None),
        (false, READ, paging::A, AccessKind::Fetch, None),
        (false, READ, paging::A, AccessKind::Write, Some(q::READ | q::WRITE | only_read)),
        (false, READ, paging::A | paging::D, AccessKind::Write, None),
        (true, READ, paging::A | paging::D, AccessKind::Read, Some(q::READ | q::WRITE | only_read)),
        (true, READ | WRITE, 0, AccessKind::Write, None),
    ];
    for (accessed_dirty, rights, flags, kind, expected) in cases {
        let nested = Nested::new(4, accessed_dirty);
        nested.set_ept(Nested::PTE, rights);
        let pte = Nested::PTE.offset(0x40_0000);
        nested.memory.write_u64(pte, nested.memory.read_u64(pte).unwrap() | flags).unwrap();
        let found = nested.walk(kind);
        match expected {
            None => assert!(found.is_ok(), "{found:?}"),
            Some(qualification) => {
                let address = Nested::PTE;
                let fault = EptFault::Violation { address, level: 1, qualification, suppress_ve: false };
                assert_eq!(
                    found,
                    Err(WalkFault::Table(fault)),
                    "{accessed_dirty} {rights} {flags:#x} {kind:?}"
                );
            }
        }
    }
}

/// SDM 3C 29.3.5: with accessed and dirty flags, each page of the guest's tables becomes dirty, even by a read.
#[test]
fn the_guests_tables_become_dirty() {
    for accessed_dirty in [false, true] {
        let nested = Nested::new(4, accessed_dirty);
        nested.walk(AccessKind::Read).unwrap();
        for level in 1..=4u64 {
            let entry = nested.ept_entry(GuestPhys(level * 0x1000));
            assert_eq!(entry & (ACCESSED | DIRTY) == ACCESSED | DIRTY, accessed_dirty, "{level}");
        }
        assert_eq!(nested.host(Nested::PTE) & (paging::A | paging::D), paging::A);
    }
}

/// A page fault of the guest comes before the second stage of the page.
#[test]
fn the_guests_faults_are_its_own() {
    let nested = Nested::new(4, false);
    nested.memory.write_u64(Nested::PTE.offset(0x40_0000), 0).unwrap();
    assert!(matches!(nested.walk(AccessKind::Read), Err(WalkFault::Page(fault)) if fault.error_code == 0));
}
