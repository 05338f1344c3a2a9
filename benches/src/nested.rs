//! Nested virtualization: a system whose KVM runs the same system, in Ringworld on VMX and on SVM, and in QEMU on SVM,
//! which is all that it emulates; and what the same programs take in the inner and in the outer system.

use crate::emulator::{Emulator, Guest};
use crate::image;
use crate::programs::{Built, Program};
use crate::report::{median, problems};
use anyhow::{Result, ensure};
use ringworld_firmware::Initramfs;
use ringworld_guests::{Installed, Nested, NestedError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Who runs it, on which extension.
const SIDES: [(&str, Emulator, bool); 3] = [
    ("ringworld-vmx", Emulator::Ringworld, false),
    ("ringworld-svm", Emulator::Ringworld, true),
    ("qemu-svm", Emulator::Qemu, true),
];
/// Ringworld's model with SVM; its default one has VMX.
const SVM_MODEL: &str = "--cpu=EPYC";

/// What is measured, with what.
pub struct Plan<'a> {
    /// Kernel, modules and QEMU of the inner systems.
    pub installed: &'a Installed,
    /// The programs, if there are any to run.
    pub built: &'a Built,
    /// What runs in the outer system, and then in the inner one, and how much of it.
    pub programs: &'a [(Program, u64)],
    /// How many times everything runs.
    pub runs: u16,
}

/// The medians of one side.
#[derive(Debug, Default, Serialize)]
pub struct Side {
    /// CPU seconds from the start to the inner system's user space; not where the outer one runs programs before.
    pub user_space: Option<f64>,
    /// CPU seconds to the end of the process.
    pub end: Option<f64>,
    /// By program: CPU seconds in the outer and in the inner system, and the median of the runs' ratios.
    pub programs: BTreeMap<String, (f64, f64, f64)>,
    /// The geometric mean of the ratios.
    pub mean: Option<f64>,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// How many runs each number is the median of.
    pub runs: u16,
    /// By name.
    pub sides: BTreeMap<&'static str, Side>,
    /// What went wrong.
    pub problems: Vec<String>,
}

#[derive(Default)]
struct Samples {
    user_space: Vec<f64>,
    end: Vec<f64>,
    programs: BTreeMap<String, Vec<(f64, f64)>>,
}

/// Runs it on all sides whose emulator there is.
pub fn run(
    plan: &Plan<'_>,
    emulators: &BTreeMap<Emulator, (PathBuf, String)>,
    guest: &Guest,
) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let initrd = |amd: bool| folder.path().join(if amd { "svm" } else { "vmx" });
    let mut memory = guest.memory;
    for amd in [false, true] {
        let parameters = String::new();
        let nested = Nested { amd, nested_paging: true, depth: 2, guests: 1, guest_cpus: 1, parameters };
        memory = memory.max(nested.memory());
        fs::write(initrd(amd), initramfs(plan, &nested, guest.kernel)?)?;
    }
    let mut report = Report { runs: plan.runs, ..Report::default() };
    let mut samples: BTreeMap<&str, Samples> = BTreeMap::new();
    // Round by round, so that a slow minute of the host meets all of them.
    for round in 1..=plan.runs {
        for (name, emulator, amd) in SIDES {
            let Some((binary, _)) = emulators.get(&emulator) else { continue };
            crate::progress(&format!("round {round} of {}: {name}", plan.runs));
            let mut options = guest.ringworld_options.to_vec();
            if amd {
                options.push(SVM_MODEL.into());
            }
            let guest = Guest { initrd: &initrd(amd), memory, ringworld_options: &options, ..*guest };
            let run = emulator.run(binary, &guest)?;
            if let Some(failure) = run.failure {
                report.problems.push(format!("{name}, run {round}: {failure}"));
                continue;
            }
            let samples = samples.entry(name).or_default();
            samples.end.push(run.seconds);
            if plan.programs.is_empty() {
                samples.user_space.extend(run.costs.boot);
            }
            for (program, _) in plan.programs {
                let name_of = program.name;
                match (run.costs.outer.get(name_of), run.costs.programs.get(name_of)) {
                    (Some((outer, one)), Some((inner, other))) if one == other => {
                        samples.programs.entry(name_of.into()).or_default().push((*outer, *inner));
                    }
                    _ => report.problems.push(format!(
                        "{name}, run {round}: {name_of} did not run in both systems, or its checksums differ"
                    )),
                }
            }
        }
    }
    crate::progress("");
    report.sides = samples.iter().map(|(name, samples)| (*name, Side::new(samples))).collect();
    Ok(report)
}

