//! Near control flow.

use super::operand::*;
use crate::insn::{REG_RIP, seg};
use crate::mem::Kind;
use crate::row::Rows;
use crate::state::gpr::*;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// Checks a near branch target of operand size `T`, and truncates it: #GP(0) if it is not canonical or beyond the
    /// code segment's limit.
    #[inline(always)]
    fn check_target<T: Int>(&mut self, target: u64) -> Result<u64, Stop> {
        if T::BITS == 64 {
            if self.is_canonical(target) { Ok(target) } else { Err(self.gp0()) }
        } else {
            // In 64-bit mode (AMD's 16-bit branches) there is no limit.
            let target = target & T::MASK;
            let inside = self.long64() || target <= u64::from(self.seg[seg::CS as usize].limit);
            if inside { Ok(target) } else { Err(self.gp0()) }
        }
    }

    #[inline(always)]
    fn jump<T: Int>(&mut self, target: u64) -> Result<(), Stop> {
        self.regs[REG_RIP as usize] = self.check_target::<T>(target)?;
        Ok(())
    }

    #[inline(always)]
    fn call<T: Int>(&mut self, target: u64) -> Result<(), Stop> {
        // As on Intel's silicon, the return address is written before the target is checked; RSP moves after that. AMD only looks
        // whether it could be written.
        let next = self.next_ip();
        let sp = self.regs[RSP].wrapping_sub(T::SIZE) & self.stack_mask();
        if self.check_target::<T>(target).is_err() && self.model.is_amd() {
            self.probe(self.stack_segment(), sp, T::SIZE, Kind::Write)?;
            return self.jump::<T>(target);
        }
        self.write(self.stack_segment(), sp, T::of(next))?;
        self.regs[REG_RIP as usize] = self.check_target::<T>(target)?;
        self.set_sp(sp);
        Ok(())
    }
}

fn jmp_relative<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let target = cpu.next_ip().wrapping_add(i.imm);
    cpu.jump::<T>(target)
}

fn jmp_indirect<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let target = S::read::<T>(cpu, i)?.zx();
    cpu.jump::<T>(target)
}

fn jcc<T: Int, const CC: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.flags.condition(CC) { jmp_relative::<T>(cpu, i) } else { Ok(()) }
}

fn call_relative<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let target = cpu.next_ip().wrapping_add(i.imm);
    cpu.call::<T>(target)
}

fn call_indirect<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let target = S::read::<T>(cpu, i)?.zx();
    cpu.call::<T>(target)
}

fn ret<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let sp = cpu.sp();
    let target = cpu.read::<T>(cpu.stack_segment(), sp)?.zx();
    cpu.jump::<T>(target)?;
    cpu.set_sp(sp.wrapping_add(T::SIZE).wrapping_add(i.imm & 0xffff));
    Ok(())
}

/// The count register of LOOP and JCXZ, by address size.
#[inline(always)]
fn count<A: Int>(cpu: &Cpu) -> u64 {
    cpu.regs[RCX] & A::MASK
}

fn jcxz<A: Int, T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if count::<A>(cpu) == 0 { jmp_relative::<T>(cpu, i) } else { Ok(()) }
}

/// LOOP (`WHEN` 2), LOOPE (1) and LOOPNE (0). The count is written only if the jump does not fault.
fn loop_<A: Int, T: Int, const WHEN: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let left = A::of(count::<A>(cpu).wrapping_sub(1));
    let condition = WHEN == 2 || cpu.flags.zf() == (WHEN == 1);
    if left.zx() != 0 && condition {
        jmp_relative::<T>(cpu, i)?;
    }
    A::set(cpu, RCX as u8, left);
    Ok(())
}

macro_rules! jcc_rows {
    ($rows:ident, $($cc:literal: $s16:ident $s32:ident $s64:ident $n16:ident $n32:ident $n64:ident;)*) => {$(
        for code in [Code::$s16, Code::$n16] {
            $rows.add(code, jcc::<u16, $cc>).ends_block();
        }
        for code in [Code::$s32, Code::$n32] {
            $rows.add(code, jcc::<u32, $cc>).ends_block();
        }
        for code in [Code::$s64, Code::$n64] {
            $rows.add(code, jcc::<u64, $cc>).ends_block();
        }
    )*};
}

