//! Guest-physical to physical addresses by extended page tables (SDM 3C 29.3, "The Extended Page Table Mechanism"), and
//! linear addresses through both stages.
//!
//! AMD's nested paging needs no walker of its own: its tables are those of [`super::paging`], walked as user accesses,
//! and as writes for the guest's tables (APM 2 15.25.5).

use crate::GuestPhysicalCache;
use crate::tables::{EntryWidth, Reference, Stage, TableReader};
use ringworld_core::{GuestPhys, PAGE_MASK};

/// Entry bit 0: reads are allowed.
pub const READ: u64 = 1 << 0;
/// Entry bit 1: writes are allowed.
pub const WRITE: u64 = 1 << 1;
/// Entry bit 2: fetches are allowed; with mode-based execute control, from supervisor-mode linear addresses.
pub const EXECUTE: u64 = 1 << 2;
/// Entry bit 6 of a page: the guest's PAT does not count.
pub const IGNORE_PAT: u64 = 1 << 6;
/// Entry bit 7: maps a page (above the lowest level).
pub const PAGE: u64 = 1 << 7;
/// Entry bit 8: accessed.
pub const ACCESSED: u64 = 1 << 8;
/// Entry bit 9 of a page: dirty.
pub const DIRTY: u64 = 1 << 9;
/// Entry bit 10: with mode-based execute control, fetches from user-mode linear addresses are allowed.
pub const USER_EXECUTE: u64 = 1 << 10;
/// Entry bit 63: an EPT violation is not turned into a virtualization exception.
pub const SUPPRESS_VE: u64 = 1 << 63;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ATTEMPTS: u32 = 64;

/// Bits of an EPT violation's exit qualification that the walk knows (SDM 3C table 28-7).
pub mod qualification {
    /// The access was a data read.
    pub const READ: u64 = 1 << 0;
    /// The access was a data write.
    pub const WRITE: u64 = 1 << 1;
    /// The access was an instruction fetch.
    pub const FETCH: u64 = 1 << 2;
    /// The first of the three bits that tell which accesses all entries allow: read, write, execute.
    pub const ALLOWED_SHIFT: u32 = 3;
    /// All entries allow fetches from user-mode linear addresses (with mode-based execute control).
    pub const USER_EXECUTABLE: u64 = 1 << 6;
}

/// What decides about translations, except the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ept {
    /// The EPT pointer: the root's address, the length of walks, whether accessed and dirty flags are used. VM entry
    /// has checked it.
    pub eptp: u64,
    /// IA32_VMX_EPT_VPID_CAP bit 0: entries may allow fetches only.
    pub execute_only: bool,
    /// The control "mode-based execute control for EPT".
    pub mode_based_execute: bool,
    /// IA32_VMX_EPT_VPID_CAP bit 17.
    pub pages_1g: bool,
    /// MAXPHYADDR, at most 52.
    pub max_phys_bits: u8,
}

/// An access to a guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct EptAccess {
    /// Reads data.
    pub read: bool,
    /// Writes data.
    pub write: bool,
    /// Fetches an instruction.
    pub fetch: bool,
    /// The linear address is a user-mode address (for mode-based execute control).
    pub user: bool,
}

impl EptAccess {
    const fn qualification(self) -> u64 {
        // The bits' order.
        self.read as u64 | (self.write as u64) << 1 | (self.fetch as u64) << 2
    }
}

/// The result of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptTranslation {
    /// The physical address of the byte (in the memory of the level that owns the tables).
    pub address: GuestPhys,
    /// log2 of the page's size: 12, 21 or 30.
    pub shift: u8,
    /// [`READ`], [`WRITE`], [`EXECUTE`] and [`USER_EXECUTE`] of all entries; without mode-based execute control, the
    /// last is that before it.
    pub rights: u64,
    /// Writes need no walk to set a dirty flag.
    pub dirty: bool,
    /// The memory type, 0 to 7 (SDM 3A 13.11.2).
    pub memory_type: u8,
    /// The guest's PAT does not count.
    pub ignore_pat: bool,
    /// Bit 63 of the page's entry: a violation is not turned into a virtualization exception.
    pub suppress_ve: bool,
}

impl EptTranslation {
    /// Whether an access may use the translation without a walk: it is allowed, and has no dirty flag to set.
    fn serves(&self, access: EptAccess) -> bool {
        allows(self.rights, access) && (self.dirty || !access.write)
    }
}

/// Whether entries with these rights together allow an access.
fn allows(rights: u64, access: EptAccess) -> bool {
    let needed = [
        (access.read, READ),
        (access.write, WRITE),
        (access.fetch, if access.user { USER_EXECUTE } else { EXECUTE }),
    ];
    needed.iter().all(|(wanted, right)| !wanted || rights & right != 0)
}

