//! Operands that favour the corners.

use crate::Format;

/// A small deterministic generator (xorshift64*).
pub struct Gen(u64);

impl Gen {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.bits() >> 20) % limit
    }

    /// A `width`-bit fraction: random, sparse, dense, near one end, or a run of ones.
    pub fn fraction(&mut self, width: u32) -> u64 {
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        let some = self.bits();
        mask & match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(width as u64),
            3 => !(1 << self.below(width as u64)),
            4 => self.below(8),
            5 => (u64::MAX << self.below(width as u64)) ^ self.below(4),
            6 => some & self.bits() & self.bits(),
            _ => some,
        }
    }

    /// An operand of `F`.
    pub fn operand<F: Format>(&mut self) -> F {
        let sign = self.bits() & F::SIGN;
        let frac = self.fraction(F::FRAC_BITS);
        let field = match self.below(16) {
            0 | 1 => 0,
            2 => F::EXP_MAX,
            3 => 1 + self.below(3),
            4 => F::EXP_MAX - 1 - self.below(3),
            5 => self.below(F::EXP_MAX + 1),
            6 => F::BIAS as u64 / 2 + self.below(8),
            7 => F::BIAS as u64 * 3 / 2 + self.below(8),
            _ => F::BIAS as u64 - 6 + self.below(12),
        };
        F::from_bits(sign | field << F::FRAC_BITS | frac)
    }

    /// Two operands, often close to each other.
    pub fn pair<F: Format>(&mut self) -> (F, F) {
        let a: F = self.operand();
        let b = match self.below(4) {
            0 => {
                let near = (a.to_bits() & !F::SIGN).wrapping_add(self.below(8)).wrapping_sub(4) & !F::SIGN;
                let sign = self.bits() & F::SIGN;
                F::from_bits(near | sign)
            }
            1 => {
                let shift = self.below(2 * F::FRAC_BITS as u64 + 4) << F::FRAC_BITS;
                F::from_bits(a.to_bits().wrapping_sub(shift) ^ (self.bits() & F::SIGN))
            }
            _ => self.operand(),
        };
        if self.below(2) == 0 { (a, b) } else { (b, a) }
    }

    /// MXCSR with any rounding, DAZ and FTZ, all exceptions masked and no flags.
    pub fn mxcsr(&mut self) -> u32 {
        let choice = self.below(16) as u32;
        let modes = (choice & 1) << 6 | (choice >> 1 & 1) << 15 | (choice >> 2) << 13;
        // Plain modes are the most used.
        0x1f80 | if self.below(3) == 0 { choice >> 2 << 13 } else { modes }
    }
}
