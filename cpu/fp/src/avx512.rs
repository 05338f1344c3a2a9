//! The element functions of AVX-512's own operations (SDM 2C).

use crate::arith::sub;
use crate::convert::{immediate_rounding, round_scaled};
use crate::format::{Class, Format, daz, inf, invalid, is_nan, is_snan, quiet, unpack, zero};
use crate::round::{normalize_round_pack, round_pack};
use crate::{FpEnv, FpFlags};

/// VRNDSCALEPS: `imm` bits 7:4 are the fraction bits to keep, 3 suppresses PE, 2:0 is the rounding.
pub fn rndscale<F: Format>(env: &mut FpEnv, a: F, imm: u8) -> F {
    let rounding = immediate_rounding(env, imm);
    round_scaled(env, a, imm as u32 >> 4, rounding, imm & 8 != 0)
}

/// VREDUCEPS: `a` minus `a` rounded as by [`rndscale`]; 0 for infinity.
pub fn reduce<F: Format>(env: &mut FpEnv, a: F, imm: u8) -> F {
    let u = unpack(a, env.daz);
    match u.class {
        Class::SNan => {
            env.raise(FpFlags::IE);
            return quiet(a);
        }
        Class::QNan => return a,
        Class::Inf => return zero(false),
        _ => {}
    }
    let rounded = rndscale(env, a, imm | 8);
    // UE is never reported. As silicon shows, Intel's FTZ holds even while underflow is unmasked; AMD's does not.
    let ftz = env.ftz && (!env.amd || env.masks.contains(FpFlags::UE));
    let rounding = immediate_rounding(env, imm);
    let mut local = FpEnv { flags: FpFlags::empty(), masks: FpFlags::all(), ftz, rounding, ..*env };
    let result = sub(&mut local, a, rounded);
    if imm & 8 == 0 {
        env.raise(local.flags & FpFlags::PE);
    }
    result
}

/// VGETEXPPS: the unbiased exponent, as a floating-point number.
pub fn getexp<F: Format>(env: &mut FpEnv, a: F) -> F {
    let u = unpack(a, env.daz);
    if u.denormal {
        env.raise(FpFlags::DE);
    }
    match u.class {
        Class::Zero => inf(true),
        Class::Inf => inf(false),
        Class::QNan => a,
        Class::SNan => {
            env.raise(FpFlags::IE);
            quiet(a)
        }
        // Exact in every format.
        Class::Finite => normalize_round_pack(env, u.exp < 0, 127, u.exp.unsigned_abs() as u128, false),
    }
}

/// VGETMANTPS: the significand in the interval of `imm` bits 1:0 ([1,2), [1/2,2), [1/2,1), [3/4,3/2)), with the sign by bits 3:2
/// (kept; 0; or IE if negative).
pub fn getmant<F: Format>(env: &mut FpEnv, a: F, imm: u8) -> F {
    let u = unpack(a, env.daz);
    if u.is_nan() {
        if u.is_snan() {
            env.raise(FpFlags::IE);
        }
        return quiet(a);
    }
    if imm & 8 != 0 && u.sign && !u.is_zero() {
        return invalid(env);
    }
    let sign = u.sign && imm & 4 == 0;
    if u.denormal {
        env.raise(FpFlags::DE);
    }
    let (exp, sig) = match u.class {
        Class::Finite => (u.exp, u.sig),
        _ => return round_pack(env, sign, 0, 1 << 127),
    };
    let half = match imm & 3 {
        0 => false,
        1 => exp & 1 != 0,
        2 => true,
        _ => sig >> 62 & 1 != 0,
    };
    round_pack(env, sign, -(half as i32), (sig as u128) << 64)
}

