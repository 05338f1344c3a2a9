//! Moves between vector registers, memory and general registers.

use super::form::form;
use super::plumbing::{
    check_aligned, check_legacy_aligned, lane_mask, load, load_lanes, load_lanes_unchecked, read_whole,
    register, store_at, store_lanes, store_lanes_unchecked, write,
};
use super::table::{self, Kind};
use super::vector::V;
use crate::exec::operand::Int;
use crate::insn::Exec;
use crate::mem::Kind as Access;
use crate::row::Rows;
use crate::state::gpr;
use crate::{Cpu, Insn, Stop};
use iced_x86::{Code, Mnemonic as M, OpCodeOperandKind as K};

fn zmm(cpu: &mut Cpu, n: u8) -> &mut V {
    &mut cpu.zmm[usize::from(n & 31)]
}

fn legacy_register(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let [low, high, ..] = *zmm(cpu, i.r[1]);
    let d = zmm(cpu, i.r[0]);
    d[0] = low;
    d[1] = high;
    Ok(())
}

fn legacy_load<const ALIGNED: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if ALIGNED {
        check_legacy_aligned(cpu, i)?;
    }
    let [low, high]: [u64; 2] = cpu.load(i)?;
    let d = zmm(cpu, i.r[0]);
    d[0] = low;
    d[1] = high;
    Ok(())
}

fn legacy_store<const ALIGNED: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if ALIGNED {
        check_legacy_aligned(cpu, i)?;
    }
    let [low, high, ..] = *zmm(cpu, i.r[1]);
    cpu.store(i, [low, high])
}

/// The low `bytes` bytes.
fn cut(v: &V, bytes: usize) -> V {
    let mut d = [0; 8];
    let quads = (bytes / 8).min(8);
    d[..quads].copy_from_slice(&v[..quads]);
    d
}

fn vex_register(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let v = cut(&register(cpu, i, 1), i.vector_length());
    if i.opmask() == 0 {
        *zmm(cpu, i.r[0]) = v;
    } else {
        let element = usize::from(form(i).element).max(1);
        write(cpu, i, &v, element, i.vector_length() / element);
    }
    Ok(())
}

/// Whether any lane is active: else memory is not looked at.
fn touches(cpu: &Cpu, i: &Insn) -> bool {
    i.opmask() == 0 || lane_mask(cpu, i, i.vector_length() / usize::from(form(i).element).max(1)) != 0
}

fn vex_load<const ALIGNED: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let bytes = i.vector_length();
    if ALIGNED && touches(cpu, i) {
        check_aligned(cpu, i, bytes as u64)?;
    }
    if i.opmask() == 0 {
        let v = load(cpu, i, bytes)?;
        *zmm(cpu, i.r[0]) = v;
        return Ok(());
    }
    let element = usize::from(form(i).element).max(1);
    let lanes = bytes / element;
    let mask = lane_mask(cpu, i, lanes);
    let v = if read_whole(cpu, i, bytes, lanes, mask) {
        load(cpu, i, bytes)?
    } else {
        load_lanes(cpu, i, element, lanes, mask)?
    };
    write(cpu, i, &v, element, lanes);
    Ok(())
}

fn vex_store<const ALIGNED: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let bytes = i.vector_length();
    if ALIGNED && touches(cpu, i) {
        check_aligned(cpu, i, bytes as u64)?;
    }
    let v = register(cpu, i, 1);
    if i.opmask() == 0 {
        let offset = cpu.effective_address(i);
        return store_at(cpu, i.segment(), offset, &v, bytes);
    }
    let element = usize::from(form(i).element).max(1);
    let lanes = bytes / element;
    let mask = lane_mask(cpu, i, lanes);
    store_lanes(cpu, i, &v, element, lanes, mask)
}

/// Whether operand 0 of a form may be in memory.
pub fn stores(code: Code) -> bool {
    !matches!(
        code.op_code().op_kind(0),
        K::xmm_reg | K::ymm_reg | K::zmm_reg | K::mm_reg | K::k_reg | K::r32_reg | K::r64_reg
    ) && code.op_code().memory_size().size() != 0
}

fn whole<const ALIGNED: bool>(rows: &mut Rows, mnemonics: &[M]) {
    for &mnemonic in mnemonics {
        for &code in table::forms(mnemonic) {
            let (register, memory): (Exec, Exec) = match (Kind::of(code), stores(code)) {
                (Kind::Legacy, false) => (legacy_register, legacy_load::<ALIGNED>),
                (Kind::Legacy, true) => (legacy_register, legacy_store::<ALIGNED>),
                (Kind::Vex | Kind::Evex, false) => (vex_register, vex_load::<ALIGNED>),
                (Kind::Vex | Kind::Evex, true) => (vex_register, vex_store::<ALIGNED>),
                _ => continue,
            };
            table::add(rows, code, register, memory);
        }
    }
}

