//! For each check, a VMCS that violates it and no other.

use super::*;
use crate::control::{cr0, cr4, efer};
use crate::flags::bits::{FIXED, IF, TF, VM};
use crate::vmx::controls::bits::*;
use crate::vmx::entry::sound_vmcs;
use crate::vmx::vmcs::{Field as F, REVISION};
use ringworld_core::GuestPhys;

/// The state that a case starts from.
#[derive(Clone, Copy, PartialEq)]
enum Base {
    /// A 64-bit guest of a 64-bit host.
    Long,
    /// A 32-bit guest, with 32-bit paging.
    Legacy,
    /// A virtual-8086 guest.
    V8086,
    /// A 32-bit guest of a 32-bit host.
    LegacyHost,
    /// An unrestricted guest, real mode.
    Unrestricted,
}
use Base::*;

type Case = (&'static str, Base, &'static [(F, u64)]);

const PIN: u64 = 0x16;
const PRIMARY: u64 = crate::vmx::controls::PRIMARY_FIXED as u64;
const EXIT: u64 = crate::vmx::controls::EXIT_FIXED as u64 | HOST_LONG as u64;
const EXIT32: u64 = crate::vmx::controls::EXIT_FIXED as u64;
const ENTRY: u64 = crate::vmx::controls::ENTRY_FIXED as u64 | GUEST_LONG as u64;
const ENTRY32: u64 = crate::vmx::controls::ENTRY_FIXED as u64;
const TWO: u64 = PRIMARY | SECONDARY as u64;
/// Primary controls with a TPR shadow, and the secondary ones.
const TPR: u64 = TWO | TPR_SHADOW as u64;
const CANONICAL: u64 = 1 << 60;
const HIGH: u64 = 1 << 46;
const VALID: u64 = 1 << 31;
const EPTP: u64 = 0x1e;
const UG: u64 = EPT as u64 | UNRESTRICTED_GUEST as u64;

const fn w(bits: u32) -> u64 {
    bits as u64
}

const SEGMENTS: [(&str, usize); 6] = [("es", 0), ("cs", 1), ("ss", 2), ("ds", 3), ("fs", 4), ("gs", 5)];

