//! From `"max,-avx512f,+x2apic"` to a model.

use super::features::{Feature, Features, TABLE};
use super::implemented::{implemented, missing_forms};
use super::{Cache, Model, Vendor};
use crate::vmx::capability::Capabilities;
use serde::Deserialize;
use std::sync::LazyLock;
use thiserror::Error;

/// Why a model description is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelError {
    /// No such model.
    #[error("unknown CPU model '{name}'; there are: {known}")]
    UnknownModel {
        /// As given.
        name: String,
        /// All models.
        known: String,
    },
    /// No such feature.
    #[error("unknown CPU feature '{name}'{}", nearest(.near))]
    UnknownFeature {
        /// As given.
        name: String,
        /// Features with a similar name.
        near: Vec<&'static str>,
    },
    /// The feature is known, but this processor lacks it.
    #[error("CPU feature '{name}' is not implemented{}", forms(*missing))]
    NotImplemented {
        /// The feature.
        name: &'static str,
        /// How many of its instruction forms are missing.
        missing: usize,
    },
    /// Neither `+name`, `-name`, `name`, `name=on` nor `name=off`.
    #[error("cannot read '{0}' as a CPU feature: write +NAME or -NAME")]
    Malformed(String),
    /// A property with an impossible value.
    #[error("'{0}' is not possible: write vendor=GenuineIntel, vendor=AuthenticAMD or phys-bits=32 to 52")]
    Property(String),
}

fn nearest(near: &[&str]) -> String {
    if near.is_empty() { String::new() } else { format!("; similar: {}", near.join(", ")) }
}

fn forms(missing: usize) -> String {
    if missing == 0 { String::new() } else { format!(" ({missing} of its instruction forms are missing)") }
}

/// A model's data file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ModelFile {
    name: String,
    about: String,
    vendor: Vendor,
    brand: String,
    family: u32,
    model: u32,
    stepping: u32,
    physical_bits: u8,
    /// Highest basic and extended leaf.
    level: u32,
    extended_level: u32,
    features: Vec<String>,
    /// The VMX controls that exist, see [`crate::vmx`].
    #[serde(default)]
    vmx: Vec<String>,
    caches: Vec<Cache>,
}

const FILES: &[&str] = &[
    include_str!("../../models/qemu64.toml"),
    include_str!("../../models/x86-64-v3.toml"),
    include_str!("../../models/Nehalem.toml"),
    include_str!("../../models/Haswell.toml"),
    include_str!("../../models/Skylake-Server.toml"),
    include_str!("../../models/EPYC.toml"),
    include_str!("../../models/max.toml"),
];

/// VMX controls by the names of QEMU's CPU properties, with which test suites say what they want: property and control.
const VMX_PROPERTIES: &[(&str, &str)] = &[
    ("vmx-preemption-timer", "preemption-timer"),
    ("vmx-posted-intr", "posted-interrupts"),
    ("vmx-flexpriority", "tpr-shadow"),
    ("vmx-mtf", "monitor-trap-flag"),
    ("vmx-apicv-xapic", "virtualize-apic-accesses"),
    ("vmx-ept", "ept"),
    ("vmx-desc-exit", "descriptor-table-exiting"),
    ("vmx-apicv-x2apic", "virtualize-x2apic"),
    ("vmx-vpid", "vpid"),
    ("vmx-unrestricted-guest", "unrestricted-guest"),
    ("vmx-apicv-register", "apic-register-virtualization"),
    ("vmx-apicv-vid", "virtual-interrupt-delivery"),
    ("vmx-ple", "pause-loop-exiting"),
    ("vmx-vmfunc", "vm-functions"),
    ("vmx-shadow-vmcs", "vmcs-shadowing"),
    ("vmx-pml", "pml"),
    ("vmx-mbec", "mode-based-execute-control"),
    ("vmx-tsc-scaling", "tsc-scaling"),
];

static MODELS: LazyLock<Vec<ModelFile>> = LazyLock::new(|| {
    // The files are part of the program; a test reads all of them.
    FILES.iter().filter_map(|text| toml::from_str(text).ok()).collect()
});

