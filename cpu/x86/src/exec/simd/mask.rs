//! Opmask registers: K instructions, and moves between them and vectors.

use super::form::form;
use super::plumbing::{register, write};
use super::table;
use super::vector::{lane, ones, set_lane};
use crate::exec::operand::Int;
use crate::flags::bits;
use crate::row::{Group, Rows};
use crate::{Cpu, Exec, Insn, Stop};
use iced_x86::{Code, Mnemonic as M};

fn k(cpu: &Cpu, i: &Insn, n: usize) -> u64 {
    cpu.k[usize::from(i.r[n] & 7)]
}

/// A function of two masks.
trait Binary {
    fn run(a: u64, b: u64, width: usize) -> u64;
}

macro_rules! masks {
    ($($name:ident, |$a:ident, $b:ident, $width:ident| $body:expr;)*) => {$(
        struct $name;
        impl Binary for $name {
            fn run($a: u64, $b: u64, $width: usize) -> u64 {
                $body
            }
        }
    )*};
}

masks! {
    Add, |a, b, _w| a.wrapping_add(b);
    And, |a, b, _w| a & b;
    Andn, |a, b, _w| !a & b;
    Or, |a, b, _w| a | b;
    Xor, |a, b, _w| a ^ b;
    Xnor, |a, b, _w| !(a ^ b);
    Unpack, |a, b, w| a << (w / 2) | b & ones(w / 2);
}

fn binary<O: Binary, const WIDTH: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (a, b) = (k(cpu, i, 1), k(cpu, i, 2));
    cpu.k[usize::from(i.r[0] & 7)] = O::run(a, b, WIDTH) & ones(WIDTH);
    Ok(())
}

fn not<const WIDTH: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.k[usize::from(i.r[0] & 7)] = !k(cpu, i, 1) & ones(WIDTH);
    Ok(())
}

fn shift<const WIDTH: usize, const LEFT: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (a, count) = (k(cpu, i, 1) & ones(WIDTH), u32::from(i.imm as u8));
    let shifted = if LEFT { a.checked_shl(count) } else { a.checked_shr(count) };
    cpu.k[usize::from(i.r[0] & 7)] = shifted.unwrap_or(0) & ones(WIDTH);
    Ok(())
}

fn set_flags(cpu: &mut Cpu, zero: bool, carry: bool) {
    cpu.flags.set_status(if zero { bits::ZF } else { 0 } | if carry { bits::CF } else { 0 });
}

fn ortest<const WIDTH: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let or = (k(cpu, i, 0) | k(cpu, i, 1)) & ones(WIDTH);
    set_flags(cpu, or == 0, or == ones(WIDTH));
    Ok(())
}

fn test<const WIDTH: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (a, b) = (k(cpu, i, 0), k(cpu, i, 1));
    set_flags(cpu, a & b & ones(WIDTH) == 0, !a & b & ones(WIDTH) == 0);
    Ok(())
}

/// KMOV to an opmask register from another one or memory.
fn load<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = if i.has_memory() { cpu.load::<T>(i)?.zx() } else { k(cpu, i, 1) & T::MASK };
    cpu.k[usize::from(i.r[0] & 7)] = value;
    Ok(())
}

fn store<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = T::of(k(cpu, i, 1));
    cpu.store(i, value)
}

fn from_general<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.k[usize::from(i.r[0] & 7)] = cpu.regs[usize::from(i.r[1] & 15)] & T::MASK;
    Ok(())
}

fn to_general<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.regs[usize::from(i.r[0] & 15)] = k(cpu, i, 1) & T::MASK;
    Ok(())
}

/// VPMOVM2B and kin: each element becomes ones or zeros.
fn to_vector<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let lanes = usize::from(form(i).length) / SIZE;
    let mask = k(cpu, i, 1);
    let mut v = [0; 8];
    for n in (0..lanes).filter(|n| mask >> n & 1 != 0) {
        set_lane(&mut v, SIZE, n, u64::MAX);
    }
    write(cpu, i, &v, SIZE, lanes);
    Ok(())
}

/// VPMOVB2M and kin: the sign bits.
fn from_vector<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let lanes = usize::from(form(i).length) / SIZE;
    let v = register(cpu, i, 1);
    let mask = (0..lanes).fold(0, |mask, n| mask | (lane(&v, SIZE, n) >> (8 * SIZE - 1)) << n);
    cpu.k[usize::from(i.r[0] & 7)] = mask;
    Ok(())
}

