//! Permutations across 128-bit blocks: broadcasts, inserts, extracts, full permutes.

use super::form::form;
use super::plumbing::{
    Operate, Operation, Ops, lane_mask, load, load_lanes, operations, read_whole, register, store_lanes,
    write,
};
use super::table::{self, has_immediate};
use super::vector::{Lane, V, lane, ones, set_lane};
use crate::mem::Kind;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use core::marker::PhantomData;
use iced_x86::{Mnemonic as M, OpCodeOperandKind as K};

/// An unsigned element that can be an index.
pub trait Index: Lane + Into<u64> {}
impl Index for u8 {}
impl Index for u16 {}
impl Index for u32 {}
impl Index for u64 {}

/// VPERMD and kin: `a` holds the indices into `b`.
struct Permute<T>(PhantomData<T>);
impl<T: Index> Operate for Permute<T> {
    const OPERATION: Operation = Operation::binary(permute::<T>).no_suppression();
}
fn permute<T: Index>(o: &mut Ops) {
    let lanes = o.bytes.min(64) / size_of::<T>();
    for n in 0..lanes {
        let index: u64 = T::lanes(&o.a)[n].into();
        T::lanes_mut(&mut o.d)[n] = T::lanes(&o.b)[index as usize & (lanes - 1)];
    }
}

/// VPERMI2D and kin (`INDEX_IN_D`): the destination indexes `a` and `b`. VPERMT2D: `a` indexes the destination and `b`.
struct Permute2<T, const INDEX_IN_D: bool>(PhantomData<T>);
impl<T: Index, const INDEX_IN_D: bool> Operate for Permute2<T, INDEX_IN_D> {
    const OPERATION: Operation = Operation::ternary(permute2::<T, INDEX_IN_D>).no_suppression();
}
fn permute2<T: Index, const INDEX_IN_D: bool>(o: &mut Ops) {
    let lanes = o.bytes.min(64) / size_of::<T>();
    let (indices, table) = if INDEX_IN_D { (o.d, o.a) } else { (o.a, o.d) };
    for n in 0..lanes {
        let index: u64 = T::lanes(&indices)[n].into();
        let from = if index as usize & lanes != 0 { &o.b } else { &table };
        T::lanes_mut(&mut o.d)[n] = T::lanes(from)[index as usize & (lanes - 1)];
    }
}

/// VALIGND, VALIGNQ: `a` above `b`, shifted right by elements.
struct Align<T>(PhantomData<T>);
impl<T: Lane> Operate for Align<T> {
    const OPERATION: Operation = Operation::binary(align::<T>).no_suppression();
}
fn align<T: Lane>(o: &mut Ops) {
    let lanes = o.bytes.min(64) / size_of::<T>();
    for n in 0..lanes {
        let from = n + (usize::from(o.imm) & (lanes - 1));
        let source = if from < lanes { &o.b } else { &o.a };
        T::lanes_mut(&mut o.d)[n] = T::lanes(source)[from & (lanes - 1)];
    }
}

operations! {
    /// VPERMQ, VPERMPD with an immediate: within each four quadwords.
    PermuteQuads = Operation::unary(|o| {
        for n in 0..o.bytes.min(64) / 8 {
            o.d[n] = o.b[n & 4 | usize::from(o.imm >> (2 * (n & 3)) & 3)];
        }
    }).no_suppression();
    /// VPERM2F128: each half is one of four, or zero.
    Permute128 = Operation::binary(|o| {
        for half in 0..2 {
            let control = usize::from(o.imm >> (4 * half));
            for n in (0..2).filter(|_| control & 8 == 0) {
                let source = if control & 2 != 0 { &o.b } else { &o.a };
                o.d[2 * half + n] = source[2 * (control & 1) + n];
            }
        }
    });
    /// VSHUFF32X4 and kin: lower half of the result's blocks from `a`, upper half from `b`.
    Shuffle128 = Operation::binary(|o| {
        let blocks = o.bytes.min(64) / 16;
        let bits = if blocks == 4 { 2 } else { 1 };
        for block in 0..blocks {
            let from = usize::from(o.imm >> (bits * block)) & (blocks - 1);
            let source = if block < blocks / 2 { &o.a } else { &o.b };
            o.d[2 * block] = source[2 * from];
            o.d[2 * block + 1] = source[2 * from + 1];
        }
    }).no_suppression();
}

