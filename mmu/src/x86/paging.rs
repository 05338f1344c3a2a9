//! Linear to physical addresses: 32-bit, PAE, 4-level and 5-level paging (SDM 3A chapter 5, "Paging"; APM 2 chapter 5).
//!
//! Canonical-address checks come before a walk and are the CPU's.

use crate::tables::{EntryWidth, Reference, Stage, TableReader};
use ringworld_core::{GuestPhys, GuestVirt};

/// Entry bit 0: present.
pub const P: u64 = 1 << 0;
/// Entry bit 1: writes are allowed.
pub const RW: u64 = 1 << 1;
/// Entry bit 2: a user-mode page.
pub const US: u64 = 1 << 2;
/// Entry bit 3: write-through.
pub const PWT: u64 = 1 << 3;
/// Entry bit 4: cache disable.
pub const PCD: u64 = 1 << 4;
/// Entry bit 5: accessed.
pub const A: u64 = 1 << 5;
/// Entry bit 6: dirty (in an entry that maps a page).
pub const D: u64 = 1 << 6;
/// Entry bit 7: maps a page (above the lowest level).
pub const PS: u64 = 1 << 7;
/// Entry bit 8: global (in an entry that maps a page).
pub const G: u64 = 1 << 8;
/// Entry bit 63: execute disable.
pub const XD: u64 = 1 << 63;

/// Bits of a page fault's error code (SDM 3A 5.7).
pub mod error_code {
    /// The walk reached a page, or a reserved bit.
    pub const P: u32 = 1 << 0;
    /// The access was a write.
    pub const W: u32 = 1 << 1;
    /// The access was made in user mode.
    pub const U: u32 = 1 << 2;
    /// A reserved bit was set.
    pub const RSVD: u32 = 1 << 3;
    /// The access was an instruction fetch (shown only with NX or SMEP).
    pub const I: u32 = 1 << 4;
    /// A protection key denied the access.
    pub const PK: u32 = 1 << 5;
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How often a walk looks again at an entry that changes under its hands.
const ATTEMPTS: u32 = 64;

/// The paging mode (SDM 3A 5.1.1), when CR0.PG is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mode {
    /// CR4.PAE = 0.
    Bits32,
    /// CR4.PAE = 1, IA32_EFER.LMA = 0.
    Pae,
    /// IA32_EFER.LMA = 1, CR4.LA57 = 0.
    Level4,
    /// IA32_EFER.LMA = 1, CR4.LA57 = 1.
    Level5,
}

/// What decides which entries map pages and which bits of entries are reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryFormat {
    /// The paging mode.
    pub mode: Mode,
    /// IA32_EFER.NXE.
    pub nxe: bool,
    /// CR4.PSE: 4-MiB pages in 32-bit paging.
    pub pse: bool,
    /// CPUID.01H:EDX.PSE-36: 4-MiB pages may lie above 4 GiB.
    pub pse36: bool,
    /// CPUID.80000001H:EDX.Page1GB.
    pub pages_1g: bool,
    /// MAXPHYADDR, at most 52.
    pub max_phys_bits: u8,
    /// AMD's CPUs reserve bit 8 of entries that refer to a PDPT or a higher table (APM 2 5.3).
    pub amd: bool,
}

/// Everything that decides about a translation, except the tables. Kept by the CPU; fields change with its registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// CR3; bits that are not part of the root's address are ignored.
    pub cr3: u64,
    /// The PDPTE registers of PAE paging (see [`load_pdptes`]).
    pub pdptes: [u64; 4],
    /// CR0.WP.
    pub wp: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// CR4.PGE.
    pub pge: bool,
    /// PKRU; 0 while CR4.PKE is clear.
    pub pkru: u32,
    /// IA32_PKRS; 0 while CR4.PKS is clear.
    pub pkrs: u32,
    format: EntryFormat,
    /// By level: bits that must be zero in an entry that refers to a table.
    reserved_in_table: [u64; 8],
    /// By level: bits that must be zero in an entry that maps a page.
    reserved_in_page: [u64; 8],
    /// The highest level at which an entry may map a page.
    largest_page: u8,
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data (or reads with the intent to).
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// An access to a linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// A user-mode access: made at CPL 3, and not an implicit supervisor-mode access (to descriptor tables, the TSS).
    pub user: bool,
    /// EFLAGS.AC for explicit supervisor-mode accesses; false for implicit ones (SDM 3A 5.6.1).
    pub ac: bool,
}

