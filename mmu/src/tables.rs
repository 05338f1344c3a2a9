//! What a page walker needs from memory: reading and updating table entries, and telling about each reference.

use crate::GuestMemory;
use core::convert::Infallible;
use ringworld_core::GuestPhys;

/// The size of a table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum EntryWidth {
    /// 32 bits (x86 32-bit paging).
    Four,
    /// 64 bits.
    Eight,
}

/// Which of two translations a reference belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Stage {
    /// Linear (virtual) to guest-physical.
    First,
    /// Guest-physical to the host's physical (EPT, NPT, Arm stage 2).
    Second,
}

/// A walker has read this entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Reference {
    /// The translation to which the table belongs.
    pub stage: Stage,
    /// The table's level: 1 maps the smallest pages, the root has the highest number.
    pub level: u8,
    /// The entry's address, in the space in which the walker's tables lie.
    pub address: GuestPhys,
    /// What was there (zero-extended).
    pub entry: u64,
}

/// Access to the memory in which tables lie. A nested walk is a first-stage walk over a reader that translates each
/// address by a second-stage walk.
pub trait TableReader {
    /// Why an entry cannot be reached (a second-stage fault).
    type Fault;

    /// Reads the entry at `address` in one piece (zero-extended).
    fn read(&mut self, address: GuestPhys, width: EntryWidth) -> Result<u64, Self::Fault>;

    /// Replaces the entry by `new` if it is `old`, in one atomic access; gives back what was there.
    fn compare_exchange(
        &mut self,
        address: GuestPhys,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<u64, Self::Fault>;

    /// Called before a walk of extended page tables sets accessed or dirty flags for the guest-physical `address`, and
    /// whether a dirty flag is among them: page-modification logging (SDM 3C 29.3.6).
    #[inline(always)]
    fn flags_change(&mut self, address: GuestPhys, dirty: bool) -> Result<(), Self::Fault> {
        let _ = (address, dirty);
        Ok(())
    }

    /// Called once for each entry that a walk reads.
    #[inline(always)]
    fn reference(&mut self, reference: Reference) {
        let _ = reference;
    }
}

/// Tables in guest-physical memory. Where no memory is, entries read as zero: not present.
#[derive(Clone, Copy, Debug)]
pub struct PhysicalTables<'a>(
    /// The memory.
    pub &'a GuestMemory,
);

impl TableReader for PhysicalTables<'_> {
    type Fault = Infallible;

    #[inline(always)]
    fn read(&mut self, address: GuestPhys, width: EntryWidth) -> Result<u64, Infallible> {
        Ok(match width {
            EntryWidth::Four => self.0.read_u32(address).map_or(0, u64::from),
            EntryWidth::Eight => self.0.read_u64(address).unwrap_or(0),
        })
    }

    #[inline]
    fn compare_exchange(
        &mut self,
        address: GuestPhys,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<u64, Infallible> {
        let found = match width {
            EntryWidth::Four => self
                .0
                .compare_exchange_u32(address, old as u32, new as u32)
                .map(|result| u64::from(result.unwrap_or_else(|found| found))),
            EntryWidth::Eight => self
                .0
                .compare_exchange_u64(address, old, new)
                .map(|result| result.unwrap_or_else(|found| found)),
        };
        Ok(found.unwrap_or(0))
    }
}

/// Looks at a walk from outside: records its references and changes nothing (accessed and dirty flags stay).
#[derive(Clone, Debug)]
pub struct Inspector<'a> {
    tables: PhysicalTables<'a>,
    /// All references so far, in the order of the walk.
    pub references: Vec<Reference>,
}

impl<'a> Inspector<'a> {
    /// An inspector of tables in `memory`.
    pub fn new(memory: &'a GuestMemory) -> Self {
        Self { tables: PhysicalTables(memory), references: Vec::new() }
    }
}

impl TableReader for Inspector<'_> {
    type Fault = Infallible;

    fn read(&mut self, address: GuestPhys, width: EntryWidth) -> Result<u64, Infallible> {
        self.tables.read(address, width)
    }

    fn compare_exchange(
        &mut self,
        _address: GuestPhys,
        _width: EntryWidth,
        old: u64,
        _new: u64,
    ) -> Result<u64, Infallible> {
        Ok(old)
    }

    fn reference(&mut self, reference: Reference) {
        self.references.push(reference);
    }
}
