//! Real-address mode: what programs of that time consist of, in a multiboot kernel of its own, in each emulator.

use crate::emulator::{Emulator, Guest};
use crate::programs::{compiler, output};
use crate::report::{median, problems};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("../programs/real.S");
/// Rounds of each row with a scale of 1.
const WORK: f64 = 4e6;

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// How many runs each number is the median of.
    pub runs: u16,
    /// CPU seconds by row.
    pub seconds: BTreeMap<String, BTreeMap<Emulator, f64>>,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// Assembles the kernel.
fn kernel(folder: &Path, scale: f64) -> Result<PathBuf> {
    let (source, object, kernel) = (folder.join("real.S"), folder.join("real.o"), folder.join("real"));
    fs::write(&source, SOURCE)?;
    let work = format!("-DWORK={}", (WORK * scale).max(64.0) as u32);
    let mut assemble = Command::new(compiler());
    output(assemble.args(["-m32", "-c", &work, "-o"]).arg(&object).arg(&source))
        .context("the system's C compiler has no assembler for 32-bit code")?;
    let mut link = Command::new("ld");
    output(link.args(["-m", "elf_i386", "-n", "-Ttext", "0x100000", "-o"]).arg(&kernel).arg(&object))?;
    Ok(kernel)
}

/// Runs all rows in all emulators; an emulator whose checksums are not those of another is a problem.
pub fn run(
    runs: u16,
    scale: f64,
    emulators: &BTreeMap<Emulator, (PathBuf, String)>,
    guest: &Guest,
) -> Result<Report> {
    ensure!(
        !emulators.contains_key(&Emulator::Bochs),
        "Bochs boots disks only, and this is a multiboot kernel"
    );
    let folder = tempfile::tempdir()?;
    let kernel = kernel(folder.path(), scale)?;
    let options = [guest.ringworld_options, &["--no-reboot".into()]].concat();
    let guest = Guest { kernel: &kernel, initrd: Path::new(""), ringworld_options: &options, ..*guest };
    let mut report = Report { runs, ..Report::default() };
    let mut times: BTreeMap<(String, Emulator), Vec<f64>> = BTreeMap::new();
    let mut sums: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for round in 1..=runs {
        for (&emulator, (binary, _)) in emulators {
            crate::progress(&format!("round {round} of {runs}: {}", emulator.name()));
            let run = emulator.run(binary, &guest)?;
            let failure = run.failure.map(|failure| format!("{}, run {round}: {failure}", emulator.name()));
            report.problems.extend(failure);
            for (name, (seconds, sum)) in run.costs.programs {
                sums.entry(name.clone()).or_default().insert(sum);
                times.entry((name, emulator)).or_default().push(seconds);
            }
        }
    }
    crate::progress("");
    for ((name, emulator), times) in times {
        if let Some(seconds) = median(&times) {
            report.seconds.entry(name).or_default().insert(emulator, seconds);
        }
    }
    let differ = sums.iter().filter(|(_, sums)| sums.len() > 1);
    report.problems.extend(differ.map(|(name, sums)| format!("{name}: the checksums are {sums:?}")));
    Ok(report)
}

impl Report {
    /// A table for people.
    pub fn text(&self) -> String {
        let mut out = format!(
            "CPU seconds of the emulator's process in real-address mode, medians of {} runs\n\n",
            self.runs
        );
        for (name, seconds) in &self.seconds {
            _ = write!(out, "{name:<12}");
            let qemu = seconds.get(&Emulator::Qemu);
            for (emulator, seconds) in seconds {
                let ratio = qemu.map_or_else(String::new, |qemu| format!("{:.2}x of QEMU", seconds / qemu));
                _ = write!(out, "  {} {seconds:.3} s  {ratio:<14}", emulator.name());
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        problems(&mut out, &self.problems);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_multiboot() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = fs::read(kernel(folder.path(), 1.0).unwrap()).unwrap();
        let magic = 0x1bad_b002_u32.to_le_bytes();
        assert!(kernel.chunks(4).take(8192 / 4).any(|word| word == magic));
    }

    #[test]
    fn rows_are_compared_with_qemu() {
        let row = BTreeMap::from([(Emulator::Ringworld, 0.3), (Emulator::Qemu, 0.6)]);
        let seconds = BTreeMap::from([("far-data".to_owned(), row)]);
        let text = Report { runs: 3, seconds, problems: vec!["none".into()] }.text();
        assert!(text.contains("far-data      ringworld 0.300 s  0.50x of QEMU  "), "{text}");
        assert!(text.contains("problem: none"), "{text}");
    }
}
