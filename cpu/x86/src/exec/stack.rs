//! The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE.

use super::operand::*;
use crate::control::cr4;
use crate::flags::bits;
use crate::insn::{REG_RIP, seg};
use crate::mem::{Kind, MemValue};
use crate::row::Rows;
use crate::state::{boundary, gpr::*};
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// The number of the stack segment for memory accesses.
    #[inline(always)]
    pub(crate) fn stack_segment(&self) -> u8 {
        if self.long64() { seg::FLAT_SS } else { seg::SS }
    }

    /// The stack pointer's significant part.
    #[inline(always)]
    pub(crate) fn sp(&self) -> u64 {
        self.regs[RSP] & self.stack_mask()
    }

    /// Writes the stack pointer at the stack's address size.
    #[inline(always)]
    pub(crate) fn set_sp(&mut self, sp: u64) {
        let mask = self.stack_mask();
        self.regs[RSP] = if mask == 0xffff { self.regs[RSP] & !0xffff | sp & 0xffff } else { sp & mask };
    }

    /// Pushes a value.
    #[inline(always)]
    pub(crate) fn push<T: MemValue>(&mut self, value: T) -> Result<(), Stop> {
        let sp = self.regs[RSP].wrapping_sub(T::SIZE) & self.stack_mask();
        self.write(self.stack_segment(), sp, value)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Pops a value.
    #[inline(always)]
    pub(crate) fn pop<T: MemValue>(&mut self) -> Result<T, Stop> {
        let sp = self.sp();
        let value = self.read(self.stack_segment(), sp)?;
        self.set_sp(sp.wrapping_add(T::SIZE));
        Ok(value)
    }

    /// After RFLAGS.IF, TF, AC or VM may have changed: what follows must be looked at anew.
    pub(crate) fn system_flags_changed(&mut self) {
        self.look_by_new_flags();
        self.select_context();
        self.end_block();
    }

    /// The part of [`Self::system_flags_changed`] for what happens between instructions.
    pub(crate) fn look_by_new_flags(&mut self) {
        if self.held != 0 {
            self.boundary |= boundary::INTERRUPT;
        }
        if self.flags.has(bits::TF | bits::RF) {
            self.boundary |= boundary::TRAP;
        }
    }
}

fn push<T: Int, S: Source>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = S::read::<T>(cpu, i)?;
    cpu.push(value)
}

/// A 32-bit push of a selector moves the stack pointer by four, but writes 16 bits; a 64-bit one is zero-extended (SDM 2B,
/// PUSH). AMD writes 32 bits, zero-extended (APM 3, PUSH).
fn push_segment<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let selector = cpu.seg[usize::from(i.r[0]) % 6].selector;
    if T::BITS == 64 || cpu.model.is_amd() {
        return cpu.push(T::of(selector.into()));
    }
    let sp = cpu.regs[RSP].wrapping_sub(T::SIZE) & cpu.stack_mask();
    cpu.write(cpu.stack_segment(), sp, selector)?;
    cpu.set_sp(sp);
    Ok(())
}

fn pop_register<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = cpu.pop::<T>()?;
    T::set(cpu, i.r[0], value);
    Ok(())
}

/// An address based on RSP uses its value after the pop (SDM 2B, POP).
fn pop_memory<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let rsp = cpu.regs[RSP];
    let value = cpu.pop::<T>()?;
    let result = cpu.store(i, value);
    if result.is_err() {
        cpu.regs[RSP] = rsp;
    }
    result
}

/// Intel reads 16 bits, whatever the operand size moves the stack pointer by; AMD reads all. The new selector's checks may fault: then nothing
/// has been popped.
fn pop_segment<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let rsp = cpu.regs[RSP];
    let sp = cpu.sp();
    let value = if cpu.model.is_amd() {
        cpu.read::<T>(cpu.stack_segment(), sp)?.zx() as u16
    } else {
        cpu.read::<u16>(cpu.stack_segment(), sp)?
    };
    cpu.set_sp(sp.wrapping_add(T::SIZE));
    let result = cpu.load_segment(i.r[0], value);
    if result.is_err() {
        cpu.regs[RSP] = rsp;
    } else if i.r[0] == seg::SS {
        cpu.mov_ss_shadow();
    }
    result
}

