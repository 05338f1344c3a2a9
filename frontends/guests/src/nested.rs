//! The file systems of a Debian kernel whose KVM runs the same kernel in QEMU's microvm, to any depth.
//!
//! Every level's initial file system is made in memory. The innermost one is the plain one around busybox; each other one
//! holds KVM's modules, QEMU with its libraries and firmware, the kernel, and the next level's file system.

use crate::{GuestError, Installed};
use goblin::elf::Elf;
use ringworld_firmware::{CpioError, Initramfs};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// MiB of memory of the innermost level, and what each level around it needs in addition.
const INNERMOST: u32 = 192;
const PER_LEVEL: u32 = 512;
/// QEMU's binary for microvm, in its package.
const QEMU: &str = "usr/bin/qemu-system-x86_64-microvm";
/// Where libraries lie in Debian's packages.
const LIBRARIES: [&str; 4] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "lib64", "usr/lib64"];
/// Firmware that microvm loads; what is not in the packages is left out.
const FIRMWARE: [&str; 4] = [
    "usr/share/qemu/qboot.rom",
    "usr/share/seabios/bios-microvm.bin",
    "usr/share/qemu/pvh.bin",
    "usr/share/qemu/linuxboot_dma.bin",
];

/// Why a nested guest's file system cannot be made.
#[derive(Debug, Error)]
pub enum NestedError {
    /// A file that cannot be read.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A file system that cannot be packed.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The packages lack something.
    #[error("the fetched packages hold no {0}: run `ringworld guests fetch nested`")]
    Missing(String),
    /// A file of the packages that is no program.
    #[error("{0} is no ELF file")]
    NotElf(String),
}

/// Systems inside of each other.
#[derive(Clone, Debug)]
pub struct Nested {
    /// KVM uses AMD's SVM, else Intel's VMX.
    pub amd: bool,
    /// KVM uses EPT or NPT, else shadow page tables.
    pub nested_paging: bool,
    /// How many levels there are, the machine's own included; at least 2.
    pub depth: u32,
    /// How many guests each level runs at once. Only the first has the console; the others' output follows at the end.
    pub guests: u32,
    /// CPUs of each guest.
    pub guest_cpus: u32,
    /// More parameters for KVM's module.
    pub parameters: String,
}

impl Nested {
    /// MiB of memory that the machine needs.
    pub fn memory(&self) -> u32 {
        self.memory_of(self.depth)
    }

    /// MiB of memory of the level with so many levels from it to the innermost one.
    fn memory_of(&self, levels: u32) -> u32 {
        match levels {
            0 | 1 => INNERMOST,
            _ => PER_LEVEL + self.guests * self.memory_of(levels - 1),
        }
    }

    /// The outermost level's file system. `fill` adds to each level's; it is told how many levels there are from it to
    /// the innermost one. A level's script ([`Initramfs::script`]) runs before the next level starts.
    ///
    /// # Errors
    /// A file that is missing or cannot be read or packed.
    pub fn initramfs<E: From<NestedError>>(
        &self,
        guest: &Installed,
        kernel: &Path,
        fill: impl Fn(u32, &mut Initramfs) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        let mut inner = Vec::new();
        for levels in 1..=self.depth.max(1) {
            let mut initramfs = Initramfs::new(read(guest.busybox().map_err(NestedError::from)?)?)
                .map_err(NestedError::from)?;
            if levels > 1 {
                self.add_host(&mut initramfs, guest, kernel, levels, inner)?;
            }
            fill(levels, &mut initramfs)?;
            inner = initramfs.finish();
        }
        Ok(inner)
    }

    /// What a level needs to run another one, whose file system is `inner`.
    fn add_host(
        &self,
        initramfs: &mut Initramfs,
        guest: &Installed,
        kernel: &Path,
        levels: u32,
        inner: Vec<u8>,
    ) -> Result<(), NestedError> {
        let archive = initramfs.archive();
        archive.file("init", 0o755, self.init(levels))?;
        archive.file("nested/vmlinuz", 0o644, read(kernel)?)?;
        archive.file("nested/initrd", 0o644, inner)?;
        for module in ["irqbypass", "kvm", self.module()] {
            let found = guest.module(module).map_err(GuestError::at(module))?;
            let (path, data) = found.ok_or_else(|| NestedError::Missing(format!("module {module}")))?;
            archive.file(&format!("nested/{path}"), 0o644, data)?;
        }
        for file in FIRMWARE {
            if let Some(path) = resolve(&guest.tree, file) {
                let name = Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or_default();
                archive.file(&format!("usr/share/qemu/{name}"), 0o644, read(&path)?)?;
            }
        }
        let binary = read(&guest.tree.join(QEMU))?;
        for (name, data) in libraries(&guest.tree, &binary)? {
            archive.file(&name, 0o755, data)?;
        }
        archive.file("usr/bin/qemu", 0o755, binary)?;
        Ok(())
    }

