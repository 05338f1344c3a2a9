//! Flag instructions, software interrupts, BOUND, undefined opcodes, and the checks of selectors (LAR, LSL, VERR, VERW,
//! ARPL).

use super::operand::*;
use crate::deliver::Origin;
use crate::descriptor::{Descriptor, kind};
use crate::fault::vector;
use crate::flags::bits;
use crate::row::Rows;
use crate::segment::rights;
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

fn clc(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.flags.set_cf(false);
    Ok(())
}

fn stc(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.flags.set_cf(true);
    Ok(())
}

fn cmc(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let cf = cpu.flags.cf();
    cpu.flags.set_cf(!cf);
    Ok(())
}

fn cld(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.flags.system &= !bits::DF;
    Ok(())
}

fn std(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    cpu.flags.system |= bits::DF;
    Ok(())
}

/// SMAP's CLAC and STAC: #UD above CPL 0 (SDM 2A, CLAC).
fn set_ac(cpu: &mut Cpu, on: bool) -> Result<(), Stop> {
    if cpu.cpl != 0 {
        return Err(cpu.ud());
    }
    cpu.flags.system = cpu.flags.system & !bits::AC | if on { bits::AC } else { 0 };
    cpu.select_context();
    Ok(())
}

fn clac(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    set_ac(cpu, false)
}

fn stac(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    set_ac(cpu, true)
}

fn salc(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let value = if cpu.flags.cf() { 0xff } else { 0 };
    u8::set(cpu, 0, value);
    Ok(())
}

fn int(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Int(i.imm as u8), i)?;
    cpu.software_interrupt(i.imm as u8, Origin::Software)
}

fn int3(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::SoftwareException(vector::BP), i)?;
    cpu.counters.exceptions[usize::from(vector::BP)] += 1;
    cpu.software_interrupt(vector::BP, Origin::SoftwareException)
}

fn into(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if !cpu.flags.of() {
        return Ok(());
    }
    cpu.intercept(Intercept::SoftwareException(vector::OF), i)?;
    cpu.counters.exceptions[usize::from(vector::OF)] += 1;
    cpu.software_interrupt(vector::OF, Origin::SoftwareException)
}

/// INT1 (ICEBP): a #DB trap that checks no privilege and leaves DR6.
fn int1(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::SoftwareException(vector::DB), i)?;
    cpu.counters.exceptions[usize::from(vector::DB)] += 1;
    // Debug traps that MOV SS has held back are delivered with it.
    let held = core::mem::take(&mut cpu.pending_db);
    if held != 0 {
        cpu.note_debug_exception(held);
    }
    cpu.software_interrupt(vector::DB, Origin::Privileged)
}

fn bound<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let at = cpu.effective_address(i);
    let low = cpu.read::<T>(i.segment(), at)?.sx() as i64;
    // Both are read before either is compared: a page fault of the second comes before #BR (measured on Zen 4).
    let high = cpu.read::<T>(i.segment(), at.wrapping_add(T::SIZE) & i.address_mask())?.sx() as i64;
    let index = T::get(cpu, i.r[0]).sx() as i64;
    if (low..=high).contains(&index) {
        return Ok(());
    }
    cpu.intercept(Intercept::SoftwareException(vector::BR), i)?;
    Err(cpu.br())
}

fn ud(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    Err(cpu.ud())
}

/// The descriptor of LAR, LSL, VERR, VERW: `None` where they clear ZF instead of faulting.
fn visible(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Stop> {
    if selector & 0xfffc == 0 {
        return Ok(None);
    }
    let Some(descriptor) = cpu.find_descriptor(selector)? else { return Ok(None) };
    let segment = descriptor.segment();
    let conforming = segment.is_code() && segment.rights & rights::DC != 0;
    let rpl = (selector & 3) as u8;
    let privileged = conforming || cpu.cpl <= segment.dpl() && rpl <= segment.dpl();
    Ok(privileged.then_some(descriptor))
}

fn protected_only(cpu: &mut Cpu) -> Result<(), Stop> {
    if cpu.mode.real_or_v8086() { Err(cpu.ud()) } else { Ok(()) }
}

fn selector(cpu: &mut Cpu, i: &Insn, register: usize) -> Result<u16, Stop> {
    if i.has_memory() { cpu.load(i) } else { Ok(u16::get(cpu, i.r[register])) }
}

fn lar<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    protected_only(cpu)?;
    let selector = selector(cpu, i, 1)?;
    let long = cpu.long_mode();
    let found = visible(cpu, selector)?.filter(|d| {
        d.type_s() & 0x10 != 0
            || match d.type_s() {
                kind::LDT | kind::TSS32 | kind::TSS32_BUSY | kind::CALL_GATE32 => true,
                kind::TSS16 | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE => !long,
                _ => false,
            }
    });
    cpu.flags.set_zf_only(found.is_some());
    if let Some(descriptor) = found {
        // Bits 16–19, undefined by the manual, hold the limit's upper bits on silicon.
        let mask = if T::BITS == 16 { 0xff00 } else { 0x00ff_ff00 };
        T::set(cpu, i.r[0], T::of(descriptor.low >> 32 & mask));
    }
    Ok(())
}

