//! FPREM and FPREM1.

use super::{X87Env, normalize_round_pack, unpack2};
use crate::f80::F80;

/// The result of FPREM or FPREM1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remainder {
    /// The new ST(0).
    pub value: F80,
    /// C2: the reduction is not complete. The quotient bits are 0 then.
    pub partial: bool,
    /// The low three bits of the quotient: bit 0 goes to C1, bit 1 to C3, bit 2 to C0. `None` for NaNs and invalid operands,
    /// which leave C0 and C3 as they are.
    pub quotient: Option<u8>,
}

/// FPREM: the remainder of `a / b` with the quotient cut off.
pub fn fprem(env: &mut X87Env, a: F80, b: F80) -> Remainder {
    remainder(env, a, b, false)
}

/// FPREM1: the remainder of `a / b` with the quotient rounded to nearest, as IEEE 754 has it.
pub fn fprem1(env: &mut X87Env, a: F80, b: F80) -> Remainder {
    remainder(env, a, b, true)
}

fn remainder(env: &mut X87Env, a: F80, b: F80, nearest: bool) -> Remainder {
    let none = |value| Remainder { value, partial: false, quotient: None };
    let whole = |value| Remainder { value, partial: false, quotient: Some(0) };
    let (ua, ub) = match unpack2(env, a, b) {
        Ok(operands) => operands,
        Err(result) => return none(result),
    };
    if ua.is_inf() || ub.is_zero() {
        return none(env.invalid());
    }
    env.denormal(ua.denormal || ub.denormal);
    let difference = ua.exp - ub.exp;
    if !env.stores() {
        return none(a);
    }
    if ub.is_inf() && !env.amd {
        return whole(a.canonical());
    }
    if ua.is_zero() || ub.is_inf() || difference < -1 {
        return whole(finish(env, ua.sign, ua.exp, ua.sig as u128));
    }
    let partial = difference >= 64;
    // A partial reduction cuts the exponent's difference by 32 to 63, to a multiple of 32 (SDM 2A FPREM leaves it open).
    let steps = if partial { (difference & 31) + 32 } else { difference.max(0) };
    // The dividend in units of the divisor's last place, scaled down by the steps not taken.
    let mut rest = ua.sig as u128;
    let mut exp = ub.exp;
    let mut quotient = 0u64;
    let divisor = (ub.sig as u128) << if difference < 0 { 1 } else { 0 };
    if difference < 0 {
        exp -= 1;
    }
    for step in 0..=steps {
        if step > 0 {
            rest <<= 1;
        }
        quotient <<= 1;
        if rest >= divisor {
            rest -= divisor;
            quotient |= 1;
        }
    }
    if partial {
        exp += difference - steps;
    }
    let mut sign = ua.sign;
    if nearest && !partial && (2 * rest > divisor || (2 * rest == divisor && quotient & 1 != 0)) {
        rest = divisor - rest;
        sign = !sign;
        quotient = quotient.wrapping_add(1);
    }
    let value = if rest == 0 { F80::zero(ua.sign) } else { finish(env, sign, exp, rest) };
    Remainder { value, partial, quotient: Some(if partial { 0 } else { quotient as u8 & 7 }) }
}

/// Packs `sig * 2^(exp - 63)`, which is exact.
fn finish(env: &mut X87Env, sign: bool, exp: i32, sig: u128) -> F80 {
    if sig == 0 { F80::zero(sign) } else { normalize_round_pack(env, sign, exp + 64, sig, 64) }
}
