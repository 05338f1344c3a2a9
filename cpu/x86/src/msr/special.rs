//! MSRs that do more than hold a value.

use super::{debugctl, misc_enable};
use crate::control::{cr0, efer};
use crate::insn::seg;
use crate::lapic::TscClock;
use crate::model::{Feature, Model};
use crate::{Cpu, Stop};

/// MISC_FEATURES_ENABLES: CPUID faults outside of CPL 0.
pub(crate) const CPUID_FAULTING: u64 = 1;
/// HWCR.McStatusWrEn: software may set the machine-check status registers.
pub(super) const MC_STATUS_WRITE: u64 = 1 << 18;
/// HWCR: SMMLOCK, TlbCacheDis, INVDWBINVD, FFDIS, RSM/SMI special bus cycles, MCi status write, MONITOR at user level
/// excepted.
pub(super) const HWCR_WRITABLE: u64 = 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 8 | MC_STATUS_WRITE | 1 << 24;
/// HWCR.TscFreqSel: the time-stamp counter runs at the P0 frequency (PPR for family 17h, MSRC001_0015).
pub(super) const HWCR_RESET: u64 = 1 << 24;
/// SYSCFG: MtrrFixDramEn, MtrrFixDramModEn, MtrrVarDramEn, MtrrTom2En, Tom2ForceMemTypeWB.
pub(super) const SYSCFG_WRITABLE: u64 = 0x1f << 18;

type Read = Result<u64, Stop>;
type Written = Result<(), Stop>;

pub(super) fn zero(_: &mut Cpu, _: u32) -> Read {
    Ok(0)
}

pub(super) fn ignore(_: &mut Cpu, _: u32, _: u64) -> Written {
    Ok(())
}

/// Write-only.
pub(super) fn refuse(cpu: &mut Cpu, _: u32) -> Read {
    Err(cpu.gp0())
}

// Time.

pub(super) fn read_tsc(cpu: &mut Cpu, _: u32) -> Read {
    Ok(cpu.visible_tsc())
}

/// SDM 3B 18.17.3: a write moves IA32_TSC_ADJUST by the same amount.
pub(super) fn write_tsc(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    let change = value.wrapping_sub(cpu.show_tsc());
    cpu.msrs.tsc_adjust = cpu.msrs.tsc_adjust.wrapping_add(change);
    move_tsc(cpu, change);
    Ok(())
}

pub(super) fn write_tsc_adjust(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    let change = value.wrapping_sub(cpu.msrs.tsc_adjust);
    cpu.msrs.tsc_adjust = value;
    move_tsc(cpu, change);
    Ok(())
}

fn move_tsc(cpu: &mut Cpu, change: u64) {
    cpu.set_tsc_offset(cpu.msrs.tsc_offset.wrapping_add(change));
}

/// IA32_TSC_AUX has 32 bits; AMD drops the others.
pub(super) fn write_tsc_aux(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    if value >> 32 != 0 && !cpu.model.is_amd() {
        return Err(cpu.gp0());
    }
    cpu.msrs.tsc_aux = value & 0xffff_ffff;
    Ok(())
}

impl Cpu {
    /// Sets what is added to virtual time, here and in the local APIC's idea of the time-stamp counter.
    pub(crate) fn set_tsc_offset(&mut self, offset: u64) {
        self.msrs.tsc_offset = offset;
        self.lapic.set_tsc_clock(TscClock { hz: u64::from(crate::model::TSC_HZ), offset });
        // A deadline may now be elsewhere.
        self.yield_to_machine();
    }
}

// The local APIC.

pub(super) fn read_apic_base(cpu: &mut Cpu, _: u32) -> Read {
    Ok(cpu.lapic.base())
}

pub(super) fn write_apic_base(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    let now = cpu.now();
    if cpu.lapic.set_base(value, now).is_err() {
        return Err(cpu.gp0());
    }
    // The TLB knows which page is the APIC's.
    cpu.flush_everything();
    cpu.yield_to_machine();
    Ok(())
}

