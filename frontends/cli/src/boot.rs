//! `ringworld boot`: a Debian kernel and busybox, with an initial file system made in memory, or Debian's installer.

use crate::args::BootArgs;
use crate::run::{Script, Start, config, start};
use anyhow::Context;
use ringworld_firmware::{Initramfs, USERSPACE_MARKER};
use ringworld_guests::{Architecture, Driver, Guest, Guests, Installed, terminal_progress};
use ringworld_machine::{BootFile, Interface, MachineConfig, Module, Source};
use std::path::Path;

/// What the kernel is always told: where its console is.
const COMMAND_LINE: &str = "console=ttyS0";
const VIRTIO_COMMAND_LINE: &str = "console=hvc0";

/// Fetches the guest if need be, and boots it.
pub fn boot(args: &BootArgs) -> anyhow::Result<i32> {
    let (config, script) = machine(args, script(args)?.as_deref())?;
    start(Start::Config(Box::new(config)), &args.machine, script)
}

/// The text of `--script`.
pub fn script(args: &BootArgs) -> anyhow::Result<Option<String>> {
    let read = |path: &Path| -> anyhow::Result<_> {
        let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        String::from_utf8(data).with_context(|| format!("{} is no text", path.display()))
    };
    args.script.as_deref().map(read).transpose()
}

/// The machine, with its guest fetched, and what to type. `script` is what runs in place of the shell.
pub fn machine(args: &BootArgs, script: Option<&str>) -> anyhow::Result<(MachineConfig, Script)> {
    if args.guest == Guest::Nested {
        return crate::nested::machine(args, script);
    }
    let options = config(&args.machine)?;
    let guest = || -> anyhow::Result<Installed> {
        Ok(Guests::open()?.ensure(args.guest, Architecture::Amd64, &mut terminal_progress())?)
    };
    let kernel = match &args.kernel {
        Some(kernel) => kernel.clone(),
        None => guest()?.kernel,
    };
    let (initrd, script) = match &args.initrd {
        Some(initrd) => (Source::Path(initrd.clone()), Script::default()),
        None => {
            let guest = guest()?;
            match guest.initrd.as_ref().filter(|_| script.is_none()) {
                Some(initrd) => (Source::Path(initrd.clone()), Script::default()),
                None => {
                    // Another kernel has modules of its own.
                    let drivers =
                        if args.kernel.is_none() { guest.drivers(&drivers(&options))? } else { Vec::new() };
                    let initrd = initramfs(guest.busybox()?, script, drivers)?;
                    let initrd = BootFile::new("initramfs", initrd);
                    // The shell ends after the last line of a piped script; /init then powers off.
                    let script = Script { ready: Some(USERSPACE_MARKER), farewell: "exit\n", worlds: false };
                    (Source::Memory(initrd), script)
                }
            }
        }
    };
    let console = if options.virtio_console { VIRTIO_COMMAND_LINE } else { COMMAND_LINE };
    let machine = MachineConfig {
        kernel: Source::Path(kernel),
        modules: vec![Module::new(initrd)],
        command_line: [console, &args.append].join(" ").trim_end().into(),
        ..options
    };
    Ok((machine, script))
}

/// What the machine's devices want of the kernel besides what every kernel has.
fn drivers(config: &MachineConfig) -> Vec<Driver> {
    let disk = |interface| config.drives.iter().any(|drive| drive.interface == interface);
    let virtio = [
        (disk(Interface::Virtio), Driver::Block),
        (!config.networks.is_empty(), Driver::Network),
        (config.virtio_console, Driver::Console),
        (config.entropy, Driver::Entropy),
        (config.balloon, Driver::Balloon),
        (!config.shares.is_empty(), Driver::Share),
        (config.vsock.is_some(), Driver::Socket),
    ];
    let others = [
        (disk(Interface::Ahci) || disk(Interface::AhciCdrom), Driver::Ahci),
        (disk(Interface::Nvme), Driver::Nvme),
        (!config.drives.is_empty(), Driver::FileSystem),
    ];
    let transport = (virtio.iter().any(|(wanted, _)| *wanted), Driver::Virtio);
    let all = [transport].into_iter().chain(virtio).chain(others);
    all.filter(|(wanted, _)| *wanted).map(|(_, driver)| driver).collect()
}

/// The initial file system around busybox, with a script in place of the shell, and modules to load.
fn initramfs(
    busybox: &Path,
    script: Option<&str>,
    modules: Vec<(String, Vec<u8>)>,
) -> anyhow::Result<Vec<u8>> {
    let busybox = std::fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let mut initramfs = Initramfs::new(busybox)?;
    for (file, data) in modules {
        initramfs.module(&file, data)?;
    }
    if let Some(script) = script {
        initramfs.script(script)?;
    }
    Ok(initramfs.finish())
}
