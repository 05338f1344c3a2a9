//! Unmasked exceptions: which flags a faulting instruction leaves in MXCSR (SDM 1 11.5.3).

use super::generate::Gen;
use crate::{FpEnv, add, div, mul, single_to_half, sub};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const NONE: u32 = u32::MAX;
/// MXCSR at the fault. Tests on other threads do not unmask exceptions.
static FAULT: AtomicU32 = AtomicU32::new(NONE);

/// Notes MXCSR and masks all exceptions, so that the instruction runs to its end.
extern "C" fn on_fpe(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context with the FXSAVE image of this thread.
    unsafe {
        let context = &mut *(context as *mut libc::ucontext_t);
        let fpregs = &mut *context.uc_mcontext.fpregs;
        FAULT.store(fpregs.mxcsr, SeqCst);
        fpregs.mxcsr |= 0x1f80;
    }
}

fn lanes(random: &mut Gen) -> (u64, u64) {
    let ((a, b), (c, d)) = (random.pair::<u32>(), random.pair::<u32>());
    (a as u64 | (c as u64) << 32, b as u64 | (d as u64) << 32)
}

#[test]
fn packed_faults_agree() {
    // SAFETY: a handler of the right type.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = on_fpe as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGFPE, &action, core::ptr::null_mut()), 0);
    }
    macro_rules! packed {
        ($insn:literal, $ours:expr) => {{
            silicon!(host, "punpcklqdq xmm0, xmm0", "punpcklqdq xmm2, xmm2", $insn);
            packed!(@run host, $insn, $ours);
        }};
        (@run $host:ident, $insn:literal, $ours:expr) => {{
            let mut random = Gen::new(11);
            for _ in 0..40_000 {
                // Each mask on its own, so that every subset turns up.
                let mxcsr = random.mxcsr() & !((random.bits() & 0x3f) << 7) as u32;
                let (a, b) = lanes(&mut random);
                FAULT.store(NONE, SeqCst);
                let (want, after) = $host(mxcsr, a, b, 0);
                let fault = FAULT.load(SeqCst);
                let mut env = FpEnv::from_mxcsr(mxcsr);
                env.amd = super::host_is_amd();
                let low: u32 = $ours(&mut env, a as u32, b as u32);
                let high: u32 = $ours(&mut env, (a >> 32) as u32, (b >> 32) as u32);
                let outcome = env.outcome();
                let context = format!("{} {mxcsr:#x} {a:#x} {b:#x} {env:?}", $insn);
                assert_eq!(outcome.fault, fault != NONE, "{context} {fault:#x}");
                if outcome.fault {
                    assert_eq!(outcome.flags.bits() as u32, fault & 0x3f, "{context} {fault:#x}");
                } else {
                    assert_eq!(outcome.flags.bits() as u32, after & 0x3f, "{context} {after:#x}");
                    assert_eq!(low as u64 | (high as u64) << 32, want, "{context}");
                }
            }
        }};
    }
    packed!("addps xmm0, xmm2", add);
    packed!("subps xmm0, xmm2", sub);
    packed!("mulps xmm0, xmm2", mul);
    packed!("divps xmm0, xmm2", div);
    if std::arch::is_x86_feature_detected!("f16c") {
        // The halves are widened again, so that results have the lanes of the others.
        silicon!(host, "punpcklqdq xmm0, xmm0", "vcvtps2ph xmm0, xmm0, 4", "vpmovzxwd xmm0, xmm0");
        packed!(@run host, "vcvtps2ph", |env: &mut FpEnv, a, _| single_to_half(env, a, env.rounding) as u32);
    }
}
