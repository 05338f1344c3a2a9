//! `ringworld demo`: the small hypervisors of `ringworld_firmware::demo`, and what each of their guest's steps costs.

use crate::args::{DemoArgs, DemoKind};
use crate::run::engine;
use crate::stats::cpu_time;
use anyhow::bail;
use ringworld_core::GuestPhys;
use ringworld_firmware::demo::{self, Extension, FAILED, FAULTED, Probe, TRAPS};
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
    /// Instructions in guests; all, where the processor does not know what a guest is.
    guest: u64,
    /// Instructions in the hypervisor.
    hypervisor: u64,
    /// Times that the hypervisor was entered.
    exits: u64,
    /// CPU time of the emulator.
    time: Duration,
}

impl Spent {
    fn now(machine: &Machine, kind: DemoKind) -> Self {
        if kind == DemoKind::Ring1 {
            let exits = machine.memory().read_u32(TRAPS).unwrap_or(0).into();
            return Self { guest: machine.instructions(), hypervisor: 0, exits, time: cpu_time() };
        }
        let stats = machine.stats();
        let worlds = &stats.cpus[0].counters.worlds;
        let mut guest = Share::default();
        worlds.guests.iter().for_each(|(_, share)| guest.add(share));
        Self {
            guest: guest.instructions,
            hypervisor: worlds.host.instructions,
            exits: worlds.host.entries,
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
    /// Ring 1: each probe's result and entries into the hypervisor, in ring 0 and in ring 1.
    probes: Vec<(Probe, [(u32, u32); 2])>,
}

/// Runs a program to its end.
fn measure(args: &DemoArgs) -> anyhow::Result<Measured> {
    let (program, cpu) = match args.kind {
        DemoKind::Vmx => (demo::hypervisor(Extension::Vmx, args.count), "max"),
        DemoKind::Svm => (demo::hypervisor(Extension::Svm, args.count), "EPYC"),
        DemoKind::Ring1 => (demo::ring1(args.count), "max"),
    };
    let config = MachineConfig {
        cpu: args.cpu.clone().unwrap_or_else(|| cpu.into()),
        engine: engine(args.engine),
        kernel: Source::Memory(program.kernel),
        memory: MEMORY,
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(config, Backends::default())?;
    let mut rows = Vec::new();
    for (n, text) in program.rows.into_iter().enumerate() {
        wait_for(&mut machine, 2 * n as u32, args.count)?;
        let before = Spent::now(&machine, args.kind);
        wait_for(&mut machine, 2 * n as u32 + 1, args.count)?;
        rows.push((text, Spent::now(&machine, args.kind).since(before)));
    }
    let double = |at| machine.memory().read_u32(at).unwrap_or(0);
    let result = |at: GuestPhys| (double(at), double(GuestPhys(at.0 + 4)));
    let probes = if args.kind == DemoKind::Ring1 {
        demo::probes().enumerate().map(|(n, probe)| (probe, demo::probe_results(n).map(result))).collect()
    } else {
        Vec::new()
    };
    Ok(Measured { instructions: machine.instructions(), rows, probes })
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

/// The table of rows; where guest and hypervisor cannot be told apart, with their sum.
fn table(rows: &[(&str, Spent)], count: u32, kind: DemoKind) -> String {
    let split = kind != DemoKind::Ring1;
    let columns = if split { ["guest insns", "hypervisor"] } else { ["instructions", ""] };
    let mut text = format!(
        "{:<46} {:>8} {:>12} {:>12} {:>10}\n",
        "each round", "exits", columns[0], columns[1], "host ns"
    );
    let per = |value: u64| value as f64 / f64::from(count);
    for (name, spent) in rows {
        let hypervisor = if split { format!("{:.1}", per(spent.hypervisor)) } else { String::new() };
        _ = writeln!(
            text,
            "{name:<46} {:>8.2} {:>12.1} {hypervisor:>12} {:>10.1}",
            per(spent.exits),
            per(spent.guest),
            spent.time.as_nanos() as f64 / f64::from(count)
        );
    }
    text
}

/// The table of probes.
fn probe_table(probes: &[(Probe, [(u32, u32); 2])]) -> String {
    let mut text = format!(
        "{:<28} {:<40} {:>10} {:>10} {:>6}\n",
        "instruction", "shows", "in ring 0", "in ring 1", "traps"
    );
    for (probe, [(native, _), (seen, traps)]) in probes {
        let seen = if *seen == FAULTED { "#GP".into() } else { format!("{seen:#x}") };
        let native = format!("{native:#x}");
        _ = writeln!(
            text,
            "{:<28} {:<40} {native:>10} {seen:>10} {traps:>6}",
            probe.instruction, probe.shows
        );
    }
    text
}

/// Runs a demonstration and prints its tables.
pub fn demo(args: &DemoArgs) -> anyhow::Result<i32> {
    let measured = measure(args)?;
    if !measured.probes.is_empty() {
        println!("{}", probe_table(&measured.probes));
    }
    print!("{}", table(&measured.rows, args.count, args.kind));
    println!("{} instructions in all", measured.instructions);
    Ok(crate::exit::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Engine;

    fn both_engines(kind: DemoKind) -> [Measured; 2] {
        let both = [Engine::Interp, Engine::Auto]
            .map(|engine| measure(&DemoArgs { kind, count: 300, engine, cpu: None }).unwrap());
        assert_eq!(both[0].instructions, both[1].instructions);
        both
    }

    /// Each row leaves the guest as often as it should, with both engines, and the instructions are the same.
    #[test]
    fn rows_leave_the_guest_as_they_should() {
        for kind in [DemoKind::Vmx, DemoKind::Svm] {
            for measured in both_engines(kind) {
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
            }
        }
    }

    /// Every probe gives something else in ring 1 than in ring 0, where it gives what the manual says.
    #[test]
    fn a_kernel_in_ring_1_sees_that_it_is_not_in_ring_0() {
        for measured in both_engines(DemoKind::Ring1) {
            assert_eq!(measured.probes.len(), 20);
            for (probe, [(native, traps), (seen, _)]) in &measured.probes {
                assert!(
                    native != seen && *native != FAULTED && *traps == 0,
                    "{probe:?}: {native:#x} {seen:#x}"
                );
            }
            let of = |name: &str| {
                let found = measured.probes.iter().find(|(probe, _)| probe.instruction == name);
                found.map(|(_, results)| results.map(|(value, _)| value)).unwrap()
            };
            assert_eq!(of("PUSHF"), [0, 0x200]);
            assert_eq!(of("POPF"), [0x3000, 0]);
            assert_eq!(of("LSL"), [0xffff_ffff, 0xff_ffff]);
            assert_eq!(of("MOV from a segment register"), [8, 9]);
            assert_eq!(of("INT n"), [1, 0]);
            assert_eq!(of("far RET"), [1, FAULTED]);
            for (name, spent) in &measured.rows {
                let expected = match *name {
                    "a loop that never leaves the guest" | "CPUID, which does not trap" => 0,
                    "CLI and STI" => 600,
                    _ => 300,
                };
                assert_eq!(spent.exits - 1, expected, "{name}");
            }
        }
    }

    #[test]
    fn a_processor_without_the_extension_is_an_error() {
        let args =
            DemoArgs { kind: DemoKind::Vmx, count: 10, engine: Engine::Interp, cpu: Some("qemu64".into()) };
        assert!(measure(&args).is_err());
    }
}
