//! The virtual-machine control structure: its fields with their encodings (SDM 3D appendix B), and the VMCS region.
//!
//! A VMCS lives in the page that software gives it, in a layout of our own: revision identifier, abort indicator, launch
//! state, then the fields in the table's order. While it is current, the processor keeps the fields in [`Vmcs`]; VMCLEAR,
//! VMPTRLD of another one and VMXOFF write them back (SDM 3C 25.11.1 tells software to count on that).

use super::controls::{Group, bits::*};
use crate::Cpu;
use ringworld_core::GuestPhys;
use serde::{Deserialize, Serialize};

/// The VMCS revision identifier that IA32_VMX_BASIC reports.
pub const REVISION: u32 = 0x5257_4d01;
/// Bit 31 of a region's first word: a shadow VMCS.
pub const SHADOW: u32 = 1 << 31;
/// Where a region's launch state lies: a word that is 1 while the VMCS is launched.
const LAUNCHED_AT: u64 = 8;
/// Where its VMX-abort indicator lies (SDM 3C 25.2).
pub const ABORT_AT: u64 = 4;
/// Where its fields begin, 8 bytes each.
const FIELDS_AT: u64 = 16;

/// What a field's existence depends on: a control that the processor must allow.
type Need = Option<(Group, u32)>;

/// What is known of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Which field.
    pub field: Field,
    /// Its encoding for full access.
    pub encoding: u16,
    /// Its name.
    pub name: &'static str,
    /// The control that brings it.
    need: Need,
}

macro_rules! need {
    (always) => {
        None
    };
    ($group:ident $bit:ident) => {
        Some((Group::$group, $bit))
    };
}

macro_rules! fields {
    ($($name:ident = $encoding:literal, $($need:ident)+;)*) => {
        /// A field of the VMCS; the number is its place in a region.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Field { $($name),* }

        /// All fields, in the order of their encodings.
        pub static FIELDS: &[FieldInfo] = &[$(FieldInfo {
            field: Field::$name, encoding: $encoding, name: stringify!($name), need: need!($($need)+),
        }),*];
    };
}

