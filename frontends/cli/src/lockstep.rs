//! `ringworld lockstep`: interpreter and translator over the same run.

use crate::args::{Cli, Command, LockstepArgs, qemu_forms};
use crate::boot;
use crate::run::{self, Usage};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use ringworld_machine::{Verdict, lockstep};
use std::time::{Duration, Instant};

/// Runs in place of the shell, for which nobody would type here: the guest switches off at once.
const NOTHING: &str = "#!/bin/sh\n";

/// Compares the engines; returns the exit code.
pub fn compare(args: &LockstepArgs) -> anyhow::Result<i32> {
    let name = std::ffi::OsString::from("ringworld");
    let command = [name].into_iter().chain(args.command.iter().cloned());
    let cli =
        Cli::try_parse_from(qemu_forms(command)).map_err(|error| Usage(crate::args::one_line(&error)))?;
    let usage = || Usage("lockstep: give it a run or boot command after --".into());
    let machine = match &cli.command {
        Command::Run(args) => &args.machine,
        Command::Boot(args) => &args.machine,
        _ => return Err(usage().into()),
    };
    // What would have no effect is not for this command.
    let given = [
        ("--stats", !machine.stats.is_empty()),
        ("--trace", machine.trace.is_some()),
        ("--snapshot-at", !machine.snapshot_at.is_empty()),
        ("--record", machine.record.is_some()),
        ("--replay", machine.replay.is_some()),
        ("--control", machine.control.is_some()),
        ("--gdb", machine.gdb.is_some()),
        ("--monitor-script", machine.monitor_script.is_some()),
        ("--perf-map", machine.perf_map),
    ];
    if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
        return Err(Usage(format!("lockstep: {option} has no effect here: leave it out")).into());
    }
    let config = match &cli.command {
        Command::Run(args) => run::machine(args)?,
        Command::Boot(args) => {
            let script = boot::script(args)?;
            boot::machine(args, Some(script.as_deref().unwrap_or(NOTHING)))?.0
        }
        _ => return Err(usage().into()),
    };
    let style = ProgressStyle::with_template("{human_pos} instructions compared, {per_sec}, {elapsed}")?;
    let bar = ProgressBar::no_length().with_style(style);
    let end = machine.timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let verdict = lockstep(&config, args.step, machine.max_instructions, |count| {
        bar.set_position(count);
        end.is_none_or(|end| Instant::now() < end)
    })?;
    bar.finish_and_clear();
    match verdict {
        Verdict::Same { stop, instructions, state_hash } => {
            println!(
                "no difference in {instructions} instructions (stopped by {stop:?}, state hash {state_hash:032x})"
            );
            Ok(crate::exit::SUCCESS)
        }
        Verdict::Different { agreed, differ, at, differences } => {
            let rips: Vec<String> = at.iter().map(|rip| format!("{rip:#x}")).collect();
            println!(
                "the engines agree after {agreed} instructions (RIP {}) and differ after {differ}:",
                rips.join(", ")
            );
            println!("{:40} {:>34} {:>34}", "", "interpreter", "translator");
            for (path, interpreter, translator) in &differences {
                println!("{path:40} {interpreter:>34} {translator:>34}");
            }
            Ok(crate::exit::FAILURE)
        }
    }
}
