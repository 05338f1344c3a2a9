//! Model-specific registers.

use serde::{Deserialize, Serialize};

/// MSRs without a field of their own in [`crate::Cpu`].
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Msrs {
    pub apic_base: u64,
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
    /// Added to the instruction-derived counter.
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
    pub xss: u64,
}
