use super::*;
use crate::{GuestMemory, Inspector, MemoryRegion, PhysicalTables, RegionKind};
use core::convert::Infallible;
use proptest::prelude::*;

const MODES: [Mode; 4] = [Mode::Bits32, Mode::Pae, Mode::Level4, Mode::Level5];
const BASE: u64 = 0x10_0000;
const FRAME: u64 = 0x4000_0000;
const READ: Access = Access { kind: AccessKind::Read, user: false, ac: false };
const WRITE: Access = Access { kind: AccessKind::Write, ..READ };
const FETCH: Access = Access { kind: AccessKind::Fetch, ..READ };

const fn by_user(access: Access) -> Access {
    Access { user: true, ..access }
}

fn format(mode: Mode) -> EntryFormat {
    EntryFormat { mode, nxe: true, pse: true, pse36: true, pages_1g: true, max_phys_bits: 46, amd: false }
}

/// One path of tables for one address, with all rights and no flags set.
struct Path {
    memory: GuestMemory,
    paging: Paging,
    addr: GuestVirt,
}

impl Path {
    /// The entry at `leaf` maps a page of that level.
    fn new(format: EntryFormat, leaf: u8) -> Self {
        let memory =
            GuestMemory::new(&[MemoryRegion { base: GuestPhys(0), size: 2 << 20, kind: RegionKind::Ram }])
                .unwrap();
        let mut paging = Paging::new(format);
        let addr = GuestVirt(match format.mode {
            Mode::Bits32 | Mode::Pae => 0xdead_beef,
            Mode::Level4 => 0xffff_dead_beef_1234,
            Mode::Level5 => 0xff12_dead_beef_1234,
        });
        paging.cr3 = Self::table(Self::levels(format.mode)) | 0xfff;
        paging.pdptes[3] = Self::table(2) | P;
        let path = Self { memory, paging, addr };
        for level in leaf..=Self::levels(format.mode) {
            let large = if level > 1 { PS } else { 0 };
            let target = if level == leaf { FRAME | large } else { Self::table(level - 1) };
            path.set(level, target | P | RW | US);
        }
        path
    }

    /// Levels with tables in memory that a walk reads.
    fn levels(mode: Mode) -> u8 {
        match mode {
            Mode::Bits32 | Mode::Pae => 2,
            Mode::Level4 => 4,
            Mode::Level5 => 5,
        }
    }

    fn table(level: u8) -> u64 {
        BASE + u64::from(level) * 0x1000
    }

    fn entry_address(&self, level: u8) -> GuestPhys {
        let (index_bits, size) = if self.paging.format.mode == Mode::Bits32 { (10, 4) } else { (9, 8) };
        let index = (self.addr.0 >> (12 + index_bits * (u32::from(level) - 1))) % (1 << index_bits);
        GuestPhys(Self::table(level) + index * size)
    }

    fn set(&self, level: u8, entry: u64) {
        if self.paging.format.mode == Mode::Bits32 {
            self.memory.write_u32(self.entry_address(level), entry as u32).unwrap();
        } else {
            self.memory.write_u64(self.entry_address(level), entry).unwrap();
        }
    }

    fn get(&self, level: u8) -> u64 {
        if self.paging.format.mode == Mode::Bits32 {
            self.memory.read_u32(self.entry_address(level)).unwrap().into()
        } else {
            self.memory.read_u64(self.entry_address(level)).unwrap()
        }
    }

    fn change(&self, level: u8, set: u64, clear: u64) {
        self.set(level, (self.get(level) & !clear) | set);
    }

    fn walk(&self, access: Access) -> Result<Translation, PageFault> {
        walk(&self.paging, self.addr, access, &mut PhysicalTables(&self.memory)).map_err(
            |fault| match fault {
                WalkFault::Page(fault) => fault,
                WalkFault::Table(never) => match never {},
            },
        )
    }

    fn code(&self, access: Access) -> Option<u32> {
        self.walk(access).err().map(|fault| fault.error_code)
    }
}

