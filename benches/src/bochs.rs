//! A Linux guest for Bochs, which boots from disks only: a disk whose boot sector loads the kernel as a boot loader
//! would, by the 32-bit boot protocol (Linux Documentation/arch/x86/boot.rst).

use crate::emulator::{APPEND, Guest};
use crate::programs::{compiler, output};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECTOR: usize = 512;
const KERNEL: usize = 0x10_0000;
/// The zero page, the command line's page, and the initrd follow each other.
const BOOT_PARAMS: usize = 0x7ff_e000;
const COMMAND_LINE: usize = BOOT_PARAMS + 0x1000;
const INITRD: usize = BOOT_PARAMS + 0x2000;
const BOOT_SECTOR: &str = include_str!("../programs/bochs.S");

/// Where distributions install the BIOSes.
const FOLDERS: [&str; 2] = ["/usr/share/bochs", "/usr/local/share/bochs"];

/// Writes all files of the guest into `folder`: the path of the configuration.
pub fn prepare(guest: &Guest, folder: &Path) -> Result<PathBuf> {
    let image = fs::read(guest.kernel)?;
    let initrd = fs::read(guest.initrd)?;
    let end = INITRD + initrd.len() + (1 << 20);
    ensure!((guest.memory as usize) << 20 >= end, "Bochs' guest needs {} MiB of RAM", end >> 20);
    let mut data = boot_params(&image, initrd.len(), guest.memory)?;
    data.extend(initrd);
    let setup_size = (usize::from(image[0x1f1].max(4)) + 1) * SECTOR;
    let mut kernel = image.get(setup_size..).context("the kernel is truncated")?.to_vec();
    pad(&mut kernel, SECTOR);
    pad(&mut data, SECTOR);
    let mut disk = boot_sector(kernel.len() / SECTOR, data.len() / SECTOR, folder)?;
    disk.extend(kernel);
    disk.extend(data);
    let (heads, sectors) = (16, 63);
    pad(&mut disk, heads * sectors * SECTOR);
    let cylinders = disk.len() / (heads * sectors * SECTOR);
    fs::write(folder.join("disk"), disk)?;
    let find = |name: &str| {
        let mut paths = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
        paths.find(|path| path.is_file()).with_context(|| format!("Bochs' {name} is not installed"))
    };
    let configuration = format!(
        "megs: {}\nromimage: file={}, options=fastboot\nvgaromimage: file={}\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\nata0-master: type=disk, mode=flat, path={}, \
         cylinders={cylinders}, heads={heads}, spt={sectors}\nboot: disk\n\
         cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1\n\
         clock: sync=none\ncom1: enabled=1, mode=file, dev=/dev/stdout\nlog: log\npanic: action=fatal\n\
         error: action=ignore\ninfo: action=ignore\ndebug: action=ignore\n\
         display_library: rfb, options=\"timeout=0\"\nsound: waveoutdrv=dummy\nspeaker: enabled=0\n",
        guest.memory,
        find("BIOS-bochs-latest")?.display(),
        find("VGABIOS-lgpl-latest")?.display(),
        folder.join("disk").display(),
    );
    let path = folder.join("bochsrc");
    fs::write(&path, configuration)?;
    Ok(path)
}

fn pad(bytes: &mut Vec<u8>, unit: usize) {
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
}

/// The zero page and the command line, a page each.
fn boot_params(image: &[u8], initrd_size: usize, memory: u32) -> Result<Vec<u8>> {
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "the kernel is no bzImage");
    let mut params = vec![0; 0x2000];
    let header_end = 0x202 + usize::from(image[0x201]);
    let header = image.get(0x1f1..header_end).context("the kernel is truncated")?;
    params[0x1f1..header_end].copy_from_slice(header);
    let mut put = |at: usize, bytes: &[u8]| params[at..at + bytes.len()].copy_from_slice(bytes);
    // type_of_loader; loadflags: LOADED_HIGH; the initrd; the command line.
    put(0x210, &[0xff, 1]);
    put(0x214, &(KERNEL as u32).to_le_bytes());
    put(0x218, &(INITRD as u32).to_le_bytes());
    put(0x21c, &(initrd_size as u32).to_le_bytes());
    put(0x228, &(COMMAND_LINE as u32).to_le_bytes());
    // The BIOS has its ACPI tables at the end of RAM.
    let top = u64::from(memory) << 20;
    let acpi = top - (1 << 20);
    let map = [
        (0, 0x9_fc00, 1),
        (0x9_fc00, 0xa_0000, 2),
        (0xf_0000, 0x10_0000, 2),
        (0x10_0000, acpi, 1),
        (acpi, top, 3),
    ];
    put(0x1e8, &[map.len() as u8]);
    for (index, (start, end, kind)) in map.into_iter().enumerate() {
        let entry = 0x2d0 + 20 * index;
        put(entry, &u64::to_le_bytes(start));
        put(entry + 8, &(end - start).to_le_bytes());
        put(entry + 16, &u32::to_le_bytes(kind));
    }
    put(COMMAND_LINE - BOOT_PARAMS, APPEND.as_bytes());
    Ok(params)
}

fn boot_sector(kernel_sectors: usize, data_sectors: usize, folder: &Path) -> Result<Vec<u8>> {
    let source = folder.join("boot.S");
    let binary = folder.join("boot");
    fs::write(&source, BOOT_SECTOR)?;
    let mut command = Command::new(compiler());
    for (name, value) in [
        ("KERNEL_SECTORS", kernel_sectors),
        ("KERNEL", KERNEL),
        ("DATA_SECTORS", data_sectors),
        ("BOOT_PARAMS", BOOT_PARAMS),
    ] {
        command.arg(format!("-D{name}={value}"));
    }
    command.args(["-nostdlib", "-static", "-Wl,-N,-Ttext=0x7c00,--oformat=binary,--build-id=none", "-o"]);
    output(command.arg(&binary).arg(&source)).context("cannot assemble the boot sector")?;
    let code = fs::read(binary)?;
    ensure!(code.len() == SECTOR, "the boot sector has {} bytes", code.len());
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_is_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(boot_sector(1, 2, folder.path()).unwrap()[510..], [0x55, 0xaa]);
    }

    #[test]
    fn kernels_that_are_none() {
        assert!(boot_params(&[0; 100], 0, 512).is_err());
        assert!(boot_params(&[0; 0x300], 0, 512).is_err());
        let mut truncated = vec![0; 0x206];
        truncated[0x201..0x206].copy_from_slice(b"\x6aHdrS");
        assert!(boot_params(&truncated, 0, 512).is_err());
    }
}