/// The result of a walk, and what a TLB needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The physical address of the byte.
    pub gpa: GuestPhys,
    /// log2 of the page's size: 12, 21, 22 or 30.
    pub shift: u8,
    /// R/W is set in all entries.
    pub writable: bool,
    /// U/S is set in all entries.
    pub user: bool,
    /// XD is clear in all entries.
    pub executable: bool,
    /// The page's D flag is set: another write needs no walk.
    pub dirty: bool,
    /// G is set, and CR4.PGE.
    pub global: bool,
    /// The index of the page's PAT entry: PAT, PCD, PWT from bit 2 down (SDM 3A 5.9.2).
    pub pat_index: u8,
    /// The protection key; 0 other than in 4-level and 5-level paging.
    pub key: u8,
}

/// A page fault. Its linear address is the one of the walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// As pushed (see [`error_code`]).
    pub error_code: u32,
    /// The level of the entry with which the walk ended.
    pub level: u8,
}

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkFault<F> {
    /// This walk's own fault.
    Page(PageFault),
    /// A table could not be reached.
    Table(F),
}

/// Bits `high` to `low`, both included; none if `high < low`.
const fn bits(high: u32, low: u32) -> u64 {
    if high < low { 0 } else { (u64::MAX << low) & (u64::MAX >> (63 - high)) }
}

impl Paging {
    /// Parameters with all registers zero and all control bits clear, for entries of this format.
    pub fn new(format: EntryFormat) -> Self {
        let max_phys = u32::from(format.max_phys_bits.min(52));
        let mut table = [0; 8];
        let mut page = [0; 8];
        let largest_page;
        if format.mode == Mode::Bits32 {
            // SDM 3A table 5-4: of a 4-MiB page's address, bits 39:32 are in bits 20:13 of the entry.
            largest_page = 1 + u8::from(format.pse);
            page[2] = bits(21, if format.pse36 { max_phys.clamp(32, 40) - 19 } else { 13 });
        } else {
            let execute_disable = if format.nxe { 0 } else { XD };
            // Bits 62:52 are ignored in 4-level and 5-level paging, but not in PAE paging.
            let ignored_from = if format.mode == Mode::Pae { 63 } else { 52 };
            let everywhere = execute_disable | bits(ignored_from - 1, max_phys);
            table = [everywhere; 8];
            page = [everywhere; 8];
            page[2] |= bits(20, 13);
            page[3] |= bits(29, 13);
            largest_page = 2 + u8::from(format.pages_1g && format.mode != Mode::Pae);
            for (level, reserved) in (1u8..).zip(&mut table[1..]) {
                if level > largest_page {
                    *reserved |= PS;
                }
                if format.amd && level >= 4 {
                    *reserved |= 1 << 8;
                }
            }
        }
        Self {
            cr3: 0,
            pdptes: [0; 4],
            wp: false,
            smep: false,
            smap: false,
            pge: false,
            pkru: 0,
            pkrs: 0,
            format,
            reserved_in_table: table,
            reserved_in_page: page,
            largest_page,
        }
    }

    /// The format of entries.
    pub fn format(&self) -> EntryFormat {
        self.format
    }

