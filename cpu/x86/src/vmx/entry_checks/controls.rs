//! VM-execution, VM-exit and VM-entry control fields (SDM 3C 27.2.1).

use super::{CONTROLS, View, VmEntryCheck, checks};
use crate::control::cr0;
use crate::vmx::capability::CR3_TARGETS;
use crate::vmx::controls::{Group, bits::*};
use crate::vmx::vmcs::Field;
use ringworld_core::GuestPhys;

pub(super) static TABLES: &[&[VmEntryCheck]] = &[EXECUTION, EXIT, ENTRY];

/// An MSR list that is not empty lies where it may not.
fn bad_list(v: &View<'_>, count: Field, address: Field) -> bool {
    let count = v.get(count);
    let bytes = count.wrapping_mul(16).wrapping_sub(1);
    count != 0 && (v.bad_address(address, 16) || v.beyond_physical(v.get(address).wrapping_add(bytes)))
}

/// VTPR, bits 7:4.
fn virtual_tpr_class(v: &View<'_>) -> u64 {
    let page = v.get(Field::VirtualApicAddress);
    u64::from(v.memory.read_u32(GuestPhys(page.wrapping_add(0x80))).unwrap_or(u32::MAX) >> 4 & 15)
}

static EXECUTION: &[VmEntryCheck] = checks! { "27.2.1.1", CONTROLS;
    "pin-based-reserved", "reserved bits of the pin-based controls are as IA32_VMX_TRUE_PINBASED_CTLS says",
        |v| v.bad_controls(Group::Pin, Field::PinBasedControls);
    "primary-reserved", "reserved bits of the primary controls are as IA32_VMX_TRUE_PROCBASED_CTLS says",
        |v| v.bad_controls(Group::Primary, Field::PrimaryControls);
    "secondary-reserved", "reserved bits of the secondary controls are as IA32_VMX_PROCBASED_CTLS2 says",
        |v| v.primary(SECONDARY) && v.bad_controls(Group::Secondary, Field::SecondaryControls);
    "cr3-target-count", "the CR3-target count is not greater than 4",
        |v| v.get(Field::Cr3TargetCount) > CR3_TARGETS;
    "io-bitmap-a", "with I/O bitmaps, the address of bitmap A is aligned and within the physical-address width",
        |v| v.primary(IO_BITMAPS) && v.bad_address(Field::IoBitmapA, 4096);
    "io-bitmap-b", "with I/O bitmaps, the address of bitmap B is aligned and within the physical-address width",
        |v| v.primary(IO_BITMAPS) && v.bad_address(Field::IoBitmapB, 4096);
    "msr-bitmap", "with MSR bitmaps, their address is aligned and within the physical-address width",
        |v| v.primary(MSR_BITMAPS) && v.bad_address(Field::MsrBitmap, 4096);
    "virtual-apic-address", "with a TPR shadow, the virtual-APIC address is aligned and within the physical-address width",
        |v| v.primary(TPR_SHADOW) && v.bad_address(Field::VirtualApicAddress, 4096);
    "tpr-threshold-reserved", "with a TPR shadow and no virtual-interrupt delivery, bits 31:4 of the TPR threshold are 0",
        |v| v.primary(TPR_SHADOW) && !v.secondary(VIRTUAL_INTERRUPT_DELIVERY) && v.get(Field::TprThreshold) >> 4 != 0;
    "tpr-threshold-above-vtpr", "with a TPR shadow, no virtual-interrupt delivery and no virtualized APIC accesses, the TPR \
        threshold is not above VTPR's class",
        |v| v.primary(TPR_SHADOW)
            && !v.secondary(VIRTUAL_INTERRUPT_DELIVERY | VIRTUALIZE_APIC_ACCESSES)
            && !v.bad_address(Field::VirtualApicAddress, 4096)
            && v.get(Field::TprThreshold) & 15 > virtual_tpr_class(v);
    "no-tpr-shadow-x2apic", "without a TPR shadow, x2APIC mode is not virtualized",
        |v| !v.primary(TPR_SHADOW) && v.secondary(VIRTUALIZE_X2APIC);
    "no-tpr-shadow-register-virtualization", "without a TPR shadow, there is no APIC-register virtualization",
        |v| !v.primary(TPR_SHADOW) && v.secondary(APIC_REGISTER_VIRTUALIZATION);
    "no-tpr-shadow-interrupt-delivery", "without a TPR shadow, there is no virtual-interrupt delivery",
        |v| !v.primary(TPR_SHADOW) && v.secondary(VIRTUAL_INTERRUPT_DELIVERY);
    "virtual-nmis-without-nmi-exiting", "without NMI exiting, there are no virtual NMIs",
        |v| !v.pin(NMI_EXITING) && v.pin(VIRTUAL_NMIS);
    "nmi-window-without-virtual-nmis", "without virtual NMIs, there is no NMI-window exiting",
        |v| !v.pin(VIRTUAL_NMIS) && v.primary(NMI_WINDOW);
    "apic-access-address", "with virtualized APIC accesses, their address is aligned and within the physical-address width",
        |v| v.secondary(VIRTUALIZE_APIC_ACCESSES) && v.bad_address(Field::ApicAccessAddress, 4096);
    "x2apic-and-apic-accesses", "x2APIC mode and APIC accesses are not both virtualized",
        |v| v.secondary(VIRTUALIZE_X2APIC) && v.secondary(VIRTUALIZE_APIC_ACCESSES);
    "interrupt-delivery-without-exiting", "virtual-interrupt delivery comes with external-interrupt exiting",
        |v| v.secondary(VIRTUAL_INTERRUPT_DELIVERY) && !v.pin(EXTERNAL_INTERRUPT_EXITING);
    "posted-without-interrupt-delivery", "posted interrupts come with virtual-interrupt delivery",
        |v| v.pin(POSTED_INTERRUPTS) && !v.secondary(VIRTUAL_INTERRUPT_DELIVERY);
    "posted-without-acknowledge", "posted interrupts come with acknowledging interrupts on exit",
        |v| v.pin(POSTED_INTERRUPTS) && !v.exit(ACKNOWLEDGE_INTERRUPT);
    "posted-vector", "the posted-interrupt notification vector is not above 255",
        |v| v.pin(POSTED_INTERRUPTS) && v.get(Field::PostedInterruptNotificationVector) > 255;
    "posted-descriptor", "the posted-interrupt descriptor is aligned to 64 bytes and within the physical-address width",
        |v| v.pin(POSTED_INTERRUPTS) && v.bad_address(Field::PostedInterruptDescriptor, 64);
    "vpid-zero", "with VPIDs, the VPID is not 0",
        |v| v.secondary(VPID) && v.get(Field::VirtualProcessorId) == 0;
    "ept-pointer", "with EPT, the EPT pointer's memory type and walk length are supported, and its reserved bits are 0",
        |v| v.secondary(EPT) && v.bad_ept_pointer(v.get(Field::EptPointer));
    "pml-without-ept", "page-modification logging comes with EPT",
        |v| v.secondary(PML) && !v.secondary(EPT);
    "pml-address", "the PML address is aligned and within the physical-address width",
        |v| v.secondary(PML) && v.bad_address(Field::PmlAddress, 4096);
    "unrestricted-without-ept", "an unrestricted guest comes with EPT",
        |v| v.unrestricted() && !v.secondary(EPT);
    "mode-based-execute-without-ept", "mode-based execute control comes with EPT",
        |v| v.secondary(MODE_BASED_EXECUTE) && !v.secondary(EPT);
    "vm-function-reserved", "reserved bits of the VM-function controls are 0",
        |v| v.secondary(VM_FUNCTIONS)
            && v.get(Field::VmFunctionControls) & !u64::from(v.capabilities.allowed(Group::Function)) != 0;
    "eptp-switching-without-ept", "EPTP switching comes with EPT",
        |v| eptp_switching(v) && !v.secondary(EPT);
    "eptp-list-address", "with EPTP switching, the list's address is aligned and within the physical-address width",
        |v| eptp_switching(v) && v.bad_address(Field::EptpListAddress, 4096);
    "vmread-bitmap", "with VMCS shadowing, the VMREAD bitmap is aligned and within the physical-address width",
        |v| v.secondary(VMCS_SHADOWING) && v.bad_address(Field::VmreadBitmap, 4096);
    "vmwrite-bitmap", "with VMCS shadowing, the VMWRITE bitmap is aligned and within the physical-address width",
        |v| v.secondary(VMCS_SHADOWING) && v.bad_address(Field::VmwriteBitmap, 4096);
    "tsc-multiplier", "with TSC scaling, the multiplier is not 0",
        |v| v.secondary(TSC_SCALING) && v.get(Field::TscMultiplier) == 0;
};

