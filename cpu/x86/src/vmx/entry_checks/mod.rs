//! The checks of VM entry (SDM 3C 27.2 and 27.3), as data: each has a name, a text, its section, and a predicate that says
//! whether the VMCS violates it.

mod controls;
mod guest_nonregister;
mod guest_registers;
mod guest_segments;
mod host_state;
pub mod rules;

use super::capability::Capabilities;
use super::controls::Group;
use super::vmcs::{FIELDS, Field, FieldSet, Vmcs};
use crate::model::Model;
use ringworld_mmu::GuestMemory;
use std::sync::LazyLock;

/// How VM entry fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// VMfailValid with this VM-instruction error.
    Instruction(u32),
    /// Exit reason 33 with this qualification.
    GuestState(u64),
}

/// VM-instruction error 7: VM entry with invalid control field(s).
const CONTROLS: Failure = Failure::Instruction(7);
/// VM-instruction error 8: VM entry with invalid host-state field(s).
const HOST: Failure = Failure::Instruction(8);
/// Exit qualification 0.
const GUEST: Failure = Failure::GuestState(0);

/// One check.
pub struct VmEntryCheck {
    /// A short name, unique.
    pub name: &'static str,
    /// The rule.
    pub text: &'static str,
    /// The manual's section (SDM 3C).
    pub section: &'static str,
    /// What happens if it is violated.
    pub failure: Failure,
    /// Whether it is violated.
    pub violated: fn(&View<'_>) -> bool,
}

/// What a check looks at.
pub struct View<'a> {
    /// The VMCS.
    pub vmcs: &'a Vmcs,
    /// The processor's capabilities.
    pub capabilities: &'a Capabilities,
    /// The processor's model.
    pub model: &'a Model,
    /// Physical memory (for the virtual-APIC page's VTPR and the VMCS that the link pointer names).
    pub memory: &'a GuestMemory,
    /// EFER.LMA at VM entry.
    pub long: bool,
    /// The current-VMCS pointer.
    pub current: u64,
    /// Whether it was in IA-32e mode at the last VM entry.
    pub entered_long: bool,
    /// In SMM.
    pub smm: bool,
}

/// Writes a table of checks: section, failure, then name, text and predicate.
macro_rules! checks {
    ($section:literal, $failure:expr; $($name:literal, $text:literal, $violated:expr;)*) => {
        &[$(crate::vmx::entry_checks::VmEntryCheck {
            name: $name, text: $text, section: $section, failure: $failure, violated: $violated,
        }),*]
    };
}
use checks;

/// All checks, in the order in which the processor makes them.
pub fn all() -> impl Iterator<Item = &'static VmEntryCheck> {
    controls::TABLES
        .iter()
        .chain(host_state::TABLES)
        .chain(guest_registers::TABLES)
        .chain(guest_segments::TABLES)
        .chain(guest_nonregister::TABLES)
        .flat_map(|table| table.iter())
}

/// Controls and host state; what the checks of the guest's segments look at besides.
static SETS: LazyLock<[FieldSet; 2]> = LazyLock::new(|| {
    // Bits 11:10 of an encoding are the type: control, read-only, guest, host (SDM 3D 25.11.2).
    // No check looks at the host's RSP, which hypervisors write often.
    let unchecked = FIELDS[Field::HostRsp as usize].encoding;
    let fixed = FieldSet::of(|encoding| matches!(encoding >> 10 & 3, 0 | 3) && encoding != unchecked);
    let segments = FieldSet::of(
        |encoding| matches!(encoding, 0x0800..=0x080e | 0x4800..=0x480e | 0x4814..=0x4822 | 0x6806..=0x6814 | 0x6800),
    );
    [fixed, segments]
});

