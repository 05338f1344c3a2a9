//! Segment registers and far transfers in 16-bit code in real-address and virtual-8086 mode, where a selector is a base (SDM 3A
//! 21.1.1, 21.2.1).
//!
//! They change the processor's state in [`ringworld_x86::Cpu`], and the frame's copy of it; no mode follows from it. A register of
//! which more would change (one that a null selector has made unusable in protected mode) is up to the instruction's function. So
//! are SS, whose loads cast a shadow, and code segments of less than 64 KiB.

use crate::classify::Segments;
use crate::control::SP;
use crate::emit::{Emitter, Unsupported, access_of};
use crate::frame::{Home, at, home};
use crate::islands::CHECK;
use crate::memory::Access;
use crate::segmented::{base_of, number};
use crate::site::Kind;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, OpAccess, OpKind, Register};
use ringworld_x86::insn::seg;
use ringworld_x86::native::offset;

/// Rotates left by four bits what has no more than 28.
const TIMES_16: i8 = 28;

impl Emitter<'_> {
    /// One of these instructions; false if it was the end of the block.
    pub(crate) fn segments(&mut self, i: &Instruction, what: Segments) -> Result<bool, Unsupported> {
        self.held = None;
        match what {
            Segments::Load => self.load_segment(i)?,
            Segments::LoadFar(segment) => self.load_far(i, segment)?,
            Segments::Push(segment) => self.push_segment(segment),
            Segments::Pop(segment) => self.pop_segment(segment),
            Segments::Jump => self.far_transfer(i, false)?,
            Segments::Call => self.far_transfer(i, true)?,
            Segments::Return => self.far_return(i)?,
        }
        Ok(!matches!(what, Segments::Jump | Segments::Call | Segments::Return))
    }

    /// Notes the jumps that are taken if a load of a segment register would change more than selector and base: it is unusable, or, in
    /// virtual-8086 mode, has other rights and another limit than all have there.
    fn only_base(&mut self, segment: u8) {
        // Once it has been loaded, as long as the mode is the same.
        if self.only_base & 1 << segment != 0 {
            return;
        }
        let at = offset::segment(segment);
        let parts = [(at.unusable, 1, 0), (at.rights, 2, 0xf3), (at.limit, 4, 0xffff)];
        for &(offset, size, usual) in &parts[..if self.mode.real() { 1 } else { 3 }] {
            self.keep_in_reach(CHECK);
            dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + at::CPU]);
            match size {
                1 => dynasm!(self.s ; .arch x64 ; movzx ecx, BYTE [rcx + offset]),
                2 => dynasm!(self.s ; .arch x64 ; movzx ecx, WORD [rcx + offset]),
                _ => dynasm!(self.s ; .arch x64 ; mov ecx, [rcx + offset]),
            }
            self.lea_base(1, true, 1, self.unit() - usual);
            let other = self.unless_unit();
            self.beyond.push(other);
        }
    }

    /// Loads a segment register that is usable with the selector in R14.
    fn set_segment(&mut self, segment: u8) {
        let [register, fast] = offset::base(segment);
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov [rcx + offset::segment(segment).selector], r14w
            ; rorx r14d, r14d, TIMES_16
            ; mov [rcx + register], r14
            ; mov [rcx + fast], r14
            ; mov [rsp + base_of(segment)], r14
        );
        self.only_base |= 1 << segment;
    }

    /// MOV to a segment register.
    fn load_segment(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let segment = number(i.op0_register());
        if matches!(i.op0_register(), Register::CS | Register::SS) {
            return Err(Unsupported);
        }
        self.only_base(segment);
        let mut slow = Vec::new();
        if i.op1_kind() == OpKind::Memory {
            self.address(i);
            slow.push(self.check(Access { size: 2, write: false, alignment: None, fixed: None }));
            dynasm!(self.s ; .arch x64 ; movzx r14d, WORD [rcx + r14]);
        } else {
            let from = self.value(i.op1_register().full_register().number(), 14);
            dynasm!(self.s ; .arch x64 ; movzx r14d, Rw(from));
        }
        self.set_segment(segment);
        self.slow(&slow, Kind::Exec);
        Ok(())
    }

    /// LDS and its kin of an offset of 16 bits.
    fn load_far(&mut self, i: &Instruction, segment: u8) -> Result<(), Unsupported> {
        let Home::Host(host) = home(i.op0_register().full_register().number()) else {
            return Err(Unsupported);
        };
        self.only_base(segment);
        let slow = self.far_pointer(i)?;
        dynasm!(self.s
            ; .arch x64
            ; mov Rw(host), r14w
            ; rorx r14d, r14d, 16
            ; movzx r14d, r14w
        );
        self.set_segment(segment);
        self.slow(&[slow], Kind::Exec);
        Ok(())
    }

    /// Loads the far pointer that is the memory operand into R14, offset and selector; the jump that is taken if it is not plain.
    fn far_pointer(&mut self, i: &Instruction) -> Result<usize, Unsupported> {
        let fixed = self.address(i);
        let slow = self.check(Access { size: 4, ..access_of(i, OpAccess::Read, fixed)? });
        dynasm!(self.s ; .arch x64 ; mov r14d, [rcx + r14]);
        Ok(slow)
    }

    /// PUSH of a segment register.
    fn push_segment(&mut self, segment: u8) {
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; movzx r14d, WORD [rcx + offset::segment(segment).selector]
            ; mov [BYTE rsp + (at::TARGET as i8)], r14
        );
        let slow = self.stack(-self.step(), true);
        self.push_target();
        self.move_stack(-self.step());
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::Exec);
    }

    /// POP of one other than SS.
    fn pop_segment(&mut self, segment: u8) {
        self.only_base(segment);
        let slow = self.stack(0, false);
        self.load_top();
        dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::TARGET as i8)], r14);
        self.move_stack(self.step());
        dynasm!(self.s ; .arch x64 ; mov r14, [BYTE rsp + (at::TARGET as i8)]);
        self.set_segment(segment);
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::Exec);
    }

    /// All offsets of 16 bits are in the code segment, whatever its base.
    fn has_all_offsets(&self) -> Result<(), Unsupported> {
        if self.code_segment.0 >> 32 < 1 << 16 { Err(Unsupported) } else { Ok(()) }
    }

    /// Looks up the code of the far pointer in R14, and leaves its address in the frame, and the selector.
    fn far_target(&mut self) {
        dynasm!(self.s
            ; .arch x64
            ; mov [BYTE rsp + (at::TARGET as i8)], r14
            ; rorx ecx, r14d, 16
            ; movzx ecx, cx
            ; rorx ecx, ecx, TIMES_16
            ; movzx r14d, r14w
            ; lea r14d, [r14 + rcx]
        );
        self.jump_cache();
        dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::CODE as i8)], rcx);
    }

    /// Goes on at what [`Self::far_target`] has found.
    fn go_far(&mut self) {
        self.end_shadow();
        dynasm!(self.s ; .arch x64 ; movzx r14d, WORD [BYTE rsp + (at::TARGET as i8 + 2)]);
        self.set_segment(seg::CS);
        dynasm!(self.s
            ; .arch x64
            // The lower half: what is the segment's end stays.
            ; mov [rsp + at::CODE_SEGMENT], r14d
            ; jmp QWORD [BYTE rsp + (at::CODE as i8)]
        );
    }

    /// JMP and CALL to another segment.
    fn far_transfer(&mut self, i: &Instruction, is_call: bool) -> Result<(), Unsupported> {
        self.has_all_offsets()?;
        self.only_base(seg::CS);
        let mut slow = Vec::new();
        if i.op0_kind() == OpKind::FarBranch16 {
            let pointer = u32::from(i.far_branch_selector()) << 16 | u32::from(i.far_branch16());
            self.constant(14, pointer.into());
        } else {
            slow.push(self.far_pointer(i)?);
        }
        self.far_target();
        if is_call {
            slow.push(self.block_on_stack(-4, 4, true));
            let next = self.pushed_address(i.next_ip());
            dynasm!(self.s
                ; .arch x64
                ; mov WORD [r14], next as i16
                ; mov rcx, [rsp + at::CPU]
                ; movzx ecx, WORD [rcx + offset::segment(seg::CS).selector]
                ; mov [r14 + 2], cx
            );
            self.move_stack(-4);
        }
        self.go_far();
        self.slow(&slow, Kind::ExecLast);
        Ok(())
    }

    fn far_return(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        self.has_all_offsets()?;
        let drop = if i.op_count() == 1 { i.immediate16() } else { 0 };
        self.only_base(seg::CS);
        let slow = self.block_on_stack(0, 4, false);
        dynasm!(self.s ; .arch x64 ; mov r14d, [r14]);
        self.far_target();
        self.move_stack(4 + i32::from(drop));
        self.go_far();
        self.slow(&[slow], Kind::ExecLast);
        Ok(())
    }

    /// Makes R14 the host address of `size` bytes at a distance from the stack pointer, which are accessed as one; the jump that is
    /// taken if they are not plain.
    pub(crate) fn block_on_stack(&mut self, displacement: i32, size: u32, write: bool) -> usize {
        self.let_go();
        self.lea_base(14, !self.narrow(), SP, displacement);
        if self.small_stack() {
            // SP wraps from word to word, wherever the segment ends.
            self.keep_in_reach(CHECK);
            dynasm!(self.s
                ; .arch x64
                ; movzx r14d, r14w
                ; lea rcx, [r14 + size as i32 - 1]
                ; pext rcx, rcx, [rsp + at::BEYOND_WORD]
            );
            let wraps = self.unless_rcx_zero();
            self.beyond.push(wraps);
        }
        if self.segmented() {
            self.add_base(seg::SS, size as i32, write);
        }
        let slow = self.check(Access { size, write, alignment: None, fixed: None });
        dynasm!(self.s ; .arch x64 ; lea r14, [r14 + rcx]);
        slow
    }

    /// PUSHA and PUSHAD, in 16- and 32-bit code.
    pub(crate) fn push_all(&mut self, word: bool) {
        let size = if word { 2 } else { 4 };
        let slow = self.block_on_stack(-8 * size, 8 * size as u32, true);
        for n in 0..8_u8 {
            let Home::Host(host) = home(n.into()) else { continue };
            let at = size * i32::from(7 - n);
            if word {
                dynasm!(self.s ; .arch x64 ; mov [r14 + at], Rw(host));
            } else {
                dynasm!(self.s ; .arch x64 ; mov [r14 + at], Rd(host));
            }
        }
        self.move_stack(-8 * size);
        self.slow(&[slow], Kind::Exec);
    }

    /// POPA and POPAD: all but the stack pointer.
    pub(crate) fn pop_all(&mut self, word: bool) {
        let size = if word { 2 } else { 4 };
        let slow = self.block_on_stack(0, 8 * size as u32, false);
        for n in (0..8_u8).filter(|&n| n != 4) {
            let Home::Host(host) = home(n.into()) else { continue };
            let at = size * i32::from(7 - n);
            if word {
                dynasm!(self.s ; .arch x64 ; mov Rw(host), [r14 + at]);
            } else {
                dynasm!(self.s ; .arch x64 ; mov Rd(host), [r14 + at]);
            }
        }
        self.move_stack(8 * size);
        self.slow(&[slow], Kind::Exec);
    }
}