/// MOVSS, MOVSD between registers: legacy.
fn scalar_legacy_register<const BYTES: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let source = zmm(cpu, i.r[1])[0];
    let d = &mut zmm(cpu, i.r[0])[0];
    *d = if BYTES == 4 { *d & !0xffff_ffff | source & 0xffff_ffff } else { source };
    Ok(())
}

fn scalar_legacy_load<const BYTES: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let low = if BYTES == 4 { cpu.load::<u32>(i)?.into() } else { cpu.load::<u64>(i)? };
    let d = zmm(cpu, i.r[0]);
    d[0] = low;
    d[1] = 0;
    Ok(())
}

fn scalar_store<const BYTES: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if lane_mask(cpu, i, 1) == 0 {
        return Ok(());
    }
    let low = zmm(cpu, i.r[1])[0];
    if BYTES == 4 { cpu.store(i, low as u32) } else { cpu.store(i, low) }
}

fn scalar_vex_register<const BYTES: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mut v = cut(&register(cpu, i, 1), 16);
    let low = register(cpu, i, 2)[0];
    v[0] = if BYTES == 4 { v[0] & !0xffff_ffff | low & 0xffff_ffff } else { low };
    write(cpu, i, &v, BYTES, 1);
    Ok(())
}

fn scalar_vex_load<const BYTES: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mask = lane_mask(cpu, i, 1);
    let v = if i.opmask() == 0 { load(cpu, i, BYTES)? } else { load_lanes(cpu, i, BYTES, 1, mask)? };
    write(cpu, i, &v, BYTES, 1);
    Ok(())
}

fn scalar<const BYTES: usize>(rows: &mut Rows, mnemonics: &[M]) {
    for &mnemonic in mnemonics {
        for &code in table::forms(mnemonic) {
            let (register, memory): (Exec, Exec) = match (Kind::of(code), stores(code)) {
                (Kind::Legacy, false) => (scalar_legacy_register::<BYTES>, scalar_legacy_load::<BYTES>),
                (Kind::Legacy, true) => (scalar_legacy_register::<BYTES>, scalar_store::<BYTES>),
                (Kind::Vex | Kind::Evex, false) => (scalar_vex_register::<BYTES>, scalar_vex_load::<BYTES>),
                (Kind::Vex | Kind::Evex, true) => (scalar_vex_register::<BYTES>, scalar_store::<BYTES>),
                _ => continue,
            };
            table::add(rows, code, register, memory);
        }
    }
}

/// Writes 128 bits whose upper half is zero: MOVD, MOVQ to a register.
fn set_low(cpu: &mut Cpu, i: &Insn, value: u64) {
    let vex = i.is_vex();
    let d = zmm(cpu, i.r[0]);
    if vex {
        *d = [0; 8];
    }
    d[0] = value;
    d[1] = 0;
}

/// MOVD, MOVQ from a general register or memory.
fn from_general<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = if i.has_memory() { cpu.load::<T>(i)? } else { T::get(cpu, i.r[1]) };
    set_low(cpu, i, value.zx());
    Ok(())
}

/// MOVD, MOVQ to a general register or memory.
fn to_general<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = T::of(zmm(cpu, i.r[1])[0]);
    if i.has_memory() {
        cpu.store(i, value)
    } else {
        T::set(cpu, i.r[0], value);
        Ok(())
    }
}

/// MOVQ between vector registers, or from or to memory.
fn quad(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = if i.has_memory() { cpu.load(i)? } else { zmm(cpu, i.r[1])[0] };
    set_low(cpu, i, value);
    Ok(())
}

/// MOVHPS and kin: loads half `HALF`.
fn load_half<const HALF: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value: u64 = cpu.load(i)?;
    let mut v = cut(&register(cpu, i, usize::from(i.is_vex())), 16);
    v[HALF] = value;
    write(cpu, i, &v, 8, 2);
    Ok(())
}

fn store_half<const HALF: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = register(cpu, i, 1)[HALF];
    cpu.store(i, value)
}

/// MOVHLPS: the low half from the second source's high half.
fn high_to_low(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let n = usize::from(i.is_vex());
    let mut v = cut(&register(cpu, i, n), 16);
    v[0] = register(cpu, i, n + 1)[1];
    write(cpu, i, &v, 8, 2);
    Ok(())
}

/// MOVLHPS.
fn low_to_high(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let n = usize::from(i.is_vex());
    let mut v = cut(&register(cpu, i, n), 16);
    v[1] = register(cpu, i, n + 1)[0];
    write(cpu, i, &v, 8, 2);
    Ok(())
}

