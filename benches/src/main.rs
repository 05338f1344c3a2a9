//! `ringworld-bench`: the same small programs on the host, in Ringworld and in other emulators, side by side.

mod bochs;
mod chart;
mod cpu_time;
mod emulator;
mod image;
mod io;
mod login;
mod markers;
mod native;
mod nested;
mod programs;
mod real;
mod report;

use anyhow::{Context, Result, bail};
use clap::Parser;
use emulator::{Emulator, Guest};
use report::{Line, Measured, Report};
use ringworld_guests::Guest::Debian;
use ringworld_guests::{Architecture, Guests, terminal_progress};
use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Measures Ringworld against the host and against other emulators: CPU seconds of the emulator's process between the
/// lines with which each benchmark begins and ends in the guest.
#[derive(Parser, Debug)]
#[command(name = "ringworld-bench", version)]
struct Options {
    /// What to measure [default: Ringworld, and QEMU where it is installed]
    #[arg(long, value_delimiter = ',')]
    emulators: Vec<Emulator>,
    /// Only these benchmarks (see --list)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure virtio disk and network instead: MiB a second of elapsed time
    #[arg(long)]
    io: bool,
    /// Measure nested virtualization instead: the CPU seconds of KVM in a guest booting a guest; with --only, what these
    /// programs take in the inner and in the outer guest
    #[arg(long, conflicts_with = "io")]
    nested: bool,
    /// Measure a distribution instead: CPU seconds to the login prompt of this raw disk image, with --kernel and --initrd
    #[arg(long, conflicts_with_all = ["io", "nested"], requires_all = ["kernel", "initrd"])]
    login: Option<PathBuf>,
    /// The initrd for --login
    #[arg(long, requires = "login")]
    initrd: Option<PathBuf>,
    /// Measure real-address mode instead: far pointers, far calls, segment registers, interrupts
    #[arg(long, conflicts_with_all = ["io", "nested", "login", "only"])]
    real: bool,
    /// Measure nothing: run Ringworld's two engines side by side over the benchmarks and compare their states
    #[arg(long, conflicts_with_all = ["io", "nested", "login", "real"])]
    lockstep: bool,
    /// Lists the benchmarks
    #[arg(long)]
    list: bool,
    /// How many times everything runs; the medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Multiplies the work of each benchmark
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The guest's kernel [default: Debian's cloud kernel, as `ringworld boot debian` fetches it]
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// A static busybox [default: Debian's]
    #[arg(long)]
    busybox: Option<PathBuf>,
    /// The guest's RAM in MiB
    #[arg(long, default_value_t = 512)]
    memory: u32,
    /// The Ringworld to measure [default: the one beside this program]
    #[arg(long)]
    ringworld: Option<PathBuf>,
    /// An option for `ringworld run`, such as --ringworld-option=--engine=interp; may be given several times
    #[arg(long = "ringworld-option")]
    ringworld_options: Vec<String>,
    /// The QEMU to measure [default: qemu-system-x86_64]
    #[arg(long)]
    qemu: Option<PathBuf>,
    /// The Bochs to measure [default: bochs]
    #[arg(long)]
    bochs: Option<PathBuf>,
    /// Seconds after which a guest is stopped
    #[arg(long, default_value_t = 1200)]
    timeout: u64,
    /// Writes all numbers to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws the slowdowns into this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringworld-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The emulators to measure, where they are and what they say they are.