/// Translations of pages, by a number that stands for the EPT pointer and all else that they depend on.
pub type EptCache = GuestPhysicalCache<u64, EptTranslation>;

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EptFault<F> {
    /// A present entry is not configured properly (SDM 3C 29.3.3.1).
    Misconfiguration {
        /// The guest-physical address.
        address: GuestPhys,
        /// The level of the entry.
        level: u8,
        /// The entry.
        entry: u64,
    },
    /// The access is not allowed, or an entry is not present (SDM 3C 29.3.3.2).
    Violation {
        /// The guest-physical address.
        address: GuestPhys,
        /// The level of the entry with which the walk ended.
        level: u8,
        /// Bits 6:0 of the exit qualification (see [`qualification`]).
        qualification: u64,
        /// Bit 63 of the entry with which the walk ended.
        suppress_ve: bool,
    },
    /// A table could not be reached.
    Table(F),
}

impl Ept {
    /// The number of levels: 5 if bits 5:3 of the EPT pointer say so, else 4.
    pub const fn levels(&self) -> u8 {
        if self.eptp >> 3 & 7 == 4 { 5 } else { 4 }
    }

    /// Accessed and dirty flags are used; accesses to the guest's tables count as writes.
    pub const fn accessed_dirty(&self) -> bool {
        self.eptp & (1 << 6) != 0
    }

    /// Whether a present entry is misconfigured (SDM 3C 29.3.3.1).
    fn is_misconfigured(&self, entry: u64, level: u8, maps_page: bool) -> bool {
        let fetches = EXECUTE | if self.mode_based_execute { USER_EXECUTE } else { 0 };
        if entry & READ == 0 && (entry & WRITE != 0 || (!self.execute_only && entry & fetches != 0)) {
            return true;
        }
        let above_max_phys = ADDRESS & (u64::MAX << self.max_phys_bits.min(63));
        let reserved = if maps_page {
            above_max_phys | (ADDRESS & ((1 << (12 + 9 * (u32::from(level) - 1))) - 1))
        } else {
            // Bits 6:3; bit 7, where there are no pages of that size.
            above_max_phys | 0x78 | (entry & PAGE)
        };
        entry & reserved != 0 || (maps_page && matches!(entry >> 3 & 7, 2 | 3 | 7))
    }

    fn violation<F>(
        &self,
        address: GuestPhys,
        level: u8,
        access: EptAccess,
        rights: u64,
        suppress_ve: bool,
    ) -> EptFault<F> {
        let user = self.mode_based_execute && rights & USER_EXECUTE != 0;
        let qualification = access.qualification()
            | (rights & (READ | WRITE | EXECUTE)) << qualification::ALLOWED_SHIFT
            | if user { qualification::USER_EXECUTABLE } else { 0 };
        EptFault::Violation { address, level, qualification, suppress_ve }
    }

    /// The access that a walk of the guest's own tables makes to read an entry.
    fn table_access(&self) -> EptAccess {
        EptAccess { read: true, write: self.accessed_dirty(), fetch: false, user: false }
    }
}

/// Translates the guest-physical address `address` for `access`.
///
/// Accessed flags, if used, are set as in [`super::paging::walk`]: on the way down, and in the entry of the page only if
/// the access is allowed.
pub fn walk<R: TableReader>(
    ept: &Ept,
    address: GuestPhys,
    access: EptAccess,
    reader: &mut R,
) -> Result<EptTranslation, EptFault<R::Fault>> {
    let present = READ | WRITE | EXECUTE | if ept.mode_based_execute { USER_EXECUTE } else { 0 };
    let mut rights = READ | WRITE | EXECUTE | USER_EXECUTE;
    let mut table = ept.eptp & ADDRESS;
    let mut level = ept.levels();
    let mut attempts = 0;
    loop {
        let shift = 12 + 9 * (u32::from(level) - 1);
        let entry_address = GuestPhys(table + (address.0 >> shift & 0x1ff) * 8);
        let mut entry = reader.read(entry_address, EntryWidth::Eight).map_err(EptFault::Table)?;
        reader.reference(Reference { stage: Stage::Second, level, address: entry_address, entry });
        let (entry, translation) = loop {
            // Without mode-based execute control, bit 2 stands for both kinds of fetches.
            let entry_rights = if ept.mode_based_execute {
                entry
            } else {
                (entry & !USER_EXECUTE)
                    | (entry & EXECUTE) << (USER_EXECUTE.trailing_zeros() - EXECUTE.trailing_zeros())
            };
            let rights = rights & entry_rights;
            let violation = || ept.violation(address, level, access, rights, entry & SUPPRESS_VE != 0);
            if entry & present == 0 {
                return Err(violation());
            }
            let largest = if ept.pages_1g { 3 } else { 2 };
            let maps_page = level == 1 || (entry & PAGE != 0 && level <= largest);
            if ept.is_misconfigured(entry, level, maps_page) {
                return Err(EptFault::Misconfiguration { address, level, entry });
            }
            let mut flags = if ept.accessed_dirty() { ACCESSED } else { 0 };
            let mut translation = None;
            if maps_page {
                if !allows(rights, access) {
                    return Err(violation());
                }
                if access.write && ept.accessed_dirty() {
                    flags |= DIRTY;
                }
                let offset_mask = (1u64 << shift) - 1;
                translation = Some(EptTranslation {
                    address: GuestPhys((entry & ADDRESS & !offset_mask) | (address.0 & offset_mask)),
                    shift: shift as u8,
                    rights,
                    dirty: !ept.accessed_dirty() || (entry | flags) & DIRTY != 0,
                    memory_type: (entry >> 3 & 7) as u8,
                    ignore_pat: entry & IGNORE_PAT != 0,
                    suppress_ve: entry & SUPPRESS_VE != 0,
                });
            }
            if entry & flags == flags {
                break (entry_rights, translation);
            }
            reader.flags_change(address, flags & !entry & DIRTY != 0).map_err(EptFault::Table)?;
            let found = reader
                .compare_exchange(entry_address, EntryWidth::Eight, entry, entry | flags)
                .map_err(EptFault::Table)?;
            if found == entry {
                break (entry_rights, translation);
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                // As in the first stage: a spurious violation ends an endless race.
                return Err(violation());
            }
            entry = found;
        };
        if let Some(translation) = translation {
            return Ok(translation);
        }
        rights &= entry;
        table = entry & ADDRESS;
        level -= 1;
    }
}

