//! The x87 double extended-precision format (SDM 1 4.2.2, 8.2).

use crate::FpEnv;
use crate::format::{Class, Format, Unpacked, unpack};
use serde::{Deserialize, Serialize};

/// An 80-bit floating-point datum: sign, 15-bit exponent, and a 64-bit significand with an explicit integer bit. Any bit
/// pattern can be held, the unsupported ones too (SDM 1 8.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct F80 {
    /// The significand; bit 63 is the integer bit.
    pub sig: u64,
    /// Bit 15 is the sign, bits 14:0 the biased exponent.
    pub sign_exp: u16,
}

/// The integer bit of the significand.
pub(crate) const INTEGER: u64 = 1 << 63;
/// The bit that makes a NaN quiet.
pub(crate) const QUIET: u64 = 1 << 62;
/// Exponent bias.
pub(crate) const BIAS: i32 = 16383;
/// The exponent of the smallest normal number.
pub(crate) const EMIN: i32 = 1 - BIAS;

impl F80 {
    /// +0.
    pub const ZERO: Self = Self { sig: 0, sign_exp: 0 };
    /// 1.
    pub const ONE: Self = Self { sig: INTEGER, sign_exp: BIAS as u16 };
    /// Plus infinity.
    pub const INFINITY: Self = Self { sig: INTEGER, sign_exp: 0x7fff };
    /// The NaN of an invalid operation, "real indefinite".
    pub const INDEFINITE: Self = Self { sig: INTEGER | QUIET, sign_exp: 0xffff };

    /// From the memory image, low byte first.
    pub const fn from_bytes(bytes: [u8; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j] = bytes;
        Self { sig: u64::from_le_bytes([a, b, c, d, e, f, g, h]), sign_exp: u16::from_le_bytes([i, j]) }
    }

    /// The memory image, low byte first.
    pub const fn to_bytes(self) -> [u8; 10] {
        let [a, b, c, d, e, f, g, h] = self.sig.to_le_bytes();
        let [i, j] = self.sign_exp.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// The sign bit.
    #[inline]
    pub const fn sign(self) -> bool {
        self.sign_exp & 0x8000 != 0
    }

    /// With the sign bit replaced.
    #[inline]
    pub const fn with_sign(self, sign: bool) -> Self {
        Self { sign_exp: self.sign_exp & 0x7fff | (sign as u16) << 15, ..self }
    }

    /// FCHS.
    #[inline]
    pub const fn negate(self) -> Self {
        Self { sign_exp: self.sign_exp ^ 0x8000, ..self }
    }

    /// FABS.
    #[inline]
    pub const fn abs(self) -> Self {
        self.with_sign(false)
    }

    pub(crate) const fn zero(sign: bool) -> Self {
        Self::ZERO.with_sign(sign)
    }

    pub(crate) const fn infinity(sign: bool) -> Self {
        Self::INFINITY.with_sign(sign)
    }

    /// A pseudo-denormal as the normal number of its value, everything else as it is.
    pub(crate) const fn canonical(self) -> Self {
        let pseudo = self.sign_exp & 0x7fff == 0 && self.sig & INTEGER != 0;
        Self { sign_exp: self.sign_exp | pseudo as u16, ..self }
    }

    pub(crate) const fn quiet(self) -> Self {
        Self { sig: self.sig | QUIET, ..self }
    }

    /// Exactly the value of a binary32 or binary64 number; an SNaN stays one. For the conversion with exceptions see
    /// [`x87::from_float`](crate::x87::from_float).
    pub fn from_exact<F: Format>(a: F) -> Self {
        let u = unpack(a, false);
        match u.class {
            Class::Zero => Self::zero(u.sign),
            Class::Inf => Self::infinity(u.sign),
            Class::Finite => Self { sig: u.sig, sign_exp: (u.exp + BIAS) as u16 }.with_sign(u.sign),
            Class::QNan | Class::SNan => {
                let payload = (a.to_bits() & F::FRAC_MASK) << (63 - F::FRAC_BITS);
                Self { sig: INTEGER | payload, sign_exp: 0x7fff }.with_sign(u.sign)
            }
        }
    }

    /// The nearest binary64 number, for display.
    pub fn to_f64(self) -> f64 {
        let mut env = FpEnv::from_mxcsr(FpEnv::MXCSR_DEFAULT);
        match self.unpack() {
            Some(u) if u.class == Class::Finite => {
                f64::from_bits(crate::round::round_pack(&mut env, u.sign, u.exp, (u.sig as u128) << 64))
            }
            Some(u) if u.is_zero() => f64::from_bits((u.sign as u64) << 63),
            Some(u) if u.is_inf() => f64::INFINITY.copysign(if u.sign { -1.0 } else { 1.0 }),
            _ => f64::NAN,
        }
    }

    /// Takes the datum apart; `None` for an unsupported encoding. Pseudo-denormals count as denormals (SDM 1 table 8-3).
    pub(crate) fn unpack(self) -> Option<Unpacked> {
        let field = (self.sign_exp & 0x7fff) as i32;
        let none = Unpacked { sign: self.sign(), class: Class::Zero, denormal: false, exp: 0, sig: 0 };
        match (field, self.sig & INTEGER != 0) {
            (0, _) if self.sig == 0 => Some(none),
            (0, _) => {
                let shift = self.sig.leading_zeros();
                let exp = EMIN - shift as i32;
                Some(Unpacked { class: Class::Finite, denormal: true, exp, sig: self.sig << shift, ..none })
            }
            (_, false) => None,
            (0x7fff, true) => {
                let class = match self.sig {
                    INTEGER => Class::Inf,
                    sig if sig & QUIET != 0 => Class::QNan,
                    _ => Class::SNan,
                };
                Some(Unpacked { class, ..none })
            }
            (_, true) => Some(Unpacked { class: Class::Finite, exp: field - BIAS, sig: self.sig, ..none }),
        }
    }
}