/// The sign bits of `bytes / size` lanes.
pub fn signs(v: &V, size: usize, bytes: usize) -> u64 {
    let mut mask = 0;
    for n in 0..bytes / size {
        let top = n * size + size - 1;
        mask |= (v[top / 8] >> (8 * (top % 8) + 7) & 1) << n;
    }
    mask
}

/// MOVMSKPS, MOVMSKPD, PMOVMSKB.
fn sign_mask<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mask = if SIZE == 1 {
        let v = register(cpu, i, 1);
        let quads = i.vector_length() / 8;
        // The sign bits of eight bytes at once: each product term lands in its own bit of the top byte.
        (0..quads.min(4)).fold(0, |mask, n| {
            let byte = (v[n] & 0x8080_8080_8080_8080).wrapping_mul(0x0002_0408_1020_4081) >> 56;
            mask | byte << (8 * n)
        })
    } else {
        signs(&register(cpu, i, 1), SIZE, i.vector_length())
    };
    u64::set(cpu, i.r[0], mask);
    Ok(())
}

fn mmx_sign_mask(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    cpu.mmx_use();
    let mask = signs(&[cpu.mm(i.r[1]), 0, 0, 0, 0, 0, 0, 0], 1, 8);
    u64::set(cpu, i.r[0], mask);
    Ok(())
}

/// Stores the bytes of `data` whose byte of `mask` is negative at DS:rDI (or another segment). Silicon stores quadwords, and
/// checks each whole, whatever its mask: Intel the last one first, AMD the first.
pub fn store_masked_bytes(cpu: &mut Cpu, i: &Insn, data: &[u8], mask: &[u8]) -> Result<(), Stop> {
    let at = |cpu: &Cpu, n: usize| cpu.regs[gpr::RDI].wrapping_add(n as u64) & i.address_mask();
    let quads = data.len() / 8;
    for n in 0..quads {
        let n = 8 * if cpu.model.is_amd() { n } else { quads - 1 - n };
        let offset = at(cpu, n);
        let linear = cpu.check_segment(i.segment(), offset, 8, Access::Write)?;
        if linear & 7 != 0 && cpu.alignment_checked() {
            return Err(cpu.ac());
        }
        cpu.probe(i.segment(), offset, 8, Access::Write)?;
    }
    for n in (0..data.len()).filter(|&n| mask[n] & 0x80 != 0) {
        cpu.write(i.segment(), at(cpu, n), data[n])?;
    }
    Ok(())
}

fn maskmovdqu(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let data: [u8; 64] = zerocopy::transmute!(register(cpu, i, 1));
    let mask: [u8; 64] = zerocopy::transmute!(register(cpu, i, 2));
    store_masked_bytes(cpu, i, &data[..16], &mask[..16])
}

/// VMASKMOVPS, VPMASKMOVD and their 64-bit kin: loads.
fn masked_load<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mask = signs(&register(cpu, i, 1), SIZE, i.vector_length());
    let v = load_lanes_unchecked(cpu, i, SIZE, i.vector_length() / SIZE, mask)?;
    write(cpu, i, &v, SIZE, 0);
    Ok(())
}

fn masked_store<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mask = signs(&register(cpu, i, 1), SIZE, i.vector_length());
    let v = register(cpu, i, 2);
    store_lanes_unchecked(cpu, i, &v, SIZE, i.vector_length() / SIZE, mask)
}

fn masked<const SIZE: usize>(rows: &mut Rows, mnemonics: &[M]) {
    for &code in mnemonics.iter().flat_map(|&m| table::forms(m)) {
        let exec = if stores(code) { masked_store::<SIZE> } else { masked_load::<SIZE> };
        table::add(rows, code, exec, exec);
    }
}

/// Registers that VZEROUPPER and VZEROALL reach: 16 in 64-bit mode, else 8.
fn vzero(cpu: &mut Cpu, from: usize) {
    let registers = if cpu.long64() { 16 } else { 8 };
    for v in &mut cpu.zmm[..registers] {
        v[from..].fill(0);
    }
}

fn vzeroupper(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    vzero(cpu, 2);
    Ok(())
}

fn vzeroall(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    vzero(cpu, 0);
    Ok(())
}

fn ldmxcsr(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value: u32 = cpu.load(i)?;
    // Setting bits that do not exist is #GP(0).
    if value & !cpu.model.mxcsr_mask() != 0 {
        return Err(cpu.gp0());
    }
    cpu.mxcsr = value;
    Ok(())
}

fn stmxcsr(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.store(i, cpu.mxcsr)
}