    /// The error code's bits if the access may not use the page, which may also come from a TLB (SDM 3A 5.6). No faults
    /// of other kinds are left once there is a translation.
    #[inline]
    pub fn denies(&self, page: &Translation, access: Access) -> Option<u32> {
        let mut denied = access.user && !page.user;
        let mut by_key = false;
        match access.kind {
            AccessKind::Fetch => {
                denied |= !page.executable;
                denied |= self.smep && !access.user && page.user;
            }
            AccessKind::Read | AccessKind::Write => {
                let write = access.kind == AccessKind::Write;
                let write_protect = write && (access.user || self.wp);
                denied |= write_protect && !page.writable;
                denied |= self.smap && !access.user && !access.ac && page.user;
                // SDM 3A 5.6.2: bit 2i is ADi, bit 2i + 1 is WDi. The page's mode selects the register.
                let keys = if page.user { self.pkru } else { self.pkrs };
                let key = keys >> (2 * (page.key & 15));
                by_key = key & 1 != 0 || (key & 2 != 0 && write_protect);
            }
        }
        (denied || by_key)
            .then(|| error_code::P | if by_key { error_code::PK } else { 0 } | self.access_bits(access))
    }

    /// The error code's bits that describe the access.
    fn access_bits(&self, access: Access) -> u32 {
        let user = if access.user { error_code::U } else { 0 };
        user | match access.kind {
            AccessKind::Read => 0,
            AccessKind::Write => error_code::W,
            AccessKind::Fetch if self.smep || (self.format.nxe && self.format.mode != Mode::Bits32) => {
                error_code::I
            }
            AccessKind::Fetch => 0,
        }
    }

    #[cold]
    fn fault<F>(&self, access: Access, bits: u32, level: u8) -> WalkFault<F> {
        WalkFault::Page(PageFault { error_code: bits | self.access_bits(access), level })
    }
}

/// Translates `addr` for `access`.
///
/// Accessed flags are set on the way down, in each entry that refers to a table and is valid; the accessed flag of the
/// entry that maps the page, and its dirty flag, only if the access is allowed (SDM 3A 5.8, 7.15 "#PF").
#[inline]
pub fn walk<R: TableReader>(
    paging: &Paging,
    addr: GuestVirt,
    access: Access,
    reader: &mut R,
) -> Result<Translation, WalkFault<R::Fault>> {
    match paging.format.mode {
        Mode::Bits32 => walk_tables::<true, R>(paging, paging.cr3 & 0xffff_f000, 2, addr, access, reader),
        Mode::Pae => {
            let pdpte = paging.pdptes[(addr.0 >> 30) as usize & 3];
            if pdpte & P == 0 {
                return Err(paging.fault(access, 0, 3));
            }
            walk_tables::<false, R>(paging, pdpte & ADDRESS, 2, addr, access, reader)
        }
        Mode::Level4 => walk_tables::<false, R>(paging, paging.cr3 & ADDRESS, 4, addr, access, reader),
        Mode::Level5 => walk_tables::<false, R>(paging, paging.cr3 & ADDRESS, 5, addr, access, reader),
    }
}

fn walk_tables<const BITS32: bool, R: TableReader>(
    paging: &Paging,
    root: u64,
    levels: u8,
    addr: GuestVirt,
    access: Access,
    reader: &mut R,
) -> Result<Translation, WalkFault<R::Fault>> {
    let (width, entry_shift, index_bits) =
        if BITS32 { (EntryWidth::Four, 2, 10) } else { (EntryWidth::Eight, 3, 9) };
    let mut table = root;
    let mut level = levels;
    // R/W and U/S, and XD inverted, of all entries so far.
    let mut rights = u64::MAX;
    let mut attempts = 0;
    loop {
        let page_shift = 12 + index_bits * (u32::from(level) - 1);
        let index = (addr.0 >> page_shift) & ((1 << index_bits) - 1);
        let address = GuestPhys(table + (index << entry_shift));
        let mut entry = reader.read(address, width).map_err(WalkFault::Table)?;
        reader.reference(Reference { stage: Stage::First, level, address, entry });
        // Again only if the entry changes before its flags can be set.
        let translation = loop {
            if entry & P == 0 {
                return Err(paging.fault(access, 0, level));
            }
            let maps_page = level == 1 || (entry & PS != 0 && level <= paging.largest_page);
            let reserved = if maps_page { &paging.reserved_in_page } else { &paging.reserved_in_table };
            if entry & reserved[usize::from(level & 7)] != 0 {
                return Err(paging.fault(access, error_code::P | error_code::RSVD, level));
            }
            let rights = rights & (entry ^ XD);
            let (flags, translation) = if maps_page {
                let write = access.kind == AccessKind::Write;
                let translation = paging.page(entry, level, page_shift, rights, addr);
                if let Some(error_code) = paging.denies(&translation, access) {
                    return Err(WalkFault::Page(PageFault { error_code, level }));
                }
                let dirty = translation.dirty || write;
                (if write { A | D } else { A }, Some(Translation { dirty, ..translation }))
            } else {
                (A, None)
            };
            if entry & flags == flags {
                break translation;
            }
            let found =
                reader.compare_exchange(address, width, entry, entry | flags).map_err(WalkFault::Table)?;
            if found == entry {
                break translation;
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                // Another CPU changes the entry all the time: a spurious fault lets this one take interrupts.
                return Err(paging.fault(access, 0, level));
            }
            entry = found;
        };
        if let Some(translation) = translation {
            return Ok(translation);
        }
        rights &= entry ^ XD;
        table = entry & ADDRESS;
        level -= 1;
    }
}

