//! MMX: the registers in the x87 significands (SDM 1 chapter 9, SDM 3A 12).

use super::moves::store_masked_bytes;
use super::table;
use crate::exec::operand::Int;
use crate::row::{Group, Rows};
use crate::{Cpu, Exec, Insn, Stop};
use iced_x86::Code;

/// FSW.TOP.
const TOP: u16 = 7 << 11;

impl Cpu {
    /// Before an MMX instruction: reports a pending x87 exception.
    pub(crate) fn mmx_check(&mut self) -> Result<(), Stop> {
        self.x87_wait()
    }

    /// The effect of all MMX instructions but EMMS on x87 state: TOP is 0, all registers are valid (SDM 3A 12.2).
    pub(crate) fn mmx_use(&mut self) {
        self.x87.status &= !TOP;
        self.x87.valid = 0xff;
    }

    /// An MMX register.
    pub(crate) fn mm(&self, n: u8) -> u64 {
        self.x87.significand[usize::from(n & 7)]
    }

    /// Writes an MMX register: sign and exponent become ones.
    pub(crate) fn set_mm(&mut self, n: u8, value: u64) {
        self.x87.significand[usize::from(n & 7)] = value;
        self.x87.exponent[usize::from(n & 7)] = 0xffff;
    }
}

/// `mm = f(mm, mm/m64, imm)`.
pub fn binary(cpu: &mut Cpu, i: &Insn, f: impl FnOnce(u64, u64, u8) -> u64) -> Result<(), Stop> {
    cpu.mmx_check()?;
    let b = source(cpu, i)?;
    cpu.mmx_use();
    let d = f(cpu.mm(i.r[0]), b, i.imm as u8);
    cpu.set_mm(i.r[0], d);
    Ok(())
}

/// `mm = f(mm)`.
pub fn unary(cpu: &mut Cpu, n: u8, f: impl FnOnce(u64) -> u64) -> Result<(), Stop> {
    cpu.mmx_check()?;
    cpu.mmx_use();
    let d = f(cpu.mm(n));
    cpu.set_mm(n, d);
    Ok(())
}

/// `mm = f(mm, mm/m32)`: the low halves' unpacks.
pub fn binary_low(cpu: &mut Cpu, i: &Insn, f: impl FnOnce(u64, u64) -> u64) -> Result<(), Stop> {
    cpu.mmx_check()?;
    let b = if i.has_memory() { cpu.load::<u32>(i)?.into() } else { cpu.mm(i.r[1]) };
    cpu.mmx_use();
    let d = f(cpu.mm(i.r[0]), b);
    cpu.set_mm(i.r[0], d);
    Ok(())
}

fn source(cpu: &mut Cpu, i: &Insn) -> Result<u64, Stop> {
    if i.has_memory() { cpu.load(i) } else { Ok(cpu.mm(i.r[1])) }
}

fn emms(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    cpu.x87.valid = 0;
    cpu.x87.status &= !TOP;
    Ok(())
}

/// MOVD, MOVQ to an MMX register from a general register or memory.
fn from_general<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    let value = if i.has_memory() { cpu.load::<T>(i)? } else { T::get(cpu, i.r[1]) };
    cpu.mmx_use();
    cpu.set_mm(i.r[0], value.zx());
    Ok(())
}

/// MOVD, MOVQ from an MMX register; MOVNTQ.
fn to_general<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    let value = T::of(cpu.mm(i.r[1]));
    if !cpu.model.is_amd() {
        // Intel's silicon has cleared TOP already when the store faults.
        cpu.x87.status &= !TOP;
    }
    if i.has_memory() {
        cpu.store(i, value)?;
    } else {
        T::set(cpu, i.r[0], value);
    }
    cpu.mmx_use();
    Ok(())
}

fn movq(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    binary(cpu, i, |_, b, _| b)
}

fn movdq2q(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    cpu.mmx_use();
    let value = cpu.zmm[usize::from(i.r[1] & 31)][0];
    cpu.set_mm(i.r[0], value);
    Ok(())
}

fn movq2dq(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    cpu.mmx_use();
    let value = cpu.mm(i.r[1]);
    let d = &mut cpu.zmm[usize::from(i.r[0] & 31)];
    d[0] = value;
    d[1] = 0;
    Ok(())
}

fn maskmovq(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    let (data, mask) = (cpu.mm(i.r[1]).to_le_bytes(), cpu.mm(i.r[2]).to_le_bytes());
    cpu.mmx_use();
    store_masked_bytes(cpu, i, &data, &mask)
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    let moves: [(Code, Exec); 9] = [
        (Code::Movd_mm_rm32, from_general::<u32>),
        (Code::Movq_mm_rm64, from_general::<u64>),
        (Code::Movd_rm32_mm, to_general::<u32>),
        (Code::Movq_rm64_mm, to_general::<u64>),
        (Code::Movq_mm_mmm64, movq),
        (Code::Movntq_m64_mm, to_general::<u64>),
        (Code::Maskmovq_rDI_mm_mm, maskmovq),
        (Code::Movdq2q_mm_xmm, movdq2q),
        (Code::Movq2dq_xmm_mm, movq2dq),
    ];
    rows.group(Group::Mmx);
    rows.add(Code::Emms, emms);
    for (code, exec) in moves {
        table::add(rows, code, exec, exec);
    }
    rows.group(Group::Mmx);
    rows.add_rm(Code::Movq_mmm64_mm, movq, to_general::<u64>);
}