fn emulators(options: &Options) -> Result<BTreeMap<Emulator, (PathBuf, String)>> {
    let wanted = if options.emulators.is_empty() {
        &[Emulator::Ringworld, Emulator::Qemu][..]
    } else {
        &options.emulators
    };
    let mut found = BTreeMap::new();
    for emulator in wanted.iter().copied() {
        let given = match emulator {
            Emulator::Ringworld => &options.ringworld,
            Emulator::Qemu => &options.qemu,
            Emulator::Bochs => &options.bochs,
        };
        let located = emulator::binary(emulator, given.as_deref())
            .and_then(|binary| emulator.version(&binary).map(|version| (binary, version)));
        match located {
            Ok(located) => _ = found.insert(emulator, located),
            Err(error) if options.emulators.is_empty() && emulator != Emulator::Ringworld => {
                eprintln!("without {}: {error:#}", emulator.name());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// True if nothing went wrong.
fn run(options: &Options) -> Result<bool> {
    if options.list {
        for program in programs::all() {
            println!("{:<12} {}", program.name, format!("{:?}", program.group).to_lowercase());
        }
        io::names().for_each(|name| println!("{name:<12} --io"));
        return Ok(true);
    }
    for name in &options.only {
        let mut names = programs::all().map(|program| program.name);
        if !(if options.io { io::names().any(|io| io == name) } else { names.any(|program| program == name) })
        {
            bail!("there is no benchmark '{name}': see --list");
        }
    }
    let emulators = emulators(options)?;
    let guest = Guest {
        kernel: Path::new(""),
        initrd: Path::new(""),
        memory: options.memory,
        ringworld_options: &options.ringworld_options,
        devices: None,
        login: false,
        timeout: Duration::from_secs(options.timeout),
    };
    if options.real {
        let report = real::run(options.runs, options.scale, &emulators, &guest)?;
        print!("{}", report.text());
        if let Some(path) = &options.json {
            write_json(path, &report)?;
        }
        return Ok(report.problems.is_empty());
    }
    let guests = Guests::open()?;
    if options.io {
        let installed = guests.ensure(Debian, Architecture::Amd64, &mut terminal_progress())?;
        let plan =
            io::Plan { installed: &installed, only: &options.only, scale: options.scale, runs: options.runs };
        let guest = Guest { kernel: &installed.kernel, ..guest };
        let report = io::run(&plan, &emulators, guest)?;
        print!("{}", report.text());
        if let Some(path) = &options.json {
            write_json(path, &report)?;
        }
        return Ok(report.problems.is_empty());
    }
    let work = |work: u64| ((work as f64 * options.scale) as u64).max(1);
    let programs = || {
        programs::all()
            .filter(|program| options.only.is_empty() || options.only.iter().any(|name| name == program.name))
            .map(|program| (program, work(program.work)))
    };
    if options.nested {
        let installed =
            guests.ensure(ringworld_guests::Guest::Nested, Architecture::Amd64, &mut terminal_progress())?;
        let built = programs::Built::new(&guests.folder().join("benches"), installed.busybox()?)?;
        let programs: Vec<_> = if options.only.is_empty() { Vec::new() } else { programs().collect() };
        let plan =
            nested::Plan { installed: &installed, built: &built, programs: &programs, runs: options.runs };
        let guest = Guest { kernel: options.kernel.as_deref().unwrap_or(&installed.kernel), ..guest };
        let report = nested::run(&plan, &emulators, &guest)?;
        print!("{}", report.text());
        if let Some(path) = &options.json {
            write_json(path, &report)?;
        }
        return Ok(report.problems.is_empty());
    }
    if let (Some(root), Some(kernel), Some(initrd)) = (&options.login, &options.kernel, &options.initrd) {
        let guest = Guest { kernel, initrd, login: true, ..guest };
        let report = login::run(root, options.runs, &emulators, &guest)?;
        print!("{}", report.text());
        if let Some(path) = &options.json {
            write_json(path, &report)?;
        }
        return Ok(report.problems.is_empty());
    }
    let (kernel, busybox) = match (&options.kernel, &options.busybox) {
        (Some(kernel), Some(busybox)) => (kernel.clone(), busybox.clone()),
        (kernel, busybox) => {
            let debian = guests.ensure(Debian, Architecture::Amd64, &mut terminal_progress())?;
            let own = debian.busybox()?.to_owned();
            (kernel.clone().unwrap_or(debian.kernel), busybox.clone().unwrap_or(own))
        }
    };
    let built = programs::Built::new(&guests.folder().join("benches"), &busybox)?;
    let programs: Vec<_> = programs().collect();
    let folder = tempfile::tempdir()?;
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, image::initramfs(&built, &programs)?)?;
    let guest = Guest { kernel: &kernel, initrd: &initrd, ..guest };

    if options.lockstep {
        let Some((binary, _)) = emulators.get(&Emulator::Ringworld) else {
            bail!("only Ringworld has two engines")
        };
        let status = emulator::lockstep(binary, &guest).status().context("cannot start Ringworld")?;
        return Ok(status.success());
    }

    let mut natives: BTreeMap<&str, (Vec<f64>, String)> = BTreeMap::new();
    let mut runs: BTreeMap<Emulator, Vec<markers::Costs>> = BTreeMap::new();
    let mut problems = Vec::new();
    // Round by round, so that a slow minute of the host meets all of them.
    for round in 1..=options.runs {
        for (program, work) in &programs {
            progress(&format!("round {round} of {}: native {}", options.runs, program.name));
            if let Some((seconds, checksum)) = native::run(&built, program, *work)? {
                natives.entry(program.name).or_insert((Vec::new(), checksum)).0.push(seconds);
            }
        }
        for (emulator, (binary, _)) in &emulators {
            progress(&format!("round {round} of {}: {}", options.runs, emulator.name()));
            let run = emulator.run(binary, &guest)?;
            if let Some(failure) = run.failure {
                problems.push(format!("{}, run {round}: {failure}", emulator.name()));
            }
            runs.entry(*emulator).or_default().push(run.costs);
        }
    }
    progress("");

    let mut report = Report {
        cpu: cpu_model(),
        host: emulator::host_kernel(),
        guest_kernel: kernel.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        runs: options.runs.into(),
        emulators: emulators.iter().map(|(emulator, (_, version))| (*emulator, version.clone())).collect(),
        boot: BTreeMap::new(),
        programs: Vec::new(),
        geometric_mean: BTreeMap::new(),
        problems,
    };
    for (emulator, costs) in &runs {
        let boots: Vec<f64> = costs.iter().filter_map(|costs| costs.boot).collect();
        if let Some(boot) = report::median(&boots) {
            report.boot.insert(*emulator, boot);
        }
    }
    for (program, work) in &programs {
        let Some((seconds, checksum)) = natives.get(program.name) else {
            report.problems.push(format!("{}: the host cannot run it", program.name));
            continue;
        };
        let Some(native) = report::median(seconds) else { continue };
        let mut line = Line {
            name: program.name.into(),
            group: program.group,
            work: *work,
            native,
            guests: BTreeMap::new(),
        };
        for (emulator, costs) in &runs {
            let mut times = Vec::new();
            for costs in costs {
                match costs.programs.get(program.name) {
                    Some((seconds, sum)) if sum == checksum => times.push(*seconds),
                    Some((_, sum)) => report.problems.push(format!(
                        "{}, {}: the checksum is {sum}, on the host {checksum}",
                        emulator.name(),
                        program.name
                    )),
                    None => {
                        let reason = costs.skipped.get(program.name).map_or("did not run", String::as_str);
                        report.problems.push(format!("{}, {}: {reason}", emulator.name(), program.name));
                    }
                }
            }
            if let Some(measured) = Measured::new(&times, native) {
                line.guests.insert(*emulator, measured);
            }
        }
        report.programs.push(line);
    }
    report.problems.sort();
    report.problems.dedup();
    report.finish();
    print!("{}", report.text());
    if let Some(path) = &options.json {
        write_json(path, &report)?;
    }
    if let Some(path) = &options.svg {
        chart::draw(&report, path)?;
    }
    Ok(report.problems.is_empty())
}

fn write_json(path: &Path, report: &impl serde::Serialize) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(report)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces the last such line of a terminal.
fn progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    }
}

fn cpu_model() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| Some(text.lines().find_map(|line| line.strip_prefix("model name"))?.to_owned()))
        .map_or_else(|| "unknown".into(), |model| model.trim_start_matches(['\t', ' ', ':']).to_owned())
}
