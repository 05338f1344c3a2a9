//! What the host can execute: the translator emits nothing else.

use iced_x86::CpuidFeature;
use ringworld_x86::Silicon;

macro_rules! features {
    ($($feature:ident: $name:tt,)*) => {
        /// Whether the host has a feature that guest code may use natively. What is not listed is not emitted.
        pub fn has(feature: CpuidFeature) -> bool {
            match feature {
                $(CpuidFeature::$feature => std::is_x86_feature_detected!($name),)*
                // Every 64-bit processor.
                CpuidFeature::INTEL8086
                | CpuidFeature::INTEL186
                | CpuidFeature::INTEL286
                | CpuidFeature::INTEL386
                | CpuidFeature::INTEL486
                | CpuidFeature::X64
                | CpuidFeature::FPU
                | CpuidFeature::FPU287
                | CpuidFeature::FPU387
                | CpuidFeature::MMX
                | CpuidFeature::CMOV
                | CpuidFeature::CX8
                | CpuidFeature::MULTIBYTENOP => true,
                _ => false,
            }
        }
    };
}

features! {
    SSE: "sse",
    SSE2: "sse2",
    SSE3: "sse3",
    SSSE3: "ssse3",
    SSE4_1: "sse4.1",
    SSE4_2: "sse4.2",
    POPCNT: "popcnt",
    CMPXCHG16B: "cmpxchg16b",
    LZCNT: "lzcnt",
    MOVBE: "movbe",
    BMI1: "bmi1",
    BMI2: "bmi2",
    ADX: "adx",
    AES: "aes",
    PCLMULQDQ: "pclmulqdq",
    SHA: "sha",
    AVX: "avx",
    AVX2: "avx2",
    FMA: "fma",
    F16C: "f16c",
    VAES: "vaes",
    VPCLMULQDQ: "vpclmulqdq",
    GFNI: "gfni",
    AVX512F: "avx512f",
    AVX512BW: "avx512bw",
    AVX512DQ: "avx512dq",
    AVX512VL: "avx512vl",
    AVX512CD: "avx512cd",
    AVX512_IFMA: "avx512ifma",
    AVX512_VBMI: "avx512vbmi",
    AVX512_VBMI2: "avx512vbmi2",
    AVX512_VNNI: "avx512vnni",
    AVX512_BITALG: "avx512bitalg",
    AVX512_VPOPCNTDQ: "avx512vpopcntdq",
    AVX512_BF16: "avx512bf16",
}

/// Whether the host has what the emitted sequences themselves need: CRC32 (SSE4.2), BMI1, BMI2, and LAHF in 64-bit mode.
pub fn is_enough() -> bool {
    let features = std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("bmi1");
    features && std::is_x86_feature_detected!("bmi2") && lahf()
}

/// LAHF in 64-bit mode (all processors with BMI2 have it; the probe is cheap).
fn lahf() -> bool {
    // The leaf is there on every 64-bit processor.
    core::arch::x86_64::__cpuid(0x8000_0001).ecx & 1 != 0
}

/// Whether programs may set the base of GS: the processor can, and the kernel lets them (Linux, AT_HWCAP2 of x86).
pub fn has_fsgsbase() -> bool {
    // SAFETY: reads what the kernel has said at the start.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

/// Whether LOOP is no slower than other branches: it is on AMD's processors since 2011 (on Intel's, it takes several
/// operations).
pub fn has_fast_loop() -> bool {
    Silicon::host() == Silicon::Amd
}

/// Whether gathers read one element after the other (Intel's may read more than those before one that cannot be read, SDM 2, VPGATHERDD).
pub fn reads_in_order() -> bool {
    Silicon::host() == Silicon::Amd
}

/// Whether guests' AVX-512 instructions are the host's own.
pub fn has_avx512() -> bool {
    vector_bytes() == 64
}

/// The widest vector state that exists on the host: 16, 32 or 64 bytes.
pub fn vector_bytes() -> usize {
    if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw") {
        64
    } else if std::is_x86_feature_detected!("avx") {
        32
    } else {
        16
    }
}
