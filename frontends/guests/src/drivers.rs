//! Which of a Linux kernel's modules drive a device, in the order in which they load.

use crate::Installed;
use std::io;
use std::path::Path;

/// What is to be driven.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Driver {
    /// virtio's PCI transport.
    Virtio,
    /// Virtio disks.
    Block,
    /// AHCI disks and discs.
    Ahci,
    /// NVMe disks.
    Nvme,
    /// Virtio network cards.
    Network,
    /// The virtio console.
    Console,
    /// The virtio entropy device.
    Entropy,
    /// The virtio memory balloon.
    Balloon,
    /// Folders shared by 9P over virtio.
    Share,
    /// Virtio sockets.
    Socket,
    /// The file systems of disks and discs: ext4, ISO 9660.
    FileSystem,
}

impl Driver {
    /// The modules after those that they need. What is not there is part of the kernel, or not needed by its release.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Virtio => {
                &["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"]
            }
            Self::Block => &["virtio_blk"],
            Self::Ahci => &[
                "scsi_common",
                "scsi_mod",
                "t10-pi",
                "crc-t10dif",
                "crct10dif_generic",
                "crc64",
                "crc64-rocksoft",
                "sd_mod",
                "cdrom",
                "sr_mod",
                "libata",
                "libahci",
                "ahci",
            ],
            Self::Nvme => &["t10-pi", "nvme-common", "nvme-core", "nvme"],
            Self::Network => &["failover", "net_failover", "virtio_net"],
            Self::Console => &["virtio_console"],
            Self::Entropy => &["rng-core", "virtio-rng"],
            Self::Balloon => &["virtio_balloon"],
            Self::Share => &["netfs", "fscache", "9pnet", "9pnet_virtio", "9p"],
            Self::Socket => &["vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"],
            Self::FileSystem => &[
                "crc16",
                "libcrc32c",
                "crc32c_generic",
                "crc32c-intel",
                "mbcache",
                "jbd2",
                "ext4",
                "cdrom",
                "isofs",
            ],
        }
    }
}

impl Installed {
    /// The modules that drive these devices, in the order in which they load: file name and contents.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn drivers(&self, of: &[Driver]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut modules: Vec<(String, Vec<u8>)> = Vec::new();
        for name in of.iter().flat_map(|driver| driver.modules()) {
            if let Some((file, data)) = self.module(name)?
                && modules.iter().all(|(other, _)| *other != file)
            {
                modules.push((file, data));
            }
        }
        Ok(modules)
    }

    /// A module's file name and contents, in whatever folder and with whatever compression busybox's insmod can read;
    /// `None` if the kernel has no such module.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn module(&self, name: &str) -> io::Result<Option<(String, Vec<u8>)>> {
        self.modules.as_deref().map_or(Ok(None), |folder| find(&folder.join("kernel"), name))
    }
}

fn find(folder: &Path, name: &str) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if file.strip_prefix(name).is_some_and(|rest| matches!(rest, ".ko" | ".ko.gz" | ".ko.xz"))
            {
                return Ok(Some((file, std::fs::read(entry.path())?)));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, Guest};

    #[test]
    fn modules_come_in_order_and_missing_ones_are_left_out() {
        let tree = tempfile::tempdir().unwrap();
        let modules = tree.path().join("lib");
        for (folder, file) in [("a/b", "virtio_ring.ko"), ("a", "virtio_blk.ko.xz"), ("", "virtio_blk_x.ko")]
        {
            let folder = modules.join("kernel").join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(file), file).unwrap();
        }
        let installed = Installed {
            guest: Guest::Debian,
            architecture: Architecture::Amd64,
            tree: tree.path().into(),
            kernel: "vmlinuz".into(),
            busybox: Some("busybox".into()),
            initrd: None,
            modules: Some(modules),
            packages: Vec::new(),
        };
        let found = installed.drivers(&[Driver::Virtio, Driver::Block, Driver::Block]).unwrap();
        let names: Vec<_> = found.iter().map(|(name, data)| (&**name, data.len())).collect();
        assert_eq!(names, [("virtio_ring.ko", 14), ("virtio_blk.ko.xz", 16)]);
        assert_eq!(Installed { modules: None, ..installed }.drivers(&[Driver::Virtio]).unwrap(), []);
    }
}