impl Paging {
    /// The page that `entry` at `level` maps.
    #[inline(always)]
    fn page(&self, entry: u64, level: u8, shift: u32, rights: u64, addr: GuestVirt) -> Translation {
        let offset_mask = (1u64 << shift) - 1;
        let four_mib = self.format.mode == Mode::Bits32 && level == 2;
        let high = if four_mib { (entry >> 13 & 0xff) << 32 } else { 0 };
        let pat = if level == 1 { entry >> 7 } else { entry >> 12 } & 1;
        Translation {
            gpa: GuestPhys((entry & ADDRESS & !offset_mask) | high | (addr.0 & offset_mask)),
            shift: shift as u8,
            writable: rights & RW != 0,
            user: rights & US != 0,
            executable: rights & XD != 0,
            dirty: entry & D != 0,
            global: self.pge && entry & G != 0,
            pat_index: (pat << 2 | (entry >> 3 & 3)) as u8,
            key: (entry >> 59 & 15) as u8,
        }
    }
}

/// Why the PDPTE registers cannot be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PdpteFault<F> {
    /// A present entry has a reserved bit set; MOV to CR0, CR3 or CR4 raises #GP(0).
    Reserved {
        /// Which of the four.
        index: u8,
        /// Its value.
        entry: u64,
    },
    /// The table could not be reached.
    Table(F),
}

/// Whether a PDPTE of PAE paging is present with a reserved bit set (SDM 3A 5.4.1): bits 2:1, 8:5, 63:MAXPHYADDR.
pub const fn pdpte_is_malformed(entry: u64, max_phys_bits: u8) -> bool {
    let max_phys = if max_phys_bits < 52 { max_phys_bits as u32 } else { 52 };
    entry & P != 0 && entry & (bits(2, 1) | bits(8, 5) | bits(63, max_phys)) != 0
}

/// Reads and checks the four PDPTEs of PAE paging (SDM 3A 5.4.1).
pub fn load_pdptes<R: TableReader>(
    cr3: u64,
    max_phys_bits: u8,
    reader: &mut R,
) -> Result<[u64; 4], PdpteFault<R::Fault>> {
    let mut pdptes = [0; 4];
    for (index, pdpte) in (0u8..).zip(&mut pdptes) {
        let address = GuestPhys((cr3 & 0xffff_ffe0) + 8 * u64::from(index));
        let entry = reader.read(address, EntryWidth::Eight).map_err(PdpteFault::Table)?;
        reader.reference(Reference { stage: Stage::First, level: 3, address, entry });
        if pdpte_is_malformed(entry, max_phys_bits) {
            return Err(PdpteFault::Reserved { index, entry });
        }
        *pdpte = entry;
    }
    Ok(pdptes)
}

#[cfg(test)]
#[path = "paging_tests.rs"]
mod tests;