/// VSCALEFPS: `a * 2^floor(b)`.
pub fn scalef<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    let (ua, ub) = (unpack(a, env.daz), unpack(b, env.daz));
    if ua.is_snan() || ub.is_snan() {
        env.raise(FpFlags::IE);
    }
    if ua.is_nan() {
        // A quiet first operand gives way to an infinite second one (SDM 2C VSCALEFPS, special cases).
        return match (ua.is_snan(), ub.class) {
            (false, Class::Inf) => {
                if ub.sign {
                    zero(false)
                } else {
                    inf(false)
                }
            }
            _ => quiet(a),
        };
    }
    if ub.is_nan() {
        return quiet(b);
    }
    match (ua.class, ub.class, ub.sign) {
        (Class::Zero, Class::Inf, false) | (Class::Inf, Class::Inf, true) => return invalid(env),
        _ => {}
    }
    // A denormal scale is only looked at through floor(): it raises nothing, as silicon shows.
    if ua.denormal {
        env.raise(FpFlags::DE);
    }
    match (ua.class, ub.class) {
        (Class::Zero, _) => return zero(ua.sign),
        (Class::Inf, _) => return inf(ua.sign),
        (_, Class::Inf) => return if ub.sign { zero(ua.sign) } else { inf(ua.sign) },
        _ => {}
    }
    // Beyond ±2^16 every result over- or underflows.
    let scale = match ub.class {
        Class::Zero => 0,
        _ if ub.exp >= 16 => 1 << 16,
        _ if ub.exp < 0 => 0,
        _ => (ub.sig >> (63 - ub.exp)) as i32,
    };
    let fraction = !ub.is_zero() && (ub.exp < 0 || (ub.exp < 16 && ub.sig << ub.exp << 1 != 0));
    let scale = if ub.sign { -scale - fraction as i32 } else { scale };
    round_pack(env, ua.sign, ua.exp + scale, (ua.sig as u128) << 64)
}

/// VFPCLASSPS: whether `a` is in one of the classes in `imm`: 0 QNaN, 1 +0, 2 -0, 3 +inf, 4 -inf, 5 denormal, 6 negative finite,
/// 7 SNaN. With DAZ a denormal is a zero. Raises nothing.
pub fn fpclass<F: Format>(env: &FpEnv, a: F, imm: u8) -> bool {
    let u = unpack(a, env.daz);
    let class = match (u.class, u.sign) {
        (Class::QNan, _) => 0x01,
        (Class::Zero, false) => 0x02,
        (Class::Zero, true) => 0x04,
        (Class::Inf, false) => 0x08,
        (Class::Inf, true) => 0x10,
        (Class::Finite, sign) => (u.denormal as u8) << 5 | (sign as u8) << 6,
        (Class::SNan, _) => 0x80,
    };
    class & imm != 0
}

/// VFIXUPIMMPS: the replacement of `a` that `table` asks for; `destination` is the old element. `imm` names the operand classes
/// that raise ZE and IE (SDM 2C VFIXUPIMMPS).
pub fn fixupimm<F: Format>(env: &mut FpEnv, destination: F, a: F, table: u32, imm: u8) -> F {
    let a = daz(env, a);
    let negative = a.to_bits() & F::SIGN != 0;
    let magnitude = a.to_bits() & !F::SIGN;
    let one = (F::BIAS as u64) << F::FRAC_BITS;
    // Token and the imm bits that report it as ZE or IE.
    let (token, zero_report, invalid_report) = if is_snan(a) {
        (1, 0, 0x10)
    } else if is_nan(a) {
        (0, 0, 0)
    } else if magnitude == 0 {
        (2, 0x01, 0x02)
    } else if a.to_bits() == one {
        (3, 0x04, 0x08)
    } else if magnitude == F::INF {
        if negative { (4, 0, 0x20) } else { (5, 0, 0x80) }
    } else if negative {
        (6, 0, 0x40)
    } else {
        (7, 0, 0)
    };
    if imm & zero_report != 0 {
        env.raise(FpFlags::ZE);
    }
    if imm & invalid_report != 0 {
        env.raise(FpFlags::IE);
    }
    let of_sign = if negative { F::SIGN } else { 0 };
    // The format's nearest values of 1/2, 90 and pi/2, by their binary64 bits, exact or rounded to nearest.
    let constant = |binary64: u64| {
        let mut nearest = FpEnv::from_mxcsr(FpEnv::MXCSR_DEFAULT);
        crate::convert::convert::<u64, F>(&mut nearest, binary64).to_bits()
    };
    F::from_bits(match table >> (4 * token) & 15 {
        0 => return destination,
        1 => return a,
        2 => return if is_nan(a) { quiet(a) } else { F::from_bits(a.to_bits() | F::INF | F::QUIET) },
        3 => F::INDEFINITE,
        4 => F::SIGN | F::INF,
        5 => F::INF,
        6 => of_sign | F::INF,
        7 => F::SIGN,
        8 => 0,
        9 => F::SIGN | one,
        10 => one,
        11 => constant(0.5f64.to_bits()),
        12 => constant(90f64.to_bits()),
        13 => constant(core::f64::consts::FRAC_PI_2.to_bits()),
        14 => F::INF - 1,
        _ => F::SIGN | (F::INF - 1),
    })
}
