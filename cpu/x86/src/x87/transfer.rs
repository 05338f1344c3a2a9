//! Loads, stores, exchanges, conditional moves and constants.

use super::fsw;
use crate::mem::{Kind, MemValue};
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_fp::x87::{self, Constant, X87Env};
use ringworld_fp::{F80, Format, FpFlags, Integer, Rounding};

impl Cpu {
    /// Pushes what `load` makes of the environment.
    fn x87_push(
        &mut self,
        i: &Insn,
        load: impl FnOnce(&mut Self, &mut X87Env) -> Result<F80, Stop>,
    ) -> Result<(), Stop> {
        let mut operation = self.x87_begin()?;
        let mut env = operation.env;
        let mut value = load(self, &mut env)?;
        if self.x87.get(7).is_some() {
            operation.overflow();
            value = F80::INDEFINITE;
        } else {
            operation.env = env;
        }
        // An unmasked DE alone does not keep a load from being done, as silicon has it.
        if operation.env.masks.contains(operation.env.flags & FpFlags::IE) {
            self.x87.push(value);
        }
        self.x87_end(i, operation);
        Ok(())
    }

    /// Stores ST(0) as `convert` makes it, or `indefinite` if it is empty, by `store`.
    fn x87_store<T: MemValue, const POP: bool>(
        &mut self,
        i: &Insn,
        indefinite: T,
        convert: impl FnOnce(&mut X87Env, F80) -> T,
        store: impl FnOnce(&mut Self, T) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut operation = self.x87_begin()?;
        let value = match self.x87.get(0) {
            Some(st0) => convert(&mut operation.env, st0),
            None => {
                operation.underflow();
                indefinite
            }
        };
        if operation.env.stores_to_memory() {
            store(self, value)?;
            if POP {
                self.x87.pop();
            }
        } else {
            // Intel does not look at the operand, and reports no fault of it; AMD does.
            if self.model.is_amd() {
                if T::SIZE == 10 {
                    self.x87_align80(i, Kind::Write)?;
                }
                self.probe(i.segment(), self.effective_address(i), T::SIZE, Kind::Write)?;
            }
            operation.env.c1 = false;
        }
        self.x87_end(i, operation);
        Ok(())
    }

    /// Stores 80 bits as Intel's silicon does: the significand, then sign and exponent. A fault of the second leaves the first
    /// written.
    fn x87_store80(&mut self, i: &Insn, bytes: [u8; 10]) -> Result<(), Stop> {
        self.x87_align80(i, Kind::Write)?;
        let offset = self.effective_address(i);
        if self.model.is_amd() {
            return self.write_bytes(i.segment(), offset, &bytes);
        }
        let [low @ .., h, j] = bytes;
        self.check_segment(i.segment(), offset, 10, Kind::Write)?;
        self.write(i.segment(), offset, low)?;
        self.write(i.segment(), offset.wrapping_add(8) & i.address_mask(), [h, j])
    }

    /// An 80-bit operand wants 8-byte alignment under alignment checking (SDM 3A table 6-7).
    fn x87_align80(&mut self, i: &Insn, kind: Kind) -> Result<(), Stop> {
        if self.alignment_checked()
            && self.check_segment(i.segment(), self.effective_address(i), 10, kind)? & 7 != 0
        {
            return Err(self.ac());
        }
        Ok(())
    }
}

fn fld_sti(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    let source = cpu.x87.get(i.r[0]);
    let value = match source {
        Some(_) if cpu.x87.get(7).is_some() => {
            operation.overflow();
            F80::INDEFINITE
        }
        Some(value) => value,
        None => {
            operation.underflow();
            F80::INDEFINITE
        }
    };
    if operation.env.stores() {
        cpu.x87.push(value);
    }
    cpu.x87_end(i, operation);
    Ok(())
}

fn fld<F: Format + MemValue>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_push(i, |cpu, env| Ok(x87::from_float::<F>(env, cpu.load(i)?)))
}

fn fld_m80(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_push(i, |cpu, _| {
        cpu.x87_align80(i, Kind::Read)?;
        Ok(F80::from_bytes(cpu.load(i)?))
    })
}

fn fild<I: Integer + MemValue>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_push(i, |cpu, _| Ok(x87::from_integer::<I>(cpu.load(i)?)))
}

fn fbld(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_push(i, |cpu, _| {
        cpu.x87_align80(i, Kind::Read)?;
        Ok(x87::from_bcd(cpu.load(i)?))
    })
}

fn fst<F: Format + MemValue, const POP: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let indefinite = F::from_bits(F::INDEFINITE);
    cpu.x87_store::<F, POP>(i, indefinite, x87::to_float, |cpu, value| cpu.store(i, value))
}

fn fstp_m80(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let bytes = |_: &mut X87Env, a: F80| a.to_bytes();
    cpu.x87_store::<_, true>(i, F80::INDEFINITE.to_bytes(), bytes, |cpu, value| cpu.x87_store80(i, value))
}

fn fbstp(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_store::<_, true>(i, x87::BCD_INDEFINITE, x87::to_bcd, |cpu, value| cpu.x87_store80(i, value))
}

