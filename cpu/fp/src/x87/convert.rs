//! Conversions between F80 and binary32, binary64, integers and packed decimal.

use super::{X87Env, unpack1};
use crate::f80::F80;
use crate::format::{Class, Format, unpack};
use crate::round::cut;
use crate::{FpEnv, FpFlags, Integer, Rounding};

/// FLD m32fp and m64fp: exact but for an SNaN's being made quiet. Raises IE and DE.
pub fn from_float<F: Format>(env: &mut X87Env, a: F) -> F80 {
    let u = unpack(a, false);
    env.denormal(u.denormal);
    let exact = F80::from_exact(a);
    if u.is_snan() {
        env.raise(FpFlags::IE);
        return exact.quiet();
    }
    exact
}

/// Runs `f`, an operation on F80, with a memory operand that is binary32 or binary64: FADD m32fp and its kin. A denormal operand
/// raises DE unless `f` finds something that comes before it (SDM 1 8.5: a NaN, IE or ZE).
pub fn with_float<F: Format, R>(
    env: &mut X87Env,
    st0: F80,
    memory: F,
    f: impl FnOnce(&mut X87Env, F80, F80) -> R,
) -> R {
    let result = f(env, st0, F80::from_exact(memory));
    let nan = st0.unpack().is_none_or(|u| u.is_nan());
    if unpack(memory, false).denormal && !nan && !env.flags.intersects(FpFlags::IE | FpFlags::ZE) {
        env.raise(FpFlags::DE);
        if !env.stores() {
            env.flags &= FpFlags::PRE_COMPUTATION;
            env.c1 = false;
        }
    }
    result
}

/// FST m32fp and m64fp: rounds to `F`, with IE, OE, UE and PE. Store the result if [`X87Env::stores_to_memory`].
pub fn to_float<F: Format>(env: &mut X87Env, a: F80) -> F {
    let u = match unpack1(env, a) {
        Ok(operand) => operand,
        Err(nan) => {
            let sign = if nan.sign() { F::SIGN } else { 0 };
            return F::from_bits(sign | F::INF | (nan.sig & !(1 << 63)) >> (63 - F::FRAC_BITS));
        }
    };
    let sign = if u.sign { F::SIGN } else { 0 };
    match u.class {
        Class::Finite => {
            let mut sse = FpEnv {
                rounding: env.rounding,
                daz: false,
                ftz: false,
                masks: env.masks,
                flags: FpFlags::empty(),
                amd: false,
                inexact_known: false,
            };
            let result: F = crate::round::round_pack(&mut sse, u.sign, u.exp, (u.sig as u128) << 64);
            // Unmasked overflow and underflow leave the memory alone and say nothing about the rounding.
            if !env.masks.contains(sse.flags & (FpFlags::OE | FpFlags::UE)) {
                env.raise(sse.flags - FpFlags::PE);
                return result;
            }
            env.raise(sse.flags);
            // Rounded up if the result's magnitude is greater.
            if sse.flags.contains(FpFlags::PE) {
                let back = unpack(result, false);
                env.c1 = back.is_inf() || (!back.is_zero() && (back.exp, back.sig) > (u.exp, u.sig));
            }
            result
        }
        Class::Inf => F::from_bits(sign | F::INF),
        _ => F::from_bits(sign),
    }
}

/// FIST, FISTP with `rounding` = `env.rounding`, and FISTTP with [`Rounding::Zero`]. Raises IE and PE.
pub fn to_integer<I: Integer>(env: &mut X87Env, a: F80, rounding: Rounding) -> I {
    match to_wide_integer(a, rounding).and_then(|(value, cut)| Some((I::from_wide(value)?, cut))) {
        Some((value, cut)) => {
            if cut.0 {
                env.raise(FpFlags::PE);
                env.c1 = cut.1;
            }
            value
        }
        None => {
            env.raise(FpFlags::IE);
            I::INDEFINITE
        }
    }
}

/// The integer nearest to `a` by `rounding`, whether that is inexact, and whether it was rounded up; `None` beyond ±2^65 and for what is
/// not a number.
fn to_wide_integer(a: F80, rounding: Rounding) -> Option<(i128, (bool, bool))> {
    let u = a.unpack()?;
    match u.class {
        Class::Zero => Some((0, (false, false))),
        Class::Finite if u.exp < 65 => {
            // value = sig * 2^(exp - 126); magnitudes below 1/4 round as 1/4 does.
            let cut = cut(u.sign, (u.sig as u128) << 63, (126 - u.exp.max(-3)) as u32, rounding);
            let magnitude = cut.kept as i128;
            Some((if u.sign { -magnitude } else { magnitude }, (cut.inexact, cut.up)))
        }
        _ => None,
    }
}

/// FILD: exact.
pub fn from_integer<I: Integer>(value: I) -> F80 {
    let value = value.to_wide();
    let magnitude = value.unsigned_abs() as u64;
    if magnitude == 0 {
        return F80::ZERO;
    }
    let shift = magnitude.leading_zeros();
    let exp = crate::f80::BIAS as u16 + 63 - shift as u16;
    F80 { sig: magnitude << shift, sign_exp: exp }.with_sign(value < 0)
}

/// "Packed BCD indefinite" (SDM 1 table 4-4).
pub const BCD_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// FBSTP: 18 decimal digits, two a byte, least significant first, and the sign in bit 79. Raises IE and PE.
pub fn to_bcd(env: &mut X87Env, a: F80) -> [u8; 10] {
    let limit = 1_000_000_000_000_000_000;
    match to_wide_integer(a, env.rounding) {
        Some((value, (inexact, up))) if value.abs() < limit => {
            if inexact {
                env.raise(FpFlags::PE);
                env.c1 = up;
            }
            let mut bytes = [0; 10];
            let mut rest = value.unsigned_abs() as u64;
            for byte in &mut bytes[..9] {
                *byte = ((rest % 10) | ((rest / 10 % 10) << 4)) as u8;
                rest /= 100;
            }
            bytes[9] = (a.sign() as u8) << 7;
            bytes
        }
        _ => {
            env.raise(FpFlags::IE);
            BCD_INDEFINITE
        }
    }
}

/// FBLD: exact. Digits above 9 count with their value; the manual leaves them undefined (SDM 2A FBLD).
pub fn from_bcd(bytes: [u8; 10]) -> F80 {
    let magnitude = bytes[..9].iter().rev().fold(0u64, |sum, byte| {
        sum.wrapping_mul(100).wrapping_add((byte >> 4) as u64 * 10 + (byte & 15) as u64)
    });
    from_integer(magnitude).with_sign(bytes[9] & 0x80 != 0)
}
