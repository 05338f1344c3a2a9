//! Shifts and rotates.

use super::operand::*;
use crate::flags::bits;
use crate::row::Rows;
use crate::{Cpu, Insn, Silicon, Stop};
use iced_x86::Code;

trait Shift {
    /// Rotates of a register by an immediate other than 1 leave OF, which is undefined then, as it was; of memory they set
    /// it as rotates by CL do (on silicon: Intel, Golden Cove).
    const ROTATES: bool = false;
    /// Of AMD's silicon. Goes to the left: OF is CF against the result's sign; else the result's two top bits differ.
    const LEFT: bool;
    /// Rotates leave AF.
    const LEAVES_AF: bool;
    /// Shifts by `count`, which is masked and not zero, setting flags.
    fn run<T: Int>(cpu: &mut Cpu, a: T, count: u32) -> T;
}

fn msb<T: Int>(value: u64) -> bool {
    value >> (T::BITS - 1) & 1 != 0
}

/// OF after one bit has left to the left: whether the sign changed. For other counts than 1 OF is undefined; silicon
/// (Intel, Golden Cove) gives what the first step would, and so do all of these.
fn of_left<T: Int>(a: T) -> bool {
    msb::<T>(a.zx() ^ a.zx() << 1)
}

macro_rules! shifts {
    ($($name:ident $rotates:literal $left:literal $leaves_af:literal: |$cpu:ident, $a:ident, $n:ident| $body:block)*) => {$(
        struct $name;
        impl Shift for $name {
            const ROTATES: bool = $rotates;
            const LEFT: bool = $left;
            const LEAVES_AF: bool = $leaves_af;
            #[inline(always)]
            fn run<T: Int>($cpu: &mut Cpu, $a: T, $n: u32) -> T $body
        }
    )*};
}

shifts! {
    Shl false true false: |cpu, a, n| {
        let wide = u128::from(a.zx()) << n;
        let r = T::of(wide as u64);
        let cf = wide >> T::BITS & 1 != 0;
        cpu.set_result(r);
        // AF is undefined; silicon clears it.
        cpu.flags.adjust = 0;
        cpu.flags.set_cf_of(cf, of_left(a));
        r
    }
    Shr false false false: |cpu, a, n| {
        let r = T::of(a.zx() >> n);
        let cf = a.zx() >> (n - 1) & 1 != 0;
        cpu.set_result(r);
        cpu.flags.adjust = 0;
        cpu.flags.set_cf_of(cf, msb::<T>(a.zx()));
        r
    }
    Sar false false false: |cpu, a, n| {
        let wide = a.sx() as i64;
        let r = T::of((wide >> n.min(63)) as u64);
        let cf = wide >> (n - 1).min(63) & 1 != 0;
        cpu.set_result(r);
        cpu.flags.adjust = 0;
        cpu.flags.set_cf_of(cf, false);
        r
    }
    Rol true true true: |cpu, a, n| {
        let bits = n % T::BITS;
        let r = if bits == 0 { a } else { T::of(a.zx() << bits | a.zx() >> (T::BITS - bits)) };
        let cf = r.zx() & 1 != 0;
        cpu.flags.set_cf_of(cf, of_left(a));
        r
    }
    Ror true false true: |cpu, a, n| {
        let bits = n % T::BITS;
        let r = if bits == 0 { a } else { T::of(a.zx() >> bits | a.zx() << (T::BITS - bits)) };
        let cf = msb::<T>(r.zx());
        cpu.flags.set_cf_of(cf, msb::<T>(a.zx()) != (a.zx() & 1 != 0));
        r
    }
    Rcl false true true: |cpu, a, n| {
        let bits = n % (T::BITS + 1);
        if bits == 0 {
            // Nothing moves; silicon leaves the flags, too.
            return a;
        }
        let mut value = u128::from(a.zx()) | u128::from(cpu.flags.cf()) << T::BITS;
        let width = T::BITS + 1;
        value = value << bits | value >> (width - bits);
        let r = T::of(value as u64);
        let cf = value >> T::BITS & 1 != 0;
        cpu.flags.set_cf_of(cf, of_left(a));
        r
    }
    Rcr false false true: |cpu, a, n| {
        let bits = n % (T::BITS + 1);
        if bits == 0 {
            // Nothing moves; silicon leaves the flags, too.
            return a;
        }
        let of = cpu.flags.cf() != msb::<T>(a.zx());
        let mut value = u128::from(a.zx()) | u128::from(cpu.flags.cf()) << T::BITS;
        let width = T::BITS + 1;
        value = value >> bits | value << (width - bits);
        let r = T::of(value as u64);
        let cf = value >> T::BITS & 1 != 0;
        cpu.flags.set_cf_of(cf, of);
        r
    }
}

