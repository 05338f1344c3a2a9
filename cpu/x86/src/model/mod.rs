//! CPU models: vendor, features, address widths.

use crate::decode;
use iced_x86::Code;

/// A CPU model, with the features that were asked for.
#[derive(Clone, Debug)]
pub struct Model {
    amd: bool,
    options: u32,
}

impl Default for Model {
    fn default() -> Self {
        let mut model = Self { amd: false, options: 0 };
        model.options = decode::options(&model);
        model
    }
}

impl Model {
    /// Whether this form's CPUID features are all shown.
    pub fn decodes(&self, _code: Code) -> bool {
        true
    }

    /// AMD's rules where vendors differ.
    pub fn is_amd(&self) -> bool {
        self.amd
    }

    /// MAXPHYADDR.
    pub fn physical_bits(&self) -> u8 {
        46
    }

    /// PSE-36.
    pub fn has_pse36(&self) -> bool {
        true
    }

    /// Family, model and stepping, as CPUID leaf 1 shows them in EAX.
    pub fn signature(&self) -> u32 {
        0x0005_0654
    }

    /// 1-GiB pages.
    pub fn has_pages_1g(&self) -> bool {
        true
    }

    /// Options for iced's decoder.
    pub fn decoder_options(&self) -> u32 {
        self.options
    }
}
