//! Which forms a host can be asked about.

use crate::case::Mode;
use iced_x86::{Code, CpuidFeature, DecoderOptions, Mnemonic};
use ringworld_x86::Silicon;
use ringworld_x86::control::xcr0;
use std::sync::LazyLock;

/// Why a form is not run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unasked {
    /// The host lacks a CPUID feature.
    Host(String),
    /// User mode under an operating system cannot see what it does.
    Excluded(&'static str),
}

/// Whether `code` can be run on this host, and if not, why.
pub fn askable(code: Code) -> Result<(), Unasked> {
    if let Some(reason) = excluded(code) {
        return Err(Unasked::Excluded(reason));
    }
    match code.cpuid_features().iter().find(|&&feature| !host_has(feature)) {
        Some(feature) => Err(Unasked::Host(format!("{feature:?}"))),
        None => Ok(()),
    }
}

/// Forms that are not compared natively. (Privileged ones are: user mode must see their #GP.)
fn excluded(code: Code) -> Option<&'static str> {
    use Mnemonic::*;
    let op_code = code.op_code();
    if !op_code.mode64() && !op_code.mode32() {
        return Some("16-bit code only");
    }
    if !decodes(code, Mode::Long64) && !decodes(code, Mode::Compat32) {
        return Some("the other vendor's decoding");
    }
    Some(match code.mnemonic() {
        Cpuid => "the answer is the CPU model's",
        Rdtsc | Rdtscp | Rdpmc => "time and counters never agree",
        Rdrand | Rdseed => "random",
        Rdpkru | Wrpkru if host_has(CpuidFeature::PKU) => "protection keys are the operating system's",
        Rdpid => "the answer is the operating system's TSC_AUX",
        Sgdt | Sidt | Sldt | Smsw | Str => "UMIP: Linux emulates it for user mode",
        Syscall | Sysenter | Int | Int1 | Int3 | Into => "enters the operating system",
        Xbegin | Xend | Xabort | Xtest => "transactions abort under single-stepping",
        Vmcall | Vmmcall | Vmfunc | Encls | Enclu | Enclv | Getsec | Pconfig => {
            "the hypervisor may answer it"
        }
        Umonitor | Umwait | Tpause | Monitor | Mwait | Monitorx | Mwaitx => "waits",
        Ptwrite => "a trace may be running",
        Clui | Stui | Testui | Senduipi | Uiret => "user interrupts are the operating system's to enable",
        Enqcmd | Enqcmds => "needs a device",
        _ => return None,
    })
}

#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    let highest = __cpuid(leaf & 0x8000_0000).eax;
    if leaf > highest {
        return [0; 4];
    }
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

#[cfg(not(target_arch = "x86_64"))]
fn cpuid(_: u32, _: u32) -> [u32; 4] {
    [0; 4]
}

/// CPUID leaf, subleaf, register (0: EAX to 3: EDX) and bit of a feature (SDM 2A CPUID, APM 3 appendix E).
fn bit_of(feature: CpuidFeature) -> Option<(u32, u32, usize, u32)> {
    use CpuidFeature::*;
    const EXTENDED: u32 = 0x8000_0001;
    Some(match feature {
        CX8 => (1, 0, 3, 8),
        SEP => (1, 0, 3, 11),
        CMOV => (1, 0, 3, 15),
        CLFSH => (1, 0, 3, 19),
        MMX => (1, 0, 3, 23),
        FXSR => (1, 0, 3, 24),
        SSE => (1, 0, 3, 25),
        SSE2 => (1, 0, 3, 26),
        SSE3 => (1, 0, 2, 0),
        PCLMULQDQ => (1, 0, 2, 1),
        MONITOR => (1, 0, 2, 3),
        SSSE3 => (1, 0, 2, 9),
        FMA => (1, 0, 2, 12),
        CMPXCHG16B => (1, 0, 2, 13),
        SSE4_1 => (1, 0, 2, 19),
        SSE4_2 => (1, 0, 2, 20),
        MOVBE => (1, 0, 2, 22),
        POPCNT => (1, 0, 2, 23),
        AES => (1, 0, 2, 25),
        XSAVE => (1, 0, 2, 27),
        AVX => (1, 0, 2, 28),
        F16C => (1, 0, 2, 29),
        FSGSBASE => (7, 0, 1, 0),
        BMI1 => (7, 0, 1, 3),
        AVX2 => (7, 0, 1, 5),
        BMI2 => (7, 0, 1, 8),
        AVX512F => (7, 0, 1, 16),
        AVX512DQ => (7, 0, 1, 17),
        ADX => (7, 0, 1, 19),
        SMAP => (7, 0, 1, 20),
        AVX512_IFMA => (7, 0, 1, 21),
        CLFLUSHOPT => (7, 0, 1, 23),
        CLWB => (7, 0, 1, 24),
        AVX512CD => (7, 0, 1, 28),
        SHA => (7, 0, 1, 29),
        AVX512BW => (7, 0, 1, 30),
        AVX512VL => (7, 0, 1, 31),
        AVX512_VBMI => (7, 0, 2, 1),
        // OSPKE: without it the instructions raise #UD on both sides, but only if the model knows.
        PKU => (7, 0, 2, 4),
        AVX512_VBMI2 => (7, 0, 2, 6),
        CET_SS => (7, 0, 2, 7),
        GFNI => (7, 0, 2, 8),
        VAES => (7, 0, 2, 9),
        VPCLMULQDQ => (7, 0, 2, 10),
        AVX512_VNNI => (7, 0, 2, 11),
        AVX512_BITALG => (7, 0, 2, 12),
        AVX512_VPOPCNTDQ => (7, 0, 2, 14),
        MOVDIRI => (7, 0, 2, 27),
        MOVDIR64B => (7, 0, 2, 28),
        AVX512_VP2INTERSECT => (7, 0, 3, 8),
        SERIALIZE => (7, 0, 3, 14),
        TSXLDTRK => (7, 0, 3, 16),
        AVX512_FP16 => (7, 0, 3, 23),
        SHA512 => (7, 1, 0, 0),
        SM3 => (7, 1, 0, 1),
        SM4 => (7, 1, 0, 2),
        RAO_INT => (7, 1, 0, 3),
        AVX_VNNI => (7, 1, 0, 4),
        AVX512_BF16 => (7, 1, 0, 5),
        CMPCCXADD => (7, 1, 0, 7),
        AVX_IFMA => (7, 1, 0, 23),
        AVX_VNNI_INT8 => (7, 1, 3, 4),
        AVX_NE_CONVERT => (7, 1, 3, 5),
        AVX_VNNI_INT16 => (7, 1, 3, 10),
        XSAVEOPT => (0xd, 1, 0, 0),
        XSAVEC => (0xd, 1, 0, 1),
        XSAVES => (0xd, 1, 0, 3),
        CpuidFeature::LZCNT => (EXTENDED, 0, 2, 5),
        SSE4A => (EXTENDED, 0, 2, 6),
        PREFETCHW => (EXTENDED, 0, 2, 8),
        XOP => (EXTENDED, 0, 2, 11),
        FMA4 => (EXTENDED, 0, 2, 16),
        TBM => (EXTENDED, 0, 2, 21),
        SYSCALL => (EXTENDED, 0, 3, 11),
        RDTSCP => (EXTENDED, 0, 3, 27),
        D3NOWEXT => (EXTENDED, 0, 3, 30),
        D3NOW => (EXTENDED, 0, 3, 31),
        _ => return None,
    })
}

