//! RDPKRU and WRPKRU (SDM 2B).

use crate::control::cr4;
use crate::row::Rows;
use crate::state::gpr::{RAX, RCX, RDX};
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

fn check(cpu: &mut Cpu, must_be_zero: u64) -> Result<(), Stop> {
    if cpu.cr4 & cr4::PKE == 0 {
        return Err(cpu.ud());
    }
    if must_be_zero as u32 != 0 { Err(cpu.gp0()) } else { Ok(()) }
}

fn rdpkru(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    check(cpu, cpu.regs[RCX])?;
    cpu.set_edx_eax(cpu.pkru.into());
    Ok(())
}

fn wrpkru(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    check(cpu, cpu.regs[RCX] | cpu.regs[RDX])?;
    cpu.set_pkru(cpu.regs[RAX] as u32);
    Ok(())
}

impl Cpu {
    /// Sets PKRU. What a block has been allowed to access it may not be allowed any more.
    pub(crate) fn set_pkru(&mut self, value: u32) {
        if self.pkru != value {
            self.pkru = value;
            self.update_context();
            self.end_block();
        }
    }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Rdpkru, rdpkru);
    rows.add(Code::Wrpkru, wrpkru);
}