fn eptp_switching(v: &View<'_>) -> bool {
    v.secondary(VM_FUNCTIONS) && v.get(Field::VmFunctionControls) as u32 & EPTP_SWITCHING != 0
}

impl View<'_> {
    /// Whether VM entry refuses an EPT pointer (SDM 3C 25.6.11, table 25-9).
    pub(in crate::vmx) fn bad_ept_pointer(&self, eptp: u64) -> bool {
        let has = |bit| self.capabilities.has(Group::EptVpid, bit);
        let type_ok = match eptp & 7 {
            0 => has(EPT_UNCACHEABLE),
            6 => has(EPT_WRITE_BACK),
            _ => false,
        };
        let levels_ok = match eptp >> 3 & 7 {
            3 => has(EPT_LEVEL4),
            4 => has(EPT_LEVEL5),
            _ => false,
        };
        !type_ok
            || !levels_ok
            || eptp & 1 << 6 != 0 && !has(EPT_ACCESSED_DIRTY)
            || eptp & 0xf80 != 0
            || self.beyond_physical(eptp)
    }
}

static EXIT: &[VmEntryCheck] = checks! { "27.2.1.2", CONTROLS;
    "exit-reserved", "reserved bits of the VM-exit controls are as IA32_VMX_TRUE_EXIT_CTLS says",
        |v| v.bad_controls(Group::Exit, Field::ExitControls);
    "save-inactive-preemption-timer", "the preemption timer's value is saved only if the timer is active",
        |v| !v.pin(PREEMPTION_TIMER) && v.exit(SAVE_PREEMPTION_TIMER);
    "exit-msr-store", "the VM-exit MSR-store area is aligned to 16 bytes and within the physical-address width",
        |v| bad_list(v, Field::ExitMsrStoreCount, Field::ExitMsrStoreAddress);
    "exit-msr-load", "the VM-exit MSR-load area is aligned to 16 bytes and within the physical-address width",
        |v| bad_list(v, Field::ExitMsrLoadCount, Field::ExitMsrLoadAddress);
};

