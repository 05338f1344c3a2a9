//! Runs one instruction on the host under a given MXCSR.

use super::generate::Gen;
use crate::{FpEnv, FpFlags};

/// `fn NAME(mxcsr, a, b, c) -> (result, mxcsr after)`: runs the instructions with `a` in xmm0 and xmm1, `b` in xmm2, `c` in
/// xmm3; the result is in xmm0. rax and k1 may be used.
macro_rules! silicon {
    ($name:ident $(<const $imm:ident>)?, $($insn:expr),+) => {
        fn $name $(<const $imm: u8>)? (mxcsr: u32, a: u64, b: u64, c: u64) -> (u64, u32) {
            let mut old = 0u32;
            let mut new = mxcsr;
            let result: u64;
            // SAFETY: registers only, all declared; MXCSR is restored. Callers have checked the CPU's features.
            unsafe {
                core::arch::asm!(
                    "stmxcsr [{old}]",
                    "movq xmm0, {a}", "movq xmm1, {a}", "movq xmm2, {b}", "movq xmm3, {c}",
                    "ldmxcsr [{new}]",
                    $($insn,)+
                    "stmxcsr [{new}]",
                    "ldmxcsr [{old}]",
                    "movq {a}, xmm0",
                    old = in(reg) &mut old, new = in(reg) &mut new,
                    a = inout(reg) a => result, b = in(reg) b, c = in(reg) c,
                    $($imm = const $imm,)?
                    out("rax") _, out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("k1") _,
                );
            }
            (result, new)
        }
    };
}

pub type Silicon = fn(u32, u64, u64, u64) -> (u64, u32);

/// Runs `cases` operands through the host and through `ours`; result bits under `mask` and all flags must agree.
pub fn agree(
    name: &str,
    cases: u32,
    mask: u64,
    silicon: Silicon,
    mut operands: impl FnMut(&mut Gen) -> [u64; 3],
    ours: impl Fn(&mut FpEnv, [u64; 3]) -> u64,
) {
    let mut random = Gen::new(name.bytes().fold(7, |h: u64, b| h.wrapping_mul(31) + b as u64));
    let mut failures = 0;
    for _ in 0..cases {
        let mxcsr = random.mxcsr();
        let [a, b, c] = operands(&mut random);
        let (want, after) = silicon(mxcsr, a, b, c);
        let want_flags = FpFlags::from_bits_truncate(after as u8);
        let mut env = FpEnv::from_mxcsr(mxcsr);
        let got = ours(&mut env, [a, b, c]);
        if (got ^ want) & mask != 0 || env.flags != want_flags {
            failures += 1;
            if failures <= 12 {
                eprintln!(
                    "{name} mxcsr={mxcsr:#x} a={a:#x} b={b:#x} c={c:#x}: got {:#x} {:?}, silicon {:#x} {:?}",
                    got & mask,
                    env.flags,
                    want & mask,
                    want_flags
                );
            }
        }
    }
    assert_eq!(failures, 0, "{name}: {failures} of {cases} differ from silicon");
}

pub const M32: u64 = 0xffff_ffff;
pub const M64: u64 = u64::MAX;
