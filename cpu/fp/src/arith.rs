//! Addition, subtraction, multiplication, division, square root and fused multiply-add.

use crate::fast;
use crate::format::{Class, Format, Unpacked, inf, invalid, quiet, unpack, zero};
use crate::round::{normalize_round_pack, round_pack, shift_right_jam};
use crate::{FpEnv, FpFlags, Rounding};

/// The NaN result of an operation with a NaN operand: the first that is a NaN, made quiet (SDM 1 table 4-7).
fn propagate<F: Format>(env: &mut FpEnv, operands: &[(F, Unpacked)]) -> Option<F> {
    if operands.iter().any(|(_, u)| u.is_snan()) {
        env.raise(FpFlags::IE);
    }
    operands.iter().find(|(_, u)| u.is_nan()).map(|(bits, _)| quiet(*bits))
}

fn denormals(env: &mut FpEnv, any: bool) {
    if any {
        env.raise(FpFlags::DE);
    }
}

/// `a + b`. `a` is the instruction's first source operand: it matters for NaNs.
#[inline]
pub fn add<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    match fast::add(env, a, b) {
        Some(sum) => sum,
        None => add_soft(env, a, b, false),
    }
}

/// `a - b`. `a` is the instruction's first source operand.
#[inline]
pub fn sub<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    match fast::add(env, a, F::from_bits(b.to_bits() ^ F::SIGN)) {
        Some(difference) => difference,
        None => add_soft(env, a, b, true),
    }
}

/// Exponent and significand, with sign, of the exact sum of two finite values or the rounding's sticky form of it.
/// Significands are at bit 126 at most, so that the sum has room.
pub(crate) fn add_magnitudes(a: (bool, i32, u128), b: (bool, i32, u128)) -> (bool, i32, u128) {
    let ((a_sign, a_exp, a_sig), (b_sign, b_exp, b_sig)) = if a.1 >= b.1 { (a, b) } else { (b, a) };
    let b_sig = shift_right_jam(b_sig, a_exp.wrapping_sub(b_exp) as u32);
    if a_sign == b_sign {
        (a_sign, a_exp, a_sig + b_sig)
    } else if a_sig >= b_sig {
        (a_sign, a_exp, a_sig - b_sig)
    } else {
        (b_sign, a_exp, b_sig - a_sig)
    }
}

pub(crate) fn add_soft<F: Format>(env: &mut FpEnv, a: F, b: F, negate_b: bool) -> F {
    let (ua, mut ub) = (unpack(a, env.daz), unpack(b, env.daz));
    if let Some(nan) = propagate(env, &[(a, ua), (b, ub)]) {
        return nan;
    }
    ub.sign ^= negate_b;
    if ua.is_inf() && ub.is_inf() && ua.sign != ub.sign {
        return invalid(env);
    }
    denormals(env, ua.denormal || ub.denormal);
    if ua.is_inf() || ub.is_inf() {
        return inf(if ua.is_inf() { ua.sign } else { ub.sign });
    }
    // The exact zero of x - x is negative only when rounding down; -0 + -0 keeps its sign.
    let zero_sign = if ua.is_zero() && ub.is_zero() && ua.sign == ub.sign {
        ua.sign
    } else {
        env.rounding == Rounding::Down
    };
    let part = |u: &Unpacked| match u.class {
        Class::Finite => Some((u.sign, u.exp + 1, (u.sig as u128) << 63)),
        _ => None,
    };
    let (sign, exp, sig) = match (part(&ua), part(&ub)) {
        (Some(a), Some(b)) => add_magnitudes(a, b),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => return zero(zero_sign),
    };
    normalize_round_pack(env, sign, exp, sig, zero_sign)
}

/// `a * b`. `a` is the instruction's first source operand.
#[inline]
pub fn mul<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    match fast::mul(env, a, b) {
        Some(product) => product,
        None => mul_soft(env, a, b),
    }
}

pub(crate) fn mul_soft<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    let (ua, ub) = (unpack(a, env.daz), unpack(b, env.daz));
    if let Some(nan) = propagate(env, &[(a, ua), (b, ub)]) {
        return nan;
    }
    let sign = ua.sign != ub.sign;
    if (ua.is_inf() && ub.is_zero()) || (ua.is_zero() && ub.is_inf()) {
        return invalid(env);
    }
    denormals(env, ua.denormal || ub.denormal);
    if ua.is_inf() || ub.is_inf() {
        return inf(sign);
    }
    if ua.is_zero() || ub.is_zero() {
        return zero(sign);
    }
    normalize_round_pack(env, sign, ua.exp + ub.exp + 1, ua.sig as u128 * ub.sig as u128, sign)
}

/// `a / b`. `a` is the instruction's first source operand.
#[inline]
pub fn div<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    match fast::div(env, a, b) {
        Some(quotient) => quotient,
        None => div_soft(env, a, b),
    }
}

/// Quotient of two significands with bit 63 set, normalised, with a sticky bit 0; and what to add to the difference of
/// their exponents.
pub(crate) fn div_sig(a: u64, b: u64) -> (i32, u128) {
    let (numerator, b) = ((a as u128) << 63, b as u128);
    let (high, rest) = (numerator / b, numerator % b);
    let (low, rest) = ((rest << 63) / b, (rest << 63) % b);
    // `high` has 63 or 64 bits, so the sum has 126 or 127.
    let quotient = high << 63 | low;
    let shift = quotient.leading_zeros();
    (1 - shift as i32, quotient << shift | (rest != 0) as u128)
}

