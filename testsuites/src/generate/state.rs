//! Random states.

use super::values::{self, Flavour, quad};
use super::{Builder, Mode};
use crate::case::{DATA, WRITABLE, X87State};
use ringworld_x86::flags::bits;

impl Builder<'_> {
    /// An address in the data window (mostly the writable part), for registers that point somewhere.
    pub(super) fn window_address(&mut self) -> u64 {
        DATA + 0x100 + self.random.below(WRITABLE as u64 - 0x200)
    }

    /// Fills the state with what the form can make something of.
    pub(super) fn random_state(&mut self) {
        for n in 0..16 {
            self.state.gpr[n] =
                if self.random.chance(20) { self.window_address() } else { values::integer(self.random) };
        }
        // Equal operands now and then.
        if self.random.chance(15) {
            let (a, b) = (self.random.below(16) as usize, self.random.below(16) as usize);
            self.state.gpr[a] = self.state.gpr[b];
        }
        let stack = self.window_address() & !15;
        self.state.gpr[4] = match self.random.below(40) {
            0 => values::integer(self.random),
            1 => DATA + self.random.below(16),
            2..6 => stack + self.random.below(16),
            _ => stack,
        };
        self.state.gpr[5] = if self.random.chance(50) { self.window_address() } else { self.state.gpr[5] };
        if self.mode == Mode::Compat32 {
            for n in 0..16 {
                self.state.gpr[n] = if n < 8 { self.state.gpr[n] & 0xffff_ffff } else { 0 };
            }
        }
        self.state.rflags = bits::FIXED | bits::IF | values::integer(self.random) & bits::STATUS;
        if self.random.chance(15) {
            self.state.rflags |= bits::DF;
        }
        if self.random.chance(2) {
            self.state.rflags |= bits::AC;
        }
        self.state.selectors = self.mode.selectors();
        self.state.fs_base = self.segment_base();
        self.state.gs_base = self.segment_base();
        self.vectors();
        self.state.x87 = self.x87();
    }

    fn segment_base(&mut self) -> u64 {
        match self.random.below(3) {
            0 => 0,
            1 => self.random.below(0x1000_0000),
            _ => self.random.below(0x1000) * 0x1_0000,
        }
    }

    fn vectors(&mut self) {
        let registers = if self.mode == Mode::Long64 { 32 } else { 8 };
        for n in 0..registers {
            let flavour = if self.random.chance(10) { Flavour::Bits } else { self.flavour };
            for m in 0..8 {
                self.state.zmm[n][m] = quad(self.random, flavour);
            }
        }
        if self.random.chance(15) {
            let (a, b) = (self.random.below(8) as usize, self.random.below(8) as usize);
            self.state.zmm[a] = self.state.zmm[b];
        }
        for n in 0..8 {
            self.state.k[n] = match self.random.below(4) {
                0 => u64::MAX,
                1 => self.random.bits() & self.random.bits(),
                2 => self.random.bits() | self.random.bits(),
                _ => self.random.bits(),
            };
        }
        self.state.mxcsr = self.mxcsr();
    }

    /// A valid MXCSR: mostly with all exceptions masked.
    pub(super) fn mxcsr(&mut self) -> u32 {
        let masks = if self.random.chance(85) { 0x1f80 } else { self.random.bits() as u32 & 0x1f80 };
        let flags = if self.random.chance(50) { 0 } else { self.random.bits() as u32 & 0x3f };
        let daz = if self.random.chance(25) { 0x40 } else { 0 };
        let ftz = if self.random.chance(25) { 0x8000 } else { 0 };
        let rounding = self.random.below(4) as u32 * 0x2000;
        masks | flags | daz | ftz | rounding
    }

    /// A control word: mostly with all exceptions masked.
    pub(super) fn x87_control(&mut self) -> u16 {
        let masks = if self.random.chance(85) { 0x3f } else { self.random.bits() as u16 & 0x3f };
        let precision = self.random.pick(&[0, 2, 3, 3, 3]) << 8;
        masks | precision | 0x40 | (self.random.below(4) as u16) << 10
    }

    /// A status word; its summary bits fit the control word.
    pub(super) fn x87_status(&mut self, control: u16) -> u16 {
        let mut flags = if self.random.chance(50) { 0 } else { self.random.bits() as u16 & 0x7f };
        if self.random.chance(90) {
            flags &= control & 0x3f | 0x40;
        }
        if flags & 1 == 0 {
            flags &= !0x40;
        }
        let summary = if flags & !control & 0x3f != 0 { 0x8080 } else { 0 };
        flags | summary | self.random.bits() as u16 & 0x7f00
    }

    /// An x87 register: a number, or an MMX value.
    fn x87_register(&mut self) -> (u64, u16) {
        match self.random.below(10) {
            0..7 => values::extended(self.random),
            7 => (self.x87_integer() | 1 << 63, 0x403e),
            _ => (quad(self.random, self.flavour), 0xffff),
        }
    }

    fn x87_integer(&mut self) -> u64 {
        values::integer(self.random)
    }

    fn x87(&mut self) -> X87State {
        let mmx = self.info.op_kinds().iter().any(|&kind| {
            use iced_x86::OpCodeOperandKind::*;
            matches!(kind, mm_reg | mm_rm | mm_or_mem)
        });
        let control = self.x87_control();
        let mut x87 = X87State {
            control,
            status: self.x87_status(control),
            valid: match self.random.below(4) {
                0 => self.random.bits() as u8,
                1 => 0,
                _ => 0xff,
            },
            ..X87State::default()
        };
        for n in 0..8 {
            x87.st[n] = if mmx { (quad(self.random, self.flavour), 0xffff) } else { self.x87_register() };
        }
        // Half of the time, two numbers that are near each other.
        if !mmx && self.random.chance(30) {
            let (significand, exponent) = x87.st[0];
            let shift = self.random.below(70) as u16;
            let near = exponent & 0x8000 | (exponent & 0x7fff).saturating_sub(shift);
            let n = 1 + self.random.below(7) as usize;
            x87.st[n] = (significand ^ self.random.below(4), near ^ (self.random.below(2) as u16) << 15);
        }
        x87
    }
}
