//! Conversions between floating-point formats and integers.

use super::float::{Float, scalar_source};
use super::form::form;
use super::plumbing::{
    Operate, Operation, Ops, check_operand_alignment, environment, lane_mask, load_aligned, probe_store,
    register, report, report_flags, store_at, store_element, store_lanes_unchecked, write,
};
use super::table;
use super::vector::{Lane, V};
use crate::exec::operand::Int;
use crate::mem::Kind;
use crate::row::{Group, Rows};
use crate::{Cpu, Insn, Stop};
use core::marker::PhantomData;
use iced_x86::{Code, Mnemonic as M};
use ringworld_fp::{self as fp, FpEnv, Integer, Rounding, immediate_rounding};

/// A conversion of elements.
pub trait Convert {
    /// Source element.
    type S: Lane;
    /// Destination element.
    type D: Lane;
    /// Memory operands are subject to #AC.
    const ALIGNMENT_CHECKED: bool = true;
    /// The result.
    fn run(env: &mut FpEnv, x: Self::S) -> Self::D;
}

/// The packed forms of a conversion.
struct Packed<C>(PhantomData<C>);

impl<C: Convert> Operate for Packed<C> {
    const OPERATION: Operation = {
        let operation = Operation::unary(packed::<C>).elements(size_of::<C::D>(), size_of::<C::S>()).float();
        if C::ALIGNMENT_CHECKED { operation } else { operation.no_alignment_check() }
    };
}

fn packed<C: Convert>(o: &mut Ops) {
    let widest = size_of::<C::D>().max(size_of::<C::S>());
    for n in (0..o.lanes.min(64 / widest)).filter(|n| o.mask >> n & 1 != 0) {
        C::D::lanes_mut(&mut o.d)[n] = C::run(&mut o.env, C::S::lanes(&o.b)[n]);
    }
}

/// Scalar conversion between formats: CVTSS2SD, CVTSD2SS.
fn scalar<C: Convert<S: Float>>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let active = lane_mask(cpu, i, 1) != 0;
    let n = usize::from(i.is_vex());
    let a = register(cpu, i, n);
    let mut v: V = [a[0], a[1], 0, 0, 0, 0, 0, 0];
    if active {
        let b = scalar_source::<C::S>(cpu, i, n + 1)?;
        let mut env = environment(cpu, i, &form(i));
        let result = C::run(&mut env, b);
        report(cpu, i, &env)?;
        C::D::lanes_mut(&mut v)[0] = result;
    }
    write(cpu, i, &v, size_of::<C::D>(), 1);
    Ok(())
}

/// Integer element types by their bits.
pub trait Bits: Integer {
    /// An unsigned type of the same width.
    type Raw: Lane + Int;
    /// From bits.
    fn from_raw(raw: Self::Raw) -> Self;
    /// To bits.
    fn raw(self) -> Self::Raw;
}

macro_rules! bits {
    ($($t:ty: $raw:ty;)*) => {$(
        impl Bits for $t {
            type Raw = $raw;
            fn from_raw(raw: $raw) -> Self {
                raw as $t
            }
            fn raw(self) -> $raw {
                self as $raw
            }
        }
    )*};
}
bits! { i32: u32; i64: u64; u32: u32; u64: u64; }

/// Integer to floating-point.
struct FromInt<I, F>(PhantomData<(I, F)>);
impl<I: Bits, F: Float> Convert for FromInt<I, F> {
    type S = I::Raw;
    type D = F;
    fn run(env: &mut FpEnv, x: I::Raw) -> F {
        fp::from_integer(env, I::from_raw(x))
    }
}

/// Floating-point to integer, rounded by MXCSR or truncated.
struct ToInt<F, I, const TRUNCATE: bool>(PhantomData<(F, I)>);
impl<F: Float, I: Bits, const TRUNCATE: bool> Convert for ToInt<F, I, TRUNCATE> {
    type S = F;
    type D = I::Raw;
    fn run(env: &mut FpEnv, x: F) -> I::Raw {
        let rounding = if TRUNCATE { Rounding::Zero } else { env.rounding };
        fp::to_integer::<F, I>(env, x, rounding).raw()
    }
}