pub(super) fn read_x2apic(cpu: &mut Cpu, index: u32) -> Read {
    let now = cpu.now();
    cpu.lapic.msr_read(index, now).map_err(|_| cpu.gp0())
}

pub(super) fn write_x2apic(cpu: &mut Cpu, index: u32, value: u64) -> Written {
    let now = cpu.now();
    let Ok(effects) = cpu.lapic.msr_write(index, value, now) else { return Err(cpu.gp0()) };
    cpu.apply_apic_effects(effects);
    Ok(())
}

pub(super) fn read_tsc_deadline(cpu: &mut Cpu, _: u32) -> Read {
    let now = cpu.now();
    Ok(cpu.lapic.tsc_deadline(now))
}

pub(super) fn write_tsc_deadline(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    let now = cpu.now();
    cpu.lapic.set_tsc_deadline(value, now);
    cpu.yield_to_machine();
    Ok(())
}

// Modes and addresses.

/// IA32_EFER (SDM 3A 2.2.1; APM 2 3.1.7). LMA is read-only: a write of it is ignored.
pub(super) fn write_efer(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    let mut writable = cpu.model.efer_supported() | efer::LMA;
    if cpu.msrs.misc_enable & misc_enable::XD_DISABLE != 0 {
        writable &= !efer::NXE;
    }
    if cpu.svm_disabled() {
        writable &= !efer::SVME;
    }
    let changes_lme = (value ^ cpu.efer) & efer::LME != 0;
    if value & !writable != 0 || changes_lme && cpu.cr0 & cr0::PG != 0 {
        return Err(cpu.gp0());
    }
    cpu.efer = value & !efer::LMA | cpu.efer & efer::LMA;
    cpu.update_mode();
    Ok(())
}

fn base_segment(index: u32) -> usize {
    usize::from(if index & 1 == 0 { seg::FS } else { seg::GS })
}

pub(super) fn read_segment_base(cpu: &mut Cpu, index: u32) -> Read {
    Ok(cpu.seg[base_segment(index)].base)
}

pub(super) fn write_segment_base(cpu: &mut Cpu, index: u32, value: u64) -> Written {
    if !cpu.is_canonical_max(value) {
        return Err(cpu.gp0());
    }
    cpu.seg[base_segment(index)].base = value;
    cpu.update_fast_segments();
    Ok(())
}

/// IA32_PKRS (SDM 3A 5.6.2): 32 bits.
pub(super) fn write_pkrs(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    if value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    cpu.msrs.pkrs = value;
    cpu.update_context();
    Ok(())
}

/// IA32_FMASK: 32 bits. The manuals call the others reserved (SDM 3A 5.8.8, APM 2 6.1.1). AMD's processors refuse them; a
/// hypervisor for Intel's, Hedron, sets them when it starts, so those seem to ignore them.
pub(super) fn write_fmask(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    if value >> 32 != 0 && cpu.model.is_amd() {
        return Err(cpu.gp0());
    }
    cpu.msrs.fmask = value & 0xffff_ffff;
    Ok(())
}

// Enables.

/// IA32_MISC_ENABLE. Read-only bits keep their value. The bits of thermal control, SpeedStep and xTPR messages are
/// kept, too: they control what the model does not show.
pub(super) fn write_misc_enable(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    const READ_ONLY: u64 =
        misc_enable::PERFMON | misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;
    const WRITABLE: u64 = misc_enable::FAST_STRINGS
        | 1 << 3
        | 1 << 16
        | misc_enable::MONITOR
        | misc_enable::LIMIT_CPUID
        | 1 << 23
        | misc_enable::XD_DISABLE;
    if value & !(READ_ONLY | WRITABLE) != 0 {
        return Err(cpu.gp0());
    }
    cpu.msrs.misc_enable = value & WRITABLE | cpu.msrs.misc_enable & READ_ONLY;
    Ok(())
}