fn fist<I: Integer + MemValue, const POP: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let convert = |env: &mut X87Env, a| x87::to_integer(env, a, env.rounding);
    cpu.x87_store::<I, POP>(i, I::INDEFINITE, convert, |cpu, value| cpu.store(i, value))
}

fn fisttp<I: Integer + MemValue>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let convert = |env: &mut X87Env, a| x87::to_integer(env, a, Rounding::Zero);
    cpu.x87_store::<I, true>(i, I::INDEFINITE, convert, |cpu, value| cpu.store(i, value))
}

/// FST ST(i) and FSTP ST(i).
fn fst_sti<const POP: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    let value = cpu.x87.get(0).unwrap_or_else(|| {
        operation.underflow();
        F80::INDEFINITE
    });
    cpu.x87_result(i, operation, i.r[0], value, POP);
    Ok(())
}

/// The alias of FSTP ST(i) at D9 D8 that does not mind an empty ST(0), and then only pops.
fn fstpnce(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let operation = cpu.x87_begin()?;
    if let Some(value) = cpu.x87.get(0) {
        cpu.x87.set(i.r[0], value);
    }
    cpu.x87.pop();
    cpu.x87_end(i, operation);
    Ok(())
}

fn fxch(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    let n = i.r[1];
    let (a, b) = (cpu.x87.get(0), cpu.x87.get(n));
    if a.is_none() || b.is_none() {
        operation.underflow();
    }
    if operation.env.stores() {
        cpu.x87.set(0, b.unwrap_or(F80::INDEFINITE));
        cpu.x87.set(n, a.unwrap_or(F80::INDEFINITE));
    }
    cpu.x87_end(i, operation);
    Ok(())
}

/// FCMOVcc; the condition is that of a Jcc with the same number.
fn fcmov<const CC: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    operation.env.c1 = cpu.x87.status & fsw::C1 != 0;
    let met = cpu.flags.condition(CC);
    let value = match (cpu.x87.get(0), cpu.x87.get(i.r[1])) {
        (Some(a), Some(b)) => {
            if met {
                b
            } else {
                a
            }
        }
        _ => {
            operation.underflow();
            F80::INDEFINITE
        }
    };
    cpu.x87_result(i, operation, 0, value, false);
    Ok(())
}

macro_rules! constants {
    ($rows:ident, $($code:ident $constant:ident)*) => {$(
        $rows.add(Code::$code, |cpu, i| cpu.x87_push(i, |_, env| Ok(Constant::$constant.load(env))));
    )*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Fld_sti, fld_sti);
    rows.add(Code::Fld_m32fp, fld::<u32>);
    rows.add(Code::Fld_m64fp, fld::<u64>);
    rows.add(Code::Fld_m80fp, fld_m80);
    rows.add(Code::Fild_m16int, fild::<i16>);
    rows.add(Code::Fild_m32int, fild::<i32>);
    rows.add(Code::Fild_m64int, fild::<i64>);
    rows.add(Code::Fbld_m80bcd, fbld);
    rows.add(Code::Fst_m32fp, fst::<u32, false>);
    rows.add(Code::Fst_m64fp, fst::<u64, false>);
    rows.add(Code::Fstp_m32fp, fst::<u32, true>);
    rows.add(Code::Fstp_m64fp, fst::<u64, true>);
    rows.add(Code::Fstp_m80fp, fstp_m80);
    rows.add(Code::Fist_m16int, fist::<i16, false>);
    rows.add(Code::Fist_m32int, fist::<i32, false>);
    rows.add(Code::Fistp_m16int, fist::<i16, true>);
    rows.add(Code::Fistp_m32int, fist::<i32, true>);
    rows.add(Code::Fistp_m64int, fist::<i64, true>);
    rows.add(Code::Fisttp_m16int, fisttp::<i16>);
    rows.add(Code::Fisttp_m32int, fisttp::<i32>);
    rows.add(Code::Fisttp_m64int, fisttp::<i64>);
    rows.add(Code::Fbstp_m80bcd, fbstp);
    rows.add(Code::Fst_sti, fst_sti::<false>);
    for code in [Code::Fstp_sti, Code::Fstp_sti_DFD0, Code::Fstp_sti_DFD8] {
        rows.add(code, fst_sti::<true>);
    }
    rows.add(Code::Fstpnce_sti, fstpnce);
    for code in [Code::Fxch_st0_sti, Code::Fxch_st0_sti_DDC8, Code::Fxch_st0_sti_DFC8] {
        rows.add(code, fxch);
    }
    rows.add(Code::Fcmovb_st0_sti, fcmov::<2>);
    rows.add(Code::Fcmove_st0_sti, fcmov::<4>);
    rows.add(Code::Fcmovbe_st0_sti, fcmov::<6>);
    rows.add(Code::Fcmovu_st0_sti, fcmov::<10>);
    rows.add(Code::Fcmovnb_st0_sti, fcmov::<3>);
    rows.add(Code::Fcmovne_st0_sti, fcmov::<5>);
    rows.add(Code::Fcmovnbe_st0_sti, fcmov::<7>);
    rows.add(Code::Fcmovnu_st0_sti, fcmov::<11>);
    constants!(rows, Fld1 One Fldl2t Log2Of10 Fldl2e Log2OfE Fldpi Pi Fldlg2 Log10Of2 Fldln2 LnOf2 Fldz Zero);
}
