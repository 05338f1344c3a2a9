//! Tests against the host's silicon and against an independent soft float.

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod silicon;
mod x87_operands;
#[cfg(target_arch = "x86_64")]
#[macro_use]
mod x87_silicon;

mod apfloat;
mod generate;
#[cfg(target_arch = "x86_64")]
mod host_approx;
#[cfg(target_arch = "x86_64")]
mod host_arith;
#[cfg(target_arch = "x86_64")]
mod host_avx512;
#[cfg(target_arch = "x86_64")]
mod host_convert;
#[cfg(target_arch = "x86_64")]
mod host_transcendental;
#[cfg(target_arch = "x86_64")]
mod host_x87;
mod robust;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod unmasked;

/// Whether the host's processor is AMD's, whose silicon has ways of its own where the manuals leave them open.
#[cfg(target_arch = "x86_64")]
fn host_is_amd() -> bool {
    // "AuthenticAMD" begins so.
    core::arch::x86_64::__cpuid(0).ebx == 0x6874_7541
}
