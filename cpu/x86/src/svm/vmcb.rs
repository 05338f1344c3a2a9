//! The virtual machine control block (APM 2 appendix B): its two areas as plain data, and their fields by name.

use crate::segment::Segment;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Offset of the state-save area in the VMCB.
pub const SAVE_AREA: u64 = 0x400;

/// The control area (APM 2 table B-1): what VMRUN reads, and what #VMEXIT reports.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Debug,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Serialize,
    Deserialize,
)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ControlArea {
    /// One bit an exit code from 0 on: CR reads and writes, DR reads and writes, exceptions, and the others.
    pub intercepts: [u32; 6],
    reserved_018: [u32; 9],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    /// See [`tlb_control`]; the upper three bytes are reserved.
    pub tlb_control: u32,
    /// See [`v_intr`].
    pub v_intr: u64,
    /// See [`interrupt_state`].
    pub interrupt_state: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    /// See [`nested`].
    pub nested: u64,
    pub avic_apic_bar: u64,
    pub ghcb: u64,
    pub event_injection: u64,
    pub nested_cr3: u64,
    /// See [`virtualization`].
    pub virtualization: u64,
    pub clean: u64,
    pub next_rip: u64,
    /// Number of bytes fetched, and up to 15 of them.
    pub fetched: [u8; 16],
    pub avic_backing_page: u64,
    reserved_0e8: u64,
    pub avic_logical_table: u64,
    pub avic_physical_table: u64,
}

/// Size of what is defined of the control area.
pub const CONTROL_SIZE: usize = size_of::<ControlArea>();

/// Values of the TLB_CONTROL field (APM 2 15.16.2).
pub mod tlb_control {
    /// Do nothing.
    pub const NOTHING: u8 = 0;
    /// Flush the whole TLB.
    pub const FLUSH_ALL: u8 = 1;
    /// Flush this guest's entries (with FlushByAsid).
    pub const FLUSH_GUEST: u8 = 3;
    /// Flush this guest's entries that are not global (with FlushByAsid).
    pub const FLUSH_GUEST_NON_GLOBAL: u8 = 7;
}

/// Bits of the quadword at 0x60.
#[allow(missing_docs)]
pub mod v_intr {
    pub const TPR: u64 = 0xff;
    pub const IRQ: u64 = 1 << 8;
    pub const GIF: u64 = 1 << 9;
    pub const NMI_PENDING: u64 = 1 << 11;
    pub const NMI_MASK: u64 = 1 << 12;
    pub const PRIORITY_SHIFT: u32 = 16;
    pub const IGNORE_TPR: u64 = 1 << 20;
    pub const INTR_MASKING: u64 = 1 << 24;
    pub const GIF_ENABLE: u64 = 1 << 25;
    pub const NMI_ENABLE: u64 = 1 << 26;
    pub const X2AVIC_ENABLE: u64 = 1 << 30;
    pub const AVIC_ENABLE: u64 = 1 << 31;
    pub const VECTOR_SHIFT: u32 = 32;
}

/// Bits of the quadword at 0x68.
#[allow(missing_docs)]
pub mod interrupt_state {
    pub const SHADOW: u64 = 1 << 0;
}

/// Bits of the quadword at 0x90.
#[allow(missing_docs)]
pub mod nested {
    pub const NP_ENABLE: u64 = 1 << 0;
    pub const SEV: u64 = 1 << 1;
    pub const SEV_ES: u64 = 1 << 2;
}

/// Bits of the quadword at 0xb8.
#[allow(missing_docs)]
pub mod virtualization {
    pub const LBR: u64 = 1 << 0;
    pub const VMLOAD_VMSAVE: u64 = 1 << 1;
}

/// A segment register (APM 2 table B-2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmcbSegment {
    /// Visible part.
    pub selector: u16,
    /// Bits 0–7: type, S, DPL, P; 8–11: AVL, L, D/B, G.
    pub attributes: u16,
    /// In bytes; already scaled by G.
    pub limit: u32,
    /// Linear address.
    pub base: u64,
}

impl VmcbSegment {
    /// The register's contents. A segment that is not present holds no segment.
    pub fn segment(&self) -> Segment {
        Segment {
            selector: self.selector,
            rights: self.attributes & 0xff | (self.attributes & 0xf00) << 4,
            limit: self.limit,
            base: self.base,
            unusable: self.attributes & 0x80 == 0,
        }
    }

    /// From a register.
    pub fn of(segment: &Segment) -> Self {
        let attributes = segment.rights & 0xff | segment.rights >> 4 & 0xf00;
        Self {
            selector: segment.selector,
            attributes: if segment.unusable { attributes & !0x80 } else { attributes },
            limit: segment.limit,
            base: segment.base,
        }
    }
}

/// The state-save area (APM 2 table B-2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct SaveArea {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    reserved_0a0: [u8; 43],
    pub cpl: u8,
    reserved_0cc: [u8; 4],
    pub efer: u64,
    reserved_0d8: [u8; 112],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_180: [u8; 88],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_248: [u8; 32],
    pub g_pat: u64,
    pub dbgctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_exception_from: u64,
    pub last_exception_to: u64,
}

