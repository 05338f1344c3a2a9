//! Tests against the host's silicon and against an independent soft float.

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod silicon;

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
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod unmasked;
