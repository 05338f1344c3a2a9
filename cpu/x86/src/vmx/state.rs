//! Segments and table registers between the processor and the VMCS.

use super::vmcs::{Field, Vmcs};
use crate::segment::Segment;
use crate::state::TableRegister;

/// Access-rights bit 16: unusable.
pub(super) const UNUSABLE: u32 = 1 << 16;

/// LDTR's and TR's place in the rows of segment fields (after ES, CS, SS, DS, FS, GS).
pub(super) const LDTR: usize = 6;
pub(super) const TR: usize = 7;

impl Vmcs {
    /// A guest segment register: 0 to 5 as in the instruction encoding, then LDTR and TR.
    pub(super) fn segment(&self, n: usize) -> Segment {
        let rights = self.nth(Field::GuestEsAccessRights, n) as u32;
        Segment {
            selector: self.nth(Field::GuestEsSelector, n) as u16,
            rights: rights as u16 & 0xf0ff,
            limit: self.nth(Field::GuestEsLimit, n) as u32,
            base: self.nth(Field::GuestEsBase, n),
            unusable: rights & UNUSABLE != 0,
        }
    }

    pub(super) fn set_segment(&mut self, n: usize, segment: &Segment) {
        let rights = u32::from(segment.rights & 0xf0ff) | if segment.unusable { UNUSABLE } else { 0 };
        self.set_nth(Field::GuestEsSelector, n, segment.selector.into());
        self.set_nth(Field::GuestEsAccessRights, n, rights.into());
        self.set_nth(Field::GuestEsLimit, n, segment.limit.into());
        self.set_nth(Field::GuestEsBase, n, segment.base);
    }

    /// GDTR and IDTR.
    pub(super) fn tables(&self) -> [TableRegister; 2] {
        [0, 1].map(|n| TableRegister {
            base: self.nth(Field::GuestGdtrBase, n),
            limit: self.nth(Field::GuestGdtrLimit, n) as u16,
        })
    }

    pub(super) fn set_tables(&mut self, tables: [TableRegister; 2]) {
        for (n, table) in tables.iter().enumerate() {
            self.set_nth(Field::GuestGdtrBase, n, table.base);
            self.set_nth(Field::GuestGdtrLimit, n, table.limit.into());
        }
    }
}