/// Repeats `CHUNK` bytes over the vector; the mask governs elements of `ELEMENT` bytes.
fn broadcast<const CHUNK: usize, const ELEMENT: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let bytes = usize::from(form(i).length);
    let lanes = bytes / ELEMENT;
    let chunk = if i.has_memory() {
        // An element of memory is read if any lane that it goes to is active.
        let mask = lane_mask(cpu, i, lanes);
        let in_chunk = CHUNK / ELEMENT;
        let wanted = (0..lanes).step_by(in_chunk).fold(0, |wanted, n| wanted | mask >> n) & ones(in_chunk);
        if read_whole(cpu, i, CHUNK, in_chunk, wanted) {
            load(cpu, i, CHUNK)?
        } else {
            load_lanes(cpu, i, ELEMENT, in_chunk, wanted)?
        }
    } else {
        register(cpu, i, 1)
    };
    repeat::<CHUNK, ELEMENT>(cpu, i, &chunk, bytes);
    Ok(())
}

fn repeat<const CHUNK: usize, const ELEMENT: usize>(cpu: &mut Cpu, i: &Insn, chunk: &V, bytes: usize) {
    let mut v = [0; 8];
    for n in 0..bytes.min(64) / ELEMENT {
        set_lane(&mut v, ELEMENT, n, lane(chunk, ELEMENT, n % (CHUNK / ELEMENT)));
    }
    write(cpu, i, &v, ELEMENT, bytes / ELEMENT);
}

/// VPBROADCASTB and kin from a general register.
fn broadcast_general<const ELEMENT: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let chunk = [cpu.regs[usize::from(i.r[1] & 15)], 0, 0, 0, 0, 0, 0, 0];
    repeat::<ELEMENT, ELEMENT>(cpu, i, &chunk, form(i).length.into());
    Ok(())
}

/// VPBROADCASTMB2Q, VPBROADCASTMW2D: the low bits of an opmask register to each element.
fn broadcast_mask<const ELEMENT: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let chunk = [cpu.k[usize::from(i.r[1] & 7)] & ones(2 * (12 - ELEMENT)), 0, 0, 0, 0, 0, 0, 0];
    repeat::<ELEMENT, ELEMENT>(cpu, i, &chunk, form(i).length.into());
    Ok(())
}

/// VINSERTF128 and kin: `CHUNK` bytes of `a` are replaced.
fn insert<const CHUNK: usize, const ELEMENT: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let bytes = usize::from(form(i).length);
    let b = if i.has_memory() { load(cpu, i, CHUNK)? } else { register(cpu, i, 2) };
    let mut v = [0; 8];
    let quads = (bytes / 8).min(8);
    v[..quads].copy_from_slice(&register(cpu, i, 1)[..quads]);
    let at = (i.imm as usize & (bytes / CHUNK).saturating_sub(1)) * (CHUNK / 8);
    v[at..at + CHUNK / 8].copy_from_slice(&b[..CHUNK / 8]);
    write(cpu, i, &v, ELEMENT, bytes / ELEMENT);
    Ok(())
}

/// VEXTRACTF128 and kin.
fn extract<const CHUNK: usize, const ELEMENT: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let bytes = usize::from(form(i).length);
    let source = register(cpu, i, 1);
    let at = (i.imm as usize & (bytes / CHUNK).saturating_sub(1)) * (CHUNK / 8);
    let mut v = [0; 8];
    v[..CHUNK / 8].copy_from_slice(&source[at..at + CHUNK / 8]);
    let lanes = CHUNK / ELEMENT;
    if i.has_memory() {
        // The whole place must be writable, whatever the mask.
        let offset = cpu.effective_address(i);
        cpu.probe(i.segment(), offset, CHUNK as u64, Kind::Write)?;
        let mask = lane_mask(cpu, i, lanes);
        return store_lanes(cpu, i, &v, ELEMENT, lanes, mask);
    }
    write(cpu, i, &v, ELEMENT, lanes);
    Ok(())
}