fn pusha<T: Int>(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let sp = cpu.sp();
    let bottom = sp.wrapping_sub(8 * T::SIZE);
    // Written one by one: a fault half-way leaves the first ones in memory and the stack pointer alone.
    for n in 0..8_u8 {
        let at = sp.wrapping_sub(T::SIZE * (u64::from(n) + 1)) & cpu.stack_mask();
        let value = T::get(cpu, n);
        cpu.write(seg::SS, at, value)?;
    }
    cpu.set_sp(bottom);
    Ok(())
}

fn popa<T: Int>(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let sp = cpu.sp();
    let mut values = [T::of(0); 8];
    for (n, value) in values.iter_mut().enumerate() {
        *value = cpu.read(seg::SS, sp.wrapping_add(T::SIZE * n as u64) & cpu.stack_mask())?;
    }
    for (n, value) in (0..8_u8).rev().zip(values) {
        if usize::from(n) != RSP {
            T::set(cpu, n, value);
        }
    }
    cpu.set_sp(sp.wrapping_add(8 * T::SIZE));
    Ok(())
}

fn pushf<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.mode.flags_intercepted() {
        cpu.intercept(Intercept::Pushf, i)?;
    }
    let mut image = cpu.flags.get() & !(bits::VM | bits::RF);
    if cpu.v8086() && cpu.flags.iopl() < 3 {
        // SDM 3B 21.3.3.4: virtual-mode extensions push VIF in the place of IF and an IOPL of 3, 16-bit only.
        if cpu.cr4 & cr4::VME == 0 || T::BITS != 16 {
            return Err(cpu.gp0());
        }
        image = image & !bits::IF | bits::IOPL | if image & bits::VIF != 0 { bits::IF } else { 0 };
    }
    cpu.push(T::of(image))
}

fn popf<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.mode.flags_intercepted() {
        cpu.intercept(Intercept::Popf, i)?;
    }
    let (cpl, iopl) = (cpu.cpl, cpu.flags.iopl());
    let v8086 = cpu.v8086();
    let mut writable =
        bits::STATUS | bits::TF | bits::DF | bits::NT | if T::BITS > 16 { bits::AC | bits::ID } else { 0 };
    if v8086 && iopl < 3 {
        if cpu.cr4 & cr4::VME == 0 || T::BITS != 16 {
            return Err(cpu.gp0());
        }
        let rsp = cpu.regs[RSP];
        let image = cpu.pop::<T>()?.zx();
        // An interrupt that waits (VIP) and IF being set, or TF being set: #GP(0).
        if image & bits::TF != 0 || image & bits::IF != 0 && cpu.flags.has(bits::VIP) {
            cpu.regs[RSP] = rsp;
            return Err(cpu.gp0());
        }
        let vif = if image & bits::IF != 0 { bits::VIF } else { 0 };
        let old = cpu.flags.get();
        cpu.flags.set(old & !(writable | bits::VIF) | image & writable | vif);
        cpu.system_flags_changed();
        return Ok(());
    }
    if cpl == 0 {
        writable |= bits::IOPL | bits::IF;
    } else if cpl <= iopl {
        writable |= bits::IF;
    }
    let image = cpu.pop::<T>()?.zx();
    let old = cpu.flags.get();
    // RF is cleared, VM, VIF and VIP stay.
    cpu.flags.set(old & !(writable | bits::RF) | image & writable);
    cpu.system_flags_changed();
    Ok(())
}

fn enter<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (size, level) = (i.imm & 0xffff, (i.imm >> 32 & 31) as u32);
    let stack = cpu.stack_segment();
    let mask = cpu.stack_mask();
    let mut sp = cpu.sp().wrapping_sub(T::SIZE) & mask;
    // All of ESP, though a 16-bit stack moves only SP.
    let frame = if mask == 0xffff { cpu.regs[RSP] & !0xffff | sp } else { sp };
    let bp = T::get(cpu, RBP as u8);
    cpu.write(stack, sp, bp)?;
    let mut from = cpu.regs[RBP];
    for _ in 1..level {
        from = from.wrapping_sub(T::SIZE);
        let display = cpu.read::<T>(stack, from & mask)?;
        sp = sp.wrapping_sub(T::SIZE) & mask;
        cpu.write(stack, sp, display)?;
    }
    if level > 0 {
        sp = sp.wrapping_sub(T::SIZE) & mask;
        cpu.write(stack, sp, T::of(frame))?;
    }
    sp = sp.wrapping_sub(size) & mask;
    // The new top must be writable (SDM 2A, ENTER).
    if cpu.alignment_checked() && sp & (T::SIZE - 1) != 0 {
        return Err(cpu.ac());
    }
    cpu.probe(stack, sp, T::SIZE, Kind::Write)?;
    T::set(cpu, RBP as u8, T::of(frame));
    cpu.set_sp(sp);
    Ok(())
}

