//! A whole distribution: how long a disk with Debian and systemd takes from the start to its login prompt, in each emulator.

use crate::emulator::{Emulator, Guest};
use crate::io::Devices;
use crate::report::{median, problems};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// How many runs each number is the median of.
    pub runs: u16,
    /// CPU seconds to the login prompt.
    pub login: BTreeMap<Emulator, f64>,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// Boots copies of a disk image, so that each run finds the same.
pub fn run(
    root: &Path,
    runs: u16,
    emulators: &BTreeMap<Emulator, (PathBuf, String)>,
    guest: &Guest,
) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let devices = Devices { disk: folder.path().join("disk") };
    let guest = Guest { devices: Some(&devices), login: true, ..*guest };
    let mut seconds: BTreeMap<Emulator, Vec<f64>> = BTreeMap::new();
    let mut problems = Vec::new();
    for round in 1..=runs {
        for (emulator, (binary, _)) in emulators {
            crate::progress(&format!("round {round} of {runs}: {}", emulator.name()));
            // Images are mostly holes.
            let copied = Command::new("cp").arg("--sparse=always").arg(root).arg(&devices.disk).status();
            ensure!(copied.context("cannot start cp")?.success(), "cannot copy {}", root.display());
            let run = emulator.run(binary, &guest)?;
            problems
                .extend(run.failure.map(|failure| format!("{}, run {round}: {failure}", emulator.name())));
            seconds.entry(*emulator).or_default().extend(run.costs.boot);
        }
    }
    crate::progress("");
    let login = seconds.iter().filter_map(|(emulator, all)| Some((*emulator, median(all)?))).collect();
    Ok(Report { runs, login, problems })
}

impl Report {
    /// A table for people.
    pub fn text(&self) -> String {
        let mut out = format!(
            "CPU seconds of the emulator's process to the login prompt, medians of {} runs\n\n",
            self.runs
        );
        let qemu = self.login.get(&Emulator::Qemu);
        for (emulator, seconds) in &self.login {
            let ratio = qemu.map_or_else(String::new, |qemu| format!("{:.2}x of QEMU", seconds / qemu));
            _ = writeln!(out, "{:<12}{seconds:>8.2} s  {ratio}", emulator.name());
        }
        problems(&mut out, &self.problems);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulators_are_compared_with_qemu() {
        let login = BTreeMap::from([(Emulator::Ringworld, 3.0), (Emulator::Qemu, 12.0)]);
        let text = Report { runs: 3, login, problems: vec!["none".into()] }.text();
        assert!(text.contains("ringworld       3.00 s  0.25x of QEMU\n"), "{text}");
        assert!(text.contains("problem: none"), "{text}");
    }
}