/// IA32_DEBUGCTL (SDM 3B 18.4.1): BTF. On Intel models there are no last-branch records: LBR stays clear, which is how
/// software sees it. AMD's have one (APM 2 13.1.1.6), and keep the performance-monitor pin bits, which drive nothing.
pub(super) fn write_debugctl(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    const PINS: u64 = 0xf << 2;
    let amd = cpu.model.is_amd();
    if value & !(debugctl::BTF | debugctl::LBR | if amd { PINS } else { 0 }) != 0 {
        return Err(cpu.gp0());
    }
    cpu.set_debugctl(if amd { value } else { value & debugctl::BTF });
    Ok(())
}

pub(super) fn read_last_branch(cpu: &mut Cpu, index: u32) -> Read {
    Ok(cpu.msrs.last_branch[(index - 0x1db) as usize & 3])
}

/// The records are written by the processor alone.
pub(super) fn write_last_branch(cpu: &mut Cpu, _: u32, _: u64) -> Written {
    Err(cpu.gp0())
}

/// IA32_PRED_CMD and IA32_FLUSH_CMD: there is nothing to flush, but only bit 0 may be set.
pub(super) fn write_command(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    if value & !1 != 0 { Err(cpu.gp0()) } else { Ok(()) }
}

/// IBRS, STIBP, SSBD and BHI_DIS_S, as shown. They restrict speculation, which there is none of.
pub(super) fn spec_ctrl_bits(model: &Model) -> u64 {
    let has = |intel, amd| u64::from(model.has(intel) || model.has(amd));
    has(Feature::SpecCtrl, Feature::AmdIbrs)
        | has(Feature::Stibp, Feature::AmdStibp) << 1
        | has(Feature::Ssbd, Feature::AmdSsbd) << 2
        | u64::from(model.has(Feature::BhiCtrl)) << 10
}

/// IA32_ARCH_CAPABILITIES: the faults of speculative execution that this processor does not have, as it does not
/// speculate. (Bit 1: IBRS may stay on; the others are in the order of the register.)
pub(super) fn arch_capabilities(model: &Model) -> u64 {
    /// RDCL_NO, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO.
    const EARLY: u64 = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8;
    /// SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
    const LATE: u64 = 1 << 13 | 1 << 14 | 1 << 15 | 1 << 20 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 62;
    const IBRS_ALL: u64 = 1 << 1;
    EARLY | LATE | if model.has(Feature::SpecCtrl) { IBRS_ALL } else { 0 }
}

/// PLATFORM_INFO: the maximum non-turbo ratio (of 100 MHz), and CPUID faulting.
pub(super) fn platform_info(_: &Model) -> u64 {
    u64::from(crate::model::TSC_HZ / 100_000_000) << 8 | 1 << 31
}

/// IA32_BIOS_SIGN_ID: revision 1 in the upper half. AMD's PATCH_LEVEL: in the lower half, as family 17h has it.
pub(super) fn read_microcode_revision(cpu: &mut Cpu, _: u32) -> Read {
    Ok(if cpu.model.is_amd() { 0x0100_0065 } else { 1 << 32 })
}

/// Addresses in multiples of 8 MiB and less, up to MAXPHYADDR.
pub(super) fn top_mem_bits(model: &Model) -> u64 {
    u64::MAX >> (64 - model.physical_bits()) & !0xfff
}

/// AMD's way to the SMM base; locked by HWCR.SMMLOCK (APM 2 10.2.5).
pub(super) fn write_smbase(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    if value >> 32 != 0 || cpu.msrs.hwcr & 1 != 0 {
        return Err(cpu.gp0());
    }
    cpu.msrs.smbase = value;
    Ok(())
}

/// PKG_CST_CONFIG_CONTROL: no package C-states, locked by the firmware.
pub(super) const PACKAGE_C_STATES: u64 = 1 << 15;

/// The lock is on the lower half; nothing is demoted, whatever the upper one says (SDM 4).
pub(super) fn write_package_c_states(cpu: &mut Cpu, _: u32, value: u64) -> Written {
    if value & 0xffff == PACKAGE_C_STATES { Ok(()) } else { Err(cpu.gp0()) }
}