fields! {
    VirtualProcessorId = 0x0000, Secondary VPID;
    PostedInterruptNotificationVector = 0x0002, Pin POSTED_INTERRUPTS;
    EptpIndex = 0x0004, Secondary EPT_VIOLATION_VE;
    GuestEsSelector = 0x0800, always;
    GuestCsSelector = 0x0802, always;
    GuestSsSelector = 0x0804, always;
    GuestDsSelector = 0x0806, always;
    GuestFsSelector = 0x0808, always;
    GuestGsSelector = 0x080a, always;
    GuestLdtrSelector = 0x080c, always;
    GuestTrSelector = 0x080e, always;
    GuestInterruptStatus = 0x0810, Secondary VIRTUAL_INTERRUPT_DELIVERY;
    PmlIndex = 0x0812, Secondary PML;
    HostEsSelector = 0x0c00, always;
    HostCsSelector = 0x0c02, always;
    HostSsSelector = 0x0c04, always;
    HostDsSelector = 0x0c06, always;
    HostFsSelector = 0x0c08, always;
    HostGsSelector = 0x0c0a, always;
    HostTrSelector = 0x0c0c, always;
    IoBitmapA = 0x2000, always;
    IoBitmapB = 0x2002, always;
    MsrBitmap = 0x2004, Primary MSR_BITMAPS;
    ExitMsrStoreAddress = 0x2006, always;
    ExitMsrLoadAddress = 0x2008, always;
    EntryMsrLoadAddress = 0x200a, always;
    ExecutiveVmcsPointer = 0x200c, always;
    PmlAddress = 0x200e, Secondary PML;
    TscOffset = 0x2010, always;
    VirtualApicAddress = 0x2012, Primary TPR_SHADOW;
    ApicAccessAddress = 0x2014, Secondary VIRTUALIZE_APIC_ACCESSES;
    PostedInterruptDescriptor = 0x2016, Pin POSTED_INTERRUPTS;
    VmFunctionControls = 0x2018, Secondary VM_FUNCTIONS;
    EptPointer = 0x201a, Secondary EPT;
    EoiExitBitmap0 = 0x201c, Secondary VIRTUAL_INTERRUPT_DELIVERY;
    EoiExitBitmap1 = 0x201e, Secondary VIRTUAL_INTERRUPT_DELIVERY;
    EoiExitBitmap2 = 0x2020, Secondary VIRTUAL_INTERRUPT_DELIVERY;
    EoiExitBitmap3 = 0x2022, Secondary VIRTUAL_INTERRUPT_DELIVERY;
    EptpListAddress = 0x2024, Secondary VM_FUNCTIONS;
    VmreadBitmap = 0x2026, Secondary VMCS_SHADOWING;
    VmwriteBitmap = 0x2028, Secondary VMCS_SHADOWING;
    VirtualizationExceptionAddress = 0x202a, Secondary EPT_VIOLATION_VE;
    XssExitingBitmap = 0x202c, Secondary XSAVES;
    TscMultiplier = 0x2032, Secondary TSC_SCALING;
    GuestPhysicalAddress = 0x2400, Secondary EPT;
    VmcsLinkPointer = 0x2800, always;
    GuestDebugctl = 0x2802, always;
    GuestPat = 0x2804, Entry GUEST_PAT;
    GuestEfer = 0x2806, Entry GUEST_EFER;
    GuestPerfGlobalCtrl = 0x2808, Entry GUEST_PERF_GLOBAL_CTRL;
    GuestPdpte0 = 0x280a, Secondary EPT;
    GuestPdpte1 = 0x280c, Secondary EPT;
    GuestPdpte2 = 0x280e, Secondary EPT;
    GuestPdpte3 = 0x2810, Secondary EPT;
    GuestPkrs = 0x2818, Entry GUEST_PKRS;
    HostPat = 0x2c00, Exit HOST_PAT;
    HostEfer = 0x2c02, Exit HOST_EFER;
    HostPerfGlobalCtrl = 0x2c04, Exit HOST_PERF_GLOBAL_CTRL;
    HostPkrs = 0x2c06, Exit HOST_PKRS;
    PinBasedControls = 0x4000, always;
    PrimaryControls = 0x4002, always;
    ExceptionBitmap = 0x4004, always;
    PageFaultErrorMask = 0x4006, always;
    PageFaultErrorMatch = 0x4008, always;
    Cr3TargetCount = 0x400a, always;
    ExitControls = 0x400c, always;
    ExitMsrStoreCount = 0x400e, always;
    ExitMsrLoadCount = 0x4010, always;
    EntryControls = 0x4012, always;
    EntryMsrLoadCount = 0x4014, always;
    EntryInterruptionInfo = 0x4016, always;
    EntryExceptionErrorCode = 0x4018, always;
    EntryInstructionLength = 0x401a, always;
    TprThreshold = 0x401c, Primary TPR_SHADOW;
    SecondaryControls = 0x401e, Primary SECONDARY;
    PleGap = 0x4020, Secondary PAUSE_LOOP_EXITING;
    PleWindow = 0x4022, Secondary PAUSE_LOOP_EXITING;
    VmInstructionError = 0x4400, always;
    ExitReason = 0x4402, always;
    ExitInterruptionInfo = 0x4404, always;
    ExitInterruptionErrorCode = 0x4406, always;
    IdtVectoringInfo = 0x4408, always;
    IdtVectoringErrorCode = 0x440a, always;
    ExitInstructionLength = 0x440c, always;
    ExitInstructionInfo = 0x440e, always;
    GuestEsLimit = 0x4800, always;
    GuestCsLimit = 0x4802, always;
    GuestSsLimit = 0x4804, always;
    GuestDsLimit = 0x4806, always;
    GuestFsLimit = 0x4808, always;
    GuestGsLimit = 0x480a, always;
    GuestLdtrLimit = 0x480c, always;
    GuestTrLimit = 0x480e, always;
    GuestGdtrLimit = 0x4810, always;
    GuestIdtrLimit = 0x4812, always;
    GuestEsAccessRights = 0x4814, always;
    GuestCsAccessRights = 0x4816, always;
    GuestSsAccessRights = 0x4818, always;
    GuestDsAccessRights = 0x481a, always;
    GuestFsAccessRights = 0x481c, always;
    GuestGsAccessRights = 0x481e, always;
    GuestLdtrAccessRights = 0x4820, always;
    GuestTrAccessRights = 0x4822, always;
    GuestInterruptibility = 0x4824, always;
    GuestActivityState = 0x4826, always;
    GuestSmbase = 0x4828, always;
    GuestSysenterCs = 0x482a, always;
    PreemptionTimerValue = 0x482e, Pin PREEMPTION_TIMER;
    HostSysenterCs = 0x4c00, always;
    Cr0Mask = 0x6000, always;
    Cr4Mask = 0x6002, always;
    Cr0Shadow = 0x6004, always;
    Cr4Shadow = 0x6006, always;
    Cr3Target0 = 0x6008, always;
    Cr3Target1 = 0x600a, always;
    Cr3Target2 = 0x600c, always;
    Cr3Target3 = 0x600e, always;
    ExitQualification = 0x6400, always;
    IoRcx = 0x6402, always;
    IoRsi = 0x6404, always;
    IoRdi = 0x6406, always;
    IoRip = 0x6408, always;
    GuestLinearAddress = 0x640a, always;
    GuestCr0 = 0x6800, always;
    GuestCr3 = 0x6802, always;
    GuestCr4 = 0x6804, always;
    GuestEsBase = 0x6806, always;
    GuestCsBase = 0x6808, always;
    GuestSsBase = 0x680a, always;
    GuestDsBase = 0x680c, always;
    GuestFsBase = 0x680e, always;
    GuestGsBase = 0x6810, always;
    GuestLdtrBase = 0x6812, always;
    GuestTrBase = 0x6814, always;
    GuestGdtrBase = 0x6816, always;
    GuestIdtrBase = 0x6818, always;
    GuestDr7 = 0x681a, always;
    GuestRsp = 0x681c, always;
    GuestRip = 0x681e, always;
    GuestRflags = 0x6820, always;
    GuestPendingDebugExceptions = 0x6822, always;
    GuestSysenterEsp = 0x6824, always;
    GuestSysenterEip = 0x6826, always;
    HostCr0 = 0x6c00, always;
    HostCr3 = 0x6c02, always;
    HostCr4 = 0x6c04, always;
    HostFsBase = 0x6c06, always;
    HostGsBase = 0x6c08, always;
    HostTrBase = 0x6c0a, always;
    HostGdtrBase = 0x6c0c, always;
    HostIdtrBase = 0x6c0e, always;
    HostSysenterEsp = 0x6c10, always;
    HostSysenterEip = 0x6c12, always;
    HostRsp = 0x6c14, always;
    HostRip = 0x6c16, always;
}