#[test]
fn each_page_size_maps_its_offset() {
    for (mode, leaf, shift) in [
        (Mode::Bits32, 1, 12),
        (Mode::Bits32, 2, 22),
        (Mode::Pae, 1, 12),
        (Mode::Pae, 2, 21),
        (Mode::Level4, 1, 12),
        (Mode::Level4, 2, 21),
        (Mode::Level4, 3, 30),
        (Mode::Level5, 1, 12),
        (Mode::Level5, 2, 21),
        (Mode::Level5, 3, 30),
    ] {
        let path = Path::new(format(mode), leaf);
        let page = path.walk(WRITE).unwrap();
        assert_eq!(page.gpa, GuestPhys(FRAME | (path.addr.0 & ((1 << shift) - 1))), "{mode:?} {leaf}");
        assert_eq!(page.shift, shift, "{mode:?} {leaf}");
        assert!(page.writable && page.user && page.executable && page.dirty && !page.global);
        for level in leaf..=Path::levels(mode) {
            let dirty = path.get(level) & D != 0;
            assert!(path.get(level) & A != 0, "{mode:?} {level}");
            assert_eq!(dirty, level == leaf, "{mode:?} {level}");
        }
        // SDM 3A 5.9.2: the PAT bit is bit 7 of a PTE, bit 12 of a larger page's entry.
        for (set, index) in [(PWT, 1), (PCD, 2), (if leaf == 1 { PS } else { 1 << 12 }, 4)] {
            path.change(leaf, set, PWT | PCD);
            let found = path.walk(READ).unwrap().pat_index;
            assert_eq!(found, index, "{mode:?} {leaf}");
        }
    }
}

#[test]
fn global_pages_need_cr4_pge() {
    let mut path = Path::new(format(Mode::Level4), 1);
    path.change(1, G, 0);
    assert!(!path.walk(READ).unwrap().global);
    path.paging.pge = true;
    assert!(path.walk(READ).unwrap().global);
}

/// SDM 3A table 5-4: PSE-36 puts bits 39:32 of the address into bits 20:13 of the entry.
#[test]
fn pse36_pages_lie_above_4_gib() {
    let path = Path::new(format(Mode::Bits32), 2);
    path.change(2, 0xa5 << 13, 0);
    assert_eq!(path.walk(READ).unwrap().gpa, GuestPhys(0xa5_4000_0000 | 0x2d_beef));
}

/// Without CR4.PSE, bit 7 of a PDE is ignored (SDM 3A table 5-5).
#[test]
fn without_pse_bit_7_of_a_pde_refers_to_a_table() {
    let path = Path::new(EntryFormat { pse: false, ..format(Mode::Bits32) }, 1);
    path.change(2, PS, 0);
    assert_eq!(path.walk(READ).unwrap().shift, 12);
}

/// A fault: the section, the mode, the level that maps the page; then what is set and cleared at which level and in the
/// parameters, the access, and the expected error code and level.
struct Case {
    section: &'static str,
    mode: Mode,
    leaf: u8,
    change: (u8, u64, u64),
    with: fn(&mut Paging),
    access: Access,
    fault: Option<(u32, u8)>,
}

