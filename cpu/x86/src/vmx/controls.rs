//! The VM-execution, VM-exit and VM-entry controls (SDM 3C 25.6 to 25.8), as data.

use super::Vmx;
use super::vmcs::Field;

/// A word of controls, with capability MSRs of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Group {
    /// Pin-based VM-execution controls.
    Pin,
    /// Primary processor-based VM-execution controls.
    Primary,
    /// Secondary processor-based VM-execution controls.
    Secondary,
    /// VM-exit controls.
    Exit,
    /// VM-entry controls.
    Entry,
    /// IA32_VMX_EPT_VPID_CAP: no controls, but capabilities that models list by name, too.
    EptVpid,
    /// VM-function controls.
    Function,
}

/// Bits; a name's group is that of its row in [`CONTROLS`].
#[allow(missing_docs)]
pub mod bits {
    pub const EXTERNAL_INTERRUPT_EXITING: u32 = 1 << 0;
    pub const NMI_EXITING: u32 = 1 << 3;
    pub const VIRTUAL_NMIS: u32 = 1 << 5;
    pub const PREEMPTION_TIMER: u32 = 1 << 6;
    pub const POSTED_INTERRUPTS: u32 = 1 << 7;

    pub const INTERRUPT_WINDOW: u32 = 1 << 2;
    pub const TSC_OFFSETTING: u32 = 1 << 3;
    pub const HLT_EXITING: u32 = 1 << 7;
    pub const INVLPG_EXITING: u32 = 1 << 9;
    pub const MWAIT_EXITING: u32 = 1 << 10;
    pub const RDPMC_EXITING: u32 = 1 << 11;
    pub const RDTSC_EXITING: u32 = 1 << 12;
    pub const CR3_LOAD_EXITING: u32 = 1 << 15;
    pub const CR3_STORE_EXITING: u32 = 1 << 16;
    pub const CR8_LOAD_EXITING: u32 = 1 << 19;
    pub const CR8_STORE_EXITING: u32 = 1 << 20;
    pub const TPR_SHADOW: u32 = 1 << 21;
    pub const NMI_WINDOW: u32 = 1 << 22;
    pub const MOV_DR_EXITING: u32 = 1 << 23;
    pub const UNCONDITIONAL_IO: u32 = 1 << 24;
    pub const IO_BITMAPS: u32 = 1 << 25;
    pub const MONITOR_TRAP_FLAG: u32 = 1 << 27;
    pub const MSR_BITMAPS: u32 = 1 << 28;
    pub const MONITOR_EXITING: u32 = 1 << 29;
    pub const PAUSE_EXITING: u32 = 1 << 30;
    pub const SECONDARY: u32 = 1 << 31;

    pub const VIRTUALIZE_APIC_ACCESSES: u32 = 1 << 0;
    pub const EPT: u32 = 1 << 1;
    pub const DESCRIPTOR_TABLE_EXITING: u32 = 1 << 2;
    pub const RDTSCP: u32 = 1 << 3;
    pub const VIRTUALIZE_X2APIC: u32 = 1 << 4;
    pub const VPID: u32 = 1 << 5;
    pub const WBINVD_EXITING: u32 = 1 << 6;
    pub const UNRESTRICTED_GUEST: u32 = 1 << 7;
    pub const APIC_REGISTER_VIRTUALIZATION: u32 = 1 << 8;
    pub const VIRTUAL_INTERRUPT_DELIVERY: u32 = 1 << 9;
    pub const PAUSE_LOOP_EXITING: u32 = 1 << 10;
    pub const RDRAND_EXITING: u32 = 1 << 11;
    pub const INVPCID: u32 = 1 << 12;
    pub const VM_FUNCTIONS: u32 = 1 << 13;
    pub const VMCS_SHADOWING: u32 = 1 << 14;
    pub const RDSEED_EXITING: u32 = 1 << 16;
    pub const PML: u32 = 1 << 17;
    pub const EPT_VIOLATION_VE: u32 = 1 << 18;
    pub const XSAVES: u32 = 1 << 20;
    pub const MODE_BASED_EXECUTE: u32 = 1 << 22;
    pub const TSC_SCALING: u32 = 1 << 25;