/// OF by AMD's silicon (Zen 4), whatever the count: as if the last step were the only one.
fn amd_flags<T: Int>(cpu: &mut Cpu, r: u64, left: bool) {
    let cf = cpu.flags.cf();
    let other = if left { cf } else { r >> (T::BITS - 2) & 1 != 0 };
    cpu.flags.set_cf_of(cf, msb::<T>(r) != other);
}

/// Counts are masked to 5 bits, 6 for 64-bit operands.
const fn mask<T: Int>() -> u64 {
    if T::BITS == 64 { 63 } else { 31 }
}

fn shift<O: Shift, T: Int, D: Place, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let count = (S::read::<u8>(cpu, i)?.zx() & mask::<T>()) as u32;
    if count == 0 {
        // No flag changes, but a memory destination is read for writing and a 32-bit register's upper half cleared.
        return D::modify::<T>(cpu, i, |_, a| a);
    }
    D::modify::<T>(cpu, i, |cpu, a| {
        let of = cpu.flags.of();
        let r = O::run(cpu, a, count);
        if cpu.silicon == Silicon::Amd {
            amd_flags::<T>(cpu, r.zx(), O::LEFT);
            if !O::LEAVES_AF {
                cpu.flags.adjust = bits::AF as u8;
            }
            return r;
        }
        if O::ROTATES && S::IMMEDIATE && !D::MEMORY && count != 1 {
            let cf = cpu.flags.cf();
            cpu.flags.set_cf_of(cf, of);
        }
        r
    })
}

fn shld<T: Int, D: Place, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    double::<T, D, S>(
        cpu,
        i,
        true,
        |a, _| of_left(a),
        |cpu, a, b, n| {
            let (a, b) = (a.zx(), b.zx());
            if n <= T::BITS {
                let r = if n == T::BITS { b } else { a << n | b >> (T::BITS - n) };
                (r, a >> (T::BITS - n) & 1 != 0)
            } else {
                // 16-bit operands and counts above 16, undefined by the manuals: a:b:a shifts through, as on Intel silicon; on
                // AMD's a:b:b.
                let last = if cpu.model.is_amd() { b } else { a };
                let wide = u128::from(a) << 32 | u128::from(b) << 16 | u128::from(last);
                ((wide >> (32 - n)) as u64, wide >> (48 - n) & 1 != 0)
            }
        },
    )
}

fn shrd<T: Int, D: Place, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    double::<T, D, S>(
        cpu,
        i,
        false,
        |a, b| msb::<T>(a.zx()) != (b.zx() & 1 != 0),
        |cpu, a, b, n| {
            let (a, b) = (a.zx(), b.zx());
            if n <= T::BITS {
                let r = if n == T::BITS { b } else { a >> n | b << (T::BITS - n) };
                (r, a >> (n - 1) & 1 != 0)
            } else {
                let last = if cpu.model.is_amd() { b } else { a };
                let wide = u128::from(last) << 32 | u128::from(b) << 16 | u128::from(a);
                ((wide >> n) as u64, wide >> (n - 1) & 1 != 0)
            }
        },
    )
}

#[inline(always)]
fn double<T: Int, D: Place, S: Source>(
    cpu: &mut Cpu,
    i: &Insn,
    left: bool,
    of: impl FnOnce(T, T) -> bool,
    f: impl FnOnce(&Cpu, T, T, u32) -> (u64, bool),
) -> Result<(), Stop> {
    let count = (S::read::<u8>(cpu, i)?.zx() & mask::<T>()) as u32;
    let b = T::get(cpu, i.r[1]);
    D::modify::<T>(cpu, i, |cpu, a| {
        if count == 0 {
            return a;
        }
        let (r, cf) = f(cpu, a, b, count);
        let r = T::of(r);
        cpu.set_result(r);
        cpu.flags.adjust = 0;
        cpu.flags.set_cf_of(cf, of(a, b));
        if cpu.silicon == Silicon::Amd {
            amd_flags::<T>(cpu, r.zx(), left);
            cpu.flags.adjust = bits::AF as u8;
        }
        r
    })
}

