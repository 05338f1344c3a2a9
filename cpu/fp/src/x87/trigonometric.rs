//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN.

use super::wide::{Wide, arctan_ratio, cos, sin};
use super::{X87Env, unpack1, unpack2};
use crate::f80::F80;
use crate::format::{Class, Unpacked};

/// pi * 2^64, cut off to 66 bits: what the x87 reduces arguments with (SDM 1 8.3.8).
const PI_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// Below 2^-68 silicon takes sine and tangent for the angle and the cosine for 1.
const SINE_IS_ANGLE: i32 = -69;
/// Below 2^-33 it finds the tangent a little less than the angle, which it is not.
const TANGENT_BELOW_ANGLE: i32 = -34;
/// Below 2^-40 it takes the arc tangent for the ratio.
const ARC_TANGENT_IS_RATIO: i32 = -41;

/// An argument reduced to at most pi/4 by subtracting a multiple of pi/2.
struct Reduced {
    /// What is left of |x|.
    rest: Wide,
    /// The multiple, modulo 4.
    quadrant: u32,
}

/// Reduces |x|, exactly, with the 66-bit pi.
fn reduce(u: &Unpacked) -> Reduced {
    if u.exp < -2 {
        return Reduced { rest: Wide::from_unpacked(u).with_sign(false), quadrant: 0 };
    }
    // In units of 2^-65 pi/2 is PI_66 and |x| is sig * 2^(exp + 2).
    let (mut rest, mut quadrant) = (u.sig as u128, 0);
    for _ in 0..u.exp + 2 {
        rest <<= 1;
        quadrant <<= 1;
        if rest >= PI_66 {
            rest -= PI_66;
            quadrant |= 1;
        }
    }
    let above = 2 * rest > PI_66;
    let (rest, quadrant) = if above { (PI_66 - rest, quadrant + 1) } else { (rest, quadrant) };
    Reduced { rest: Wide::normalized(above, 127 - 65, rest), quadrant: quadrant & 3 }
}

/// What the four instructions do alike: the operand to compute with, or the result of NaN and infinity; `None` for an operand out
/// of range, which sets C2 and changes nothing.
enum Operand {
    Number(Unpacked),
    Result(F80),
    OutOfRange,
}

fn operand(env: &mut X87Env, a: F80) -> Operand {
    match unpack1(env, a) {
        Err(nan) => Operand::Result(nan),
        Ok(u) if u.is_inf() => Operand::Result(env.invalid()),
        Ok(u) if u.class == Class::Finite && u.exp >= 63 => Operand::OutOfRange,
        Ok(u) => {
            env.denormal(u.denormal);
            Operand::Number(u)
        }
    }
}

fn sin_of(env: &mut X87Env, u: &Unpacked) -> F80 {
    if u.is_zero() {
        return F80::zero(u.sign);
    }
    if u.exp <= SINE_IS_ANGLE {
        return Wide::from_unpacked(u).round_nearby(env);
    }
    let r = reduce(u);
    let value = if r.quadrant & 1 == 0 { sin(r.rest) } else { cos(r.rest) };
    value.with_sign(value.sign ^ (r.quadrant & 2 != 0) ^ u.sign).round(env, true)
}

fn cos_of(env: &mut X87Env, u: &Unpacked) -> F80 {
    if u.is_zero() {
        return F80::ONE;
    }
    if u.exp <= SINE_IS_ANGLE {
        return Wide::ONE.round_nearby(env);
    }
    let r = reduce(u);
    let value = if r.quadrant & 1 == 0 { cos(r.rest) } else { sin(r.rest) };
    value.with_sign(value.sign ^ (r.quadrant == 1 || r.quadrant == 2)).round(env, true)
}

/// The sine of `a`; `None` if |a| >= 2^63 (C2 is set and nothing changes).
pub fn fsin(env: &mut X87Env, a: F80) -> Option<F80> {
    match operand(env, a) {
        Operand::Number(u) => Some(sin_of(env, &u)),
        Operand::Result(result) => Some(result),
        Operand::OutOfRange => None,
    }
}

/// The cosine of `a`, as [`fsin`].
pub fn fcos(env: &mut X87Env, a: F80) -> Option<F80> {
    match operand(env, a) {
        Operand::Number(u) => Some(cos_of(env, &u)),
        Operand::Result(result) => Some(result),
        Operand::OutOfRange => None,
    }
}

/// The sine, which replaces ST(0), and the cosine, which is pushed, as [`fsin`].
pub fn fsincos(env: &mut X87Env, a: F80) -> Option<(F80, F80)> {
    match operand(env, a) {
        Operand::Number(u) => {
            let sine = sin_of(env, &u);
            env.c1 = false;
            Some((sine, cos_of(env, &u)))
        }
        Operand::Result(result) => Some((result, result)),
        Operand::OutOfRange => None,
    }
}

/// The tangent, which replaces ST(0), and what is pushed: 1, or the NaN again. As [`fsin`].
pub fn fptan(env: &mut X87Env, a: F80) -> Option<(F80, F80)> {
    match operand(env, a) {
        Operand::Number(u) if u.is_zero() => Some((a, F80::ONE)),
        Operand::Number(u) if u.exp <= SINE_IS_ANGLE => {
            Some((Wide::from_unpacked(&u).round_nearby(env), F80::ONE))
        }
        Operand::Number(u) => {
            let r = reduce(&u);
            let value = match r.quadrant & 1 {
                0 if r.rest.exp <= TANGENT_BELOW_ANGLE => r.rest.sub(r.rest.scaled(-100)),
                0 => sin(r.rest).div(cos(r.rest)),
                _ => {
                    let cotangent = cos(r.rest).div(sin(r.rest));
                    cotangent.with_sign(!cotangent.sign)
                }
            };
            Some((value.with_sign(value.sign ^ u.sign).round(env, true), F80::ONE))
        }
        Operand::Result(result) => Some((result, result)),
        Operand::OutOfRange => None,
    }
}

/// The angle of the point (`x`, `y`): arctan(y/x) with the quadrant from both signs (SDM 2A table 3-30).
pub fn fpatan(env: &mut X87Env, x: F80, y: F80) -> F80 {
    let (ux, uy) = match unpack2(env, x, y) {
        Ok(operands) => operands,
        Err(result) => return result,
    };
    env.denormal(ux.denormal || uy.denormal);
    let sign = uy.sign;
    let quarters = |n: i32| Wide::PI.mul(Wide::from_int(n)).scaled(-2);
    let angle = match (ux.class, uy.class) {
        (Class::Inf, Class::Inf) => quarters(if ux.sign { 3 } else { 1 }),
        (_, Class::Inf) => quarters(2),
        (Class::Inf, _) | (_, Class::Zero) => {
            if !ux.sign {
                return F80::zero(sign);
            }
            quarters(4)
        }
        (Class::Zero, _) => quarters(2),
        _ => {
            let (x, y) =
                (Wide::from_unpacked(&ux).with_sign(false), Wide::from_unpacked(&uy).with_sign(false));
            let steep = (y.exp, y.sig) > (x.exp, x.sig);
            let angle = if steep { quarters(2).sub(arctan_ratio(x, y)) } else { arctan_ratio(y, x) };
            if ux.sign {
                quarters(4).sub(angle)
            } else if angle.exp <= ARC_TANGENT_IS_RATIO {
                return y.div(x).with_sign(sign).round_nearby(env);
            } else {
                angle
            }
        }
    };
    angle.with_sign(sign).round(env, true)
}
