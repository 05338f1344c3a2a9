//! `ringworld boot nested`: a Debian kernel whose KVM runs the same kernel in QEMU's microvm, to any depth.
//!
//! Every level's initial file system is made in memory. The innermost one is that of `boot debian`; each other one holds
//! KVM's modules, QEMU with its libraries and firmware, the kernel, and the next level's file system.

use crate::args::{BootArgs, NestedArgs, Switch, Virtualisation};
use crate::run::{Script, config};
use anyhow::Context;
use goblin::elf::Elf;
use ringworld_firmware::{Initramfs, USERSPACE_MARKER};
use ringworld_guests::{Architecture, Guests, Installed, terminal_progress};
use ringworld_machine::{BootFile, MachineConfig, Source};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// MiB of memory of the innermost level, and what each level around it needs in addition.
const INNERMOST: u32 = 192;
const PER_LEVEL: u32 = 512;
/// What a level's kernel is told besides `--append`.
const COMMAND_LINE: &str = "console=ttyS0";
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

/// The machine, with its guest fetched, and what to type.
pub fn machine(args: &BootArgs) -> anyhow::Result<(MachineConfig, Script)> {
    let mut options = config(&args.machine)?;
    let nested = &args.nested;
    if nested.vendor == Virtualisation::Amd && options.cpu == "max" {
        // The model that shows everything is Intel's.
        options.cpu = "EPYC".into();
    }
    let needed = u64::from(memory(nested, nested.depth)) << 20;
    let guest = Guests::open()?.ensure(args.guest, Architecture::Amd64, &mut terminal_progress())?;
    let kernel = args.kernel.clone().unwrap_or_else(|| guest.kernel.clone());
    let initrd = initramfs(&guest, &kernel, nested, args.script.as_deref(), nested.depth)?;
    let config = MachineConfig {
        memory: options.memory.max(needed),
        kernel: Source::Path(kernel),
        modules: vec![Source::Memory(BootFile::new("initramfs", initrd))],
        command_line: [COMMAND_LINE, &args.append].join(" ").trim_end().into(),
        ..options
    };
    let script = Script { ready: Some(USERSPACE_MARKER), farewell: "exit\n", worlds: true };
    Ok((config, script))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// MiB of memory of the level with so many levels from it to the innermost one.
fn memory(args: &NestedArgs, levels: u32) -> u32 {
    match levels {
        1 => INNERMOST,
        _ => PER_LEVEL + args.guests * memory(args, levels - 1),
    }
}

/// The file system of the level with `levels` levels from it to the innermost one, itself included.
fn initramfs(
    guest: &Installed,
    kernel: &Path,
    args: &NestedArgs,
    script: Option<&Path>,
    levels: u32,
) -> anyhow::Result<Vec<u8>> {
    let mut initramfs = Initramfs::new(read(&guest.busybox)?)?;
    if levels == 1 {
        if let Some(path) = script {
            let text =
                String::from_utf8(read(path)?).with_context(|| format!("{} is no text", path.display()))?;
            initramfs.script(&text)?;
        }
        return Ok(initramfs.finish());
    }
    let inner = self::initramfs(guest, kernel, args, script, levels - 1)?;
    let archive = initramfs.archive();
    archive.file("init", 0o755, init(args, levels))?;
    archive.file("nested/vmlinuz", 0o644, read(kernel)?)?;
    archive.file("nested/initrd", 0o644, inner)?;
    for module in module_names(args.vendor) {
        let (path, data) =
            guest.module(module)?.with_context(|| format!("the kernel's package has no module {module}"))?;
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
    Ok(initramfs.finish())
}

fn module_names(vendor: Virtualisation) -> [&'static str; 3] {
    let last = if vendor == Virtualisation::Amd { "kvm-amd" } else { "kvm-intel" };
    ["irqbypass", "kvm", last]
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
fn libraries(tree: &Path, binary: &[u8]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let elf = Elf::parse(binary).context("QEMU's binary is no ELF file")?;
    let interpreter = elf.interpreter.unwrap_or_default().to_owned();
    let mut open: Vec<String> = elf.libraries.iter().map(|name| (*name).into()).collect();
    let loader = Path::new(&interpreter).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    open.push(loader.into());
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let path = LIBRARIES.iter().find_map(|folder| resolve(tree, &format!("{folder}/{name}")));
        let path = path.with_context(|| format!("the library {name} is in none of the fetched packages"))?;
        let data = read(&path)?;
        let elf = Elf::parse(&data).with_context(|| format!("{name} is no ELF file"))?;
        open.extend(elf.libraries.iter().map(|name| (*name).to_owned()));
        let place =
            if name == loader { interpreter.trim_start_matches('/').into() } else { format!("lib/{name}") };
        found.push((place, data));
    }
    Ok(found)
}

/// The first program of a level that has another one inside.
fn init(args: &NestedArgs, levels: u32) -> String {
    let off = args.ept == Switch::Off;
    let mut parameters = args.kvm.clone();
    if off {
        parameters += if args.vendor == Virtualisation::Amd { " npt=0" } else { " ept=0" };
    }
    if levels > 2 && !parameters.contains("nested=") {
        parameters += " nested=1";
    }
    let vendor = module_names(args.vendor)[2];
    let (memory, cpus, guests) = (memory(args, levels - 1), args.guest_cpus, args.guests);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn args(vendor: Virtualisation, ept: Switch) -> NestedArgs {
        NestedArgs { vendor, ept, depth: 3, kvm: "vpid=0".into(), guests: 1, guest_cpus: 2 }
    }

    #[test]
    fn parameters_reach_the_module() {
        let intel = init(&args(Virtualisation::Intel, Switch::Off), 2);
        assert!(intel.contains("insmod /nested/kvm-intel.ko* vpid=0 ept=0\n"));
        assert!(intel.contains("-smp 2 -m 192 ") && !intel.contains("nested=1"));
        let amd = init(&args(Virtualisation::Amd, Switch::Off), 3);
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