static CASES: &[Case] = &[
    ("pin-based-reserved", Long, &[(F::PinBasedControls, 0)]),
    ("primary-reserved", Long, &[(F::PrimaryControls, PRIMARY & !2)]),
    ("secondary-reserved", Long, &[(F::PrimaryControls, TWO), (F::SecondaryControls, 1 << 31)]),
    ("cr3-target-count", Long, &[(F::Cr3TargetCount, 5)]),
    ("io-bitmap-a", Long, &[(F::PrimaryControls, PRIMARY | w(IO_BITMAPS)), (F::IoBitmapA, 1)]),
    ("io-bitmap-b", Long, &[(F::PrimaryControls, PRIMARY | w(IO_BITMAPS)), (F::IoBitmapB, HIGH)]),
    ("msr-bitmap", Long, &[(F::PrimaryControls, PRIMARY | w(MSR_BITMAPS)), (F::MsrBitmap, 8)]),
    ("virtual-apic-address", Long, &[(F::PrimaryControls, TPR), (F::VirtualApicAddress, 16)]),
    ("tpr-threshold-reserved", Long, &[(F::PrimaryControls, TPR), (F::TprThreshold, 16)]),
    ("tpr-threshold-above-vtpr", Long, &[(F::PrimaryControls, TPR), (F::TprThreshold, 1)]),
    (
        "no-tpr-shadow-x2apic",
        Long,
        &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(VIRTUALIZE_X2APIC))],
    ),
    (
        "no-tpr-shadow-register-virtualization",
        Long,
        &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(APIC_REGISTER_VIRTUALIZATION))],
    ),
    (
        "no-tpr-shadow-interrupt-delivery",
        Long,
        &[
            (F::PinBasedControls, PIN | w(EXTERNAL_INTERRUPT_EXITING)),
            (F::PrimaryControls, TWO),
            (F::SecondaryControls, w(VIRTUAL_INTERRUPT_DELIVERY)),
        ],
    ),
    ("virtual-nmis-without-nmi-exiting", Long, &[(F::PinBasedControls, PIN | w(VIRTUAL_NMIS))]),
    ("nmi-window-without-virtual-nmis", Long, &[(F::PrimaryControls, PRIMARY | w(NMI_WINDOW))]),
    (
        "apic-access-address",
        Long,
        &[
            (F::PrimaryControls, TPR),
            (F::SecondaryControls, w(VIRTUALIZE_APIC_ACCESSES)),
            (F::ApicAccessAddress, 1),
        ],
    ),
    (
        "x2apic-and-apic-accesses",
        Long,
        &[(F::PrimaryControls, TPR), (F::SecondaryControls, w(VIRTUALIZE_APIC_ACCESSES | VIRTUALIZE_X2APIC))],
    ),
    (
        "interrupt-delivery-without-exiting",
        Long,
        &[(F::PrimaryControls, TPR), (F::SecondaryControls, w(VIRTUAL_INTERRUPT_DELIVERY))],
    ),
    (
        "posted-without-interrupt-delivery",
        Long,
        &[
            (F::PinBasedControls, PIN | w(POSTED_INTERRUPTS | EXTERNAL_INTERRUPT_EXITING)),
            (F::ExitControls, EXIT | w(ACKNOWLEDGE_INTERRUPT)),
        ],
    ),
    (
        "posted-without-acknowledge",
        Long,
        &[
            (F::PinBasedControls, PIN | w(POSTED_INTERRUPTS | EXTERNAL_INTERRUPT_EXITING)),
            (F::PrimaryControls, TPR),
            (F::SecondaryControls, w(VIRTUAL_INTERRUPT_DELIVERY)),
        ],
    ),
    (
        "posted-vector",
        Long,
        &[
            (F::PinBasedControls, PIN | w(POSTED_INTERRUPTS | EXTERNAL_INTERRUPT_EXITING)),
            (F::PrimaryControls, TPR),
            (F::SecondaryControls, w(VIRTUAL_INTERRUPT_DELIVERY)),
            (F::ExitControls, EXIT | w(ACKNOWLEDGE_INTERRUPT)),
            (F::PostedInterruptNotificationVector, 256),
        ],
    ),
    (
        "posted-descriptor",
        Long,
        &[
            (F::PinBasedControls, PIN | w(POSTED_INTERRUPTS | EXTERNAL_INTERRUPT_EXITING)),
            (F::PrimaryControls, TPR),
            (F::SecondaryControls, w(VIRTUAL_INTERRUPT_DELIVERY)),
            (F::ExitControls, EXIT | w(ACKNOWLEDGE_INTERRUPT)),
            (F::PostedInterruptDescriptor, 32),
        ],
    ),
    ("vpid-zero", Long, &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(VPID))]),
    ("ept-pointer", Long, &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(EPT)), (F::EptPointer, 1)]),
    ("pml-without-ept", Long, &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(PML))]),
    (
        "pml-address",
        Long,
        &[
            (F::PrimaryControls, TWO),
            (F::SecondaryControls, w(PML | EPT)),
            (F::EptPointer, EPTP),
            (F::PmlAddress, 1),
        ],
    ),
    (
        "unrestricted-without-ept",
        Long,
        &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(UNRESTRICTED_GUEST))],
    ),
    (
        "mode-based-execute-without-ept",
        Long,
        &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(MODE_BASED_EXECUTE))],
    ),
    (
        "vm-function-reserved",
        Long,
        &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(VM_FUNCTIONS)), (F::VmFunctionControls, 2)],
    ),
    (
        "eptp-switching-without-ept",
        Long,
        &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(VM_FUNCTIONS)), (F::VmFunctionControls, 1)],
    ),
    (
        "eptp-list-address",
        Long,
        &[
            (F::PrimaryControls, TWO),
            (F::SecondaryControls, w(VM_FUNCTIONS | EPT)),
            (F::EptPointer, EPTP),
            (F::VmFunctionControls, 1),
            (F::EptpListAddress, 1),
        ],
    ),
    (
        "vmread-bitmap",
        Long,
        &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(VMCS_SHADOWING)), (F::VmreadBitmap, 1)],
    ),
    (
        "vmwrite-bitmap",
        Long,
        &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(VMCS_SHADOWING)), (F::VmwriteBitmap, HIGH)],
    ),
    ("tsc-multiplier", Long, &[(F::PrimaryControls, TWO), (F::SecondaryControls, w(TSC_SCALING))]),
    ("exit-reserved", Long, &[(F::ExitControls, EXIT & !1)]),
    ("save-inactive-preemption-timer", Long, &[(F::ExitControls, EXIT | w(SAVE_PREEMPTION_TIMER))]),
    ("exit-msr-store", Long, &[(F::ExitMsrStoreCount, 1), (F::ExitMsrStoreAddress, 8)]),
    ("exit-msr-load", Long, &[(F::ExitMsrLoadCount, 2), (F::ExitMsrLoadAddress, HIGH - 16)]),
    ("entry-reserved", Long, &[(F::EntryControls, ENTRY & !1)]),
    ("injection-type", Long, &[(F::EntryInterruptionInfo, VALID | 1 << 8)]),
    ("injection-nmi-vector", Long, &[(F::EntryInterruptionInfo, VALID | 2 << 8 | 3)]),
    ("injection-exception-vector", Long, &[(F::EntryInterruptionInfo, VALID | 3 << 8 | 32)]),
    ("injection-other-vector", Long, &[(F::EntryInterruptionInfo, VALID | 7 << 8 | 1)]),
    ("injection-error-code", Long, &[(F::EntryInterruptionInfo, VALID | 3 << 8 | 13)]),
    ("injection-reserved", Long, &[(F::EntryInterruptionInfo, VALID | 1 << 12 | 2 << 8 | 2)]),
    (
        "injection-error-code-reserved",
        Long,
        &[(F::EntryInterruptionInfo, VALID | 1 << 11 | 3 << 8 | 13), (F::EntryExceptionErrorCode, 1 << 16)],
    ),
    (
        "injection-length",
        Long,
        &[(F::EntryInterruptionInfo, VALID | 4 << 8 | 0x80), (F::EntryInstructionLength, 16)],
    ),
    ("entry-msr-load", Long, &[(F::EntryMsrLoadCount, 1), (F::EntryMsrLoadAddress, 1)]),
    ("host-cr0", Long, &[(F::HostCr0, 0x8000_0011)]),
    ("host-cr4", Long, &[(F::HostCr4, cr4::PAE)]),
    ("host-cr3", Long, &[(F::HostCr3, HIGH)]),
    ("host-sysenter-esp", Long, &[(F::HostSysenterEsp, CANONICAL)]),
    ("host-sysenter-eip", Long, &[(F::HostSysenterEip, CANONICAL)]),
    (
        "host-perf-global-ctrl",
        Long,
        &[(F::ExitControls, EXIT | w(HOST_PERF_GLOBAL_CTRL)), (F::HostPerfGlobalCtrl, 1 << 63)],
    ),
    ("host-pat", Long, &[(F::ExitControls, EXIT | w(HOST_PAT)), (F::HostPat, 2)]),
    (
        "host-efer-reserved",
        Long,
        &[(F::ExitControls, EXIT | w(HOST_EFER)), (F::HostEfer, efer::LMA | efer::LME | 2)],
    ),
    ("host-efer-lma", Long, &[(F::ExitControls, EXIT | w(HOST_EFER)), (F::HostEfer, efer::LME)]),
    ("host-pkrs", Long, &[(F::ExitControls, EXIT | w(HOST_PKRS)), (F::HostPkrs, 1 << 32)]),
    ("host-es-selector", Long, &[(F::HostEsSelector, 4)]),
    ("host-cs-selector", Long, &[(F::HostCsSelector, 9)]),
    ("host-ss-selector", Long, &[(F::HostSsSelector, 3)]),
    ("host-ds-selector", Long, &[(F::HostDsSelector, 4)]),
    ("host-fs-selector", Long, &[(F::HostFsSelector, 1)]),
    ("host-gs-selector", Long, &[(F::HostGsSelector, 2)]),
    ("host-tr-selector", Long, &[(F::HostTrSelector, 20)]),
    ("host-cs-null", Long, &[(F::HostCsSelector, 0)]),
    ("host-tr-null", Long, &[(F::HostTrSelector, 0)]),
    ("host-ss-null", LegacyHost, &[(F::HostSsSelector, 0)]),
    ("host-fs-base", Long, &[(F::HostFsBase, CANONICAL)]),
    ("host-gs-base", Long, &[(F::HostGsBase, CANONICAL)]),
    ("host-gdtr-base", Long, &[(F::HostGdtrBase, CANONICAL)]),
    ("host-idtr-base", Long, &[(F::HostIdtrBase, CANONICAL)]),
    ("host-tr-base", Long, &[(F::HostTrBase, CANONICAL)]),
    (
        "legacy-host-long-guest",
        LegacyHost,
        &[(F::EntryControls, ENTRY), (F::GuestCr4, cr4::VMXE | cr4::PAE), (F::GuestCsAccessRights, 0xa09b)],
    ),
    ("host-size-at-entry", Legacy, &[(F::ExitControls, EXIT32), (F::HostSsSelector, 8)]),
    // In IA-32e mode, the host's size is wrong, too: see `known_companions`.
    ("small-host-long-guest", Long, &[(F::ExitControls, EXIT32), (F::HostSsSelector, 8)]),
    ("small-host-pcide", LegacyHost, &[(F::HostCr4, cr4::VMXE | cr4::PCIDE)]),
    ("small-host-rip", LegacyHost, &[(F::HostRip, 1 << 32)]),
    ("long-host-pae", Long, &[(F::HostCr4, cr4::VMXE)]),
    ("long-host-rip", Long, &[(F::HostRip, CANONICAL)]),
    ("guest-cr0", Long, &[(F::GuestCr0, 0x8000_0011)]),
    ("guest-cr0-pg-pe", Unrestricted, &[(F::GuestCr0, cr0::PG | cr0::NE)]),
    ("guest-cr4", Long, &[(F::GuestCr4, cr4::PAE)]),
    ("guest-debugctl", Long, &[(F::EntryControls, ENTRY | w(DEBUG_CONTROLS)), (F::GuestDebugctl, 1 << 20)]),
    // See `known_companions`: without unrestricted guests, CR0.PG is fixed.
    ("long-guest-paging", Long, &[(F::GuestCr0, cr0::PE | cr0::NE)]),
    ("long-guest-pae", Long, &[(F::GuestCr4, cr4::VMXE)]),
    ("legacy-guest-pcide", Legacy, &[(F::GuestCr4, cr4::VMXE | cr4::PCIDE)]),
    ("guest-cr3", Long, &[(F::GuestCr3, HIGH)]),
    ("guest-dr7", Long, &[(F::EntryControls, ENTRY | w(DEBUG_CONTROLS)), (F::GuestDr7, 1 << 32)]),
    ("guest-sysenter-esp", Long, &[(F::GuestSysenterEsp, CANONICAL)]),
    ("guest-sysenter-eip", Long, &[(F::GuestSysenterEip, CANONICAL)]),
    (
        "guest-perf-global-ctrl",
        Long,
        &[(F::EntryControls, ENTRY | w(GUEST_PERF_GLOBAL_CTRL)), (F::GuestPerfGlobalCtrl, 1 << 63)],
    ),
    ("guest-pat", Long, &[(F::EntryControls, ENTRY | w(GUEST_PAT)), (F::GuestPat, 8)]),
    (
        "guest-efer-reserved",
        Long,
        &[(F::EntryControls, ENTRY | w(GUEST_EFER)), (F::GuestEfer, efer::LMA | efer::LME | 2)],
    ),
    ("guest-efer-lma", Long, &[(F::EntryControls, ENTRY | w(GUEST_EFER)), (F::GuestEfer, 0)]),
    ("guest-efer-lme", Long, &[(F::EntryControls, ENTRY | w(GUEST_EFER)), (F::GuestEfer, efer::LMA)]),
    ("guest-pkrs", Long, &[(F::EntryControls, ENTRY | w(GUEST_PKRS)), (F::GuestPkrs, 1 << 32)]),
    ("guest-gdtr-base", Long, &[(F::GuestGdtrBase, CANONICAL)]),
    ("guest-idtr-base", Long, &[(F::GuestIdtrBase, CANONICAL)]),
    ("guest-gdtr-limit", Long, &[(F::GuestGdtrLimit, 1 << 16)]),
    ("guest-idtr-limit", Long, &[(F::GuestIdtrLimit, 1 << 31)]),
    ("guest-rip-32", Legacy, &[(F::GuestRip, 1 << 32)]),
    ("guest-rip-canonical", Long, &[(F::GuestRip, CANONICAL)]),
    ("guest-rflags-reserved", Long, &[(F::GuestRflags, FIXED | 8)]),
    ("guest-rflags-vm", Long, &[(F::GuestRflags, FIXED | VM)]),
    ("guest-rflags-if", Long, &[(F::EntryInterruptionInfo, VALID | 0x40)]),
    ("guest-tr-selector", Long, &[(F::GuestTrSelector, 4)]),
    ("guest-ldtr-selector", Long, &[(F::GuestLdtrSelector, 4), (F::GuestLdtrAccessRights, 0x82)]),
    (
        "guest-ss-rpl",
        Long,
        &[(F::GuestSsSelector, 1), (F::GuestSsAccessRights, 0xc0b3), (F::GuestCsAccessRights, 0xa0bb)],
    ),
    ("guest-tr-base", Long, &[(F::GuestTrBase, CANONICAL)]),
    ("guest-fs-base", Long, &[(F::GuestFsBase, CANONICAL)]),
    ("guest-gs-base", Long, &[(F::GuestGsBase, CANONICAL)]),
    ("guest-ldtr-base", Long, &[(F::GuestLdtrBase, CANONICAL), (F::GuestLdtrAccessRights, 0x82)]),
    ("guest-cs-base", Long, &[(F::GuestCsBase, 1 << 32)]),
    ("guest-ss-base", Long, &[(F::GuestSsBase, 1 << 32)]),
    ("guest-ds-base", Long, &[(F::GuestDsBase, 1 << 32)]),
    ("guest-es-base", Long, &[(F::GuestEsBase, 1 << 32)]),
    ("guest-cs-type", Long, &[(F::GuestCsAccessRights, 0xa09a)]),
    ("guest-ss-type", Long, &[(F::GuestSsAccessRights, 0xc091)]),
    ("guest-ds-type", Long, &[(F::GuestDsAccessRights, 0xc092)]),
    ("guest-es-type", Long, &[(F::GuestEsAccessRights, 0xc099)]),
    ("guest-fs-type", Long, &[(F::GuestFsAccessRights, 0xc092)]),
    ("guest-gs-type", Long, &[(F::GuestGsAccessRights, 0xc099)]),
    ("guest-es-system", Long, &[(F::GuestEsAccessRights, 0xc083)]),
    ("guest-cs-system", Long, &[(F::GuestCsAccessRights, 0xa08b)]),
    ("guest-ss-system", Long, &[(F::GuestSsAccessRights, 0xc083)]),
    ("guest-ds-system", Long, &[(F::GuestDsAccessRights, 0xc083)]),
    ("guest-fs-system", Long, &[(F::GuestFsAccessRights, 0xc083)]),
    ("guest-gs-system", Long, &[(F::GuestGsAccessRights, 0xc083)]),
    ("guest-cs-dpl-data", Unrestricted, &[(F::GuestCsAccessRights, 0xf3)]),
    ("guest-cs-dpl", Long, &[(F::GuestCsAccessRights, 0xa0fb)]),
    ("guest-cs-dpl-conforming", Long, &[(F::GuestCsAccessRights, 0xa0ff)]),
    ("guest-ss-dpl-rpl", Long, &[(F::GuestSsAccessRights, 0xc0f3), (F::GuestCsAccessRights, 0xa0fb)]),
    ("guest-ss-dpl-zero", Unrestricted, &[(F::GuestSsAccessRights, 0xf3), (F::GuestCsAccessRights, 0xfb)]),
    ("guest-ds-dpl", Long, &[(F::GuestDsSelector, 3)]),
    ("guest-es-dpl", Long, &[(F::GuestEsSelector, 3)]),
    ("guest-fs-dpl", Long, &[(F::GuestFsSelector, 3)]),
    ("guest-gs-dpl", Long, &[(F::GuestGsSelector, 3)]),
    ("guest-cs-l-and-db", Long, &[(F::GuestCsAccessRights, 0xe09b)]),
    ("guest-tr-type", Long, &[(F::GuestTrAccessRights, 0x89)]),
    ("guest-tr-system", Long, &[(F::GuestTrAccessRights, 0x9b)]),
    ("guest-tr-present", Long, &[(F::GuestTrAccessRights, 0x0b)]),
    ("guest-tr-reserved", Long, &[(F::GuestTrAccessRights, 0x18b)]),
    ("guest-tr-granularity", Long, &[(F::GuestTrAccessRights, 0x808b)]),
    ("guest-tr-usable", Long, &[(F::GuestTrAccessRights, 0x1_008b)]),
    ("guest-ldtr-type", Long, &[(F::GuestLdtrAccessRights, 0x83)]),
    ("guest-ldtr-system", Long, &[(F::GuestLdtrAccessRights, 0x92)]),
    ("guest-ldtr-present", Long, &[(F::GuestLdtrAccessRights, 0x02)]),
    ("guest-ldtr-reserved", Long, &[(F::GuestLdtrAccessRights, 0x182)]),
    ("guest-ldtr-granularity", Long, &[(F::GuestLdtrAccessRights, 0x8082)]),
    ("activity-state", Long, &[(F::GuestActivityState, 4)]),
    (
        "activity-hlt-privileged",
        Long,
        &[
            (F::GuestActivityState, 1),
            (F::GuestSsSelector, 3),
            (F::GuestCsSelector, 3),
            (F::GuestSsAccessRights, 0xc0f3),
            (F::GuestCsAccessRights, 0xa0fb),
        ],
    ),
    (
        "activity-blocking",
        Long,
        &[(F::GuestActivityState, 2), (F::GuestInterruptibility, 1), (F::GuestRflags, FIXED | IF)],
    ),
    (
        "activity-injection",
        Long,
        &[(F::GuestActivityState, 1), (F::EntryInterruptionInfo, VALID | 4 << 8 | 0x80)],
    ),
    ("interruptibility-reserved", Long, &[(F::GuestInterruptibility, 1 << 5)]),
    ("blocking-by-both", Long, &[(F::GuestInterruptibility, 3), (F::GuestRflags, FIXED | IF)]),
    ("blocking-by-sti-without-if", Long, &[(F::GuestInterruptibility, 1)]),
    (
        "blocked-interrupt-injection",
        Long,
        &[
            (F::GuestInterruptibility, 1),
            (F::GuestRflags, FIXED | IF),
            (F::EntryInterruptionInfo, VALID | 0x40),
        ],
    ),
    (
        "blocked-nmi-injection",
        Long,
        &[(F::GuestInterruptibility, 2), (F::EntryInterruptionInfo, VALID | 2 << 8 | 2)],
    ),
    ("blocking-by-smi", Long, &[(F::GuestInterruptibility, 4)]),
    (
        "virtual-nmi-blocked-injection",
        Long,
        &[
            (F::PinBasedControls, PIN | w(NMI_EXITING | VIRTUAL_NMIS)),
            (F::GuestInterruptibility, 8),
            (F::EntryInterruptionInfo, VALID | 2 << 8 | 2),
        ],
    ),
    ("pending-debug-reserved", Long, &[(F::GuestPendingDebugExceptions, 1 << 4)]),
    ("pending-debug-no-bs", Long, &[(F::GuestInterruptibility, 2), (F::GuestRflags, FIXED | TF)]),
    ("pending-debug-bs", Long, &[(F::GuestInterruptibility, 2), (F::GuestPendingDebugExceptions, 1 << 14)]),
    ("link-pointer-address", Long, &[(F::VmcsLinkPointer, 0x1001)]),
    ("link-pointer-revision", Long, &[(F::VmcsLinkPointer, 0x3000)]),
    ("link-pointer-current", Long, &[(F::VmcsLinkPointer, CURRENT)]),
    (
        "pdptes",
        Legacy,
        &[
            (F::GuestCr4, cr4::VMXE | cr4::PAE),
            (F::PrimaryControls, TWO),
            (F::SecondaryControls, w(EPT)),
            (F::EptPointer, EPTP),
            (F::GuestPdpte2, 3),
        ],
    ),
    ("pdptes-in-memory", Legacy, &[(F::GuestCr4, cr4::VMXE | cr4::PAE), (F::GuestCr3, 0x5000)]),
];