/// Broadcasts of one element, which may come from a general register.
fn element<const SIZE: usize>(rows: &mut Rows, mnemonics: &[M]) {
    for &code in mnemonics.iter().flat_map(|&m| table::forms(m)) {
        let general = matches!(code.op_code().op_kind(1), K::r32_rm | K::r64_rm | K::r32_reg | K::r64_reg);
        let exec = if general { broadcast_general::<SIZE> } else { broadcast::<SIZE, SIZE> };
        table::add(rows, code, exec, exec);
    }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    use table::{add_all, operation};
    element::<1>(rows, &[M::Vpbroadcastb]);
    element::<2>(rows, &[M::Vpbroadcastw]);
    element::<4>(rows, &[M::Vpbroadcastd, M::Vbroadcastss]);
    element::<8>(rows, &[M::Vpbroadcastq, M::Vbroadcastsd]);
    add_all(rows, broadcast::<8, 4>, &[M::Vbroadcastf32x2, M::Vbroadcasti32x2]);
    add_all(rows, broadcast::<16, 4>, &[M::Vbroadcastf32x4, M::Vbroadcasti32x4]);
    add_all(rows, broadcast::<16, 8>, &[M::Vbroadcastf64x2, M::Vbroadcasti64x2]);
    add_all(rows, broadcast::<16, 8>, &[M::Vbroadcastf128, M::Vbroadcasti128]);
    add_all(rows, broadcast::<32, 4>, &[M::Vbroadcastf32x8, M::Vbroadcasti32x8]);
    add_all(rows, broadcast::<32, 8>, &[M::Vbroadcastf64x4, M::Vbroadcasti64x4]);
    add_all(rows, broadcast_mask::<8>, &[M::Vpbroadcastmb2q]);
    add_all(rows, broadcast_mask::<4>, &[M::Vpbroadcastmw2d]);
    add_all(rows, insert::<16, 8>, &[M::Vinsertf128, M::Vinserti128, M::Vinsertf64x2, M::Vinserti64x2]);
    add_all(rows, insert::<16, 4>, &[M::Vinsertf32x4, M::Vinserti32x4]);
    add_all(rows, insert::<32, 4>, &[M::Vinsertf32x8, M::Vinserti32x8]);
    add_all(rows, insert::<32, 8>, &[M::Vinsertf64x4, M::Vinserti64x4]);
    add_all(rows, extract::<16, 8>, &[M::Vextractf128, M::Vextracti128, M::Vextractf64x2, M::Vextracti64x2]);
    add_all(rows, extract::<16, 4>, &[M::Vextractf32x4, M::Vextracti32x4]);
    add_all(rows, extract::<32, 4>, &[M::Vextractf32x8, M::Vextracti32x8]);
    add_all(rows, extract::<32, 8>, &[M::Vextractf64x4, M::Vextracti64x4]);
    operation::<Permute128>(rows, &[M::Vperm2f128, M::Vperm2i128]);
    operation::<Shuffle128>(rows, &[M::Vshuff32x4, M::Vshufi32x4, M::Vshuff64x2, M::Vshufi64x2]);
    operation::<Permute<u8>>(rows, &[M::Vpermb]);
    operation::<Permute<u16>>(rows, &[M::Vpermw]);
    operation::<Permute<u32>>(rows, &[M::Vpermd, M::Vpermps]);
    for &code in [M::Vpermq, M::Vpermpd].iter().flat_map(|&m| table::forms(m)) {
        use super::plumbing::exec_of;
        let exec = if has_immediate(code) { exec_of::<PermuteQuads>() } else { exec_of::<Permute<u64>>() };
        table::add(rows, code, exec, exec);
    }
    operation::<Permute2<u8, true>>(rows, &[M::Vpermi2b]);
    operation::<Permute2<u16, true>>(rows, &[M::Vpermi2w]);
    operation::<Permute2<u32, true>>(rows, &[M::Vpermi2d, M::Vpermi2ps]);
    operation::<Permute2<u64, true>>(rows, &[M::Vpermi2q, M::Vpermi2pd]);
    operation::<Permute2<u8, false>>(rows, &[M::Vpermt2b]);
    operation::<Permute2<u16, false>>(rows, &[M::Vpermt2w]);
    operation::<Permute2<u32, false>>(rows, &[M::Vpermt2d, M::Vpermt2ps]);
    operation::<Permute2<u64, false>>(rows, &[M::Vpermt2q, M::Vpermt2pd]);
    operation::<Align<u32>>(rows, &[M::Valignd]);
    operation::<Align<u64>>(rows, &[M::Valignq]);
}