    /// Of the VM-exit and the VM-entry controls.
    pub const DEBUG_CONTROLS: u32 = 1 << 2;
    pub const HOST_LONG: u32 = 1 << 9;
    pub const ACKNOWLEDGE_INTERRUPT: u32 = 1 << 15;
    pub const SAVE_PAT: u32 = 1 << 18;
    pub const HOST_PAT: u32 = 1 << 19;
    pub const SAVE_EFER: u32 = 1 << 20;
    pub const HOST_EFER: u32 = 1 << 21;
    pub const SAVE_PREEMPTION_TIMER: u32 = 1 << 22;
    pub const HOST_PERF_GLOBAL_CTRL: u32 = 1 << 12;
    pub const HOST_PKRS: u32 = 1 << 29;

    pub const GUEST_LONG: u32 = 1 << 9;
    pub const ENTRY_TO_SMM: u32 = 1 << 10;
    pub const DEACTIVATE_DUAL_MONITOR: u32 = 1 << 11;
    pub const GUEST_PERF_GLOBAL_CTRL: u32 = 1 << 13;
    pub const GUEST_PAT: u32 = 1 << 14;
    pub const GUEST_EFER: u32 = 1 << 15;
    pub const GUEST_PKRS: u32 = 1 << 22;

    /// Capabilities of EPT and VPID; bits above 31 are derived from them.
    pub const EPT_EXECUTE_ONLY: u32 = 1 << 0;
    pub const EPT_LEVEL4: u32 = 1 << 6;
    pub const EPT_LEVEL5: u32 = 1 << 7;
    pub const EPT_UNCACHEABLE: u32 = 1 << 8;
    pub const EPT_WRITE_BACK: u32 = 1 << 14;
    pub const EPT_PAGES_2M: u32 = 1 << 16;
    pub const EPT_PAGES_1G: u32 = 1 << 17;
    pub const EPT_INVEPT: u32 = 1 << 20;
    pub const EPT_ACCESSED_DIRTY: u32 = 1 << 21;
    pub const EPT_INVEPT_SINGLE: u32 = 1 << 25;
    pub const EPT_INVEPT_ALL: u32 = 1 << 26;

    pub const EPTP_SWITCHING: u32 = 1 << 0;
}
use bits::*;

/// Bits that are 1 whatever software wants (SDM 3D A.3 to A.5): the default1 class without those that TRUE MSRs free.
pub const PIN_FIXED: u32 = 0x16;
/// Of the primary controls.
pub const PRIMARY_FIXED: u32 = 0x0401_e172 & !(CR3_LOAD_EXITING | CR3_STORE_EXITING);
/// Of the VM-exit controls.
pub const EXIT_FIXED: u32 = 0x3_6dff & !DEBUG_CONTROLS;
/// Of the VM-entry controls.
pub const ENTRY_FIXED: u32 = 0x11ff & !DEBUG_CONTROLS;
/// What the MSRs without "TRUE" show in addition.
pub const DEFAULT1: [(Group, u32); 3] = [
    (Group::Primary, CR3_LOAD_EXITING | CR3_STORE_EXITING),
    (Group::Exit, DEBUG_CONTROLS),
    (Group::Entry, DEBUG_CONTROLS),
];

/// A control that may be 1, by the name that a CPU model's file uses.
pub struct Control {
    /// Its word.
    pub group: Group,
    /// Its bit.
    pub bit: u32,
    /// Its name.
    pub name: &'static str,
}

macro_rules! controls {
    ($($group:ident: $($bit:ident $name:literal),*;)*) => {
        /// All controls that are implemented. What is not listed is never shown.
        pub static CONTROLS: &[Control] =
            &[$($(Control { group: Group::$group, bit: $bit, name: $name }),*),*];
    };
}