/// Checks that cannot be violated alone: what else the same rule says.
fn known_companions(name: &str) -> &'static [&'static str] {
    match name {
        "small-host-long-guest" => &["host-size-at-entry"],
        "long-guest-paging" => &["guest-cr0"],
        "guest-rflags-vm" => &["v8086"],
        _ => &[],
    }
}

const CURRENT: u64 = 0x2000;

fn build(cpu: &crate::Cpu, base: Base, fields: &[(F, u64)]) -> Vmcs {
    let mut vmcs = sound_vmcs(cpu.model.vmx());
    if base != Long {
        vmcs.set(F::EntryControls, ENTRY32);
        vmcs.set(F::GuestCr4, cr4::VMXE);
        vmcs.set(F::GuestCsAccessRights, 0xc09b);
    }
    match base {
        Long | Legacy => {}
        LegacyHost => {
            vmcs.set(F::ExitControls, EXIT32);
            vmcs.set(F::HostSsSelector, 8);
            vmcs.set(F::HostCr4, cr4::VMXE);
        }
        V8086 => {
            vmcs.set(F::GuestRflags, FIXED | VM);
            for n in 0..6 {
                vmcs.set_nth(F::GuestEsAccessRights, n, 0xf3);
                vmcs.set_nth(F::GuestEsLimit, n, 0xffff);
            }
        }
        Unrestricted => {
            vmcs.set(F::PrimaryControls, TWO);
            vmcs.set(F::SecondaryControls, UG);
            vmcs.set(F::EptPointer, EPTP);
            vmcs.set(F::GuestCr0, cr0::NE);
            for n in 0..6 {
                vmcs.set_nth(F::GuestEsAccessRights, n, 0x93);
                vmcs.set_nth(F::GuestEsLimit, n, 0xffff);
            }
        }
    }
    for &(field, value) in fields {
        vmcs.set(field, value);
    }
    vmcs
}

