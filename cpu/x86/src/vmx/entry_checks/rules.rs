//! The manual's rules for VM entry (SDM 3C 27.1 to 27.4), section by section, in its order: which checks are each rule's, or
//! why there is none. What is not checked belongs to controls and features that the processor does not show: setting their
//! bits already violates a check of reserved bits.

/// One rule of the manual.
pub struct Rule {
    /// The section (SDM 3C).
    pub section: &'static str,
    /// What it asks.
    pub text: &'static str,
    /// The names of its checks (`*` stands for one of six segment registers); or where else it is checked; or why it is not.
    pub status: Status,
}

/// What becomes of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By these checks.
    Checks(&'static [&'static str]),
    /// In the course of the instruction or of the loading, not as a check of the VMCS.
    Code(&'static str),
    /// Not: what it is about is not shown.
    NotShown(&'static str),
    /// Not: the manual leaves it to the processor.
    Optional(&'static str),
}

/// Whether a name of a rule, with its `*`, is that of a check.
pub fn names(pattern: &str, check: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == check,
        Some((before, after)) => {
            let middle = check.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            middle.is_some_and(|middle| matches!(middle, "es" | "cs" | "ss" | "ds" | "fs" | "gs"))
        }
    }
}

macro_rules! rules {
    ($(section $section:literal: $($text:literal $kind:ident ($what:expr);)*)*) => {
        /// All rules.
        pub static RULES: &[Rule] = &[$($(Rule {
            section: $section, text: $text, status: Status::$kind($what),
        }),*),*];
    };
}

const TERTIARY: &str = "tertiary controls";
const CET: &str = "CET";
const FRED: &str = "FRED";
const PT: &str = "Intel PT";
const SMM: &str = "the dual-monitor treatment of SMM";
const SGX: &str = "SGX";

rules! {
section "27.1":
    "VMX operation, protected mode, CPL 0; in a guest, an exit" Code("VMLAUNCH, VMRESUME: #UD, #GP, exit");
    "there is a current VMCS, and it is no shadow VMCS" Code("VMfailInvalid");
    "events are not blocked by MOV SS" Code("VM-instruction error 26");
    "VMLAUNCH: the launch state is clear" Code("VM-instruction error 4");
    "VMRESUME: the launch state is launched" Code("VM-instruction error 5");
    "VM entry from the executive monitor" NotShown(SMM);
section "27.2.1.1":
    "reserved bits of the pin-based controls" Checks(&["pin-based-reserved"]);
    "reserved bits of the primary controls" Checks(&["primary-reserved"]);
    "reserved bits of the secondary controls" Checks(&["secondary-reserved"]);
    "reserved bits of the tertiary controls" NotShown(TERTIARY);
    "the CR3-target count" Checks(&["cr3-target-count"]);
    "addresses of the I/O bitmaps" Checks(&["io-bitmap-a", "io-bitmap-b"]);
    "address of the MSR bitmaps" Checks(&["msr-bitmap"]);
    "virtual-APIC address" Checks(&["virtual-apic-address"]);
    "bits 31:4 of the TPR threshold" Checks(&["tpr-threshold-reserved"]);
    "bits 3:0 of the TPR threshold against VTPR" Checks(&["tpr-threshold-above-vtpr"]);
    "no x2APIC mode, APIC-register virtualization, virtual-interrupt delivery without a TPR shadow"
        Checks(&["no-tpr-shadow-x2apic", "no-tpr-shadow-register-virtualization", "no-tpr-shadow-interrupt-delivery"]);
    "no IPI virtualization without a TPR shadow" NotShown(TERTIARY);
    "virtual NMIs need NMI exiting" Checks(&["virtual-nmis-without-nmi-exiting"]);
    "NMI-window exiting needs virtual NMIs" Checks(&["nmi-window-without-virtual-nmis"]);
    "APIC-access address" Checks(&["apic-access-address"]);
    "either x2APIC mode or APIC accesses are virtualized" Checks(&["x2apic-and-apic-accesses"]);
    "virtual-interrupt delivery needs external-interrupt exiting" Checks(&["interrupt-delivery-without-exiting"]);
    "posted interrupts need virtual-interrupt delivery" Checks(&["posted-without-interrupt-delivery"]);
    "posted interrupts need acknowledging on exit" Checks(&["posted-without-acknowledge"]);
    "posted-interrupt notification vector" Checks(&["posted-vector"]);
    "posted-interrupt descriptor address" Checks(&["posted-descriptor"]);
    "the VPID" Checks(&["vpid-zero"]);
    "EPT pointer: memory type, walk length, accessed and dirty flags, reserved bits" Checks(&["ept-pointer"]);
    "EPT pointer: supervisor shadow-stack control" NotShown(CET);
    "page-modification logging needs EPT" Checks(&["pml-without-ept"]);
    "PML address" Checks(&["pml-address"]);
    "an unrestricted guest needs EPT" Checks(&["unrestricted-without-ept"]);
    "mode-based execute control needs EPT" Checks(&["mode-based-execute-without-ept"]);
    "sub-page write permissions need EPT" NotShown("sub-page write permissions");
    "sub-page-permission-table pointer" NotShown("sub-page write permissions");
    "reserved bits of the VM-function controls" Checks(&["vm-function-reserved"]);
    "EPTP switching needs EPT" Checks(&["eptp-switching-without-ept"]);
    "EPTP-list address" Checks(&["eptp-list-address"]);
    "addresses of the VMREAD and VMWRITE bitmaps" Checks(&["vmread-bitmap", "vmwrite-bitmap"]);
    "virtualization-exception information address" NotShown("EPT-violation #VE");
    "Intel PT with guest-physical addresses needs EPT, and its entry and exit controls" NotShown(PT);
    "TSC multiplier" Checks(&["tsc-multiplier"]);
    "HLAT, paging-write control, guest-paging verification need EPT" NotShown(TERTIARY);
    "HLAT pointer" NotShown(TERTIARY);
    "PID-pointer table address, and its last entry's" NotShown(TERTIARY);
    "PASID-directory addresses" NotShown("PASID translation");
section "27.2.1.2":
    "reserved bits of the primary VM-exit controls" Checks(&["exit-reserved"]);
    "reserved bits of the secondary VM-exit controls" NotShown("secondary VM-exit controls");
    "saving the preemption timer needs the timer" Checks(&["save-inactive-preemption-timer"]);
    "VM-exit MSR-store area" Checks(&["exit-msr-store"]);
    "VM-exit MSR-load area" Checks(&["exit-msr-load"]);
section "27.2.1.3":
    "reserved bits of the VM-entry controls" Checks(&["entry-reserved"]);
    "interruption type" Checks(&["injection-type"]);
    "vector of the type" Checks(&["injection-nmi-vector", "injection-exception-vector", "injection-other-vector"]);
    "deliver-error-code bit" Checks(&["injection-error-code"]);
    "reserved bits of the interruption information" Checks(&["injection-reserved"]);
    "nested exceptions" NotShown(FRED);
    "bits 31:16 of the error code" Checks(&["injection-error-code-reserved"]);
    "instruction length of a software event" Checks(&["injection-length"]);
    "VM-entry MSR-load area" Checks(&["entry-msr-load"]);
    "outside of SMM, no entry to SMM and no deactivation of the dual-monitor treatment" Checks(&["entry-reserved"]);
    "entry to SMM and deactivation of the dual-monitor treatment are not both set" NotShown(SMM);
section "27.2.2":
    "CR0: fixed bits" Checks(&["host-cr0"]);
    "CR4: fixed bits" Checks(&["host-cr4"]);
    "CR4.CET needs CR0.WP" NotShown(CET);
    "CR3: physical-address width" Checks(&["host-cr3"]);
    "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP" Checks(&["host-sysenter-esp", "host-sysenter-eip"]);
    "IA32_PERF_GLOBAL_CTRL" Checks(&["host-perf-global-ctrl"]);
    "IA32_PAT" Checks(&["host-pat"]);
    "IA32_EFER: reserved bits" Checks(&["host-efer-reserved"]);
    "IA32_EFER: LMA and LME" Checks(&["host-efer-lma"]);
    "IA32_S_CET, SSP, IA32_INTERRUPT_SSP_TABLE_ADDR" NotShown(CET);
    "IA32_PKRS" Checks(&["host-pkrs"]);
    "IA32_FRED_CONFIG and its stack pointers" NotShown(FRED);
section "27.2.3":
    "TI and RPL of the selectors" Checks(&["host-*-selector", "host-tr-selector"]);
    "CS and TR are not null" Checks(&["host-cs-null", "host-tr-null"]);
    "SS is not null in a 32-bit host" Checks(&["host-ss-null"]);
    "bases of FS, GS, GDTR, IDTR, TR"
        Checks(&["host-fs-base", "host-gs-base", "host-gdtr-base", "host-idtr-base", "host-tr-base"]);
section "27.2.4":
    "entry outside of IA-32e mode: no IA-32e-mode guest" Checks(&["legacy-host-long-guest"]);
    "the host address-space size is the mode of the entry" Checks(&["host-size-at-entry"]);
    "32-bit host: no IA-32e-mode guest" Checks(&["small-host-long-guest"]);
    "32-bit host: CR4.PCIDE" Checks(&["small-host-pcide"]);
    "32-bit host: RIP" Checks(&["small-host-rip"]);
    "32-bit host: IA32_S_CET, SSP" NotShown(CET);
    "32-bit host: CR4.FRED" NotShown(FRED);
    "64-bit host: CR4.PAE" Checks(&["long-host-pae"]);
    "64-bit host: RIP" Checks(&["long-host-rip"]);
section "27.3.1.1":
    "CR0: fixed bits" Checks(&["guest-cr0"]);
    "CR0.PG needs CR0.PE" Checks(&["guest-cr0-pg-pe"]);
    "CR4: fixed bits" Checks(&["guest-cr4"]);
    "CR4.CET needs CR0.WP" NotShown(CET);
    "IA32_DEBUGCTL" Checks(&["guest-debugctl"]);
    "IA-32e mode: CR0.PG" Checks(&["long-guest-paging"]);
    "IA-32e mode: CR4.PAE" Checks(&["long-guest-pae"]);
    "outside of IA-32e mode: CR4.PCIDE" Checks(&["legacy-guest-pcide"]);
    "outside of IA-32e mode: CR4.FRED" NotShown(FRED);
    "CR3: physical-address width" Checks(&["guest-cr3"]);
    "DR7" Checks(&["guest-dr7"]);
    "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP" Checks(&["guest-sysenter-esp", "guest-sysenter-eip"]);
    "IA32_S_CET, IA32_INTERRUPT_SSP_TABLE_ADDR" NotShown(CET);
    "IA32_PERF_GLOBAL_CTRL" Checks(&["guest-perf-global-ctrl"]);
    "IA32_PAT" Checks(&["guest-pat"]);
    "IA32_EFER: reserved bits" Checks(&["guest-efer-reserved"]);
    "IA32_EFER: LMA" Checks(&["guest-efer-lma"]);
    "IA32_EFER: LMA and LME with paging" Checks(&["guest-efer-lme"]);
    "IA32_BNDCFGS" NotShown("MPX");
    "IA32_RTIT_CTL" NotShown(PT);
    "IA32_LBR_CTL" NotShown("architectural LBRs");
    "UINV" NotShown("user interrupts");
    "IA32_PKRS" Checks(&["guest-pkrs"]);
    "IA32_FRED_CONFIG and its stack pointers" NotShown(FRED);
section "27.3.1.2":
    "selector of TR" Checks(&["guest-tr-selector"]);
    "selector of LDTR" Checks(&["guest-ldtr-selector"]);
    "RPL of SS" Checks(&["guest-ss-rpl"]);
    "bases in virtual-8086 mode" Checks(&["guest-*-base-v8086"]);
    "bases of TR, FS, GS" Checks(&["guest-tr-base", "guest-fs-base", "guest-gs-base"]);
    "base of LDTR" Checks(&["guest-ldtr-base"]);
    "base of CS" Checks(&["guest-cs-base"]);
    "bases of SS, DS, ES" Checks(&["guest-ss-base", "guest-ds-base", "guest-es-base"]);
    "limits in virtual-8086 mode" Checks(&["guest-*-limit-v8086"]);
    "access rights in virtual-8086 mode" Checks(&["guest-*-rights-v8086"]);
    "type of CS" Checks(&["guest-cs-type"]);
    "type of SS" Checks(&["guest-ss-type"]);
    "types of DS, ES, FS, GS" Checks(&["guest-ds-type", "guest-es-type", "guest-fs-type", "guest-gs-type"]);
    "S of the six" Checks(&["guest-*-system"]);
    "DPL of CS, by its type" Checks(&["guest-cs-dpl-data", "guest-cs-dpl", "guest-cs-dpl-conforming"]);
    "DPL of SS: RPL" Checks(&["guest-ss-dpl-rpl"]);
    "DPL of SS: 0 with a CS of type 3 or without protection" Checks(&["guest-ss-dpl-zero"]);
    "DPL of DS, ES, FS, GS" Checks(&["guest-ds-dpl", "guest-es-dpl", "guest-fs-dpl", "guest-gs-dpl"]);
    "P of the six" Checks(&["guest-*-present"]);
    "reserved bits of the six" Checks(&["guest-*-reserved"]);
    "D/B of CS in 64-bit mode" Checks(&["guest-cs-l-and-db"]);
    "G of the six" Checks(&["guest-*-granularity"]);
    "TR: type" Checks(&["guest-tr-type"]);
    "TR: S, P, reserved bits, G" Checks(&["guest-tr-system", "guest-tr-present", "guest-tr-reserved", "guest-tr-granularity"]);
    "TR is usable" Checks(&["guest-tr-usable"]);
    "LDTR: type" Checks(&["guest-ldtr-type"]);
    "LDTR: S, P, reserved bits, G"
        Checks(&["guest-ldtr-system", "guest-ldtr-present", "guest-ldtr-reserved", "guest-ldtr-granularity"]);
section "27.3.1.3":
    "bases of GDTR and IDTR" Checks(&["guest-gdtr-base", "guest-idtr-base"]);
    "limits of GDTR and IDTR" Checks(&["guest-gdtr-limit", "guest-idtr-limit"]);
section "27.3.1.4":
    "RIP outside of 64-bit mode" Checks(&["guest-rip-32"]);
    "RIP in 64-bit mode" Checks(&["guest-rip-canonical"]);
    "SSP" NotShown(CET);
    "RFLAGS: reserved bits" Checks(&["guest-rflags-reserved"]);
    "RFLAGS.VM" Checks(&["guest-rflags-vm"]);
    "RFLAGS.IF with an injected external interrupt" Checks(&["guest-rflags-if"]);
section "27.3.1.5":
    "activity state: supported" Checks(&["activity-state"]);
    "activity state: not HLT with SS.DPL above 0" Checks(&["activity-hlt-privileged"]);
    "activity state: active while STI or MOV SS block" Checks(&["activity-blocking"]);
    "activity state: the injected event" Checks(&["activity-injection"]);
    "activity state: not wait-for-SIPI with an entry to SMM" NotShown(SMM);
    "interruptibility: reserved bits" Checks(&["interruptibility-reserved"]);
    "interruptibility: STI and MOV SS" Checks(&["blocking-by-both"]);
    "interruptibility: STI without RFLAGS.IF" Checks(&["blocking-by-sti-without-if"]);
    "interruptibility: injected external interrupt" Checks(&["blocked-interrupt-injection"]);
    "interruptibility: injected NMI and MOV SS" Checks(&["blocked-nmi-injection"]);
    "interruptibility: blocking by SMI" Checks(&["blocking-by-smi"]);
    "interruptibility: blocking by SMI with an entry to SMM" NotShown(SMM);
    "interruptibility: injected NMI and STI" Optional("a processor may allow it, and this one does");
    "interruptibility: injected NMI and blocking of virtual NMIs" Checks(&["virtual-nmi-blocked-injection"]);
    "interruptibility: enclave interruption" NotShown(SGX);
    "pending debug exceptions: reserved bits" Checks(&["pending-debug-reserved"]);
    "pending debug exceptions: BS" Checks(&["pending-debug-no-bs", "pending-debug-bs"]);
    "pending debug exceptions: RTM" NotShown("RTM");
    "pending debug exceptions: BLD" NotShown("bus-lock detection");
    "VMCS link pointer: alignment and physical-address width" Checks(&["link-pointer-address"]);
    "VMCS link pointer: revision and shadow indicator" Checks(&["link-pointer-revision"]);
    "VMCS link pointer: not the current VMCS" Checks(&["link-pointer-current"]);
    "VMCS link pointer and executive-VMCS pointer in SMM" NotShown(SMM);
section "27.3.1.6":
    "PDPTEs with EPT" Checks(&["pdptes"]);
    "PDPTEs without EPT" Checks(&["pdptes-in-memory"]);
section "27.4":
    "not IA32_FS_BASE or IA32_GS_BASE" Code("exit reason 34");
    "no x2APIC register in x2APIC mode" Code("exit reason 34");
    "no MSR that only SMM may write" Code("exit reason 34");
    "no MSR that VM entries do not load" Code("exit reason 34");
    "bits 63:32 of the entry's head" Code("exit reason 34");
    "WRMSR would not raise #GP" Code("exit reason 34");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data are whole: each check is some rule's, and each name of a rule some check's.
    #[test]
    fn rules_and_checks_belong_together() {
        let named = |rule: &Rule| match rule.status {
            Status::Checks(patterns) => patterns,
            _ => &[],
        };
        for check in super::super::all() {
            let of: Vec<_> = RULES
                .iter()
                .filter(|rule| named(rule).iter().any(|pattern| names(pattern, check.name)))
                .collect();
            assert!(!of.is_empty(), "{} belongs to no rule", check.name);
            assert!(of.iter().all(|rule| rule.section == check.section), "{}", check.name);
        }
        for rule in RULES {
            for pattern in named(rule) {
                let count = super::super::all().filter(|check| names(pattern, check.name)).count();
                assert_eq!(count, if pattern.contains('*') { 6 } else { 1 }, "{pattern}");
            }
        }
    }
}
