//! The interchange formats, by the integer that holds them, and operands taken apart.

use crate::{FpEnv, FpFlags};

mod sealed {
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

/// An IEEE 754 format, implemented by the integer that holds its bits: `u16` is binary16, `u32` binary32, `u64`
/// binary64.
pub trait Format: Copy + PartialEq + Eq + core::fmt::Debug + sealed::Sealed {
    /// Width of the exponent field.
    const EXP_BITS: u32;
    /// Width of the fraction field (the significand without its implicit bit).
    const FRAC_BITS: u32;
    /// The host computes in this format.
    const HOST: bool;

    /// The bits, zero-extended.
    fn to_bits(self) -> u64;
    /// The low bits of `bits`.
    fn from_bits(bits: u64) -> Self;
    /// The host's `a + b`, in the host's default environment. Only where [`HOST`](Self::HOST).
    fn host_add(a: Self, b: Self) -> Self;
    /// The host's `a * b`.
    fn host_mul(a: Self, b: Self) -> Self;
    /// The host's `a / b`.
    fn host_div(a: Self, b: Self) -> Self;
    /// The host's square root.
    fn host_sqrt(a: Self) -> Self;
    /// The host's `a * b + c` in one rounding.
    fn host_fma(a: Self, b: Self, c: Self) -> Self;

    /// Exponent bias, also the largest exponent of a finite number.
    const BIAS: i32 = (1 << (Self::EXP_BITS - 1)) - 1;
    /// The exponent of the smallest normal number.
    const EMIN: i32 = 1 - Self::BIAS;
    /// The exponent field's largest value: infinity and NaN.
    const EXP_MAX: u64 = (1 << Self::EXP_BITS) - 1;
    /// The fraction field.
    const FRAC_MASK: u64 = (1 << Self::FRAC_BITS) - 1;
    /// The sign bit.
    const SIGN: u64 = 1 << (Self::EXP_BITS + Self::FRAC_BITS);
    /// Plus infinity.
    const INF: u64 = Self::EXP_MAX << Self::FRAC_BITS;
    /// The fraction bit that makes a NaN quiet.
    const QUIET: u64 = 1 << (Self::FRAC_BITS - 1);
    /// The NaN of an invalid operation, "real indefinite": negative, quiet, payload zero (SDM 1 4.8.3.7).
    const INDEFINITE: u64 = Self::SIGN | Self::INF | Self::QUIET;
}

macro_rules! host_format {
    ($bits:ty, $float:ty, $exp:expr, $frac:expr) => {
        impl Format for $bits {
            const EXP_BITS: u32 = $exp;
            const FRAC_BITS: u32 = $frac;
            const HOST: bool = true;
            #[inline]
            fn to_bits(self) -> u64 {
                self as u64
            }
            #[inline]
            fn from_bits(bits: u64) -> Self {
                bits as $bits
            }
            #[inline]
            fn host_add(a: Self, b: Self) -> Self {
                (<$float>::from_bits(a) + <$float>::from_bits(b)).to_bits()
            }
            #[inline]
            fn host_mul(a: Self, b: Self) -> Self {
                (<$float>::from_bits(a) * <$float>::from_bits(b)).to_bits()
            }
            #[inline]
            fn host_div(a: Self, b: Self) -> Self {
                (<$float>::from_bits(a) / <$float>::from_bits(b)).to_bits()
            }
            #[inline]
            fn host_sqrt(a: Self) -> Self {
                <$float>::from_bits(a).sqrt().to_bits()
            }
            #[inline]
            fn host_fma(a: Self, b: Self, c: Self) -> Self {
                <$float>::from_bits(a).mul_add(<$float>::from_bits(b), <$float>::from_bits(c)).to_bits()
            }
        }
    };
}

host_format!(u32, f32, 8, 23);
host_format!(u64, f64, 11, 52);

impl Format for u16 {
    const EXP_BITS: u32 = 5;
    const FRAC_BITS: u32 = 10;
    const HOST: bool = false;
    #[inline]
    fn to_bits(self) -> u64 {
        self as u64
    }
    #[inline]
    fn from_bits(bits: u64) -> Self {
        bits as u16
    }
    fn host_add(a: Self, _: Self) -> Self {
        a
    }
    fn host_mul(a: Self, _: Self) -> Self {
        a
    }
    fn host_div(a: Self, _: Self) -> Self {
        a
    }
    fn host_sqrt(a: Self) -> Self {
        a
    }
    fn host_fma(a: Self, _: Self, _: Self) -> Self {
        a
    }
}

/// What kind of datum an operand is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Zero,
    Finite,
    Inf,
    QNan,
    SNan,
}