    fn module(&self) -> &'static str {
        if self.amd { "kvm-amd" } else { "kvm-intel" }
    }

    /// The first program of a level that has another one inside.
    fn init(&self, levels: u32) -> String {
        let mut parameters = self.parameters.clone();
        if !self.nested_paging {
            parameters += if self.amd { " npt=0" } else { " ept=0" };
        }
        if levels > 2 && !parameters.contains("nested=") {
            parameters += " nested=1";
        }
        let vendor = self.module();
        let (memory, cpus, guests) = (self.memory_of(levels - 1), self.guest_cpus, self.guests);
        format!(
            r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin LD_LIBRARY_PATH=/lib
guest() {{
    exec qemu -M microvm,accel=kvm,rtc=on -cpu host -smp {cpus} -m {memory} -nodefaults -no-user-config -display none \
        -serial "$1" -no-reboot -L /usr/share/qemu -kernel /nested/vmlinuz -initrd /nested/initrd \
        -append "console=ttyS0 reboot=t panic=-1"
}}
if [ "$1" = guest ]; then guest "$2"; fi
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tmpfs tmpfs /tmp
for module in irqbypass kvm; do insmod /nested/$module.ko*; done
insmod /nested/{vendor}.ko* {parameters}
for parameter in ept npt vpid avic enable_apicv unrestricted_guest nested; do
    for file in /sys/module/kvm_*/parameters/$parameter; do
        [ -e "$file" ] && echo "KVM: $parameter=$(cat $file)"
    done
done
[ -x /etc/ringworld/script ] && /etc/ringworld/script
for n in $(seq 2 {guests}); do $0 guest file:/tmp/guest$n & done
setsid cttyhack $0 guest stdio
echo "QEMU ended with code $?"
for n in $(seq 2 {guests}); do
    for second in $(seq 60); do grep -q "Power down" /tmp/guest$n && break; sleep 1; done
    sed "s/^/guest $n: /" /tmp/guest$n
done
dmesg | grep -E "WARNING:|BUG:|Oops" | sed 's/^/complaint: /'
sync
poweroff -f
"#
        )
    }
}

fn read(path: &Path) -> Result<Vec<u8>, NestedError> {
    Ok(std::fs::read(path).map_err(GuestError::at(path))?)
}

/// A file in the tree of packages, through symbolic links inside of it.
fn resolve(tree: &Path, file: &str) -> Option<PathBuf> {
    let mut path = tree.join(file);
    for _ in 0..8 {
        match std::fs::read_link(&path) {
            Ok(target) if target.is_absolute() => path = tree.join(target.strip_prefix("/").ok()?),
            Ok(target) => path = path.parent()?.join(target),
            Err(_) => break,
        }
    }
    path.is_file().then_some(path)
}

/// The shared libraries that a binary needs, directly or not, with its interpreter: path in the archive and contents.
fn libraries(tree: &Path, binary: &[u8]) -> Result<Vec<(String, Vec<u8>)>, NestedError> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let elf = Elf::parse(binary).map_err(|_| NestedError::NotElf("QEMU's binary".into()))?;
    let interpreter = elf.interpreter.unwrap_or_default().to_owned();
    let mut open: Vec<String> = elf.libraries.iter().map(|name| (*name).into()).collect();
    let loader = Path::new(&interpreter).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    open.push(loader.into());
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let path = LIBRARIES.iter().find_map(|folder| resolve(tree, &format!("{folder}/{name}")));
        let path = path.ok_or_else(|| NestedError::Missing(format!("library {name}")))?;
        let data = read(&path)?;
        let elf = Elf::parse(&data).map_err(|_| NestedError::NotElf(name.clone()))?;
        open.extend(elf.libraries.iter().map(|name| (*name).to_owned()));
        let place =
            if name == loader { interpreter.trim_start_matches('/').into() } else { format!("lib/{name}") };
        found.push((place, data));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(amd: bool) -> Nested {
        let parameters = "vpid=0".into();
        Nested { amd, nested_paging: false, depth: 3, guests: 1, guest_cpus: 2, parameters }
    }

    #[test]
    fn parameters_reach_the_module() {
        let intel = nested(false).init(2);
        assert!(intel.contains("insmod /nested/kvm-intel.ko* vpid=0 ept=0\n"));
        assert!(intel.contains("-smp 2 -m 192 ") && !intel.contains("nested=1"));
        let amd = nested(true).init(3);
        assert!(
            amd.contains("insmod /nested/kvm-amd.ko* vpid=0 npt=0 nested=1\n") && amd.contains("-m 704 ")
        );
    }

    #[test]
    fn links_are_followed_inside_of_the_tree() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("lib")).unwrap();
        std::fs::write(tree.path().join("lib/real.so.1"), "x").unwrap();
        std::os::unix::fs::symlink("real.so.1", tree.path().join("lib/a.so")).unwrap();
        std::os::unix::fs::symlink("/lib/a.so", tree.path().join("lib/b.so")).unwrap();
        std::os::unix::fs::symlink("c.so", tree.path().join("lib/c.so")).unwrap();
        assert_eq!(resolve(tree.path(), "lib/b.so"), Some(tree.path().join("lib/real.so.1")));
        assert_eq!(resolve(tree.path(), "lib/c.so"), None);
    }
}
