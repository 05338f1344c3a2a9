//! The common case on the host's own floating point: nearest rounding, operands and result normal.
//!
//! The host's environment is left alone. Each operation checks that neither operands nor result come near the ranges
//! where flags other than PE arise, and finds PE from the exact significands by integer arithmetic. Everything else is `None`,
//! for the software path.

use crate::arith::FmaNegate;
use crate::format::Format;
use crate::{FpEnv, FpFlags, Rounding};

/// The exponent field is far from both ends: no overflow or underflow, nor in the terms of an error computation.
#[inline]
fn plain<F: Format>(a: F) -> bool {
    let field = (a.to_bits() >> F::FRAC_BITS) & F::EXP_MAX;
    field.wrapping_sub(2) < F::EXP_MAX - 4
}

#[inline]
fn is_zero<F: Format>(a: F) -> bool {
    a.to_bits() & !F::SIGN == 0
}

#[inline]
fn significand<F: Format>(a: F) -> u64 {
    a.to_bits() & F::FRAC_MASK | 1 << F::FRAC_BITS
}

#[inline]
fn usable<F: Format>(env: &FpEnv) -> bool {
    F::HOST && env.rounding == Rounding::NearestEven
}

#[inline]
fn finish<F: Format>(env: &mut FpEnv, result: F, exact: impl FnOnce() -> bool) -> Option<F> {
    if !env.inexact_known && !env.flags.contains(FpFlags::PE) && !exact() {
        env.raise(FpFlags::PE);
    }
    Some(result)
}

#[inline]
pub(crate) fn add<F: Format>(env: &mut FpEnv, a: F, b: F) -> Option<F> {
    if !usable::<F>(env) {
        return None;
    }
    let sum = F::host_add(a, b);
    if plain(a) && plain(b) && plain(sum) {
        // Knuth's TwoSum: the rounding error, exactly.
        return finish(env, sum, || {
            let neg = |x: F| F::from_bits(x.to_bits() ^ F::SIGN);
            let b_part = F::host_add(sum, neg(a));
            let a_part = F::host_add(sum, neg(b_part));
            is_zero(F::host_add(F::host_add(a, neg(a_part)), F::host_add(b, neg(b_part))))
        });
    }
    let exact =
        (is_zero(a) && (plain(b) || is_zero(b))) || (plain(a) && (is_zero(b) || (plain(b) && is_zero(sum))));
    exact.then_some(sum)
}

#[inline]
pub(crate) fn mul<F: Format>(env: &mut FpEnv, a: F, b: F) -> Option<F> {
    if !usable::<F>(env) {
        return None;
    }
    let product = F::host_mul(a, b);
    if plain(a) && plain(b) && plain(product) {
        return finish(env, product, || {
            let exact = significand(a) as u128 * significand(b) as u128;
            let extra = 128 - exact.leading_zeros() - (F::FRAC_BITS + 1);
            exact.trailing_zeros() >= extra
        });
    }
    let exact = (is_zero(a) && (plain(b) || is_zero(b))) || (plain(a) && is_zero(b));
    exact.then_some(product)
}

#[inline]
pub(crate) fn div<F: Format>(env: &mut FpEnv, a: F, b: F) -> Option<F> {
    if !usable::<F>(env) || !plain(b) {
        return None;
    }
    let quotient = F::host_div(a, b);
    if plain(a) && plain(quotient) {
        return finish(env, quotient, || {
            let (ma, mb) = (significand(a), significand(b));
            let shift = F::FRAC_BITS + (ma < mb) as u32;
            significand(quotient) as u128 * mb as u128 == (ma as u128) << shift
        });
    }
    is_zero(a).then_some(quotient)
}

#[inline]
pub(crate) fn sqrt<F: Format>(env: &mut FpEnv, a: F) -> Option<F> {
    if !usable::<F>(env) || !plain(a) || a.to_bits() & F::SIGN != 0 {
        return None;
    }
    let root = F::host_sqrt(a);
    finish(env, root, || {
        let m = significand(root) as u128;
        // The bias is odd: an even field is an odd exponent.
        let odd = (a.to_bits() >> F::FRAC_BITS) & 1 == 0;
        m * m == (significand(a) as u128) << (F::FRAC_BITS + odd as u32)
    })
}

/// Only while PE need not be found, and where the host has the instruction: a library's `fma` is no faster than ours.
#[inline]
pub(crate) fn fma<F: Format>(env: &mut FpEnv, a: F, b: F, c: F, negate: FmaNegate) -> Option<F> {
    if !usable::<F>(env) || !(env.inexact_known || env.flags.contains(FpFlags::PE)) {
        return None;
    }
    if !(plain(a) && plain(b) && (plain(c) || is_zero(c))) {
        return None;
    }
    let flip = |x: F, yes: bool| F::from_bits(x.to_bits() ^ if yes { F::SIGN } else { 0 });
    let result = hardware_fma(flip(a, negate.product), b, flip(c, negate.addend))?;
    plain(result).then_some(result)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn hardware_fma<F: Format>(a: F, b: F, c: F) -> Option<F> {
    #[target_feature(enable = "fma")]
    fn fma<F: Format>(a: F, b: F, c: F) -> F {
        F::host_fma(a, b, c)
    }
    // SAFETY: the CPU has FMA.
    std::arch::is_x86_feature_detected!("fma").then(|| unsafe { fma(a, b, c) })
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn hardware_fma<F: Format>(a: F, b: F, c: F) -> Option<F> {
    Some(F::host_fma(a, b, c))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline]
fn hardware_fma<F: Format>(_: F, _: F, _: F) -> Option<F> {
    None
}