#[test]
fn faults_of_every_kind() {
    use error_code as e;
    let plain = Case {
        section: "",
        mode: Mode::Level4,
        leaf: 1,
        change: (1, 0, 0),
        with: |_| (),
        access: READ,
        fault: None,
    };
    let mut cases = Vec::new();
    for mode in MODES {
        let levels = Path::levels(mode);
        // 5.7, the P flag: an entry of any level is not present, whatever else it holds.
        for level in 1..=levels {
            cases.push(Case {
                section: "5.7 P",
                mode,
                change: (level, RW | US, P),
                access: by_user(WRITE),
                fault: Some((e::W | e::U, level)),
                ..plain
            });
            // 5.6.1, any level may deny.
            cases.push(Case {
                section: "5.6.1 user read of a supervisor page",
                mode,
                change: (level, 0, US),
                access: by_user(READ),
                fault: Some((e::P | e::U, 1)),
                ..plain
            });
            cases.push(Case {
                section: "5.6.1 user write, R/W = 0",
                mode,
                change: (level, 0, RW),
                access: by_user(WRITE),
                fault: Some((e::P | e::U | e::W, 1)),
                ..plain
            });
            cases.push(Case {
                section: "5.6.1 supervisor write, R/W = 0, WP",
                mode,
                change: (level, 0, RW),
                with: |paging| paging.wp = true,
                access: WRITE,
                fault: Some((e::P | e::W, 1)),
                ..plain
            });
            cases.push(Case {
                section: "5.6.1 supervisor write, R/W = 0, no WP",
                mode,
                change: (level, 0, RW),
                access: WRITE,
                ..plain
            });
            cases.push(Case {
                section: "5.6.1 SMEP with a supervisor page",
                mode,
                change: (level, 0, US),
                with: |paging| paging.smep = true,
                access: FETCH,
                ..plain
            });
            if mode != Mode::Bits32 {
                cases.push(Case {
                    section: "5.6.1 XD",
                    mode,
                    change: (level, XD, 0),
                    access: FETCH,
                    fault: Some((e::P | e::I, 1)),
                    ..plain
                });
                cases.push(Case {
                    section: "5.7 RSVD: MAXPHYADDR",
                    mode,
                    change: (level, 1 << 46, RW | US),
                    access: by_user(WRITE),
                    fault: Some((e::P | e::RSVD | e::U | e::W, level)),
                    ..plain
                });
            }
        }
        cases.push(Case {
            section: "5.6.1 SMEP",
            mode,
            with: |paging| paging.smep = true,
            access: FETCH,
            fault: Some((e::P | e::I, 1)),
            ..plain
        });
        cases.push(Case {
            section: "5.6.1 SMEP is for supervisor accesses",
            mode,
            with: |paging| paging.smep = true,
            access: by_user(FETCH),
            ..plain
        });
        cases.push(Case {
            section: "5.6.1 SMAP",
            mode,
            with: |paging| paging.smap = true,
            access: READ,
            fault: Some((e::P, 1)),
            ..plain
        });
        cases.push(Case {
            section: "5.6.1 SMAP with EFLAGS.AC",
            mode,
            with: |paging| paging.smap = true,
            access: Access { ac: true, ..READ },
            ..plain
        });
        cases.push(Case {
            section: "5.6.1 SMAP is not for fetches",
            mode,
            with: |paging| paging.smap = true,
            access: FETCH,
            ..plain
        });
        cases.push(Case {
            section: "5.7 I with NXE or SMEP only",
            mode,
            change: (1, 0, P),
            access: by_user(FETCH),
            fault: Some((e::U | if mode == Mode::Bits32 { 0 } else { e::I }, 1)),
            ..plain
        });
    }
    cases.push(Case {
        section: "5.4.1 a PDPTE register that is not present",
        mode: Mode::Pae,
        with: |paging| paging.pdptes[3] = 0,
        access: by_user(FETCH),
        fault: Some((e::U | e::I, 3)),
        ..plain
    });
    for mode in [Mode::Level4, Mode::Level5] {
        // Key 5; AD is bit 10, WD is bit 11 (5.6.2).
        let key = (1, 5 << 59, 0);
        let supervisor = (1, 5 << 59, US);
        for (section, change, with, access, fault) in [
            ("5.6.2 AD", key, (|p| p.pkru = 1 << 10) as fn(&mut Paging), READ, Some(e::P | e::PK)),
            ("5.6.2 AD", key, |p| p.pkru = 1 << 10, by_user(WRITE), Some(e::P | e::PK | e::U | e::W)),
            ("5.6.2 AD: no fetch", key, |p| p.pkru = 1 << 10, by_user(FETCH), None),
            ("5.6.2 WD", key, |p| p.pkru = 1 << 11, by_user(WRITE), Some(e::P | e::PK | e::U | e::W)),
            ("5.6.2 WD: no read", key, |p| p.pkru = 1 << 11, by_user(READ), None),
            ("5.6.2 WD: no WP", key, |p| p.pkru = 1 << 11, WRITE, None),
            ("5.6.2 WD: WP", key, |p| (p.pkru, p.wp) = (1 << 11, true), WRITE, Some(e::P | e::PK | e::W)),
            ("5.6.2 other keys", key, |p| p.pkru = !(3 << 10), by_user(WRITE), None),
            ("5.6.2 PKRU: user pages", supervisor, |p| p.pkru = !0, WRITE, None),
            ("5.6.2 PKRS: supervisor pages", key, |p| p.pkrs = !0, WRITE, None),
            ("5.6.2 PKRS AD", supervisor, |p| p.pkrs = 1 << 10, READ, Some(e::P | e::PK)),
            ("5.6.2 PKRS WD: no WP", supervisor, |p| p.pkrs = 1 << 11, WRITE, None),
            (
                "5.6.2 PKRS WD: WP",
                supervisor,
                |p| (p.pkrs, p.wp) = (1 << 11, true),
                WRITE,
                Some(e::P | e::PK | e::W),
            ),
            // 5.7: PK is set by the key alone, together with another violation.
            (
                "5.7 PK and R/W",
                (1, 5 << 59, RW),
                |p| p.pkru = 1 << 10,
                by_user(WRITE),
                Some(e::P | e::PK | e::U | e::W),
            ),
            ("5.7 U/S without PK", supervisor, |p| p.pkru = !0, by_user(READ), Some(e::P | e::U)),
            ("5.5 keys of tables are ignored", (2, 5 << 59, 0), |p| p.pkru = 3 << 10, by_user(WRITE), None),
        ] {
            let fault = fault.map(|code| (code, 1));
            cases.push(Case { section, mode, change, with, access, fault, ..plain });
        }
    }
    for case in cases {
        let mut path = Path::new(format(case.mode), case.leaf);
        let (level, set, clear) = case.change;
        path.change(level, set, clear);
        (case.with)(&mut path.paging);
        let found = path.walk(case.access).err().map(|fault| (fault.error_code, fault.level));
        assert_eq!(found, case.fault, "{}: {:?}, level {level}", case.section, case.mode);
    }
}