impl View<'_> {
    /// The first check that the VMCS violates. Checks that have the outcome of the last VM entry are not made again.
    pub fn first_violation(&self) -> Option<&'static VmEntryCheck> {
        let (fixed, segments) = self.known();
        [
            (controls::TABLES, fixed),
            (host_state::TABLES, fixed),
            (guest_registers::TABLES, false),
            (guest_segments::TABLES, segments),
            (guest_nonregister::TABLES, false),
        ]
        .into_iter()
        .filter(|(_, known)| !known)
        .flat_map(|(tables, _)| tables.iter().copied().flatten())
        .find(|check| (check.violated)(self))
    }

    /// Whether controls and host state, and whether the guest's segments are as they were at the last VM entry, with all that
    /// their checks look at besides: the mode, VTPR in memory, virtual-8086 mode.
    fn known(&self) -> (bool, bool) {
        use super::controls::bits::{TPR_SHADOW, VIRTUAL_INTERRUPT_DELIVERY};
        let [fixed, segments] = &*SETS;
        let fixed = self.vmcs.unchanged(fixed)
            && self.long == self.entered_long
            && (!self.primary(TPR_SHADOW) || self.secondary(VIRTUAL_INTERRUPT_DELIVERY));
        let rflags = self.vmcs.at_entry(Field::GuestRflags);
        let v8086 = rflags.is_some_and(|old| (old & crate::flags::bits::VM != 0) == self.v8086());
        (fixed, fixed && v8086 && self.vmcs.unchanged(segments))
    }

    /// All checks that the VMCS violates.
    pub fn violations(&self) -> Vec<&'static VmEntryCheck> {
        all().filter(|check| (check.violated)(self)).collect()
    }

    fn get(&self, field: Field) -> u64 {
        self.vmcs.get(field)
    }

    fn pin(&self, bit: u32) -> bool {
        self.get(Field::PinBasedControls) as u32 & bit != 0
    }

    fn primary(&self, bit: u32) -> bool {
        self.get(Field::PrimaryControls) as u32 & bit != 0
    }

    fn secondary(&self, bit: u32) -> bool {
        self.primary(super::controls::bits::SECONDARY) && self.get(Field::SecondaryControls) as u32 & bit != 0
    }

    fn exit(&self, bit: u32) -> bool {
        self.get(Field::ExitControls) as u32 & bit != 0
    }

    fn entry(&self, bit: u32) -> bool {
        self.get(Field::EntryControls) as u32 & bit != 0
    }

    /// The guest will be in IA-32e mode.
    fn guest_long(&self) -> bool {
        self.entry(super::controls::bits::GUEST_LONG)
    }

    fn host_long(&self) -> bool {
        self.exit(super::controls::bits::HOST_LONG)
    }

    fn unrestricted(&self) -> bool {
        self.secondary(super::controls::bits::UNRESTRICTED_GUEST)
    }

    /// A word of controls sets what it may not, or clears what it may not.
    fn bad_controls(&self, group: Group, field: Field) -> bool {
        let value = self.get(field) as u32;
        value & !self.capabilities.allowed(group) != 0 || !value & self.capabilities.required(group) != 0
    }

    /// Bits beyond MAXPHYADDR.
    fn beyond_physical(&self, address: u64) -> bool {
        address >> self.model.physical_bits() != 0
    }

    /// An address of a structure is not aligned, or beyond MAXPHYADDR.
    fn bad_address(&self, field: Field, alignment: u64) -> bool {
        let address = self.get(field);
        address & (alignment - 1) != 0 || self.beyond_physical(address)
    }

    fn non_canonical(&self, field: Field) -> bool {
        let unused = 64 - u32::from(self.model.linear_bits());
        let value = self.get(field);
        ((value as i64) << unused >> unused) as u64 != value
    }

    /// The guest's segment register `n` (with LDTR 6 and TR 7).
    fn segment(&self, n: usize) -> crate::segment::Segment {
        self.vmcs.segment(n)
    }

    fn v8086(&self) -> bool {
        self.get(Field::GuestRflags) & crate::flags::bits::VM != 0
    }
}

/// Whether each byte of IA32_PAT is a memory type (SDM 3A 13.12.2).
fn bad_pat(pat: u64) -> bool {
    pat.to_le_bytes().iter().any(|kind| !matches!(kind, 0 | 1 | 4..=7))
}

#[cfg(test)]
mod tests;
