//! Floating-point comparison: CMPPS and kin, COMISS, VFPCLASS.

use super::float::{Float, scalar_source};
use super::form::form;
use super::plumbing::{
    Operate, Operation, Ops, environment, lane_mask, register, report, report_flags, write,
};
use super::table::{self, Kind};
use super::vector::V;
use crate::flags::bits;
use crate::insn::Exec;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use core::marker::PhantomData;
use iced_x86::Mnemonic as M;
use ringworld_fp::{Relation, compare, compare_predicate, fpclass};

/// CMPPS, CMPPD with a vector destination.
struct Compare<F>(PhantomData<F>);

impl<F: Float> Operate for Compare<F> {
    const OPERATION: Operation = Operation::binary(vector::<F>).float();
}

fn vector<F: Float>(o: &mut Ops) {
    for n in 0..o.lanes.min(64 / size_of::<F>()) {
        let holds = compare_predicate(&mut o.env, F::lanes(&o.a)[n], F::lanes(&o.b)[n], o.imm);
        F::lanes_mut(&mut o.d)[n] = F::from_bits(if holds { u64::MAX } else { 0 });
    }
}

/// VCMPPS, VCMPPD with an opmask destination.
struct CompareMask<F>(PhantomData<F>);

impl<F: Float> Operate for CompareMask<F> {
    const OPERATION: Operation = Operation::binary(mask::<F>).float().into_mask();
}

fn mask<F: Float>(o: &mut Ops) {
    for n in (0..o.lanes.min(64 / size_of::<F>())).filter(|n| o.mask >> n & 1 != 0) {
        let holds = compare_predicate(&mut o.env, F::lanes(&o.a)[n], F::lanes(&o.b)[n], o.imm);
        o.k |= u64::from(holds) << n;
    }
}

/// VFPCLASSPS, VFPCLASSPD.
struct Class<F>(PhantomData<F>);

impl<F: Float> Operate for Class<F> {
    const OPERATION: Operation = Operation::unary(class::<F>).into_mask();
}

fn class<F: Float>(o: &mut Ops) {
    for n in 0..o.lanes.min(64 / size_of::<F>()) {
        o.k |= u64::from(fpclass(&o.env, F::lanes(&o.b)[n], o.imm)) << n;
    }
}

fn legacy_scalar<F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = scalar_source::<F>(cpu, i, 1)?;
    let a = F::lanes(&register(cpu, i, 0))[0];
    let mut env = environment(cpu, i, &form(i));
    let holds = compare_predicate(&mut env, a, b, i.imm as u8 & 7);
    report_flags(cpu, &env)?;
    F::lanes_mut(&mut cpu.zmm[usize::from(i.r[0] & 31)])[0] = F::from_bits(if holds { u64::MAX } else { 0 });
    Ok(())
}

fn vex_scalar<F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = scalar_source::<F>(cpu, i, 2)?;
    let a = register(cpu, i, 1);
    let mut env = environment(cpu, i, &form(i));
    let holds = compare_predicate(&mut env, F::lanes(&a)[0], b, i.imm as u8 & 31);
    report_flags(cpu, &env)?;
    let mut v: V = [a[0], a[1], 0, 0, 0, 0, 0, 0];
    F::lanes_mut(&mut v)[0] = F::from_bits(if holds { u64::MAX } else { 0 });
    write(cpu, i, &v, size_of::<F>(), 1);
    Ok(())
}

fn evex_scalar<F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut holds = false;
    if lane_mask(cpu, i, 1) != 0 {
        let b = scalar_source::<F>(cpu, i, 2)?;
        let a = F::lanes(&register(cpu, i, 1))[0];
        let mut env = environment(cpu, i, &form(i));
        holds = compare_predicate(&mut env, a, b, i.imm as u8 & 31);
        report(cpu, i, &env)?;
    }
    cpu.k[usize::from(i.r[0] & 7)] = holds.into();
    Ok(())
}

fn class_scalar<F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut holds = false;
    if lane_mask(cpu, i, 1) != 0 {
        let b = scalar_source::<F>(cpu, i, 1)?;
        holds = fpclass(&environment(cpu, i, &form(i)), b, i.imm as u8);
    }
    cpu.k[usize::from(i.r[0] & 7)] = holds.into();
    Ok(())
}

/// COMISS and UCOMISS: ZF, PF, CF; the other status flags are cleared.
fn comi<F: Float, const SIGNALING: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = scalar_source::<F>(cpu, i, 1)?;
    let a = F::lanes(&register(cpu, i, 0))[0];
    let mut env = environment(cpu, i, &form(i));
    let relation = compare(&mut env, a, b, SIGNALING);
    report(cpu, i, &env)?;
    cpu.flags.set_status(match relation {
        Relation::Unordered => bits::ZF | bits::PF | bits::CF,
        Relation::Greater => 0,
        Relation::Less => bits::CF,
        Relation::Equal => bits::ZF,
    });
    Ok(())
}

fn packed_rows<F: Float>(rows: &mut Rows, mnemonics: &[M]) {
    for &code in mnemonics.iter().flat_map(|&m| table::forms(m)) {
        let exec = match Kind::of(code) {
            Kind::Legacy => legacy_packed::<F>,
            Kind::Vex => super::plumbing::exec_of::<Compare<F>>(),
            Kind::Evex => super::plumbing::exec_of::<CompareMask<F>>(),
            _ => continue,
        };
        table::add(rows, code, exec, exec);
    }
}

/// Legacy forms know eight predicates.
fn legacy_packed<F: Float>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    super::plumbing::exec::<Compare<F>>(cpu, &Insn { imm: i.imm & 7, ..*i })
}

fn scalar_rows<F: Float>(rows: &mut Rows, mnemonics: &[M]) {
    for &code in mnemonics.iter().flat_map(|&m| table::forms(m)) {
        let exec: Exec = match Kind::of(code) {
            Kind::Legacy => legacy_scalar::<F>,
            Kind::Vex => vex_scalar::<F>,
            Kind::Evex => evex_scalar::<F>,
            _ => continue,
        };
        table::add(rows, code, exec, exec);
    }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    packed_rows::<u32>(rows, &[M::Cmpps, M::Vcmpps]);
    packed_rows::<u64>(rows, &[M::Cmppd, M::Vcmppd]);
    scalar_rows::<u32>(rows, &[M::Cmpss, M::Vcmpss]);
    scalar_rows::<u64>(rows, &[M::Cmpsd, M::Vcmpsd]);
    table::add_all(rows, comi::<u32, true>, &[M::Comiss, M::Vcomiss]);
    table::add_all(rows, comi::<u64, true>, &[M::Comisd, M::Vcomisd]);
    table::add_all(rows, comi::<u32, false>, &[M::Ucomiss, M::Vucomiss]);
    table::add_all(rows, comi::<u64, false>, &[M::Ucomisd, M::Vucomisd]);
    table::operation::<Class<u32>>(rows, &[M::Vfpclassps]);
    table::operation::<Class<u64>>(rows, &[M::Vfpclasspd]);
    table::add_all(rows, class_scalar::<u32>, &[M::Vfpclassss]);
    table::add_all(rows, class_scalar::<u64>, &[M::Vfpclasssd]);
}
