//! Floating-point operations on elements, and how they become packed and scalar instructions.

use super::form::form;
use super::plumbing::{
    Operate, Operation, Ops, check_masked_element, environment, lane_mask, register, report, report_flags,
    write,
};
use super::table::{self, Kind};
use super::vector::{Lane, V};
use crate::mem::MemValue;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use core::marker::PhantomData;
use iced_x86::Mnemonic as M;
use ringworld_fp::{Format, FpEnv};

/// An element type.
pub trait Float: Format + Lane + MemValue {}
impl Float for u32 {}
impl Float for u64 {}

/// An operation on elements of either format.
pub trait Element {
    /// Source operands: 1 (b), 2 (a and b), 3 (the destination as well).
    const SOURCES: u8 = 2;
    /// Uses and reports MXCSR's exceptions.
    const REPORTS: bool = true;
    /// Scalar forms take the upper elements from the first source, though the destination is a source.
    const UPPER_FROM_A: bool = false;
    /// The result. `d` is the destination's old value, `a` the first and `b` the last source.
    fn run<F: Float>(env: &mut FpEnv, d: F, a: F, b: F, imm: u8) -> F;
}

/// The packed forms of an element operation.
pub struct Packed<E, F>(PhantomData<(E, F)>);

impl<E: Element, F: Float> Operate for Packed<E, F> {
    const OPERATION: Operation = {
        let operation = match E::SOURCES {
            1 => Operation::unary(packed::<E, F>),
            2 => Operation::binary(packed::<E, F>),
            _ => Operation::ternary(packed::<E, F>),
        };
        if E::REPORTS { operation.float() } else { operation }
    };
}

fn packed<E: Element, F: Float>(o: &mut Ops) {
    let lanes = o.lanes.min(64 / size_of::<F>());
    for n in 0..lanes {
        if o.mask >> n & 1 != 0 {
            let d = F::lanes(&o.d)[n];
            F::lanes_mut(&mut o.d)[n] = E::run(&mut o.env, d, F::lanes(&o.a)[n], F::lanes(&o.b)[n], o.imm);
        }
    }
}

/// Packed forms with one operation for even and another one for odd elements.
pub struct Alternating<E, O, F>(PhantomData<(E, O, F)>);

impl<E: Element, O: Element, F: Float> Operate for Alternating<E, O, F> {
    const OPERATION: Operation = {
        let run = alternating::<E, O, F>;
        if E::SOURCES == 3 { Operation::ternary(run).float() } else { Operation::binary(run).float() }
    };
}

fn alternating<E: Element, O: Element, F: Float>(o: &mut Ops) {
    let lanes = o.lanes.min(64 / size_of::<F>());
    for n in (0..lanes).filter(|n| o.mask >> n & 1 != 0) {
        let (d, a, b) = (F::lanes(&o.d)[n], F::lanes(&o.a)[n], F::lanes(&o.b)[n]);
        let run = if n % 2 == 0 { E::run::<F> } else { O::run::<F> };
        F::lanes_mut(&mut o.d)[n] = run(&mut o.env, d, a, b, o.imm);
    }
}

/// The last operand of a scalar instruction: register operand `n`, or memory.
#[inline(always)]
pub fn scalar_source<F: Float>(cpu: &mut Cpu, i: &Insn, n: usize) -> Result<F, Stop> {
    if i.has_memory() {
        check_masked_element(cpu, i, size_of::<F>())?;
        cpu.load(i)
    } else {
        Ok(F::from_bits(cpu.zmm[usize::from(i.r[n] & 31)][0]))
    }
}

/// Legacy scalar form: the destination's upper elements stay.
pub fn legacy_scalar<E: Element, F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = scalar_source::<F>(cpu, i, 1)?;
    let a = F::from_bits(cpu.zmm[usize::from(i.r[0] & 31)][0]);
    let mut env = FpEnv::from_mxcsr(cpu.mxcsr);
    let result = E::run(&mut env, a, a, b, i.imm as u8);
    if E::REPORTS && !env.flags.is_empty() {
        report_flags(cpu, &env)?;
    }
    F::lanes_mut(&mut cpu.zmm[usize::from(i.r[0] & 31)])[0] = result;
    Ok(())
}

/// VEX and EVEX scalar form: the upper elements of 128 bits come from the first source (FMA: stay).
pub fn vex_scalar<E: Element, F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let active = lane_mask(cpu, i, 1) != 0;
    let b = if active { scalar_source::<F>(cpu, i, 2)? } else { F::from_bits(0) };
    let (d, a) = (register(cpu, i, 0), register(cpu, i, 1));
    let mut v: V = [0; 8];
    v[..2].copy_from_slice(if E::SOURCES == 3 && !E::UPPER_FROM_A { &d[..2] } else { &a[..2] });
    if active {
        let mut env = environment(cpu, i, &form(i));
        let result = E::run(&mut env, F::lanes(&d)[0], F::lanes(&a)[0], b, i.imm as u8);
        if E::REPORTS {
            report(cpu, i, &env)?;
        }
        F::lanes_mut(&mut v)[0] = result;
    }
    write(cpu, i, &v, size_of::<F>(), 1);
    Ok(())
}

/// Adds the rows of an element operation's mnemonics: packed single, packed double, scalar single, scalar double.
pub fn element<E: Element>(rows: &mut Rows, ps: &[M], pd: &[M], ss: &[M], sd: &[M]) {
    table::operation::<Packed<E, u32>>(rows, ps);
    table::operation::<Packed<E, u64>>(rows, pd);
    scalar::<E, u32>(rows, ss);
    scalar::<E, u64>(rows, sd);
}

fn scalar<E: Element, F: Float>(rows: &mut Rows, mnemonics: &[M]) {
    for &code in mnemonics.iter().flat_map(|&m| table::forms(m)) {
        let exec = match Kind::of(code) {
            Kind::Legacy => legacy_scalar::<E, F>,
            Kind::Vex | Kind::Evex => vex_scalar::<E, F>,
            _ => continue,
        };
        table::add(rows, code, exec, exec);
    }
}
