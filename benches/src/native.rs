//! Benchmarks on the host itself.

use crate::cpu_time;
use crate::markers::Costs;
use crate::programs::{Built, Program, output};
use anyhow::{Context, Result};
use std::process::Command;

/// How much more work than a guest the host does, so that it runs long enough to be measured.
const FACTOR: u64 = 8;

/// The cost of a guest's amount of work, and its checksum; `None` if the host cannot run it.
pub fn run(built: &Built, program: &Program, work: u64) -> Result<Option<(f64, String)>> {
    let run = |work| {
        let mut shell = Command::new(built.folder.join("busybox"));
        // On one CPU: the guest has one, too.
        shell.args(["taskset", "-c", &first_cpu(), "busybox", "sh", "-c", &program.command(work)]);
        output(shell.current_dir(&built.folder).env("PATH", &built.folder))
            .with_context(|| format!("{} fails on the host", program.name))
    };
    let mut costs = Costs::default();
    for line in String::from_utf8_lossy(&run(work)?).lines() {
        costs.line(line, 0.0, false);
    }
    let Some((_, checksum)) = costs.programs.remove(program.name) else { return Ok(None) };
    let before = cpu_time::of_children();
    run(work * FACTOR)?;
    Ok(Some(((cpu_time::of_children() - before) / FACTOR as f64, checksum)))
}

/// The first CPU that this process may use.
fn first_cpu() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let first: String = list.trim().chars().take_while(char::is_ascii_digit).collect();
    if first.is_empty() { "0".into() } else { first }
}
