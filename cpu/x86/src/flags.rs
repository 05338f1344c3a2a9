//! RFLAGS. The six status flags are kept as the values that they derive from, and computed when somebody reads them.

use serde::{Deserialize, Serialize};

/// Bits of RFLAGS (SDM 1 3.4.3).
#[allow(missing_docs)]
pub mod bits {
    pub const CF: u64 = 1 << 0;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// CF, PF, AF, ZF, SF and OF.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
    /// Every bit that exists, but for the status flags and the fixed one.
    pub const SYSTEM: u64 = TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}
use bits::*;

/// The flags, status flags in derived form. All fields are free of each other, so any combination can be represented.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Flags {
    /// ZF is set if this is zero.
    pub zero: u64,
    /// SF is the top bit (results are sign-extended to 64 bits).
    pub sign: u64,
    /// CF is bit 63 and OF is bit 63 xor bit 62: the carry-out vector of an addition or subtraction, its top bit
    /// moved to bit 63.
    pub carry: u64,
    /// PF is set if the low byte has an even number of ones.
    pub parity: u8,
    /// AF is bit 4.
    pub adjust: u8,
    /// All other flags, and bit 1.
    pub system: u64,
}

impl Flags {
    /// The flags after reset.
    pub const RESET: Self = Self { zero: 1, sign: 0, carry: 0, parity: 1, adjust: 0, system: FIXED };

    /// Carry.
    #[inline(always)]
    pub const fn cf(&self) -> bool {
        (self.carry as i64) < 0
    }
    /// Zero.
    #[inline(always)]
    pub const fn zf(&self) -> bool {
        self.zero == 0
    }
    /// Sign.
    #[inline(always)]
    pub const fn sf(&self) -> bool {
        (self.sign as i64) < 0
    }
    /// Overflow.
    #[inline(always)]
    pub const fn of(&self) -> bool {
        ((self.carry ^ (self.carry << 1)) as i64) < 0
    }
    /// Parity.
    #[inline(always)]
    pub const fn pf(&self) -> bool {
        self.parity.count_ones() & 1 == 0
    }
    /// Adjust (auxiliary carry).
    #[inline(always)]
    pub const fn af(&self) -> bool {
        self.adjust & 0x10 != 0
    }

    /// The status flags as in RFLAGS.
    pub const fn status(&self) -> u64 {
        (self.cf() as u64)
            | (self.pf() as u64) << 2
            | (self.af() as u64) << 4
            | (self.zf() as u64) << 6
            | (self.sf() as u64) << 7
            | (self.of() as u64) << 11
    }

    /// RFLAGS.
    pub const fn get(&self) -> u64 {
        self.system | self.status()
    }

    /// Sets all of RFLAGS. Bits that do not exist stay clear and bit 1 set.
    pub const fn set(&mut self, rflags: u64) {
        self.system = rflags & SYSTEM | FIXED;
        self.set_status(rflags);
    }

    /// Sets the six status flags from an RFLAGS image.
    pub const fn set_status(&mut self, rflags: u64) {
        self.zero = !rflags & ZF;
        self.sign = (rflags & SF) << 56;
        self.parity = (rflags & PF == 0) as u8;
        self.adjust = (rflags & AF) as u8;
        let cf = rflags & CF;
        let of = (rflags & OF) >> 11;
        self.carry = cf << 63 | (cf ^ of) << 62;
    }

    /// Sets CF and OF, leaving the others.
    #[inline(always)]
    pub const fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.carry = (cf as u64) << 63 | ((cf ^ of) as u64) << 62;
    }

    /// Sets CF, leaving the others.
    #[inline(always)]
    pub const fn set_cf(&mut self, cf: bool) {
        let of = self.of();
        self.set_cf_of(cf, of);
    }

    /// Sets ZF, leaving the others.
    #[inline(always)]
    pub const fn set_zf_only(&mut self, zf: bool) {
        self.zero = !zf as u64;
    }

    /// Whether any of these system bits is set.
    #[inline(always)]
    pub const fn has(&self, mask: u64) -> bool {
        self.system & mask != 0
    }

    /// The I/O privilege level.
    #[inline(always)]
    pub const fn iopl(&self) -> u8 {
        (self.system >> 12) as u8 & 3
    }

    /// Whether condition `cc` (the low four bits of a Jcc opcode) holds.
    #[inline(always)]
    pub const fn condition(&self, cc: u8) -> bool {
        let met = match cc >> 1 & 7 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() | self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() | (self.sf() != self.of()),
        };
        met != (cc & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_status_flags_round_trips() {
        for n in 0..64_u64 {
            let image = (n & 1)
                | (n >> 1 & 1) << 2
                | (n >> 2 & 1) << 4
                | (n >> 3 & 1) << 6
                | (n >> 4 & 1) << 7
                | (n >> 5 & 1) << 11;
            let mut flags = Flags::RESET;
            flags.set(image | IF);
            assert_eq!(flags.get(), image | IF | FIXED);
            flags.set_cf(!flags.cf());
            assert_eq!(flags.get(), (image | IF | FIXED) ^ CF);
        }
        assert_eq!(Flags::RESET.get(), 2);
    }
}
