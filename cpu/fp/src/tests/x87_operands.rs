//! x87 operands and control words that favour the corners.

use super::generate::Gen;
use crate::F80;

impl Gen {
    pub fn f80(&mut self) -> F80 {
        let sign = (self.bits() as u16) & 0x8000;
        let fraction = self.fraction(63);
        let precise = match self.below(4) {
            0 => fraction & (u64::MAX << 39),
            1 => fraction & (u64::MAX << 10),
            _ => fraction,
        };
        let integer = if self.below(24) == 0 { self.bits() & 1 << 63 } else { 1 << 63 };
        let exp = match self.below(20) {
            0 => 0,
            1 => 0x7fff,
            2 => 1 + self.below(70) as u16,
            3 => 0x7ffe - self.below(70) as u16,
            4 => self.below(0x8000) as u16,
            5 => 0x1fff + self.below(70) as u16,
            6 => 0x5ffe - self.below(70) as u16,
            7 => 0x3fff + self.below(70) as u16,
            8 => 0x3fff - self.below(70) as u16,
            _ => 0x3ffa + self.below(12) as u16,
        };
        let integer = if exp == 0 && self.below(8) != 0 { 0 } else { integer };
        F80 { sig: precise | integer, sign_exp: sign | exp }
    }

    pub fn f80_pair(&mut self) -> (F80, F80) {
        let a = self.f80();
        let b = match self.below(4) {
            0 => F80 {
                sig: a.sig.wrapping_add(self.below(8)).wrapping_sub(4),
                sign_exp: a.sign_exp ^ (self.bits() as u16 & 0x8000),
            },
            1 => {
                let sign_exp = (a.sign_exp & 0x7fff).wrapping_sub(self.below(70) as u16) & 0x7fff;
                F80 { sig: self.fraction(63) | 1 << 63, sign_exp }
            }
            _ => self.f80(),
        };
        if self.below(2) == 0 { (a, b) } else { (b, a) }
    }

    /// A control word: any precision and rounding; masks all set, or any if `unmask`.
    pub fn fcw(&mut self, unmask: bool) -> u16 {
        let modes = match self.below(3) {
            0 => 0x300,
            1 => 0x300 | (self.below(4) as u16) << 10,
            _ => (self.below(16) as u16) << 8,
        };
        let masks = if unmask && self.below(2) == 0 { self.below(64) as u16 } else { 0x3f };
        modes | masks | 0x40
    }
}