/// Between formats.
struct Reformat<S, D>(PhantomData<(S, D)>);
impl<S: Float, D: Float> Convert for Reformat<S, D> {
    type S = S;
    type D = D;
    fn run(env: &mut FpEnv, x: S) -> D {
        fp::convert(env, x)
    }
}

struct HalfToSingle;
impl Convert for HalfToSingle {
    type S = u16;
    type D = u32;
    /// Exception type 11 (SDM 2A 2.4) has no #AC.
    const ALIGNMENT_CHECKED: bool = false;
    fn run(env: &mut FpEnv, x: u16) -> u32 {
        fp::half_to_single(env, x)
    }
}

/// VCVTPS2PH: the destination may be in memory.
fn single_to_half(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let form = form(i);
    let lanes = usize::from(form.length) / 4;
    let mask = lane_mask(cpu, i, lanes);
    let source = register(cpu, i, 1);
    let mut env = environment(cpu, i, &form);
    if i.evex_b() {
        env = FpEnv::suppressing(cpu.mxcsr, None);
    }
    let rounding = immediate_rounding(&env, i.imm as u8);
    let mut v: V = [0; 8];
    for n in (0..lanes).filter(|n| mask >> n & 1 != 0) {
        u16::lanes_mut(&mut v)[n] = fp::single_to_half(&mut env, u32::lanes(&source)[n], rounding);
    }
    let amd = cpu.model.is_amd();
    if i.has_memory() && amd {
        // Faults of the store come before the exceptions.
        if i.opmask() == 0 {
            cpu.probe(i.segment(), cpu.effective_address(i), 2 * lanes as u64, Kind::Write)?;
        } else {
            check_operand_alignment(cpu, i, 2, lanes, mask, Kind::Write)?;
            let _probed = probe_store(cpu, i, 2, lanes, mask)?;
        }
    }
    // Intel: the flags are set before the store, and stay if that faults.
    report(cpu, i, &env)?;
    if i.has_memory() {
        if i.opmask() == 0 {
            let offset = cpu.effective_address(i);
            if amd {
                return store_at(cpu, i.segment(), offset, &v, 2 * lanes);
            }
            return store_element(cpu, i.segment(), offset, &v, 2 * lanes);
        }
        return store_lanes_unchecked(cpu, i, &v, 2, lanes, mask);
    }
    write(cpu, i, &v, 2, lanes);
    Ok(())
}

/// CVTSI2SS and kin: from a general register or memory.
fn from_general<I: Bits, F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let n = usize::from(i.is_vex());
    let raw = if i.has_memory() { cpu.load::<I::Raw>(i)? } else { I::Raw::get(cpu, i.r[n + 1]) };
    let mut env = environment(cpu, i, &form(i));
    let result: F = fp::from_integer(&mut env, I::from_raw(raw));
    report(cpu, i, &env)?;
    let a = register(cpu, i, n);
    let mut v: V = [a[0], a[1], 0, 0, 0, 0, 0, 0];
    F::lanes_mut(&mut v)[0] = result;
    write(cpu, i, &v, 8, 2);
    Ok(())
}

/// CVTSS2SI and kin: to a general register.
fn to_general<F: Float, I: Bits, const TRUNCATE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = scalar_source::<F>(cpu, i, 1)?;
    let mut env = environment(cpu, i, &form(i));
    let result = ToInt::<F, I, TRUNCATE>::run(&mut env, b);
    report(cpu, i, &env)?;
    I::Raw::set(cpu, i.r[0], result);
    Ok(())
}

