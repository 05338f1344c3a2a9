//! `ringworld boot nested`: a Debian kernel whose KVM runs the same kernel in QEMU's microvm, to any depth.

use crate::args::{BootArgs, Switch, Virtualisation, default_cpu};
use crate::run::{Script, config};
use ringworld_firmware::USERSPACE_MARKER;
use ringworld_guests::{Architecture, Guests, Nested, terminal_progress};
use ringworld_machine::{BootFile, MachineConfig, Module, Source};

/// What a level's kernel is told besides `--append`.
const COMMAND_LINE: &str = "console=ttyS0";

/// The machine, with its guest fetched, and what to type; `script` is what the innermost level runs in place of a shell.
pub fn machine(args: &BootArgs, script: Option<&str>) -> anyhow::Result<(MachineConfig, Script)> {
    let mut options = config(&args.machine)?;
    let nested = Nested {
        amd: args.nested.vendor == Virtualisation::Amd,
        nested_paging: args.nested.ept == Switch::On,
        depth: args.nested.depth,
        guests: args.nested.guests,
        guest_cpus: args.nested.guest_cpus,
        parameters: args.nested.kvm.clone(),
    };
    if nested.amd && ["max", default_cpu()].contains(&options.cpu.as_str()) {
        // The model that shows everything is Intel's.
        options.cpu = "EPYC".into();
    }
    let guest = Guests::open()?.ensure(args.guest, Architecture::Amd64, &mut terminal_progress())?;
    let kernel = args.kernel.clone().unwrap_or_else(|| guest.kernel.clone());
    let initrd = nested.initramfs(&guest, &kernel, |levels, initramfs| {
        if let (1, Some(script)) = (levels, script) {
            initramfs.script(script)?;
        }
        anyhow::Ok(())
    })?;
    let config = MachineConfig {
        memory: options.memory.max(u64::from(nested.memory()) << 20),
        kernel: Source::Path(kernel),
        modules: vec![Module::new(Source::Memory(BootFile::new("initramfs", initrd)))],
        command_line: [COMMAND_LINE, &args.append].join(" ").trim_end().into(),
        ..options
    };
    let script = Script { ready: Some(USERSPACE_MARKER), farewell: "exit\n", worlds: true };
    Ok((config, script))
}
