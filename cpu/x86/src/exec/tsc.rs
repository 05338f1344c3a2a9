//! RDTSC, RDTSCP, RDPID.

use crate::control::cr4;
use crate::row::Rows;
use crate::state::gpr::RCX;
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

fn read(cpu: &mut Cpu, i: &Insn, intercept: Intercept) -> Result<(), Stop> {
    if cpu.cpl != 0 && cpu.cr4 & cr4::TSD != 0 {
        return Err(cpu.gp0());
    }
    cpu.intercept(intercept, i)?;
    let tsc = cpu.visible_tsc();
    cpu.set_edx_eax(tsc);
    Ok(())
}

fn rdtsc(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    read(cpu, i, Intercept::Rdtsc)
}

fn rdtscp(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    read(cpu, i, Intercept::Rdtscp)?;
    cpu.regs[RCX] = cpu.msrs.tsc_aux;
    Ok(())
}

fn rdpid(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Rdpid, i)?;
    cpu.regs[usize::from(i.r[0] & 15)] = cpu.msrs.tsc_aux;
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Rdtsc, rdtsc);
    rows.add(Code::Rdtscp, rdtscp);
    rows.add(Code::Rdpid_r32, rdpid);
    rows.add(Code::Rdpid_r64, rdpid);
}
