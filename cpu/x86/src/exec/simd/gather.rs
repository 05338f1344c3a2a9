//! Gathers and scatters: element by element, lowest first. A fault leaves what is done done, with its mask cleared, so that the
//! instruction goes on where it stopped (SDM 2C VPGATHERDD).

use super::form::form;
use super::moves::signs;
use super::plumbing::{lane_mask, load_element, store_element};
use super::table::{self, Kind};
use super::vector::{V, lane, set_lane};
use crate::flags::bits;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use iced_x86::Mnemonic as M;

/// The offset of lane `n`: `index` lanes of `INDEX` bytes, sign-extended.
fn offset<const INDEX: usize>(cpu: &Cpu, i: &Insn, index: &V, n: usize) -> u64 {
    let raw = lane(index, INDEX, n);
    let signed = if INDEX == 4 { raw as u32 as i32 as i64 as u64 } else { raw };
    cpu.regs[usize::from(i.base & 31)].wrapping_add(signed << i.scale()).wrapping_add(i.disp as i64 as u64)
        & i.address_mask()
}

/// A fault of an element: if others are done and single-step traps are pending for them, those come in its place, with RF, and
/// the instruction is run again (SDM 2C VPGATHERDD).
fn stopped(cpu: &mut Cpu, i: &Insn, stop: Stop, progress: bool) -> Result<(), Stop> {
    if !progress || !cpu.flags.has(bits::TF) {
        return Err(stop);
    }
    cpu.go_on_later(i);
    Ok(())
}

/// AVX2: the mask is the sign bits of operand 2, which is cleared.
fn gather_vex<const INDEX: usize, const DATA: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let lanes = usize::from(form(i).length) / INDEX.max(DATA);
    let index = cpu.zmm[usize::from(i.index & 31)];
    let (d, m) = (usize::from(i.r[0] & 31), usize::from(i.r[2] & 31));
    let mask = signs(&cpu.zmm[m], DATA, DATA * lanes);
    let quads = (DATA * lanes).div_ceil(8).min(8);
    // On Intel's silicon what is left of the mask is seen as whole elements, also those that have no index; AMD's leaves alone
    // what it has not come to.
    let all = usize::from(form(i).length);
    let amd = cpu.model.is_amd();
    if !amd {
        let whole_mask = signs(&cpu.zmm[m], DATA, all);
        cpu.zmm[m] = [0; 8];
        for n in (0..all / DATA).filter(|n| whole_mask >> n & 1 != 0) {
            set_lane(&mut cpu.zmm[m], DATA, n, u64::MAX);
        }
    }
    let mut progress = false;
    for n in 0..lanes {
        if mask >> n & 1 == 0 {
            if amd {
                set_lane(&mut cpu.zmm[m], DATA, n, 0);
            }
            continue;
        }
        let at = offset::<INDEX>(cpu, i, &index, n);
        let value = match load_element(cpu, i.segment(), at, DATA) {
            Ok(value) => value,
            Err(stop) => return stopped(cpu, i, stop, progress),
        };
        // Until the end, what is beyond the elements stays as far as the vector length goes.
        if !amd {
            cpu.zmm[d][all / 8..].fill(0);
        }
        set_lane(&mut cpu.zmm[d], DATA, n, value[0]);
        set_lane(&mut cpu.zmm[m], DATA, n, 0);
        progress = true;
    }
    cpu.zmm[d][quads..].fill(0);
    cpu.zmm[m] = [0; 8];
    Ok(())
}

fn gather_evex<const INDEX: usize, const DATA: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let lanes = usize::from(form(i).length) / INDEX.max(DATA);
    let index = cpu.zmm[usize::from(i.index & 31)];
    let d = usize::from(i.r[0] & 31);
    let quads = (DATA * lanes).div_ceil(8).min(8);
    let mask = lane_mask(cpu, i, lanes);
    let mut progress = false;
    for n in (0..lanes).filter(|n| mask >> n & 1 != 0) {
        let at = offset::<INDEX>(cpu, i, &index, n);
        let value = match load_element(cpu, i.segment(), at, DATA) {
            Ok(value) => value,
            Err(stop) => return stopped(cpu, i, stop, progress),
        };
        cpu.zmm[d][usize::from(form(i).length) / 8..].fill(0);
        set_lane(&mut cpu.zmm[d], DATA, n, value[0]);
        cpu.k[usize::from(i.opmask())] &= !(1 << n);
        progress = true;
    }
    cpu.zmm[d][quads..].fill(0);
    cpu.k[usize::from(i.opmask())] = 0;
    Ok(())
}

fn scatter<const INDEX: usize, const DATA: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let lanes = usize::from(form(i).length) / INDEX.max(DATA);
    let index = cpu.zmm[usize::from(i.index & 31)];
    let source = cpu.zmm[usize::from(i.r[1] & 31)];
    let mask = lane_mask(cpu, i, lanes);
    let mut progress = false;
    for n in (0..lanes).filter(|n| mask >> n & 1 != 0) {
        let at = offset::<INDEX>(cpu, i, &index, n);
        let value = [lane(&source, DATA, n), 0, 0, 0, 0, 0, 0, 0];
        if let Err(stop) = store_element(cpu, i.segment(), at, &value, DATA) {
            return stopped(cpu, i, stop, progress);
        }
        cpu.k[usize::from(i.opmask())] &= !(1 << n);
        progress = true;
    }
    cpu.k[usize::from(i.opmask())] = 0;
    Ok(())
}

fn family<const INDEX: usize, const DATA: usize>(rows: &mut Rows, gathers: [M; 2], scatters: [M; 2]) {
    for &code in gathers.iter().flat_map(|&m| table::forms(m)) {
        let exec = match Kind::of(code) {
            Kind::Vex => gather_vex::<INDEX, DATA>,
            Kind::Evex => gather_evex::<INDEX, DATA>,
            _ => continue,
        };
        table::add(rows, code, exec, exec);
    }
    table::add_all(rows, scatter::<INDEX, DATA>, &scatters);
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    family::<4, 4>(rows, [M::Vpgatherdd, M::Vgatherdps], [M::Vpscatterdd, M::Vscatterdps]);
    family::<4, 8>(rows, [M::Vpgatherdq, M::Vgatherdpd], [M::Vpscatterdq, M::Vscatterdpd]);
    family::<8, 4>(rows, [M::Vpgatherqd, M::Vgatherqps], [M::Vpscatterqd, M::Vscatterqps]);
    family::<8, 8>(rows, [M::Vpgatherqq, M::Vgatherqpd], [M::Vpscatterqq, M::Vscatterqpd]);
}
