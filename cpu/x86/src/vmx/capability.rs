//! The VMX capability MSRs (SDM 3D appendix A), derived from what a CPU model lists and what its features bring.

use super::controls::{
    CONTROLS, DEFAULT1, ENTRY_FIXED, EXIT_FIXED, Group, PIN_FIXED, PRIMARY_FIXED, bits::*,
};
use super::vmcs::{FIELDS, REVISION};
use crate::control::cr4;
use crate::model::{Feature, Model};
use crate::{Cpu, Stop};

/// IA32_VMX_VMFUNC, the last of the capability MSRs.
pub const LAST_MSR: u32 = 0x491;

/// The VMX-preemption timer counts at the TSC's rate divided by 2 to this power.
pub const TIMER_SHIFT: u32 = 0;
/// Bits of CR0 that VMX operation fixes to 1: PE, NE, PG.
pub const CR0_FIXED0: u64 = 0x8000_0021;
/// Number of CR3-target values.
pub const CR3_TARGETS: u64 = 4;
/// Most entries of an MSR list, as IA32_VMX_MISC recommends.
pub const MSR_LIST_MOST: u64 = 512;

/// Which controls a model lets software set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    pin: u32,
    primary: u32,
    secondary: u32,
    exit: u32,
    entry: u32,
    ept_vpid: u32,
    function: u32,
}

impl Capabilities {
    /// Capabilities from the names in a model's file; `all` is everything, and `-NAME` takes one away. Unknown names
    /// count for nothing (a test reads all files).
    pub fn parse(names: &[String]) -> Self {
        let mut capabilities = Self::default();
        for name in names {
            for control in CONTROLS {
                let word = capabilities.word(control.group);
                if name == "all" || name == control.name {
                    *word |= control.bit;
                } else if name.strip_prefix('-') == Some(control.name) {
                    *word &= !control.bit;
                }
            }
        }
        capabilities
    }

    /// Whether a name in a model's file means something.
    #[cfg(test)]
    pub fn knows(name: &str) -> bool {
        let plain = name.strip_prefix('-').unwrap_or(name);
        name == "all" || CONTROLS.iter().any(|control| control.name == plain)
    }

    fn word(&mut self, group: Group) -> &mut u32 {
        match group {
            Group::Pin => &mut self.pin,
            Group::Primary => &mut self.primary,
            Group::Secondary => &mut self.secondary,
            Group::Exit => &mut self.exit,
            Group::Entry => &mut self.entry,
            Group::EptVpid => &mut self.ept_vpid,
            Group::Function => &mut self.function,
        }
    }

    /// Takes away what needs a feature that the model does not have.
    pub fn limit(mut self, model: &Model) -> Self {
        let mut need = |feature, group, bit: u32| {
            if !model.has(feature) {
                *self.word(group) &= !bit;
            }
        };
        need(Feature::Rdrand, Group::Secondary, RDRAND_EXITING);
        need(Feature::Rdseed, Group::Secondary, RDSEED_EXITING);
        need(Feature::Invpcid, Group::Secondary, INVPCID);
        need(Feature::Rdtscp, Group::Secondary, RDTSCP);
        need(Feature::Xsaves, Group::Secondary, XSAVES);
        need(Feature::Pks, Group::Exit, HOST_PKRS);
        need(Feature::Pks, Group::Entry, GUEST_PKRS);
        need(Feature::Pmu, Group::Exit, HOST_PERF_GLOBAL_CTRL);
        need(Feature::Pmu, Group::Entry, GUEST_PERF_GLOBAL_CTRL);
        need(Feature::La57, Group::EptVpid, EPT_LEVEL5);
        if self.secondary & EPT == 0 {
            self.ept_vpid = 0;
            self.secondary &= !(UNRESTRICTED_GUEST | PML | MODE_BASED_EXECUTE);
        }
        if self.secondary & VM_FUNCTIONS == 0 {
            self.function = 0;
        }
        self
    }

    /// Bits that must be 1 (with the TRUE capability MSRs).
    pub fn required(&self, group: Group) -> u32 {
        match group {
            Group::Pin => PIN_FIXED,
            Group::Primary => PRIMARY_FIXED,
            Group::Exit => EXIT_FIXED,
            Group::Entry => ENTRY_FIXED,
            Group::Secondary | Group::EptVpid | Group::Function => 0,
        }
    }

    /// Bits that may be 1.
    pub fn allowed(&self, group: Group) -> u32 {
        let listed = match group {
            Group::Pin => self.pin,
            Group::Primary => self.primary,
            Group::Secondary => self.secondary,
            Group::Exit => self.exit,
            Group::Entry => self.entry,
            Group::EptVpid => self.ept_vpid,
            Group::Function => self.function,
        };
        listed | self.required(group)
    }