fn violated(cpu: &crate::Cpu, vmcs: &Vmcs, long: bool) -> Vec<&'static str> {
    let view = View {
        vmcs,
        capabilities: cpu.model.vmx(),
        model: &cpu.model,
        memory: &cpu.memory,
        long,
        entered_long: long,
        current: CURRENT,
        smm: false,
    };
    view.violations().iter().map(|check| check.name).collect()
}

fn processor() -> crate::Cpu {
    let cpu = crate::testing::cpu("max");
    cpu.memory.write_u32(GuestPhys(CURRENT), REVISION).unwrap();
    // A malformed PDPTE.
    cpu.memory.write_u64(GuestPhys(0x5000), 3).unwrap();
    cpu
}

#[test]
fn sound_states_pass() {
    let cpu = processor();
    for base in [Long, Legacy, V8086, LegacyHost, Unrestricted] {
        let vmcs = build(&cpu, base, &[]);
        assert_eq!(violated(&cpu, &vmcs, base != LegacyHost), [""; 0]);
    }
}

#[test]
fn each_check_is_violated_alone() {
    let cpu = processor();
    for &(name, base, fields) in CASES {
        let vmcs = build(&cpu, base, fields);
        let found = violated(&cpu, &vmcs, base != LegacyHost);
        assert!(found.contains(&name), "{name} is not violated: {found:?}");
        let companions = known_companions(name);
        let others = found
            .iter()
            .filter(|other| **other != name && !companions.iter().any(|companion| other.contains(companion)));
        assert_eq!(others.collect::<Vec<_>>(), [&""; 0], "{name} is not alone");
    }
}

