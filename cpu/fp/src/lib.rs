//! IEEE 754 arithmetic as x86 CPUs do it: any rounding mode, DAZ and FTZ, x86's NaN and tininess rules, and exact
//! exception flags (SDM 1 chapters 4, 8, 10, 11 and 14).
//!
//! Pure functions on raw bits: `u16`, `u32` and `u64` hold binary16, binary32 and binary64 ([`Format`]). Operations
//! take an [`FpEnv`], made from MXCSR for one instruction, and collect exceptions in it:
//!
//! ```
//! use ringworld_fp::{FpEnv, FpFlags, div};
//! let mut env = FpEnv::from_mxcsr(FpEnv::MXCSR_DEFAULT);
//! let third = div(&mut env, 1f64.to_bits(), 3f64.to_bits());
//! assert_eq!(f64::from_bits(third), 1.0 / 3.0);
//! assert_eq!(env.outcome().flags, FpFlags::PE);
//! ```
//!
//! [`x87`] has the same for the x87, on [`F80`].
//!
//! The software path is complete and the same on every host. Where rounding is to nearest and all values are normal the host's
//! own arithmetic gives the same bits and is used instead.

mod approx;
mod arith;
mod avx512;
mod compare;
mod convert;
mod env;
mod f80;
mod fast;
mod format;
mod round;
pub mod x87;

pub use approx::{rcp, rcp14, rsqrt, rsqrt14};
pub use arith::{FmaNegate, add, div, fma, mul, sqrt, sub};
pub use avx512::{fixupimm, fpclass, getexp, getmant, reduce, rndscale, scalef};
pub use compare::{Relation, compare, compare_predicate, max, min, range};
pub use convert::{
    Integer, convert, from_integer, half_to_single, immediate_rounding, round_scaled, single_to_half,
    to_integer,
};
pub use env::{FpEnv, FpFlags, Outcome, Rounding};
pub use f80::F80;
pub use format::Format;

#[cfg(test)]
mod tests;
