//! Rounding an exact value to a format, with overflow, underflow and inexactness.

use crate::format::{Format, inf, zero};
use crate::{FpEnv, FpFlags, Rounding};

/// A significand cut to fewer bits.
pub(crate) struct Cut {
    /// The kept bits as an integer; rounding up may have carried it to one bit more.
    pub kept: u128,
    /// The dropped bits were not all zero.
    pub inexact: bool,
    /// The magnitude was rounded up.
    pub up: bool,
}

/// Drops the `drop` (at least 1) low bits of `sig`, rounding the value `sig` with `sign` by `mode`.
pub(crate) fn cut(sign: bool, sig: u128, drop: u32, mode: Rounding) -> Cut {
    let (kept, half, rest) = match drop {
        ..=127 => (sig >> drop, sig >> (drop - 1) & 1 != 0, sig & ((1 << (drop - 1)) - 1) != 0),
        128 => (0, sig >> 127 != 0, sig << 1 != 0),
        _ => (0, false, sig != 0),
    };
    let inexact = half || rest;
    let up = match mode {
        Rounding::NearestEven => half && (rest || kept & 1 != 0),
        Rounding::Down => sign && inexact,
        Rounding::Up => !sign && inexact,
        Rounding::Zero => false,
    };
    Cut { kept: kept + up as u128, inexact, up }
}

/// The result of an overflow in `F` (SDM 1 table 4-10).
pub(crate) fn overflowed<F: Format>(sign: bool, mode: Rounding) -> F {
    let to_inf = match mode {
        Rounding::NearestEven => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    let infinity: F = inf(sign);
    if to_inf { infinity } else { F::from_bits(infinity.to_bits() - 1) }
}

/// Rounds `sig * 2^(exp - 127)`, bit 127 of `sig` set, to `F`, and raises OE, UE and PE. Bit 0 of `sig` may stand for all
/// lower bits ("sticky").
pub(crate) fn round_pack<F: Format>(env: &mut FpEnv, sign: bool, exp: i32, sig: u128) -> F {
    let drop = 127 - F::FRAC_BITS;
    let unbounded = cut(sign, sig, drop, env.rounding);
    // The exponent after rounding as if its range were unbounded decides overflow and tininess (SDM 1 4.9.1.5).
    let rounded_exp = exp + (unbounded.kept >> (F::FRAC_BITS + 1)) as i32;
    if rounded_exp > F::BIAS {
        // Masked overflow is always inexact; unmasked, PE tells of the rounding (SDM 1 4.9.1.4).
        let inexact = unbounded.inexact || env.masks.contains(FpFlags::OE);
        env.raise(FpFlags::OE | if inexact { FpFlags::PE } else { FpFlags::empty() });
        return overflowed(sign, env.rounding);
    }
    let sign_bit = if sign { F::SIGN } else { 0 };
    if exp >= F::EMIN {
        if unbounded.inexact {
            env.raise(FpFlags::PE);
        }
        let field = (exp - F::EMIN) as u64;
        return F::from_bits(sign_bit + (field << F::FRAC_BITS) + unbounded.kept as u64);
    }
    let tiny = rounded_exp < F::EMIN;
    let masked = env.masks.contains(FpFlags::UE);
    if tiny && masked && env.ftz {
        env.raise(FpFlags::UE | FpFlags::PE);
        return zero(sign);
    }
    let denormal = cut(sign, sig, drop.saturating_add((F::EMIN - exp) as u32), env.rounding);
    // Unmasked underflow reports the inexactness of the rounding with unbounded exponent.
    let inexact = if tiny && !masked { unbounded.inexact } else { denormal.inexact };
    if inexact {
        env.raise(FpFlags::PE);
    }
    if tiny && (inexact || !masked) {
        env.raise(FpFlags::UE);
    }
    F::from_bits(sign_bit + denormal.kept as u64)
}

/// As [`round_pack`] for a `sig` that is not normalised; zero is exact and gets `zero_sign`.
pub(crate) fn normalize_round_pack<F: Format>(
    env: &mut FpEnv,
    sign: bool,
    exp: i32,
    sig: u128,
    zero_sign: bool,
) -> F {
    if sig == 0 {
        return zero(zero_sign);
    }
    let shift = sig.leading_zeros();
    round_pack(env, sign, exp - shift as i32, sig << shift)
}

/// `sig >> shift`, with bit 0 set if a dropped bit was.
pub(crate) fn shift_right_jam(sig: u128, shift: u32) -> u128 {
    match shift {
        0 => sig,
        1..=127 => sig >> shift | (sig & ((1 << shift) - 1) != 0) as u128,
        _ => (sig != 0) as u128,
    }
}
