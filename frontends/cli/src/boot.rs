//! `ringworld boot`: a Debian kernel and busybox, with an initial file system made in memory.

use crate::args::BootArgs;
use crate::run::{Script, config, start};
use anyhow::Context;
use ringworld_firmware::{Initramfs, USERSPACE_MARKER};
use ringworld_guests::{Architecture, Guests, terminal_progress};
use ringworld_machine::{BootFile, MachineConfig, Source};

/// What the kernel is always told: where its console is.
const COMMAND_LINE: &str = "console=ttyS0";

/// Fetches the guest if need be, and boots it.
pub fn boot(args: &BootArgs) -> anyhow::Result<i32> {
    let options = config(&args.machine)?;
    let guest = match (&args.kernel, &args.initrd) {
        (Some(_), Some(_)) => None,
        _ => Some(Guests::open()?.ensure(args.guest, Architecture::Amd64, &mut terminal_progress())?),
    };
    let read = |path: &std::path::Path| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let kernel = match (&args.kernel, &guest) {
        (Some(kernel), _) => kernel.clone(),
        (None, Some(guest)) => guest.kernel.clone(),
        (None, None) => anyhow::bail!("no kernel"),
    };
    let initrd = match (&args.initrd, &guest) {
        (Some(initrd), _) => Source::Path(initrd.clone()),
        (None, Some(guest)) => {
            let mut initramfs = Initramfs::new(read(&guest.busybox)?)?;
            if let Some(script) = &args.script {
                let text = read(script)?;
                let text =
                    String::from_utf8(text).with_context(|| format!("{} is no text", script.display()))?;
                initramfs.script(&text)?;
            }
            Source::Memory(BootFile::new("initramfs", initramfs.finish()))
        }
        (None, None) => anyhow::bail!("no initrd"),
    };
    let config = MachineConfig {
        kernel: Source::Path(kernel),
        modules: vec![initrd],
        command_line: [COMMAND_LINE, &args.append].join(" ").trim_end().into(),
        ..options
    };
    // The shell ends after the last line of a piped script; /init then powers off.
    start(config, &args.machine, Script { ready: Some(USERSPACE_MARKER), farewell: "exit\n" })
}
