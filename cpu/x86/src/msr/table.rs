//! The table of MSRs.

use super::{Msrs, mca, mtrr, special};
use crate::model::{Feature, Model};
use crate::svm::msr as svm;
use crate::vmx::capability;
use crate::{Cpu, Stop, pmu};

type Field = fn(&mut Msrs) -> &mut u64;

/// What an access does.
pub(super) enum Access {
    /// Storage; setting another bit than the writable ones is #GP.
    Field { field: Field, writable: fn(&Model) -> u64 },
    /// Storage for a canonical address.
    Canonical(Field),
    /// Read-only.
    Constant(fn(&Model) -> u64),
    /// Anything else.
    Code { read: fn(&mut Cpu, u32) -> Result<u64, Stop>, write: fn(&mut Cpu, u32, u64) -> Result<(), Stop> },
}

/// A register, or registers with adjacent numbers.
pub(super) struct Register {
    first: u32,
    last: u32,
    pub(super) name: &'static str,
    pub(super) shown: fn(&Model) -> bool,
    pub(super) access: Access,
}

macro_rules! register {
    ($first:literal..=$last:expr, $name:literal, $shown:expr, $access:expr) => {
        Register { first: $first, last: $last, name: $name, shown: $shown, access: $access }
    };
    ($index:literal, $name:literal, $shown:expr, $access:expr) => {
        register!($index..=$index, $name, $shown, $access)
    };
}

macro_rules! field {
    ($field:ident) => {
        field!($field, |_| u64::MAX)
    };
    ($field:ident, $writable:expr) => {
        Access::Field { field: |msrs| &mut msrs.$field, writable: $writable }
    };
}

macro_rules! canonical {
    ($field:ident) => {
        Access::Canonical(|msrs| &mut msrs.$field)
    };
}

macro_rules! code {
    ($read:expr, $write:expr) => {
        Access::Code { read: $read, write: $write }
    };
}

/// Only shown with this feature.
macro_rules! with {
    ($feature:ident) => {
        |model| model.has(Feature::$feature)
    };
    ($feature:ident or $other:ident) => {
        |model| model.has(Feature::$feature) || model.has(Feature::$other)
    };
}

fn always(_: &Model) -> bool {
    true
}

fn intel(model: &Model) -> bool {
    !model.is_amd()
}

fn amd(model: &Model) -> bool {
    model.is_amd()
}

/// The register with this number.
pub(super) fn find(index: u32) -> Option<&'static Register> {
    let after = REGISTERS.partition_point(|register| register.first <= index);
    REGISTERS[..after].last().filter(|register| index <= register.last)
}