/// With neither NXE nor SMEP, the I bit stays clear in all modes (SDM 3A 5.7).
#[test]
fn no_fetch_bit_without_nx_and_smep() {
    for mode in MODES {
        let path = Path::new(EntryFormat { nxe: false, ..format(mode) }, 1);
        path.change(1, 0, US);
        assert_eq!(path.code(by_user(FETCH)), Some(error_code::P | error_code::U), "{mode:?}");
    }
}

/// Reserved bits of each kind of entry, as the manual's tables list them (SDM 3A tables 5-4 to 5-20).
#[test]
fn reserved_bits_are_those_of_the_tables() {
    let ranges = |list: &[(u32, u32)]| {
        list.iter().fold(0u64, |mask, &(high, low)| (low..=high).fold(mask, |mask, bit| mask | 1 << bit))
    };
    // A PAE entry may use no bit from MAXPHYADDR to 62; 4-level and 5-level entries ignore 62:52.
    let cases: Vec<(EntryFormat, u8, u8, u64)> = vec![
        (format(Mode::Bits32), 1, 1, 0),
        (format(Mode::Bits32), 1, 2, 0),
        (format(Mode::Bits32), 2, 2, ranges(&[(21, 21)])),
        (EntryFormat { max_phys_bits: 36, ..format(Mode::Bits32) }, 2, 2, ranges(&[(21, 17)])),
        (EntryFormat { max_phys_bits: 32, ..format(Mode::Bits32) }, 2, 2, ranges(&[(21, 13)])),
        (EntryFormat { pse36: false, ..format(Mode::Bits32) }, 2, 2, ranges(&[(21, 13)])),
        (format(Mode::Pae), 1, 1, ranges(&[(62, 46)])),
        (format(Mode::Pae), 1, 2, ranges(&[(62, 46)])),
        (format(Mode::Pae), 2, 2, ranges(&[(62, 46), (20, 13)])),
        (EntryFormat { nxe: false, max_phys_bits: 52, ..format(Mode::Pae) }, 1, 1, ranges(&[(63, 52)])),
        (format(Mode::Level4), 1, 1, ranges(&[(51, 46)])),
        (format(Mode::Level4), 2, 2, ranges(&[(51, 46), (20, 13)])),
        (format(Mode::Level4), 3, 3, ranges(&[(51, 46), (29, 13)])),
        (format(Mode::Level4), 1, 2, ranges(&[(51, 46)])),
        (format(Mode::Level4), 1, 3, ranges(&[(51, 46)])),
        (format(Mode::Level4), 1, 4, ranges(&[(51, 46), (7, 7)])),
        (format(Mode::Level5), 1, 5, ranges(&[(51, 46), (7, 7)])),
        (EntryFormat { max_phys_bits: 52, ..format(Mode::Level4) }, 1, 1, 0),
        (EntryFormat { nxe: false, ..format(Mode::Level4) }, 1, 4, ranges(&[(63, 63), (51, 46), (7, 7)])),
        (EntryFormat { pages_1g: false, ..format(Mode::Level4) }, 1, 3, ranges(&[(51, 46), (7, 7)])),
        // APM 2 5.3.3: bit 8 is MBZ where an entry refers to a PDPT or a PML4.
        (EntryFormat { amd: true, ..format(Mode::Level5) }, 1, 4, ranges(&[(51, 46), (8, 7)])),
        (EntryFormat { amd: true, ..format(Mode::Level5) }, 1, 5, ranges(&[(51, 46), (8, 7)])),
        (EntryFormat { amd: true, ..format(Mode::Level4) }, 1, 3, ranges(&[(51, 46)])),
    ];
    for (format, leaf, level, reserved) in cases {
        let path = Path::new(format, leaf);
        let entry = path.get(level);
        for bit in 0..if format.mode == Mode::Bits32 { 32 } else { 64 } {
            // Setting PS where it is allowed makes another kind of entry; the address bits are the next table's.
            if entry & 1 << bit != 0 || (1 << bit == PS && level > 1 && reserved & PS == 0) {
                continue;
            }
            path.set(level, entry | 1 << bit);
            let found = path.walk(READ).is_err_and(|fault| {
                fault == PageFault { error_code: error_code::P | error_code::RSVD, level }
            });
            assert_eq!(
                found,
                reserved >> bit & 1 != 0,
                "{format:?}: page at {leaf}, level {level}, bit {bit}"
            );
        }
    }
}

