//! Hints, fences and cache control: no cache and no reordering is modelled, so what is left are the checks; and the
//! stores that bypass caches.

use crate::insn::seg;
use crate::mem::{Kind, Privilege};
use crate::row::Rows;
use crate::state::gpr::RAX;
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

/// Nothing to do, nothing to check.
fn nothing(_: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    Ok(())
}

/// So many PAUSEs end a turn: a few in a row are a short wait.
const PAUSES: u8 = 16;

/// A processor that waits for others lets them run.
fn pause(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Pause, i)?;
    if cpu.company == 0 {
        return Ok(());
    }
    cpu.pauses = cpu.pauses.saturating_add(1);
    if cpu.pauses >= PAUSES {
        cpu.pauses = 0;
        cpu.paused = true;
        cpu.yield_to_machine();
    }
    Ok(())
}

fn wbinvd(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Wbinvd, i)
}

fn invd(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Invd, i)
}

/// CLFLUSH, CLFLUSHOPT, CLWB: the checks of a byte load, but code segments need not be readable (SDM 2A CLFLUSH).
fn flush_line(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let linear = cpu.check_segment(i.segment(), cpu.effective_address(i), 1, Kind::Fetch)?;
    cpu.translate(linear, Kind::Read, Privilege::Current)?;
    Ok(())
}

/// MOVNTI, MOVDIRI.
fn store_directly<T: crate::exec::operand::Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.store(i, T::get(cpu, i.r[1]))
}

/// MOVDIR64B: to ES at the address in the register operand, which must be aligned to 64 bytes.
fn movdir64b(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let segment = if cpu.long64() { seg::FLAT } else { seg::ES };
    // The source is read before the target is looked at.
    let line: [u64; 8] = cpu.load(i)?;
    let offset = cpu.regs[usize::from(i.r[0] & 15)] & i.address_mask();
    let linear = cpu.check_segment(segment, offset, 64, Kind::Write)?;
    if linear & 63 != 0 {
        return Err(cpu.gp0());
    }
    cpu.write(segment, offset, line)
}

/// CLZERO (APM 3): clears the 64-byte line that holds the address in rAX.
fn clzero(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let offset = cpu.regs[RAX] & i.address_mask() & !63;
    cpu.write(i.segment(), offset, [0_u64; 8])
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    use Code::*;
    for code in [
        Prefetchnta_m8,
        Prefetcht0_m8,
        Prefetcht1_m8,
        Prefetcht2_m8,
        Prefetchit0_m8,
        Prefetchit1_m8,
        Prefetchw_m8,
        Prefetchwt1_m8,
        Prefetch_m8,
        Prefetchreserved3_m8,
        Prefetchreserved4_m8,
        Prefetchreserved5_m8,
        Prefetchreserved6_m8,
        Prefetchreserved7_m8,
        Cldemote_m8,
        Lfence,
        Lfence_E9,
        Lfence_EA,
        Lfence_EB,
        Lfence_EC,
        Lfence_ED,
        Lfence_EE,
        Lfence_EF,
        Mfence,
        Mfence_F1,
        Mfence_F2,
        Mfence_F3,
        Mfence_F4,
        Mfence_F5,
        Mfence_F6,
        Mfence_F7,
        Sfence,
        Sfence_F9,
        Sfence_FA,
        Sfence_FB,
        Sfence_FC,
        Sfence_FD,
        Sfence_FE,
        Sfence_FF,
        // NOPs where control-flow enforcement is off.
        Rdsspd_r32,
        Rdsspq_r64,
    ] {
        rows.add(code, nothing);
    }
    rows.add(Pause, pause);
    rows.add(Wbinvd, wbinvd).cpl0();
    rows.add(Wbnoinvd, wbinvd).cpl0();
    rows.add(Invd, invd).cpl0();
    rows.add(Serialize, nothing).ends_block();
    for code in [Clflush_m8, Clflushopt_m8, Clwb_m8] {
        rows.add(code, flush_line);
    }
    rows.add(Movnti_m32_r32, store_directly::<u32>);
    rows.add(Movnti_m64_r64, store_directly::<u64>);
    rows.add(Movdiri_m32_r32, store_directly::<u32>);
    rows.add(Movdiri_m64_r64, store_directly::<u64>);
    for code in [Movdir64b_r16_m512, Movdir64b_r32_m512, Movdir64b_r64_m512] {
        rows.add(code, movdir64b);
    }
    for code in [Clzerow, Clzerod, Clzeroq] {
        rows.add(code, clzero);
    }
}