/// Whether the host has a CPUID feature.
fn host_has(feature: CpuidFeature) -> bool {
    use CpuidFeature::*;
    match feature {
        // Every 64-bit processor; or what is privileged and raises #GP or #UD anyway.
        INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | X64 | FPU | FPU287 | FPU387 | CPUID | MSR
        | TSC | PAUSE | MULTIBYTENOP | CET_IBT | CLDEMOTE | PREFETCHITI | WBNOINVD | INVPCID | SMM => true,
        // Outside of 64-bit mode only on processors of old; no 64-bit processor has them.
        INTEL8086_ONLY => true,
        _ => bit_of(feature)
            .is_some_and(|(leaf, subleaf, register, bit)| cpuid(leaf, subleaf)[register] & 1 << bit != 0),
    }
}

/// The components of extended state that cases have and that the host's operating system has enabled: bits of XCR0.
pub fn host_state() -> u64 {
    const KNOWN: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512;
    #[cfg(target_arch = "x86_64")]
    if cpuid(1, 0)[2] & 1 << 27 != 0 {
        let low: u32;
        // SAFETY: OSXSAVE says that XGETBV may be used, and XCR0 is there always.
        unsafe {
            core::arch::asm!(
                "xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)
            );
        }
        return u64::from(low) & KNOWN;
    }
    KNOWN
}

static INTEL: LazyLock<bool> = LazyLock::new(|| Silicon::host() == Silicon::Intel);

/// Whether the host is Intel's; if not, AMD's rules are expected of it.
pub fn host_is_intel() -> bool {
    *INTEL
}

/// The CPU model that a host is compared with: everything, by the rules of the host's vendor.
pub fn host_model() -> String {
    if host_is_intel() {
        return "max".into();
    }
    // The order of REPE CMPSB's accesses shows it.
    let fsrc = if cpuid(7, 1)[0] >> 12 & 1 == 0 { ",-fsrc" } else { "" };
    let null = if null_clears_base() { ",+null-sel-clr-base" } else { "" };
    format!("max,vendor=AuthenticAMD,+sse4a,+misalignsse,+cr8legacy,+clzero,+xsaveerptr{null}{fsrc}")
}

/// Whether loading a null selector clears the base of GS. CPUID tells (APM 3 E.4.18), but hypervisors may not pass that on.
fn null_clears_base() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    // SAFETY: HWCAP2 says that the kernel has enabled FSGSBASE. Nothing of a Linux process uses GS, and selector and base are
    // zero afterwards, as they were.
    unsafe {
        if libc::getauxval(libc::AT_HWCAP2) & 2 != 0 {
            let base: u64;
            core::arch::asm!(
                "wrgsbase {base}",
                "mov gs, {null:e}",
                "rdgsbase {base}",
                "wrgsbase {null}",
                base = inout(reg) 0x1000_u64 => base,
                null = in(reg) 0_u64,
                options(nomem, nostack, preserves_flags),
            );
            return base == 0;
        }
    }
    cpuid(0x8000_0021, 0)[0] & 1 << 6 != 0
}

/// How the host decodes.
pub fn decoder_options() -> u32 {
    if host_is_intel() { DecoderOptions::NONE } else { DecoderOptions::AMD }
}

/// Whether a form exists in a mode, as the host decodes.
pub fn decodes(code: Code, mode: Mode) -> bool {
    let info = code.op_code();
    let (exists, intel, amd) = match mode {
        Mode::Long64 => (info.mode64(), info.intel_decoder64(), info.amd_decoder64()),
        Mode::Compat32 => (info.mode32(), info.intel_decoder32(), info.amd_decoder32()),
    };
    exists && if host_is_intel() { intel } else { amd }
}