/// The models: name and one line about each.
pub fn models() -> impl Iterator<Item = (&'static str, &'static str)> {
    MODELS.iter().map(|file| (file.name.as_str(), file.about.as_str()))
}

impl ModelFile {
    /// The features that the file asks for: all, `all except` some, or a list.
    fn features(&self) -> Features {
        let mut features = Features::default();
        for name in &self.features {
            match name.strip_prefix('-') {
                _ if name == "all" => features = TABLE.iter().map(|info| info.feature).collect(),
                Some(name) => {
                    if let Some(feature) = Feature::by_name(name) {
                        features.remove_with_dependents(feature);
                    }
                }
                None => {
                    if let Some(feature) = Feature::by_name(name) {
                        features.insert(feature);
                    }
                }
            }
        }
        features
    }
}

/// The features that a model's file asks for.
#[cfg(test)]
pub(super) fn asked_for(name: &str) -> Features {
    MODELS.iter().find(|file| file.name == name).map(ModelFile::features).unwrap_or_default()
}

impl Model {
    /// Reads a description: a model's name, then features to add (`+name`, `name`, `name=on`) or to take away (`-name`,
    /// `name=off`), separated by commas. A feature brings those that it needs, and takes those that need it with it.
    /// So do QEMU's `vmx-` properties with the main controls of VMX.
    /// `vendor=` and `phys-bits=` (the width of physical addresses) replace the model's own.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        Self::parse_with(text, implemented())
    }

    /// As [`Self::parse`], as if `implemented` were what is implemented.
    pub(super) fn parse_with(text: &str, implemented: Features) -> Result<Self, ModelError> {
        let mut parts = text.split(',').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let file = MODELS.iter().find(|file| file.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known = models().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
            ModelError::UnknownModel { name: name.into(), known }
        })?;
        let mut features = file.features().and(implemented);
        let mut vmx = file.vmx.clone();
        let (mut vendor, mut physical_bits) = (file.vendor, file.physical_bits);
        for part in parts.filter(|part| !part.is_empty()) {
            let impossible = || ModelError::Property(part.into());
            match part.split_once('=') {
                Some(("vendor", value)) => {
                    vendor = match value {
                        "GenuineIntel" => Vendor::Intel,
                        "AuthenticAMD" => Vendor::Amd,
                        _ => return Err(impossible()),
                    };
                    continue;
                }
                Some(("phys-bits", value)) => {
                    let bits = value.parse().ok().filter(|bits| (32..=52).contains(bits));
                    physical_bits = bits.ok_or_else(impossible)?;
                    continue;
                }
                _ => {}
            }
            let (name, on) = match (part.strip_prefix('+'), part.strip_prefix('-'), part.split_once('=')) {
                (Some(name), _, None) => (name, true),
                (_, Some(name), None) => (name, false),
                (None, None, Some((name, "on"))) => (name, true),
                (None, None, Some((name, "off"))) => (name, false),
                (None, None, None) => (part, true),
                _ => return Err(ModelError::Malformed(part.into())),
            };
            if let Some((_, control)) = VMX_PROPERTIES.iter().find(|(property, _)| *property == name) {
                vmx.push(if on { (*control).into() } else { format!("-{control}") });
                continue;
            }
            let feature = Feature::by_name(name)
                .ok_or_else(|| ModelError::UnknownFeature { name: name.into(), near: similar(name) })?;
            if !on {
                features.remove_with_dependents(feature);
            } else if implemented.has(feature) {
                features.insert_with_needs(feature);
            } else {
                let missing = missing_forms().iter().filter(|(of, _)| *of == feature).count();
                return Err(ModelError::NotImplemented { name: feature.name(), missing });
            }
        }
        Ok(Self::build(file, vendor, physical_bits, features, vmx))
    }

    fn build(
        file: &ModelFile,
        vendor: Vendor,
        physical_bits: u8,
        features: Features,
        vmx_controls: Vec<String>,
    ) -> Self {
        let mut model = Self {
            vendor,
            brand: file.brand.clone(),
            family: file.family,
            model: file.model,
            stepping: file.stepping,
            physical_bits,
            level: file.level,
            extended_level: file.extended_level,
            caches: file.caches.clone(),
            vmx_controls,
            vmx: Capabilities::default(),
            features,
            codes: Box::default(),
            options: 0,
            cpus: 1,
        };
        model.update_forms();
        model
    }
}

