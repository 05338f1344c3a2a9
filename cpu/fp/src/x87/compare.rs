//! FCOM, FUCOM, FTST and FXAM.

use super::X87Env;
use crate::f80::F80;
use crate::format::{Class, Unpacked};
use crate::{FpFlags, Relation};

/// Compares `a` with `b`: FCOM (and FTST with +0) if `signaling`, so that a QNaN raises IE, else FUCOM.
pub fn compare(env: &mut X87Env, a: F80, b: F80, signaling: bool) -> Relation {
    let (Some(ua), Some(ub)) = (a.unpack(), b.unpack()) else {
        env.raise(FpFlags::IE);
        return Relation::Unordered;
    };
    if ua.is_nan() || ub.is_nan() {
        if signaling || ua.is_snan() || ub.is_snan() {
            env.raise(FpFlags::IE);
        }
        return Relation::Unordered;
    }
    env.denormal(ua.denormal || ub.denormal);
    let key = |u: &Unpacked| match u.class {
        Class::Zero => (0, 0, 0),
        _ => {
            let exp = if u.is_inf() { i64::MAX / 2 } else { u.exp as i64 + 0x8000 };
            if u.sign { (-1, -exp, -(u.sig as i128)) } else { (1, exp, u.sig as i128) }
        }
    };
    match key(&ua).cmp(&key(&ub)) {
        core::cmp::Ordering::Less => Relation::Less,
        core::cmp::Ordering::Equal => Relation::Equal,
        core::cmp::Ordering::Greater => Relation::Greater,
    }
}

/// What FXAM finds in a register that is not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Examined {
    /// Pseudo-NaN, pseudo-infinity or unnormal.
    Unsupported,
    /// NaN.
    Nan,
    /// Normal finite number.
    Normal,
    /// Infinity.
    Infinity,
    /// Zero.
    Zero,
    /// Denormal or pseudo-denormal number.
    Denormal,
}

/// FXAM's class of `a`; C1 is the sign.
pub fn examine(a: F80) -> Examined {
    match a.unpack() {
        None => Examined::Unsupported,
        Some(u) => match u.class {
            Class::QNan | Class::SNan => Examined::Nan,
            Class::Inf => Examined::Infinity,
            Class::Zero => Examined::Zero,
            Class::Finite if u.denormal => Examined::Denormal,
            Class::Finite => Examined::Normal,
        },
    }
}
