//! FSCALE, FXTRACT and FRNDINT.

use super::{X87Env, normalize_round_pack, round_pack, unpack1, unpack2};
use crate::FpFlags;
use crate::f80::{BIAS, F80};
use crate::format::Class;
use crate::round::cut;

/// `a * 2^trunc(b)`.
pub fn fscale(env: &mut X87Env, a: F80, b: F80) -> F80 {
    let (ua, ub) = match unpack2(env, a, b) {
        Ok(operands) => operands,
        Err(result) => return result,
    };
    match (ua.class, ub.class, ub.sign) {
        (Class::Zero, Class::Inf, false) | (Class::Inf, Class::Inf, true) => return env.invalid(),
        _ => {}
    }
    env.denormal(ua.denormal || ub.denormal);
    match (ua.class, ub.class) {
        (Class::Finite, Class::Zero) if env.amd => {
            return round_pack(env, ua.sign, ua.exp, (ua.sig as u128) << 64, 64);
        }
        (Class::Zero | Class::Inf, _) | (_, Class::Zero) => return a.canonical(),
        (_, Class::Inf) => return if ub.sign { F80::zero(ua.sign) } else { F80::infinity(ua.sign) },
        _ => {}
    }
    // 2^17 takes any number beyond any response to overflow or underflow.
    let scale = match ub.exp {
        ..0 => 0,
        exp @ 0..17 => (ub.sig >> (63 - exp)) as i32,
        _ => 1 << 17,
    };
    let exp = ua.exp + if ub.sign { -scale } else { scale };
    round_pack(env, ua.sign, exp, (ua.sig as u128) << 64, 64)
}

/// The exponent of `a` as a number, and its significand in [1, 2) with the sign. FXTRACT replaces ST(0) by the first and
/// pushes the second.
pub fn fxtract(env: &mut X87Env, a: F80) -> (F80, F80) {
    let u = match unpack1(env, a) {
        Ok(operand) => operand,
        Err(nan) => return (nan, nan),
    };
    match u.class {
        Class::Zero => {
            env.raise(FpFlags::ZE);
            (F80::infinity(true), a)
        }
        Class::Inf => (F80::INFINITY, a),
        _ => {
            env.denormal(u.denormal);
            let significand = F80 { sig: u.sig, sign_exp: BIAS as u16 }.with_sign(u.sign);
            (super::from_integer(u.exp), significand)
        }
    }
}

/// `a` rounded to an integer.
pub fn frndint(env: &mut X87Env, a: F80) -> F80 {
    let u = match unpack1(env, a) {
        Ok(operand) => operand,
        Err(nan) => return nan,
    };
    if u.class != Class::Finite {
        return a;
    }
    env.denormal(u.denormal);
    if u.exp >= 63 || !env.stores() {
        return a;
    }
    let cut = cut(u.sign, (u.sig as u128) << 63, (126 - u.exp.max(-3)) as u32, env.rounding);
    if cut.inexact {
        env.raise(FpFlags::PE);
        env.c1 = cut.up;
    }
    if cut.kept == 0 { F80::zero(u.sign) } else { normalize_round_pack(env, u.sign, 127, cut.kept, 64) }
}
