//! `ringworld demo`: the small hypervisors of `ringworld_firmware::demo`, and what each of their guest's steps costs.

use crate::args::{DemoArgs, DemoKind};
use crate::run::engine;
use crate::stats::cpu_time;
use anyhow::bail;
use ringworld_firmware::demo::{self, Extension, FAILED, Program};
use ringworld_machine::{Backends, Machine, MachineConfig, RunUntil, Source, StopReason};
use ringworld_x86::worlds::Share;
use std::fmt::Write;
use std::time::Duration;

/// Memory of the machine.
const MEMORY: u64 = 128 << 20;
/// Far more instructions than a step takes.
const PATIENCE: u64 = 100_000;

/// What one row has taken.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    /// Instructions in guests.
    guest: u64,
    /// Instructions in the hypervisor.
    hypervisor: u64,
    /// Times that the guest was left, or an exception was taken.
    exits: u64,
    /// CPU time of the emulator.
    time: Duration,
}

impl Spent {
    fn now(machine: &Machine, extension: bool) -> Self {
        let stats = machine.stats();
        let worlds = &stats.cpus[0].counters.worlds;
        let mut guest = Share::default();
        worlds.guests.iter().for_each(|(_, share)| guest.add(share));
        Self {
            guest: guest.instructions,
            hypervisor: worlds.host.instructions,
            exits: if extension { worlds.host.entries } else { stats.exceptions().iter().sum() },
            time: cpu_time(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            guest: self.guest - before.guest,
            hypervisor: self.hypervisor - before.hypervisor,
            exits: self.exits - before.exits,
            time: self.time.saturating_sub(before.time),
        }
    }
}

/// A run of a program.
struct Measured {
    /// Instructions in all.
    instructions: u64,
    /// Each row's share.
    rows: Vec<(&'static str, Spent)>,
}

/// Runs a program to its end.
fn measure(program: Program, config: MachineConfig, extension: bool, count: u32) -> anyhow::Result<Measured> {
    let config = MachineConfig { kernel: Source::Memory(program.kernel), memory: MEMORY, ..config };
    let mut machine = Machine::new(config, Backends::default())?;
    let mut rows = Vec::new();
    for (n, text) in program.rows.into_iter().enumerate() {
        wait_for(&mut machine, 2 * n as u32, count)?;
        let before = Spent::now(&machine, extension);
        wait_for(&mut machine, 2 * n as u32 + 1, count)?;
        rows.push((text, Spent::now(&machine, extension).since(before)));
    }
    Ok(Measured { instructions: machine.instructions(), rows })
}

/// Runs until the program tells that it is at a step.
fn wait_for(machine: &mut Machine, step: u32, count: u32) -> anyhow::Result<()> {
    let limit = machine.instructions() + PATIENCE * (u64::from(count) + 1000);
    // The device reports twice the value, plus one.
    match machine.run(&RunUntil::instructions(limit))? {
        StopReason::GuestExit(code) if code >> 1 == step => Ok(()),
        StopReason::GuestExit(code) if code >> 1 == u32::from(FAILED) => {
            bail!("the demonstration's guest saw something wrong before step {step}")
        }
        stop => bail!("the demonstration stopped before step {step}: {stop:?}"),
    }
}

/// The table of rows.
fn table(rows: &[(&str, Spent)], count: u32) -> String {
    let mut text = format!(
        "{:<46} {:>8} {:>12} {:>12} {:>10}\n",
        "each round", "exits", "guest insns", "hypervisor", "host ns"
    );
    let per = |value: u64| value as f64 / f64::from(count);
    for (name, spent) in rows {
        let nanoseconds = spent.time.as_nanos() as f64 / f64::from(count);
        _ = writeln!(
            text,
            "{name:<46} {:>8.2} {:>12.1} {:>12.1} {nanoseconds:>10.1}",
            per(spent.exits),
            per(spent.guest),
            per(spent.hypervisor)
        );
    }
    text
}

fn extension(kind: Extension, args: &DemoArgs) -> anyhow::Result<Measured> {
    let cpu = match kind {
        Extension::Vmx => "max",
        Extension::Svm => "EPYC",
    };
    let config = MachineConfig {
        cpu: args.cpu.clone().unwrap_or_else(|| cpu.into()),
        engine: engine(args.engine),
        ..MachineConfig::default()
    };
    measure(demo::hypervisor(kind, args.count), config, true, args.count)
}

/// Runs a demonstration and prints its tables.
pub fn demo(args: &DemoArgs) -> anyhow::Result<i32> {
    let kind = match args.kind {
        DemoKind::Vmx => Extension::Vmx,
        DemoKind::Svm => Extension::Svm,
    };
    let measured = extension(kind, args)?;
    print!("{}", table(&measured.rows, args.count));
    println!("{} instructions in all", measured.instructions);
    Ok(crate::exit::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Engine;

    /// Each row leaves the guest as often as it should, with both engines, and the instructions are the same.
    #[test]
    fn rows_leave_the_guest_as_they_should() {
        for (kind, demo) in [(Extension::Vmx, DemoKind::Vmx), (Extension::Svm, DemoKind::Svm)] {
            let counts = [Engine::Interp, Engine::Auto].map(|engine| {
                let args = DemoArgs { kind: demo, count: 300, engine, cpu: None };
                let measured = extension(kind, &args).unwrap();
                assert_eq!(measured.rows.len(), 12);
                for (name, spent) in &measured.rows {
                    // The end of each row is told by a hypercall.
                    let rounds = spent.exits - 1;
                    let expected = match *name {
                        "a loop that never leaves the guest" | "MOV to CR3, not intercepted" => 0,
                        _ => 300,
                    };
                    assert_eq!(rounds, expected, "{kind:?}: {name}");
                    assert!(spent.guest >= 600 && (expected == 0) == (spent.hypervisor < 300), "{name}");
                }
                measured.instructions
            });
            assert_eq!(counts[0], counts[1]);
        }
    }

    #[test]
    fn a_processor_without_the_extension_is_an_error() {
        let args =
            DemoArgs { kind: DemoKind::Vmx, count: 10, engine: Engine::Interp, cpu: Some("qemu64".into()) };
        assert!(extension(Extension::Vmx, &args).is_err());
    }
}
