//! The string comparisons of SSE4.2 (SDM 2B chapter 4.1), PTEST and VTESTPS.

use super::moves::signs;
use super::plumbing::{load, register};
use super::shuffle::two_sources;
use super::table;
use super::vector::V;
use crate::flags::bits;
use crate::row::Rows;
use crate::state::gpr;
use crate::{Cpu, Insn, Stop};
use iced_x86::Mnemonic as M;

/// Sixteen bytes or eight words, sign- or zero-extended by imm bits 1:0.
fn elements(v: &V, imm: u8) -> [i32; 16] {
    let word = |n: usize| (v[n / 4] >> (16 * (n % 4))) as u16;
    let byte = |n: usize| (v[n / 8] >> (8 * (n % 8))) as u8;
    core::array::from_fn(|n| match imm & 3 {
        0 => byte(n).into(),
        1 => word(n % 8).into(),
        2 => (byte(n) as i8).into(),
        _ => (word(n % 8) as i16).into(),
    })
}

/// IntRes1: the aggregation of imm bits 3:2 over `count` elements, of which `a_len` and `b_len` are valid.
fn aggregate(a: &[i32; 16], a_len: usize, b: &[i32; 16], b_len: usize, count: usize, imm: u8) -> u32 {
    let holds = |j: usize| match imm >> 2 & 3 {
        0 => j < b_len && (0..a_len).any(|n| a[n] == b[j]),
        1 => j < b_len && (0..a_len / 2).any(|n| a[2 * n] <= b[j] && b[j] <= a[2 * n + 1]),
        2 => match (j < a_len, j < b_len) {
            (true, true) => a[j] == b[j],
            (a_valid, b_valid) => a_valid == b_valid,
        },
        _ => (0..count - j).all(|n| n >= a_len || (j + n < b_len && a[n] == b[j + n])),
    };
    (0..count).fold(0, |mask, j| mask | u32::from(holds(j)) << j)
}

/// The length that ends before the first zero.
fn implicit(elements: &[i32; 16], count: usize) -> usize {
    elements[..count].iter().position(|&x| x == 0).unwrap_or(count)
}

/// The magnitude of an explicit length, saturated.
fn explicit(cpu: &Cpu, r: usize, wide: bool, count: usize) -> usize {
    let length = if wide { cpu.regs[r] as i64 } else { i64::from(cpu.regs[r] as i32) };
    length.unsigned_abs().min(count as u64) as usize
}

/// `EXPLICIT`: lengths in EAX and EDX (`WIDE`: RAX, RDX). `INDEX`: the result is an index in ECX, else a mask in XMM0.
fn compare<const EXPLICIT: bool, const WIDE: bool, const INDEX: bool>(
    cpu: &mut Cpu,
    i: &Insn,
) -> Result<(), Stop> {
    let b = if i.has_memory() { load(cpu, i, 16)? } else { register(cpu, i, 1) };
    let imm = i.imm as u8;
    let count = if imm & 1 != 0 { 8 } else { 16 };
    let (a, b) = (elements(&register(cpu, i, 0), imm), elements(&b, imm));
    let (a_len, b_len) = if EXPLICIT {
        (explicit(cpu, gpr::RAX, WIDE, count), explicit(cpu, gpr::RDX, WIDE, count))
    } else {
        (implicit(&a, count), implicit(&b, count))
    };
    let all = (1 << count) - 1;
    let result = aggregate(&a, a_len, &b, b_len, count, imm);
    let result = match imm >> 4 & 3 {
        1 => !result & all,
        3 => result ^ ((1 << b_len) - 1),
        _ => result,
    };
    if INDEX {
        let index = match (result, imm & 0x40 != 0) {
            (0, _) => count as u32,
            (_, false) => result.trailing_zeros(),
            (_, true) => 31 - result.leading_zeros(),
        };
        cpu.regs[gpr::RCX] = index.into();
    } else {
        let mut mask = u128::from(result);
        if imm & 0x40 != 0 {
            let size = 128 / count;
            let ones = u128::MAX >> (128 - size);
            mask = (0..count).fold(0, |m, n| if result >> n & 1 != 0 { m | ones << (n * size) } else { m });
        }
        if i.is_vex() {
            cpu.zmm[0] = [0; 8];
        }
        cpu.zmm[0][0] = mask as u64;
        cpu.zmm[0][1] = (mask >> 64) as u64;
    }
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    cpu.flags.set_status(
        flag(result != 0, bits::CF)
            | flag(b_len < count, bits::ZF)
            | flag(a_len < count, bits::SF)
            | flag(result & 1 != 0, bits::OF),
    );
    Ok(())
}

/// ZF: no bit of `a & b`; CF: no bit of `!a & b`; the others are cleared.
fn set_flags(cpu: &mut Cpu, zero: bool, carry: bool) {
    cpu.flags.set_status(if zero { bits::ZF } else { 0 } | if carry { bits::CF } else { 0 });
}

/// First operand and last, of `i`'s length.
fn operands(cpu: &mut Cpu, i: &Insn) -> Result<(V, V), Stop> {
    if !i.is_vex() {
        return two_sources(cpu, i);
    }
    let bytes = i.vector_length();
    let b = if i.has_memory() { load(cpu, i, bytes)? } else { register(cpu, i, 1) };
    Ok((register(cpu, i, 0), b))
}

fn ptest(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (a, b) = operands(cpu, i)?;
    let quads = i.vector_length() / 8;
    let zero = (0..quads).all(|n| a[n] & b[n] == 0);
    let carry = (0..quads).all(|n| !a[n] & b[n] == 0);
    set_flags(cpu, zero, carry);
    Ok(())
}

/// VTESTPS, VTESTPD: the sign bits alone.
fn vtest<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (a, b) = operands(cpu, i)?;
    let bytes = i.vector_length();
    let (a, b) = (signs(&a, SIZE, bytes), signs(&b, SIZE, bytes));
    set_flags(cpu, a & b == 0, !a & b == 0);
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    use table::add_all;
    add_all(rows, compare::<true, false, true>, &[M::Pcmpestri, M::Vpcmpestri]);
    add_all(rows, compare::<true, true, true>, &[M::Pcmpestri64, M::Vpcmpestri64]);
    add_all(rows, compare::<true, false, false>, &[M::Pcmpestrm, M::Vpcmpestrm]);
    add_all(rows, compare::<true, true, false>, &[M::Pcmpestrm64, M::Vpcmpestrm64]);
    add_all(rows, compare::<false, false, true>, &[M::Pcmpistri, M::Vpcmpistri]);
    add_all(rows, compare::<false, false, false>, &[M::Pcmpistrm, M::Vpcmpistrm]);
    add_all(rows, ptest, &[M::Ptest, M::Vptest]);
    add_all(rows, vtest::<4>, &[M::Vtestps]);
    add_all(rows, vtest::<8>, &[M::Vtestpd]);
}