/// As [`walk`], with what is kept in `cache` under `key`. A walk that fails forgets the page's mapping, as an EPT violation has
/// to (SDM 3C 29.4.3.1).
pub fn walk_cached<R: TableReader>(
    ept: &Ept,
    (cache, key): (&mut EptCache, u64),
    address: GuestPhys,
    access: EptAccess,
    reader: &mut R,
) -> Result<EptTranslation, EptFault<R::Fault>> {
    let page = address.page().0;
    if let Some(known) = cache.get(key, page).filter(|known| known.serves(access)) {
        return Ok(EptTranslation { address: GuestPhys(known.address.0 | address.page_offset()), ..*known });
    }
    let walked = walk(ept, address, access, reader);
    match &walked {
        Ok(found) => {
            cache.insert(
                key,
                page,
                EptTranslation { address: GuestPhys(found.address.0 & !PAGE_MASK), ..*found },
            );
        }
        Err(_) => cache.remove(key, page),
    }
    walked
}

/// First-stage tables that lie in memory behind extended page tables: the reader of a nested walk.
#[derive(Debug)]
pub struct NestedTables<'a, R> {
    ept: &'a Ept,
    tables: &'a mut R,
    cache: Option<(&'a mut EptCache, u64)>,
    /// The entry read last, translated. Its flags are set by the same access, without another walk.
    last: Option<(GuestPhys, EptTranslation)>,
}

impl<'a, R: TableReader> NestedTables<'a, R> {
    /// A reader whose second-stage tables, and all bytes, are reached by `tables`.
    pub fn new(ept: &'a Ept, tables: &'a mut R) -> Self {
        Self { ept, tables, cache: None, last: None }
    }

    /// The same, with what is kept of the second stage under a key.
    pub fn cached(ept: &'a Ept, tables: &'a mut R, cache: (&'a mut EptCache, u64)) -> Self {
        Self { ept, tables, cache: Some(cache), last: None }
    }

    fn translate(&mut self, address: GuestPhys) -> Result<EptTranslation, EptFault<R::Fault>> {
        match self.last {
            Some((last, translation)) if last == address => Ok(translation),
            _ => {
                let access = self.ept.table_access();
                let translation = match &mut self.cache {
                    Some((cache, key)) => walk_cached(self.ept, (cache, *key), address, access, self.tables)?,
                    None => walk(self.ept, address, access, self.tables)?,
                };
                self.last = Some((address, translation));
                Ok(translation)
            }
        }
    }
}

impl<R: TableReader> TableReader for NestedTables<'_, R> {
    type Fault = EptFault<R::Fault>;

    fn read(&mut self, address: GuestPhys, width: EntryWidth) -> Result<u64, Self::Fault> {
        self.last = None;
        let translation = self.translate(address)?;
        self.tables.read(translation.address, width).map_err(EptFault::Table)
    }

    fn compare_exchange(
        &mut self,
        address: GuestPhys,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<u64, Self::Fault> {
        let translation = self.translate(address)?;
        if translation.rights & WRITE == 0 {
            // Reported as a read and a write (SDM 3C table 28-7, note 2).
            let access = EptAccess { write: true, ..self.ept.table_access() };
            let level = 1 + (translation.shift - 12) / 9;
            return Err(self.ept.violation(
                address,
                level,
                access,
                translation.rights,
                translation.suppress_ve,
            ));
        }
        self.tables.compare_exchange(translation.address, width, old, new).map_err(EptFault::Table)
    }

    fn reference(&mut self, reference: Reference) {
        self.tables.reference(reference);
    }
}

#[cfg(test)]
#[path = "ept_tests.rs"]
mod tests;
