//! Segmented code: 16-bit code, and 32-bit code whose segments are not flat.
//!
//! The frame has each segment's base, and what it lacks to 4 GiB (and 4 GiB more, which makes the check one instruction shorter): an
//! access adds that to the offset of its last byte, and calls the instruction's function if the sum is beyond. Addresses of code are linear ones within the translator; the
//! code segment's base and limit are part of a block's key, and whoever comes to a block by its linear address compares them.

use crate::emit::{Emitter, Unsupported, writes};
use crate::frame::{Home, at, home};
use crate::islands::CHECK;
use crate::site::Kind;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, OpKind, Register};
use ringworld_core::{PAGE_MASK, PAGE_SIZE};
use ringworld_x86::Cpu;
use ringworld_x86::insn::seg;

/// Base (lower half) and end of the code segment of segmented code; zero where offsets are linear addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CodeSegment(pub u64);

impl CodeSegment {
    /// The running code's. What 16-bit code has beyond 64 KiB does not count: it does not go on there; nor the last page of 4 GiB, after
    /// which code wraps.
    pub fn of(cpu: &Cpu) -> Self {
        if !cpu.mode.segmented() {
            return Self::default();
        }
        let cs = &cpu.seg[usize::from(seg::CS)];
        let limit = cs.limit.min(if cpu.mode.bitness() == 16 { 0xffff } else { !PAGE_MASK as u32 - 1 });
        Self(cs.base & 0xffff_ffff | (u64::from(limit) + 1) << 32)
    }

    /// The linear address of an offset.
    pub fn linear(self, offset: u64) -> u64 {
        if self.0 == 0 { offset } else { self.0.wrapping_add(offset) & 0xffff_ffff }
    }

    /// And back.
    pub fn offset(self, linear: u64) -> u64 {
        if self.0 == 0 { linear } else { linear.wrapping_sub(self.0) & 0xffff_ffff }
    }

    /// Bytes from an offset to the end.
    fn room(self, offset: u64) -> u64 {
        if self.0 == 0 { u64::MAX } else { (self.0 >> 32).saturating_sub(offset) }
    }

    /// Whether code may go on at an offset.
    pub fn contains(self, offset: u64) -> bool {
        self.room(offset) > 0
    }

    /// Whether an instruction of any length at a linear address lies in it.
    pub fn has_instruction(self, linear: u64) -> bool {
        self.room(self.offset(linear)) >= 15
    }

    /// Bytes of the page of a linear address before the segment's end.
    pub fn end_in_page(self, linear: u64) -> usize {
        let room = self.room(self.offset(linear));
        (linear & PAGE_MASK).saturating_add(room).min(PAGE_SIZE) as usize
    }
}

/// Number of the segment of a memory operand.
pub(crate) fn number(segment: Register) -> u8 {
    match segment {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    }
}

/// Displacement from RSP of a segment's base.
pub(crate) fn base_of(segment: u8) -> i32 {
    at::SEGMENTS + 8 * i32::from(segment)
}

/// The same of what it lacks.
pub(crate) fn lacks_of(segment: u8, write: bool) -> i32 {
    at::LACKS + 16 * i32::from(segment) + if write { 8 } else { 0 }
}

/// Whether the memory operand has a 16-bit address.
fn address_is_16(i: &Instruction) -> bool {
    match (i.memory_base(), i.memory_index()) {
        (Register::None, Register::None) => i.memory_displ_size() == 2,
        (base, index) => base.is_gpr16() || index.is_gpr16(),
    }
}