/// Size of what is defined of the state-save area.
pub const SAVE_SIZE: usize = size_of::<SaveArea>();

/// A field: where it is, and its name.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Offset in the VMCB.
    pub offset: u16,
    /// Bytes, up to 16.
    pub size: u8,
    /// As in the manual.
    pub name: &'static str,
}

macro_rules! fields {
    ($($area:ident + $base:literal: $($field:ident $name:literal),+;)+) => {
        &[$($({
            const SIZE: usize = {
                const fn size<T>(_: fn(&$area) -> &T) -> usize { size_of::<T>() }
                size(|area| &area.$field)
            };
            Field {
                offset: $base + core::mem::offset_of!($area, $field) as u16,
                size: SIZE as u8,
                name: $name,
            }
        }),+),+]
    };
}

/// The fields, in the order of their offsets.
pub static FIELDS: &[Field] = fields! {
    ControlArea + 0:
        intercepts "Intercept vectors", pause_filter_threshold "Pause Filter Threshold",
        pause_filter_count "Pause Filter Count", iopm_base "IOPM_BASE_PA", msrpm_base "MSRPM_BASE_PA",
        tsc_offset "TSC_OFFSET", asid "Guest ASID", tlb_control "TLB_CONTROL",
        v_intr "V_TPR, V_IRQ, V_GIF, ... V_INTR_VECTOR", interrupt_state "INTERRUPT_SHADOW",
        exit_code "EXITCODE", exit_info1 "EXITINFO1", exit_info2 "EXITINFO2", exit_int_info "EXITINTINFO",
        nested "NP_ENABLE, ...", avic_apic_bar "AVIC APIC_BAR", ghcb "Guest physical address of GHCB",
        event_injection "EVENTINJ", nested_cr3 "N_CR3", virtualization "LBR_VIRTUALIZATION_ENABLE, ...",
        clean "VMCB Clean Bits", next_rip "nRIP", fetched "Number of bytes fetched, guest instruction bytes",
        avic_backing_page "AVIC APIC_BACKING_PAGE Pointer", avic_logical_table "AVIC LOGICAL_TABLE Pointer",
        avic_physical_table "AVIC PHYSICAL_TABLE Pointer, AVIC_PHYSICAL_MAX_INDEX";
    SaveArea + 0x400:
        es "ES", cs "CS", ss "SS", ds "DS", fs "FS", gs "GS", gdtr "GDTR", ldtr "LDTR", idtr "IDTR", tr "TR",
        cpl "CPL", efer "EFER", cr4 "CR4", cr3 "CR3", cr0 "CR0", dr7 "DR7", dr6 "DR6", rflags "RFLAGS", rip "RIP",
        rsp "RSP", s_cet "S_CET", ssp "SSP", isst_addr "ISST_ADDR", rax "RAX", star "STAR", lstar "LSTAR",
        cstar "CSTAR", sfmask "SFMASK", kernel_gs_base "KernelGsBase", sysenter_cs "SYSENTER_CS",
        sysenter_esp "SYSENTER_ESP", sysenter_eip "SYSENTER_EIP", cr2 "CR2", g_pat "G_PAT", dbgctl "DBGCTL",
        br_from "BR_FROM", br_to "BR_TO", last_exception_from "LASTEXCPFROM", last_exception_to "LASTEXCPTO";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_of_the_manual() {
        // APM 2 tables B-1 and B-2.
        for (name, offset) in [
            ("Pause Filter Count", 0x3e),
            ("IOPM_BASE_PA", 0x40),
            ("Guest ASID", 0x58),
            ("INTERRUPT_SHADOW", 0x68),
            ("EXITINTINFO", 0x88),
            ("NP_ENABLE, ...", 0x90),
            ("EVENTINJ", 0xa8),
            ("N_CR3", 0xb0),
            ("nRIP", 0xc8),
            ("AVIC APIC_BACKING_PAGE Pointer", 0xe0),
            ("AVIC PHYSICAL_TABLE Pointer, AVIC_PHYSICAL_MAX_INDEX", 0xf8),
            ("ES", 0x400),
            ("TR", 0x490),
            ("CPL", 0x4cb),
            ("EFER", 0x4d0),
            ("CR4", 0x548),
            ("RIP", 0x578),
            ("RSP", 0x5d8),
            ("RAX", 0x5f8),
            ("KernelGsBase", 0x620),
            ("CR2", 0x640),
            ("G_PAT", 0x668),
            ("LASTEXCPTO", 0x690),
        ] {
            let field = FIELDS.iter().find(|field| field.name == name).unwrap();
            assert_eq!(field.offset, offset, "{name}");
        }
        assert!(FIELDS.windows(2).all(|pair| pair[0].offset + u16::from(pair[0].size) <= pair[1].offset));
        assert_eq!((CONTROL_SIZE, SAVE_SIZE), (0x100, 0x298));
    }

    #[test]
    fn segments_keep_their_attributes() {
        let segment = Segment { selector: 8, rights: 0xa09b, limit: u32::MAX, base: 4, unusable: false };
        let area = VmcbSegment::of(&segment);
        assert_eq!((area.attributes, area.segment()), (0xa9b, segment));
    }
}
