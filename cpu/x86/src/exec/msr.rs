//! RDMSR, WRMSR, RDPMC.

use crate::control::cr4;
use crate::row::Rows;
use crate::state::gpr::{RAX, RCX, RDX};
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// Puts the halves of a value into EDX:EAX.
    pub(crate) fn set_edx_eax(&mut self, value: u64) {
        self.regs[RAX] = value & 0xffff_ffff;
        self.regs[RDX] = value >> 32;
    }

    /// EDX:EAX.
    pub(crate) fn edx_eax(&self) -> u64 {
        self.regs[RAX] & 0xffff_ffff | self.regs[RDX] << 32
    }
}

fn rdmsr(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let index = cpu.regs[RCX] as u32;
    let value = match cpu.intercept_rdmsr(index, i)? {
        Some(value) => value,
        None => cpu.read_msr(index)?,
    };
    cpu.set_edx_eax(value);
    Ok(())
}

fn wrmsr(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (index, value) = (cpu.regs[RCX] as u32, cpu.edx_eax());
    if cpu.intercept_wrmsr(index, value, i)? {
        return Ok(());
    }
    cpu.write_msr(index, value)
}

/// At other privilege levels than 0, CR4.PCE must be set (SDM 2B RDPMC).
fn rdpmc(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.cpl != 0 && cpu.cr4 & cr4::PCE == 0 {
        return Err(cpu.gp0());
    }
    cpu.intercept(Intercept::Rdpmc, i)?;
    let value = cpu.read_pmc(cpu.regs[RCX] as u32)?;
    cpu.set_edx_eax(value);
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Rdmsr, rdmsr).cpl0();
    rows.add(Code::Wrmsr, wrmsr).cpl0().ends_block();
    rows.add(Code::Wrmsrns, wrmsr).cpl0().ends_block();
    rows.add(Code::Rdpmc, rdpmc);
}
