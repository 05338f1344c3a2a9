//! The features that CPUID can show: their names, their bits, the instructions that they stand for, what they need.

use super::features::Register::*;
use iced_x86::CpuidFeature as F;

/// An output register of CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// One bit of CPUID's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input.
    pub subleaf: u32,
    /// Output register.
    pub register: Register,
    /// Bit number.
    pub bit: u8,
}

/// What there is to know of a feature.
#[derive(Debug)]
pub struct Info {
    /// The feature.
    pub feature: Feature,
    /// Its name, and other names that users of QEMU or Linux know it by.
    pub names: &'static [&'static str],
    /// Its bit; `None` for one that is shown in another way (the PMU has a leaf of its own).
    pub place: Option<Place>,
    /// What iced attributes its instructions to.
    pub forms: &'static [F],
    /// The features that it cannot be without.
    pub needs: &'static [Feature],
    /// Whether what is not an instruction form of it (system state, behaviour) exists. Forms are looked up in the table of
    /// rows.
    pub system_part: bool,
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Features([u64; 4]);

impl Features {
    /// Whether `feature` is in the set.
    pub const fn has(&self, feature: Feature) -> bool {
        self.0[feature as usize >> 6] >> (feature as usize & 63) & 1 != 0
    }

    /// Adds a feature.
    pub const fn insert(&mut self, feature: Feature) {
        self.0[feature as usize >> 6] |= 1 << (feature as usize & 63);
    }

    /// Takes a feature out.
    pub const fn remove(&mut self, feature: Feature) {
        self.0[feature as usize >> 6] &= !(1 << (feature as usize & 63));
    }

    /// Adds a feature and everything that it needs.
    pub fn insert_with_needs(&mut self, feature: Feature) {
        if !self.has(feature) {
            self.insert(feature);
            for &need in feature.info().needs {
                self.insert_with_needs(need);
            }
        }
    }

    /// Takes a feature out, and everything that needs it.
    pub fn remove_with_dependents(&mut self, feature: Feature) {
        self.remove(feature);
        for info in TABLE {
            if self.has(info.feature) && info.needs.contains(&feature) {
                self.remove_with_dependents(info.feature);
            }
        }
    }

    /// The features in the set, in the table's order.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        TABLE.iter().map(|info| info.feature).filter(move |&feature| self.has(feature))
    }

    /// Those in both sets.
    pub fn and(self, other: Self) -> Self {
        Self(core::array::from_fn(|n| self.0[n] & other.0[n]))
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        let mut set = Self::default();
        features.into_iter().for_each(|feature| set.insert(feature));
        set
    }
}

impl Feature {
    /// What there is to know of it.
    pub fn info(self) -> &'static Info {
        &TABLE[self as usize]
    }

    /// Its first name.
    pub fn name(self) -> &'static str {
        self.info().names[0]
    }

    /// The feature of this name. Letter case, and whether `-`, `_` or `.` separates words, do not matter.
    pub fn by_name(name: &str) -> Option<Self> {
        let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
        let wanted = plain(name);
        TABLE.iter().find(|info| info.names.iter().any(|name| plain(name) == wanted)).map(|info| info.feature)
    }
}

macro_rules! place {
    () => {
        None
    };
    ($leaf:literal $subleaf:literal $register:ident $bit:literal) => {
        Some(Place { leaf: $leaf, subleaf: $subleaf, register: $register, bit: $bit })
    };
}

macro_rules! features {
    ($($feature:ident $names:tt at [$($place:tt)*] forms [$($form:ident)*] needs [$($need:ident)*] $system:ident;)*) => {
        /// A feature. The order matters where features share an instruction form: the last one is the one that the
        /// form is counted for.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Feature {
            $($feature,)*
        }

        /// All features.
        pub static TABLE: &[Info] = &[$(Info {
            feature: Feature::$feature,
            names: &$names,
            place: place!($($place)*),
            forms: &[$(F::$form),*],
            needs: &[$(Feature::$need),*],
            system_part: features!(@$system),
        },)*];
    };
    (@yes) => { true };
    (@no) => { false };
}

