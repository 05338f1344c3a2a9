//! Comparison, the 32 AVX predicates, minimum, maximum and VRANGE.

use crate::format::{Format, daz, is_denormal, is_nan, is_snan, quiet};
use crate::{FpEnv, FpFlags};

/// How two values relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// The first is less.
    Less,
    /// They are equal; +0 and -0 are.
    Equal,
    /// The first is greater.
    Greater,
    /// At least one is a NaN.
    Unordered,
}

/// Bits as a signed integer in the order of the values, except that -0 is not +0.
fn key<F: Format>(a: F) -> i64 {
    let magnitude = (a.to_bits() & !F::SIGN) as i64;
    if a.to_bits() & F::SIGN != 0 { -magnitude } else { magnitude }
}

/// Compares, raising IE for an SNaN, and for a QNaN if `signaling` (COMISS as against UCOMISS), and DE.
pub fn compare<F: Format>(env: &mut FpEnv, a: F, b: F, signaling: bool) -> Relation {
    let (a, b) = (daz(env, a), daz(env, b));
    if is_nan(a) || is_nan(b) {
        if signaling || is_snan(a) || is_snan(b) {
            env.raise(FpFlags::IE);
        }
        return Relation::Unordered;
    }
    if is_denormal(a) || is_denormal(b) {
        env.raise(FpFlags::DE);
    }
    match key(a).cmp(&key(b)) {
        core::cmp::Ordering::Less => Relation::Less,
        core::cmp::Ordering::Equal => Relation::Equal,
        core::cmp::Ordering::Greater => Relation::Greater,
    }
}

/// The relations for which predicates 0 to 15 hold (SDM 2A CMPPD, table 3-1): bit 0 less, 1 equal, 2 greater, 3
/// unordered. Predicates 16 to 31 are the same ones with the opposite signalling.
const HOLDS: [u8; 16] = [2, 1, 3, 8, 13, 14, 12, 7, 10, 9, 11, 0, 5, 6, 4, 15];

/// Predicates 0 to 15 that raise IE for a QNaN.
const SIGNALS: u32 = 0b0110_0110_0110_0110;

/// CMPPS and its kin: whether `predicate` (the low 5 bits; SSE forms pass the low 3) holds.
pub fn compare_predicate<F: Format>(env: &mut FpEnv, a: F, b: F, predicate: u8) -> bool {
    let index = predicate & 15;
    let signaling = (SIGNALS >> index & 1 != 0) ^ (predicate & 16 != 0);
    let relation = match compare(env, a, b, signaling) {
        Relation::Less => 1,
        Relation::Equal => 2,
        Relation::Greater => 4,
        Relation::Unordered => 8,
    };
    HOLDS[index as usize] & relation != 0
}

fn select<F: Format>(env: &mut FpEnv, a: F, b: F, wanted: Relation) -> F {
    let relation = compare(env, a, b, true);
    daz(env, if relation == wanted { a } else { b })
}

/// MINSS: the lesser, or `b` if they are equal or either is a NaN (IE; the NaN is not made quiet).
pub fn min<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    select(env, a, b, Relation::Less)
}

/// MAXSS: the greater, or `b` as in [`min`].
pub fn max<F: Format>(env: &mut FpEnv, a: F, b: F) -> F {
    select(env, a, b, Relation::Greater)
}

/// VRANGEPS (SDM 2C): minimum, maximum or either by magnitude (`imm` bits 1:0), with the sign by bits 3:2: of `a`, of the
/// result, 0, or 1.
pub fn range<F: Format>(env: &mut FpEnv, a: F, b: F, imm: u8) -> F {
    if is_snan(a) || is_snan(b) {
        env.raise(FpFlags::IE);
        return quiet(if is_snan(a) { a } else { b });
    }
    let sign = a.to_bits() & F::SIGN;
    let magnitude = |x: F| (x.to_bits() & !F::SIGN) as i64;
    let (x, y) = (daz(env, a), daz(env, b));
    let chosen = if is_nan(x) {
        if is_nan(y) { x } else { y }
    } else if is_nan(y) {
        x
    } else {
        if is_denormal(x) || is_denormal(y) {
            env.raise(FpFlags::DE);
        }
        // Zeros of opposite sign are ordered -0 < +0; of opposite values with one magnitude, min takes the negative
        // one and max the positive one (SDM 2C VRANGEPS, comparison tables).
        let less = |p: F, q: F| (key(p), q.to_bits() & F::SIGN) < (key(q), p.to_bits() & F::SIGN);
        let first = match imm & 3 {
            0 => less(x, y),
            1 => less(y, x),
            2 if magnitude(x) != magnitude(y) => magnitude(x) < magnitude(y),
            2 => less(x, y),
            _ if magnitude(x) != magnitude(y) => magnitude(x) > magnitude(y),
            _ => less(y, x),
        };
        if first { x } else { y }
    };
    let bits = chosen.to_bits();
    F::from_bits(match imm >> 2 & 3 {
        0 if is_nan(chosen) => bits,
        0 => bits & !F::SIGN | sign,
        1 => bits,
        2 => bits & !F::SIGN,
        _ => bits | F::SIGN,
    })
}