macro_rules! width_rows {
    ($add:ident, $($b:ident $w:ident $d:ident $q:ident: $f:ident $(<$op:ty>)?;)*) => {$(
        width_rows!(@ $add, $b, $f, 8 $(, $op)?);
        width_rows!(@ $add, $w, $f, 16 $(, $op)?);
        width_rows!(@ $add, $d, $f, 32 $(, $op)?);
        width_rows!(@ $add, $q, $f, 64 $(, $op)?);
    )*};
    (@ $add:ident, $m:ident, $f:ident, $w:literal) => { $add(M::$m, $f::<$w>) };
    (@ $add:ident, $m:ident, $f:ident, $w:literal, $op:ty) => { $add(M::$m, $f::<$op, $w>) };
}

fn mask_rows(rows: &mut Rows) {
    rows.group(Group::Avx512);
    let mut add = |mnemonic: M, exec: Exec| {
        for &code in table::forms(mnemonic) {
            rows.add(code, exec);
        }
    };
    width_rows! { add,
        Kaddb Kaddw Kaddd Kaddq: binary<Add>;
        Kandb Kandw Kandd Kandq: binary<And>;
        Kandnb Kandnw Kandnd Kandnq: binary<Andn>;
        Korb Korw Kord Korq: binary<Or>;
        Kxorb Kxorw Kxord Kxorq: binary<Xor>;
        Kxnorb Kxnorw Kxnord Kxnorq: binary<Xnor>;
        Knotb Knotw Knotd Knotq: not;
        Kortestb Kortestw Kortestd Kortestq: ortest;
        Ktestb Ktestw Ktestd Ktestq: test;
    }
    add(M::Kunpckbw, binary::<Unpack, 16>);
    add(M::Kunpckwd, binary::<Unpack, 32>);
    add(M::Kunpckdq, binary::<Unpack, 64>);
    add(M::Kshiftlb, shift::<8, true>);
    add(M::Kshiftlw, shift::<16, true>);
    add(M::Kshiftld, shift::<32, true>);
    add(M::Kshiftlq, shift::<64, true>);
    add(M::Kshiftrb, shift::<8, false>);
    add(M::Kshiftrw, shift::<16, false>);
    add(M::Kshiftrd, shift::<32, false>);
    add(M::Kshiftrq, shift::<64, false>);
}

fn kmov_rows(rows: &mut Rows) {
    use Code::*;
    rows.group(Group::Avx512);
    let forms: [(Code, Exec); 16] = [
        (VEX_Kmovb_kr_km8, load::<u8>),
        (VEX_Kmovw_kr_km16, load::<u16>),
        (VEX_Kmovd_kr_km32, load::<u32>),
        (VEX_Kmovq_kr_km64, load::<u64>),
        (VEX_Kmovb_m8_kr, store::<u8>),
        (VEX_Kmovw_m16_kr, store::<u16>),
        (VEX_Kmovd_m32_kr, store::<u32>),
        (VEX_Kmovq_m64_kr, store::<u64>),
        (VEX_Kmovb_kr_r32, from_general::<u8>),
        (VEX_Kmovw_kr_r32, from_general::<u16>),
        (VEX_Kmovd_kr_r32, from_general::<u32>),
        (VEX_Kmovq_kr_r64, from_general::<u64>),
        (VEX_Kmovb_r32_kr, to_general::<u8>),
        (VEX_Kmovw_r32_kr, to_general::<u16>),
        (VEX_Kmovd_r32_kr, to_general::<u32>),
        (VEX_Kmovq_r64_kr, to_general::<u64>),
    ];
    for (code, exec) in forms {
        rows.add(code, exec);
    }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    mask_rows(rows);
    kmov_rows(rows);
    let vectors: [(M, Exec); 8] = [
        (M::Vpmovm2b, to_vector::<1>),
        (M::Vpmovm2w, to_vector::<2>),
        (M::Vpmovm2d, to_vector::<4>),
        (M::Vpmovm2q, to_vector::<8>),
        (M::Vpmovb2m, from_vector::<1>),
        (M::Vpmovw2m, from_vector::<2>),
        (M::Vpmovd2m, from_vector::<4>),
        (M::Vpmovq2m, from_vector::<8>),
    ];
    for (mnemonic, exec) in vectors {
        table::add_all(rows, exec, &[mnemonic]);
    }
}
