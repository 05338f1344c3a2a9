//! Conversions and rounding to integral against the host.

use super::generate::Gen;
use super::silicon::{M32, M64, agree};
use crate::{
    Format, Rounding, convert, from_integer, half_to_single, immediate_rounding, round_scaled,
    single_to_half, to_integer,
};

const CASES: u32 = 200_000;

fn one<F: Format>(random: &mut Gen) -> [u64; 3] {
    [random.operand::<F>().to_bits(), 0, 0]
}

/// Values around the limits of the integer types.
fn integral<F: Format>(random: &mut Gen) -> [u64; 3] {
    let a: F = random.operand();
    if random.below(3) == 0 {
        return [a.to_bits(), 0, 0];
    }
    let exp = random.below(70) as i32 - 3 + F::BIAS;
    let bits = a.to_bits() & !F::INF | (exp as u64) << F::FRAC_BITS;
    [bits, 0, 0]
}

fn integers(random: &mut Gen) -> [u64; 3] {
    let shift = random.below(64);
    let value = random.fraction(64) >> shift;
    [if random.below(2) == 0 { value } else { value.wrapping_neg() }, 0, 0]
}

#[test]
fn formats_agree() {
    silicon!(widen, "cvtss2sd xmm0, xmm1");
    agree("cvtss2sd", CASES, M64, widen, one::<u32>, |e, [a, ..]| convert::<u32, u64>(e, a as u32));
    silicon!(narrow, "cvtsd2ss xmm0, xmm1");
    let close = |random: &mut Gen| {
        let mut local = crate::FpEnv::from_mxcsr(0x1f80);
        let [a, ..] = one::<u32>(random);
        let wide: u64 = convert(&mut local, a as u32);
        match random.below(2) {
            0 => one::<u64>(random),
            _ => [wide.wrapping_add(random.fraction(30)).wrapping_sub(1 << 29), 0, 0],
        }
    };
    agree("cvtsd2ss", CASES, M32, narrow, close, |e, [a, ..]| convert::<u64, u32>(e, a) as u64);
}

#[test]
fn half_agrees() {
    if !std::arch::is_x86_feature_detected!("f16c") {
        return;
    }
    silicon!(widen, "vcvtph2ps xmm0, xmm1");
    agree("vcvtph2ps", CASES, M32, widen, one::<u16>, |e, [a, ..]| half_to_single(e, a as u16) as u64);
    let close = |random: &mut Gen| {
        let mut local = crate::FpEnv::from_mxcsr(0x1f80);
        let wide = half_to_single(&mut local, random.operand());
        match random.below(2) {
            0 => one::<u32>(random),
            _ => [wide.wrapping_add(random.fraction(14) as u32).wrapping_sub(1 << 13) as u64, 0, 0],
        }
    };
    silicon!(narrow<const I>, "vcvtps2ph xmm0, xmm1, {I}");
    macro_rules! all {
        ($($i:literal)*) => {$(
            agree("vcvtps2ph", CASES, 0xffff, narrow::<$i>, close, |e, [a, ..]| {
                let rounding = immediate_rounding(e, $i);
                single_to_half(e, a as u32, rounding) as u64
            });
        )*};
    }
    all!(0 1 2 3 4);
}

macro_rules! to_int {
    ($insn:literal, $f:ty, $i:ty, $mask:expr, $rounding:expr) => {{
        silicon!(host, concat!($insn, ", xmm1"), "movq xmm0, rax");
        agree($insn, CASES, $mask, host, integral::<$f>, |e, [a, ..]| {
            let rounding: Option<Rounding> = $rounding;
            let rounding = rounding.unwrap_or(e.rounding);
            to_integer::<$f, $i>(e, a as $f, rounding) as u64
        });
    }};
}

#[test]
fn to_integers_agree() {
    to_int!("cvtss2si eax", u32, i32, M32, None);
    to_int!("cvtss2si rax", u32, i64, M64, None);
    to_int!("cvtsd2si eax", u64, i32, M32, None);
    to_int!("cvtsd2si rax", u64, i64, M64, None);
    to_int!("cvttss2si eax", u32, i32, M32, Some(Rounding::Zero));
    to_int!("cvttsd2si rax", u64, i64, M64, Some(Rounding::Zero));
    if std::arch::is_x86_feature_detected!("avx512f") {
        to_int!("vcvtss2usi eax", u32, u32, M32, None);
        to_int!("vcvtss2usi rax", u32, u64, M64, None);
        to_int!("vcvtsd2usi eax", u64, u32, M32, None);
        to_int!("vcvttsd2usi rax", u64, u64, M64, Some(Rounding::Zero));
        to_int!("vcvttss2usi eax", u32, u32, M32, Some(Rounding::Zero));
    }
}

macro_rules! from_int {
    ($insn:literal, $f:ty, $i:ty, $mask:expr) => {{
        silicon!(host, "movq rax, xmm1", $insn);
        agree($insn, CASES, $mask, host, integers, |e, [a, ..]| from_integer::<$i, $f>(e, a as $i) as u64);
    }};
}

#[test]
fn from_integers_agree() {
    from_int!("cvtsi2ss xmm0, eax", u32, i32, M32);
    from_int!("cvtsi2ss xmm0, rax", u32, i64, M32);
    from_int!("cvtsi2sd xmm0, eax", u64, i32, M64);
    from_int!("cvtsi2sd xmm0, rax", u64, i64, M64);
    if std::arch::is_x86_feature_detected!("avx512f") {
        from_int!("vcvtusi2ss xmm0, xmm0, eax", u32, u32, M32);
        from_int!("vcvtusi2ss xmm0, xmm0, rax", u32, u64, M32);
        from_int!("vcvtusi2sd xmm0, xmm0, rax", u64, u64, M64);
    }
}

#[test]
fn round_agrees() {
    if !std::arch::is_x86_feature_detected!("sse4.1") {
        return;
    }
    silicon!(single<const I>, "roundss xmm0, xmm1, {I}");
    silicon!(double<const I>, "roundsd xmm0, xmm1, {I}");
    macro_rules! all {
        ($($i:literal)*) => {$(
            agree("roundss", 50_000, M32, single::<$i>, integral::<u32>, |e, [a, ..]| {
                let rounding = immediate_rounding(e, $i);
                round_scaled(e, a as u32, 0, rounding, $i & 8 != 0) as u64
            });
            agree("roundsd", 50_000, M64, double::<$i>, integral::<u64>, |e, [a, ..]| {
                let rounding = immediate_rounding(e, $i);
                round_scaled(e, a, 0, rounding, $i & 8 != 0)
            });
        )*};
    }
    all!(0 1 2 3 4 8 9 10 11 12);
}