pub(crate) fn div_soft<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    let (ua, ub) = (unpack(a, env.daz), unpack(b, env.daz));
    if let Some(nan) = propagate(env, &[(a, ua), (b, ub)]) {
        return nan;
    }
    let sign = ua.sign != ub.sign;
    if (ua.is_inf() && ub.is_inf()) || (ua.is_zero() && ub.is_zero()) {
        return invalid(env);
    }
    if ub.is_zero() && !ua.is_inf() {
        env.raise(FpFlags::ZE);
        return inf(sign);
    }
    denormals(env, ua.denormal || ub.denormal);
    if ua.is_inf() {
        return inf(sign);
    }
    if ua.is_zero() || ub.is_inf() {
        return zero(sign);
    }
    let (adjust, sig) = div_sig(ua.sig, ub.sig);
    round_pack(env, sign, ua.exp - ub.exp + adjust, sig)
}

/// The square root of `a`.
#[inline]
pub fn sqrt<F: Format>(env: &mut FpEnv, a: F) -> F {
    match fast::sqrt(env, a) {
        Some(root) => root,
        None => sqrt_soft(env, a),
    }
}

/// Exponent and significand of the square root of a finite value; bit 0 is sticky.
pub(crate) fn sqrt_sig(exp: i32, sig: u64) -> (i32, u128) {
    let square = (sig as u128) << if exp & 1 == 0 { 63 } else { 64 };
    let root = square.isqrt();
    let rest = square - root * root;
    // The root has 64 bits. (root + 1/2)^2 = root^2 + root + 1/4, so `rest > root` puts it above the half.
    (exp >> 1, root << 64 | ((rest > root) as u128) << 63 | (rest != 0) as u128)
}

pub(crate) fn sqrt_soft<F: Format>(env: &mut FpEnv, a: F) -> F {
    let ua = unpack(a, env.daz);
    if let Some(nan) = propagate(env, &[(a, ua)]) {
        return nan;
    }
    if ua.is_zero() {
        return zero(ua.sign);
    }
    if ua.sign {
        return invalid(env);
    }
    denormals(env, ua.denormal);
    if ua.is_inf() {
        return inf(false);
    }
    let (exp, sig) = sqrt_sig(ua.exp, ua.sig);
    round_pack(env, false, exp, sig)
}

/// What [`fma`] negates (SDM 1 14.5.1): `product` for VFNMADD and VFNMSUB, `addend` for VFMSUB and VFNMSUB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FmaNegate {
    /// The product is negated.
    pub product: bool,
    /// The addend is subtracted.
    pub addend: bool,
}

/// `±(a * b) ± c` with one rounding.
///
/// Of several NaNs the result is the first in the order `a`, `b`, `c`, and a NaN's sign is never negated. Silicon's order is
/// that of the form's digits with the operands swapped into place, so with x1 the destination, x2 the VEX.vvvv operand and x3 the last
/// source, pass `(a, b, c)` as: 132: `(x1, x3, x2)`; 213: `(x2, x1, x3)`; 231: `(x2, x3, x1)`.
#[inline]
pub fn fma<F: Format>(env: &mut FpEnv, a: F, b: F, c: F, negate: FmaNegate) -> F {
    match fast::fma(env, a, b, c, negate) {
        Some(result) => result,
        None => fma_soft(env, a, b, c, negate),
    }
}

pub(crate) fn fma_soft<F: Format>(env: &mut FpEnv, a: F, b: F, c: F, negate: FmaNegate) -> F {
    let (ua, ub, mut uc) = (unpack(a, env.daz), unpack(b, env.daz), unpack(c, env.daz));
    if let Some(nan) = propagate(env, &[(a, ua), (b, ub), (c, uc)]) {
        return nan;
    }
    let sign = ua.sign ^ ub.sign ^ negate.product;
    uc.sign ^= negate.addend;
    if (ua.is_inf() && ub.is_zero()) || (ua.is_zero() && ub.is_inf()) {
        return invalid(env);
    }
    let product_inf = ua.is_inf() || ub.is_inf();
    if product_inf && uc.is_inf() && sign != uc.sign {
        return invalid(env);
    }
    denormals(env, ua.denormal || ub.denormal || uc.denormal);
    if product_inf {
        return inf(sign);
    }
    if uc.is_inf() {
        return inf(uc.sign);
    }
    let product_zero = ua.is_zero() || ub.is_zero();
    let zero_sign =
        if product_zero && uc.is_zero() && sign == uc.sign { sign } else { env.rounding == Rounding::Down };
    // One bit of room for the sum: a product of two 53-bit significands ends well above bit 0.
    let product = (sign, ua.exp + ub.exp + 2, (ua.sig as u128 * ub.sig as u128) >> 1);
    let addend = (uc.sign, uc.exp + 1, (uc.sig as u128) << 63);
    let (sign, exp, sig) = match (product_zero, uc.is_zero()) {
        (false, false) => add_magnitudes(product, addend),
        (false, true) => product,
        (true, false) => addend,
        (true, true) => return zero(zero_sign),
    };
    normalize_round_pack(env, sign, exp, sig, zero_sign)
}
