//! FADD, FSUB, FMUL, FDIV, FSQRT.

use super::{X87Env, normalize_round_pack, round_pack, unpack1, unpack2};
use crate::arith::{add_magnitudes, div_sig, sqrt_sig};
use crate::f80::F80;
use crate::{FpFlags, Rounding};

/// `a + b`.
pub fn fadd(env: &mut X87Env, a: F80, b: F80) -> F80 {
    add_signed(env, a, b, false)
}

/// `a - b`.
pub fn fsub(env: &mut X87Env, a: F80, b: F80) -> F80 {
    add_signed(env, a, b, true)
}

fn add_signed(env: &mut X87Env, a: F80, b: F80, negate_b: bool) -> F80 {
    let (ua, mut ub) = match unpack2(env, a, b) {
        Ok(operands) => operands,
        Err(result) => return result,
    };
    ub.sign ^= negate_b;
    if ua.is_inf() && ub.is_inf() && ua.sign != ub.sign {
        return env.invalid();
    }
    env.denormal(ua.denormal || ub.denormal);
    if ua.is_inf() || ub.is_inf() {
        return F80::infinity(if ua.is_inf() { ua.sign } else { ub.sign });
    }
    let zero_sign = if ua.is_zero() && ub.is_zero() && ua.sign == ub.sign {
        ua.sign
    } else {
        env.rounding == Rounding::Down
    };
    let parts = |u: &crate::format::Unpacked| (u.sign, u.exp + 1, (u.sig as u128) << 63);
    let (sign, exp, sig) = match (ua.is_zero(), ub.is_zero()) {
        (false, false) => add_magnitudes(parts(&ua), parts(&ub)),
        (false, true) => parts(&ua),
        (true, false) => parts(&ub),
        (true, true) => return F80::zero(zero_sign),
    };
    if sig == 0 {
        return F80::zero(zero_sign);
    }
    normalize_round_pack(env, sign, exp, sig, env.precision.bits())
}

/// `a * b`.
pub fn fmul(env: &mut X87Env, a: F80, b: F80) -> F80 {
    let (ua, ub) = match unpack2(env, a, b) {
        Ok(operands) => operands,
        Err(result) => return result,
    };
    let sign = ua.sign != ub.sign;
    if (ua.is_inf() && ub.is_zero()) || (ua.is_zero() && ub.is_inf()) {
        return env.invalid();
    }
    env.denormal(ua.denormal || ub.denormal);
    if ua.is_inf() || ub.is_inf() {
        return F80::infinity(sign);
    }
    if ua.is_zero() || ub.is_zero() {
        return F80::zero(sign);
    }
    let sig = ua.sig as u128 * ub.sig as u128;
    normalize_round_pack(env, sign, ua.exp + ub.exp + 1, sig, env.precision.bits())
}

/// `a / b`.
pub fn fdiv(env: &mut X87Env, a: F80, b: F80) -> F80 {
    let (ua, ub) = match unpack2(env, a, b) {
        Ok(operands) => operands,
        Err(result) => return result,
    };
    let sign = ua.sign != ub.sign;
    if (ua.is_inf() && ub.is_inf()) || (ua.is_zero() && ub.is_zero()) {
        return env.invalid();
    }
    if ub.is_zero() && !ua.is_inf() {
        env.raise(FpFlags::ZE);
        return F80::infinity(sign);
    }
    env.denormal(ua.denormal || ub.denormal);
    if ua.is_inf() {
        return F80::infinity(sign);
    }
    if ua.is_zero() || ub.is_inf() {
        return F80::zero(sign);
    }
    let (adjust, sig) = div_sig(ua.sig, ub.sig);
    round_pack(env, sign, ua.exp - ub.exp + adjust, sig, env.precision.bits())
}

/// The square root of `a`.
pub fn fsqrt(env: &mut X87Env, a: F80) -> F80 {
    let u = match unpack1(env, a) {
        Ok(operand) => operand,
        Err(result) => return result,
    };
    if u.is_zero() {
        return a;
    }
    if u.sign {
        return env.invalid();
    }
    env.denormal(u.denormal);
    if u.is_inf() {
        return a;
    }
    let (exp, sig) = sqrt_sig(u.exp, u.sig);
    round_pack(env, false, exp, sig, env.precision.bits())
}