/// Rules that hold for each of the six segments alike.
#[test]
fn each_segment_is_checked() {
    let cpu = processor();
    for (segment, n) in SEGMENTS {
        let code = segment == "cs";
        let rights = if code { 0xa09b } else { 0xc093 };
        for (suffix, base, field, value) in [
            ("base-v8086", V8086, F::GuestEsBase, 16),
            ("limit-v8086", V8086, F::GuestEsLimit, 0xfffe),
            ("rights-v8086", V8086, F::GuestEsAccessRights, 0x93),
            ("present", Long, F::GuestEsAccessRights, rights & !0x80),
            ("reserved", Long, F::GuestEsAccessRights, rights | 0x100),
            ("granularity", Long, F::GuestEsLimit, 0x10_0000),
        ] {
            let mut vmcs = build(&cpu, base, &[]);
            vmcs.set_nth(field, n, value);
            let name = format!("guest-{segment}-{suffix}");
            assert_eq!(violated(&cpu, &vmcs, true), [&*name]);
        }
    }
}

#[test]
fn every_check_has_a_case() {
    let by_segment = ["base-v8086", "limit-v8086", "rights-v8086", "present", "reserved", "granularity"];
    let mut names = std::collections::BTreeSet::new();
    for check in all() {
        assert!(names.insert(check.name), "two checks are called {}", check.name);
        let in_loop = SEGMENTS.iter().any(|(segment, _)| {
            by_segment.iter().any(|suffix| check.name == format!("guest-{segment}-{suffix}"))
        });
        assert!(
            in_loop || CASES.iter().any(|(name, ..)| *name == check.name),
            "{} has no test that violates it",
            check.name
        );
        assert!(check.section.starts_with("27."));
    }
    for (name, ..) in CASES {
        assert!(names.contains(name), "{name} is no check");
    }
}