macro_rules! loop_rows {
    ($rows:ident, $($code:ident: $f:expr;)*) => {$(
        $rows.add(Code::$code, $f).ends_block();
    )*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    for code in [Code::Jmp_rel8_16, Code::Jmp_rel16] {
        rows.add(code, jmp_relative::<u16>).ends_block();
    }
    for code in [Code::Jmp_rel8_32, Code::Jmp_rel32_32] {
        rows.add(code, jmp_relative::<u32>).ends_block();
    }
    for code in [Code::Jmp_rel8_64, Code::Jmp_rel32_64] {
        rows.add(code, jmp_relative::<u64>).ends_block();
    }
    rows.add_rm(Code::Jmp_rm16, jmp_indirect::<u16, R<0>>, jmp_indirect::<u16, Mem>).ends_block();
    rows.add_rm(Code::Jmp_rm32, jmp_indirect::<u32, R<0>>, jmp_indirect::<u32, Mem>).ends_block();
    rows.add_rm(Code::Jmp_rm64, jmp_indirect::<u64, R<0>>, jmp_indirect::<u64, Mem>).ends_block();
    rows.add(Code::Call_rel16, call_relative::<u16>).ends_block();
    rows.add(Code::Call_rel32_32, call_relative::<u32>).ends_block();
    rows.add(Code::Call_rel32_64, call_relative::<u64>).ends_block();
    rows.add_rm(Code::Call_rm16, call_indirect::<u16, R<0>>, call_indirect::<u16, Mem>).ends_block();
    rows.add_rm(Code::Call_rm32, call_indirect::<u32, R<0>>, call_indirect::<u32, Mem>).ends_block();
    rows.add_rm(Code::Call_rm64, call_indirect::<u64, R<0>>, call_indirect::<u64, Mem>).ends_block();
    for code in [Code::Retnw, Code::Retnw_imm16] {
        rows.add(code, ret::<u16>).ends_block();
    }
    for code in [Code::Retnd, Code::Retnd_imm16] {
        rows.add(code, ret::<u32>).ends_block();
    }
    for code in [Code::Retnq, Code::Retnq_imm16] {
        rows.add(code, ret::<u64>).ends_block();
    }
    jcc_rows! { rows,
        0: Jo_rel8_16 Jo_rel8_32 Jo_rel8_64 Jo_rel16 Jo_rel32_32 Jo_rel32_64;
        1: Jno_rel8_16 Jno_rel8_32 Jno_rel8_64 Jno_rel16 Jno_rel32_32 Jno_rel32_64;
        2: Jb_rel8_16 Jb_rel8_32 Jb_rel8_64 Jb_rel16 Jb_rel32_32 Jb_rel32_64;
        3: Jae_rel8_16 Jae_rel8_32 Jae_rel8_64 Jae_rel16 Jae_rel32_32 Jae_rel32_64;
        4: Je_rel8_16 Je_rel8_32 Je_rel8_64 Je_rel16 Je_rel32_32 Je_rel32_64;
        5: Jne_rel8_16 Jne_rel8_32 Jne_rel8_64 Jne_rel16 Jne_rel32_32 Jne_rel32_64;
        6: Jbe_rel8_16 Jbe_rel8_32 Jbe_rel8_64 Jbe_rel16 Jbe_rel32_32 Jbe_rel32_64;
        7: Ja_rel8_16 Ja_rel8_32 Ja_rel8_64 Ja_rel16 Ja_rel32_32 Ja_rel32_64;
        8: Js_rel8_16 Js_rel8_32 Js_rel8_64 Js_rel16 Js_rel32_32 Js_rel32_64;
        9: Jns_rel8_16 Jns_rel8_32 Jns_rel8_64 Jns_rel16 Jns_rel32_32 Jns_rel32_64;
        10: Jp_rel8_16 Jp_rel8_32 Jp_rel8_64 Jp_rel16 Jp_rel32_32 Jp_rel32_64;
        11: Jnp_rel8_16 Jnp_rel8_32 Jnp_rel8_64 Jnp_rel16 Jnp_rel32_32 Jnp_rel32_64;
        12: Jl_rel8_16 Jl_rel8_32 Jl_rel8_64 Jl_rel16 Jl_rel32_32 Jl_rel32_64;
        13: Jge_rel8_16 Jge_rel8_32 Jge_rel8_64 Jge_rel16 Jge_rel32_32 Jge_rel32_64;
        14: Jle_rel8_16 Jle_rel8_32 Jle_rel8_64 Jle_rel16 Jle_rel32_32 Jle_rel32_64;
        15: Jg_rel8_16 Jg_rel8_32 Jg_rel8_64 Jg_rel16 Jg_rel32_32 Jg_rel32_64;
    }
    loop_rows! { rows,
        Jcxz_rel8_16: jcxz::<u16, u16>;
        Jcxz_rel8_32: jcxz::<u16, u32>;
        Jecxz_rel8_16: jcxz::<u32, u16>;
        Jecxz_rel8_32: jcxz::<u32, u32>;
        Jecxz_rel8_64: jcxz::<u32, u64>;
        Jrcxz_rel8_16: jcxz::<u64, u16>;
        Jrcxz_rel8_64: jcxz::<u64, u64>;
        Loop_rel8_16_CX: loop_::<u16, u16, 2>;
        Loop_rel8_32_CX: loop_::<u16, u32, 2>;
        Loop_rel8_16_ECX: loop_::<u32, u16, 2>;
        Loop_rel8_32_ECX: loop_::<u32, u32, 2>;
        Loop_rel8_64_ECX: loop_::<u32, u64, 2>;
        Loop_rel8_16_RCX: loop_::<u64, u16, 2>;
        Loop_rel8_64_RCX: loop_::<u64, u64, 2>;
        Loope_rel8_16_CX: loop_::<u16, u16, 1>;
        Loope_rel8_32_CX: loop_::<u16, u32, 1>;
        Loope_rel8_16_ECX: loop_::<u32, u16, 1>;
        Loope_rel8_32_ECX: loop_::<u32, u32, 1>;
        Loope_rel8_64_ECX: loop_::<u32, u64, 1>;
        Loope_rel8_16_RCX: loop_::<u64, u16, 1>;
        Loope_rel8_64_RCX: loop_::<u64, u64, 1>;
        Loopne_rel8_16_CX: loop_::<u16, u16, 0>;
        Loopne_rel8_32_CX: loop_::<u16, u32, 0>;
        Loopne_rel8_16_ECX: loop_::<u32, u16, 0>;
        Loopne_rel8_32_ECX: loop_::<u32, u32, 0>;
        Loopne_rel8_64_ECX: loop_::<u32, u64, 0>;
        Loopne_rel8_16_RCX: loop_::<u64, u16, 0>;
        Loopne_rel8_64_RCX: loop_::<u64, u64, 0>;
    }
}