/// Number of fields.
pub const COUNT: usize = FIELDS.len();

/// The width of a field, bits 14:13 of its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 16 bits.
    Word,
    /// 64 bits, whatever the mode.
    Quad,
    /// 32 bits.
    Double,
    /// 64 bits (32 in a processor without Intel 64).
    Natural,
}

impl FieldInfo {
    /// The field's width.
    pub fn width(&self) -> Width {
        match self.encoding >> 13 & 3 {
            0 => Width::Word,
            1 => Width::Quad,
            2 => Width::Double,
            _ => Width::Natural,
        }
    }

    /// The bits that the field holds.
    pub fn mask(&self) -> u64 {
        match self.width() {
            Width::Word => 0xffff,
            Width::Double => 0xffff_ffff,
            Width::Quad | Width::Natural => u64::MAX,
        }
    }

    /// VM-exit information: read-only, unless IA32_VMX_MISC bit 29 is set.
    pub fn is_read_only(&self) -> bool {
        self.encoding >> 10 & 3 == 1
    }

    /// Whether a processor with these capabilities has the field.
    pub fn exists(&self, capabilities: &super::capability::Capabilities) -> bool {
        self.need.is_none_or(|(group, bit)| capabilities.allowed(group) & bit != 0)
    }
}

/// Where a field of an encoding is in [`FIELDS`], by width, type and the low six bits of the index (SDM 3D 25.11.2); no field's
/// index has more. 255 is none.
static PLACES: [u8; 1024] = {
    let mut places = [u8::MAX; 1024];
    let mut n = 0;
    while n < COUNT {
        places[place(FIELDS[n].encoding)] = n as u8;
        n += 1;
    }
    places
};

const fn place(encoding: u16) -> usize {
    let encoding = encoding as usize;
    (encoding >> 13 & 3) << 8 | (encoding >> 10 & 3) << 6 | encoding >> 1 & 63
}

