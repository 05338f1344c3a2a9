//! Guest non-register state and page-directory-pointer-table entries (SDM 3C 27.3.1.5, 27.3.1.6).

use super::{Failure, GUEST, View, VmEntryCheck, checks};
use crate::control::{cr0, cr4};
use crate::flags::bits;
use crate::insn::seg::SS;
use crate::msr::debugctl;
use crate::vmx::controls::bits::*;
use crate::vmx::vmcs::{Field, REVISION, SHADOW};
use ringworld_core::GuestPhys;
use ringworld_mmu::PhysicalTables;
use ringworld_mmu::x86::paging::{load_pdptes, pdpte_is_malformed};

pub(super) static TABLES: &[&[VmEntryCheck]] = &[STATE, LINK, PDPTES];

/// Interruptibility: blocking by STI, by MOV SS, by SMI, by NMI.
const STI: u64 = 1;
const MOV_SS: u64 = 2;
const SMI: u64 = 4;
const NMI: u64 = 8;

/// Activity states.
const HLT: u64 = 1;
const SHUTDOWN: u64 = 2;
const WAIT_FOR_SIPI: u64 = 3;

/// Pending debug exceptions: B3 to B0, enabled breakpoint, BS.
const PENDING: u64 = 0xf | 1 << 12 | BS;
const BS: u64 = 1 << 14;

fn blocks(v: &View<'_>, bits: u64) -> bool {
    v.get(Field::GuestInterruptibility) & bits != 0
}

/// Type and vector of an injected event.
fn injected(v: &View<'_>) -> Option<(u64, u64)> {
    let info = v.get(Field::EntryInterruptionInfo);
    (info >> 31 & 1 != 0).then_some((info >> 8 & 7, info & 0xff))
}

/// An event that does not enter the guest's activity state.
fn unsuited(v: &View<'_>) -> bool {
    injected(v).is_some_and(|event| match v.get(Field::GuestActivityState) {
        HLT => !matches!(event, (0 | 2 | 7, _) | (3, 1 | 18)),
        SHUTDOWN => !matches!(event, (2, _) | (3, 18)),
        WAIT_FOR_SIPI => true,
        _ => false,
    })
}

/// Whether single-stepping would make a debug exception pending.
fn steps(v: &View<'_>) -> bool {
    v.get(Field::GuestRflags) & bits::TF != 0 && v.get(Field::GuestDebugctl) & debugctl::BTF == 0
}

/// Debug exceptions can be pending only because they were held back.
fn held_back(v: &View<'_>) -> bool {
    blocks(v, STI | MOV_SS) || v.get(Field::GuestActivityState) == HLT
}

static STATE: &[VmEntryCheck] = checks! { "27.3.1.5", GUEST;
    "activity-state", "the activity state is supported", |v| v.get(Field::GuestActivityState) > WAIT_FOR_SIPI;
    "activity-hlt-privileged", "the guest does not halt with SS.DPL above 0",
        |v| v.get(Field::GuestActivityState) == HLT && v.segment(SS.into()).dpl() != 0;
    "activity-blocking", "the guest is active if STI or MOV SS block events",
        |v| blocks(v, STI | MOV_SS) && v.get(Field::GuestActivityState) != 0;
    "activity-injection", "an injected event suits the activity state", unsuited;
    "interruptibility-reserved", "reserved bits of the interruptibility state are 0",
        |v| v.get(Field::GuestInterruptibility) & !(STI | MOV_SS | SMI | NMI) != 0;
    "blocking-by-both", "STI and MOV SS do not both block", |v| blocks(v, STI) && blocks(v, MOV_SS);
    "blocking-by-sti-without-if", "STI blocks only with RFLAGS.IF",
        |v| blocks(v, STI) && v.get(Field::GuestRflags) & bits::IF == 0;
    "blocked-interrupt-injection", "no external interrupt is injected while STI or MOV SS blocks",
        |v| matches!(injected(v), Some((0, _))) && blocks(v, STI | MOV_SS);
    "blocked-nmi-injection", "no NMI is injected while MOV SS blocks",
        |v| matches!(injected(v), Some((2, _))) && blocks(v, MOV_SS);
    "blocking-by-smi", "SMIs are blocked if and only if the processor is in SMM", |v| blocks(v, SMI) != v.smm;
    "virtual-nmi-blocked-injection", "with virtual NMIs, no NMI is injected while they are blocked",
        |v| v.pin(VIRTUAL_NMIS) && matches!(injected(v), Some((2, _))) && blocks(v, NMI);
    "pending-debug-reserved", "reserved bits of the pending debug exceptions are 0",
        |v| v.get(Field::GuestPendingDebugExceptions) & !PENDING != 0;
    "pending-debug-no-bs", "a held-back single step is pending",
        |v| held_back(v) && steps(v) && v.get(Field::GuestPendingDebugExceptions) & BS == 0;
    "pending-debug-bs", "no single step is pending without stepping",
        |v| held_back(v) && !steps(v) && v.get(Field::GuestPendingDebugExceptions) & BS != 0;
};

/// The VMCS link pointer, if it points.
fn link(v: &View<'_>) -> Option<u64> {
    Some(v.get(Field::VmcsLinkPointer)).filter(|&pointer| pointer != u64::MAX)
}

static LINK: &[VmEntryCheck] = checks! { "27.3.1.5", Failure::GuestState(4);
    "link-pointer-address", "the VMCS link pointer is aligned and within the physical-address width",
        |v| link(v).is_some() && v.bad_address(Field::VmcsLinkPointer, 4096);
    "link-pointer-revision", "the linked VMCS has this processor's revision, and is a shadow VMCS if and only if VMCS \
        shadowing is on",
        |v| link(v).is_some_and(|pointer| {
            let wanted = REVISION | if v.secondary(VMCS_SHADOWING) { SHADOW } else { 0 };
            !v.bad_address(Field::VmcsLinkPointer, 4096) && v.memory.read_u32(GuestPhys(pointer)) != Ok(wanted)
        });
    "link-pointer-current", "the linked VMCS is not the current one",
        |v| link(v) == Some(v.current);
};

/// Guest uses PAE paging.
fn pae(v: &View<'_>) -> bool {
    !v.guest_long() && v.get(Field::GuestCr0) & cr0::PG != 0 && v.get(Field::GuestCr4) & cr4::PAE != 0
}

static PDPTES: &[VmEntryCheck] = checks! { "27.3.1.6", Failure::GuestState(2);
    "pdptes", "with PAE paging and EPT, reserved bits of the PDPTE fields are 0",
        |v| pae(v) && v.secondary(EPT)
            && (0..4).any(|n| {
                pdpte_is_malformed(v.vmcs.nth(Field::GuestPdpte0, n), v.model.physical_bits())
            });
    "pdptes-in-memory", "with PAE paging and no EPT, reserved bits of the PDPTEs at guest CR3 are 0",
        |v| pae(v) && !v.secondary(EPT)
            && load_pdptes(v.get(Field::GuestCr3), v.model.physical_bits(), &mut PhysicalTables(v.memory)).is_err();
};
