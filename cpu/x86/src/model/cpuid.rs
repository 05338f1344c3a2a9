//! The leaves of CPUID (SDM 2A CPUID; APM 3 appendix E).

use super::features::{Feature, Register, TABLE};
use super::{Cache, Model};
use crate::control::{cr4, xcr0};
use crate::msr::misc_enable;

/// What CPUID depends on besides the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuidState {
    /// The processor's APIC ID.
    pub apic_id: u32,
    /// IA32_APIC_BASE.EN.
    pub apic_enabled: bool,
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// CPUID runs in 64-bit mode.
    pub long64: bool,
}

/// A state component of the XSAVE area beyond the legacy region (SDM 1 13.4.2, 13.4.3, 13.5).
#[derive(Clone, Copy, Debug)]
pub struct XsaveComponent {
    /// Bit in XCR0.
    pub number: u32,
    /// Size in bytes.
    pub size: u32,
    /// Offset in the standard format. In the compacted one, components follow each other; none of them asks for alignment.
    pub offset: u32,
    /// The feature that brings it.
    feature: Feature,
}

const fn components(opmask: u32, zmm_hi256: u32, hi16_zmm: u32, pkru: u32) -> [XsaveComponent; 5] {
    [
        XsaveComponent { number: 2, size: 256, offset: 576, feature: Feature::Avx },
        XsaveComponent { number: 5, size: 64, offset: opmask, feature: Feature::Avx512f },
        XsaveComponent { number: 6, size: 512, offset: zmm_hi256, feature: Feature::Avx512f },
        XsaveComponent { number: 7, size: 1024, offset: hi16_zmm, feature: Feature::Avx512f },
        XsaveComponent { number: 9, size: 8, offset: pkru, feature: Feature::Pku },
    ]
}

/// The components, by number. Where they are is the processor's choice, and CPUID's to tell (SDM 1 13.2): Intel leaves room
/// for MPX, AMD does not.
static INTEL_COMPONENTS: [XsaveComponent; 5] = components(1088, 1152, 1664, 2688);
static AMD_COMPONENTS: [XsaveComponent; 5] = components(832, 896, 1408, 2432);

/// Legacy region and header.
const XSAVE_HEADER_END: u32 = 576;

/// Says that software runs on an emulator, as hypervisors do (leaf 0x40000000). Guests then leave alone what belongs to
/// silicon: microcode updates, chipset errata, thermal and power MSRs. Nothing else follows from it.
const EMULATOR: &[u8; 12] = b"RingworldEmu";

/// Crystal and TSC: one tick a nanosecond of virtual time.
pub(crate) const TSC_HZ: u32 = 1_000_000_000;

fn word(text: &[u8], n: usize) -> u32 {
    (0..4).fold(0, |word, byte| word | u32::from(text.get(4 * n + byte).copied().unwrap_or(0)) << (8 * byte))
}

impl Model {
    /// The feature bits of one output register.
    fn bits(&self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        TABLE.iter().fold(0, |bits, info| match info.place {
            Some(p)
                if (p.leaf, p.subleaf, p.register) == (leaf, subleaf, register) && self.has(info.feature) =>
            {
                bits | 1 << p.bit
            }
            _ => bits,
        })
    }

