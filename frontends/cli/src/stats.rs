//! `--stats`: counters at the end of a run, as a table or JSON.

use crate::args::StatsTarget;
use crate::worlds;
use anyhow::Context;
use ringworld_machine::{Machine, RegionStats, Stats, StopReason, TranslatorStats};
use serde::Serialize;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// The exceptions' names by vector (SDM 3A 6.15).
const EXCEPTIONS: [&str; 22] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS", "#NP", "#SS", "#GP", "#PF", "",
    "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
];

/// Measures the host's time from its making on.
pub struct Watch {
    wall: Instant,
    cpu: Duration,
}

/// CPU time of this process, all threads.
pub fn cpu_time() -> Duration {
    // SAFETY: all-zero bytes are a valid `timespec`.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `time` is valid for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

impl Watch {
    /// Starts.
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }
}

/// Everything that is told at the end.
#[derive(Serialize)]
struct Report<'a> {
    stop: &'a StopReason,
    #[serde(flatten)]
    stats: &'a Stats,
    exceptions: [u64; 32],
    host_seconds: f64,
    host_cpu_seconds: f64,
    mips: f64,
    state_hash: String,
}

/// Writes the counters to every target.
pub fn report(
    machine: &Machine,
    stop: &StopReason,
    watch: &Watch,
    targets: &[StatsTarget],
) -> anyhow::Result<()> {
    if targets.is_empty() {
        return Ok(());
    }
    let cpu = cpu_time().saturating_sub(watch.cpu).as_secs_f64();
    let stats = machine.stats();
    let report = Report {
        stop,
        stats: &stats,
        exceptions: stats.exceptions(),
        host_seconds: watch.wall.elapsed().as_secs_f64(),
        host_cpu_seconds: cpu,
        mips: stats.instructions as f64 / cpu.max(1e-9) / 1e6,
        state_hash: format!("{:032x}", machine.state_hash()),
    };
    for target in targets {
        match target {
            StatsTarget::Text(None) => say!("{}", table(&report)),
            StatsTarget::Text(Some(path)) => std::fs::write(path, table(&report))
                .with_context(|| format!("cannot write the counters to {}", path.display()))?,
            StatsTarget::Json(path) => {
                let text = serde_json::to_string_pretty(&report)? + "\n";
                std::fs::write(path, text)
                    .with_context(|| format!("cannot write the counters to {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// The counters of a running machine, for the monitor.
pub fn counters(stats: &Stats) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: u64| {
        if value > 0 {
            let _ = writeln!(text, "{name:<28} {value:>16}");
        }
    };
    line("instructions", stats.instructions);
    if stats.cpus.len() > 1 {
        for (n, cpu) in stats.cpus.iter().enumerate() {
            line(&format!("  CPU {n}"), cpu.instructions);
        }
    }
    line("virtual time (ns)", stats.virtual_ns);
    line("resets", stats.resets);
    line("interrupts", stats.total(|c| c.interrupts));
    line("NMIs", stats.total(|c| c.nmis));
    line("SMIs", stats.total(|c| c.smis));
    for (vector, count) in stats.exceptions().into_iter().enumerate() {
        let name = EXCEPTIONS.get(vector).copied().unwrap_or_default();
        line(&format!("exception {vector} {name}"), count);
    }
    line("VM entries", stats.total(|c| c.vmx_entries));
    for (name, count) in worlds::exits(stats) {
        line(&name, count);
    }
    line("page walks (TLB misses)", stats.total(|c| c.walks));
    line("slow memory accesses", stats.total(|c| c.slow_accesses));
    line("port accesses", stats.total(|c| c.port_io));
    line("device memory accesses", stats.total(|c| c.mmio));
    line("blocks decoded", stats.total(|c| c.blocks_decoded));
    line("code changes seen", stats.total(|c| c.blocks_invalidated));
    if let Some(jit) = &stats.translator {
        let _ = text.write_str(&translator(jit, stats.instructions));
    }
    for (title, regions, unclaimed) in
        [("port", &stats.ports, stats.unclaimed_ports), ("mmio", &stats.mmio, stats.unclaimed_memory)]
    {
        for RegionStats { name, base, len, reads, writes } in regions {
            let range = format!("{base:#x}-{:#x}", base + len - 1);
            let _ = writeln!(text, "{title} {range:<22} {name:<14} reads {reads:>10}  writes {writes:>10}");
        }
        if unclaimed > 0 {
            let _ = writeln!(text, "{title} unclaimed bytes {unclaimed:>12}");
        }
    }
    text
}

/// How many forms that translated code calls are listed.
const FORMS: usize = 16;

fn translator(jit: &TranslatorStats, instructions: u64) -> String {
    let mut text = String::new();
    let per = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    let _ = writeln!(
        text,
        "translated                   {:>16} blocks, {} instructions, {:.2} host bytes per guest byte",
        jit.blocks,
        jit.instructions,
        per(jit.host_bytes, jit.guest_bytes)
    );
    let _ = writeln!(
        text,
        "  in                         {:>16.3} ms, {:.0} ns an instruction",
        jit.nanoseconds as f64 / 1e6,
        per(jit.nanoseconds, jit.instructions)
    );
    let _ = writeln!(
        text,
        "  stale blocks               {:>16}, all forgotten {} times",
        jit.invalidated, jit.flushes
    );
    let _ = writeln!(
        text,
        "  with windows               {:>16} blocks, {} faults",
        jit.windowed, jit.window_faults
    );
    let _ = writeln!(text, "  entries from the loop      {:>16}", jit.entries);
    let _ = writeln!(
        text,
        "  run by their function      {:>16} instructions, {:.2} % of all",
        jit.executed,
        100.0 * per(jit.executed, instructions)
    );
    for (form, count) in jit.executed_forms.iter().take(FORMS) {
        let _ = writeln!(text, "    {form:<24} {count:>16}");
    }
    text
}

fn table(report: &Report<'_>) -> String {
    let mut text = format!("stopped by {:?}\n{}", report.stop, counters(report.stats));
    for (name, value, unit) in [
        ("host CPU time", report.host_cpu_seconds, "s"),
        ("host time", report.host_seconds, "s"),
        ("speed", report.mips, "million instructions per CPU second"),
    ] {
        let _ = writeln!(text, "{name:<28} {value:>16.3} {unit}");
    }
    let _ = writeln!(text, "{:<28} {}", "state hash", report.state_hash);
    text
}