features! {
    // Leaf 1 (SDM 2A CPUID, tables 3-10 and 3-11).
    Fpu ["fpu"] at [1 0 Edx 0] forms [FPU FPU287 FPU387] needs [] yes;
    Vme ["vme"] at [1 0 Edx 1] forms [] needs [] yes;
    De ["de"] at [1 0 Edx 2] forms [] needs [] yes;
    Pse ["pse"] at [1 0 Edx 3] forms [] needs [] yes;
    Tsc ["tsc"] at [1 0 Edx 4] forms [TSC] needs [] yes;
    Msr ["msr"] at [1 0 Edx 5] forms [MSR] needs [] yes;
    Pae ["pae"] at [1 0 Edx 6] forms [] needs [] yes;
    Mce ["mce"] at [1 0 Edx 7] forms [] needs [Msr] yes;
    Cx8 ["cx8"] at [1 0 Edx 8] forms [CX8] needs [] yes;
    Apic ["apic"] at [1 0 Edx 9] forms [] needs [Msr] yes;
    Sep ["sep"] at [1 0 Edx 11] forms [SEP] needs [Msr] yes;
    Mtrr ["mtrr"] at [1 0 Edx 12] forms [] needs [Msr] yes;
    Pge ["pge"] at [1 0 Edx 13] forms [] needs [] yes;
    Mca ["mca"] at [1 0 Edx 14] forms [] needs [Mce] yes;
    Cmov ["cmov"] at [1 0 Edx 15] forms [CMOV] needs [] yes;
    Pat ["pat"] at [1 0 Edx 16] forms [] needs [Msr] yes;
    Pse36 ["pse36"] at [1 0 Edx 17] forms [] needs [Pse] yes;
    Pn ["pn"] at [1 0 Edx 18] forms [] needs [] no;
    Clflush ["clflush", "clfsh"] at [1 0 Edx 19] forms [CLFSH] needs [] yes;
    Ds ["ds", "dts"] at [1 0 Edx 21] forms [] needs [Msr] no;
    Acpi ["acpi"] at [1 0 Edx 22] forms [] needs [Msr] no;
    Mmx ["mmx"] at [1 0 Edx 23] forms [MMX] needs [Fpu] yes;
    Fxsr ["fxsr"] at [1 0 Edx 24] forms [FXSR] needs [Fpu] yes;
    Sse ["sse"] at [1 0 Edx 25] forms [SSE] needs [Fxsr Mmx] yes;
    Sse2 ["sse2"] at [1 0 Edx 26] forms [SSE2] needs [Sse] yes;
    Ss ["ss"] at [1 0 Edx 27] forms [] needs [] yes;
    Tm ["tm"] at [1 0 Edx 29] forms [] needs [Msr] no;
    Ia64 ["ia64"] at [1 0 Edx 30] forms [IA64] needs [] no;
    Pbe ["pbe"] at [1 0 Edx 31] forms [] needs [] no;
    Sse3 ["sse3", "pni"] at [1 0 Ecx 0] forms [SSE3] needs [Sse2] yes;
    Dtes64 ["dtes64"] at [1 0 Ecx 2] forms [] needs [Ds] no;
    Monitor ["monitor", "mwait"] at [1 0 Ecx 3] forms [MONITOR] needs [] yes;
    DsCpl ["ds-cpl"] at [1 0 Ecx 4] forms [] needs [Ds] no;
    Vmx ["vmx"] at [1 0 Ecx 5] forms [VMX INVEPT INVVPID] needs [Msr] yes;
    Smx ["smx"] at [1 0 Ecx 6] forms [SMX] needs [Msr] no;
    Est ["est"] at [1 0 Ecx 7] forms [] needs [Msr] no;
    Tm2 ["tm2"] at [1 0 Ecx 8] forms [] needs [Msr] no;
    Ssse3 ["ssse3"] at [1 0 Ecx 9] forms [SSSE3] needs [Sse3] yes;
    Cx16 ["cx16"] at [1 0 Ecx 13] forms [CMPXCHG16B] needs [Cx8 Lm] yes;
    Xtpr ["xtpr"] at [1 0 Ecx 14] forms [] needs [] no;
    Pdcm ["pdcm"] at [1 0 Ecx 15] forms [] needs [Pmu] yes;
    Pcid ["pcid"] at [1 0 Ecx 17] forms [] needs [Lm] yes;
    Dca ["dca"] at [1 0 Ecx 18] forms [] needs [] no;
    Sse41 ["sse4.1", "sse4-1"] at [1 0 Ecx 19] forms [SSE4_1] needs [Ssse3] yes;
    Sse42 ["sse4.2", "sse4-2"] at [1 0 Ecx 20] forms [SSE4_2] needs [Sse41] yes;
    X2apic ["x2apic"] at [1 0 Ecx 21] forms [] needs [Apic] yes;
    Movbe ["movbe"] at [1 0 Ecx 22] forms [MOVBE] needs [] yes;
    Popcnt ["popcnt"] at [1 0 Ecx 23] forms [POPCNT] needs [] yes;
    TscDeadline ["tsc-deadline", "tsc-deadline-timer"] at [1 0 Ecx 24] forms [] needs [Apic Tsc] yes;
    Xsave ["xsave"] at [1 0 Ecx 26] forms [XSAVE] needs [Fxsr] yes;
    Avx ["avx"] at [1 0 Ecx 28] forms [AVX] needs [Xsave Sse42] yes;
    Aes ["aes", "aes-ni"] at [1 0 Ecx 25] forms [AES] needs [Sse2] yes;
    Pclmulqdq ["pclmulqdq", "pclmuldq"] at [1 0 Ecx 1] forms [PCLMULQDQ] needs [Sse2] yes;
    Fma ["fma"] at [1 0 Ecx 12] forms [FMA] needs [Avx] yes;
    F16c ["f16c"] at [1 0 Ecx 29] forms [F16C] needs [Avx] yes;
    Rdrand ["rdrand"] at [1 0 Ecx 30] forms [RDRAND] needs [] yes;
    Hypervisor ["hypervisor"] at [1 0 Ecx 31] forms [] needs [] yes;

    // Leaf 6.
    Arat ["arat"] at [6 0 Eax 2] forms [] needs [Apic] yes;
    Epb ["epb"] at [6 0 Ecx 3] forms [] needs [Msr] no;

    // Leaf 0xA: architectural performance monitoring, version 2.
    Pmu ["pmu", "arch-perfmon"] at [] forms [RDPMC] needs [Msr Apic] yes;

    // Leaf 7, subleaf 0.
    Fsgsbase ["fsgsbase"] at [7 0 Ebx 0] forms [FSGSBASE] needs [Lm] yes;
    TscAdjust ["tsc-adjust"] at [7 0 Ebx 1] forms [] needs [Tsc Msr] yes;
    Sgx ["sgx"] at [7 0 Ebx 2] forms [SGX1] needs [Msr] no;
    Bmi1 ["bmi1"] at [7 0 Ebx 3] forms [BMI1] needs [] yes;
    Hle ["hle"] at [7 0 Ebx 4] forms [HLE_or_RTM] needs [] no;
    Avx2 ["avx2"] at [7 0 Ebx 5] forms [AVX2] needs [Avx] yes;
    FdpExceptionOnly ["fdp-excptn-only"] at [7 0 Ebx 6] forms [] needs [Fpu] yes;
    Smep ["smep"] at [7 0 Ebx 7] forms [] needs [] yes;
    Bmi2 ["bmi2"] at [7 0 Ebx 8] forms [BMI2] needs [] yes;
    Erms ["erms"] at [7 0 Ebx 9] forms [] needs [] yes;
    Invpcid ["invpcid"] at [7 0 Ebx 10] forms [INVPCID] needs [] yes;
    Rtm ["rtm"] at [7 0 Ebx 11] forms [RTM] needs [] no;
    Cqm ["cqm", "rdt-m"] at [7 0 Ebx 12] forms [] needs [Msr] no;
    ZeroFcsFds ["zero-fcs-fds"] at [7 0 Ebx 13] forms [] needs [Fpu] yes;
    Mpx ["mpx"] at [7 0 Ebx 14] forms [MPX] needs [Xsave] no;
    Rdt ["rdt-a"] at [7 0 Ebx 15] forms [] needs [Msr] no;
    Avx512f ["avx512f"] at [7 0 Ebx 16] forms [AVX512F] needs [Avx2 Fma F16c] yes;
    Avx512cd ["avx512cd"] at [7 0 Ebx 28] forms [AVX512CD] needs [Avx512f] yes;
    Avx512dq ["avx512dq"] at [7 0 Ebx 17] forms [AVX512DQ] needs [Avx512f] yes;
    Avx512bw ["avx512bw"] at [7 0 Ebx 30] forms [AVX512BW] needs [Avx512f] yes;
    Avx512vl ["avx512vl"] at [7 0 Ebx 31] forms [AVX512VL] needs [Avx512f] yes;
    Rdseed ["rdseed"] at [7 0 Ebx 18] forms [RDSEED] needs [] yes;
    Adx ["adx"] at [7 0 Ebx 19] forms [ADX] needs [] yes;
    Smap ["smap"] at [7 0 Ebx 20] forms [SMAP] needs [] yes;
    Avx512ifma ["avx512ifma"] at [7 0 Ebx 21] forms [AVX512_IFMA] needs [Avx512f] yes;
    Clflushopt ["clflushopt"] at [7 0 Ebx 23] forms [CLFLUSHOPT] needs [Clflush] yes;
    Clwb ["clwb"] at [7 0 Ebx 24] forms [CLWB] needs [Clflush] yes;
    IntelPt ["intel-pt"] at [7 0 Ebx 25] forms [PTWRITE] needs [Msr] no;
    Avx512pf ["avx512pf"] at [7 0 Ebx 26] forms [AVX512PF] needs [Avx512f] no;
    Avx512er ["avx512er"] at [7 0 Ebx 27] forms [AVX512ER] needs [Avx512f] no;
    Sha ["sha-ni", "sha"] at [7 0 Ebx 29] forms [SHA] needs [Sse2] yes;
    Prefetchwt1 ["prefetchwt1"] at [7 0 Ecx 0] forms [PREFETCHWT1] needs [] no;
    Avx512vbmi ["avx512vbmi", "avx512-vbmi"] at [7 0 Ecx 1] forms [AVX512_VBMI] needs [Avx512bw] yes;
    Umip ["umip"] at [7 0 Ecx 2] forms [] needs [] yes;
    Pku ["pku"] at [7 0 Ecx 3] forms [PKU] needs [Lm Xsave] yes;
    Waitpkg ["waitpkg"] at [7 0 Ecx 5] forms [WAITPKG] needs [Msr] no;
    Avx512vbmi2 ["avx512-vbmi2"] at [7 0 Ecx 6] forms [AVX512_VBMI2] needs [Avx512bw] yes;
    CetSs ["cet-ss", "shstk"] at [7 0 Ecx 7] forms [CET_SS] needs [Xsave Msr] no;
    Gfni ["gfni"] at [7 0 Ecx 8] forms [GFNI] needs [Sse2] yes;
    Vaes ["vaes"] at [7 0 Ecx 9] forms [VAES] needs [Avx Aes] yes;
    Vpclmulqdq ["vpclmulqdq"] at [7 0 Ecx 10] forms [VPCLMULQDQ] needs [Avx Pclmulqdq] yes;
    Avx512vnni ["avx512-vnni"] at [7 0 Ecx 11] forms [AVX512_VNNI] needs [Avx512f] yes;
    Avx512bitalg ["avx512-bitalg"] at [7 0 Ecx 12] forms [AVX512_BITALG] needs [Avx512bw] yes;
    Avx512vpopcntdq ["avx512-vpopcntdq"] at [7 0 Ecx 14] forms [AVX512_VPOPCNTDQ] needs [Avx512f] yes;
    La57 ["la57"] at [7 0 Ecx 16] forms [] needs [Lm] yes;
    Rdpid ["rdpid"] at [7 0 Ecx 22] forms [RDPID] needs [Msr] yes;
    KeyLocker ["kl", "keylocker"] at [7 0 Ecx 23] forms [KL AESKLE WIDE_KL] needs [Aes] no;
    BusLockDetect ["bus-lock-detect"] at [7 0 Ecx 24] forms [] needs [] no;
    Cldemote ["cldemote"] at [7 0 Ecx 25] forms [CLDEMOTE] needs [] yes;
    Movdiri ["movdiri"] at [7 0 Ecx 27] forms [MOVDIRI] needs [] yes;
    Movdir64b ["movdir64b"] at [7 0 Ecx 28] forms [MOVDIR64B] needs [] yes;
    Enqcmd ["enqcmd"] at [7 0 Ecx 29] forms [ENQCMD] needs [Msr] no;
    SgxLc ["sgx-lc", "sgxlc"] at [7 0 Ecx 30] forms [] needs [Sgx] no;
    Pks ["pks"] at [7 0 Ecx 31] forms [] needs [Lm Msr] yes;
    Avx5124vnniw ["avx512-4vnniw"] at [7 0 Edx 2] forms [AVX512_4VNNIW] needs [Avx512f] no;
    Avx5124fmaps ["avx512-4fmaps"] at [7 0 Edx 3] forms [AVX512_4FMAPS] needs [Avx512f] no;
    Fsrm ["fsrm"] at [7 0 Edx 4] forms [] needs [] yes;
    Uintr ["uintr"] at [7 0 Edx 5] forms [UINTR] needs [Xsave Msr] no;
    Avx512vp2intersect ["avx512-vp2intersect"] at [7 0 Edx 8] forms [AVX512_VP2INTERSECT] needs [Avx512f] yes;
    MdClear ["md-clear"] at [7 0 Edx 10] forms [] needs [] yes;
    Serialize ["serialize"] at [7 0 Edx 14] forms [SERIALIZE] needs [] yes;
    Tsxldtrk ["tsx-ldtrk"] at [7 0 Edx 16] forms [TSXLDTRK] needs [Rtm] no;
    Pconfig ["pconfig"] at [7 0 Edx 18] forms [PCONFIG] needs [] no;
    ArchLbr ["arch-lbr"] at [7 0 Edx 19] forms [] needs [Xsave Msr] no;
    CetIbt ["cet-ibt", "ibt"] at [7 0 Edx 20] forms [CET_IBT] needs [Xsave Msr] no;
    AmxTile ["amx-tile"] at [7 0 Edx 24] forms [AMX_TILE] needs [Xsave Lm] no;
    AmxBf16 ["amx-bf16"] at [7 0 Edx 22] forms [AMX_BF16] needs [AmxTile] no;
    AmxInt8 ["amx-int8"] at [7 0 Edx 25] forms [AMX_INT8] needs [AmxTile] no;
    Avx512fp16 ["avx512-fp16"] at [7 0 Edx 23] forms [AVX512_FP16] needs [Avx512bw] yes;
    SpecCtrl ["spec-ctrl", "ibrs"] at [7 0 Edx 26] forms [] needs [Msr] yes;
    Stibp ["stibp"] at [7 0 Edx 27] forms [] needs [SpecCtrl] yes;
    FlushL1d ["flush-l1d"] at [7 0 Edx 28] forms [] needs [Msr] yes;
    ArchCapabilities ["arch-capabilities"] at [7 0 Edx 29] forms [] needs [Msr] yes;
    CoreCapability ["core-capability"] at [7 0 Edx 30] forms [] needs [Msr] no;
    Ssbd ["ssbd"] at [7 0 Edx 31] forms [] needs [SpecCtrl] yes;

    // Leaf 7, subleaf 1.
    Sha512 ["sha512"] at [7 1 Eax 0] forms [SHA512] needs [Avx2] yes;
    Sm3 ["sm3"] at [7 1 Eax 1] forms [SM3] needs [Avx] yes;
    Sm4 ["sm4"] at [7 1 Eax 2] forms [SM4] needs [Avx] yes;
    RaoInt ["rao-int"] at [7 1 Eax 3] forms [RAO_INT] needs [] yes;
    AvxVnni ["avx-vnni"] at [7 1 Eax 4] forms [AVX_VNNI] needs [Avx2] yes;
    Avx512bf16 ["avx512-bf16"] at [7 1 Eax 5] forms [AVX512_BF16] needs [Avx512bw] yes;
    Lass ["lass"] at [7 1 Eax 6] forms [] needs [Lm] no;
    Cmpccxadd ["cmpccxadd"] at [7 1 Eax 7] forms [CMPCCXADD] needs [Lm] yes;
    Fzrm ["fzrm"] at [7 1 Eax 10] forms [] needs [] yes;
    Fsrs ["fsrs"] at [7 1 Eax 11] forms [] needs [] yes;
    Fsrc ["fsrc"] at [7 1 Eax 12] forms [] needs [] yes;
    Fred ["fred"] at [7 1 Eax 17] forms [FRED] needs [Lkgs] no;
    Lkgs ["lkgs"] at [7 1 Eax 18] forms [LKGS] needs [Lm] yes;
    Wrmsrns ["wrmsrns"] at [7 1 Eax 19] forms [WRMSRNS] needs [Msr] yes;
    AmxFp16 ["amx-fp16"] at [7 1 Eax 21] forms [AMX_FP16] needs [AmxTile] no;
    Hreset ["hreset"] at [7 1 Eax 22] forms [HRESET] needs [Msr] no;
    AvxIfma ["avx-ifma"] at [7 1 Eax 23] forms [AVX_IFMA] needs [Avx2] yes;
    Lam ["lam"] at [7 1 Eax 26] forms [] needs [Lm] no;
    Msrlist ["msrlist"] at [7 1 Eax 27] forms [MSRLIST] needs [Msr Lm] no;
    AvxVnniInt8 ["avx-vnni-int8"] at [7 1 Edx 4] forms [AVX_VNNI_INT8] needs [Avx2] yes;
    AvxNeConvert ["avx-ne-convert"] at [7 1 Edx 5] forms [AVX_NE_CONVERT] needs [Avx2] yes;
    AmxComplex ["amx-complex"] at [7 1 Edx 8] forms [AMX_COMPLEX] needs [AmxTile] no;
    AvxVnniInt16 ["avx-vnni-int16"] at [7 1 Edx 10] forms [AVX_VNNI_INT16] needs [Avx2] yes;
    Prefetchiti ["prefetchiti"] at [7 1 Edx 14] forms [PREFETCHITI] needs [Lm] yes;

    // Leaf 7, subleaf 2.
    BhiCtrl ["bhi-ctrl"] at [7 2 Edx 4] forms [] needs [SpecCtrl] yes;
    McdtNo ["mcdt-no"] at [7 2 Edx 5] forms [] needs [] yes;

    // Leaf 0xD, subleaf 1.
    Xsaveopt ["xsaveopt"] at [0xd 1 Eax 0] forms [XSAVEOPT] needs [Xsave] yes;
    Xsavec ["xsavec"] at [0xd 1 Eax 1] forms [XSAVEC] needs [Xsave] yes;
    Xgetbv1 ["xgetbv1"] at [0xd 1 Eax 2] forms [] needs [Xsave] yes;
    Xsaves ["xsaves"] at [0xd 1 Eax 3] forms [XSAVES] needs [Xsavec Msr] yes;
    Xfd ["xfd"] at [0xd 1 Eax 4] forms [] needs [Xsave Msr] no;

    // Leaf 0x80000001 (SDM 2A CPUID; APM 3 appendix E.4).
    LahfLm ["lahf-lm"] at [0x8000_0001 0 Ecx 0] forms [] needs [Lm] yes;
    Svm ["svm"] at [0x8000_0001 0 Ecx 2] forms [SVM SKINIT_or_SVM] needs [Msr] yes;
    Cr8Legacy ["cr8legacy"] at [0x8000_0001 0 Ecx 4] forms [] needs [] yes;
    Abm ["abm", "lzcnt"] at [0x8000_0001 0 Ecx 5] forms [LZCNT] needs [] yes;
    Sse4a ["sse4a"] at [0x8000_0001 0 Ecx 6] forms [SSE4A] needs [Sse3] yes;
    Misalignsse ["misalignsse"] at [0x8000_0001 0 Ecx 7] forms [] needs [Sse] yes;
    Prefetchw ["3dnowprefetch", "prefetchw"] at [0x8000_0001 0 Ecx 8] forms [PREFETCHW] needs [] yes;
    Osvw ["osvw"] at [0x8000_0001 0 Ecx 9] forms [] needs [Msr] yes;
    Ibs ["ibs"] at [0x8000_0001 0 Ecx 10] forms [] needs [Msr] no;
    Xop ["xop"] at [0x8000_0001 0 Ecx 11] forms [XOP] needs [Avx] no;
    Skinit ["skinit"] at [0x8000_0001 0 Ecx 12] forms [] needs [Svm] no;
    Lwp ["lwp"] at [0x8000_0001 0 Ecx 15] forms [LWP] needs [Xsave] no;
    Fma4 ["fma4"] at [0x8000_0001 0 Ecx 16] forms [FMA4] needs [Avx] no;
    Tce ["tce"] at [0x8000_0001 0 Ecx 17] forms [] needs [Lm] no;
    Tbm ["tbm"] at [0x8000_0001 0 Ecx 21] forms [TBM] needs [] no;
    Topoext ["topoext"] at [0x8000_0001 0 Ecx 22] forms [] needs [] yes;
    PerfctrCore ["perfctr-core"] at [0x8000_0001 0 Ecx 23] forms [] needs [Msr] no;
    Mwaitx ["mwaitx"] at [0x8000_0001 0 Ecx 29] forms [MONITORX] needs [Monitor] no;
    Syscall ["syscall"] at [0x8000_0001 0 Edx 11] forms [SYSCALL] needs [Msr] yes;
    Nx ["nx", "xd"] at [0x8000_0001 0 Edx 20] forms [] needs [Pae] yes;
    Mmxext ["mmxext"] at [0x8000_0001 0 Edx 22] forms [] needs [Sse] yes;
    FxsrOpt ["fxsr-opt", "ffxsr"] at [0x8000_0001 0 Edx 25] forms [] needs [Fxsr Lm] yes;
    Pdpe1gb ["pdpe1gb"] at [0x8000_0001 0 Edx 26] forms [] needs [Lm] yes;
    Rdtscp ["rdtscp"] at [0x8000_0001 0 Edx 27] forms [RDTSCP] needs [Tsc Msr] yes;
    Lm ["lm", "i64"] at [0x8000_0001 0 Edx 29] forms [X64] needs [Pae Msr] yes;
    ThreeDNowExt ["3dnowext"] at [0x8000_0001 0 Edx 30] forms [D3NOWEXT] needs [ThreeDNow] no;
    ThreeDNow ["3dnow"] at [0x8000_0001 0 Edx 31] forms [D3NOW] needs [Mmx] no;

    // Leaf 0x80000007 and 0x80000008.
    Invtsc ["invtsc", "constant-tsc", "nonstop-tsc"] at [0x8000_0007 0 Edx 8] forms [] needs [Tsc] yes;
    Clzero ["clzero"] at [0x8000_0008 0 Ebx 0] forms [CLZERO] needs [] yes;
    Xsaveerptr ["xsaveerptr"] at [0x8000_0008 0 Ebx 2] forms [] needs [Xsave] yes;
    Rdpru ["rdpru"] at [0x8000_0008 0 Ebx 4] forms [RDPRU] needs [] no;
    Wbnoinvd ["wbnoinvd"] at [0x8000_0008 0 Ebx 9] forms [WBNOINVD] needs [] yes;
    AmdIbpb ["ibpb", "amd-ibpb"] at [0x8000_0008 0 Ebx 12] forms [] needs [Msr] yes;
    AmdIbrs ["amd-ibrs"] at [0x8000_0008 0 Ebx 14] forms [] needs [Msr] yes;
    AmdStibp ["amd-stibp"] at [0x8000_0008 0 Ebx 15] forms [] needs [Msr] yes;
    AmdSsbd ["amd-ssbd"] at [0x8000_0008 0 Ebx 24] forms [] needs [AmdIbrs] yes;
    VirtSsbd ["virt-ssbd"] at [0x8000_0008 0 Ebx 25] forms [] needs [Msr] no;
    AmdNoSsb ["amd-no-ssb"] at [0x8000_0008 0 Ebx 26] forms [] needs [] yes;
    IbpbRet ["ibpb-ret"] at [0x8000_0008 0 Ebx 30] forms [] needs [AmdIbpb] yes;
    BtcNo ["btc-no"] at [0x8000_0008 0 Ebx 29] forms [] needs [] yes;

    // Leaf 0x8000000A: SVM (APM 3 appendix E.4).
    Npt ["npt"] at [0x8000_000a 0 Edx 0] forms [] needs [Svm] yes;
    LbrVirt ["lbrv"] at [0x8000_000a 0 Edx 1] forms [] needs [Svm] yes;
    SvmLock ["svm-lock", "svml"] at [0x8000_000a 0 Edx 2] forms [] needs [Svm] yes;
    Nrips ["nrip-save", "nrips"] at [0x8000_000a 0 Edx 3] forms [] needs [Svm] yes;
    TscRateMsr ["tsc-scale", "tscratemsr"] at [0x8000_000a 0 Edx 4] forms [] needs [Svm Tsc] yes;
    VmcbClean ["vmcb-clean"] at [0x8000_000a 0 Edx 5] forms [] needs [Svm] yes;
    FlushByAsid ["flushbyasid"] at [0x8000_000a 0 Edx 6] forms [] needs [Svm] yes;
    DecodeAssists ["decodeassists"] at [0x8000_000a 0 Edx 7] forms [] needs [Svm] yes;
    PauseFilter ["pause-filter"] at [0x8000_000a 0 Edx 10] forms [] needs [Svm] yes;
    PauseThreshold ["pfthreshold"] at [0x8000_000a 0 Edx 12] forms [] needs [PauseFilter] yes;
    Avic ["avic"] at [0x8000_000a 0 Edx 13] forms [] needs [Npt Apic] yes;
    VirtualVmloadVmsave ["v-vmsave-vmload"] at [0x8000_000a 0 Edx 15] forms [] needs [Npt] yes;
    Vgif ["vgif"] at [0x8000_000a 0 Edx 16] forms [] needs [Svm] yes;
    Gmet ["gmet"] at [0x8000_000a 0 Edx 17] forms [] needs [Npt] no;
    X2avic ["x2avic"] at [0x8000_000a 0 Edx 18] forms [] needs [Avic X2apic] no;
    Vnmi ["vnmi"] at [0x8000_000a 0 Edx 25] forms [] needs [Svm] yes;
    SvmeAddressCheck ["svme-addr-chk"] at [0x8000_000a 0 Edx 28] forms [] needs [Svm] yes;

    // Leaf 0x80000021 (APM 3 appendix E.4).
    LfenceSerializing ["lfence-always-serializing"] at [0x8000_0021 0 Eax 2] forms [] needs [Sse2] yes;
    NullSelectorClearsBase ["null-sel-clr-base"] at [0x8000_0021 0 Eax 6] forms [] needs [] yes;
    SrsoNo ["srso-no"] at [0x8000_0021 0 Eax 29] forms [] needs [] yes;
    AutoIbrs ["auto-ibrs"] at [0x8000_0021 0 Eax 8] forms [] needs [Msr] no;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_are_unique() {
        let mut names = std::collections::HashSet::new();
        for info in TABLE {
            for name in info.names {
                assert!(names.insert(name.replace('.', "-")) || name.contains("sse4"), "{name}");
                assert_eq!(Feature::by_name(name), Some(info.feature));
            }
            if let Some(place) = info.place {
                let same = TABLE.iter().filter(|other| other.place == Some(place)).count();
                assert_eq!(same, 1, "{:?}", info.names);
            }
        }
        assert_eq!(Feature::by_name("AVX512_VBMI"), Some(Feature::Avx512vbmi));
        assert_eq!(Feature::by_name("sse4_2"), Some(Feature::Sse42));
    }

    #[test]
    fn removing_a_feature_removes_what_needs_it() {
        let mut set: Features = TABLE.iter().map(|info| info.feature).collect();
        set.remove_with_dependents(Feature::Xsave);
        assert!(!set.has(Feature::Avx) && !set.has(Feature::Avx512bw) && !set.has(Feature::Xsaves));
        assert!(set.has(Feature::Sse42) && set.has(Feature::Lm));
        set.insert_with_needs(Feature::Avx512bw);
        assert!(set.has(Feature::Xsave) && set.has(Feature::Avx2) && !set.has(Feature::Avx512cd));
    }
}