    fn all_bits(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx]
            .map(|register| self.bits(leaf, subleaf, register))
    }

    fn vendor_id(&self) -> &'static [u8; 12] {
        if self.is_amd() { b"AuthenticAMD" } else { b"GenuineIntel" }
    }

    /// The components of the XSAVE area.
    pub fn xsave_components(&self) -> &'static [XsaveComponent] {
        if self.is_amd() { &AMD_COMPONENTS } else { &INTEL_COMPONENTS }
    }

    fn present(&self, components: u64) -> impl Iterator<Item = &'static XsaveComponent> {
        self.xsave_components().iter().filter(move |c| components >> c.number & 1 != 0)
    }

    /// Bytes of the standard format with these components.
    fn standard_size(&self, components: u64) -> u32 {
        self.present(components).map(|c| c.offset + c.size).max().unwrap_or(XSAVE_HEADER_END)
    }

    /// Bytes of the compacted format with these components.
    fn compacted_size(&self, components: u64) -> u32 {
        XSAVE_HEADER_END + self.present(components).map(|c| c.size).sum::<u32>()
    }

    /// The bits of XCR0 that may be set.
    pub fn xcr0_supported(&self) -> u64 {
        self.xsave_components()
            .iter()
            .filter(|c| self.has(c.feature))
            .fold(xcr0::X87 | xcr0::SSE, |bits, c| bits | 1 << c.number)
    }

    /// The bits of IA32_XSS that may be set: no supervisor component is implemented.
    pub fn xss_supported(&self) -> u64 {
        0
    }

    /// Width of linear addresses.
    pub fn linear_bits(&self) -> u8 {
        if self.has(Feature::La57) { 57 } else { 48 }
    }

    /// Bits of the APIC ID that number the logical processors of the package.
    fn package_shift(&self) -> u32 {
        self.cpus.next_power_of_two().trailing_zeros()
    }

    /// The four registers that CPUID returns.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> [u32; 4] {
        let shown = match leaf {
            0x4000_0000..=0x4fff_ffff if self.has(Feature::Hypervisor) => return self.emulator_leaf(leaf),
            0x8000_0000.. => leaf <= self.extended_level,
            _ => leaf <= self.level,
        };
        match leaf {
            // Intel answers with the highest basic leaf (SDM 2A CPUID), AMD with zeros.
            _ if !shown && self.is_amd() => [0; 4],
            _ if !shown => self.basic_leaf(self.level, subleaf, state),
            0x8000_0000.. => self.extended_leaf(leaf, subleaf, state),
            _ => self.basic_leaf(leaf, subleaf, state),
        }
    }

    fn emulator_leaf(&self, leaf: u32) -> [u32; 4] {
        match leaf {
            0x4000_0000 => [leaf, word(EMULATOR, 0), word(EMULATOR, 1), word(EMULATOR, 2)],
            _ => [0; 4],
        }
    }

    fn basic_leaf(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> [u32; 4] {
        match leaf {
            0 => {
                let id = self.vendor_id();
                let limited = state.misc_enable & misc_enable::LIMIT_CPUID != 0;
                [if limited { 3 } else { self.level }, word(id, 0), word(id, 2), word(id, 1)]
            }
            1 => self.leaf_1(state),
            // One descriptor: "leaf 4 has it"; 64-byte prefetching.
            2 if !self.is_amd() => [0x00fe_ff01, 0xf0, 0, 0],
            4 if !self.is_amd() => self.cache(subleaf),
            // MONITOR lines of 64 bytes; interrupts may break; one C1 sub-state.
            5 if self.has(Feature::Monitor) => [64, 64, 3, 0x10],
            6 => self.all_bits(6, 0),
            7 => self.leaf_7(subleaf, state),
            0xa if self.has(Feature::Pmu) => crate::pmu::cpuid_leaf(),
            0xb if self.has(Feature::X2apic) => self.topology(subleaf, state),
            0xd if self.has(Feature::Xsave) => self.leaf_d(subleaf, state),
            // TSC / crystal = 1 / 1.
            0x15 => [1, 1, TSC_HZ, 0],
            0x16 => [TSC_HZ / 1_000_000, TSC_HZ / 1_000_000, 100, 0],
            _ => [0; 4],
        }
    }

    fn leaf_1(&self, state: &CpuidState) -> [u32; 4] {
        let mut ecx = self.bits(1, 0, Register::Ecx);
        let mut edx = self.bits(1, 0, Register::Edx);
        if state.cr4 & cr4::OSXSAVE != 0 {
            ecx |= 1 << 27;
        }
        if !self.is_amd() && state.misc_enable & misc_enable::MONITOR == 0 {
            ecx &= !(1 << 3);
        }
        if !state.apic_enabled {
            edx &= !(1 << 9);
            ecx &= !(1 << 21);
        }
        if self.cpus > 1 {
            edx |= 1 << 28;
        }
        let processors = (1_u32 << self.package_shift().min(7)) << 16;
        let ebx = state.apic_id << 24 | processors | if self.has(Feature::Clflush) { 8 << 8 } else { 0 };
        [self.signature(), ebx, ecx, edx]
    }

    fn leaf_7(&self, subleaf: u32, state: &CpuidState) -> [u32; 4] {
        let mut bits = self.all_bits(7, subleaf);
        if subleaf == 0 {
            bits[0] = (1..=2).filter(|&n| self.all_bits(7, n) != [0; 4]).max().unwrap_or(0);
            if state.cr4 & cr4::PKE != 0 {
                bits[2] |= 1 << 4;
            }
        }
        bits
    }

    /// Leaf 4 of Intel, 0x8000001D of AMD: one cache.
    fn cache(&self, subleaf: u32) -> [u32; 4] {
        let Some(cache) = self.caches.get(subleaf as usize) else { return [0; 4] };
        let Cache { level, kind, kib, ways } = *cache;
        let sets = (kib * 1024 / 64).checked_div(ways).unwrap_or(1).max(1);
        let shared = if level == 3 { (1 << self.package_shift().min(12)) - 1 } else { 0 };
        let cores = if self.is_amd() { 0 } else { (1 << self.package_shift().min(6)) - 1 };
        let eax = u32::from(kind) | u32::from(level) << 5 | 1 << 8 | shared << 14 | cores << 26;
        [eax, 63 | ways.wrapping_sub(1) << 22, sets - 1, 0]
    }

    /// Extended topology: one thread a core, all cores in one package.
    fn topology(&self, subleaf: u32, state: &CpuidState) -> [u32; 4] {
        let (shift, count, kind) = match subleaf {
            0 => (0, 1, 1),
            1 => (self.package_shift(), self.cpus, 2),
            _ => (0, 0, 0),
        };
        [shift, count & 0xffff, subleaf & 0xff | kind << 8, state.apic_id]
    }

    /// XSAVE (SDM 1 13.2).
    fn leaf_d(&self, subleaf: u32, state: &CpuidState) -> [u32; 4] {
        let supported = self.xcr0_supported();
        match subleaf {
            0 => [
                supported as u32,
                self.standard_size(state.xcr0),
                self.standard_size(supported),
                (supported >> 32) as u32,
            ],
            1 => {
                let eax = self.bits(0xd, 1, Register::Eax);
                let compacted = self.has(Feature::Xsavec) || self.has(Feature::Xsaves);
                let ebx = if compacted { self.compacted_size(state.xcr0 | state.xss) } else { 0 };
                let xss = self.xss_supported();
                [eax, ebx, xss as u32, (xss >> 32) as u32]
            }
            _ => match self.xsave_components().iter().find(|c| c.number == subleaf && self.has(c.feature)) {
                Some(c) => [c.size, c.offset, 0, 0],
                None => [0; 4],
            },
        }
    }

    fn extended_leaf(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> [u32; 4] {
        let amd = self.is_amd();
        let id = self.vendor_id();
        match leaf {
            0x8000_0000 if amd => [self.extended_level, word(id, 0), word(id, 2), word(id, 1)],
            0x8000_0000 => [self.extended_level, 0, 0, 0],
            0x8000_0001 => {
                let [_, ebx, mut ecx, mut edx] = self.all_bits(leaf, 0);
                if amd {
                    // Copies of leaf 1's bits, and CMP_LEGACY: the logical processors are cores.
                    edx |= self.bits(1, 0, Register::Edx) & 0x0183_f3ff;
                    if !state.apic_enabled {
                        edx &= !(1 << 9);
                    }
                    ecx |= u32::from(self.cpus > 1) << 1;
                } else {
                    // Intel has SYSCALL in 64-bit mode only, and says so.
                    if !state.long64 {
                        edx &= !(1 << 11);
                    }
                    if state.misc_enable & misc_enable::XD_DISABLE != 0 {
                        edx &= !(1 << 20);
                    }
                }
                [if amd { self.signature() } else { 0 }, ebx, ecx, edx]
            }
            0x8000_0002..=0x8000_0004 => {
                let first = (leaf - 0x8000_0002) as usize * 4;
                [0, 1, 2, 3].map(|n| word(self.brand.as_bytes(), first + n))
            }
            // L1: 64-byte lines. No TLB is described.
            0x8000_0005 if amd => {
                let l1 = |kind| match self.caches.iter().find(|c| (c.level, c.kind) == (1, kind)) {
                    Some(c) => c.kib << 24 | (c.ways & 0xff) << 16 | 1 << 8 | 64,
                    None => 0,
                };
                [0, 0, l1(1), l1(2)]
            }
            0x8000_0006 => {
                let find = |level| self.caches.iter().find(|c| c.level == level);
                let l2 = find(2).map_or(0, |c| c.kib << 16 | associativity(c.ways) << 12 | 64);
                let lines = if amd { 1 << 8 } else { 0 };
                let l3 = find(3).filter(|_| amd);
                let l3 = l3.map_or(0, |c| (c.kib / 512) << 18 | associativity(c.ways) << 12 | 1 << 8 | 64);
                [0, 0, if l2 == 0 { 0 } else { l2 | lines }, l3]
            }
            0x8000_0008 => {
                let eax = u32::from(self.physical_bits) | u32::from(self.linear_bits()) << 8;
                let ebx = self.bits(leaf, 0, Register::Ebx);
                let ecx = if amd { (self.cpus - 1).min(255) | self.package_shift() << 12 } else { 0 };
                [eax, ebx, ecx, 0]
            }
            // SVM revision 1, and the number of ASIDs.
            0x8000_000a if self.has(Feature::Svm) => {
                [1, crate::svm::ASIDS, 0, self.bits(leaf, 0, Register::Edx)]
            }
            0x8000_001d if self.has(Feature::Topoext) => self.cache(subleaf),
            0x8000_001e if self.has(Feature::Topoext) => [state.apic_id, state.apic_id & 0xff, 0, 0],
            _ => self.all_bits(leaf, 0),
        }
    }
}

/// The code of a number of ways in leaf 0x80000006 (APM 3 table E-4).
fn associativity(ways: u32) -> u32 {
    match ways {
        0 | 1 => ways,
        2 | 3 => 2,
        4..8 => 4,
        8..16 => 6,
        16..32 => 8,
        32..48 => 10,
        48..64 => 11,
        64..96 => 12,
        96..128 => 13,
        _ => 14,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Features;
    use super::*;

    #[test]
    fn the_xsave_layout_is_that_of_silicon() {
        // SDM 1 13.4.2, 13.5; sizes and offsets as processors with AVX-512 and PKU report them.
        let model = Model::as_if_complete("max");
        let mut state = CpuidState { xcr0: 1, ..CpuidState::default() };
        assert_eq!(model.cpuid(0xd, 0, &state), [0x2e7, 576, 2696, 0]);
        for (xcr0, standard, compacted) in
            [(0x7, 832, 832), (0xe7, 2688, 2432), (0x2e7, 2696, 2440), (0x203, 2696, 584), (0x3, 576, 576)]
        {
            state.xcr0 = xcr0;
            assert_eq!(model.cpuid(0xd, 0, &state)[1], standard, "{xcr0:#x}");
            assert_eq!(model.cpuid(0xd, 1, &state)[1], compacted, "{xcr0:#x}");
        }
        assert_eq!(model.cpuid(0xd, 6, &state), [512, 1152, 0, 0]);
        assert_eq!(model.cpuid(0xd, 3, &state), [0; 4]);
    }

    #[test]
    fn leaves_beyond_the_last_follow_the_vendor() {
        // SDM 2A CPUID: "data for the highest basic information leaf"; AMD: zeros.
        let state = CpuidState::default();
        let (intel, amd) = (Model::as_if_complete("max"), Model::as_if_complete("EPYC"));
        assert_eq!(intel.cpuid(0x17, 0, &state), intel.cpuid(0x16, 0, &state));
        assert_eq!(intel.cpuid(0x9000_0000, 0, &state), intel.cpuid(0x16, 0, &state));
        assert_eq!(amd.cpuid(0x17, 0, &state), [0; 4]);
        assert_eq!(amd.cpuid(0x9000_0000, 0, &state), [0; 4]);
        assert_eq!(&intel.cpuid(0x4000_0000, 0, &state)[1..], &[0x676e_6952, 0x6c72_6f77, 0x756d_4564]);
    }

    #[test]
    fn dynamic_bits() {
        let model = Model::as_if_complete("max").with_cpus(3);
        let off = CpuidState { apic_id: 2, ..CpuidState::default() };
        let on = CpuidState {
            cr4: cr4::OSXSAVE | cr4::PKE,
            apic_enabled: true,
            long64: true,
            misc_enable: misc_enable::MONITOR,
            ..off
        };
        let bit = |state, leaf, register: usize, bit: u32| model.cpuid(leaf, 0, state)[register] >> bit & 1;
        for (leaf, register, at) in [(1, 2, 3), (1, 2, 27), (1, 3, 9), (7, 2, 4), (0x8000_0001, 3, 11)] {
            assert_eq!((bit(&off, leaf, register, at), bit(&on, leaf, register, at)), (0, 1), "{leaf:#x}");
        }
        assert_eq!(model.cpuid(1, 0, &on)[1], 2 << 24 | 4 << 16 | 8 << 8);
        assert_eq!(bit(&on, 1, 3, 28), 1);
        assert_eq!(model.cpuid(0xb, 0, &on), [0, 1, 0x100, 2]);
        assert_eq!(model.cpuid(0xb, 1, &on), [2, 3, 0x201, 2]);
        assert_eq!(model.cpuid(0xb, 2, &on), [0, 0, 2, 2]);
    }

    #[test]
    fn what_is_not_implemented_is_not_shown() {
        let model = Model::parse("max").unwrap();
        for feature in
            [Feature::Smx, Feature::Skinit, Feature::Rtm, Feature::Mpx, Feature::Sgx, Feature::CetIbt]
        {
            assert!(!model.has(feature), "{feature:?}");
        }
        let mut none = model.clone();
        none.features = Features::default();
        assert_eq!(none.cpuid(7, 0, &CpuidState::default()), [0; 4]);
        assert_eq!(none.cpuid(1, 0, &CpuidState::default())[2..], [0, 0]);
    }

    #[test]
    fn signatures() {
        for (name, signature) in
            [("EPYC", 0x0080_0f12), ("Skylake-Server", 0x0005_0654), ("qemu64", 0x0006_0fb1)]
        {
            assert_eq!(Model::parse(name).unwrap().signature(), signature, "{name}");
        }
    }
}