fn leave<T: Int>(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let bp = cpu.regs[RBP] & cpu.stack_mask();
    let value = cpu.read::<T>(cpu.stack_segment(), bp)?;
    cpu.set_sp(bp.wrapping_add(T::SIZE));
    T::set(cpu, RBP as u8, value);
    Ok(())
}

impl Cpu {
    /// The address of the instruction after the current one, as a call pushes it.
    #[inline(always)]
    pub(crate) fn next_ip(&self) -> u64 {
        self.regs[REG_RIP as usize]
    }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Push_r16, push::<u16, R<0>>);
    rows.add(Code::Push_r32, push::<u32, R<0>>);
    rows.add(Code::Push_r64, push::<u64, R<0>>);
    rows.add_rm(Code::Push_rm16, push::<u16, R<0>>, push::<u16, Mem>);
    rows.add_rm(Code::Push_rm32, push::<u32, R<0>>, push::<u32, Mem>);
    rows.add_rm(Code::Push_rm64, push::<u64, R<0>>, push::<u64, Mem>);
    for code in [Code::Push_imm16, Code::Pushw_imm8] {
        rows.add(code, push::<u16, Imm>);
    }
    for code in [Code::Pushd_imm32, Code::Pushd_imm8] {
        rows.add(code, push::<u32, Imm>);
    }
    for code in [Code::Pushq_imm32, Code::Pushq_imm8] {
        rows.add(code, push::<u64, Imm>);
    }
    for code in
        [Code::Pushw_ES, Code::Pushw_CS, Code::Pushw_SS, Code::Pushw_DS, Code::Pushw_FS, Code::Pushw_GS]
    {
        rows.add(code, push_segment::<u16>);
    }
    for code in
        [Code::Pushd_ES, Code::Pushd_CS, Code::Pushd_SS, Code::Pushd_DS, Code::Pushd_FS, Code::Pushd_GS]
    {
        rows.add(code, push_segment::<u32>);
    }
    for code in [Code::Pushq_FS, Code::Pushq_GS] {
        rows.add(code, push_segment::<u64>);
    }
    rows.add(Code::Pop_r16, pop_register::<u16>);
    rows.add(Code::Pop_r32, pop_register::<u32>);
    rows.add(Code::Pop_r64, pop_register::<u64>);
    rows.add_rm(Code::Pop_rm16, pop_register::<u16>, pop_memory::<u16>);
    rows.add_rm(Code::Pop_rm32, pop_register::<u32>, pop_memory::<u32>);
    rows.add_rm(Code::Pop_rm64, pop_register::<u64>, pop_memory::<u64>);
    for code in [Code::Popw_ES, Code::Popw_SS, Code::Popw_DS, Code::Popw_FS, Code::Popw_GS] {
        rows.add(code, pop_segment::<u16>);
    }
    for code in [Code::Popd_ES, Code::Popd_SS, Code::Popd_DS, Code::Popd_FS, Code::Popd_GS] {
        rows.add(code, pop_segment::<u32>);
    }
    for code in [Code::Popq_FS, Code::Popq_GS] {
        rows.add(code, pop_segment::<u64>);
    }
    rows.add(Code::Pushaw, pusha::<u16>);
    rows.add(Code::Pushad, pusha::<u32>);
    rows.add(Code::Popaw, popa::<u16>);
    rows.add(Code::Popad, popa::<u32>);
    rows.add(Code::Pushfw, pushf::<u16>);
    rows.add(Code::Pushfd, pushf::<u32>);
    rows.add(Code::Pushfq, pushf::<u64>);
    rows.add(Code::Popfw, popf::<u16>).ends_block();
    rows.add(Code::Popfd, popf::<u32>).ends_block();
    rows.add(Code::Popfq, popf::<u64>).ends_block();
    rows.add(Code::Enterw_imm16_imm8, enter::<u16>);
    rows.add(Code::Enterd_imm16_imm8, enter::<u32>);
    rows.add(Code::Enterq_imm16_imm8, enter::<u64>);
    rows.add(Code::Leavew, leave::<u16>);
    rows.add(Code::Leaved, leave::<u32>);
    rows.add(Code::Leaveq, leave::<u64>);
}