controls! {
    Pin: EXTERNAL_INTERRUPT_EXITING "external-interrupt-exiting", NMI_EXITING "nmi-exiting", VIRTUAL_NMIS "virtual-nmis",
        PREEMPTION_TIMER "preemption-timer", POSTED_INTERRUPTS "posted-interrupts";
    Primary: INTERRUPT_WINDOW "interrupt-window-exiting", TSC_OFFSETTING "tsc-offsetting", HLT_EXITING "hlt-exiting",
        INVLPG_EXITING "invlpg-exiting", MWAIT_EXITING "mwait-exiting", RDPMC_EXITING "rdpmc-exiting",
        RDTSC_EXITING "rdtsc-exiting", CR3_LOAD_EXITING "cr3-load-exiting", CR3_STORE_EXITING "cr3-store-exiting",
        CR8_LOAD_EXITING "cr8-load-exiting", CR8_STORE_EXITING "cr8-store-exiting", TPR_SHADOW "tpr-shadow",
        NMI_WINDOW "nmi-window-exiting", MOV_DR_EXITING "mov-dr-exiting", UNCONDITIONAL_IO "unconditional-io-exiting",
        IO_BITMAPS "io-bitmaps", MONITOR_TRAP_FLAG "monitor-trap-flag", MSR_BITMAPS "msr-bitmaps",
        MONITOR_EXITING "monitor-exiting", PAUSE_EXITING "pause-exiting", SECONDARY "secondary-controls";
    Secondary: VIRTUALIZE_APIC_ACCESSES "virtualize-apic-accesses", EPT "ept",
        DESCRIPTOR_TABLE_EXITING "descriptor-table-exiting", RDTSCP "enable-rdtscp",
        VIRTUALIZE_X2APIC "virtualize-x2apic", VPID "vpid", WBINVD_EXITING "wbinvd-exiting",
        UNRESTRICTED_GUEST "unrestricted-guest", APIC_REGISTER_VIRTUALIZATION "apic-register-virtualization",
        VIRTUAL_INTERRUPT_DELIVERY "virtual-interrupt-delivery", PAUSE_LOOP_EXITING "pause-loop-exiting",
        RDRAND_EXITING "rdrand-exiting", INVPCID "enable-invpcid", VM_FUNCTIONS "vm-functions",
        VMCS_SHADOWING "vmcs-shadowing", RDSEED_EXITING "rdseed-exiting", PML "pml", XSAVES "enable-xsaves",
        MODE_BASED_EXECUTE "mode-based-execute-control", TSC_SCALING "tsc-scaling";
    Exit: DEBUG_CONTROLS "save-debug-controls", HOST_LONG "host-address-space-size",
        ACKNOWLEDGE_INTERRUPT "acknowledge-interrupt-on-exit", HOST_PERF_GLOBAL_CTRL "exit-load-perf-global-ctrl",
        SAVE_PAT "save-pat", HOST_PAT "exit-load-pat", SAVE_EFER "save-efer", HOST_EFER "exit-load-efer",
        SAVE_PREEMPTION_TIMER "save-preemption-timer", HOST_PKRS "exit-load-pkrs";
    Entry: DEBUG_CONTROLS "load-debug-controls", GUEST_LONG "ia-32e-mode-guest",
        GUEST_PERF_GLOBAL_CTRL "entry-load-perf-global-ctrl", GUEST_PAT "entry-load-pat", GUEST_EFER "entry-load-efer",
        GUEST_PKRS "entry-load-pkrs";
    EptVpid: EPT_EXECUTE_ONLY "ept-execute-only", EPT_LEVEL4 "ept-level4", EPT_LEVEL5 "ept-level5",
        EPT_UNCACHEABLE "ept-uncacheable", EPT_WRITE_BACK "ept-write-back", EPT_PAGES_2M "ept-2m", EPT_PAGES_1G "ept-1g",
        EPT_INVEPT "invept", EPT_ACCESSED_DIRTY "ept-accessed-dirty", EPT_INVEPT_SINGLE "invept-single-context",
        EPT_INVEPT_ALL "invept-all-context";
    Function: EPTP_SWITCHING "eptp-switching";
}

impl Vmx {
    /// Whether a pin-based control is set.
    #[inline]
    pub(super) fn pin(&self, bit: u32) -> bool {
        self.vmcs.get32(Field::PinBasedControls) & bit != 0
    }

    /// Whether a primary processor-based control is set.
    #[inline]
    pub(super) fn primary(&self, bit: u32) -> bool {
        self.vmcs.get32(Field::PrimaryControls) & bit != 0
    }

    /// Whether a secondary processor-based control is set, and the secondary controls are active.
    #[inline]
    pub(super) fn secondary(&self, bit: u32) -> bool {
        self.primary(SECONDARY) && self.vmcs.get32(Field::SecondaryControls) & bit != 0
    }

    /// Whether a VM-exit control is set.
    #[inline]
    pub(super) fn exit_control(&self, bit: u32) -> bool {
        self.vmcs.get32(Field::ExitControls) & bit != 0
    }

    /// Whether a VM-entry control is set.
    #[inline]
    pub(super) fn entry_control(&self, bit: u32) -> bool {
        self.vmcs.get32(Field::EntryControls) & bit != 0
    }
}
