//! CPU models: vendor, features, address widths, and what CPUID says of them.
//!
//! A model is a data file (`models/*.toml`) with features added and taken away by name ([`Model::parse`]). What is not
//! implemented is never shown: see [`implemented`].

mod cpuid;
pub mod features;
mod implemented;
mod parse;

pub(crate) use cpuid::TSC_HZ;
pub use cpuid::{CpuidState, XsaveComponent};
pub use features::{Feature, Features};
pub use implemented::implemented;
pub use parse::{ModelError, models};

use crate::control::{cr4, efer, mxcsr};
use crate::decode;
use crate::vmx::capability::Capabilities;
use iced_x86::Code;
use serde::Deserialize;

/// Whose rules hold where Intel's and AMD's differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD.
    #[serde(rename = "AMD")]
    Amd,
}

/// One cache, as CPUID describes it. (It has no part in execution.)
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// 1, 2 or 3.
    pub level: u8,
    /// Type as in CPUID leaf 4: 1 data, 2 instructions, 3 both.
    pub kind: u8,
    /// Size in KiB.
    pub kib: u32,
    /// Associativity.
    pub ways: u32,
}

/// A CPU model, with the features that were asked for.
#[derive(Clone, Debug)]
pub struct Model {
    vendor: Vendor,
    brand: String,
    family: u32,
    model: u32,
    stepping: u32,
    physical_bits: u8,
    level: u32,
    extended_level: u32,
    caches: Vec<Cache>,
    /// Names of VMX controls, as in the model's file.
    vmx_controls: Vec<String>,
    vmx: Capabilities,
    features: Features,
    /// One bit a form: it decodes.
    codes: Box<[u64]>,
    options: u32,
    cpus: u32,
}

impl Default for Model {
    /// `max`: everything that is implemented.
    fn default() -> Self {
        // `max` is one of the files that are part of the program.
        Self::parse("max").unwrap_or_else(|error| unreachable!("{error}"))
    }
}

impl Model {
    /// The same processor in a machine with `cpus` of them: one package, one thread a core.
    pub fn with_cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus.max(1);
        self
    }

    /// Derives what depends on the features.
    fn update_forms(&mut self) {
        let mut codes = vec![0_u64; Code::values().len().div_ceil(64)];
        for code in Code::values().filter(|&code| implemented::decodes(code, self.vendor, self.features)) {
            codes[code as usize >> 6] |= 1 << (code as usize & 63);
        }
        self.codes = codes.into();
        self.options = decode::options(self);
        self.vmx = Capabilities::parse(&self.vmx_controls).limit(self);
    }

    /// Whether the feature is shown.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// Whether this form's CPUID features are all shown.
    pub fn decodes(&self, code: Code) -> bool {
        self.codes.get(code as usize >> 6).is_some_and(|word| word >> (code as usize & 63) & 1 != 0)
    }

    /// The VMX controls that software can set.
    pub fn vmx(&self) -> &Capabilities {
        &self.vmx
    }

    /// AMD's rules where vendors differ.
    pub fn is_amd(&self) -> bool {
        self.vendor == Vendor::Amd
    }

    /// The bits of MXCSR that exist; MXCSR.MM comes with a feature (APM 1 4.2.2).
    pub fn mxcsr_mask(&self) -> u32 {
        if self.has(Feature::Misalignsse) { 0xffff | mxcsr::MM } else { 0xffff }
    }

    /// MAXPHYADDR.
    pub fn physical_bits(&self) -> u8 {
        self.physical_bits
    }

    /// PSE-36.
    pub fn has_pse36(&self) -> bool {
        self.has(Feature::Pse36)
    }

    /// 1-GiB pages.
    pub fn has_pages_1g(&self) -> bool {
        self.has(Feature::Pdpe1gb)
    }

    /// Family, model and stepping, as CPUID leaf 1 shows them in EAX.
    pub fn signature(&self) -> u32 {
        let (family, extended) = if self.family > 15 { (15, self.family - 15) } else { (self.family, 0) };
        self.stepping & 15
            | (self.model & 15) << 4
            | family << 8
            | (self.model >> 4 & 15) << 16
            | (extended & 0xff) << 20
    }

    /// The bits of CR4 that the features bring (SDM 3A 2.5).
    pub fn cr4_supported(&self) -> u64 {
        use Feature::*;
        let bits = [
            (Vme, cr4::VME | cr4::PVI),
            (Tsc, cr4::TSD),
            (De, cr4::DE),
            (Pse, cr4::PSE),
            (Pae, cr4::PAE),
            (Mce, cr4::MCE),
            (Pge, cr4::PGE),
            (Fxsr, cr4::OSFXSR),
            (Sse, cr4::OSXMMEXCPT),
            (Umip, cr4::UMIP),
            (La57, cr4::LA57),
            (Fsgsbase, cr4::FSGSBASE),
            (Pcid, cr4::PCIDE),
            (Xsave, cr4::OSXSAVE),
            (Smep, cr4::SMEP),
            (Smap, cr4::SMAP),
            (Pku, cr4::PKE),
            (Pks, cr4::PKS),
            (Vmx, cr4::VMXE),
        ];
        // RDPMC has no feature of its own.
        bits.iter().filter(|(feature, _)| self.has(*feature)).fold(cr4::PCE, |sum, (_, bits)| sum | bits)
    }

    /// The bits of EFER that software can set (SDM 3A 2.2.1; APM 2 3.1.7).
    pub fn efer_supported(&self) -> u64 {
        use Feature::*;
        let bits = [
            (Syscall, efer::SCE),
            (Lm, efer::LME),
            (Nx, efer::NXE),
            (FxsrOpt, efer::FFXSR),
            (Tce, efer::TCE),
            (Svm, efer::SVME),
        ];
        bits.iter().filter(|(feature, _)| self.has(*feature)).fold(0, |sum, (_, bits)| sum | bits)
    }

    /// Options for iced's decoder.
    pub fn decoder_options(&self) -> u32 {
        self.options
    }

    /// A model as if all instruction forms were there, so that tests of one part do not wait for others. Not for guests: it
    /// shows what is not implemented.
    ///
    /// # Panics
    /// If the description is not one of a model.
    pub fn as_if_complete(description: &str) -> Self {
        let all = features::TABLE.iter().filter(|info| info.system_part).map(|info| info.feature).collect();
        Self::parse_with(description, all).unwrap_or_else(|error| panic!("{error}"))
    }
}
