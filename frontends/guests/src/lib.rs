//! Guest systems from the host's own distribution, fetched by apt into a private cache: kernels and a static busybox,
//! Debian's installer.
//!
//! apt's own client does the work, with a state of its own: the mirrors and keys come from the host's apt sources,
//! signatures are checked by apt, nothing on the host is changed and no root is needed. What was fetched once works
//! without a network. Mirrors drop old versions, so packages are found by their metapackages, and the manifest
//! records versions and hashes.

mod apt;
mod drivers;
mod error;
mod nested;
mod packages;
mod progress;
mod sources;
mod store;

pub use drivers::Driver;
pub use error::GuestError;
pub use nested::{Nested, NestedError};
pub use progress::{Progress, terminal_progress};
pub use store::{FileRecord, Guests, Installed, PackageRecord};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A guest system that can be fetched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// The distribution's kernel for virtual machines (Debian: `linux-image-cloud-*`), with busybox.
    Debian,
    /// The distribution's full kernel (Debian: `linux-image-*`), with busybox.
    DebianFull,
    /// As [`Guest::Debian`], with QEMU, to run guests of its own.
    Nested,
    /// Debian's installer as it comes by network: a kernel and an initial file system of its own
    /// (`debian-installer-*-netboot-*`).
    DebianInstaller,
}

impl Guest {
    /// All guests.
    pub const ALL: [Self; 4] = [Self::Debian, Self::DebianFull, Self::Nested, Self::DebianInstaller];

    /// The name on the command line and in the cache.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::DebianFull => "debian-full",
            Self::Nested => "nested",
            Self::DebianInstaller => "debian-installer",
        }
    }

    /// The metapackages that depend on the newest kernel, in the order of preference: Debian's, then Ubuntu's. The
    /// installer's packages have the kernel in them.
    fn metapackages(self, architecture: Architecture) -> [String; 2] {
        match self {
            Self::Debian | Self::Nested => {
                [format!("linux-image-cloud-{architecture}"), "linux-image-virtual".into()]
            }
            Self::DebianFull => [format!("linux-image-{architecture}"), "linux-image-generic".into()],
            Self::DebianInstaller => {
                [13, 12].map(|release| format!("debian-installer-{release}-netboot-{architecture}"))
            }
        }
    }
}

impl Guest {
    /// Packages besides kernel and busybox; of each, the first name that there is.
    fn extras(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Debian | Self::DebianFull | Self::DebianInstaller => &[],
            Self::Nested => packages::QEMU,
        }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Guest {
    type Err = GuestError;

    fn from_str(name: &str) -> Result<Self, GuestError> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|guest| guest.name() == name)
            .ok_or_else(|| GuestError::UnknownGuest { name: name.into(), names: names() })
    }
}

/// A processor architecture, by its name in Debian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// ARMv8-A, 64 bits.
    Arm64,
}

impl Architecture {
    /// All architectures.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}
