//! F2XM1, FYL2X, FYL2XP1.

use super::wide::{Wide, exp_m1, two_artanh};
use super::{X87Env, unpack1, unpack2};
use crate::FpFlags;
use crate::f80::F80;
use crate::format::{Class, Unpacked};

/// `2^a - 1` for |a| <= 1; other operands give an undefined result (SDM 2A F2XM1), here as on silicon `a` itself and PE.
pub fn f2xm1(env: &mut X87Env, a: F80) -> F80 {
    let u = match unpack1(env, a) {
        Ok(operand) => operand,
        Err(nan) => return nan,
    };
    match u.class {
        Class::Zero => return a,
        Class::Inf => return if u.sign { F80::ONE.negate() } else { a },
        _ => {}
    }
    env.denormal(u.denormal);
    if u.exp >= 0 {
        // Even the exact results of 1 and -1 count as inexact.
        let half = F80 { sign_exp: F80::ONE.sign_exp - 1, ..F80::ONE };
        let minus_one = u.exp == 0 && u.sig == 1 << 63 && u.sign;
        return inexact(env, if minus_one { half.negate() } else { a });
    }
    exp_m1(Wide::from_unpacked(&u).mul(Wide::LN_2)).round(env, true)
}

/// What silicon makes of an operand that it does not compute with: inexact.
fn inexact(env: &mut X87Env, a: F80) -> F80 {
    if env.stores() {
        env.raise(FpFlags::PE);
    }
    a
}

/// log2 of a positive number other than 1.
fn log2(x: Wide) -> Wide {
    if x.sig == 1 << 127 {
        // Silicon takes the logarithm of a power of two for inexact, and for a little more than it is.
        return Wide::from_int(x.exp).add(Wide::ONE.scaled(-120));
    }
    // x = m * 2^exp with m in [sqrt(1/2), sqrt(2)).
    const SQRT_2: u128 = 0xb504_f333_f9de_6484 << 64;
    let up = (x.sig >= SQRT_2) as i32;
    let m = Wide { exp: -up, ..x };
    let s = m.sub(Wide::ONE).div(m.add(Wide::ONE));
    Wide::from_int(x.exp + up).add(two_artanh(s).mul(Wide::LOG2_E))
}

/// `y * log`, for finite nonzero factors.
fn scaled(env: &mut X87Env, y: &Unpacked, log: Wide) -> F80 {
    Wide::from_unpacked(y).mul(log).round(env, true)
}

/// `y * log2(x)`.
pub fn fyl2x(env: &mut X87Env, x: F80, y: F80) -> F80 {
    let (ux, uy) = match unpack2(env, x, y) {
        Ok(operands) => operands,
        Err(result) => return result,
    };
    // The sign of the logarithm, or no logarithm but -infinity or 0.
    if ux.sign && !ux.is_zero() {
        return env.invalid();
    }
    if ux.is_zero() {
        return match uy.class {
            Class::Zero => env.invalid(),
            Class::Inf => F80::infinity(!uy.sign),
            _ => {
                env.raise(FpFlags::ZE);
                F80::infinity(!uy.sign)
            }
        };
    }
    if ux.is_inf() {
        if uy.is_zero() {
            return env.invalid();
        }
        env.denormal(uy.denormal);
        return F80::infinity(uy.sign);
    }
    let one = ux.exp == 0 && ux.sig == 1 << 63;
    let below = ux.exp < 0;
    if uy.is_inf() && one {
        return env.invalid();
    }
    env.denormal(ux.denormal || uy.denormal);
    match uy.class {
        Class::Inf => F80::infinity(uy.sign != below),
        _ if one => F80::zero(uy.sign),
        Class::Zero => F80::zero(uy.sign != below),
        _ => scaled(env, &uy, log2(Wide::from_unpacked(&ux))),
    }
}

/// `y * log2(x + 1)` for |x| < 1 - sqrt(1/2); beyond, where the manual leaves the result undefined (SDM 2A FYL2XP1), it is the
/// same function as far as that exists.
pub fn fyl2xp1(env: &mut X87Env, x: F80, y: F80) -> F80 {
    let (ux, uy) = match unpack2(env, x, y) {
        Ok(operands) => operands,
        Err(result) => return result,
    };
    let sign = ux.sign != uy.sign;
    if ux.is_inf() {
        if ux.sign || uy.is_zero() {
            return env.invalid();
        }
        env.denormal(uy.denormal);
        return F80::infinity(uy.sign);
    }
    if uy.is_inf() && ux.is_zero() {
        return env.invalid();
    }
    env.denormal(ux.denormal || uy.denormal);
    if uy.is_inf() {
        return F80::infinity(sign);
    }
    if ux.is_zero() || uy.is_zero() {
        return F80::zero(sign);
    }
    if ux.sign && ux.exp >= 0 {
        return inexact(env, x);
    }
    let x = Wide::from_unpacked(&ux);
    let log = if ux.exp < -2 || (ux.exp == -2 && ux.sig < 0x95f6_1998_0c43_36f7) {
        let s = x.div(x.add(Wide::from_int(2)));
        two_artanh(s).mul(Wide::LOG2_E)
    } else {
        log2(x.add(Wide::ONE))
    };
    scaled(env, &uy, log)
}
