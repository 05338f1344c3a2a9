//! Arithmetic and comparison against the host.

use super::generate::Gen;
use super::silicon::{M32, M64, agree};
use crate::arith::{add_soft, div_soft, fma_soft, mul_soft, sqrt_soft};
use crate::{FmaNegate, Format, add, compare, compare_predicate, div, fma, max, min, mul, sqrt, sub};

const CASES: u32 = 300_000;

fn pair<F: Format>(random: &mut Gen) -> [u64; 3] {
    let (a, b) = random.pair::<F>();
    [a.to_bits(), b.to_bits(), 0]
}

/// Third operand often near minus the product, for cancellation.
fn triple64(random: &mut Gen) -> [u64; 3] {
    let (a, b) = random.pair::<u64>();
    let c = match random.below(3) {
        0 => (f64::from_bits(a) * f64::from_bits(b)).to_bits().wrapping_add(random.below(4)) ^ 1 << 63,
        _ => random.operand(),
    };
    [a, b, c]
}

fn triple32(random: &mut Gen) -> [u64; 3] {
    let (a, b) = random.pair::<u32>();
    let c = match random.below(3) {
        0 => (f32::from_bits(a) * f32::from_bits(b)).to_bits().wrapping_add(random.below(4) as u32) ^ 1 << 31,
        _ => random.operand(),
    };
    [a as u64, b as u64, c as u64]
}

/// One instruction, checked through the public function and through the software path.
macro_rules! binary {
    ($test:ident, $single:literal, $double:literal, $public:expr, $soft:expr) => {
        #[test]
        fn $test() {
            silicon!(single, $single);
            silicon!(double, $double);
            agree($single, CASES, M32, single, pair::<u32>, |e, [a, b, _]| {
                $public(e, a as u32, b as u32) as u64
            });
            agree($double, CASES, M64, double, pair::<u64>, |e, [a, b, _]| $public(e, a, b));
            agree($single, CASES, M32, single, pair::<u32>, |e, [a, b, _]| {
                $soft(e, a as u32, b as u32) as u64
            });
            agree($double, CASES, M64, double, pair::<u64>, |e, [a, b, _]| $soft(e, a, b));
        }
    };
}

binary!(add_agrees, "addss xmm0, xmm2", "addsd xmm0, xmm2", add, |e: &mut _, a, b| add_soft(e, a, b, false));
binary!(sub_agrees, "subss xmm0, xmm2", "subsd xmm0, xmm2", sub, |e: &mut _, a, b| add_soft(e, a, b, true));
binary!(mul_agrees, "mulss xmm0, xmm2", "mulsd xmm0, xmm2", mul, mul_soft);
binary!(div_agrees, "divss xmm0, xmm2", "divsd xmm0, xmm2", div, div_soft);
binary!(
    sqrt_agrees,
    "sqrtss xmm0, xmm2",
    "sqrtsd xmm0, xmm2",
    |e: &mut _, _, b| sqrt(e, b),
    |e: &mut _, _, b| { sqrt_soft(e, b) }
);
binary!(min_agrees, "minss xmm0, xmm2", "minsd xmm0, xmm2", min, min);
binary!(max_agrees, "maxss xmm0, xmm2", "maxsd xmm0, xmm2", max, max);

#[test]
fn compare_agrees() {
    use crate::Relation::*;
    // EFLAGS' ZF, PF, CF as COMISS sets them.
    macro_rules! comi {
        ($insn:literal, $f:ty, $signaling:expr) => {{
            silicon!(host, $insn, "pushfq", "pop rax", "and eax, 0x45", "movq xmm0, rax");
            agree($insn, CASES, M64, host, pair::<$f>, |e, [a, b, _]| {
                match compare(e, a as $f, b as $f, $signaling) {
                    Less => 0x01,
                    Equal => 0x40,
                    Greater => 0,
                    Unordered => 0x45,
                }
            });
        }};
    }
    comi!("comiss xmm1, xmm2", u32, true);
    comi!("ucomiss xmm1, xmm2", u32, false);
    comi!("comisd xmm1, xmm2", u64, true);
    comi!("ucomisd xmm1, xmm2", u64, false);
}

#[test]
fn predicates_agree() {
    if !std::arch::is_x86_feature_detected!("avx") {
        return;
    }
    silicon!(single<const I>, "vcmpss xmm0, xmm1, xmm2, {I}");
    silicon!(double<const I>, "vcmpsd xmm0, xmm1, xmm2, {I}");
    macro_rules! all {
        ($($i:literal)*) => {$(
            agree("vcmpss", 20_000, M32, single::<$i>, pair::<u32>, |e, [a, b, _]| {
                compare_predicate(e, a as u32, b as u32, $i) as u64 * M32
            });
            agree("vcmpsd", 20_000, M64, double::<$i>, pair::<u64>, |e, [a, b, _]| {
                compare_predicate(e, a, b, $i) as u64 * M64
            });
        )*};
    }
    all!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
}

#[test]
fn fma_agrees() {
    if !std::arch::is_x86_feature_detected!("fma") {
        return;
    }
    // xmm1 is the destination (x1), xmm2 is VEX.vvvv (x2), xmm3 the last source (x3).
    macro_rules! form {
        ($insn:literal, $triple:ident, $mask:expr, $f:ty, ($a:ident, $b:ident, $c:ident), $product:expr, $addend:expr) => {{
            silicon!(host, concat!($insn, " xmm1, xmm2, xmm3"), "movaps xmm0, xmm1");
            let negate = FmaNegate { product: $product, addend: $addend };
            agree($insn, CASES, $mask, host, $triple, |e, [x1, x2, x3]| {
                let (x1, x2, x3) = (x1 as $f, x2 as $f, x3 as $f);
                fma(e, $a(x1, x2, x3), $b(x1, x2, x3), $c(x1, x2, x3), negate) as u64
            });
            agree($insn, CASES, $mask, host, $triple, |e, [x1, x2, x3]| {
                let (x1, x2, x3) = (x1 as $f, x2 as $f, x3 as $f);
                fma_soft(e, $a(x1, x2, x3), $b(x1, x2, x3), $c(x1, x2, x3), negate) as u64
            });
        }};
    }
    fn x1<T>(a: T, _: T, _: T) -> T {
        a
    }
    fn x2<T>(_: T, b: T, _: T) -> T {
        b
    }
    fn x3<T>(_: T, _: T, c: T) -> T {
        c
    }
    form!("vfmadd132sd", triple64, M64, u64, (x1, x3, x2), false, false);
    form!("vfmadd213sd", triple64, M64, u64, (x2, x1, x3), false, false);
    form!("vfmadd231sd", triple64, M64, u64, (x2, x3, x1), false, false);
    form!("vfmsub213sd", triple64, M64, u64, (x2, x1, x3), false, true);
    form!("vfnmadd231sd", triple64, M64, u64, (x2, x3, x1), true, false);
    form!("vfnmsub132sd", triple64, M64, u64, (x1, x3, x2), true, true);
    form!("vfmadd132ss", triple32, M32, u32, (x1, x3, x2), false, false);
    form!("vfmadd213ss", triple32, M32, u32, (x2, x1, x3), false, false);
    form!("vfmsub231ss", triple32, M32, u32, (x2, x3, x1), false, true);
    form!("vfnmadd213ss", triple32, M32, u32, (x2, x1, x3), true, false);
    form!("vfnmsub231ss", triple32, M32, u32, (x2, x3, x1), true, true);
}
