//! Fuzzing of what a guest or a file controls, on a stable compiler:
//! `cargo run --release -p ringworld-fuzz -- loaders --seconds 600`.
//!
//! A case is made from its number alone, so a finding is replayed by `--case`. A finding is a panic (a failed check is
//! one, too) or a case that does not end.

mod arguments;
mod command_line;
mod cpio;
mod decoder;
mod devices;
mod guest;
#[path = "../../../firmware/tests/common/kernels.rs"]
mod kernels;
mod loaders;
mod packets;
mod peripherals;
mod qcow2;
mod random;
mod sessions;

use clap::Parser;
use random::Random;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::{ExitCode, exit};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a target does with one case; the name of what came out of it is counted.
type Run = fn(&mut Random) -> &'static str;

const TARGETS: &[(&str, Run)] = &[
    ("loaders", loaders::run),
    ("command-line", command_line::run),
    ("cpio", cpio::run),
    ("decoder", decoder::run),
    ("guest", guest::run),
    ("devices", devices::run),
    ("arguments", arguments::run),
    ("snapshot", sessions::snapshot),
    ("gdb", sessions::gdb),
    ("control", sessions::control),
    ("pci", peripherals::pci),
    ("virtqueues", peripherals::virtqueues),
    ("nvme", peripherals::nvme_commands),
    ("ahci", peripherals::ahci_commands),
    ("qcow2", qcow2::run),
    ("packets", packets::run),
];

/// A case that takes more CPU time than this does not end. The slowest ones take well under a second.
const LONGEST: Duration = Duration::from_secs(20);
/// Nor does one that waits this long, even on a busy host.
const LONGEST_WAIT: Duration = Duration::from_secs(200);
/// How often the clock is read and progress is noted, in cases.
const ROUND: u64 = 64;

/// Fuzzes a part of Ringworld.
#[derive(Parser)]
#[command(name = "ringworld-fuzz")]
struct Options {
    /// What to fuzz.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS.iter().map(|target| target.0)))]
    target: String,
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The number of the first case.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Run this case only.
    #[arg(long)]
    case: Option<u64>,
}

/// The message of the last panic.
static MESSAGE: Mutex<String> = Mutex::new(String::new());
/// The case that runs, and when it began: in milliseconds since the start, and of the process's CPU time.
static CASE: AtomicU64 = AtomicU64::new(0);
static BEGAN: AtomicU64 = AtomicU64::new(0);
static BEGAN_CPU: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let options = Options::parse();
    let Some(&(name, run)) = TARGETS.iter().find(|target| target.0 == options.target) else {
        return ExitCode::from(2);
    };
    set_hook(Box::new(|info| {
        if let Ok(mut message) = MESSAGE.lock() {
            *message = info.to_string();
        }
    }));
    let begin = Instant::now();
    let target = name.to_string();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LONGEST / 4);
            let since = |began: &AtomicU64, now: u64| {
                Duration::from_millis(now.saturating_sub(began.load(Ordering::Relaxed)))
            };
            let wall = since(&BEGAN, begin.elapsed().as_millis() as u64);
            if since(&BEGAN_CPU, cpu_milliseconds()) > LONGEST || wall > LONGEST_WAIT {
                report(&target, CASE.load(Ordering::Relaxed), "it does not end");
                exit(1);
            }
        }
    });

    let first = options.case.unwrap_or(options.start);
    let (mut case, mut findings) = (first, 0);
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    loop {
        if (case - first).is_multiple_of(ROUND) && begin.elapsed() >= Duration::from_secs(options.seconds) {
            break;
        }
        CASE.store(case, Ordering::Relaxed);
        BEGAN.store(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
        BEGAN_CPU.store(cpu_milliseconds(), Ordering::Relaxed);
        match catch_unwind(AssertUnwindSafe(|| run(&mut Random::new(case)))) {
            Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
            Err(_) => {
                findings += 1;
                let message = MESSAGE.lock().map(|message| message.clone()).unwrap_or_default();
                report(name, case, &message);
            }
        }
        case += 1;
        if options.case.is_some() {
            break;
        }
    }
    println!("{name}: {} cases, {findings} findings, {:.0} s", case - first, begin.elapsed().as_secs_f64());
    for (outcome, count) in outcomes {
        println!("{count:>12}  {outcome}");
    }
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cpu_milliseconds() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    (time.tv_sec * 1000 + time.tv_nsec / 1_000_000) as u64
}

fn report(target: &str, case: u64, what: &str) {
    println!("finding in case {case}: {}", what.replace('\n', " "));
    println!("  replay: cargo run --release -p ringworld-fuzz -- {target} --case {case}");
}
