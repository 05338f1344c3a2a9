//! VM-exit instruction information and the displacement that some exits qualify with (SDM 3C 28.2.5, tables 28-9 to
//! 28-18).

use crate::Insn;
use crate::insn::{REG_RIP, REG_ZERO, seg};
use crate::{Cpu, Stop};

/// Which register operands an instruction's information shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Registers {
    /// Bits 6:3: the register in the place of the memory operand.
    pub first: Option<u8>,
    /// Bits 31:28.
    pub second: Option<u8>,
}

/// The bits of the memory operand: scaling, address size, segment, index, base. A register operand sets bit 10.
pub(super) fn memory_operand(i: &Insn) -> u32 {
    if !i.has_memory() {
        return 1 << 10;
    }
    let segment = match i.segment() {
        seg::FLAT => seg::DS,
        seg::FLAT_SS => seg::SS,
        segment => segment,
    };
    let part = |register: u8, at: u32| {
        if register == REG_ZERO || register == REG_RIP {
            1 << (at + 4)
        } else {
            u32::from(register & 15) << at
        }
    };
    i.scale()
        | (i.address_bytes().trailing_zeros() - 1) << 7
        | u32::from(segment) << 15
        | part(i.index, 18)
        | part(i.base, 23)
}

/// The information of an instruction with a memory operand and registers.
pub(super) fn instruction_info(i: &Insn, registers: Registers) -> u32 {
    let first = registers.first.map_or(0, |r| u32::from(r & 15) << 3);
    let second = registers.second.map_or(0, |r| u32::from(r & 15) << 28);
    memory_operand(i) | first | second
}

impl Cpu {
    /// The qualification of an exit by an instruction with a memory operand: its displacement; for RIP-relative operands the
    /// address itself (SDM 3C table 28-1).
    pub(super) fn displacement(&self, i: &Insn) -> u64 {
        let disp = i.disp as i64 as u64;
        match i.has_memory() {
            false => 0,
            true if i.base == REG_RIP => disp.wrapping_add(self.rip()),
            true if i.address_bytes() == 4 => disp & 0xffff_ffff,
            true if i.address_bytes() == 2 => disp & 0xffff,
            true => disp,
        }
    }

    /// An exit by an instruction with operands.
    pub(super) fn vmx_exit_with_operands(
        &mut self,
        reason: u16,
        i: &Insn,
        registers: Registers,
        more: u32,
    ) -> Stop {
        let qualification = self.displacement(i);
        self.vmx_exit(super::exit::Exit {
            reason,
            qualification,
            instruction_info: Some(instruction_info(i, registers) | more),
            instruction: true,
            ..Default::default()
        })
    }
}
