//! Random operands and prefixes.

use super::values::integer;
use super::{Builder, Mode};
use crate::case::{CODE, DATA};
use iced_x86::{OpCodeOperandKind, OpKind, Register, RoundingControl};

impl Builder<'_> {
    fn register(&mut self, first: Register, count: u32) -> Register {
        first + self.random.below(count.into()) as u32
    }

    fn gpr(&mut self, first: Register) -> Register {
        let count = if self.mode == Mode::Long64 { 16 } else { 8 };
        self.register(first, count)
    }

    /// AL–R15B, SPL–DIL in 64-bit mode, or AH–BH.
    fn gpr8(&mut self) -> Register {
        if self.mode == Mode::Compat32 {
            return self.register(Register::AL, 8);
        }
        self.register(Register::AL, 20)
    }

    fn vector(&mut self, first: Register) -> Register {
        let count = match (self.mode, self.info.encoding()) {
            (Mode::Compat32, _) => 8,
            (_, iced_x86::EncodingKind::EVEX) => 32,
            _ => 16,
        };
        self.register(first, count)
    }

    fn set_register(&mut self, n: u32, register: Register) {
        self.instruction.set_op_register(n, register);
    }

    fn set_immediate(&mut self, n: u32, kind: OpKind, bits: u64) {
        self.instruction.set_op_kind(n, kind);
        match kind {
            OpKind::Immediate8 => self.instruction.set_immediate8(bits as u8),
            OpKind::Immediate8_2nd => self.instruction.set_immediate8_2nd(bits as u8),
            OpKind::Immediate16 => self.instruction.set_immediate16(bits as u16),
            OpKind::Immediate32 => self.instruction.set_immediate32(bits as u32),
            OpKind::Immediate64 => self.instruction.set_immediate64(bits),
            OpKind::Immediate8to16 => self.instruction.set_immediate8to16(bits as i8 as i16),
            OpKind::Immediate8to32 => self.instruction.set_immediate8to32(bits as i8 as i32),
            OpKind::Immediate8to64 => self.instruction.set_immediate8to64(bits as i8 as i64),
            _ => self.instruction.set_immediate32to64(bits as i32 as i64),
        }
    }

    /// Whether the immediate is the second one (ENTER, EXTRQ, INSERTQ).
    fn second_immediate(&self, n: u32) -> bool {
        n > 0 && matches!(self.info.op_kind(n - 1), OpCodeOperandKind::imm8 | OpCodeOperandKind::imm16)
    }

    fn branch(&mut self, n: u32, reach: u64) {
        let distance = match self.random.below(4) {
            0 => self.random.below(16),
            _ => self.random.below(reach),
        };
        let near = self.state.rip.wrapping_add(distance).wrapping_sub(if self.random.chance(50) {
            reach
        } else {
            0
        });
        let target = if reach < 256 { near } else { near & 0xffff_ffff };
        match self.mode {
            Mode::Long64 => {
                self.instruction.set_op_kind(n, OpKind::NearBranch64);
                self.instruction.set_near_branch64(target);
            }
            Mode::Compat32 => {
                self.instruction.set_op_kind(n, OpKind::NearBranch32);
                self.instruction.set_near_branch32(target as u32);
            }
        }
    }

    fn branch16(&mut self, n: u32) {
        // With an operand size of 16 bits EIP is truncated; a short branch must reach from there.
        let near = (self.state.rip as u16).wrapping_add(self.random.below(100) as u16);
        self.instruction.set_op_kind(n, OpKind::NearBranch16);
        self.instruction.set_near_branch16(near);
    }

    /// Sets operand `n`; `None` if the form cannot be made.
    pub(super) fn operand(&mut self, n: u32) -> Option<()> {
        use OpCodeOperandKind::*;
        let kind = self.info.op_kind(n);
        let memory = self.random.chance(60);
        match kind {
            mem | mem_mib | mem_offs | sibmem | mem_mpx => self.memory_operand(n, Option::None),
            mem_vsib32x | mem_vsib64x => self.memory_operand(n, Some(Register::XMM0)),
            mem_vsib32y | mem_vsib64y => self.memory_operand(n, Some(Register::YMM0)),
            mem_vsib32z | mem_vsib64z => self.memory_operand(n, Some(Register::ZMM0)),
            r8_or_mem | r16_or_mem | r32_or_mem | r32_or_mem_mpx | r64_or_mem | r64_or_mem_mpx
            | mm_or_mem | xmm_or_mem | ymm_or_mem | zmm_or_mem | k_or_mem | bnd_or_mem_mpx
                if memory =>
            {
                self.memory_operand(n, Option::None)
            }
            r8_or_mem | r8_reg | r8_opcode => {
                let register = self.gpr8();
                self.set_register(n, register);
            }
            r16_or_mem | r16_reg | r16_rm | r16_opcode => {
                let register = self.gpr(Register::AX);
                self.set_register(n, register);
            }
            r32_or_mem | r32_or_mem_mpx | r32_reg | r32_rm | r32_opcode | r32_vvvv => {
                let register = self.gpr(Register::EAX);
                self.set_register(n, register);
            }
            r64_or_mem | r64_or_mem_mpx | r64_reg | r64_rm | r64_opcode | r64_vvvv => {
                let register = self.gpr(Register::RAX);
                self.set_register(n, register);
            }
            // A register that holds the address of a second memory operand.
            r16_reg_mem | r32_reg_mem | r64_reg_mem => {
                let first = match kind {
                    r16_reg_mem => Register::AX,
                    r32_reg_mem => Register::EAX,
                    _ => Register::RAX,
                };
                let register = self.gpr(first);
                self.set_register(n, register);
                let address = self.window_address();
                let aligned = if self.random.chance(80) { address & !63 } else { address };
                self.state.gpr[register.number()] = aligned;
            }
            seg_reg => {
                let register = self.register(Register::ES, 6);
                self.set_register(n, register);
            }
            k_reg | k_rm | k_vvvv | k_or_mem => {
                let register = self.register(Register::K0, 8);
                self.set_register(n, register);
            }
            kp1_reg => {
                let register = Register::K0 + 2 * self.random.below(4) as u32;
                self.set_register(n, register);
            }
            mm_reg | mm_rm | mm_or_mem => {
                let register = self.register(Register::MM0, 8);
                self.set_register(n, register);
            }
            xmm_reg | xmm_rm | xmm_vvvv | xmm_is4 | xmm_is5 | xmm_or_mem => {
                let register = self.vector(Register::XMM0);
                self.set_register(n, register);
            }
            ymm_reg | ymm_rm | ymm_vvvv | ymm_is4 | ymm_is5 | ymm_or_mem => {
                let register = self.vector(Register::YMM0);
                self.set_register(n, register);
            }
            zmm_reg | zmm_rm | zmm_vvvv | zmm_or_mem => {
                let register = self.vector(Register::ZMM0);
                self.set_register(n, register);
            }
            // Four consecutive registers (AVX512_4FMAPS): no host here has them.
            xmmp3_vvvv | zmmp3_vvvv => return Option::None,
            cr_reg => {
                let register = Register::CR0 + self.random.pick(&[0_u32, 2, 3, 4, 8]);
                self.set_register(n, register);
            }
            dr_reg => {
                let register = self.register(Register::DR0, 8);
                self.set_register(n, register);
            }
            es => self.set_register(n, Register::ES),
            cs => self.set_register(n, Register::CS),
            ss => self.set_register(n, Register::SS),
            ds => self.set_register(n, Register::DS),
            fs => self.set_register(n, Register::FS),
            gs => self.set_register(n, Register::GS),
            al => self.set_register(n, Register::AL),
            cl => self.set_register(n, Register::CL),
            ax => self.set_register(n, Register::AX),
            dx => self.set_register(n, Register::DX),
            eax => self.set_register(n, Register::EAX),
            rax => self.set_register(n, Register::RAX),
            st0 => self.set_register(n, Register::ST0),
            sti_opcode => {
                let register = self.register(Register::ST0, 8);
                self.set_register(n, register);
            }
            imm4_m2z => {
                let bits = self.random.below(16);
                self.set_immediate(n, OpKind::Immediate8, bits);
            }
            imm8 => {
                let bits = if self.random.chance(50) { self.random.bits() } else { integer(self.random) };
                let kind = if self.second_immediate(n) { OpKind::Immediate8_2nd } else { OpKind::Immediate8 };
                self.set_immediate(n, kind, bits);
            }
            imm8_const_1 => self.set_immediate(n, OpKind::Immediate8, 1),
            imm8sex16 => self.immediate(n, OpKind::Immediate8to16),
            imm8sex32 => self.immediate(n, OpKind::Immediate8to32),
            imm8sex64 => self.immediate(n, OpKind::Immediate8to64),
            imm16 => self.immediate(n, OpKind::Immediate16),
            imm32 => self.immediate(n, OpKind::Immediate32),
            imm32sex64 => self.immediate(n, OpKind::Immediate32to64),
            imm64 => self.immediate(n, OpKind::Immediate64),
            seg_rSI => {
                self.string_operand(n, [OpKind::MemorySegRSI, OpKind::MemorySegESI, OpKind::MemorySegSI])
            }
            es_rDI => self.string_operand(n, [OpKind::MemoryESRDI, OpKind::MemoryESEDI, OpKind::MemoryESDI]),
            seg_rDI => {
                self.string_operand(n, [OpKind::MemorySegRDI, OpKind::MemorySegEDI, OpKind::MemorySegDI])
            }
            seg_rBX_al => self.xlat_operand(n),
            br16_1 | br16_2 => self.branch16(n),
            br32_1 | br64_1 => self.branch(n, 100),
            br32_4 | br64_4 => self.branch(n, 0x0800_0000),
            farbr2_2 => {
                self.instruction.set_op_kind(n, OpKind::FarBranch16);
                self.instruction.set_far_branch16(self.random.bits() as u16);
                let selector = self.selector();
                self.instruction.set_far_branch_selector(selector);
            }
            farbr4_2 => {
                self.instruction.set_op_kind(n, OpKind::FarBranch32);
                self.instruction.set_far_branch32((CODE + self.random.below(0x1000)) as u32);
                let selector = self.selector();
                self.instruction.set_far_branch_selector(selector);
            }
            // MPX, AMX, XBEGIN, JMPE and test registers have no rows.
            _ => return Option::None,
        }
        Some(())
    }

    fn immediate(&mut self, n: u32, kind: OpKind) {
        let bits = integer(self.random);
        self.set_immediate(n, kind, bits);
    }

    /// A selector: Linux's user and kernel segments, null ones, and some that do not exist.
    pub(super) fn selector(&mut self) -> u16 {
        self.random.pick(&[
            0, 1, 2, 3, 0x10, 0x13, 0x18, 0x1b, 0x20, 0x23, 0x23, 0x28, 0x2b, 0x2b, 0x2b, 0x30, 0x33, 0x33,
            0x38, 0x3b, 0x83, 0xfff8,
        ])
    }

    /// Address size of string operands: 0 for 64, 1 for 32, 2 for 16 bits. They agree with each other.
    fn string_address_size(&mut self, n: u32) -> usize {
        if n > 0 {
            match self.instruction.op_kind(0) {
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => return 0,
                OpKind::MemorySegESI | OpKind::MemoryESEDI => return 1,
                OpKind::MemorySegSI | OpKind::MemoryESDI => return 2,
                _ => {}
            }
        }
        match (self.mode, self.random.chance(20)) {
            (Mode::Long64, false) => 0,
            (Mode::Long64, true) => 1,
            (Mode::Compat32, other) => 1 + usize::from(other && self.random.chance(20)),
        }
    }

    fn string_operand(&mut self, n: u32, kinds: [OpKind; 3]) {
        let size = self.string_address_size(n);
        let kind = kinds[size];
        self.instruction.set_op_kind(n, kind);
        let register = match kind {
            OpKind::MemorySegRSI | OpKind::MemorySegESI | OpKind::MemorySegSI => 6,
            _ => 7,
        };
        let address = self.target_address(self.info.memory_size().size().max(1));
        self.state.gpr[register] = address;
        // The upper half is not looked at.
        if size == 1 && self.mode == Mode::Long64 {
            self.state.gpr[register] |= self.random.bits() << 32;
        }
        self.target = Some(address);
        if self.random.chance(95) {
            let count = if self.random.chance(90) { self.random.below(16) } else { self.random.below(100) };
            let junk = if size == 1 && self.mode == Mode::Long64 { self.random.bits() << 32 } else { 0 };
            self.state.gpr[1] = count | junk;
        } else {
            self.state.gpr[1] = 0;
        }
    }

    fn xlat_operand(&mut self, n: u32) {
        let base = match (self.mode, self.random.chance(20)) {
            (Mode::Long64, false) => Register::RBX,
            (Mode::Long64, true) | (Mode::Compat32, false) => Register::EBX,
            (Mode::Compat32, true) => Register::BX,
        };
        self.instruction.set_op_kind(n, OpKind::Memory);
        self.instruction.set_memory_base(base);
        self.instruction.set_memory_index(Register::AL);
        self.state.gpr[3] = self.target_address(1).wrapping_sub(self.state.gpr[0] & 0xff);
    }

    /// Prefixes, masking, broadcast and rounding.
    pub(super) fn prefixes(&mut self) {
        let info = self.info;
        let has_memory = (0..info.op_count()).any(|n| self.instruction.op_kind(n) == OpKind::Memory);
        let (lock, rep, repne) = (self.random.chance(15), self.random.chance(40), self.random.chance(30));
        if info.can_use_lock_prefix() && has_memory && lock {
            self.instruction.set_has_lock_prefix(true);
        }
        if info.can_use_rep_prefix() && rep {
            self.instruction.set_has_rep_prefix(true);
        } else if info.can_use_repne_prefix() && repne {
            self.instruction.set_has_repne_prefix(true);
        }
        if has_memory && !self.in_sequence && self.random.chance(10) && self.mode == Mode::Long64 {
            let (segment, base) = if self.random.chance(50) {
                (Register::FS, self.state.fs_base)
            } else {
                (Register::GS, self.state.gs_base)
            };
            self.override_segment(segment, base);
        }
        if info.can_use_op_mask_register() && (info.require_op_mask_register() || self.random.chance(60)) {
            let mask = Register::K1 + self.random.below(7) as u32;
            self.instruction.set_op_mask(mask);
            let to_memory = self.instruction.op_kind(0) == OpKind::Memory;
            if info.can_use_zeroing_masking() && !to_memory && self.random.chance(50) {
                self.instruction.set_zeroing_masking(true);
            }
        }
        if info.can_broadcast() && has_memory && self.random.chance(30) {
            self.instruction.set_is_broadcast(true);
        }
        if !has_memory && info.can_use_rounding_control() && self.random.chance(30) {
            self.instruction.set_rounding_control(self.random.pick(&[
                RoundingControl::RoundToNearest,
                RoundingControl::RoundDown,
                RoundingControl::RoundUp,
                RoundingControl::RoundTowardZero,
            ]));
        } else if !has_memory && info.can_suppress_all_exceptions() && self.random.chance(30) {
            self.instruction.set_suppress_all_exceptions(true);
        }
    }

    /// An address for an access of `size` bytes: mostly in the writable pages, with every alignment; across pages;
    /// into the read-only page, the guard pages, and nowhere.
    pub(super) fn target_address(&mut self, size: usize) -> u64 {
        let size = size.clamp(1, 0xc00) as u64;
        let aligned = DATA + 64 * self.random.below((0x2000 - size) / 64 + 1);
        if self.in_sequence && self.random.chance(97) {
            return if self.random.chance(70) {
                aligned
            } else {
                DATA + self.random.below(0x2000 - size + 1)
            };
        }
        match self.random.below(100) {
            0..50 => aligned,
            50..83 => DATA + self.random.below(0x2000 - size + 1),
            // Across the writable pages, into the read-only page, out of the window.
            83..89 => DATA + 0x1000 - self.random.below(size),
            89..92 => DATA + 0x2000 - self.random.below(size),
            92..94 => DATA + 0x2000 + self.random.below(0x1000 - size + 1),
            94..96 => DATA + 0x3000 - self.random.below(size),
            96 => DATA - self.random.below(size),
            97 => DATA + 0x3000 + self.random.below(0x1000),
            98 => DATA - 0x1000 + self.random.below(0x100),
            _ if self.mode == Mode::Compat32 => DATA + 0x4000 + self.random.below(0x1000),
            // Not canonical, or at the edge of it.
            _ => self.random.pick(&[0x8000_0000_0000, 0x7fff_ffff_ffff, 1 << 62, 0xffff_7fff_ffff_fff0]),
        }
    }
}
