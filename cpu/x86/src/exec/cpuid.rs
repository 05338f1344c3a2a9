//! CPUID.

use crate::model::CpuidState;
use crate::msr::CPUID_FAULTING;
use crate::row::Rows;
use crate::state::gpr::{RAX, RBX, RCX, RDX};
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// What CPUID returns for a leaf and subleaf: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let state = CpuidState {
            apic_id: self.id.0,
            apic_enabled: self.lapic.enabled(),
            cr4: self.cr4,
            xcr0: self.xcr0,
            xss: self.msrs.xss,
            misc_enable: self.msrs.misc_enable,
            long64: self.long64(),
        };
        self.model.cpuid(leaf, subleaf, &state)
    }
}

fn cpuid(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Cpuid, i)?;
    // CPUID faulting (SDM 4, MISC_FEATURES_ENABLES).
    if cpu.msrs.misc_features_enables & CPUID_FAULTING != 0 && cpu.cpl != 0 && !cpu.smm {
        return Err(cpu.gp0());
    }
    let [eax, ebx, ecx, edx] = cpu.cpuid(cpu.regs[RAX] as u32, cpu.regs[RCX] as u32);
    for (register, value) in [(RAX, eax), (RBX, ebx), (RCX, ecx), (RDX, edx)] {
        cpu.regs[register] = value.into();
    }
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Cpuid, cpuid);
}
