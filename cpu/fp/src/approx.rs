//! Approximate reciprocals and reciprocal square roots.
//!
//! RCPPS and RSQRTPS are implementation-defined within a relative error of 1.5 * 2^-12 (SDM 2B); these are Intel's results: the
//! reciprocal at the middle of 2,048 equal steps, rounded to 12 bits. The 14-bit forms of AVX-512 are defined bit for bit: one
//! line per 1,024 steps of the significand. The lines were found by measuring all significands on silicon.

use crate::FpEnv;
use crate::format::{Class, Format, inf, quiet, unpack, zero};

/// The special cases that all four have in common; `Err` for a finite operand to compute with: sign, exponent, and the
/// fraction at the top of 64 bits. `root` makes negative operands invalid. No flag is ever raised.
fn special<F: Format>(a: F, daz: bool, root: bool) -> Result<F, (bool, i32, u64)> {
    let u = unpack(a, daz);
    match u.class {
        Class::QNan | Class::SNan => Ok(quiet(a)),
        Class::Zero => Ok(inf(u.sign)),
        _ if root && u.sign => Ok(F::from_bits(F::INDEFINITE)),
        Class::Inf => Ok(zero(u.sign)),
        Class::Finite => Err((u.sign, u.exp, u.sig << 1)),
    }
}

/// A binary32 number of exponent `exp` and a 12-bit fraction, or zero if that is below the normal ones.
fn pack12(sign: bool, exp: i32, fraction: u32) -> u32 {
    let sign = (sign as u32) << 31;
    if exp < <u32 as Format>::EMIN { sign } else { sign | ((exp + 127) as u32) << 23 | fraction << 11 }
}

/// RCPPS: denormal operands count as zeros, and results that would be denormal are zeros, whatever MXCSR says.
pub fn rcp(a: u32) -> u32 {
    match special(a, true, false) {
        Ok(result) => result,
        Err((sign, exp, fraction)) => {
            // round(2^13 / (1 + (index + 1/2) / 2^11)) - 2^12; there are no ties, for the divisor is odd.
            let divisor = 4097 + 2 * (fraction >> 53) as u32;
            pack12(sign, -exp - 1, ((1 << 25) + divisor / 2) / divisor - 4096)
        }
    }
}

/// RSQRTPS: as [`rcp`] for 1 / sqrt(a).
pub fn rsqrt(a: u32) -> u32 {
    match special(a, true, true) {
        Ok(result) => result,
        Err((_, exp, fraction)) => {
            let (index, odd) = (fraction >> 54, exp & 1);
            // round(2^13 / sqrt(2^odd * (1 + (index + 1/2) / 2^10))) - 2^12.
            let twice = ((1u64 << 39) / ((2049 + 2 * index) << odd)).isqrt();
            pack12(false, -(exp >> 1) - 1, (twice.div_ceil(2) - 4096) as u32)
        }
    }
}

/// The lines that make up 1/x on [1, 2): value at the start in units of 2^-19, fall per step in units of 2^-26.
const RCP14: [(u32, u32); 64] = [
    (0x7fff2, 1009),
    (0x7e06c, 977),
    (0x7c1e4, 949),
    (0x7a440, 921),
    (0x78776, 893),
    (0x76b8e, 869),
    (0x75066, 843),
    (0x7360c, 821),
    (0x71c64, 797),
    (0x70378, 777),
    (0x6eb30, 755),
    (0x6d394, 735),
    (0x6bc98, 717),
    (0x6a636, 699),
    (0x69062, 681),
    (0x67b18, 663),
    (0x6665e, 647),
    (0x65222, 631),
    (0x63e6c, 617),
    (0x62b26, 601),
    (0x6185a, 587),
    (0x605fe, 573),
    (0x5f414, 561),
    (0x5e28a, 547),
    (0x5d16c, 535),
    (0x5c0b0, 523),
    (0x5b05a, 513),
    (0x5a054, 501),
    (0x590ae, 491),
    (0x5815a, 479),
    (0x5725c, 469),
    (0x563ae, 459),
    (0x55554, 451),
    (0x5473e, 441),
    (0x53978, 433),
    (0x52bf0, 423),
    (0x51eb4, 415),
    (0x511ba, 407),
    (0x50500, 399),
    (0x4f886, 391),
    (0x4ec50, 385),
    (0x4e04a, 377),
    (0x4d482, 369),
    (0x4c8f6, 363),
    (0x4bda2, 357),
    (0x4b27a, 349),
    (0x4a78c, 343),
    (0x49cd0, 337),
    (0x49246, 331),
    (0x487ea, 325),
    (0x47dbc, 319),
    (0x473c4, 315),
    (0x469ec, 309),
    (0x46042, 303),
    (0x456c8, 299),
    (0x44d6e, 293),
    (0x44444, 289),
    (0x43b3e, 285),
    (0x4325a, 279),
    (0x429a6, 275),
    (0x42112, 271),
    (0x4189e, 267),
    (0x4104a, 263),
    (0x40816, 259),
];

