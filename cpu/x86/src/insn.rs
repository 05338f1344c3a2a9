//! A decoded instruction: 32 bytes, run by the interpreter and read by the translator.

use crate::{Cpu, Stop};
use iced_x86::Code;

/// The function that *is* the instruction. RIP already points past it. An error leaves the architectural state as it was
/// before the instruction (but for what the manual lets a faulting instruction change).
pub type Exec = fn(&mut Cpu, &Insn) -> Result<(), Stop>;

/// Numbers into [`Cpu::regs`] beyond the 16 general registers.
pub const REG_RIP: u8 = 16;
/// Always zero: "no base" and "no index".
pub const REG_ZERO: u8 = 17;

/// Segment numbers of [`Insn::segment`]: the six segment registers in encoding order, and the two flat ones that 64-bit
/// code uses for the others than FS and GS.
#[allow(missing_docs)]
pub mod seg {
    pub const ES: u8 = 0;
    pub const CS: u8 = 1;
    pub const SS: u8 = 2;
    pub const DS: u8 = 3;
    pub const FS: u8 = 4;
    pub const GS: u8 = 5;
    /// 64-bit mode: base 0, no limit, #GP.
    pub const FLAT: u8 = 6;
    /// 64-bit mode: base 0, no limit, #SS.
    pub const FLAT_SS: u8 = 7;
}

/// Bits of [`Insn::prefixes`].
#[allow(missing_docs)]
pub mod prefix {
    pub const REP: u8 = 1;
    pub const REPNE: u8 = 2;
    pub const LOCK: u8 = 4;
    /// The instruction has a memory operand.
    pub const MEMORY: u8 = 8;
    /// VEX- or EVEX-encoded: upper bits of the destination are cleared.
    pub const VEX: u8 = 16;
    /// Position of the vector length (two bits, see [`super::Insn::vector_length`]).
    pub const LENGTH_SHIFT: u8 = 5;
}

/// A decoded instruction.
///
/// Register operands sit in `r`, in operand order (memory and immediate operands leave their place unused): general
/// registers 0–15 (8-bit ones with bit 5 set for AH, CH, DH, BH), and the number alone for segment, control, debug,
/// mask, x87, MMX and vector registers.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Insn {
    /// What runs.
    pub exec: Exec,
    /// The immediate, sign-extended to 64 bits as the operand wants; a second one (ENTER, EXTRQ) or a far pointer's
    /// selector in bits 32 and up; the target of a near branch relative to the next instruction.
    pub imm: u64,
    /// Displacement of the memory operand, or relative to the next RIP for RIP-relative ones.
    pub disp: i32,
    /// The instruction form (`iced_x86::Code` as a number).
    pub code: u16,
    /// Length in bytes, 1 to 15.
    pub len: u8,
    /// Bits 0–2 segment, 3–4 log2 of the index scale, 5–6 address size (0: 16, 1: 32, 2: 64 bits).
    pub mem: u8,
    /// Register operands.
    pub r: [u8; 4],
    /// Number of the base register, or [`REG_RIP`], or [`REG_ZERO`].
    pub base: u8,
    /// Number of the index register (for VSIB the vector register's), or [`REG_ZERO`].
    pub index: u8,
    /// See [`prefix`].
    pub prefixes: u8,
    /// EVEX: bits 0–2 opmask register, 3 zeroing, 4 broadcast / embedded rounding or SAE, 5–6 rounding control.
    pub evex: u8,
}

const ADDRESS_MASK: [u64; 4] = [0xffff, 0xffff_ffff, u64::MAX, u64::MAX];

impl Insn {
    /// Form.
    pub fn code(&self) -> Code {
        Code::try_from(usize::from(self.code)).unwrap_or(Code::INVALID)
    }

    /// The segment of the memory operand, see [`seg`].
    #[inline(always)]
    pub const fn segment(&self) -> u8 {
        self.mem & 7
    }

    /// log2 of the scale.
    #[inline(always)]
    pub const fn scale(&self) -> u32 {
        (self.mem >> 3) as u32 & 3
    }

    /// Mask of the address size.
    #[inline(always)]
    pub const fn address_mask(&self) -> u64 {
        ADDRESS_MASK[(self.mem >> 5) as usize & 3]
    }

    /// Address size in bytes: 2, 4 or 8.
    #[inline(always)]
    pub const fn address_bytes(&self) -> u32 {
        2 << ((self.mem >> 5) & 3)
    }

    /// Whether an operand is in memory.
    #[inline(always)]
    pub const fn has_memory(&self) -> bool {
        self.prefixes & prefix::MEMORY != 0
    }

    /// Length of the widest vector register operand in bytes, the index of a VSIB included: 16, 32 or 64.
    #[inline(always)]
    pub const fn vector_length(&self) -> usize {
        16 << (self.prefixes >> prefix::LENGTH_SHIFT & 3)
    }

    /// VEX- or EVEX-encoded.
    #[inline(always)]
    pub const fn is_vex(&self) -> bool {
        self.prefixes & prefix::VEX != 0
    }

    /// Opmask register number; 0 means unmasked.
    #[inline(always)]
    pub const fn opmask(&self) -> u8 {
        self.evex & 7
    }

    /// EVEX zeroing-masking.
    #[inline(always)]
    pub const fn zeroing(&self) -> bool {
        self.evex & 8 != 0
    }

    /// EVEX.b: broadcast (memory operand), or embedded rounding / suppress-all-exceptions (register operands).
    #[inline(always)]
    pub const fn evex_b(&self) -> bool {
        self.evex & 16 != 0
    }

    /// EVEX embedded rounding control (as MXCSR.RC).
    #[inline(always)]
    pub const fn rounding(&self) -> u8 {
        self.evex >> 5 & 3
    }
}

impl Cpu {
    /// The offset of the memory operand in its segment.
    #[inline(always)]
    pub fn effective_address(&self, i: &Insn) -> u64 {
        self.regs[(i.base & 31) as usize]
            .wrapping_add(self.regs[(i.index & 31) as usize] << i.scale())
            .wrapping_add(i.disp as i64 as u64)
            & i.address_mask()
    }
}
