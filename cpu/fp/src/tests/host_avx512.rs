//! AVX-512's own element functions against the host.

use super::generate::Gen;
use super::silicon::{M32, M64, agree};
use crate::{Format, fixupimm, fpclass, getexp, getmant, range, reduce, rndscale, scalef};

const CASES: u32 = 20_000;

fn pair<F: Format>(random: &mut Gen) -> [u64; 3] {
    let (a, b) = random.pair::<F>();
    [a.to_bits(), b.to_bits(), 0]
}

macro_rules! immediates {
    ($test:ident, $single:literal, $double:literal, $ours:expr, $($i:literal)*) => {
        #[test]
        fn $test() {
            if !std::arch::is_x86_feature_detected!("avx512dq") {
                return;
            }
            silicon!(single<const I>, $single);
            silicon!(double<const I>, $double);
            $(
                agree($single, CASES, M32, single::<$i>, pair::<u32>, |e, [a, b, _]| {
                    $ours(e, a as u32, b as u32, $i) as u64
                });
                agree($double, CASES, M64, double::<$i>, pair::<u64>, |e, [a, b, _]| $ours(e, a, b, $i));
            )*
        }
    };
}

immediates!(rndscale_agrees, "vrndscaless xmm0, xmm1, xmm1, {I}", "vrndscalesd xmm0, xmm1, xmm1, {I}",
    |e: &mut _, a, _, i| rndscale(e, a, i), 0 1 2 3 4 8 0x10 0x13 0x24 0x48 0x81 0x90 0xf0 0xf3 0xfb);
immediates!(reduce_agrees, "vreducess xmm0, xmm1, xmm1, {I}", "vreducesd xmm0, xmm1, xmm1, {I}",
    |e: &mut _, a, _, i| reduce(e, a, i), 0 1 2 3 4 8 0x10 0x13 0x24 0x48 0x81 0x90 0xf0 0xf3 0xfb);
immediates!(range_agrees, "vrangess xmm0, xmm1, xmm2, {I}", "vrangesd xmm0, xmm1, xmm2, {I}",
    range, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
immediates!(getmant_agrees, "vgetmantss xmm0, xmm1, xmm1, {I}", "vgetmantsd xmm0, xmm1, xmm1, {I}",
    |e: &mut _, a, _, i| getmant(e, a, i), 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
immediates!(getexp_agrees, "vgetexpss xmm0, xmm1, xmm1 # {I}", "vgetexpsd xmm0, xmm1, xmm1 # {I}",
    |e: &mut _, a, _, _| getexp(e, a), 0 1 2 3);
immediates!(scalef_agrees, "vscalefss xmm0, xmm1, xmm2 # {I}", "vscalefsd xmm0, xmm1, xmm2 # {I}",
    |e: &mut _, a, b, _| scalef(e, a, b), 0 1 2 3 4 5 6 7);

/// The classes of a value and the bits that they report.
#[test]
fn fpclass_agrees() {
    if !std::arch::is_x86_feature_detected!("avx512dq") {
        return;
    }
    silicon!(single<const I>, "vfpclassss k1, xmm1, {I}", "kmovw eax, k1", "movq xmm0, rax");
    silicon!(double<const I>, "vfpclasssd k1, xmm1, {I}", "kmovw eax, k1", "movq xmm0, rax");
    macro_rules! all {
        ($($i:literal)*) => {$(
            agree("vfpclassss", CASES, M64, single::<$i>, pair::<u32>, |e, [a, ..]| {
                fpclass(e, a as u32, $i) as u64
            });
            agree("vfpclasssd", CASES, M64, double::<$i>, pair::<u64>, |e, [a, ..]| fpclass(e, a, $i) as u64);
        )*};
    }
    all!(1 2 4 8 16 32 64 128 255);
}

#[test]
fn fixupimm_agrees() {
    if !std::arch::is_x86_feature_detected!("avx512f") {
        return;
    }
    silicon!(single<const I>, "vfixupimmss xmm0, xmm2, xmm3, {I}");
    silicon!(double<const I>, "vfixupimmsd xmm0, xmm2, xmm3, {I}");
    fn operands<F: Format>(random: &mut Gen) -> [u64; 3] {
        let [a, b, _] = pair::<F>(random);
        let one = (F::BIAS as u64) << F::FRAC_BITS;
        [a, if random.below(8) == 0 { one } else { b }, random.bits() & M32]
    }
    macro_rules! all {
        ($($i:literal)*) => {$(
            agree("vfixupimmss", CASES, M32, single::<$i>, operands::<u32>, |e, [a, b, c]| {
                fixupimm(e, a as u32, b as u32, c as u32, $i) as u64
            });
            agree("vfixupimmsd", CASES, M64, double::<$i>, operands::<u64>, |e, [a, b, c]| {
                fixupimm(e, a, b, c as u32, $i)
            });
        )*};
    }
    all!(0 1 2 4 8 16 32 64 128 255);
}
