//! An independent soft float as the oracle, on every host: LLVM's APFloat, in all rounding modes.

use super::generate::Gen;
use crate::arith::{add_soft, div_soft, fma_soft, mul_soft};
use crate::{FmaNegate, Format, FpEnv, FpFlags, Rounding};
use rustc_apfloat::ieee::{Double, Half, Single};
use rustc_apfloat::{Float, Round, Status, StatusAnd};

fn round(mode: Rounding) -> Round {
    match mode {
        Rounding::NearestEven => Round::NearestTiesToEven,
        Rounding::Down => Round::TowardNegative,
        Rounding::Up => Round::TowardPositive,
        Rounding::Zero => Round::TowardZero,
    }
}

fn flags(status: Status) -> FpFlags {
    let mut flags = FpFlags::empty();
    flags.set(FpFlags::IE, status.contains(Status::INVALID_OP));
    flags.set(FpFlags::ZE, status.contains(Status::DIV_BY_ZERO));
    flags.set(FpFlags::OE, status.contains(Status::OVERFLOW));
    flags.set(FpFlags::PE, status.contains(Status::INEXACT));
    flags
}

/// Values agree bit for bit unless NaN. So do flags, but for DE; UE, whose tininess APFloat detects before rounding; and OE, which
/// it reports only where the result is infinite.
fn agree<F: Format, A: Float>(cases: u32) {
    let mut random = Gen::new(F::FRAC_BITS as u64);
    for _ in 0..cases {
        let mode = Rounding::from_rc(random.below(4) as u32);
        let env = FpEnv { rounding: mode, ..FpEnv::from_mxcsr(FpEnv::MXCSR_DEFAULT) };
        let (a, b): (F, F) = random.pair();
        let c: F = random.operand();
        let wide = |x: F| A::from_bits(x.to_bits() as u128);
        type Ours<F> = fn(&mut FpEnv, F, F, F) -> F;
        type Theirs<A> = fn(A, A, A, Round) -> StatusAnd<A>;
        let operations: [(&str, Ours<F>, Theirs<A>); 5] = [
            ("add", |e, a, b, _| add_soft(e, a, b, false), |a, b, _, r| a.add_r(b, r)),
            ("sub", |e, a, b, _| add_soft(e, a, b, true), |a, b, _, r| a.sub_r(b, r)),
            ("mul", |e, a, b, _| mul_soft(e, a, b), |a, b, _, r| a.mul_r(b, r)),
            ("div", |e, a, b, _| div_soft(e, a, b), |a, b, _, r| a.div_r(b, r)),
            (
                "fma",
                |e, a, b, c| fma_soft(e, a, b, c, FmaNegate::default()),
                |a, b, c, r| a.mul_add_r(b, c, r),
            ),
        ];
        for (name, ours, theirs) in operations {
            let mut env = env;
            let got = ours(&mut env, a, b, c);
            let want = theirs(wide(a), wide(b), wide(c), round(mode));
            let context = || format!("{name} {mode:?} {a:#x?} {b:#x?} {c:#x?}: {got:#x?} {:?}", env.flags);
            if want.value.is_nan() {
                assert!(got.to_bits() & !F::SIGN > F::INF, "{}", context());
                continue;
            }
            assert_eq!(got.to_bits() as u128, want.value.to_bits(), "{}", context());
            let ignored = FpFlags::UE | FpFlags::DE | FpFlags::OE;
            assert_eq!(env.flags - ignored, flags(want.status) - ignored, "{}", context());
            assert!(env.flags.contains(flags(want.status)), "{}", context());
        }
    }
}

#[test]
fn half_agrees() {
    agree::<u16, Half>(100_000);
}

#[test]
fn single_agrees() {
    agree::<u32, Single>(100_000);
}

#[test]
fn double_agrees() {
    agree::<u64, Double>(100_000);
}