/// MOVD and MOVQ.
fn low_moves(rows: &mut Rows) {
    use Code::*;
    let from: [(Code, Exec); 9] = [
        (Movd_xmm_rm32, from_general::<u32>),
        (Movq_xmm_rm64, from_general::<u64>),
        (VEX_Vmovd_xmm_rm32, from_general::<u32>),
        (VEX_Vmovq_xmm_rm64, from_general::<u64>),
        (EVEX_Vmovd_xmm_rm32, from_general::<u32>),
        (EVEX_Vmovq_xmm_rm64, from_general::<u64>),
        (Movq_xmm_xmmm64, quad),
        (VEX_Vmovq_xmm_xmmm64, quad),
        (EVEX_Vmovq_xmm_xmmm64, quad),
    ];
    let to: [(Code, Exec); 6] = [
        (Movd_rm32_xmm, to_general::<u32>),
        (Movq_rm64_xmm, to_general::<u64>),
        (VEX_Vmovd_rm32_xmm, to_general::<u32>),
        (VEX_Vmovq_rm64_xmm, to_general::<u64>),
        (EVEX_Vmovd_rm32_xmm, to_general::<u32>),
        (EVEX_Vmovq_rm64_xmm, to_general::<u64>),
    ];
    for (code, exec) in from.into_iter().chain(to) {
        table::add(rows, code, exec, exec);
    }
    for code in [Movq_xmmm64_xmm, VEX_Vmovq_xmmm64_xmm, EVEX_Vmovq_xmmm64_xmm] {
        table::add(rows, code, quad, store_half::<0>);
    }
}

/// Loads and stores of one half of 128 bits.
fn half_moves(rows: &mut Rows) {
    let mut half = |mnemonics: [M; 4], load: Exec, store: Exec| {
        for &code in mnemonics.iter().flat_map(|&m| table::forms(m)) {
            let exec = if stores(code) { store } else { load };
            table::add(rows, code, exec, exec);
        }
    };
    half([M::Movlps, M::Movlpd, M::Vmovlps, M::Vmovlpd], load_half::<0>, store_half::<0>);
    half([M::Movhps, M::Movhpd, M::Vmovhps, M::Vmovhpd], load_half::<1>, store_half::<1>);
    table::add_all(rows, high_to_low, &[M::Movhlps, M::Vmovhlps]);
    table::add_all(rows, low_to_high, &[M::Movlhps, M::Vmovlhps]);
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    whole::<true>(rows, &[M::Movaps, M::Movapd, M::Movdqa, M::Vmovaps, M::Vmovapd, M::Vmovdqa]);
    whole::<true>(rows, &[M::Vmovdqa32, M::Vmovdqa64]);
    whole::<true>(rows, &[M::Movntps, M::Movntpd, M::Movntdq, M::Movntdqa]);
    whole::<true>(rows, &[M::Vmovntps, M::Vmovntpd, M::Vmovntdq, M::Vmovntdqa]);
    whole::<false>(rows, &[M::Movups, M::Movupd, M::Movdqu, M::Lddqu]);
    whole::<false>(rows, &[M::Vmovups, M::Vmovupd, M::Vmovdqu, M::Vlddqu]);
    whole::<false>(rows, &[M::Vmovdqu8, M::Vmovdqu16, M::Vmovdqu32, M::Vmovdqu64]);
    scalar::<4>(rows, &[M::Movss, M::Vmovss]);
    scalar::<8>(rows, &[M::Movsd, M::Vmovsd]);
    low_moves(rows);
    half_moves(rows);
    table::add_all(rows, sign_mask::<4>, &[M::Movmskps, M::Vmovmskps]);
    table::add_all(rows, sign_mask::<8>, &[M::Movmskpd, M::Vmovmskpd]);
    table::add_all(rows, sign_mask::<1>, &[M::Pmovmskb, M::Vpmovmskb]);
    for code in [Code::Pmovmskb_r32_mm, Code::Pmovmskb_r64_mm] {
        table::add(rows, code, mmx_sign_mask, mmx_sign_mask);
    }
    table::add_all(rows, maskmovdqu, &[M::Maskmovdqu, M::Vmaskmovdqu]);
    masked::<4>(rows, &[M::Vmaskmovps, M::Vpmaskmovd]);
    masked::<8>(rows, &[M::Vmaskmovpd, M::Vpmaskmovq]);
    table::add_all(rows, vzeroupper, &[M::Vzeroupper]);
    table::add_all(rows, vzeroall, &[M::Vzeroall]);
    for (code, exec) in [(Code::Ldmxcsr_m32, ldmxcsr as Exec), (Code::Stmxcsr_m32, stmxcsr)] {
        rows.group(crate::row::Group::Sse);
        rows.add(code, exec);
    }
    table::add_all(rows, ldmxcsr, &[M::Vldmxcsr]);
    table::add_all(rows, stmxcsr, &[M::Vstmxcsr]);
}