impl Emitter<'_> {
    /// Segments have bases and limits.
    pub(crate) fn segmented(&self) -> bool {
        self.mode.segmented()
    }

    /// The stack pointer is SP.
    pub(crate) fn small_stack(&self) -> bool {
        self.mode.small_stack()
    }

    /// Leaves unless the code segment is the block's.
    pub(crate) fn check_code_segment(&mut self) {
        let site = self.site(Kind::Page);
        let distance = i64::from(self.unit()).wrapping_sub(self.code_segment.0 as i64);
        self.constant(14, distance as u64);
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + at::CODE_SEGMENT] ; lea rcx, [rcx + r14]);
        let other = self.unless_unit();
        self.cold_site(other, site);
    }

    /// Computes the memory operand's offset into R14, unless it is constant: then returns it.
    pub(crate) fn segment_offset(&mut self, i: &Instruction) -> Option<u64> {
        let small = address_is_16(i);
        let fixed = self.offset(i, false, 14);
        if small && fixed.is_none() {
            dynasm!(self.s ; .arch x64 ; movzx r14d, r14w);
        }
        fixed.map(|offset| if small { offset & 0xffff } else { offset })
    }

    /// Puts the linear address of the memory operand into R14.
    pub(crate) fn segment_address(&mut self, i: &Instruction) {
        if let Some(offset) = self.segment_offset(i) {
            self.constant(14, offset);
        }
        let operand = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory);
        let write = operand.is_some_and(|n| writes(self.memory_accesses.of(self.info, i, n)));
        self.add_base(number(i.memory_segment()), i.memory_size().size() as i32, write);
    }

    /// The jump that is taken unless RCX is at least 4 GiB and below 8 GiB.
    pub(crate) fn unless_within(&mut self) -> usize {
        dynasm!(self.s ; .arch x64 ; pext rcx, rcx, [rsp + at::BEYOND]);
        if self.unit() != 1 {
            self.lea_base(1, true, 1, self.unit() - 1);
        }
        self.unless_unit()
    }

    /// Makes the offset in R14 of an access of so many bytes a linear address.
    pub(crate) fn add_base(&mut self, segment: u8, size: i32, write: bool) {
        self.keep_in_reach(CHECK);
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + lacks_of(segment, write)]);
        self.lea(1, true, Some(1), 14, 0, size.max(1) - 1);
        let beyond = self.unless_within();
        self.beyond.push(beyond);
        dynasm!(self.s ; .arch x64 ; mov ecx, [rsp + base_of(segment)] ; lea r14d, [r14 + rcx]);
    }

    /// Puts the linear address of what the present instruction pushes or pops, at a distance from a register, into R14.
    pub(crate) fn stack_address(&mut self, register: u8, displacement: i32, write: bool) {
        self.lea_base(14, false, register, displacement);
        if self.small_stack() {
            dynasm!(self.s ; .arch x64 ; movzx r14d, r14w);
        }
        self.add_base(seg::SS, self.step(), write);
    }

    /// LEA, by whatever address.
    pub(crate) fn segment_lea(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        if !address_is_16(i) || i.op0_register().is_gpr16() {
            self.lea_instruction(i);
            return Ok(());
        }
        if let Some(offset) = self.segment_offset(i) {
            self.constant(14, offset);
        }
        let Home::Host(target) = home(i.op0_register().full_register().number()) else {
            return Err(Unsupported);
        };
        dynasm!(self.s ; .arch x64 ; mov Rd(target), r14d);
        Ok(())
    }

    /// Makes the offset of code in R14, to which the present instruction goes, a linear address.
    pub(crate) fn code_address(&mut self) {
        let end = self.code_segment.0 >> 32;
        let all = if self.step == 2 { 1 << 16 } else { 1 << 32 };
        if self.segmented() && end < all {
            self.keep_in_reach(CHECK);
            self.let_go();
            self.constant(1, (2 << 32) - end);
            dynasm!(self.s ; .arch x64 ; lea rcx, [rcx + r14]);
            let beyond = self.unless_within();
            self.beyond.push(beyond);
        }
        let base = self.code_segment.0 as i32;
        if base != 0 {
            dynasm!(self.s ; .arch x64 ; lea r14d, [r14 + base]);
        }
    }

    /// What is pushed of a linear address of code.
    pub(crate) fn pushed_address(&self, linear: u64) -> u64 {
        self.code_segment.offset(linear)
    }
}