fn shlx<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let a = S::read::<T>(cpu, i)?.zx();
    let count = T::get(cpu, i.r[2]).zx() & mask::<T>();
    T::set(cpu, i.r[0], T::of(a << count));
    Ok(())
}

fn shrx<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let a = S::read::<T>(cpu, i)?.zx();
    let count = T::get(cpu, i.r[2]).zx() & mask::<T>();
    T::set(cpu, i.r[0], T::of(a >> count));
    Ok(())
}

fn sarx<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let a = S::read::<T>(cpu, i)?.sx() as i64;
    let count = T::get(cpu, i.r[2]).zx() & mask::<T>();
    T::set(cpu, i.r[0], T::of((a >> count) as u64));
    Ok(())
}

fn rorx<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let a = S::read::<T>(cpu, i)?.zx();
    let count = (i.imm & mask::<T>()) as u32;
    let r = if count == 0 { a } else { a >> count | a << (T::BITS - count) };
    T::set(cpu, i.r[0], T::of(r));
    Ok(())
}

macro_rules! shift_rows {
    ($rows:ident, $($op:ident: $s8:ident $s16:ident $s32:ident $s64:ident $c8:ident $c16:ident $c32:ident $c64:ident
        $i8:ident $i16:ident $i32:ident $i64:ident;)*) => {$(
        shift_rows!(@ $rows, $op, One, $s8 $s16 $s32 $s64);
        shift_rows!(@ $rows, $op, Cl, $c8 $c16 $c32 $c64);
        shift_rows!(@ $rows, $op, Imm, $i8 $i16 $i32 $i64);
    )*};
    (@ $rows:ident, $op:ident, $count:ty, $c8:ident $c16:ident $c32:ident $c64:ident) => {
        $rows.add_rm(Code::$c8, shift::<$op, u8, R<0>, $count>, shift::<$op, u8, Mem, $count>);
        $rows.add_rm(Code::$c16, shift::<$op, u16, R<0>, $count>, shift::<$op, u16, Mem, $count>);
        $rows.add_rm(Code::$c32, shift::<$op, u32, R<0>, $count>, shift::<$op, u32, Mem, $count>);
        $rows.add_rm(Code::$c64, shift::<$op, u64, R<0>, $count>, shift::<$op, u64, Mem, $count>);
    };
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    shift_rows! { rows,
        Rol: Rol_rm8_1 Rol_rm16_1 Rol_rm32_1 Rol_rm64_1 Rol_rm8_CL Rol_rm16_CL Rol_rm32_CL Rol_rm64_CL
            Rol_rm8_imm8 Rol_rm16_imm8 Rol_rm32_imm8 Rol_rm64_imm8;
        Ror: Ror_rm8_1 Ror_rm16_1 Ror_rm32_1 Ror_rm64_1 Ror_rm8_CL Ror_rm16_CL Ror_rm32_CL Ror_rm64_CL
            Ror_rm8_imm8 Ror_rm16_imm8 Ror_rm32_imm8 Ror_rm64_imm8;
        Rcl: Rcl_rm8_1 Rcl_rm16_1 Rcl_rm32_1 Rcl_rm64_1 Rcl_rm8_CL Rcl_rm16_CL Rcl_rm32_CL Rcl_rm64_CL
            Rcl_rm8_imm8 Rcl_rm16_imm8 Rcl_rm32_imm8 Rcl_rm64_imm8;
        Rcr: Rcr_rm8_1 Rcr_rm16_1 Rcr_rm32_1 Rcr_rm64_1 Rcr_rm8_CL Rcr_rm16_CL Rcr_rm32_CL Rcr_rm64_CL
            Rcr_rm8_imm8 Rcr_rm16_imm8 Rcr_rm32_imm8 Rcr_rm64_imm8;
        Shl: Shl_rm8_1 Shl_rm16_1 Shl_rm32_1 Shl_rm64_1 Shl_rm8_CL Shl_rm16_CL Shl_rm32_CL Shl_rm64_CL
            Shl_rm8_imm8 Shl_rm16_imm8 Shl_rm32_imm8 Shl_rm64_imm8;
        Shr: Shr_rm8_1 Shr_rm16_1 Shr_rm32_1 Shr_rm64_1 Shr_rm8_CL Shr_rm16_CL Shr_rm32_CL Shr_rm64_CL
            Shr_rm8_imm8 Shr_rm16_imm8 Shr_rm32_imm8 Shr_rm64_imm8;
        Shl: Sal_rm8_1 Sal_rm16_1 Sal_rm32_1 Sal_rm64_1 Sal_rm8_CL Sal_rm16_CL Sal_rm32_CL Sal_rm64_CL
            Sal_rm8_imm8 Sal_rm16_imm8 Sal_rm32_imm8 Sal_rm64_imm8;
        Sar: Sar_rm8_1 Sar_rm16_1 Sar_rm32_1 Sar_rm64_1 Sar_rm8_CL Sar_rm16_CL Sar_rm32_CL Sar_rm64_CL
            Sar_rm8_imm8 Sar_rm16_imm8 Sar_rm32_imm8 Sar_rm64_imm8;
    }
    rows.add_rm(Code::Shld_rm16_r16_imm8, shld::<u16, R<0>, Imm>, shld::<u16, Mem, Imm>);
    rows.add_rm(Code::Shld_rm32_r32_imm8, shld::<u32, R<0>, Imm>, shld::<u32, Mem, Imm>);
    rows.add_rm(Code::Shld_rm64_r64_imm8, shld::<u64, R<0>, Imm>, shld::<u64, Mem, Imm>);
    rows.add_rm(Code::Shld_rm16_r16_CL, shld::<u16, R<0>, Cl>, shld::<u16, Mem, Cl>);
    rows.add_rm(Code::Shld_rm32_r32_CL, shld::<u32, R<0>, Cl>, shld::<u32, Mem, Cl>);
    rows.add_rm(Code::Shld_rm64_r64_CL, shld::<u64, R<0>, Cl>, shld::<u64, Mem, Cl>);
    rows.add_rm(Code::Shrd_rm16_r16_imm8, shrd::<u16, R<0>, Imm>, shrd::<u16, Mem, Imm>);
    rows.add_rm(Code::Shrd_rm32_r32_imm8, shrd::<u32, R<0>, Imm>, shrd::<u32, Mem, Imm>);
    rows.add_rm(Code::Shrd_rm64_r64_imm8, shrd::<u64, R<0>, Imm>, shrd::<u64, Mem, Imm>);
    rows.add_rm(Code::Shrd_rm16_r16_CL, shrd::<u16, R<0>, Cl>, shrd::<u16, Mem, Cl>);
    rows.add_rm(Code::Shrd_rm32_r32_CL, shrd::<u32, R<0>, Cl>, shrd::<u32, Mem, Cl>);
    rows.add_rm(Code::Shrd_rm64_r64_CL, shrd::<u64, R<0>, Cl>, shrd::<u64, Mem, Cl>);
    rows.group(crate::row::Group::VexGpr);
    rows.add_rm(Code::VEX_Shlx_r32_rm32_r32, shlx::<u32, R<1>>, shlx::<u32, Mem>);
    rows.add_rm(Code::VEX_Shlx_r64_rm64_r64, shlx::<u64, R<1>>, shlx::<u64, Mem>);
    rows.add_rm(Code::VEX_Shrx_r32_rm32_r32, shrx::<u32, R<1>>, shrx::<u32, Mem>);
    rows.add_rm(Code::VEX_Shrx_r64_rm64_r64, shrx::<u64, R<1>>, shrx::<u64, Mem>);
    rows.add_rm(Code::VEX_Sarx_r32_rm32_r32, sarx::<u32, R<1>>, sarx::<u32, Mem>);
    rows.add_rm(Code::VEX_Sarx_r64_rm64_r64, sarx::<u64, R<1>>, sarx::<u64, Mem>);
    rows.add_rm(Code::VEX_Rorx_r32_rm32_imm8, rorx::<u32, R<1>>, rorx::<u32, Mem>);
    rows.add_rm(Code::VEX_Rorx_r64_rm64_imm8, rorx::<u64, R<1>>, rorx::<u64, Mem>);
    rows.group(crate::row::Group::Base);
}