fn lsl<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    protected_only(cpu)?;
    let selector = selector(cpu, i, 1)?;
    let long = cpu.long_mode();
    let found = visible(cpu, selector)?.filter(|d| {
        d.type_s() & 0x10 != 0
            || match d.type_s() {
                kind::LDT | kind::TSS32 | kind::TSS32_BUSY => true,
                kind::TSS16 | kind::TSS16_BUSY => !long,
                _ => false,
            }
    });
    cpu.flags.set_zf_only(found.is_some());
    if let Some(descriptor) = found {
        T::set(cpu, i.r[0], T::of(descriptor.segment().limit.into()));
    }
    Ok(())
}

fn verify<const WRITE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    protected_only(cpu)?;
    let selector = selector(cpu, i, 0)?;
    let ok = visible(cpu, selector)?.is_some_and(|d| {
        let segment = d.segment();
        d.type_s() & 0x10 != 0 && if WRITE { segment.writable() } else { segment.readable() }
    });
    cpu.flags.set_zf_only(ok);
    Ok(())
}

fn arpl(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    protected_only(cpu)?;
    let rpl = u16::get(cpu, i.r[1]) & 3;
    let old = if i.has_memory() { cpu.load::<u16>(i)? } else { u16::get(cpu, i.r[0]) };
    let adjusted = old & 3 < rpl;
    if adjusted {
        let new = old & !3 | rpl;
        if i.has_memory() {
            cpu.store(i, new)?;
        } else {
            u16::set(cpu, i.r[0], new);
        }
    }
    cpu.flags.set_zf_only(adjusted);
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Clc, clc);
    rows.add(Code::Stc, stc);
    rows.add(Code::Cmc, cmc);
    rows.add(Code::Cld, cld);
    rows.add(Code::Std, std);
    rows.add(Code::Clac, clac).ends_block();
    rows.add(Code::Stac, stac).ends_block();
    rows.add(Code::Salc, salc);
    rows.add(Code::Int_imm8, int).ends_block();
    rows.add(Code::Int3, int3).ends_block();
    rows.add(Code::Into, into).ends_block();
    rows.add(Code::Int1, int1).ends_block();
    rows.add(Code::Bound_r16_m1616, bound::<u16>);
    rows.add(Code::Bound_r32_m3232, bound::<u32>);
    for code in [
        Code::Ud0,
        Code::Ud0_r16_rm16,
        Code::Ud0_r32_rm32,
        Code::Ud0_r64_rm64,
        Code::Ud1_r16_rm16,
        Code::Ud1_r32_rm32,
        Code::Ud1_r64_rm64,
        Code::Ud2,
    ] {
        rows.add(code, ud).ends_block();
    }
    for (codes, f) in [
        ([Code::Lar_r16_rm16, Code::Lsl_r16_rm16], [lar::<u16> as crate::Exec, lsl::<u16>]),
        ([Code::Lar_r32_r32m16, Code::Lsl_r32_r32m16], [lar::<u32>, lsl::<u32>]),
        ([Code::Lar_r64_r64m16, Code::Lsl_r64_r64m16], [lar::<u64>, lsl::<u64>]),
    ] {
        for (code, f) in codes.into_iter().zip(f) {
            rows.add(code, f);
        }
    }
    for code in [Code::Verr_rm16, Code::Verr_r32m16, Code::Verr_r64m16] {
        rows.add(code, verify::<false>);
    }
    for code in [Code::Verw_rm16, Code::Verw_r32m16, Code::Verw_r64m16] {
        rows.add(code, verify::<true>);
    }
    for code in [Code::Arpl_rm16_r16, Code::Arpl_r32m16_r32] {
        rows.add(code, arpl);
    }
}