/// The parts of the interruption information, if it is valid: vector, type, whether an error code is delivered.
fn injection(v: &View<'_>) -> Option<(u64, u64, bool)> {
    let info = v.get(Field::EntryInterruptionInfo);
    (info >> 31 & 1 != 0).then_some((info & 0xff, info >> 8 & 7, info >> 11 & 1 != 0))
}

/// Whether an error code has to be delivered.
fn wants_error_code(v: &View<'_>, vector: u64, kind: u64) -> bool {
    kind == 3
        && matches!(vector, 8 | 10..=14 | 17)
        && (!v.unrestricted() || v.get(Field::GuestCr0) & cr0::PE != 0)
}

static ENTRY: &[VmEntryCheck] = checks! { "27.2.1.3", CONTROLS;
    "entry-reserved", "reserved bits of the VM-entry controls are as IA32_VMX_TRUE_ENTRY_CTLS says",
        |v| v.bad_controls(Group::Entry, Field::EntryControls);
    "injection-type", "the interruption type is not reserved (1), and 7 only where there is a monitor trap flag",
        |v| injection(v).is_some_and(|(_, kind, _)| {
            kind == 1 || kind == 7 && !v.capabilities.has(Group::Primary, MONITOR_TRAP_FLAG)
        });
    "injection-nmi-vector", "an injected NMI has vector 2",
        |v| injection(v).is_some_and(|(vector, kind, _)| kind == 2 && vector != 2);
    "injection-exception-vector", "an injected hardware exception has at most vector 31",
        |v| injection(v).is_some_and(|(vector, kind, _)| kind == 3 && vector > 31);
    "injection-other-vector", "an injected other event has vector 0",
        |v| injection(v).is_some_and(|(vector, kind, _)| kind == 7 && vector != 0);
    "injection-error-code", "an error code is delivered with the exceptions that have one, and with no other event",
        |v| injection(v).is_some_and(|(vector, kind, error)| error != wants_error_code(v, vector, kind));
    "injection-reserved", "reserved bits 30:12 of the interruption information are 0",
        |v| injection(v).is_some() && v.get(Field::EntryInterruptionInfo) & 0x7fff_f000 != 0;
    "injection-error-code-reserved", "bits 31:16 of an error code to be delivered are 0",
        |v| injection(v).is_some_and(|(.., error)| error) && v.get(Field::EntryExceptionErrorCode) >> 16 != 0;
    "injection-length", "an injected software event has a length of at most 15",
        |v| injection(v).is_some_and(|(_, kind, _)| {
            matches!(kind, 4..=6) && v.get(Field::EntryInstructionLength) > 15
        });
    "entry-msr-load", "the VM-entry MSR-load area is aligned to 16 bytes and within the physical-address width",
        |v| bad_list(v, Field::EntryMsrLoadCount, Field::EntryMsrLoadAddress);
};
