//! The x87 floating-point unit (SDM 1 chapter 8).
//!
//! The arithmetic is [`ringworld_fp::x87`]; here are the register stack, the exceptions' way to #MF, and the images.

mod arithmetic;
mod compare;
mod control;
mod exception;
mod function;
mod fxsave;
mod image;
#[cfg(test)]
mod tests;
mod transfer;

use crate::row::{Group, Rows};
use ringworld_fp::F80;
use serde::{Deserialize, Serialize};

/// x87 state; also the MMX registers, which are the significands of the physical registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct X87 {
    /// Physical registers R0–R7: significand (also MM0–MM7).
    pub significand: [u64; 8],
    /// Physical registers R0–R7: sign and exponent.
    pub exponent: [u16; 8],
    /// Control word.
    pub control: u16,
    /// Status word; TOP in bits 11–13.
    pub status: u16,
    /// Bit n is set if physical register Rn is not empty (the abridged tag word of FXSAVE).
    pub valid: u8,
    /// Opcode (11 bits) of the last instruction that raised an unmasked exception.
    pub fop: u16,
    /// Address of the last instruction that is not a control instruction.
    pub fip: u64,
    /// Address of the memory operand of the last instruction that had one, or (CPUID.7.0:EBX[6]) of the last that raised an
    /// unmasked exception.
    pub fdp: u64,
    /// Code segment of [`fip`](Self::fip); always zero if CPUID.7.0:EBX[13] is set.
    pub fcs: u16,
    /// Segment of [`fdp`](Self::fdp); always zero if CPUID.7.0:EBX[13] is set.
    pub fds: u16,
    /// FERR# is asserted: an exception was met with CR0.NE clear.
    pub ferr: bool,
}

/// Bits of the status word (SDM 1 8.1.3); bits 0 to 5 are the exceptions.
#[allow(missing_docs)]
pub mod fsw {
    pub const EXCEPTIONS: u16 = 0x3f;
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Error summary: an unmasked exception is pending.
    pub const ES: u16 = 1 << 7;
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const C3: u16 = 1 << 14;
    /// Busy: equal to ES.
    pub const B: u16 = 1 << 15;
    /// Position of TOP.
    pub const TOP_SHIFT: u32 = 11;
    pub const TOP: u16 = 7 << TOP_SHIFT;
}

/// The control word after FNINIT: all exceptions masked, 64 bits, to nearest.
const CONTROL_INITIAL: u16 = 0x37f;
/// The control word's bits that can be written; bit 6 is always set.
const CONTROL_WRITABLE: u16 = 0x1f3f;

impl X87 {
    /// TOP: the physical register that is ST(0).
    #[inline]
    pub const fn top(&self) -> u8 {
        (self.status >> fsw::TOP_SHIFT & 7) as u8
    }

    /// Sets TOP (modulo 8).
    #[inline]
    pub fn set_top(&mut self, top: u8) {
        self.status = self.status & !fsw::TOP | u16::from(top & 7) << fsw::TOP_SHIFT;
    }

    #[inline]
    const fn physical(&self, n: u8) -> usize {
        (self.top().wrapping_add(n) & 7) as usize
    }

    /// What ST(`n`) holds, empty or not.
    #[inline]
    pub const fn raw(&self, n: u8) -> F80 {
        let r = self.physical(n);
        F80 { sig: self.significand[r], sign_exp: self.exponent[r] }
    }

    #[inline]
    const fn is_empty(&self, n: u8) -> bool {
        self.valid >> self.physical(n) & 1 == 0
    }

    /// ST(`n`), if it is not empty.
    #[inline]
    pub fn get(&self, n: u8) -> Option<F80> {
        (!self.is_empty(n)).then(|| self.raw(n))
    }

    /// Sets ST(`n`), which is no longer empty.
    #[inline]
    pub fn set(&mut self, n: u8, value: F80) {
        let r = self.physical(n);
        self.significand[r] = value.sig;
        self.exponent[r] = value.sign_exp;
        self.valid |= 1 << r;
    }

    /// Marks ST(`n`) empty; its bits stay.
    #[inline]
    fn free(&mut self, n: u8) {
        self.valid &= !(1 << self.physical(n));
    }

    #[inline]
    fn pop(&mut self) {
        self.free(0);
        self.set_top(self.top().wrapping_add(1));
    }

    #[inline]
    fn push(&mut self, value: F80) {
        self.set_top(self.top().wrapping_sub(1));
        self.set(0, value);
    }

    /// FNINIT. The registers keep their bits.
    pub fn initialize(&mut self) {
        let Self { significand, exponent, ferr, .. } = *self;
        *self = Self { significand, exponent, ferr, ..Self::INITIAL };
    }

    /// The state that XRSTOR loads for a component that is not in the image (SDM 1 13.6).
    pub const INITIAL: Self = Self {
        significand: [0; 8],
        exponent: [0; 8],
        control: CONTROL_INITIAL,
        status: 0,
        valid: 0,
        fop: 0,
        fip: 0,
        fdp: 0,
        fcs: 0,
        fds: 0,
        ferr: false,
    };

    /// Whether the component is in its initial configuration, for XINUSE (SDM 1 13.6).
    pub fn is_initial(&self) -> bool {
        Self { ferr: false, ..*self } == Self::INITIAL
    }

    /// FLDCW.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & CONTROL_WRITABLE | 0x40;
        self.summarize();
    }

    /// Makes ES and B tell whether an unmasked exception is pending.
    fn summarize(&mut self) {
        let summary = fsw::ES | fsw::B;
        let pending = self.status & !self.control & fsw::EXCEPTIONS != 0;
        self.status = self.status & !summary | if pending { summary } else { 0 };
    }

    fn set_conditions(&mut self, conditions: u16) {
        self.status = self.status & !(fsw::C0 | fsw::C2 | fsw::C3) | conditions;
    }
}

/// Adds the x87 instructions.
pub fn rows(rows: &mut Rows) {
    rows.group(Group::X87);
    arithmetic::rows(rows);
    compare::rows(rows);
    control::rows(rows);
    function::rows(rows);
    fxsave::rows(rows);
    image::rows(rows);
    transfer::rows(rows);
    rows.group(Group::Base);
}
