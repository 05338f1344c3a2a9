//! FADD, FSUB, FMUL, FDIV and their reversed, popping, integer and memory forms.

use super::exception::Operation;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_fp::F80;
use ringworld_fp::x87::{self, X87Env};

/// One of the six operations, of destination and source.
pub(super) trait Arithmetic {
    fn run(env: &mut X87Env, a: F80, b: F80) -> F80;
}

macro_rules! operations {
    ($($name:ident($env:ident, $a:ident, $b:ident) $run:expr;)*) => {$(
        struct $name;
        impl Arithmetic for $name {
            fn run($env: &mut X87Env, $a: F80, $b: F80) -> F80 {
                $run
            }
        }
    )*};
}

operations! {
    Add(env, a, b) x87::fadd(env, a, b);
    Sub(env, a, b) x87::fsub(env, a, b);
    SubReversed(env, a, b) x87::fsub(env, b, a);
    Mul(env, a, b) x87::fmul(env, a, b);
    Div(env, a, b) x87::fdiv(env, a, b);
    DivReversed(env, a, b) x87::fdiv(env, b, a);
}

impl Cpu {
    /// Stores a result of `operation` in ST(`n`), and pops if asked; nothing if an unmasked exception forbids it.
    pub(super) fn x87_result(&mut self, i: &Insn, operation: Operation, n: u8, result: F80, pop: bool) {
        if operation.env.stores() {
            self.x87.set(n, result);
            if pop {
                self.x87.pop();
            }
        }
        self.x87_end(i, operation);
    }

    /// ST(`n`) = f(ST(`n`), ST(`m`)).
    pub(super) fn x87_binary(
        &mut self,
        i: &Insn,
        (n, m): (u8, u8),
        pop: bool,
        f: impl FnOnce(&mut X87Env, F80, F80) -> F80,
    ) -> Result<(), Stop> {
        let mut operation = self.x87_begin()?;
        let result = match (self.x87.get(n), self.x87.get(m)) {
            (Some(a), Some(b)) => f(&mut operation.env, a, b),
            _ => {
                operation.underflow();
                F80::INDEFINITE
            }
        };
        self.x87_result(i, operation, n, result, pop);
        Ok(())
    }
}

fn registers<O: Arithmetic, const POP: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_binary(i, (i.r[0], i.r[1]), POP, O::run)
}

/// A memory operand of an operation with ST(0).
pub(super) trait MemoryOperand: crate::mem::MemValue {
    /// Runs `f` with ST(0) and the operand; a denormal operand raises DE in its turn.
    fn with<R>(self, env: &mut X87Env, st0: F80, f: impl FnOnce(&mut X87Env, F80, F80) -> R) -> R;
}

/// binary32 and binary64; the integers are the signed ones.
macro_rules! memory_operands {
    ($($float:ty)*; $($integer:ty)*) => {
        $(impl MemoryOperand for $float {
            fn with<R>(self, env: &mut X87Env, st0: F80, f: impl FnOnce(&mut X87Env, F80, F80) -> R) -> R {
                x87::with_float(env, st0, self, f)
            }
        })*
        $(impl MemoryOperand for $integer {
            fn with<R>(self, env: &mut X87Env, st0: F80, f: impl FnOnce(&mut X87Env, F80, F80) -> R) -> R {
                f(env, st0, x87::from_integer(self))
            }
        })*
    };
}
memory_operands!(u32 u64; i16 i32);

fn memory<O: Arithmetic, T: MemoryOperand>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut operation = cpu.x87_begin()?;
    let source: T = cpu.load(i)?;
    let result = match cpu.x87.get(0) {
        Some(st0) => source.with(&mut operation.env, st0, O::run),
        None => {
            operation.underflow();
            F80::INDEFINITE
        }
    };
    cpu.x87_result(i, operation, 0, result, false);
    Ok(())
}

macro_rules! family {
    ($rows:ident, $($o:ident: $m32:ident $m64:ident $m16i:ident $m32i:ident $to0:ident $ton:ident $pop:ident;)*) => {$(
        $rows.add(Code::$m32, memory::<$o, u32>);
        $rows.add(Code::$m64, memory::<$o, u64>);
        $rows.add(Code::$m16i, memory::<$o, i16>);
        $rows.add(Code::$m32i, memory::<$o, i32>);
        $rows.add(Code::$to0, registers::<$o, false>);
        $rows.add(Code::$ton, registers::<$o, false>);
        $rows.add(Code::$pop, registers::<$o, true>);
    )*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    family! { rows,
        Add: Fadd_m32fp Fadd_m64fp Fiadd_m16int Fiadd_m32int Fadd_st0_sti Fadd_sti_st0 Faddp_sti_st0;
        Mul: Fmul_m32fp Fmul_m64fp Fimul_m16int Fimul_m32int Fmul_st0_sti Fmul_sti_st0 Fmulp_sti_st0;
        Sub: Fsub_m32fp Fsub_m64fp Fisub_m16int Fisub_m32int Fsub_st0_sti Fsub_sti_st0 Fsubp_sti_st0;
        SubReversed: Fsubr_m32fp Fsubr_m64fp Fisubr_m16int Fisubr_m32int Fsubr_st0_sti Fsubr_sti_st0 Fsubrp_sti_st0;
        Div: Fdiv_m32fp Fdiv_m64fp Fidiv_m16int Fidiv_m32int Fdiv_st0_sti Fdiv_sti_st0 Fdivp_sti_st0;
        DivReversed: Fdivr_m32fp Fdivr_m64fp Fidivr_m16int Fidivr_m32int Fdivr_st0_sti Fdivr_sti_st0 Fdivrp_sti_st0;
    }
}
