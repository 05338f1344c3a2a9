//! Guest control registers, debug registers, MSRs, descriptor-table registers, RIP and RFLAGS (SDM 3C 27.3.1.1, 27.3.1.3,
//! 27.3.1.4).

use super::host_state::{bad_efer, perf_global_ctrl};
use super::{GUEST, VmEntryCheck, bad_pat, checks};
use crate::control::{cr0, cr4, efer};
use crate::flags::bits;
use crate::msr::debugctl;
use crate::vmx::capability::CR0_FIXED0;
use crate::vmx::controls::bits::*;
use crate::vmx::vmcs::Field;

pub(super) static TABLES: &[&[VmEntryCheck]] = &[REGISTERS, TABLE_REGISTERS, RIP_RFLAGS];

static REGISTERS: &[VmEntryCheck] = checks! { "27.3.1.1", GUEST;
    "guest-cr0", "guest CR0 sets the bits that VMX operation fixes (an unrestricted guest is free in PE and PG)",
        |v| {
            let free = if v.unrestricted() { cr0::PE | cr0::PG } else { 0 };
            let value = v.get(Field::GuestCr0);
            !value & CR0_FIXED0 & !free != 0 || value >> 32 != 0
        };
    "guest-cr0-pg-pe", "guest CR0.PG comes with CR0.PE",
        |v| v.get(Field::GuestCr0) & (cr0::PG | cr0::PE) == cr0::PG;
    "guest-cr4", "guest CR4 sets and clears the bits that VMX operation fixes",
        |v| {
            let value = v.get(Field::GuestCr4);
            value & cr4::VMXE == 0 || value & !v.model.cr4_supported() != 0
        };
    "guest-debugctl", "reserved bits of guest IA32_DEBUGCTL are 0",
        |v| v.entry(DEBUG_CONTROLS) && v.get(Field::GuestDebugctl) & !debugctl::WRITABLE != 0;
    "long-guest-paging", "an IA-32e-mode guest has CR0.PG",
        |v| v.guest_long() && v.get(Field::GuestCr0) & cr0::PG == 0;
    "long-guest-pae", "an IA-32e-mode guest has CR4.PAE",
        |v| v.guest_long() && v.get(Field::GuestCr4) & cr4::PAE == 0;
    "legacy-guest-pcide", "a guest outside of IA-32e mode has no CR4.PCIDE",
        |v| !v.guest_long() && v.get(Field::GuestCr4) & cr4::PCIDE != 0;
    "guest-cr3", "guest CR3 is within the physical-address width",
        |v| v.beyond_physical(v.get(Field::GuestCr3));
    "guest-dr7", "bits 63:32 of guest DR7 are 0",
        |v| v.entry(DEBUG_CONTROLS) && v.get(Field::GuestDr7) >> 32 != 0;
    "guest-sysenter-esp", "guest IA32_SYSENTER_ESP is canonical", |v| v.non_canonical(Field::GuestSysenterEsp);
    "guest-sysenter-eip", "guest IA32_SYSENTER_EIP is canonical", |v| v.non_canonical(Field::GuestSysenterEip);
    "guest-perf-global-ctrl", "reserved bits of guest IA32_PERF_GLOBAL_CTRL are 0",
        |v| v.entry(GUEST_PERF_GLOBAL_CTRL) && v.get(Field::GuestPerfGlobalCtrl) & !perf_global_ctrl(v.model) != 0;
    "guest-pat", "each byte of guest IA32_PAT is a memory type",
        |v| v.entry(GUEST_PAT) && bad_pat(v.get(Field::GuestPat));
    "guest-efer-reserved", "reserved bits of guest IA32_EFER are 0",
        |v| v.entry(GUEST_EFER) && bad_efer(v, v.get(Field::GuestEfer));
    "guest-efer-lma", "LMA of guest IA32_EFER is as the IA-32e-mode-guest control",
        |v| v.entry(GUEST_EFER) && (v.get(Field::GuestEfer) & efer::LMA != 0) != v.guest_long();
    "guest-efer-lme", "LMA and LME of guest IA32_EFER are equal while guest CR0.PG is 1",
        |v| v.entry(GUEST_EFER) && v.get(Field::GuestCr0) & cr0::PG != 0 && {
            let value = v.get(Field::GuestEfer);
            (value & efer::LMA != 0) != (value & efer::LME != 0)
        };
    "guest-pkrs", "bits 63:32 of guest IA32_PKRS are 0",
        |v| v.entry(GUEST_PKRS) && v.get(Field::GuestPkrs) >> 32 != 0;
};

static TABLE_REGISTERS: &[VmEntryCheck] = checks! { "27.3.1.3", GUEST;
    "guest-gdtr-base", "guest GDTR.base is canonical", |v| v.non_canonical(Field::GuestGdtrBase);
    "guest-idtr-base", "guest IDTR.base is canonical", |v| v.non_canonical(Field::GuestIdtrBase);
    "guest-gdtr-limit", "bits 31:16 of guest GDTR.limit are 0", |v| v.get(Field::GuestGdtrLimit) >> 16 != 0;
    "guest-idtr-limit", "bits 31:16 of guest IDTR.limit are 0", |v| v.get(Field::GuestIdtrLimit) >> 16 != 0;
};

static RIP_RFLAGS: &[VmEntryCheck] = checks! { "27.3.1.4", GUEST;
    "guest-rip-32", "bits 63:32 of guest RIP are 0 outside of 64-bit mode",
        |v| !(v.guest_long() && v.segment(1).long()) && v.get(Field::GuestRip) >> 32 != 0;
    "guest-rip-canonical", "guest RIP is canonical in 64-bit mode",
        |v| v.guest_long() && v.segment(1).long() && v.non_canonical(Field::GuestRip);
    "guest-rflags-reserved", "reserved bits of guest RFLAGS are 0, and bit 1 is 1",
        |v| v.get(Field::GuestRflags) & !(bits::SYSTEM | bits::STATUS) != bits::FIXED;
    "guest-rflags-vm", "guest RFLAGS.VM is 0 in IA-32e mode and without protection",
        |v| v.v8086() && (v.guest_long() || v.get(Field::GuestCr0) & cr0::PE == 0);
    "guest-rflags-if", "guest RFLAGS.IF is 1 if an external interrupt is injected",
        |v| v.get(Field::EntryInterruptionInfo) & 0x8000_0700 == 0x8000_0000
            && v.get(Field::GuestRflags) & bits::IF == 0;
};