/// SDM 3A 5.8, and 7.15 on #PF: a fault sets accessed flags above the entry with which the walk ends, no others.
#[test]
fn a_fault_leaves_the_last_entry_alone() {
    for mode in MODES {
        for (level, set, clear) in (1..=Path::levels(mode)).map(|level| (level, 0, P)).chain([(1, 0, RW)]) {
            let path = Path::new(format(mode), 1);
            path.change(level, set, clear);
            path.walk(by_user(WRITE)).unwrap_err();
            for at in 1..=Path::levels(mode) {
                assert_eq!(path.get(at) & A != 0, at > level, "{mode:?}: {level}, {at}");
                assert_eq!(path.get(at) & D, 0);
            }
        }
    }
}

/// The access rights as SDM 3A 5.6.1 and 5.6.2 put them, one paragraph after the other.
fn allowed_by_the_manual(user_page: bool, rw: bool, xd: bool, key: u32, access: Access, p: &Paging) -> bool {
    let nxe = p.format.nxe && p.format.mode != Mode::Bits32;
    let keys_apply = matches!(p.format.mode, Mode::Level4 | Mode::Level5);
    let register = if user_page { p.pkru } else { p.pkrs };
    let ad = keys_apply && register & (1 << (2 * key)) != 0;
    let wd = keys_apply && register & (2 << (2 * key)) != 0;
    match (access.user, user_page, access.kind) {
        // Supervisor-mode accesses.
        (false, false, AccessKind::Read) => !ad,
        (false, true, AccessKind::Read) => (!p.smap || access.ac) && !ad,
        (false, false, AccessKind::Write) => {
            if p.wp {
                rw && !ad && !wd
            } else {
                !ad
            }
        }
        (false, true, AccessKind::Write) => {
            (!p.smap || access.ac) && if p.wp { rw && !ad && !wd } else { !ad }
        }
        (false, false, AccessKind::Fetch) => !(nxe && xd),
        (false, true, AccessKind::Fetch) => !(p.smep || (nxe && xd)),
        // User-mode accesses.
        (true, false, _) => false,
        (true, true, AccessKind::Read) => !ad,
        (true, true, AccessKind::Write) => rw && !ad && !wd,
        (true, true, AccessKind::Fetch) => !(nxe && xd),
    }
}

