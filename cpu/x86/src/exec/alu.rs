//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT.

use super::operand::*;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

/// An operation of two operands that sets the six status flags.
trait Op {
    /// Whether the result is written.
    const WRITES: bool;
    fn run<T: Int>(cpu: &mut Cpu, a: T, b: T) -> T;
}

impl Cpu {
    /// Sets ZF, SF and PF from a result.
    #[inline(always)]
    pub(crate) fn set_result<T: Int>(&mut self, result: T) {
        let extended = result.sx();
        self.flags.zero = extended;
        self.flags.sign = extended;
        self.flags.parity = extended as u8;
    }

    /// Sets the flags of a logic operation: CF, OF and AF are cleared.
    #[inline(always)]
    pub(crate) fn set_logic<T: Int>(&mut self, result: T) {
        self.set_result(result);
        self.flags.carry = 0;
        self.flags.adjust = 0;
    }

    /// `a + b + carry_in` and its flags.
    #[inline(always)]
    pub(crate) fn add<T: Int>(&mut self, a: T, b: T, carry_in: bool) -> T {
        let (a, b) = (a.zx(), b.zx());
        let r = a.wrapping_add(b).wrapping_add(carry_in.into());
        let carries = (a & b) | ((a | b) & !r);
        self.flags.carry = carries << (64 - T::BITS);
        self.flags.adjust = (a ^ b ^ r) as u8;
        self.set_result(T::of(r));
        T::of(r)
    }

    /// `a - b - borrow_in` and its flags.
    #[inline(always)]
    pub(crate) fn sub<T: Int>(&mut self, a: T, b: T, borrow_in: bool) -> T {
        let (a, b) = (a.zx(), b.zx());
        let r = a.wrapping_sub(b).wrapping_sub(borrow_in.into());
        let borrows = (!a & b) | ((!a | b) & r);
        self.flags.carry = borrows << (64 - T::BITS);
        self.flags.adjust = (a ^ b ^ r) as u8;
        self.set_result(T::of(r));
        T::of(r)
    }
}

macro_rules! ops {
    ($($name:ident, $writes:expr, |$cpu:ident, $a:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl Op for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn run<T: Int>($cpu: &mut Cpu, $a: T, $b: T) -> T {
                $body
            }
        }
    )*};
}

ops! {
    Add, true, |cpu, a, b| cpu.add(a, b, false);
    Adc, true, |cpu, a, b| { let carry = cpu.flags.cf(); cpu.add(a, b, carry) };
    Sub, true, |cpu, a, b| cpu.sub(a, b, false);
    Sbb, true, |cpu, a, b| { let borrow = cpu.flags.cf(); cpu.sub(a, b, borrow) };
    Cmp, false, |cpu, a, b| cpu.sub(a, b, false);
    And, true, |cpu, a, b| { let r = T::of(a.zx() & b.zx()); cpu.set_logic(r); r };
    Or, true, |cpu, a, b| { let r = T::of(a.zx() | b.zx()); cpu.set_logic(r); r };
    Xor, true, |cpu, a, b| { let r = T::of(a.zx() ^ b.zx()); cpu.set_logic(r); r };
    Test, false, |cpu, a, b| { let r = T::of(a.zx() & b.zx()); cpu.set_logic(r); r };
}

/// `D = D op S`, or the flags alone.
fn binary<O: Op, T: Int, D: Place, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = S::read::<T>(cpu, i)?;
    if O::WRITES {
        D::modify::<T>(cpu, i, |cpu, a| O::run(cpu, a, b))
    } else {
        let a = D::read::<T>(cpu, i)?;
        O::run(cpu, a, b);
        Ok(())
    }
}

fn inc<T: Int, D: Place>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    D::modify::<T>(cpu, i, |cpu, a| {
        let carry = cpu.flags.cf();
        let r = cpu.add(a, T::of(1), false);
        cpu.flags.set_cf(carry);
        r
    })
}

