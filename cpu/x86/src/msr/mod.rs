//! Model-specific registers: their state, and RDMSR and WRMSR by a table (SDM 4; APM 2 appendix A).

mod mca;
mod mtrr;
mod special;
mod table;

pub use mca::McBank;
pub use mtrr::Mtrrs;
pub(crate) use special::CPUID_FAULTING;

use crate::model::{Feature, Model};
use crate::pmu::Pmu;
use crate::{Cpu, Stop};
use serde::{Deserialize, Serialize};
use table::{Access, Register};

/// IA32_PAT after reset (SDM 3A 13.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Bits of IA32_MISC_ENABLE.
pub mod misc_enable {
    /// Fast strings.
    pub const FAST_STRINGS: u64 = 1 << 0;
    /// Performance monitoring is available (read-only).
    pub const PERFMON: u64 = 1 << 7;
    /// No branch trace storage (read-only).
    pub const BTS_UNAVAILABLE: u64 = 1 << 11;
    /// No PEBS (read-only).
    pub const PEBS_UNAVAILABLE: u64 = 1 << 12;
    /// MONITOR and MWAIT are enabled.
    pub const MONITOR: u64 = 1 << 18;
    /// CPUID shows no basic leaf above 3.
    pub const LIMIT_CPUID: u64 = 1 << 22;
    /// NX is hidden.
    pub const XD_DISABLE: u64 = 1 << 34;
}

/// Bits of IA32_DEBUGCTL.
pub mod debugctl {
    /// RFLAGS.TF traps on branches instead of on every instruction.
    pub const BTF: u64 = 1 << 1;
    /// AMD: the last branch is recorded.
    pub const LBR: u64 = 1 << 0;
    /// What software can write: BTF, and LBR, which stays clear as there are no last-branch records.
    pub const WRITABLE: u64 = BTF | 1;
}

/// MSRs without a field of their own in [`crate::Cpu`]. IA32_APIC_BASE is the local APIC's.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub pkrs: u64,
    pub misc_enable: u64,
    pub debugctl: u64,
    /// AMD: LastBranchFromIP, LastBranchToIP, LastExceptionFromIP, LastExceptionToIP.
    pub last_branch: [u64; 4],
    /// Added to virtual time to give the time-stamp counter.
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
    pub xss: u64,
    pub power_ctl: u64,
    pub spec_ctrl: u64,
    pub misc_features_enables: u64,
    /// Intel: IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// Intel: MSR_POWER_CTL.
    pub smbase: u64,
    pub mtrr: Mtrrs,
    pub mcg_status: u64,
    pub mcg_ctl: u64,
    pub mc_banks: [McBank; mca::BANKS],
    pub pmu: Pmu,
    /// AMD: SYSCFG.
    pub syscfg: u64,
    /// AMD: HWCR.
    pub hwcr: u64,
    /// AMD: TOP_MEM.
    pub top_mem: u64,
    /// AMD: TOP_MEM2.
    pub top_mem2: u64,
    /// AMD: NB_CFG.
    pub nb_cfg: u64,
    /// AMD: DE_CFG.
    pub de_cfg: u64,
    /// AMD: LS_CFG.
    pub ls_cfg: u64,
    /// AMD: SMMAddr.
    pub smm_addr: u64,
    /// AMD: OSVW_ID_Length and OSVW_Status.
    pub osvw: [u64; 2],
    /// AMD: SMMMask.
    pub smm_mask: u64,
}

impl Msrs {
    /// The registers after power-up or RESET (SDM 3A table 10-1); the time-stamp counter is the caller's.
    pub fn at_reset(model: &Model) -> Self {
        let mut misc_enable =
            misc_enable::FAST_STRINGS | misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;
        if model.has(Feature::Pmu) {
            misc_enable |= misc_enable::PERFMON;
        }
        if model.has(Feature::Monitor) {
            misc_enable |= misc_enable::MONITOR;
        }
        Self {
            pat: PAT_RESET,
            misc_enable,
            hwcr: special::HWCR_RESET,
            smbase: 0x3_0000,
            mcg_ctl: u64::MAX,
            // LFENCE serialises here whether it must or not; the bit says so from the start.
            de_cfg: 2,
            pmu: Pmu::at_reset(model.is_amd()),
            ..Self::default()
        }
    }
}

impl Cpu {
    /// RDMSR's value; #GP(0) for a register that the model does not have.
    pub fn read_msr(&mut self, index: u32) -> Result<u64, Stop> {
        let Some(register) = self.msr_register(index) else {
            tracing::debug!(target: "ringworld::msr", "RDMSR {index:#x}: no such register");
            return Err(self.gp0());
        };
        match register.access {
            Access::Field { field, .. } | Access::Canonical(field) => Ok(*field(&mut self.msrs)),
            Access::Constant(value) => Ok(value(&self.model)),
            Access::Code { read, .. } => read(self, index),
        }
    }

    /// WRMSR; #GP(0) for a register that the model does not have, reserved bits, and what else the register refuses.
    pub fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        let Some(register) = self.msr_register(index) else {
            tracing::debug!(target: "ringworld::msr", "WRMSR {index:#x}, {value:#x}: no such register");
            return Err(self.gp0());
        };
        let written = match register.access {
            Access::Field { field, writable } if value & !writable(&self.model) == 0 => {
                *field(&mut self.msrs) = value;
                Ok(())
            }
            Access::Canonical(field) if self.is_canonical_max(value) => {
                *field(&mut self.msrs) = value;
                Ok(())
            }
            Access::Code { write, .. } => write(self, index, value),
            Access::Field { .. } | Access::Canonical(_) | Access::Constant(_) => Err(self.gp0()),
        };
        if written.is_err() {
            tracing::debug!(target: "ringworld::msr", "WRMSR {index:#x} ({}), {value:#x}: refused", register.name);
        }
        written
    }

    fn msr_register(&self, index: u32) -> Option<&'static Register> {
        table::find(index).filter(|register| (register.shown)(&self.model))
    }

    /// The time-stamp counter: one count a nanosecond of virtual time.
    #[inline]
    pub fn tsc(&self) -> u64 {
        self.now().0.wrapping_add(self.msrs.tsc_offset)
    }

    /// The same as software sees it: not before what another CPU has shown.
    #[inline]
    pub(crate) fn show_tsc(&mut self) -> u64 {
        self.clock.show(self.icount).0.wrapping_add(self.msrs.tsc_offset)
    }
}

#[cfg(test)]
mod tests;
