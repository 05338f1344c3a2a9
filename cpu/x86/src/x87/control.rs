//! Control instructions, and those that only change the stack's bookkeeping.

use super::fsw;
use crate::exec::operand::Int;
use crate::row::{Group, Rows};
use crate::state::gpr;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

fn fninit(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.x87.initialize();
    cpu.x87_loaded();
    Ok(())
}

fn fnclex(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.x87.status &= !(fsw::EXCEPTIONS | fsw::SF | fsw::ES | fsw::B);
    cpu.x87_loaded();
    Ok(())
}

fn fldcw(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_wait()?;
    let control = cpu.load(i)?;
    cpu.x87.set_control(control);
    cpu.x87_loaded();
    Ok(())
}

fn fnstcw(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.store(i, cpu.x87.control)
}

fn fnstsw(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.store(i, cpu.x87.status)
}

fn fnstsw_ax(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    u16::set(cpu, gpr::RAX as u8, cpu.x87.status);
    Ok(())
}

/// Moves TOP; the tags stay (SDM 2A FINCSTP, FDECSTP).
fn turn<const BY: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let operation = cpu.x87_begin()?;
    cpu.x87.set_top(cpu.x87.top().wrapping_add(BY));
    cpu.x87_end(i, operation);
    Ok(())
}

/// FFREE, and FFREEP, which also pops.
fn ffree<const POP: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let operation = cpu.x87_begin()?;
    cpu.x87.free(i.r[0]);
    if POP {
        cpu.x87.pop();
    }
    cpu.x87_end(i, operation);
    Ok(())
}

fn fnop(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    operation.env.c1 = cpu.x87.status & fsw::C1 != 0;
    cpu.x87_end(i, operation);
    Ok(())
}

fn wait(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.x87_wait()
}

/// FNENI, FNDISI and FNSETPM do nothing since the 387 (SDM 3B 24.18.9).
fn nothing(_: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Fninit, fninit);
    rows.add(Code::Fnclex, fnclex);
    rows.add(Code::Fldcw_m2byte, fldcw);
    rows.add(Code::Fnstcw_m2byte, fnstcw);
    rows.add(Code::Fnstsw_m2byte, fnstsw);
    rows.add(Code::Fnstsw_AX, fnstsw_ax);
    rows.add(Code::Fincstp, turn::<1>);
    rows.add(Code::Fdecstp, turn::<7>);
    rows.add(Code::Ffree_sti, ffree::<false>);
    rows.add(Code::Ffreep_sti, ffree::<true>);
    rows.add(Code::Fnop, fnop);
    for code in [Code::Fneni, Code::Fndisi, Code::Fnsetpm] {
        rows.add(code, nothing);
    }
    rows.group(Group::Wait);
    rows.add(Code::Wait, wait);
    rows.group(Group::X87);
}
