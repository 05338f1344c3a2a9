//! The comparison: medians, ratios, and their printing.

use crate::emulator::Emulator;
use crate::programs::Group;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The host's CPU model.
    pub cpu: String,
    /// The host's kernel.
    pub host: String,
    /// The guest's kernel image.
    pub guest_kernel: String,
    /// How many runs each number is the median of.
    pub runs: usize,
    /// What was compared, with versions.
    pub emulators: BTreeMap<Emulator, String>,
    /// CPU seconds from the start to user space.
    pub boot: BTreeMap<Emulator, f64>,
    /// The benchmarks.
    pub programs: Vec<Line>,
    /// The geometric means of the slowdowns, over those benchmarks that all emulators ran.
    pub geometric_mean: BTreeMap<Emulator, f64>,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// One benchmark.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// What it stresses.
    pub group: Group,
    /// Its amount of work.
    pub work: u64,
    /// CPU seconds on the host.
    pub native: f64,
    /// In guests.
    pub guests: BTreeMap<Emulator, Measured>,
}

/// A benchmark in an emulator.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// CPU seconds of the emulator's process: the median.
    pub seconds: f64,
    /// The fastest and the slowest run.
    pub range: (f64, f64),
    /// How many times slower than the host.
    pub slowdown: f64,
}

/// Adds what went wrong to a report for people.
pub fn problems(out: &mut String, problems: &[String]) {
    for problem in problems {
        _ = writeln!(out, "problem: {problem}");
    }
}

/// The median; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 0 => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

impl Measured {
    /// Of at least one run; `native` is the host's time.
    pub fn new(seconds: &[f64], native: f64) -> Option<Self> {
        let range = (
            seconds.iter().copied().fold(f64::INFINITY, f64::min),
            seconds.iter().copied().fold(0.0, f64::max),
        );
        median(seconds).map(|median| Self { seconds: median, range, slowdown: median / native })
    }
}

impl Report {
    /// Fills in the means.
    pub fn finish(&mut self) {
        let common: Vec<&Line> = self
            .programs
            .iter()
            .filter(|line| self.emulators.keys().all(|emulator| line.guests.contains_key(emulator)))
            .collect();
        if common.is_empty() {
            return;
        }
        self.geometric_mean = self
            .emulators
            .keys()
            .map(|emulator| {
                let sum: f64 = common.iter().map(|line| line.guests[emulator].slowdown.ln()).sum();
                (*emulator, (sum / common.len() as f64).exp())
            })
            .collect();
    }

    /// A table for people.
    pub fn text(&self) -> String {
        let mut out = format!("host: {} ({})\nguest kernel: {}\n", self.cpu, self.host, self.guest_kernel);
        for (emulator, version) in &self.emulators {
            _ = writeln!(out, "{}: {version}", emulator.name());
        }
        _ = write!(
            out,
            "\nCPU seconds of the emulator's process, medians of {} runs; x = times slower than the host\n\n{:<14}{:>11}",
            self.runs, "benchmark", "native ms"
        );
        for emulator in self.emulators.keys() {
            _ = write!(out, "{:>20}", emulator.name());
        }
        let mut group = None;
        for line in &self.programs {
            if group != Some(line.group) {
                group = Some(line.group);
                _ = write!(out, "\n{}\n", format!("{:?}", line.group).to_lowercase());
            }
            _ = write!(out, "  {:<12}{:>11.2}", line.name, line.native * 1e3);
            for emulator in self.emulators.keys() {
                match line.guests.get(emulator) {
                    Some(cost) => _ = write!(out, "{:>10.3} s{:>7.1}x", cost.seconds, cost.slowdown),
                    None => _ = write!(out, "{:>20}", "-"),
                }
            }
            out.push('\n');
        }
        _ = write!(out, "\n{:<25}", "geometric mean");
        for emulator in self.emulators.keys() {
            match self.geometric_mean.get(emulator) {
                Some(mean) => _ = write!(out, "{mean:>19.1}x"),
                None => _ = write!(out, "{:>20}", "-"),
            }
        }
        _ = write!(out, "\n{:<25}", "boot to user space");
        for emulator in self.emulators.keys() {
            match self.boot.get(emulator) {
                Some(seconds) => _ = write!(out, "{seconds:>18.2} s"),
                None => _ = write!(out, "{:>20}", "-"),
            }
        }
        out.push('\n');
        problems(&mut out, &self.problems);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn the_mean_is_over_what_all_ran() {
        let line = |slowdowns: &[(Emulator, f64)]| Line {
            name: "x".into(),
            group: Group::Integer,
            work: 1,
            native: 1.0,
            guests: slowdowns
                .iter()
                .map(|(emulator, slowdown)| (*emulator, Measured::new(&[*slowdown], 1.0).unwrap()))
                .collect(),
        };
        let mut report = Report {
            cpu: String::new(),
            host: String::new(),
            guest_kernel: String::new(),
            runs: 1,
            emulators: [Emulator::Ringworld, Emulator::Qemu].map(|emulator| (emulator, String::new())).into(),
            boot: BTreeMap::new(),
            programs: vec![
                line(&[(Emulator::Ringworld, 2.0), (Emulator::Qemu, 3.0)]),
                line(&[(Emulator::Ringworld, 8.0), (Emulator::Qemu, 12.0)]),
                line(&[(Emulator::Qemu, 1000.0)]),
            ],
            geometric_mean: BTreeMap::new(),
            problems: vec!["none".into()],
        };
        report.finish();
        assert!((report.geometric_mean[&Emulator::Ringworld] - 4.0).abs() < 1e-9);
        assert!((report.geometric_mean[&Emulator::Qemu] - 6.0).abs() < 1e-9);
        let text = report.text();
        assert!(text.contains("1000.0x") && text.contains("problem: none"), "{text}");
    }
}
