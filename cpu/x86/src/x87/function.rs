//! Instructions that compute on the top of the stack: sign, root, rounding, scaling, remainders, transcendentals.

use super::fsw;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_fp::F80;
use ringworld_fp::x87::{self, Remainder, X87Env};

impl Cpu {
    /// ST(0) = f(ST(0)).
    fn x87_unary(&mut self, i: &Insn, f: impl FnOnce(&mut X87Env, F80) -> F80) -> Result<(), Stop> {
        self.x87_binary(i, (0, 0), false, |env, a, _| f(env, a))
    }

    /// ST(0) = f(ST(0)), and C2 if there is no result: the operand is out of range.
    fn x87_ranged(&mut self, i: &Insn, f: impl FnOnce(&mut X87Env, F80) -> Option<F80>) -> Result<(), Stop> {
        let mut ranged = true;
        self.x87_unary(i, |env, a| {
            let result = f(env, a);
            ranged = result.is_some();
            result.unwrap_or(a)
        })?;
        self.x87_set_c2(!ranged);
        Ok(())
    }

    fn x87_set_c2(&mut self, c2: bool) {
        self.x87.status = self.x87.status & !fsw::C2 | if c2 { fsw::C2 } else { 0 };
    }

    /// Replaces ST(0) by the first result of `f` and pushes the second. Without results the operand is out of range.
    fn x87_pair(
        &mut self,
        i: &Insn,
        f: impl FnOnce(&mut X87Env, F80) -> Option<(F80, F80)>,
    ) -> Result<bool, Stop> {
        let mut operation = self.x87_begin()?;
        let results = match self.x87.get(0) {
            None => {
                operation.underflow();
                Some((F80::INDEFINITE, F80::INDEFINITE))
            }
            Some(_) if self.x87.get(7).is_some() => {
                operation.overflow();
                Some((F80::INDEFINITE, F80::INDEFINITE))
            }
            Some(st0) => f(&mut operation.env, st0),
        };
        let ranged = results.is_some();
        if let Some((first, second)) = results
            && operation.env.stores()
        {
            self.x87.set(0, first);
            self.x87.push(second);
        }
        self.x87_end(i, operation);
        Ok(ranged)
    }

    fn x87_remainder(
        &mut self,
        i: &Insn,
        f: impl FnOnce(&mut X87Env, F80, F80) -> Remainder,
    ) -> Result<(), Stop> {
        let mut remainder = Remainder { value: F80::INDEFINITE, partial: false, quotient: None };
        self.x87_binary(i, (0, 1), false, |env, a, b| {
            remainder = f(env, a, b);
            env.c1 |= remainder.quotient.is_some_and(|q| q & 1 != 0);
            remainder.value
        })?;
        self.x87_set_c2(remainder.partial);
        if let Some(quotient) = remainder.quotient {
            let bit = |n: u8, condition: u16| if quotient >> n & 1 != 0 { condition } else { 0 };
            let c2 = self.x87.status & fsw::C2;
            self.x87.set_conditions(bit(2, fsw::C0) | bit(1, fsw::C3) | c2);
        }
        Ok(())
    }
}

/// ST(1) = f(ST(0), ST(1)), then pop.
fn into_st1(cpu: &mut Cpu, i: &Insn, f: impl FnOnce(&mut X87Env, F80, F80) -> F80) -> Result<(), Stop> {
    cpu.x87_binary(i, (1, 0), true, |env, y, x| f(env, x, y))
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Fchs, |cpu, i| cpu.x87_unary(i, |_, a| a.negate()));
    rows.add(Code::Fabs, |cpu, i| cpu.x87_unary(i, |_, a| a.abs()));
    rows.add(Code::Fsqrt, |cpu, i| cpu.x87_unary(i, x87::fsqrt));
    rows.add(Code::Frndint, |cpu, i| cpu.x87_unary(i, x87::frndint));
    rows.add(Code::F2xm1, |cpu, i| cpu.x87_unary(i, x87::f2xm1));
    rows.add(Code::Fscale, |cpu, i| cpu.x87_binary(i, (0, 1), false, x87::fscale));
    rows.add(Code::Fprem, |cpu, i| cpu.x87_remainder(i, x87::fprem));
    rows.add(Code::Fprem1, |cpu, i| cpu.x87_remainder(i, x87::fprem1));
    rows.add(Code::Fyl2x, |cpu, i| into_st1(cpu, i, x87::fyl2x));
    rows.add(Code::Fyl2xp1, |cpu, i| into_st1(cpu, i, x87::fyl2xp1));
    rows.add(Code::Fpatan, |cpu, i| into_st1(cpu, i, x87::fpatan));
    rows.add(Code::Fsin, |cpu, i| cpu.x87_ranged(i, x87::fsin));
    rows.add(Code::Fcos, |cpu, i| cpu.x87_ranged(i, x87::fcos));
    rows.add(Code::Fsincos, |cpu, i| {
        let ranged = cpu.x87_pair(i, x87::fsincos)?;
        cpu.x87_set_c2(!ranged);
        Ok(())
    });
    rows.add(Code::Fptan, |cpu, i| {
        let ranged = cpu.x87_pair(i, x87::fptan)?;
        cpu.x87_set_c2(!ranged);
        Ok(())
    });
    rows.add(Code::Fxtract, |cpu, i| cpu.x87_pair(i, |env, a| Some(x87::fxtract(env, a))).map(drop));
}
