//! The approximations: bit for bit where the architecture says so, within the documented error elsewhere.

use super::generate::Gen;
use super::silicon::{M32, M64, agree};
use crate::{Format, rcp, rcp14, rsqrt, rsqrt14};

/// Half of the operands over all exponents, with dense fractions.
fn one<F: Format>(random: &mut Gen) -> [u64; 3] {
    let a: F = random.operand();
    if random.below(2) == 0 {
        return [a.to_bits(), 0, 0];
    }
    let frac = random.bits() & F::FRAC_MASK;
    [a.to_bits() & F::SIGN | random.below(F::EXP_MAX) << F::FRAC_BITS | frac, 0, 0]
}

#[test]
fn fourteen_bit_forms_agree() {
    if !std::arch::is_x86_feature_detected!("avx512f") {
        return;
    }
    silicon!(rcp14ss, "vrcp14ss xmm0, xmm0, xmm1");
    silicon!(rcp14sd, "vrcp14sd xmm0, xmm0, xmm1");
    silicon!(rsqrt14ss, "vrsqrt14ss xmm0, xmm0, xmm1");
    silicon!(rsqrt14sd, "vrsqrt14sd xmm0, xmm0, xmm1");
    agree("vrcp14ss", 500_000, M32, rcp14ss, one::<u32>, |e, [a, ..]| rcp14(e, a as u32) as u64);
    agree("vrcp14sd", 500_000, M64, rcp14sd, one::<u64>, |e, [a, ..]| rcp14(e, a));
    agree("vrsqrt14ss", 500_000, M32, rsqrt14ss, one::<u32>, |e, [a, ..]| rsqrt14(e, a as u32) as u64);
    agree("vrsqrt14sd", 500_000, M64, rsqrt14sd, one::<u64>, |e, [a, ..]| rsqrt14(e, a));
}

/// Every step of the significand, at both parities of the exponent.
#[test]
fn fourteen_bit_forms_agree_on_all_significands() {
    if !std::arch::is_x86_feature_detected!("avx512f") {
        return;
    }
    silicon!(reciprocal, "vrcp14ss xmm0, xmm0, xmm1");
    silicon!(root, "vrsqrt14ss xmm0, xmm0, xmm1");
    let env = crate::FpEnv::from_mxcsr(0x1f80);
    for a in (0x3f80_0000u32..0x4080_0000).step_by(13) {
        assert_eq!(rcp14(&env, a), reciprocal(0x1f80, a as u64, 0, 0).0 as u32, "{a:#x}");
        assert_eq!(rsqrt14(&env, a), root(0x1f80, a as u64, 0, 0).0 as u32, "{a:#x}");
    }
}

/// SDM 2B RCPPS, RSQRTPS: relative error at most 1.5 * 2^-12. On Intel's silicon the bits are the same, too.
#[test]
fn twelve_bit_forms() {
    let limit = 1.5 / 4096.0;
    for a in (0x3f80_0000u32..0x4080_0000).step_by(101) {
        let x = f32::from_bits(a) as f64;
        assert!((f32::from_bits(rcp(a)) as f64 * x - 1.0).abs() <= limit, "rcp {a:#x}");
        assert!((f32::from_bits(rsqrt(a)) as f64 * x.sqrt() - 1.0).abs() <= limit, "rsqrt {a:#x}");
    }
    if core::arch::x86_64::__cpuid(0).ecx == u32::from_le_bytes(*b"ntel") {
        silicon!(rcpss, "rcpss xmm0, xmm1");
        silicon!(rsqrtss, "rsqrtss xmm0, xmm1");
        agree("rcpss", 500_000, M32, rcpss, one::<u32>, |_, [a, ..]| rcp(a as u32) as u64);
        agree("rsqrtss", 500_000, M32, rsqrtss, one::<u32>, |_, [a, ..]| rsqrt(a as u32) as u64);
    }
}
