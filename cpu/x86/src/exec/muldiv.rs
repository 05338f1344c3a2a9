//! Multiplication, division, and decimal adjustment.

use super::operand::*;
use crate::flags::bits;
use crate::row::{Group, Rows};
use crate::state::gpr::*;
use crate::{Cpu, Insn, Silicon, Stop};
use iced_x86::Code;

/// The double-width accumulator: AX, DX:AX, EDX:EAX or RDX:RAX.
fn wide<T: Int>(cpu: &Cpu) -> u128 {
    if T::BITS == 8 {
        return (cpu.regs[RAX] & 0xffff).into();
    }
    u128::from(T::get(cpu, RDX as u8).zx()) << T::BITS | u128::from(T::get(cpu, RAX as u8).zx())
}

fn set_wide<T: Int>(cpu: &mut Cpu, low: u64, high: u64) {
    if T::BITS == 8 {
        u16::set(cpu, RAX as u8, (low & 0xff | high << 8) as u16);
    } else {
        T::set(cpu, RAX as u8, T::of(low));
        T::set(cpu, RDX as u8, T::of(high));
    }
}

/// CF and OF say whether the product needs its upper half; the rest is undefined by the manual. Silicon sets SF from the
/// low half and clears ZF and AF with PF from the low byte (Intel), or leaves them (AMD).
fn set_product_flags<T: Int>(cpu: &mut Cpu, low: T, overflow: bool) {
    if cpu.silicon == Silicon::Intel {
        cpu.set_result(low);
        cpu.flags.adjust = 0;
        cpu.flags.set_zf_only(false);
    }
    cpu.flags.set_cf_of(overflow, overflow);
}

fn mul<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = S::read::<T>(cpu, i)?;
    let product = u128::from(T::get(cpu, RAX as u8).zx()) * u128::from(b.zx());
    let high = (product >> T::BITS) as u64;
    set_wide::<T>(cpu, product as u64, high);
    set_product_flags(cpu, T::of(product as u64), high != 0);
    Ok(())
}

fn signed<T: Int>(value: T) -> i128 {
    (value.sx() as i64).into()
}

fn imul1<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = S::read::<T>(cpu, i)?;
    let product = signed(T::get(cpu, RAX as u8)) * signed(b);
    set_wide::<T>(cpu, product as u64, (product >> T::BITS) as u64);
    let low = T::of(product as u64);
    set_product_flags(cpu, low, signed(low) != product);
    Ok(())
}

fn imul2<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = S::read::<T>(cpu, i)?;
    multiply_into(cpu, i.r[0], T::get(cpu, i.r[0]), b);
    Ok(())
}

fn imul3<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let a = S::read::<T>(cpu, i)?;
    multiply_into(cpu, i.r[0], a, T::of(i.imm));
    Ok(())
}

#[inline(always)]
fn multiply_into<T: Int>(cpu: &mut Cpu, r: u8, a: T, b: T) {
    let product = signed(a) * signed(b);
    let low = T::of(product as u64);
    T::set(cpu, r, low);
    set_product_flags(cpu, low, signed(low) != product);
}

fn mulx<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = S::read::<T>(cpu, i)?;
    let product = u128::from(T::get(cpu, RDX as u8).zx()) * u128::from(b.zx());
    // The high half is written last: it wins if both destinations are the same register.
    T::set(cpu, i.r[1], T::of(product as u64));
    T::set(cpu, i.r[0], T::of((product >> T::BITS) as u64));
    Ok(())
}

/// All flags are undefined after a division. Intel's silicon leaves them; AMD's leaves CF and OF.
fn set_quotient_flags(cpu: &mut Cpu) {
    if cpu.silicon == Silicon::Amd {
        let kept = cpu.flags.status() & (bits::CF | bits::OF);
        cpu.flags.set_status(kept | bits::AF);
    }
}

fn div<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let divisor = u128::from(S::read::<T>(cpu, i)?.zx());
    if divisor == 0 {
        return Err(cpu.de());
    }
    let dividend = wide::<T>(cpu);
    let (quotient, remainder) = if let (Ok(n), Ok(d)) = (u64::try_from(dividend), u64::try_from(divisor)) {
        ((n / d).into(), n % d)
    } else {
        (dividend / divisor, (dividend % divisor) as u64)
    };
    if quotient > u128::from(T::MASK) {
        return Err(cpu.de());
    }
    set_wide::<T>(cpu, quotient as u64, remainder);
    set_quotient_flags(cpu);
    Ok(())
}

fn idiv<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let divisor = signed(S::read::<T>(cpu, i)?);
    if divisor == 0 {
        return Err(cpu.de());
    }
    let unused = 128 - 2 * T::BITS;
    let dividend = (wide::<T>(cpu) << unused) as i128 >> unused;
    // The one quotient that overflows i128 is out of range anyway.
    let (Some(quotient), Some(remainder)) = (dividend.checked_div(divisor), dividend.checked_rem(divisor))
    else {
        return Err(cpu.de());
    };
    if signed(T::of(quotient as u64)) != quotient {
        return Err(cpu.de());
    }
    set_wide::<T>(cpu, quotient as u64, remainder as u64);
    set_quotient_flags(cpu);
    Ok(())
}

fn al(cpu: &Cpu) -> u8 {
    cpu.regs[RAX] as u8
}

fn ah(cpu: &Cpu) -> u8 {
    (cpu.regs[RAX] >> 8) as u8
}

