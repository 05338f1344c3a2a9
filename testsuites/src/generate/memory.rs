//! Random memory operands: an address is chosen first, then registers and displacement that give it.

use super::values::quad;
use super::{Builder, Mode};
use iced_x86::{OpCodeOperandKind, OpKind, Register};

impl Builder<'_> {
    /// Sets operand `n` to memory. `vsib` is the first register of the index's class.
    pub(super) fn memory_operand(&mut self, n: u32, vsib: Option<Register>) {
        self.instruction.set_op_kind(n, OpKind::Memory);
        let size = self.info.memory_size().size();
        let target = self.target_address(size);
        self.target = Some(target);
        // What is read there.
        let bytes = (0..size.clamp(8, 64) / 8 + 1)
            .flat_map(|_| quad(self.random, self.flavour).to_le_bytes())
            .take(size.max(8))
            .collect();
        if self.random.chance(85) {
            self.patch(target, bytes);
        }
        if let Some(first) = vsib {
            return self.vsib(target, first);
        }
        if self.info.op_kind(n) == OpCodeOperandKind::mem_offs {
            let size = if self.mode == Mode::Long64 && self.random.chance(80) { 8 } else { 4 };
            self.instruction.set_memory_displ_size(size);
            self.instruction.set_memory_displacement64(if size == 4 { target & 0xffff_ffff } else { target });
            return;
        }
        self.address(target);
    }

    /// Chooses base, index, scale and displacement that give `target`.
    fn address(&mut self, target: u64) {
        let small = self.mode == Mode::Compat32 || self.random.chance(15);
        let (first, count) = match (self.mode, small) {
            (Mode::Long64, false) => (Register::RAX, 16),
            (Mode::Long64, true) => (Register::EAX, 16),
            _ => (Register::EAX, 8),
        };
        let sib_only = self.info.op_kinds().contains(&OpCodeOperandKind::sibmem);
        let form = match (sib_only, self.in_sequence) {
            (true, _) => 2,
            (_, true) => self.random.below(2),
            _ => self.random.below(10),
        };
        if self.mode == Mode::Compat32 && !self.in_sequence && self.random.chance(3) {
            return self.address16();
        }
        match form {
            0 if self.mode == Mode::Long64 => {
                self.instruction.set_memory_base(if small { Register::EIP } else { Register::RIP });
                let near = self.near_rip(target);
                self.instruction.set_memory_displacement64(near);
            }
            0 | 1 => {
                // An absolute address of 32 bits, sign-extended.
                self.instruction.set_memory_displ_size(if small { 4 } else { 8 });
                let absolute = if small { target & 0xffff_ffff } else { target as i32 as u64 };
                self.instruction.set_memory_displacement64(absolute);
            }
            2..5 => {
                let base = first + self.random.below(count) as u32;
                self.instruction.set_memory_base(base);
                let displacement = self.displacement();
                self.set_address_register(base, target.wrapping_sub(displacement), small);
            }
            5 => {
                let index = self.index(first, count);
                let scale = 1 << self.random.below(4);
                let rest = target - target % u64::from(scale) - u64::from(scale) * self.random.below(0x1000);
                self.instruction.set_memory_index(index);
                self.instruction.set_memory_index_scale(scale);
                self.instruction.set_memory_displ_size(4);
                self.instruction.set_memory_displacement64(target - rest);
                self.set_address_register(index, rest / u64::from(scale), small);
            }
            _ => {
                let base = first + self.random.below(count) as u32;
                let mut index = self.index(first, count);
                while index == base {
                    index = self.index(first, count);
                }
                let scale = 1 << self.random.below(4);
                self.instruction.set_memory_base(base);
                self.instruction.set_memory_index(index);
                self.instruction.set_memory_index_scale(scale);
                let displacement = self.displacement();
                let value = self.state.gpr[index.number()];
                let value = if small { value & 0xffff_ffff } else { value };
                let rest = target.wrapping_sub(value.wrapping_mul(scale.into())).wrapping_sub(displacement);
                self.set_address_register(base, rest, small);
            }
        }
    }

    /// 16-bit addressing (in 32-bit code with 67H) reaches the first 64 KiB only, which are not mapped.
    fn address16(&mut self) {
        let (base, index) = self.random.pick(&[
            (Register::BX, Register::SI),
            (Register::BX, Register::DI),
            (Register::BP, Register::SI),
            (Register::BP, Register::DI),
            (Register::SI, Register::None),
            (Register::DI, Register::None),
            (Register::BP, Register::None),
            (Register::BX, Register::None),
        ]);
        self.instruction.set_memory_base(base);
        self.instruction.set_memory_index(index);
        if self.random.chance(60) || base == Register::BP {
            self.instruction.set_memory_displ_size(2);
            self.instruction.set_memory_displacement64(self.random.bits() & 0xffff);
        }
    }

    fn index(&mut self, first: Register, count: u64) -> Register {
        loop {
            let n = self.random.below(count) as u32;
            if n != 4 {
                return first + n;
            }
        }
    }

    /// RIP-relative operands reach 2 GiB around RIP.
    fn near_rip(&mut self, target: u64) -> u64 {
        let reach = target.wrapping_sub(self.state.rip);
        if reach as i64 == reach as i32 as i64 { target } else { self.state.rip.wrapping_add(0x1000_0000) }
    }

    /// Sets a random displacement and returns it sign-extended.
    fn displacement(&mut self) -> u64 {
        let displacement = match self.random.below(5) {
            0 => 0,
            1 => self.random.bits() as i32 as i64,
            2 => self.random.below(0x2000) as i64 - 0x1000,
            3 => 64 * (self.random.below(64) as i64 - 32),
            _ => self.random.bits() as i8 as i64,
        } as u64;
        self.instruction.set_memory_displ_size(if displacement == 0 { 0 } else { 4 });
        let address = if self.mode == Mode::Compat32 { displacement & 0xffff_ffff } else { displacement };
        self.instruction.set_memory_displacement64(address);
        displacement
    }

    /// Gives a base or index register its value; with 32-bit addresses the upper half is junk.
    fn set_address_register(&mut self, register: Register, value: u64, small: bool) {
        let junk = match (small, self.mode) {
            (false, _) => value,
            (true, Mode::Long64) => value & 0xffff_ffff | self.random.bits() << 32,
            (true, Mode::Compat32) => value & 0xffff_ffff,
        };
        self.state.gpr[register.number()] = junk;
    }

    /// Changes the address so that an FS or GS override gives the same linear one.
    pub(super) fn override_segment(&mut self, segment: Register, base: u64) {
        self.instruction.set_segment_prefix(segment);
        let register = match self.instruction.memory_base() {
            Register::None | Register::RIP | Register::EIP => return,
            register => register,
        };
        if register.number() < 16 && register != self.instruction.memory_index() {
            let value = self.state.gpr[register.number()].wrapping_sub(base);
            self.state.gpr[register.number()] = value;
        }
    }

    /// A number nearer to zero than `limit`, of both signs.
    fn near(&mut self, limit: u64) -> u64 {
        let distance = self.random.below(limit);
        if self.random.chance(50) { distance } else { distance.wrapping_neg() }
    }

    /// A vector of indices around `target`.
    fn vsib(&mut self, target: u64, first: Register) {
        use OpCodeOperandKind::*;
        let registers = match (self.mode, self.info.encoding()) {
            (Mode::Compat32, _) => 8,
            (_, iced_x86::EncodingKind::EVEX) => 32,
            _ => 16,
        };
        // Destination, index and mask must be different registers (SDM 2C, VGATHERDPS: #UD).
        let taken = |n: usize| {
            (0..self.info.op_count()).any(|op| {
                let register = self.instruction.op_register(op);
                self.instruction.op_kind(op) == OpKind::Register
                    && register.is_vector_register()
                    && register.number() == n
            })
        };
        let mut index = self.random.below(registers) as usize;
        while self.random.chance(98) && taken(index) {
            index = self.random.below(registers) as usize;
        }
        let scale = 1 << self.random.below(4);
        let wide =
            self.info.op_kinds().iter().any(|&kind| matches!(kind, mem_vsib64x | mem_vsib64y | mem_vsib64z));
        for lane in 0..8 {
            let (a, b) = if self.random.chance(97) {
                (self.near(0x600 / u64::from(scale)), self.near(0x600 / u64::from(scale)))
            } else {
                (self.random.bits(), self.random.bits())
            };
            self.state.zmm[index][lane] = if wide { a } else { a & 0xffff_ffff | b << 32 };
        }
        self.instruction.set_memory_index(first + index as u32);
        self.instruction.set_memory_index_scale(scale);
        let (registers, general) = match self.mode {
            Mode::Long64 => (16, Register::RAX),
            Mode::Compat32 => (8, Register::EAX),
        };
        let base = general + self.random.below(registers) as u32;
        self.instruction.set_memory_base(base);
        let displacement = self.displacement();
        let small = self.mode == Mode::Compat32;
        self.set_address_register(base, target.wrapping_sub(displacement), small);
    }
}
