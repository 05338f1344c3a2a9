//! Benchmarks on the host itself.

use crate::markers::Costs;
use crate::programs::{Built, Program, output};
use crate::{cpu_time, programs};
use anyhow::{Context, Result};
use std::process::Command;

/// How much more work than a guest the host does, so that it runs long enough to be measured.
pub const FACTOR: u64 = 8;

/// The cost of a guest's amount of work, and its checksum; `None` if the host cannot run it.
pub fn run(built: &Built, program: &Program, work: u64) -> Result<Option<(f64, String)>> {
    let mut shell = Command::new(built.folder.join("busybox"));
    let path = built.folder.clone().into_os_string();
    let shell = shell.current_dir(&built.folder).env("PATH", path);
    let mut costs = Costs::default();
    let text = output(shell.args(["sh", "-c", &program.command(work)]))
        .with_context(|| format!("{} fails on the host", program.name))?;
    for line in String::from_utf8_lossy(&text).lines() {
        costs.line(line, 0.0, "\0");
    }
    let Some((_, checksum)) = costs.programs.remove(program.name) else { return Ok(None) };
    let mut shell = Command::new(built.folder.join("busybox"));
    let shell = shell.current_dir(&built.folder).env("PATH", &built.folder);
    let before = cpu_time::of_children();
    programs::output(shell.args(["sh", "-c", &program.command(work * FACTOR)]))?;
    Ok(Some(((cpu_time::of_children() - before) / FACTOR as f64, checksum)))
}