/// Features whose names are close to `name`.
fn similar(name: &str) -> Vec<&'static str> {
    let name = name.to_ascii_lowercase();
    let mut close: Vec<_> = TABLE
        .iter()
        .flat_map(|info| info.names)
        .map(|&other| {
            let inside =
                name.len() > 2 && (other.contains(&*name) || name.contains(other) && other.len() > 2);
            (distance(&name, other).saturating_sub(2 * usize::from(inside)), other)
        })
        .filter(|&(distance, other)| distance <= 1 + other.len() / 4)
        .collect();
    close.sort();
    close.into_iter().map(|(_, name)| name).take(5).collect()
}

/// Edits between two short words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate().take(64) {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_and_names_only_known_features() {
        for text in FILES {
            let file: ModelFile = toml::from_str(text).unwrap();
            for name in file.features.iter().filter(|name| *name != "all") {
                let name = name.strip_prefix('-').unwrap_or(name);
                assert!(Feature::by_name(name).is_some(), "{}: {name}", file.name);
            }
            let asked = file.features();
            for feature in asked.iter().filter(|_| !file.features.iter().any(|name| name == "all")) {
                for &need in feature.info().needs {
                    assert!(asked.has(need), "{}: {feature:?} needs {need:?}", file.name);
                }
            }
            for name in &file.vmx {
                assert!(Capabilities::knows(name), "{}: {name}", file.name);
            }
            assert!(file.brand.len() < 48 && file.physical_bits <= 52);
        }
        assert_eq!(MODELS.len(), FILES.len());
    }

    #[test]
    fn properties_name_controls() {
        for (property, control) in VMX_PROPERTIES {
            assert!(crate::vmx::controls::CONTROLS.iter().any(|known| known.name == *control), "{property}");
        }
    }

    #[test]
    fn descriptions() {
        use crate::vmx::controls;
        assert!(Model::parse("max").is_ok());
        let model = Model::parse("max,vendor=AuthenticAMD,phys-bits=36,-avx").unwrap();
        assert_eq!((model.vendor, model.physical_bits()), (Vendor::Amd, 36));
        let model = Model::parse("max,-msr,+tsc").unwrap();
        assert!(
            !model.has(Feature::Msr)
                && !model.has(Feature::Lm)
                && model.has(Feature::Fpu) == implemented().has(Feature::Fpu)
        );
        let mode_based =
            |text: &str| Model::parse(text).unwrap().vmx.has(controls::Group::Secondary, 1 << 22);
        assert!(mode_based("max,+vmx") && !mode_based("max,-vmx-mbec") && !mode_based("max,vmx-ept=off"));
        assert!(!mode_based("Haswell,+vmx") && mode_based("Haswell,+vmx,+vmx-mbec"));
        let error = |text: &str| Model::parse(text).unwrap_err().to_string();
        for (text, wanted) in [
            (
                "pentium9",
                "unknown CPU model 'pentium9'; there are: qemu64, x86-64-v3, Nehalem, Haswell, Skylake-Server, EPYC, max",
            ),
            ("max,+avx513f", "unknown CPU feature 'avx513f'; similar: avx512f"),
            ("max,+rtm", "CPU feature 'rtm' is not implemented ("),
            ("max,sgx=on", "CPU feature 'sgx' is not implemented"),
            ("max,phys-bits=64", "'phys-bits=64' is not possible"),
            ("max,vendor=Cyrix", "'vendor=Cyrix' is not possible"),
            ("max,+x=y", "cannot read '+x=y' as a CPU feature: write +NAME or -NAME"),
        ] {
            assert!(error(text).starts_with(wanted), "{}", error(text));
        }
    }
}