/// An operand taken apart. A finite one is `sig * 2^(exp - 63)` with bit 63 of `sig` set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpacked {
    pub sign: bool,
    pub class: Class,
    pub denormal: bool,
    pub exp: i32,
    pub sig: u64,
}

impl Unpacked {
    pub(crate) fn is_nan(&self) -> bool {
        matches!(self.class, Class::QNan | Class::SNan)
    }
    pub(crate) fn is_snan(&self) -> bool {
        self.class == Class::SNan
    }
    pub(crate) fn is_zero(&self) -> bool {
        self.class == Class::Zero
    }
    pub(crate) fn is_inf(&self) -> bool {
        self.class == Class::Inf
    }
}

/// Takes `a` apart. With `daz` a denormal is a zero of its sign and not marked as denormal.
pub(crate) fn unpack<F: Format>(a: F, daz: bool) -> Unpacked {
    let bits = a.to_bits();
    let sign = bits & F::SIGN != 0;
    let field = (bits >> F::FRAC_BITS) & F::EXP_MAX;
    let frac = bits & F::FRAC_MASK;
    let none = Unpacked { sign, class: Class::Zero, denormal: false, exp: 0, sig: 0 };
    if field == F::EXP_MAX {
        let class = match frac {
            0 => Class::Inf,
            _ if frac & F::QUIET != 0 => Class::QNan,
            _ => Class::SNan,
        };
        Unpacked { class, ..none }
    } else if field != 0 {
        let sig = (frac | 1 << F::FRAC_BITS) << (63 - F::FRAC_BITS);
        Unpacked { class: Class::Finite, exp: field as i32 - F::BIAS, sig, ..none }
    } else if frac == 0 || daz {
        none
    } else {
        let shift = frac.leading_zeros();
        let exp = F::EMIN + (63 - F::FRAC_BITS) as i32 - shift as i32;
        Unpacked { class: Class::Finite, denormal: true, exp, sig: frac << shift, ..none }
    }
}

/// A NaN made quiet.
#[inline]
pub(crate) fn quiet<F: Format>(a: F) -> F {
    F::from_bits(a.to_bits() | F::QUIET)
}

/// The bits of a NaN that is not infinity.
#[inline]
pub(crate) fn is_nan<F: Format>(a: F) -> bool {
    a.to_bits() & !F::SIGN > F::INF
}

#[inline]
pub(crate) fn is_snan<F: Format>(a: F) -> bool {
    is_nan(a) && a.to_bits() & F::QUIET == 0
}

#[inline]
pub(crate) fn is_denormal<F: Format>(a: F) -> bool {
    let magnitude = a.to_bits() & !F::SIGN;
    magnitude != 0 && magnitude <= F::FRAC_MASK
}

/// `a`, or a zero of its sign if it is denormal under DAZ.
#[inline]
pub(crate) fn daz<F: Format>(env: &FpEnv, a: F) -> F {
    if env.daz && is_denormal(a) { F::from_bits(a.to_bits() & F::SIGN) } else { a }
}

#[inline]
pub(crate) fn zero<F: Format>(sign: bool) -> F {
    F::from_bits(if sign { F::SIGN } else { 0 })
}

#[inline]
pub(crate) fn inf<F: Format>(sign: bool) -> F {
    F::from_bits(F::INF | if sign { F::SIGN } else { 0 })
}

/// The result of an invalid operation.
#[inline]
pub(crate) fn invalid<F: Format>(env: &mut FpEnv) -> F {
    env.raise(FpFlags::IE);
    F::from_bits(F::INDEFINITE)
}