/// The lines of 1/sqrt(x) on [1, 2) and on [2, 4).
const RSQRT14: [[(u32, u32); 32]; 2] = [
    [
        (0x7ffe9, 1001),
        (0x7e0a1, 955),
        (0x7c2c5, 915),
        (0x7a632, 877),
        (0x78ace, 841),
        (0x77087, 807),
        (0x7574d, 775),
        (0x73f11, 747),
        (0x727ba, 719),
        (0x71141, 693),
        (0x6fb97, 669),
        (0x6e6b4, 647),
        (0x6d282, 625),
        (0x6befa, 603),
        (0x6ac1f, 585),
        (0x699db, 567),
        (0x68827, 549),
        (0x67703, 533),
        (0x6665f, 517),
        (0x65638, 501),
        (0x6468d, 487),
        (0x63753, 473),
        (0x62888, 461),
        (0x61a23, 449),
        (0x60c1f, 437),
        (0x5fe7b, 425),
        (0x5f136, 415),
        (0x5e43e, 403),
        (0x5d79f, 393),
        (0x5cb56, 385),
        (0x5bf4f, 375),
        (0x5b39a, 367),
    ],
    [
        (0x5a815, 707),
        (0x591f9, 675),
        (0x57cdc, 647),
        (0x568a4, 619),
        (0x5554c, 595),
        (0x542b7, 571),
        (0x530e1, 549),
        (0x51fb9, 527),
        (0x50f3d, 509),
        (0x4ff5b, 491),
        (0x4f005, 473),
        (0x4e13d, 457),
        (0x4d2f5, 441),
        (0x4c52a, 427),
        (0x4b7d1, 413),
        (0x4aaeb, 401),
        (0x49e67, 389),
        (0x49243, 377),
        (0x4867f, 365),
        (0x47b19, 355),
        (0x47003, 345),
        (0x4653e, 335),
        (0x45ac4, 325),
        (0x45098, 317),
        (0x446b2, 309),
        (0x43d0d, 301),
        (0x433a7, 293),
        (0x42a7e, 285),
        (0x42195, 279),
        (0x418dd, 271),
        (0x41060, 265),
        (0x40816, 259),
    ],
];

/// The value at `step` of 1,024, in units of 2^-17, rounded down.
fn on_line((start, fall): (u32, u32), step: u32) -> u64 {
    (((start << 7) - fall * step) >> 9) as u64
}

/// A number with a 17-bit significand.
fn pack17<F: Format>(env: &FpEnv, sign: bool, exp: i32, sig: u64) -> F {
    let unit = const { F::FRAC_BITS.checked_sub(16).expect("binary32 or binary64") };
    let sign_bit = if sign { F::SIGN } else { 0 };
    if exp > F::BIAS {
        inf(sign)
    } else if exp >= F::EMIN {
        F::from_bits(sign_bit + ((exp - F::EMIN) as u64) * (1 << F::FRAC_BITS) + (sig << unit))
    } else if env.ftz {
        zero(sign)
    } else {
        F::from_bits(sign_bit | (sig << unit) >> (F::EMIN - exp))
    }
}

/// VRCP14PS and VRCP14PD: 1/a with a relative error below 2^-14; exact for powers of two. DAZ and FTZ hold; no flags.
pub fn rcp14<F: Format>(env: &FpEnv, a: F) -> F {
    match special(a, env.daz, false) {
        Ok(result) => result,
        Err((sign, exp, 0)) => pack17(env, sign, -exp, 0x10000),
        Err((sign, exp, fraction)) => {
            let sig = on_line(RCP14[(fraction >> 58) as usize], (fraction >> 48) as u32 & 0x3ff);
            pack17(env, sign, -exp - 1, sig)
        }
    }
}

/// VRSQRT14PS and VRSQRT14PD: as [`rcp14`] for 1 / sqrt(a); exact for even powers of two.
pub fn rsqrt14<F: Format>(env: &FpEnv, a: F) -> F {
    match special(a, env.daz, true) {
        Ok(result) => result,
        Err((_, exp, 0)) if exp & 1 == 0 => pack17(env, false, -(exp >> 1), 0x10000),
        Err((_, exp, fraction)) => {
            let line = RSQRT14[(exp & 1) as usize][(fraction >> 59) as usize];
            pack17(env, false, -(exp >> 1) - 1, on_line(line, (fraction >> 49) as u32 & 0x3ff))
        }
    }
}