    /// Whether software may set this control.
    pub fn has(&self, group: Group, bit: u32) -> bool {
        self.allowed(group) & bit != 0
    }

    fn pair(&self, group: Group, truly: bool) -> u64 {
        let default1 = DEFAULT1.iter().find(|(of, _)| *of == group && !truly).map_or(0, |(_, bits)| *bits);
        let required = self.required(group) | default1 & self.allowed(group);
        u64::from(self.allowed(group)) << 32 | u64::from(required)
    }

    /// IA32_VMX_EPT_VPID_CAP (SDM 3D A.10).
    pub fn ept_vpid(&self) -> u64 {
        // INVVPID with all its types comes with VPIDs.
        const INVVPID: u64 = 1 << 32 | 0xf << 40;
        u64::from(self.ept_vpid) | if self.secondary & VPID != 0 { INVVPID } else { 0 }
    }

    /// A capability MSR; `None` if the model does not have it.
    pub fn msr(&self, index: u32, model: &Model) -> Option<u64> {
        Some(match index {
            // SDM 3D A.1: region size 4 KiB, write-back, INS/OUTS information, TRUE controls. Hardware exceptions can be
            // injected with or without an error code only where bit 56 says so: not here.
            0x480 => u64::from(REVISION) | 0x1000 << 32 | 6 << 50 | 1 << 54 | 1 << 55,
            0x481 => self.pair(Group::Pin, false),
            0x482 => self.pair(Group::Primary, false),
            0x483 => self.pair(Group::Exit, false),
            0x484 => self.pair(Group::Entry, false),
            0x485 => self.misc(),
            0x486 => CR0_FIXED0,
            0x487 => 0xffff_ffff,
            0x488 => cr4::VMXE,
            0x489 => model.cr4_supported(),
            0x48a => self.highest_index() << 1,
            0x48b if self.primary & SECONDARY != 0 => self.pair(Group::Secondary, false),
            0x48c if self.secondary & (EPT | VPID) != 0 => self.ept_vpid(),
            0x48d => self.pair(Group::Pin, true),
            0x48e => self.pair(Group::Primary, true),
            0x48f => self.pair(Group::Exit, true),
            0x490 => self.pair(Group::Entry, true),
            0x491 if self.secondary & VM_FUNCTIONS != 0 => u64::from(self.function),
            _ => return None,
        })
    }

    /// IA32_VMX_MISC (SDM 3D A.6).
    fn misc(&self) -> u64 {
        // HLT, shutdown, wait-for-SIPI.
        let activities = 7 << 6;
        let stores_lma = u64::from(self.secondary & UNRESTRICTED_GUEST != 0) << 5;
        // VMWRITE to any field; injection of software events with length 0.
        let writes_all = 1 << 29;
        let length_zero = 1 << 30;
        u64::from(TIMER_SHIFT) | stores_lma | activities | CR3_TARGETS << 16 | writes_all | length_zero
    }

    /// The highest index in any field's encoding (SDM 3D A.9).
    fn highest_index(&self) -> u64 {
        let shown = FIELDS.iter().filter(|info| info.exists(self));
        shown.map(|info| u64::from(info.encoding >> 1 & 0x1ff)).max().unwrap_or(0)
    }
}

/// RDMSR of a capability MSR.
pub(crate) fn read_msr(cpu: &mut Cpu, index: u32) -> Result<u64, Stop> {
    cpu.model.vmx().msr(index, &cpu.model).ok_or_else(|| cpu.gp0())
}

/// WRMSR: they are read-only.
pub(crate) fn write_msr(cpu: &mut Cpu, _: u32, _: u64) -> Result<(), Stop> {
    Err(cpu.gp0())
}

/// Bits of IA32_FEATURE_CONTROL.
pub mod feature_control {
    /// The register cannot be written any more.
    pub const LOCK: u64 = 1 << 0;
    /// VMXON is allowed outside of SMX operation.
    pub const VMX: u64 = 1 << 2;
}

/// WRMSR of IA32_FEATURE_CONTROL: until it is locked.
pub(crate) fn write_feature_control(cpu: &mut Cpu, _: u32, value: u64) -> Result<(), Stop> {
    let vmx = if cpu.model.has(Feature::Vmx) { feature_control::VMX } else { 0 };
    if cpu.msrs.feature_control & feature_control::LOCK != 0 || value & !(feature_control::LOCK | vmx) != 0 {
        return Err(cpu.gp0());
    }
    cpu.msrs.feature_control = value;
    Ok(())
}
