//! 16-bit code: offsets of 16 bits in segments that begin anywhere, and a stack pointer of 16 bits.
//!
//! The mode says that no segment ends before 64 KiB ([`whole16`](ringworld_x86::mode::Mode::whole16)): what an access
//! has to be asked for is only whether it reaches beyond them, which wraps or faults, by the instruction's function. Addresses of code are
//! linear ones within the translator; the base of the code segment is part of a block's key, and whoever comes to a block by
//! its linear address compares it.

use crate::emit::Emitter;
use crate::frame::at;
use crate::islands::CHECK;
use crate::site::Kind;
use crate::trace::offset_in;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, Register};
use ringworld_x86::insn::seg;

/// Displacement from RSP of a segment's base.
fn base_of(segment: u8) -> i32 {
    match segment {
        seg::FS => at::BASES,
        seg::GS => at::BASES + 8,
        n => at::SEGMENTS + 8 * i32::from(n),
    }
}

impl Emitter<'_> {
    /// 16-bit code.
    pub(crate) fn segmented(&self) -> bool {
        self.mode.whole16()
    }

    /// Leaves unless the base of the code segment is the block's.
    pub(crate) fn check_code_base(&mut self) {
        let site = self.site(Kind::Page);
        let distance = self.unit().wrapping_sub(self.code_base as i32);
        dynasm!(self.s
            ; .arch x64
            ; mov ecx, [rsp + base_of(seg::CS)]
            ; lea ecx, [rcx + distance]
        );
        let other = self.unless_unit();
        self.cold_site(other, site);
    }

    /// Whether what is emitted for memory operands holds for this one: 16-bit addresses in segments that allow them.
    pub(crate) fn is_addressable_16(&self, i: &Instruction, writes: bool) -> bool {
        let segment = match i.memory_segment() {
            Register::FS => self.mode.flat_but_for_base(seg::FS),
            Register::GS => self.mode.flat_but_for_base(seg::GS),
            // Code of protected mode cannot be written.
            Register::CS => !writes || self.mode.real_or_v8086(),
            _ => true,
        };
        let (base, index) = (i.memory_base(), i.memory_index());
        let short = match (base, index) {
            (Register::None, Register::None) => i.memory_displ_size() == 2,
            _ => [base, index].into_iter().all(|one| one == Register::None || one.is_gpr16()),
        };
        segment && short
    }

    /// Puts the linear address of the memory operand into R14.
    pub(crate) fn address_16(&mut self, i: &Instruction) {
        match self.offset(i, false, 14) {
            Some(offset) => self.constant(14, offset & 0xffff),
            None => dynasm!(self.s ; .arch x64 ; movzx r14d, r14w),
        }
        let segment = match i.memory_segment() {
            Register::ES => seg::ES,
            Register::CS => seg::CS,
            Register::SS => seg::SS,
            Register::FS => seg::FS,
            Register::GS => seg::GS,
            _ => seg::DS,
        };
        self.add_base(segment, i.memory_size().size() as i32);
    }

    /// Makes the offset in R14 of an access of so many bytes a linear address.
    fn add_base(&mut self, segment: u8, size: i32) {
        if size > 1 {
            self.keep_in_reach(CHECK);
            self.lea_base(1, false, 14, size - 1);
            dynasm!(self.s ; .arch x64 ; pext rcx, rcx, [rsp + at::BEYOND]);
            let beyond = self.unless_rcx_zero();
            self.beyond.push(beyond);
        }
        dynasm!(self.s ; .arch x64 ; mov ecx, [rsp + base_of(segment)] ; lea r14d, [r14 + rcx]);
    }

    /// Puts the linear address of the word at a distance from a register, in the stack segment, into R14.
    pub(crate) fn stack_address_16(&mut self, register: u8, displacement: i32) {
        self.lea_base(14, false, register, displacement);
        dynasm!(self.s ; .arch x64 ; movzx r14d, r14w);
        self.add_base(seg::SS, 2);
    }

    /// Makes the offset of code in R14 a linear address.
    pub(crate) fn code_address_16(&mut self) {
        let base = self.code_base as i32;
        if base != 0 {
            dynasm!(self.s ; .arch x64 ; lea r14d, [r14 + base]);
        }
    }

    /// What is pushed of a linear address of code.
    pub(crate) fn pushed_address(&self, linear: u64) -> u64 {
        offset_in(self.code_base, linear)
    }
}
