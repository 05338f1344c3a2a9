//! Which packages make a guest: from a metapackage to the versioned kernel.

use crate::apt::Apt;
use crate::sources::deb822;
use crate::{Architecture, Guest, GuestError};

/// A static busybox, under the same name everywhere.
const BUSYBOX: &str = "busybox-static";
/// QEMU's small binary, its firmware, and the libraries that the two need.
pub(crate) const QEMU: &[&[&str]] = &[
    &["qemu-system-x86"],
    &["qemu-system-data"],
    &["seabios"],
    &["libc6"],
    &["libgcc-s1"],
    &["libfdt1"],
    &["libglib2.0-0", "libglib2.0-0t64"],
    &["libpcre2-8-0", "libpcre3"],
    &["libpixman-1-0"],
    &["zlib1g"],
];
/// From a metapackage over the kernel to its modules; deeper nothing is looked for.
const MAX_DEPTH: usize = 3;
/// Versioned packages of a kernel begin with one of these and a digit.
const KERNEL_PARTS: [&str; 3] = ["linux-image-", "linux-modules-", "linux-modules-extra-"];

/// A package as the archive describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Lower-case hexadecimal.
    pub(crate) sha256: String,
    /// The room that it takes, in bytes: the package file and its unpacked contents.
    pub(crate) space: u64,
    depends: String,
}

impl Package {
    /// The first stanza of `apt-cache show`'s output.
    fn parse(text: &str) -> Option<Self> {
        let stanza = deb822(text).into_iter().next()?;
        let get = |name: &str| stanza.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
        let number = |name: &str| get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        Some(Self {
            name: get("package")?,
            version: get("version")?,
            sha256: get("sha256")?.to_ascii_lowercase(),
            // deb-control(5): Size in bytes, Installed-Size in KiB.
            space: number("size").saturating_add(number("installed-size").saturating_mul(1024)),
            depends: get("depends").unwrap_or_default(),
        })
    }

    /// The names of the kernel's parts among the dependencies: of alternatives the first, without version and
    /// architecture.
    fn kernel_parts(&self) -> impl Iterator<Item = &str> {
        let names = self.depends.split(',').filter_map(|dependency| {
            dependency.trim_start().split(|end: char| end.is_whitespace() || "|:(".contains(end)).next()
        });
        names.filter(|name| is_kernel_part(name))
    }

    /// Whether the package is a kernel's image itself, and no metapackage.
    pub(crate) fn is_kernel(&self) -> bool {
        self.name.starts_with("linux-image-") && is_kernel_part(&self.name)
    }
}

fn is_kernel_part(name: &str) -> bool {
    let versioned = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    KERNEL_PARTS.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(versioned))
}

/// The packages of a guest: the kernel, its modules where they are apart, and busybox.
pub(crate) fn resolve(
    apt: &Apt,
    guest: Guest,
    architecture: Architecture,
) -> Result<Vec<Package>, GuestError> {
    let missing = |names: &[String]| GuestError::NoPackage {
        packages: names.join(", "),
        architecture: architecture.to_string(),
    };
    let metapackages = guest.metapackages(architecture);
    let show = |name: &str| Ok(Package::parse(&apt.show(name)?));
    let mut found = None;
    for name in &metapackages {
        found = show(name)?;
        if found.is_some() {
            break;
        }
    }
    let metapackage = found.ok_or_else(|| missing(&metapackages))?;
    if guest == Guest::DebianInstaller {
        return Ok(vec![metapackage]);
    }
    let mut packages: Vec<Package> = Vec::new();
    let mut open = vec![metapackage];
    for _ in 0..MAX_DEPTH {
        let names: Vec<String> = open.iter().flat_map(Package::kernel_parts).map(String::from).collect();
        open.clear();
        for name in names {
            if !packages.iter().any(|package| package.name == name) {
                let package = show(&name)?.ok_or_else(|| missing(std::slice::from_ref(&name)))?;
                packages.push(package.clone());
                open.push(package);
            }
        }
    }
    if !packages.iter().any(Package::is_kernel) {
        return Err(missing(&metapackages));
    }
    packages.push(show(BUSYBOX)?.ok_or_else(|| missing(&[BUSYBOX.into()]))?);
    for names in guest.extras() {
        let mut found = None;
        for name in *names {
            found = show(name)?;
            if found.is_some() {
                break;
            }
        }
        let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
        packages.push(found.ok_or_else(|| missing(&names))?);
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metapackage_leads_to_the_versioned_kernel() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1.1-1\nSHA256: AB\nSize: 5\nInstalled-Size: 2\n\
                    Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.1-1), linux-firmware,\n\
                    \x20linux-modules-extra-6.8.0-1-generic:any | other, linux-image-generic\nDescription: x\n\n\
                    Package: linux-image-cloud-amd64\nVersion: 5\n";
        let package = Package::parse(text).unwrap();
        assert_eq!((&*package.version, &*package.sha256), ("6.1.1-1", "ab"));
        assert_eq!(package.space, 5 + 2048);
        let parts: Vec<&str> = package.kernel_parts().collect();
        assert_eq!(parts, ["linux-image-6.1.0-56-cloud-amd64", "linux-modules-extra-6.8.0-1-generic"]);
        assert!(!package.is_kernel());
        assert_eq!(Package::parse(""), None);
        assert_eq!(Package::parse("Package: half\nVersion: 1\n"), None);
    }
}