/// In the order of their numbers (SDM 4 2.1 for the architectural ones; APM 2 appendix A and the PPRs for AMD's).
static REGISTERS: &[Register] = &[
    register!(0x0..=0x1, "P5_MC_ADDR, P5_MC_TYPE", with!(Mca), code!(special::zero, special::ignore)),
    register!(0x10, "IA32_TIME_STAMP_COUNTER", with!(Tsc), code!(special::read_tsc, special::write_tsc)),
    register!(0x17, "IA32_PLATFORM_ID", intel, Access::Constant(|_| 0)),
    register!(0x1b, "IA32_APIC_BASE", with!(Apic), code!(special::read_apic_base, special::write_apic_base)),
    register!(
        0x3a,
        "IA32_FEATURE_CONTROL",
        intel,
        code!(|cpu, _| Ok(cpu.msrs.feature_control), capability::write_feature_control)
    ),
    register!(
        0x3b,
        "IA32_TSC_ADJUST",
        with!(TscAdjust),
        code!(|cpu, _| Ok(cpu.msrs.tsc_adjust), special::write_tsc_adjust)
    ),
    register!(0x48, "IA32_SPEC_CTRL", with!(SpecCtrl or AmdIbrs), field!(spec_ctrl, special::spec_ctrl_bits)),
    register!(
        0x49,
        "IA32_PRED_CMD",
        with!(SpecCtrl or AmdIbpb),
        code!(special::refuse, special::write_command)
    ),
    register!(0x8b, "IA32_BIOS_SIGN_ID", always, code!(special::read_microcode_revision, special::ignore)),
    register!(0xc1..=0xc4, "IA32_PMCn", with!(Pmu), code!(pmu::read_counter, pmu::write_counter)),
    register!(0xce, "PLATFORM_INFO", intel, Access::Constant(special::platform_info)),
    register!(
        0xe2,
        "PKG_CST_CONFIG_CONTROL",
        intel,
        code!(|_, _| Ok(special::PACKAGE_C_STATES), special::write_package_c_states)
    ),
    register!(0xfe, "IA32_MTRRCAP", with!(Mtrr), Access::Constant(|_| mtrr::CAP)),
    register!(
        0x10a,
        "IA32_ARCH_CAPABILITIES",
        with!(ArchCapabilities),
        Access::Constant(special::arch_capabilities)
    ),
    register!(0x10b, "IA32_FLUSH_CMD", with!(FlushL1d), code!(special::refuse, special::write_command)),
    register!(
        0x140,
        "MISC_FEATURES_ENABLES",
        intel,
        field!(misc_features_enables, |_| special::CPUID_FAULTING)
    ),
    register!(0x174, "IA32_SYSENTER_CS", with!(Sep), field!(sysenter_cs)),
    register!(0x175, "IA32_SYSENTER_ESP", with!(Sep), canonical!(sysenter_esp)),
    register!(0x176, "IA32_SYSENTER_EIP", with!(Sep), canonical!(sysenter_eip)),
    register!(0x179, "IA32_MCG_CAP", with!(Mca), Access::Constant(|_| mca::CAP)),
    register!(0x17a, "IA32_MCG_STATUS", with!(Mca), field!(mcg_status, |_| 7)),
    register!(0x17b, "IA32_MCG_CTL", with!(Mca), field!(mcg_ctl)),
    register!(0x186..=0x189, "IA32_PERFEVTSELn", with!(Pmu), code!(pmu::read_control, pmu::write_control)),
    register!(
        0x1a0,
        "IA32_MISC_ENABLE",
        intel,
        code!(|cpu, _| Ok(cpu.msrs.misc_enable), special::write_misc_enable)
    ),
    register!(0x1d9, "IA32_DEBUGCTL", always, code!(|cpu, _| Ok(cpu.msrs.debugctl), special::write_debugctl)),
    register!(
        0x1db..=0x1de,
        "LastBranchFromIP, LastBranchToIP, LastExceptionFromIP, LastExceptionToIP",
        amd,
        code!(special::read_last_branch, special::write_last_branch)
    ),
    // SDM 4 table 2-15: PROCHOT both ways and C1E. Neither has an effect here.
    register!(0x1fc, "MSR_POWER_CTL", intel, field!(power_ctl, |_| 3)),
    register!(0x200..=0x20f, "IA32_MTRR_PHYSBASEn, PHYSMASKn", with!(Mtrr), code!(mtrr::read, mtrr::write)),
    register!(0x250, "IA32_MTRR_FIX64K_00000", with!(Mtrr), code!(mtrr::read, mtrr::write)),
    register!(0x258..=0x259, "IA32_MTRR_FIX16K", with!(Mtrr), code!(mtrr::read, mtrr::write)),
    register!(0x268..=0x26f, "IA32_MTRR_FIX4K", with!(Mtrr), code!(mtrr::read, mtrr::write)),
    register!(0x277, "IA32_PAT", with!(Pat), code!(|cpu, _| Ok(cpu.msrs.pat), mtrr::write_pat)),
    register!(0x2ff, "IA32_MTRR_DEF_TYPE", with!(Mtrr), code!(mtrr::read, mtrr::write)),
    register!(0x309..=0x30b, "IA32_FIXED_CTRn", with!(Pmu), code!(pmu::read_counter, pmu::write_counter)),
    register!(0x345, "IA32_PERF_CAPABILITIES", with!(Pdcm), Access::Constant(|_| pmu::CAPABILITIES)),
    register!(
        0x38d..=0x390,
        "IA32_PERF_GLOBAL_*, IA32_FIXED_CTR_CTRL",
        with!(Pmu),
        code!(pmu::read_control, pmu::write_control)
    ),
    register!(0x400..=mca::LAST, "IA32_MCi_*", with!(Mca), code!(mca::read, mca::write)),
    register!(
        0x480..=capability::LAST_MSR,
        "IA32_VMX_*",
        with!(Vmx),
        code!(capability::read_msr, capability::write_msr)
    ),
    register!(0x4c1..=0x4c4, "IA32_A_PMCn", with!(Pdcm), code!(pmu::read_counter, pmu::write_counter)),
    register!(
        0x6e0,
        "IA32_TSC_DEADLINE",
        with!(TscDeadline),
        code!(special::read_tsc_deadline, special::write_tsc_deadline)
    ),
    register!(0x6e1, "IA32_PKRS", with!(Pks), code!(|cpu, _| Ok(cpu.msrs.pkrs), special::write_pkrs)),
    register!(0x800..=0x8ff, "x2APIC", with!(X2apic), code!(special::read_x2apic, special::write_x2apic)),
    register!(0xda0, "IA32_XSS", with!(Xsaves), field!(xss, Model::xss_supported)),
    register!(0xc000_0080, "IA32_EFER", |_| true, code!(|cpu, _| Ok(cpu.efer), special::write_efer)),
    register!(0xc000_0081, "IA32_STAR", with!(Syscall), field!(star)),
    register!(0xc000_0082, "IA32_LSTAR", with!(Syscall), canonical!(lstar)),
    register!(0xc000_0083, "IA32_CSTAR", with!(Syscall), canonical!(cstar)),
    register!(
        0xc000_0084,
        "IA32_FMASK",
        with!(Syscall),
        code!(|cpu, _| Ok(cpu.msrs.fmask), special::write_fmask)
    ),
    register!(
        0xc000_0100..=0xc000_0101,
        "IA32_FS_BASE, IA32_GS_BASE",
        with!(Lm),
        code!(special::read_segment_base, special::write_segment_base)
    ),
    register!(0xc000_0102, "IA32_KERNEL_GS_BASE", with!(Lm), canonical!(kernel_gs_base)),
    register!(
        0xc000_0103,
        "IA32_TSC_AUX",
        with!(Rdtscp or Rdpid),
        code!(|cpu, _| Ok(cpu.msrs.tsc_aux), special::write_tsc_aux)
    ),
    register!(0xc000_0104, "TSC_RATIO", with!(TscRateMsr), code!(svm::read_tsc_ratio, svm::write_tsc_ratio)),
    register!(0xc001_0000..=0xc001_0003, "PerfEvtSeln", amd, code!(pmu::read_control, pmu::write_control)),
    register!(0xc001_0004..=0xc001_0007, "PerfCtrn", amd, code!(pmu::read_counter, pmu::write_counter)),
    register!(0xc001_0010, "SYSCFG", amd, field!(syscfg, |_| special::SYSCFG_WRITABLE)),
    register!(0xc001_0015, "HWCR", amd, field!(hwcr, |_| special::HWCR_WRITABLE)),
    register!(0xc001_001a, "TOP_MEM", amd, field!(top_mem, special::top_mem_bits)),
    register!(0xc001_001d, "TOP_MEM2", amd, field!(top_mem2, special::top_mem_bits)),
    register!(0xc001_001f, "NB_CFG", amd, field!(nb_cfg)),
    // No pending I/O message; no memory-mapped configuration space of its own.
    register!(0xc001_0055, "IntPend", amd, code!(special::zero, special::ignore)),
    register!(0xc001_0058, "MMIO Configuration Base Address", amd, code!(special::zero, special::ignore)),
    register!(0xc001_0111, "SMM_BASE", amd, code!(|cpu, _| Ok(cpu.msrs.smbase), special::write_smbase)),
    register!(0xc001_0112, "SMMAddr", amd, field!(smm_addr, special::top_mem_bits)),
    register!(0xc001_0113, "SMMMask", amd, field!(smm_mask)),
    register!(0xc001_0114, "VM_CR", with!(Svm), code!(svm::read_vm_cr, svm::write_vm_cr)),
    register!(0xc001_0117, "VM_HSAVE_PA", with!(Svm), code!(svm::read_hsave, svm::write_hsave)),
    register!(0xc001_011b, "AVIC Doorbell", with!(Avic), code!(special::refuse, svm::write_doorbell)),
    register!(
        0xc001_0140,
        "OSVW_ID_Length",
        with!(Osvw),
        Access::Field { field: |msrs| &mut msrs.osvw[0], writable: |_| 0xffff }
    ),
    register!(
        0xc001_0141,
        "OSVW_Status",
        with!(Osvw),
        Access::Field { field: |msrs| &mut msrs.osvw[1], writable: |_| u64::MAX }
    ),
    register!(0xc001_1020, "LS_CFG", amd, field!(ls_cfg)),
    register!(0xc001_1029, "DE_CFG", amd, field!(de_cfg)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for pair in REGISTERS.windows(2) {
            assert!(pair[0].first <= pair[0].last && pair[0].last < pair[1].first, "{:#x}", pair[1].first);
        }
        assert!(
            find(0x10).is_some() && find(0x11).is_none() && find(0x8ff).is_some() && find(0x900).is_none()
        );
    }
}