#[test]
fn all_rights_agree_with_the_manual() {
    let bools = [false, true];
    let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
    let mut checked = 0;
    for mode in MODES {
        for nxe in bools {
            let mut path = Path::new(EntryFormat { nxe, ..format(mode) }, 1);
            let (leaf_entry, parent_entry) = (path.get(1), path.get(2));
            let key = if matches!(mode, Mode::Level4 | Mode::Level5) { 3 } else { 0 };
            // R/W, U/S, XD of both levels; WP, SMEP, SMAP; AD and WD of both key registers.
            for bits in 0u32..1 << 13 {
                let bit = |n: u32| bits >> n & 1 != 0;
                let rights = |first| {
                    let xd = if bit(first + 2) && nxe && mode != Mode::Bits32 { XD } else { 0 };
                    (if bit(first) { RW } else { 0 }) | (if bit(first + 1) { US } else { 0 }) | xd
                };
                let (leaf, parent) = (rights(0), rights(3));
                path.paging.wp = bit(6);
                path.paging.smep = bit(7);
                path.paging.smap = bit(8);
                path.paging.pkru = (bits >> 9 & 3) << 6;
                path.paging.pkrs = (bits >> 11 & 3) << 6;
                if key == 0 {
                    (path.paging.pkru, path.paging.pkrs) = (0, 0);
                }
                path.set(2, (parent_entry & !(RW | US)) | parent);
                for (kind, user, ac) in kinds
                    .into_iter()
                    .flat_map(|kind| [(kind, false, false), (kind, false, true), (kind, true, false)])
                {
                    let access = Access { kind, user, ac };
                    path.set(1, (leaf_entry & !(RW | US)) | leaf | key << 59);
                    let all = leaf & parent;
                    let expected = allowed_by_the_manual(
                        all & US != 0,
                        all & RW != 0,
                        (leaf | parent) & XD != 0,
                        key as u32,
                        access,
                        &path.paging,
                    );
                    let found = path.walk(access);
                    assert_eq!(found.is_ok(), expected, "{access:?} {leaf:#x} {parent:#x} {:?}", path.paging);
                    let written = expected && kind == AccessKind::Write;
                    let flags = if expected { A } else { 0 } | if written { D } else { 0 };
                    assert_eq!(path.get(1) & (A | D), flags, "{access:?} {leaf:#x} {parent:#x}");
                    if let Ok(page) = found {
                        assert_eq!(page.dirty, written);
                        assert_eq!(path.paging.denies(&page, access), None);
                    }
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, (4 * 2 * 9) << 13);
}

/// Table memory that another CPU changes just before each exchange.
struct Racing<'a> {
    tables: PhysicalTables<'a>,
    races: u32,
    change: fn(u64) -> u64,
}

impl TableReader for Racing<'_> {
    type Fault = Infallible;

    fn read(&mut self, address: GuestPhys, width: EntryWidth) -> Result<u64, Infallible> {
        self.tables.read(address, width)
    }

    fn compare_exchange(
        &mut self,
        address: GuestPhys,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<u64, Infallible> {
        if self.races > 0 {
            self.races -= 1;
            let entry = self.tables.read(address, width)?;
            self.tables.compare_exchange(address, width, entry, (self.change)(entry))?;
        }
        self.tables.compare_exchange(address, width, old, new)
    }
}

#[test]
fn an_entry_that_changes_is_evaluated_again() {
    let run = |races, change| {
        let path = Path::new(format(Mode::Level4), 1);
        for level in 2..=4 {
            path.change(level, A, 0);
        }
        let mut reader = Racing { tables: PhysicalTables(&path.memory), races, change };
        let result = walk(&path.paging, path.addr, by_user(WRITE), &mut reader);
        (result, path.get(1))
    };
    let (result, entry) = run(1, |entry| entry & !P);
    assert_eq!(
        result,
        Err(WalkFault::Page(PageFault { error_code: error_code::W | error_code::U, level: 1 })),
        "unmapped by the other CPU"
    );
    assert_eq!(entry & (A | D), 0);
    let (result, entry) = run(1, |entry| entry & !RW);
    assert!(matches!(result, Err(WalkFault::Page(PageFault { error_code: 7, level: 1 }))), "{result:?}");
    assert_eq!(entry & (A | D), 0);
    let (result, entry) = run(3, |entry| entry + 0x1000);
    assert_eq!(result.unwrap().gpa, GuestPhys(FRAME + 0x3234));
    assert_eq!(entry & (A | D), A | D);
    let (result, _) = run(u32::MAX, |entry| entry ^ 0x1000);
    assert!(result.is_err(), "never ends");
}

#[test]
fn tables_outside_of_memory_are_not_present() {
    for mode in MODES {
        let mut path = Path::new(format(mode), 1);
        path.paging.cr3 = 0xffff_f000;
        path.paging.pdptes[3] = 0xffff_f001;
        assert_eq!(path.code(WRITE), Some(error_code::W), "{mode:?}");
    }
}

#[test]
fn an_inspector_sees_each_level_and_changes_nothing() {
    for mode in MODES {
        let path = Path::new(format(mode), 1);
        let mut inspector = Inspector::new(&path.memory);
        walk(&path.paging, path.addr, WRITE, &mut inspector).unwrap();
        let levels: Vec<u8> = inspector.references.iter().map(|reference| reference.level).collect();
        assert_eq!(levels, (1..=Path::levels(mode)).rev().collect::<Vec<_>>());
        for reference in inspector.references {
            assert_eq!(reference.address, path.entry_address(reference.level));
            assert_eq!(reference.entry & (A | D), 0);
            assert_eq!(reference.entry, path.get(reference.level));
        }
    }
}

/// SDM 3A 5.4.1: bits 2:1, 8:5 and 63:MAXPHYADDR of a present PDPTE must be zero.
#[test]
fn malformed_pdptes() {
    let path = Path::new(format(Mode::Pae), 1);
    let cr3 = 0x8_0fe0u64;
    let address = GuestPhys(cr3);
    for bit in 1..64 {
        let reserved = matches!(bit, 1 | 2 | 5..=8 | 36..);
        for present in [P, 0] {
            path.memory.write_u64(address.offset(16), present | 1 << bit).unwrap();
            let loaded = load_pdptes(cr3 | 0x1f, 36, &mut PhysicalTables(&path.memory));
            let expected = if reserved && present != 0 {
                Err(PdpteFault::Reserved { index: 2, entry: present | 1 << bit })
            } else {
                Ok([0, 0, present | 1 << bit, 0])
            };
            assert_eq!(loaded, expected, "bit {bit}");
        }
    }
}

proptest! {
    /// Whatever lies in memory: a walk ends, and another one finds the same.
    #[test]
    fn random_tables_are_walked_to_an_end(
        entries in prop::collection::vec(any::<u64>(), 512),
        and in any::<u64>(),
        mode in prop::sample::select(MODES.to_vec()),
        max_phys_bits: u8,
        flags: u16,
        cr3: u64,
        addr: u64,
        user: bool,
    ) {
        let size = 16u64 << 12;
        let memory =
            GuestMemory::new(&[MemoryRegion { base: GuestPhys(0), size, kind: RegionKind::Ram }]).unwrap();
        for (index, entry) in (0u64..).zip(&entries) {
            // Mostly present, mostly tables within memory.
            let entry = (entry & and & 0xf87) | (entry & 0xf000) | 7;
            memory.write_u64(GuestPhys(index * 8 * 16), entry).unwrap();
            memory.write_u64(GuestPhys(index * 8 * 16 + 8), entry | (index % 3) << 50).unwrap();
        }
        let bit = |n: u16| flags >> n & 1 != 0;
        let format = EntryFormat {
            mode, max_phys_bits, nxe: bit(0), pse: bit(1), pse36: bit(2), pages_1g: bit(3), amd: bit(4),
        };
        let mut paging = Paging::new(format);
        (paging.wp, paging.smep, paging.smap, paging.pge) = (bit(5), bit(6), bit(7), bit(8));
        paging.cr3 = cr3 & 0xffff;
        paging.pdptes = [cr3 | 1, addr, entries[0], entries[1]];
        for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Fetch] {
            let access = Access { kind, user, ac: bit(9) };
            let go = || walk(&paging, GuestVirt(addr), access, &mut PhysicalTables(&memory));
            let found = go();
            prop_assert_eq!(go(), found);
            match found {
                Ok(page) => prop_assert!(page.gpa.0 < 1 << 52 && page.gpa.0 & 0xfff == addr & 0xfff),
                Err(WalkFault::Page(fault)) => prop_assert_eq!(fault.error_code & error_code::U != 0, user),
            }
        }
    }
}