fn set_ax(cpu: &mut Cpu, ah: u8, al: u8) {
    u16::set(cpu, RAX as u8, u16::from(ah) << 8 | u16::from(al));
}

/// CF and AF, the other flags from AL.
fn set_decimal_flags(cpu: &mut Cpu, cf: bool, af: bool) {
    let al = al(cpu);
    cpu.set_result(al);
    cpu.flags.set_cf_of(cf, false);
    cpu.flags.adjust = u8::from(af) << 4;
}

fn daa(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let (old, cf) = (al(cpu), cpu.flags.cf());
    let low = old & 15 > 9 || cpu.flags.af();
    let high = old > 0x99 || cf;
    let new = old.wrapping_add(if low { 6 } else { 0 }).wrapping_add(if high { 0x60 } else { 0 });
    u8::set(cpu, RAX as u8, new);
    set_decimal_flags(cpu, high, low);
    Ok(())
}

fn das(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let (old, cf) = (al(cpu), cpu.flags.cf());
    let low = old & 15 > 9 || cpu.flags.af();
    let high = old > 0x99 || cf;
    let borrow = low && old < 6;
    let new = old.wrapping_sub(if low { 6 } else { 0 }).wrapping_sub(if high { 0x60 } else { 0 });
    u8::set(cpu, RAX as u8, new);
    set_decimal_flags(cpu, high || borrow, low);
    Ok(())
}

fn aaa(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let adjust = al(cpu) & 15 > 9 || cpu.flags.af();
    let ax = cpu.regs[RAX] as u16;
    let ax = if adjust { ax.wrapping_add(0x106) } else { ax };
    u16::set(cpu, RAX as u8, ax & 0xff0f);
    set_decimal_flags(cpu, adjust, adjust);
    Ok(())
}

fn aas(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let adjust = al(cpu) & 15 > 9 || cpu.flags.af();
    let ax = cpu.regs[RAX] as u16;
    let ax = if adjust { ax.wrapping_sub(6).wrapping_sub(0x100) } else { ax };
    u16::set(cpu, RAX as u8, ax & 0xff0f);
    set_decimal_flags(cpu, adjust, adjust);
    Ok(())
}

fn aam(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (value, base) = (al(cpu), i.imm as u8);
    let (Some(high), Some(low)) = (value.checked_div(base), value.checked_rem(base)) else {
        return Err(cpu.de());
    };
    set_ax(cpu, high, low);
    set_decimal_flags(cpu, false, false);
    Ok(())
}

fn aad(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = ah(cpu).wrapping_mul(i.imm as u8).wrapping_add(al(cpu));
    set_ax(cpu, 0, value);
    set_decimal_flags(cpu, false, false);
    Ok(())
}

macro_rules! sized {
    ($rows:ident, $($f:ident: $c8:ident $c16:ident $c32:ident $c64:ident;)*) => {$(
        $rows.add_rm(Code::$c8, $f::<u8, R<0>>, $f::<u8, Mem>);
        $rows.add_rm(Code::$c16, $f::<u16, R<0>>, $f::<u16, Mem>);
        $rows.add_rm(Code::$c32, $f::<u32, R<0>>, $f::<u32, Mem>);
        $rows.add_rm(Code::$c64, $f::<u64, R<0>>, $f::<u64, Mem>);
    )*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    sized! { rows,
        mul: Mul_rm8 Mul_rm16 Mul_rm32 Mul_rm64;
        imul1: Imul_rm8 Imul_rm16 Imul_rm32 Imul_rm64;
        div: Div_rm8 Div_rm16 Div_rm32 Div_rm64;
        idiv: Idiv_rm8 Idiv_rm16 Idiv_rm32 Idiv_rm64;
    }
    rows.add_rm(Code::Imul_r16_rm16, imul2::<u16, R<1>>, imul2::<u16, Mem>);
    rows.add_rm(Code::Imul_r32_rm32, imul2::<u32, R<1>>, imul2::<u32, Mem>);
    rows.add_rm(Code::Imul_r64_rm64, imul2::<u64, R<1>>, imul2::<u64, Mem>);
    for code in [Code::Imul_r16_rm16_imm16, Code::Imul_r16_rm16_imm8] {
        rows.add_rm(code, imul3::<u16, R<1>>, imul3::<u16, Mem>);
    }
    for code in [Code::Imul_r32_rm32_imm32, Code::Imul_r32_rm32_imm8] {
        rows.add_rm(code, imul3::<u32, R<1>>, imul3::<u32, Mem>);
    }
    for code in [Code::Imul_r64_rm64_imm32, Code::Imul_r64_rm64_imm8] {
        rows.add_rm(code, imul3::<u64, R<1>>, imul3::<u64, Mem>);
    }
    rows.add(Code::Daa, daa);
    rows.add(Code::Das, das);
    rows.add(Code::Aaa, aaa);
    rows.add(Code::Aas, aas);
    rows.add(Code::Aam_imm8, aam);
    rows.add(Code::Aad_imm8, aad);
    rows.group(Group::VexGpr);
    rows.add_rm(Code::VEX_Mulx_r32_r32_rm32, mulx::<u32, R<2>>, mulx::<u32, Mem>);
    rows.add_rm(Code::VEX_Mulx_r64_r64_rm64, mulx::<u64, R<2>>, mulx::<u64, Mem>);
    rows.group(Group::Base);
}