fn dec<T: Int, D: Place>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    D::modify::<T>(cpu, i, |cpu, a| {
        let carry = cpu.flags.cf();
        let r = cpu.sub(a, T::of(1), false);
        cpu.flags.set_cf(carry);
        r
    })
}

fn neg<T: Int, D: Place>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    D::modify::<T>(cpu, i, |cpu, a| cpu.sub(T::of(0), a, false))
}

fn not<T: Int, D: Place>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    D::modify::<T>(cpu, i, |_, a| T::of(!a.zx()))
}

macro_rules! binary_rows {
    ($rows:ident, $($op:ident: $rm8_r8:ident $rm16_r16:ident $rm32_r32:ident $rm64_r64:ident
        $r8_rm8:ident $r16_rm16:ident $r32_rm32:ident $r64_rm64:ident
        $al:ident $ax:ident $eax:ident $rax:ident
        $rm8_imm8:ident $rm8_imm8_82:ident $rm16_imm16:ident $rm32_imm32:ident $rm64_imm32:ident
        $rm16_imm8:ident $rm32_imm8:ident $rm64_imm8:ident;)*) => {$(
        $rows.add_rm(Code::$rm8_r8, binary::<$op, u8, R<0>, R<1>>, binary::<$op, u8, Mem, R<1>>);
        $rows.add_rm(Code::$rm16_r16, binary::<$op, u16, R<0>, R<1>>, binary::<$op, u16, Mem, R<1>>);
        $rows.add_rm(Code::$rm32_r32, binary::<$op, u32, R<0>, R<1>>, binary::<$op, u32, Mem, R<1>>);
        $rows.add_rm(Code::$rm64_r64, binary::<$op, u64, R<0>, R<1>>, binary::<$op, u64, Mem, R<1>>);
        $rows.add_rm(Code::$r8_rm8, binary::<$op, u8, R<0>, R<1>>, binary::<$op, u8, R<0>, Mem>);
        $rows.add_rm(Code::$r16_rm16, binary::<$op, u16, R<0>, R<1>>, binary::<$op, u16, R<0>, Mem>);
        $rows.add_rm(Code::$r32_rm32, binary::<$op, u32, R<0>, R<1>>, binary::<$op, u32, R<0>, Mem>);
        $rows.add_rm(Code::$r64_rm64, binary::<$op, u64, R<0>, R<1>>, binary::<$op, u64, R<0>, Mem>);
        $rows.add(Code::$al, binary::<$op, u8, R<0>, Imm>);
        $rows.add(Code::$ax, binary::<$op, u16, R<0>, Imm>);
        $rows.add(Code::$eax, binary::<$op, u32, R<0>, Imm>);
        $rows.add(Code::$rax, binary::<$op, u64, R<0>, Imm>);
        for code in [Code::$rm8_imm8, Code::$rm8_imm8_82] {
            $rows.add_rm(code, binary::<$op, u8, R<0>, Imm>, binary::<$op, u8, Mem, Imm>);
        }
        for code in [Code::$rm16_imm16, Code::$rm16_imm8] {
            $rows.add_rm(code, binary::<$op, u16, R<0>, Imm>, binary::<$op, u16, Mem, Imm>);
        }
        for code in [Code::$rm32_imm32, Code::$rm32_imm8] {
            $rows.add_rm(code, binary::<$op, u32, R<0>, Imm>, binary::<$op, u32, Mem, Imm>);
        }
        for code in [Code::$rm64_imm32, Code::$rm64_imm8] {
            $rows.add_rm(code, binary::<$op, u64, R<0>, Imm>, binary::<$op, u64, Mem, Imm>);
        }
    )*};
}