/// CVTPI2PS, CVTPI2PD: from an MMX register or memory.
fn from_mmx<F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    // From memory MMX state is not touched; from a register the transition comes before the computation.
    let raw = if i.has_memory() {
        cpu.load(i)?
    } else {
        cpu.mmx_check()?;
        cpu.mmx_use();
        cpu.mm(i.r[1])
    };
    let source: V = [raw, 0, 0, 0, 0, 0, 0, 0];
    let mut env = FpEnv::from_mxcsr(cpu.mxcsr);
    let results = [0, 1].map(|n| fp::from_integer::<i32, F>(&mut env, u32::lanes(&source)[n] as i32));
    report_flags(cpu, &env)?;
    F::lanes_mut(&mut cpu.zmm[usize::from(i.r[0] & 31)])[..2].copy_from_slice(&results);
    Ok(())
}

/// CVTPS2PI, CVTPD2PI and their truncating forms.
fn to_mmx<F: Float, const TRUNCATE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    let source: V = if !i.has_memory() {
        register(cpu, i, 1)
    } else if size_of::<F>() == 8 {
        let [low, high] = load_aligned(cpu, i)?;
        [low, high, 0, 0, 0, 0, 0, 0]
    } else {
        [cpu.load(i)?, 0, 0, 0, 0, 0, 0, 0]
    };
    let mut env = FpEnv::from_mxcsr(cpu.mxcsr);
    let [low, high] = [0, 1].map(|n| ToInt::<F, i32, TRUNCATE>::run(&mut env, F::lanes(&source)[n]));
    cpu.mmx_use();
    report_flags(cpu, &env)?;
    cpu.set_mm(i.r[0], low.zx() | high.zx() << 32);
    Ok(())
}

fn mmx_rows(rows: &mut Rows) {
    use Code::*;
    let forms: [(Code, crate::Exec); 6] = [
        (Cvtpi2ps_xmm_mmm64, from_mmx::<u32>),
        (Cvtpi2pd_xmm_mmm64, from_mmx::<u64>),
        (Cvtps2pi_mm_xmmm64, to_mmx::<u32, false>),
        (Cvttps2pi_mm_xmmm64, to_mmx::<u32, true>),
        (Cvtpd2pi_mm_xmmm128, to_mmx::<u64, false>),
        (Cvttpd2pi_mm_xmmm128, to_mmx::<u64, true>),
    ];
    rows.group(Group::Sse);
    for (code, exec) in forms {
        rows.add(code, exec);
    }
}

