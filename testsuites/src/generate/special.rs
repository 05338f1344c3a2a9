//! Forms whose operands must fit together to do something worth seeing.

use super::values::{self, integer};
use super::{Builder, Mode};
use crate::case::{CODE, DATA};
use crate::forms::host_state;
use iced_x86::{Code, Mnemonic, OpKind};
use ringworld_x86::flags::bits;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const RDI: usize = 7;

impl Builder<'_> {
    /// Adjusts the state to the form.
    pub(super) fn special(&mut self) {
        use Mnemonic::*;
        match self.info.code().mnemonic() {
            Div | Idiv => self.dividend(),
            Cmpxchg | Cmpxchg8b | Cmpxchg16b => self.comparand(),
            Bt | Bts | Btr | Btc => self.bit_offset(),
            Maskmovq | Maskmovdqu | Vmaskmovdqu => self.state.gpr[RDI] = self.target_address(16),
            Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz if self.random.chance(80) => {
                self.state.gpr[RCX] = self.random.below(3);
            }
            Ret | Retf | Iret | Iretd | Iretq => self.return_frame(),
            Popf | Popfd | Popfq => self.flags_on_stack(),
            Jmp | Call => self.branch_target(),
            Ldmxcsr | Vldmxcsr => {
                let mxcsr = if self.random.chance(90) { self.mxcsr() } else { self.random.bits() as u32 };
                self.patch_target(mxcsr.to_le_bytes().to_vec());
            }
            Fldcw => {
                let control =
                    if self.random.chance(90) { self.x87_control() } else { self.random.bits() as u16 };
                self.patch_target(control.to_le_bytes().to_vec());
            }
            Fldenv | Frstor => self.x87_image(),
            Fxrstor | Fxrstor64 => self.fxsave_image(),
            Xrstor | Xrstor64 => self.xsave_image(),
            Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xsavec | Xsavec64 => self.xsave_features(),
            Xgetbv => self.state.gpr[RCX] = self.random.pick(&[1, 2, 3, 0x1_0000_0002]),
            Mov | Lar | Lsl | Verr | Verw | Push | Pop | Lds | Les | Lfs | Lgs | Lss => self.selectors(),
            Fbld => {
                let number = values::bcd(self.random);
                self.patch_target(number.to_vec());
            }
            Fld | Fld1 | Fldz => self.x87_memory(),
            Wrfsbase | Wrgsbase => self.canonical_register(),
            Insb | Insw | Insd | Outsb | Outsw | Outsd => self.state.gpr[RDX] = self.random.bits() & 0xffff,
            _ => {}
        }
    }

    fn patch_target(&mut self, bytes: Vec<u8>) {
        if let Some(target) = self.target {
            self.patch(target, bytes);
        }
    }

    /// Makes quotients that fit, half of the time.
    fn dividend(&mut self) {
        if self.random.chance(60) {
            let negative = self.random.chance(50) && self.info.code().mnemonic() == Mnemonic::Idiv;
            self.state.gpr[RDX] = if negative { u64::MAX } else { self.random.below(3) };
            if self.mode == Mode::Compat32 {
                self.state.gpr[RDX] &= 0xffff_ffff;
            }
        }
    }

    /// Makes the comparison of CMPXCHG succeed, half of the time.
    fn comparand(&mut self) {
        if self.random.chance(50) {
            return;
        }
        let wide = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        match (self.target, self.instruction.op_kind(0)) {
            (Some(target), OpKind::Memory) => {
                let (a, b) = (integer(self.random), integer(self.random));
                let half = self.info.code() == Code::Cmpxchg8b_m64;
                let mut bytes = a.to_le_bytes().to_vec();
                if half {
                    bytes[4..].copy_from_slice(&b.to_le_bytes()[..4]);
                } else {
                    bytes.extend(b.to_le_bytes());
                }
                self.patch(target, bytes.clone());
                let mut first = [0; 8];
                first.copy_from_slice(&bytes[..8]);
                let first = wide(first);
                let narrow = half || self.mode == Mode::Compat32;
                self.state.gpr[RAX] = if narrow { first & 0xffff_ffff } else { first };
                if matches!(self.info.code().mnemonic(), Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b) {
                    self.state.gpr[RDX] = if half { b & 0xffff_ffff } else { b };
                }
            }
            _ => {
                let register = self.instruction.op0_register().full_register();
                let n = register.number() & 15;
                self.state.gpr[RAX] = self.state.gpr[n];
            }
        }
    }

    /// Bit offsets reach beyond the operand: keep most of them near it.
    fn bit_offset(&mut self) {
        if self.instruction.op_kind(0) == OpKind::Memory && self.instruction.op_kind(1) == OpKind::Register {
            let register = self.instruction.op1_register();
            let base = self.instruction.memory_base().full_register();
            if register.full_register() != base && self.random.chance(95) {
                let offset = self.random.below(0x800).wrapping_sub(0x400);
                let n = register.number();
                self.state.gpr[n] = if self.mode == Mode::Compat32 { offset & 0xffff_ffff } else { offset };
            }
        }
    }

    /// Where a near branch goes: code, or nowhere.
    fn destination(&mut self) -> u64 {
        match (self.random.below(10), self.mode) {
            (0, Mode::Long64) => self.random.pick(&[0x8000_0000_0000, 1 << 63, 0xffff_7fff_ffff_ffff]),
            (1, _) => self.random.bits() & 0xffff_ffff,
            _ => CODE + self.random.below(0x1000),
        }
    }

    fn quads_on_stack(&mut self, quads: &[u64], size: usize) {
        let bytes = quads.iter().flat_map(|quad| quad.to_le_bytes().into_iter().take(size)).collect();
        let stack = self.state.gpr[RSP];
        self.patch(stack, bytes);
    }

    /// RET, far RET and IRET: a frame of the operand size on the stack.
    fn return_frame(&mut self) {
        use Code::*;
        let size = match self.info.code() {
            Retnw | Retnw_imm16 | Retfw | Retfw_imm16 | Iretw => 2,
            Retnd | Retnd_imm16 | Retfd | Retfd_imm16 | Iretd => 4,
            _ => 8,
        };
        let rip = self.destination();
        let own = if self.mode == Mode::Long64 { 0x33 } else { 0x23 };
        let cs = if self.random.chance(60) { own } else { u64::from(self.selector()) };
        let flags = self.random.bits() & (bits::STATUS | bits::DF) | bits::FIXED | bits::IF;
        let rsp = self.window_address();
        let ss = if self.random.chance(80) { 0x2b } else { u64::from(self.selector()) };
        match self.info.code().mnemonic() {
            Mnemonic::Ret => self.quads_on_stack(&[rip], size),
            Mnemonic::Retf => self.quads_on_stack(&[rip, cs], size),
            _ => self.quads_on_stack(&[rip, cs, flags, rsp, ss], size),
        }
    }

    fn flags_on_stack(&mut self) {
        // The native runner steps with TF, and goes on with AC and NT as it finds them.
        let flags = self.random.bits() & !(bits::TF | bits::AC | bits::NT);
        self.quads_on_stack(&[flags], 8);
    }

    fn branch_target(&mut self) {
        let kind = self.instruction.op0_kind();
        let is_far = self.is_far() || matches!(kind, OpKind::FarBranch16 | OpKind::FarBranch32);
        // The frame of a far call from 32-bit to 64-bit code wraps around to addresses beyond 4 GiB. Linux takes that page fault
        // for erratum 100 of the K8, and repeats the call for ever.
        if is_far && self.mode == Mode::Compat32 && self.state.gpr[RSP] < 16 {
            self.state.gpr[RSP] += DATA;
        }
        let target = self.destination();
        match kind {
            OpKind::Memory => {
                let mut bytes = target.to_le_bytes().to_vec();
                // Far pointers.
                let size = self.info.memory_size().size();
                if matches!(size, 4 | 6 | 10) && self.is_far() {
                    bytes.truncate(size - 2);
                    let selector = self.selector();
                    bytes.extend(selector.to_le_bytes());
                }
                self.patch_target(bytes);
            }
            OpKind::Register => {
                let n = self.instruction.op0_register().number();
                self.state.gpr[n] = if self.mode == Mode::Compat32 { target & 0xffff_ffff } else { target };
            }
            _ => {}
        }
    }

    fn is_far(&self) -> bool {
        use iced_x86::MemorySize::*;
        matches!(self.info.memory_size(), SegPtr16 | SegPtr32 | SegPtr64)
    }

    /// Selectors where a segment register is loaded or a descriptor looked at.
    fn selectors(&mut self) {
        let code = self.info.code();
        let loads = self.instruction.op_count() > 0
            && self.instruction.op0_kind() == OpKind::Register
            && self.instruction.op0_register().is_segment_register();
        let selector = self.selector();
        match code.mnemonic() {
            Mnemonic::Mov if !loads => {}
            Mnemonic::Push => {}
            Mnemonic::Pop if !loads => {}
            Mnemonic::Pop => self.quads_on_stack(&[u64::from(selector)], 8),
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
                let size = self.info.memory_size().size();
                let mut bytes = self.random.bits().to_le_bytes().to_vec();
                bytes.truncate(size.saturating_sub(2));
                bytes.extend(selector.to_le_bytes());
                self.patch_target(bytes);
            }
            mnemonic => {
                let source = u32::from(!matches!(mnemonic, Mnemonic::Verr | Mnemonic::Verw));
                match self.instruction.op_kind(source) {
                    OpKind::Memory => self.patch_target(selector.to_le_bytes().to_vec()),
                    OpKind::Register => {
                        let n = self.instruction.op_register(source).number() & 15;
                        let junk = self.random.bits() & 0xffff_0000;
                        self.state.gpr[n] = u64::from(selector) | junk;
                    }
                    _ => {}
                }
            }
        }
    }

    /// FSBASE and GSBASE values: canonical, now and then not.
    fn canonical_register(&mut self) {
        let n = self.instruction.op0_register().number() & 15;
        if self.random.chance(80) {
            self.state.gpr[n] = (self.random.bits() as i64 >> 17) as u64;
        }
    }

    /// A double-extended memory operand.
    fn x87_memory(&mut self) {
        if self.info.memory_size() == iced_x86::MemorySize::Float80 {
            let (significand, exponent) = values::extended(self.random);
            let mut bytes = significand.to_le_bytes().to_vec();
            bytes.extend(exponent.to_le_bytes());
            self.patch_target(bytes);
        }
    }

    /// An environment for FLDENV and FRSTOR, in the 32-bit protected-mode format; the rest is random.
    fn x87_image(&mut self) {
        let control = self.x87_control();
        let status = self.x87_status(control);
        let tags = self.random.bits() as u16;
        let narrow = matches!(
            self.info.memory_size(),
            iced_x86::MemorySize::FpuEnv14 | iced_x86::MemorySize::FpuState94
        );
        let step = if narrow { 2 } else { 4 };
        let size = if narrow { 14 } else { 28 };
        let mut bytes = vec![0; size];
        for (n, word) in [control, status, tags].into_iter().enumerate() {
            bytes[n * step..n * step + 2].copy_from_slice(&word.to_le_bytes());
        }
        if self.info.code().mnemonic() == Mnemonic::Frstor {
            for _ in 0..8 {
                let (significand, exponent) = values::extended(self.random);
                bytes.extend(significand.to_le_bytes());
                bytes.extend(exponent.to_le_bytes());
            }
        }
        self.patch_target(bytes);
    }

    /// The 512 bytes of FXRSTOR.
    fn legacy_image(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let control = self.x87_control();
        let status = self.x87_status(control);
        let mxcsr = if self.random.chance(95) { self.mxcsr() } else { self.random.bits() as u32 };
        bytes[0..2].copy_from_slice(&control.to_le_bytes());
        bytes[2..4].copy_from_slice(&status.to_le_bytes());
        bytes[4] = self.random.bits() as u8;
        bytes[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        for n in 0..8 {
            let (significand, exponent) = values::extended(self.random);
            bytes[32 + 16 * n..40 + 16 * n].copy_from_slice(&significand.to_le_bytes());
            bytes[40 + 16 * n..42 + 16 * n].copy_from_slice(&exponent.to_le_bytes());
        }
        for n in 0..32 {
            bytes[160 + 8 * n..168 + 8 * n].copy_from_slice(&self.random.bits().to_le_bytes());
        }
        bytes
    }

    fn fxsave_image(&mut self) {
        let bytes = self.legacy_image();
        self.patch_target(bytes);
    }

    /// The components that XSAVE and XRSTOR are asked for: those that cases have, if the host does.
    fn xsave_features(&mut self) {
        let asked = if self.random.chance(30) { host_state() } else { self.random.bits() & host_state() };
        self.state.gpr[RAX] = asked;
        self.state.gpr[RDX] = 0;
        if let Some(target) = self.target.filter(|_| self.random.chance(90)) {
            // Aligned to 64 bytes and within the writable pages, or there is little to see.
            let aligned = DATA + 64 * self.random.below(16);
            self.move_target(target, aligned);
        }
    }

    /// An XSAVE area in the standard format.
    fn xsave_image(&mut self) {
        self.xsave_features();
        let mut bytes = self.legacy_image();
        let present = if self.random.chance(30) { host_state() } else { self.random.bits() & host_state() };
        bytes.extend(present.to_le_bytes());
        let reserved = if self.random.chance(3) { self.random.bits() } else { 0 };
        bytes.extend(reserved.to_le_bytes());
        bytes.extend([0; 48]);
        self.patch_target(bytes);
    }

    /// Moves the memory operand by changing its base register.
    fn move_target(&mut self, from: u64, to: u64) {
        let base = self.instruction.memory_base();
        let fixed = base.is_ip() || base == iced_x86::Register::None;
        let n = base.number();
        if fixed || base == self.instruction.memory_index() || n == RAX || n == RDX {
            return;
        }
        let moved = self.state.gpr[n].wrapping_add(to).wrapping_sub(from);
        self.state.gpr[n] = if self.mode == Mode::Compat32 { moved & 0xffff_ffff } else { moved };
        self.target = Some(to);
    }
}