macro_rules! unary_rows {
    ($rows:ident, $($f:ident: $rm8:ident $rm16:ident $rm32:ident $rm64:ident;)*) => {$(
        $rows.add_rm(Code::$rm8, $f::<u8, R<0>>, $f::<u8, Mem>);
        $rows.add_rm(Code::$rm16, $f::<u16, R<0>>, $f::<u16, Mem>);
        $rows.add_rm(Code::$rm32, $f::<u32, R<0>>, $f::<u32, Mem>);
        $rows.add_rm(Code::$rm64, $f::<u64, R<0>>, $f::<u64, Mem>);
    )*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    binary_rows! { rows,
        Add: Add_rm8_r8 Add_rm16_r16 Add_rm32_r32 Add_rm64_r64 Add_r8_rm8 Add_r16_rm16 Add_r32_rm32 Add_r64_rm64
            Add_AL_imm8 Add_AX_imm16 Add_EAX_imm32 Add_RAX_imm32
            Add_rm8_imm8 Add_rm8_imm8_82 Add_rm16_imm16 Add_rm32_imm32 Add_rm64_imm32
            Add_rm16_imm8 Add_rm32_imm8 Add_rm64_imm8;
        Or: Or_rm8_r8 Or_rm16_r16 Or_rm32_r32 Or_rm64_r64 Or_r8_rm8 Or_r16_rm16 Or_r32_rm32 Or_r64_rm64
            Or_AL_imm8 Or_AX_imm16 Or_EAX_imm32 Or_RAX_imm32
            Or_rm8_imm8 Or_rm8_imm8_82 Or_rm16_imm16 Or_rm32_imm32 Or_rm64_imm32
            Or_rm16_imm8 Or_rm32_imm8 Or_rm64_imm8;
        Adc: Adc_rm8_r8 Adc_rm16_r16 Adc_rm32_r32 Adc_rm64_r64 Adc_r8_rm8 Adc_r16_rm16 Adc_r32_rm32 Adc_r64_rm64
            Adc_AL_imm8 Adc_AX_imm16 Adc_EAX_imm32 Adc_RAX_imm32
            Adc_rm8_imm8 Adc_rm8_imm8_82 Adc_rm16_imm16 Adc_rm32_imm32 Adc_rm64_imm32
            Adc_rm16_imm8 Adc_rm32_imm8 Adc_rm64_imm8;
        Sbb: Sbb_rm8_r8 Sbb_rm16_r16 Sbb_rm32_r32 Sbb_rm64_r64 Sbb_r8_rm8 Sbb_r16_rm16 Sbb_r32_rm32 Sbb_r64_rm64
            Sbb_AL_imm8 Sbb_AX_imm16 Sbb_EAX_imm32 Sbb_RAX_imm32
            Sbb_rm8_imm8 Sbb_rm8_imm8_82 Sbb_rm16_imm16 Sbb_rm32_imm32 Sbb_rm64_imm32
            Sbb_rm16_imm8 Sbb_rm32_imm8 Sbb_rm64_imm8;
        And: And_rm8_r8 And_rm16_r16 And_rm32_r32 And_rm64_r64 And_r8_rm8 And_r16_rm16 And_r32_rm32 And_r64_rm64
            And_AL_imm8 And_AX_imm16 And_EAX_imm32 And_RAX_imm32
            And_rm8_imm8 And_rm8_imm8_82 And_rm16_imm16 And_rm32_imm32 And_rm64_imm32
            And_rm16_imm8 And_rm32_imm8 And_rm64_imm8;
        Sub: Sub_rm8_r8 Sub_rm16_r16 Sub_rm32_r32 Sub_rm64_r64 Sub_r8_rm8 Sub_r16_rm16 Sub_r32_rm32 Sub_r64_rm64
            Sub_AL_imm8 Sub_AX_imm16 Sub_EAX_imm32 Sub_RAX_imm32
            Sub_rm8_imm8 Sub_rm8_imm8_82 Sub_rm16_imm16 Sub_rm32_imm32 Sub_rm64_imm32
            Sub_rm16_imm8 Sub_rm32_imm8 Sub_rm64_imm8;
        Xor: Xor_rm8_r8 Xor_rm16_r16 Xor_rm32_r32 Xor_rm64_r64 Xor_r8_rm8 Xor_r16_rm16 Xor_r32_rm32 Xor_r64_rm64
            Xor_AL_imm8 Xor_AX_imm16 Xor_EAX_imm32 Xor_RAX_imm32
            Xor_rm8_imm8 Xor_rm8_imm8_82 Xor_rm16_imm16 Xor_rm32_imm32 Xor_rm64_imm32
            Xor_rm16_imm8 Xor_rm32_imm8 Xor_rm64_imm8;
        Cmp: Cmp_rm8_r8 Cmp_rm16_r16 Cmp_rm32_r32 Cmp_rm64_r64 Cmp_r8_rm8 Cmp_r16_rm16 Cmp_r32_rm32 Cmp_r64_rm64
            Cmp_AL_imm8 Cmp_AX_imm16 Cmp_EAX_imm32 Cmp_RAX_imm32
            Cmp_rm8_imm8 Cmp_rm8_imm8_82 Cmp_rm16_imm16 Cmp_rm32_imm32 Cmp_rm64_imm32
            Cmp_rm16_imm8 Cmp_rm32_imm8 Cmp_rm64_imm8;
    }
    unary_rows! { rows,
        inc: Inc_rm8 Inc_rm16 Inc_rm32 Inc_rm64;
        dec: Dec_rm8 Dec_rm16 Dec_rm32 Dec_rm64;
        neg: Neg_rm8 Neg_rm16 Neg_rm32 Neg_rm64;
        not: Not_rm8 Not_rm16 Not_rm32 Not_rm64;
    }
    rows.add(Code::Inc_r16, inc::<u16, R<0>>);
    rows.add(Code::Inc_r32, inc::<u32, R<0>>);
    rows.add(Code::Dec_r16, dec::<u16, R<0>>);
    rows.add(Code::Dec_r32, dec::<u32, R<0>>);

    rows.add_rm(Code::Test_rm8_r8, binary::<Test, u8, R<0>, R<1>>, binary::<Test, u8, Mem, R<1>>);
    rows.add_rm(Code::Test_rm16_r16, binary::<Test, u16, R<0>, R<1>>, binary::<Test, u16, Mem, R<1>>);
    rows.add_rm(Code::Test_rm32_r32, binary::<Test, u32, R<0>, R<1>>, binary::<Test, u32, Mem, R<1>>);
    rows.add_rm(Code::Test_rm64_r64, binary::<Test, u64, R<0>, R<1>>, binary::<Test, u64, Mem, R<1>>);
    rows.add(Code::Test_AL_imm8, binary::<Test, u8, R<0>, Imm>);
    rows.add(Code::Test_AX_imm16, binary::<Test, u16, R<0>, Imm>);
    rows.add(Code::Test_EAX_imm32, binary::<Test, u32, R<0>, Imm>);
    rows.add(Code::Test_RAX_imm32, binary::<Test, u64, R<0>, Imm>);
    for code in [Code::Test_rm8_imm8, Code::Test_rm8_imm8_F6r1] {
        rows.add_rm(code, binary::<Test, u8, R<0>, Imm>, binary::<Test, u8, Mem, Imm>);
    }
    for code in [Code::Test_rm16_imm16, Code::Test_rm16_imm16_F7r1] {
        rows.add_rm(code, binary::<Test, u16, R<0>, Imm>, binary::<Test, u16, Mem, Imm>);
    }
    for code in [Code::Test_rm32_imm32, Code::Test_rm32_imm32_F7r1] {
        rows.add_rm(code, binary::<Test, u32, R<0>, Imm>, binary::<Test, u32, Mem, Imm>);
    }
    for code in [Code::Test_rm64_imm32, Code::Test_rm64_imm32_F7r1] {
        rows.add_rm(code, binary::<Test, u64, R<0>, Imm>, binary::<Test, u64, Mem, Imm>);
    }
}
