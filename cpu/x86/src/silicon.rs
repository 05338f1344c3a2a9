//! What the manuals leave undefined, or to the processor, is as on the host's silicon.
//!
//! Translated code runs the host's own instructions, with the host's flags. Both engines have to agree to the last bit, so the
//! functions of instructions give the same, whichever vendor's processor is emulated.

use std::sync::LazyLock;

/// Families of processors by what they do with undefined status flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Silicon {
    /// As measured on Golden Cove.
    Intel,
    /// As measured on Zen 4.
    Amd,
}

impl Silicon {
    /// The host's.
    pub fn host() -> Self {
        static HOST: LazyLock<Silicon> = LazyLock::new(Silicon::ask);
        *HOST
    }

    fn ask() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let id = core::arch::x86_64::__cpuid(0);
            // "AuthenticAMD", "HygonGenuine".
            if matches!(
                (id.ebx, id.edx, id.ecx),
                (0x6874_7541, 0x6974_6e65, 0x444d_4163) | (0x6f67_7948, 0x6e65_476e, 0x656e_6975)
            ) {
                return Self::Amd;
            }
        }
        Self::Intel
    }
}

/// Whether BSF and BSR change no flag but ZF, as on Zen 3; on Zen 4 the others are those of a logical instruction.
pub(crate) fn scans_keep_flags() -> bool {
    static KEEP: LazyLock<bool> = LazyLock::new(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let carry: u8;
            // SAFETY: it computes with registers alone.
            unsafe {
                core::arch::asm!(
                    "stc", "bsf {n}, {n}", "setc {carry}",
                    n = inout(reg) 1_u64 => _, carry = out(reg_byte) carry, options(nomem, nostack)
                );
            }
            return carry != 0;
        }
        #[allow(unreachable_code)]
        false
    });
    *KEEP
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use ringworld_fp::{rcp, rsqrt};

/// RCPSS: approximations are within an error that the manual gives (SDM 2B), and differ between vendors.
#[cfg(target_arch = "x86_64")]
pub(crate) fn rcp(a: u32) -> u32 {
    use core::arch::x86_64::{_mm_cvtss_f32, _mm_rcp_ss, _mm_set_ss};
    // SAFETY: every 64-bit processor has SSE.
    unsafe { _mm_cvtss_f32(_mm_rcp_ss(_mm_set_ss(f32::from_bits(a)))) }.to_bits()
}

/// RSQRTSS: as [`rcp`].
#[cfg(target_arch = "x86_64")]
pub(crate) fn rsqrt(a: u32) -> u32 {
    use core::arch::x86_64::{_mm_cvtss_f32, _mm_rsqrt_ss, _mm_set_ss};
    // SAFETY: every 64-bit processor has SSE.
    unsafe { _mm_cvtss_f32(_mm_rsqrt_ss(_mm_set_ss(f32::from_bits(a)))) }.to_bits()
}