/// A field, and whether an access is to the high half of a 64-bit one, by its encoding.
pub fn find(encoding: u32) -> Option<(&'static FieldInfo, bool)> {
    let full = u16::try_from(encoding & !1).ok()?;
    let info = FIELDS.get(usize::from(PLACES[place(full)])).filter(|info| info.encoding == full)?;
    let high = encoding & 1 != 0;
    (!high || info.width() == Width::Quad).then_some((info, high))
}

/// Which fields have changed since the last VM entry, and what they were: so that an entry repeats only the checks that can
/// have another outcome. No part of the state: that it is empty changes nothing but the time that an entry takes.
#[derive(Clone, Debug, Default)]
struct Changes {
    /// Whether there was an entry since the VMCS was loaded.
    known: bool,
    changed: FieldSet,
    /// What a changed field was.
    old: Vec<u64>,
}

impl PartialEq for Changes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Changes {}

impl core::hash::Hash for Changes {
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

/// A set of fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FieldSet([u64; COUNT.div_ceil(64)]);

impl FieldSet {
    /// The fields that `chosen` says by their encodings.
    pub(super) fn of(chosen: impl Fn(u16) -> bool) -> Self {
        let mut set = Self::default();
        FIELDS.iter().filter(|info| chosen(info.encoding)).for_each(|info| set.insert(info.field));
        set
    }

    fn insert(&mut self, field: Field) {
        self.0[field as usize / 64] |= 1 << (field as usize % 64);
    }

    fn has(&self, field: Field) -> bool {
        self.0[field as usize / 64] >> (field as usize % 64) & 1 != 0
    }

    fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }
}

/// The fields of the current VMCS.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Vmcs {
    fields: Vec<u64>,
    /// VMLAUNCH has succeeded since the last VMCLEAR.
    pub launched: bool,
    /// The region is a shadow VMCS.
    pub shadow: bool,
    #[serde(skip)]
    changes: Changes,
}

impl Default for Vmcs {
    fn default() -> Self {
        Self { fields: vec![0; COUNT], launched: false, shadow: false, changes: Changes::default() }
    }
}

impl Vmcs {
    /// A field, zero-extended.
    #[inline]
    pub fn get(&self, field: Field) -> u64 {
        self.fields.get(field as usize).copied().unwrap_or(0)
    }

    /// A field of at most 32 bits.
    #[inline]
    pub fn get32(&self, field: Field) -> u32 {
        self.get(field) as u32
    }

    /// Sets a field; bits beyond its width are dropped.
    #[inline]
    pub fn set(&mut self, field: Field, value: u64) {
        let value = value & FIELDS[field as usize].mask();
        let Some(slot) = self.fields.get_mut(field as usize).filter(|slot| **slot != value) else { return };
        let old = core::mem::replace(slot, value);
        if self.changes.known && !self.changes.changed.has(field) {
            self.changes.changed.insert(field);
            self.changes.old[field as usize] = old;
        }
    }

    /// A VM entry has found nothing wrong: changes count from now on.
    pub(super) fn note_entry(&mut self) {
        self.changes.known = true;
        self.changes.changed = FieldSet::default();
        self.changes.old.resize(COUNT, 0);
    }

    /// Whether no field of a set has changed since the last VM entry.
    pub(super) fn unchanged(&self, fields: &FieldSet) -> bool {
        self.changes.known && !self.changes.changed.meets(fields)
    }

    /// What a field was at the last VM entry, if there was one.
    pub(super) fn at_entry(&self, field: Field) -> Option<u64> {
        let changes = &self.changes;
        let old = || changes.old.get(field as usize).copied();
        if !changes.known {
            None
        } else if changes.changed.has(field) {
            old()
        } else {
            Some(self.get(field))
        }
    }

    /// The field `n` places after `first` (segment registers, PDPTEs, CR3 targets: their fields are in a row).
    pub fn nth(&self, first: Field, n: usize) -> u64 {
        self.fields.get(first as usize + n).copied().unwrap_or(0)
    }

    /// Sets the field `n` places after `first`.
    pub fn set_nth(&mut self, first: Field, n: usize, value: u64) {
        if let Some(info) = FIELDS.get(first as usize + n) {
            self.set(info.field, value);
        }
    }
}

impl Cpu {
    /// A word of a VMCS region; regions without memory read as ones, as no memory does.
    fn region_word(&self, region: u64, at: u64) -> u32 {
        self.memory.read_u32(GuestPhys(region.wrapping_add(at))).unwrap_or(u32::MAX)
    }

