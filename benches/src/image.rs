//! The guest: an initramfs that runs benchmarks one after the other.

use crate::programs::{BINARY, Built, Program, links};
use anyhow::{Context, Result};
use ringworld_firmware::Initramfs;

/// The initramfs that runs these programs, with the amounts of work, and then switches the guest off.
pub fn initramfs(built: &Built, programs: &[(Program, u64)]) -> Result<Vec<u8>> {
    let mut initramfs = Initramfs::new(built.read("busybox")?)?;
    add(&mut initramfs, built, programs)?;
    Ok(initramfs.finish())
}

/// Has an initramfs run these programs in place of the shell.
pub fn add(initramfs: &mut Initramfs, built: &Built, programs: &[(Program, u64)]) -> Result<()> {
    let archive = initramfs.archive();
    archive.file(&format!("bench/{BINARY}"), 0o755, built.read(BINARY)?)?;
    archive.file("bench/text", 0o644, built.read("text")?)?;
    for name in links() {
        archive.symlink(&format!("bench/{name}"), BINARY)?;
    }
    // Kernel messages would tear marker lines.
    let mut script = String::from("#!/bin/sh\ndmesg -n 1\ncd /bench\n");
    for (program, work) in programs {
        script += &program.command(*work);
        script.push('\n');
    }
    // Switching off loses what the console has not sent yet.
    script += "sleep 1\n";
    initramfs.script(&script).context("cannot make the initramfs")?;
    Ok(())
}