/// Adds the forms of scalar conversions from (`TO` false) or to general registers, with 32 or 64 bits.
fn general(rows: &mut Rows, mnemonics: &[M], narrow: crate::Exec, wide: crate::Exec) {
    use iced_x86::OpCodeOperandKind as K;
    for &code in mnemonics.iter().flat_map(|&m| table::forms(m)) {
        let kinds = code.op_code();
        let is_wide = kinds.op_kinds().iter().any(|k| matches!(k, K::r64_reg | K::r64_or_mem));
        let exec = if is_wide { wide } else { narrow };
        table::add(rows, code, exec, exec);
    }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    use table::operation as op;
    op::<Packed<FromInt<i32, u32>>>(rows, &[M::Cvtdq2ps, M::Vcvtdq2ps]);
    op::<Packed<FromInt<i32, u64>>>(rows, &[M::Cvtdq2pd, M::Vcvtdq2pd]);
    op::<Packed<FromInt<u32, u32>>>(rows, &[M::Vcvtudq2ps]);
    op::<Packed<FromInt<u32, u64>>>(rows, &[M::Vcvtudq2pd]);
    op::<Packed<FromInt<i64, u32>>>(rows, &[M::Vcvtqq2ps]);
    op::<Packed<FromInt<i64, u64>>>(rows, &[M::Vcvtqq2pd]);
    op::<Packed<FromInt<u64, u32>>>(rows, &[M::Vcvtuqq2ps]);
    op::<Packed<FromInt<u64, u64>>>(rows, &[M::Vcvtuqq2pd]);
    op::<Packed<ToInt<u32, i32, false>>>(rows, &[M::Cvtps2dq, M::Vcvtps2dq]);
    op::<Packed<ToInt<u32, i32, true>>>(rows, &[M::Cvttps2dq, M::Vcvttps2dq]);
    op::<Packed<ToInt<u64, i32, false>>>(rows, &[M::Cvtpd2dq, M::Vcvtpd2dq]);
    op::<Packed<ToInt<u64, i32, true>>>(rows, &[M::Cvttpd2dq, M::Vcvttpd2dq]);
    op::<Packed<ToInt<u32, u32, false>>>(rows, &[M::Vcvtps2udq]);
    op::<Packed<ToInt<u32, u32, true>>>(rows, &[M::Vcvttps2udq]);
    op::<Packed<ToInt<u64, u32, false>>>(rows, &[M::Vcvtpd2udq]);
    op::<Packed<ToInt<u64, u32, true>>>(rows, &[M::Vcvttpd2udq]);
    op::<Packed<ToInt<u32, i64, false>>>(rows, &[M::Vcvtps2qq]);
    op::<Packed<ToInt<u32, i64, true>>>(rows, &[M::Vcvttps2qq]);
    op::<Packed<ToInt<u64, i64, false>>>(rows, &[M::Vcvtpd2qq]);
    op::<Packed<ToInt<u64, i64, true>>>(rows, &[M::Vcvttpd2qq]);
    op::<Packed<ToInt<u32, u64, false>>>(rows, &[M::Vcvtps2uqq]);
    op::<Packed<ToInt<u32, u64, true>>>(rows, &[M::Vcvttps2uqq]);
    op::<Packed<ToInt<u64, u64, false>>>(rows, &[M::Vcvtpd2uqq]);
    op::<Packed<ToInt<u64, u64, true>>>(rows, &[M::Vcvttpd2uqq]);
    op::<Packed<Reformat<u32, u64>>>(rows, &[M::Cvtps2pd, M::Vcvtps2pd]);
    op::<Packed<Reformat<u64, u32>>>(rows, &[M::Cvtpd2ps, M::Vcvtpd2ps]);
    op::<Packed<HalfToSingle>>(rows, &[M::Vcvtph2ps]);
    table::add_all(rows, single_to_half, &[M::Vcvtps2ph]);
    table::add_all(rows, scalar::<Reformat<u32, u64>>, &[M::Cvtss2sd, M::Vcvtss2sd]);
    table::add_all(rows, scalar::<Reformat<u64, u32>>, &[M::Cvtsd2ss, M::Vcvtsd2ss]);
    general(rows, &[M::Cvtsi2ss, M::Vcvtsi2ss], from_general::<i32, u32>, from_general::<i64, u32>);
    general(rows, &[M::Cvtsi2sd, M::Vcvtsi2sd], from_general::<i32, u64>, from_general::<i64, u64>);
    general(rows, &[M::Vcvtusi2ss], from_general::<u32, u32>, from_general::<u64, u32>);
    general(rows, &[M::Vcvtusi2sd], from_general::<u32, u64>, from_general::<u64, u64>);
    general(rows, &[M::Cvtss2si, M::Vcvtss2si], to_general::<u32, i32, false>, to_general::<u32, i64, false>);
    general(rows, &[M::Cvttss2si, M::Vcvttss2si], to_general::<u32, i32, true>, to_general::<u32, i64, true>);
    general(rows, &[M::Cvtsd2si, M::Vcvtsd2si], to_general::<u64, i32, false>, to_general::<u64, i64, false>);
    general(rows, &[M::Cvttsd2si, M::Vcvttsd2si], to_general::<u64, i32, true>, to_general::<u64, i64, true>);
    general(rows, &[M::Vcvtss2usi], to_general::<u32, u32, false>, to_general::<u32, u64, false>);
    general(rows, &[M::Vcvttss2usi], to_general::<u32, u32, true>, to_general::<u32, u64, true>);
    general(rows, &[M::Vcvtsd2usi], to_general::<u64, u32, false>, to_general::<u64, u64, false>);
    general(rows, &[M::Vcvttsd2usi], to_general::<u64, u32, true>, to_general::<u64, u64, true>);
    mmx_rows(rows);
}
