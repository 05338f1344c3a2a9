//! Numbers with 128-bit significands, and the power series that the transcendental instructions are made of.
//!
//! Relative errors stay below about 2^-120, so that rounding to 64 bits is correct but for one case in 2^50 or so. Operations keep a
//! sticky bit 0: a value next to a representable one stays on its side of it.

use super::{X87Env, round_pack};
use crate::FpFlags;
use crate::f80::F80;
use crate::format::Unpacked;
use crate::round::shift_right_jam;

/// `±sig * 2^(exp - 127)`; bit 127 of `sig` is set, or `sig` is 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub sign: bool,
    pub exp: i32,
    pub sig: u128,
}

/// The product's high and low halves.
fn mul_wide(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = u64::MAX as u128;
    let (ah, al, bh, bl) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (hl, lh, ll) = (ah * bl, al * bh, al * bl);
    let middle = (hl & LOW) + (lh & LOW) + (ll >> 64);
    (ah * bh + (hl >> 64) + (lh >> 64) + (middle >> 64), middle << 64 | ll & LOW)
}

/// `a * b` of two fractions, or of a fraction and a number in the other's format, rounded down.
fn mul_high(a: u128, b: u128) -> u128 {
    mul_wide(a, b).0
}

impl Wide {
    pub(super) const ONE: Self = Self::new(0, 1 << 127);
    pub(super) const PI: Self = Self::new(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
    pub(super) const LN_2: Self = Self::new(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
    pub(super) const LOG2_E: Self = Self::new(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88);
    pub(super) const LOG2_10: Self = Self::new(1, 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4c);
    pub(super) const LOG10_2: Self = Self::new(-2, 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178);

    pub(super) const fn new(exp: i32, sig: u128) -> Self {
        Self { sign: false, exp, sig }
    }

    pub(super) fn from_unpacked(u: &Unpacked) -> Self {
        Self { sign: u.sign, exp: u.exp, sig: (u.sig as u128) << 64 }
    }

    /// `sig * 2^(exp - 127)` for any `sig`.
    pub(super) fn normalized(sign: bool, exp: i32, sig: u128) -> Self {
        if sig == 0 {
            return Self { sign, exp: 0, sig };
        }
        let shift = sig.leading_zeros();
        Self { sign, exp: exp - shift as i32, sig: sig << shift }
    }

    pub(super) fn from_int(value: i32) -> Self {
        Self::normalized(value < 0, 127, value.unsigned_abs() as u128)
    }

    pub(super) fn with_sign(self, sign: bool) -> Self {
        Self { sign, ..self }
    }

    pub(super) fn scaled(self, by: i32) -> Self {
        Self { exp: self.exp + by, ..self }
    }

    pub(super) fn mul(self, other: Self) -> Self {
        let (high, low) = mul_wide(self.sig, other.sig);
        let sign = self.sign != other.sign;
        if high >> 127 != 0 {
            Self { sign, exp: self.exp + other.exp + 1, sig: high | (low != 0) as u128 }
        } else {
            let sig = high << 1 | low >> 127 | (low << 1 != 0) as u128;
            Self::normalized(sign, self.exp + other.exp, sig)
        }
    }

    pub(super) fn add(self, other: Self) -> Self {
        if self.sig == 0 || other.sig == 0 {
            return if self.sig == 0 { other } else { self };
        }
        let half = |x: Self| (x.sign, x.exp + 1, shift_right_jam(x.sig, 1));
        let (sign, exp, sig) = crate::arith::add_magnitudes(half(self), half(other));
        Self::normalized(sign, exp, sig)
    }

    pub(super) fn sub(self, other: Self) -> Self {
        self.add(other.with_sign(!other.sign))
    }

    pub(super) fn div(self, other: Self) -> Self {
        let (mut rest, mut quotient, mut carry) = (self.sig, 0u128, false);
        for _ in 0..128 {
            let bit = carry || rest >= other.sig;
            if bit {
                rest = rest.wrapping_sub(other.sig);
            }
            quotient = quotient << 1 | bit as u128;
            carry = rest >> 127 != 0;
            rest <<= 1;
        }
        let sticky = (carry || rest != 0) as u128;
        Self::normalized(self.sign != other.sign, self.exp - other.exp, quotient | sticky)
    }

    /// A magnitude below 1 as a fraction of 2^128.
    pub(super) fn fraction(self) -> u128 {
        self.sig.checked_shr((-1 - self.exp) as u32).unwrap_or(0)
    }

    /// Rounds to 64 bits. `inexact`: the value stands for an irrational one.
    pub(super) fn round(self, env: &mut X87Env, inexact: bool) -> F80 {
        if self.sig == 0 {
            return F80::zero(self.sign);
        }
        round_pack(env, self.sign, self.exp, self.sig | inexact as u128, 64)
    }

    /// Rounds a value next to an irrational result so close that silicon takes it for the result: inexact, and yet not
    /// rounded if it fits.
    pub(super) fn round_nearby(self, env: &mut X87Env) -> F80 {
        let result = self.round(env, false);
        if env.stores() {
            let tiny = if self.exp < crate::f80::EMIN { FpFlags::UE } else { FpFlags::empty() };
            env.raise(FpFlags::PE | tiny);
        }
        result
    }
}

/// 1/n as a fraction of 2^128.
const INVERSE: [u128; 56] = {
    let mut table = [0; 56];
    let mut n = 2;
    while n < table.len() {
        table[n] = u128::MAX / n as u128;
        n += 1;
    }
    table
};

/// 1 in the series' format: 127 fraction bits.
const ONE: u128 = 1 << 127;

/// A step outward in Horner's scheme: `1 ± term`, never exactly 1.
fn step(term: u128, minus: bool) -> u128 {
    if minus { ONE - term.max(1) } else { ONE + term.max(1) }
}

/// What a series in the format of 127 fraction bits multiplies.
fn times(x: Wide, factor: u128) -> Wide {
    x.mul(Wide::normalized(false, 0, factor))
}

/// e^x - 1 for |x| < 0.7.
pub(super) fn exp_m1(x: Wide) -> Wide {
    let y = x.fraction();
    // x * (1 + x/2 (1 + x/3 (1 + ...)))
    let factor = (2..=33).rev().fold(ONE, |p, n| step(mul_high(mul_high(y, INVERSE[n]), p), x.sign));
    times(x, factor)
}

/// sin x for |x| <= pi/4.
pub(super) fn sin(x: Wide) -> Wide {
    let square = x.mul(x).fraction();
    // x * (1 - x^2/(2*3) (1 - x^2/(4*5) (...)))
    let factor = (1..=17).rev().fold(ONE, |p, k| {
        step(mul_high(mul_high(mul_high(square, INVERSE[2 * k]), INVERSE[2 * k + 1]), p), true)
    });
    times(x, factor)
}

/// cos x for |x| <= pi/4.
pub(super) fn cos(x: Wide) -> Wide {
    let square = x.mul(x).fraction();
    // INVERSE has no 1/1: the first step is x^2/2 alone.
    let inner = (2..=17).rev().fold(ONE, |p, k| {
        step(mul_high(mul_high(mul_high(square, INVERSE[2 * k - 1]), INVERSE[2 * k]), p), true)
    });
    times(Wide::ONE, step(mul_high(square >> 1, inner), true))
}

/// The series x * (1 ± x^2/3 + x^4/5 ± ...): arc tangent for |x| <= 1/16, or area tangent for |x| < 0.172.
fn arc_series(x: Wide, minus: bool) -> Wide {
    let square = x.mul(x).fraction();
    let last = INVERSE.len() / 2 - 1;
    let sum = (1..last).rev().fold(INVERSE[2 * last + 1], |p, k| {
        let term = mul_high(square, p);
        if minus { INVERSE[2 * k + 1] - term } else { INVERSE[2 * k + 1] + term }
    });
    times(x, step(mul_high(square, sum) >> 1, minus))
}

/// ln(1 + 2s/(1 - s)), which is 2 artanh s, for |s| < 0.172.
pub(super) fn two_artanh(s: Wide) -> Wide {
    arc_series(s, false).scaled(1)
}

/// arctan(k/8) for k = 1 to 8.
const ARCTAN: [Wide; 8] = [
    Wide::new(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef7),
    Wide::new(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e5),
    Wide::new(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::new(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::new(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3747),
    Wide::new(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9e),
    Wide::new(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    Wide::new(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];

/// arctan(y/x) for 0 < y <= x.
pub(super) fn arctan_ratio(y: Wide, x: Wide) -> Wide {
    let ratio = y.div(x);
    // The nearest k/8.
    let eighths = match ratio.exp {
        0 => 8,
        -5.. => (((ratio.fraction() >> 124) + 1) >> 1) as usize,
        _ => 0,
    };
    if eighths == 0 {
        return arc_series(ratio, true);
    }
    // arctan(y/x) = arctan(c) + arctan((y - cx) / (x + cy)), computed from y and x, in which c * 8 is exact.
    let c = Wide::from_int(eighths as i32).scaled(-3);
    let rest = y.sub(c.mul(x)).div(x.add(c.mul(y)));
    if rest.sig == 0 {
        return ARCTAN[eighths - 1];
    }
    ARCTAN[eighths - 1].add(arc_series(rest, true))
}