    /// A region's first word: revision identifier and shadow indicator.
    pub(super) fn vmcs_revision(&self, region: u64) -> u32 {
        self.region_word(region, 0)
    }

    pub(super) fn vmcs_set_launched(&mut self, region: u64, launched: bool) {
        self.write_physical(region.wrapping_add(LAUNCHED_AT), &u32::from(launched).to_le_bytes());
    }

    pub(super) fn vmcs_is_launched(&self, region: u64) -> bool {
        self.region_word(region, LAUNCHED_AT) == 1
    }

    /// Reads a region.
    pub(super) fn vmcs_load(&self, region: u64) -> Vmcs {
        let mut bytes = [0_u8; COUNT * 8];
        // Where no memory is, the fields are zero.
        let _ = self.memory.read(GuestPhys(region.wrapping_add(FIELDS_AT)), &mut bytes);
        let fields = bytes.as_chunks::<8>().0.iter().zip(FIELDS);
        Vmcs {
            fields: fields.map(|(bytes, info)| u64::from_le_bytes(*bytes) & info.mask()).collect(),
            launched: self.vmcs_is_launched(region),
            shadow: self.vmcs_revision(region) & SHADOW != 0,
            changes: Changes::default(),
        }
    }

    /// Writes a region's fields and launch state back.
    pub(super) fn vmcs_store(&mut self, region: u64, vmcs: &Vmcs) {
        let bytes: Vec<u8> = vmcs.fields.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.write_physical(region.wrapping_add(FIELDS_AT), &bytes);
        self.vmcs_set_launched(region, vmcs.launched);
    }

    /// One field of a VMCS that is not current (the shadow VMCS).
    pub(super) fn vmcs_peek(&self, region: u64, info: &FieldInfo) -> u64 {
        let at = region.wrapping_add(FIELDS_AT + 8 * info.field as u64);
        self.memory.read_u64(GuestPhys(at)).unwrap_or(u64::MAX) & info.mask()
    }

    /// Writes one field of a VMCS that is not current.
    pub(super) fn vmcs_poke(&mut self, region: u64, info: &FieldInfo, value: u64) {
        let at = region.wrapping_add(FIELDS_AT + 8 * info.field as u64);
        self.write_physical(at, &(value & info.mask()).to_le_bytes());
    }

    /// Writes physical memory for the processor itself; code that it may hold is noticed. Writes to no memory are lost.
    pub(crate) fn write_physical(&mut self, address: u64, data: &[u8]) {
        let _ = self.memory.write(GuestPhys(address), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_order_and_fit_the_region() {
        for pair in FIELDS.windows(2) {
            assert!(pair[0].encoding < pair[1].encoding, "{}", pair[1].name);
        }
        for (n, info) in FIELDS.iter().enumerate() {
            assert_eq!(info.field as usize, n);
            assert_eq!(info.encoding & 0x9001, 0, "{}", info.name);
        }
        assert!(FIELDS_AT as usize + 8 * COUNT <= 4096);
    }

    #[test]
    fn encodings_are_found() {
        assert_eq!(find(0x681e).map(|(f, high)| (f.field, high)), Some((Field::GuestRip, false)));
        assert_eq!(find(0x2011).map(|(f, high)| (f.field, high)), Some((Field::TscOffset, true)));
        assert!(find(0x681f).is_none() && find(0x1_681e).is_none() && find(0x7fff).is_none());
        // Every encoding of 16 bits is what the table says.
        for encoding in 0..=0xffff_u32 {
            let listed = FIELDS.iter().find(|info| u32::from(info.encoding) == encoding & !1);
            let found = find(encoding).map(|(info, _)| info.field);
            let high = listed.is_none_or(|info| encoding & 1 == 0 || info.width() == Width::Quad);
            assert_eq!(found, listed.filter(|_| high).map(|info| info.field), "{encoding:#x}");
        }
    }

    #[test]
    fn a_region_keeps_everything() {
        let mut cpu = crate::testing::cpu("max");
        let mut vmcs = Vmcs::default();
        for (n, info) in FIELDS.iter().enumerate() {
            vmcs.set(info.field, 0x0123_4567_89ab_cdef_u64.rotate_left(n as u32));
        }
        vmcs.launched = true;
        cpu.vmcs_store(0x3000, &vmcs);
        assert_eq!(cpu.vmcs_load(0x3000), vmcs);
    }
}
