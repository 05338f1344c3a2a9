//! Conversion between formats and to and from integers.

use crate::format::{Class, Format, inf, quiet, unpack, zero};
use crate::round::{cut, normalize_round_pack, round_pack};
use crate::{FpEnv, FpFlags, Rounding};

fn convert_nan<S: Format, D: Format>(a: S) -> D {
    let bits = a.to_bits();
    let sign = if bits & S::SIGN != 0 { D::SIGN } else { 0 };
    let payload = (bits & S::FRAC_MASK) << (63 - S::FRAC_BITS) >> (63 - D::FRAC_BITS);
    D::from_bits(sign | D::INF | D::QUIET | payload & D::FRAC_MASK)
}

/// CVTSS2SD, CVTSD2SS. A NaN keeps the leading bits of its payload.
pub fn convert<S: Format, D: Format>(env: &mut FpEnv, a: S) -> D {
    let u = unpack(a, env.daz);
    if u.denormal {
        env.raise(FpFlags::DE);
    }
    match u.class {
        Class::Zero => zero(u.sign),
        Class::Inf => inf(u.sign),
        Class::QNan => convert_nan(a),
        Class::SNan => {
            env.raise(FpFlags::IE);
            convert_nan(a)
        }
        Class::Finite => round_pack(env, u.sign, u.exp, (u.sig as u128) << 64),
    }
}

/// VCVTPH2PS: exact. Denormal operands are neither zeroed by DAZ nor raise DE (SDM 1 14.4.1).
pub fn half_to_single(env: &mut FpEnv, a: u16) -> u32 {
    let mut local = FpEnv { daz: false, flags: FpFlags::empty(), ..*env };
    let result = convert(&mut local, a);
    env.raise(local.flags & FpFlags::IE);
    result
}

/// VCVTPS2PH: `rounding` is from the immediate (bits 1:0) or, if its bit 2 is set, `env`'s. FTZ does not apply, DAZ does
/// (SDM 1 14.4.1).
pub fn single_to_half(env: &mut FpEnv, a: u32, rounding: Rounding) -> u16 {
    let mut local = FpEnv { ftz: false, rounding, flags: FpFlags::empty(), ..*env };
    let result = convert(&mut local, a);
    if !env.amd && local.flags.contains(FpFlags::UE) && local.flags.contains(FpFlags::DE) {
        // Of a denormal operand, Intel's silicon tells that the result is inexact even while underflow is unmasked.
        local.flags |= FpFlags::PE;
    }
    env.raise(local.flags);
    result
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for i16 {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

/// An integer that the CPU converts floating-point values to or from.
pub trait Integer: Copy + sealed::Sealed {
    /// What a conversion of a NaN or of a value out of range gives: "integer indefinite", the most negative value, and all ones
    /// for unsigned types.
    const INDEFINITE: Self;
    /// The value, if it is in range.
    fn from_wide(value: i128) -> Option<Self>;
    /// The value.
    fn to_wide(self) -> i128;
}

macro_rules! integer {
    ($($t:ty: $indefinite:expr),*) => {$(
        impl Integer for $t {
            const INDEFINITE: Self = $indefinite;
            fn from_wide(value: i128) -> Option<Self> {
                value.try_into().ok()
            }
            fn to_wide(self) -> i128 {
                self as i128
            }
        }
    )*};
}
integer!(i16: i16::MIN, i32: i32::MIN, i64: i64::MIN, u32: u32::MAX, u64: u64::MAX);

/// CVTSD2SI, CVTPS2UDQ, … with `rounding` = `env.rounding`; the truncating forms pass [`Rounding::Zero`]. Raises IE or
/// PE, never DE.
pub fn to_integer<F: Format, I: Integer>(env: &mut FpEnv, a: F, rounding: Rounding) -> I {
    let u = unpack(a, env.daz);
    let converted = match u.class {
        Class::Zero => return I::from_wide(0).unwrap_or(I::INDEFINITE),
        Class::Finite if u.exp < 65 => {
            let sig = (u.sig as u128) << 63;
            // value = sig * 2^(exp - 126); magnitudes below 1/4 round as 1/4 does.
            let cut = cut(u.sign, sig, (126 - u.exp.max(-3)) as u32, rounding);
            let magnitude = cut.kept as i128;
            I::from_wide(if u.sign { -magnitude } else { magnitude }).map(|value| (value, cut.inexact))
        }
        _ => None,
    };
    match converted {
        Some((value, inexact)) => {
            if inexact {
                env.raise(FpFlags::PE);
            }
            value
        }
        None => {
            env.raise(FpFlags::IE);
            I::INDEFINITE
        }
    }
}

/// CVTSI2SD, VCVTUDQ2PS, …: `value` in `F`, rounded by `env`.
pub fn from_integer<I: Integer, F: Format>(env: &mut FpEnv, value: I) -> F {
    let value = value.to_wide();
    normalize_round_pack(env, value < 0, 127, value.unsigned_abs(), false)
}

/// Rounds to a multiple of 2^-`scale`: ROUNDPS (`scale` 0) and VRNDSCALEPS (`scale` 0 to 15, imm bits 7:4). `rounding` is from
/// imm bits 1:0, or `env.rounding` if bit 2 is set; `suppress_inexact` is imm bit 3.
pub fn round_scaled<F: Format>(
    env: &mut FpEnv,
    a: F,
    scale: u32,
    rounding: Rounding,
    suppress_inexact: bool,
) -> F {
    let u = unpack(a, env.daz);
    match u.class {
        Class::Zero => return zero(u.sign),
        Class::Inf | Class::QNan => return a,
        Class::SNan => {
            env.raise(FpFlags::IE);
            return quiet(a);
        }
        Class::Finite => {}
    }
    let scale = scale as i32;
    if u.exp + scale >= F::FRAC_BITS as i32 {
        return a;
    }
    let shift = 126 - (u.exp + scale).max(-3);
    let cut = cut(u.sign, (u.sig as u128) << 63, shift as u32, rounding);
    if cut.inexact && !suppress_inexact {
        env.raise(FpFlags::PE);
    }
    // Exact by now: the environment serves for nothing but the call.
    let mut exact = FpEnv { ftz: false, flags: FpFlags::empty(), ..*env };
    normalize_round_pack(&mut exact, u.sign, 127 - scale, cut.kept, u.sign)
}

/// Rounding by an immediate's bits 2:0: MXCSR's if bit 2 is set, else bits 1:0.
#[inline]
pub fn immediate_rounding(env: &FpEnv, imm: u8) -> Rounding {
    if imm & 4 != 0 { env.rounding } else { Rounding::from_rc(imm as u32) }
}