fn initramfs(plan: &Plan<'_>, nested: &Nested, kernel: &Path) -> Result<Vec<u8>> {
    ensure!(nested.depth == 2, "two systems");
    nested.initramfs(plan.installed, kernel, |levels, initramfs: &mut Initramfs| {
        if !plan.programs.is_empty() {
            image::add(initramfs, plan.built, plan.programs)?;
        } else if levels == 1 {
            // Nothing to do there: it switches off.
            initramfs.script("#!/bin/sh\n").map_err(NestedError::from)?;
        }
        anyhow::Ok(())
    })
}

impl Side {
    fn new(samples: &Samples) -> Self {
        let of = |values: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
            median(&values.iter().map(part).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        let programs: BTreeMap<String, (f64, f64, f64)> = samples
            .programs
            .iter()
            .map(|(name, values)| {
                (name.clone(), (of(values, |v| v.0), of(values, |v| v.1), of(values, |v| v.1 / v.0)))
            })
            .collect();
        let logs: Vec<f64> = programs.values().map(|(_, _, ratio)| ratio.ln()).collect();
        Self {
            user_space: median(&samples.user_space),
            end: median(&samples.end),
            mean: (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp()),
            programs,
        }
    }
}

impl Report {
    /// A table for people.
    pub fn text(&self) -> String {
        let mut out = format!("CPU seconds of the emulator's process, medians of {} runs\n\n", self.runs);
        let column = |out: &mut String, value: Option<f64>, reference: Option<f64>| {
            let ratio = value.zip(reference).map_or_else(String::new, |(v, r)| format!("{:.2}x", v / r));
            let value = value.map_or_else(|| "-".into(), |v| format!("{v:.2}"));
            _ = write!(out, "{value:>12}{ratio:>9}");
        };
        _ = writeln!(
            out,
            "{:<16}{:>12}{:>9}{:>12}{:>9}",
            "", "user space", "of QEMU", "power-off", "of QEMU"
        );
        let qemu = self.sides.get("qemu-svm");
        for (name, side) in &self.sides {
            _ = write!(out, "{name:<16}");
            column(&mut out, side.user_space, qemu.and_then(|qemu| qemu.user_space));
            column(&mut out, side.end, qemu.and_then(|qemu| qemu.end));
            out.push('\n');
        }
        for (name, side) in self.sides.iter().filter(|(_, side)| !side.programs.is_empty()) {
            _ = writeln!(out, "\n{name:<16}{:>12}{:>12}{:>9}", "outer s", "inner s", "ratio");
            for (program, (outer, inner, ratio)) in &side.programs {
                _ = writeln!(out, "  {program:<14}{outer:>12.3}{inner:>12.3}{ratio:>8.2}x");
            }
            if let Some(mean) = side.mean {
                _ = writeln!(out, "  {:<38}{mean:>8.2}x", "geometric mean");
            }
        }
        problems(&mut out, &self.problems);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_compared_with_qemu_and_inner_with_outer() {
        let samples = |scale: f64| Samples {
            user_space: vec![3.0 * scale, 2.0 * scale, 9.0 * scale],
            end: vec![4.0 * scale],
            programs: [("sieve".into(), vec![(1.0, 1.5)]), ("fork".into(), vec![(1.0, 6.0)])].into(),
        };
        let sides =
            [("qemu-svm", Side::new(&samples(4.0))), ("ringworld-vmx", Side::new(&samples(1.0)))].into();
        let report = Report { runs: 3, sides, problems: vec!["none".into()] };
        assert!((report.sides["qemu-svm"].mean.unwrap() - 3.0).abs() < 1e-9);
        let text = report.text();
        assert!(text.contains("ringworld-vmx           3.00    0.25x        4.00    0.25x"), "{text}");
        assert!(text.contains("1.50x") && text.contains("problem: none"), "{text}");
    }
}
