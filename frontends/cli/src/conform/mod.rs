//! `ringworld conform`: third-party test suites inside of the machine.
//!
//! Each test runs in a process of its own, so that one that ends badly takes nothing with it.

mod outcome;
mod plan;
mod report;
mod unittests_cfg;

use crate::args::ConformArgs;
use crate::exit;
use anyhow::{Context, bail, ensure};
use outcome::{Expected, Outcome, Status};
use plan::{Choice, Plan};
use rayon::prelude::*;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use unittests_cfg::Test;

/// Of the host's time, a test may take so many times its limit: others want the processors, too.
const PATIENCE: u32 = 20;
/// A clock tick of `/proc/PID/stat`, which Linux fixes at a hundredth of a second for user space.
const TICK: Duration = Duration::from_millis(10);
/// How often the end of a process is looked for.
const POLL: Duration = Duration::from_millis(10);

/// Runs `ringworld conform`.
pub fn conform(args: &ConformArgs) -> anyhow::Result<i32> {
    let (folder, arch) = tree(&args.folder)?;
    let file = folder.join("unittests.cfg");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let tests =
        unittests_cfg::parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    let choice = Choice {
        folder,
        arch,
        filter: args.filter.clone(),
        group: args.group.clone(),
        timeout: args.timeout.map(Duration::from_secs_f64),
        cpu: args.cpu.clone(),
    };
    let expected = match &args.expected_failures {
        None => Expected::default(),
        Some(path) => Expected::parse(
            &fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        ),
    };
    let tests: Vec<Test> = tests.into_iter().filter(|test| choice.wants(test)).collect();
    ensure!(!tests.is_empty(), "no test of {} matches: look at --filter and --group", file.display());
    let scratch = tempfile::tempdir().context("cannot make a folder for the tests' output")?;
    let logs = args.logs.as_deref().unwrap_or(scratch.path());
    fs::create_dir_all(logs).with_context(|| format!("cannot make the folder {}", logs.display()))?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.jobs.unwrap_or(0)).build()?;
    let begin = Instant::now();
    println!("{}", report::HEAD);
    let run = |test: &Test| -> anyhow::Result<Outcome> {
        let mut outcome = match choice.plan(test) {
            Err(reason) => Outcome::skipped(&test.name, reason),
            Ok(plan) => run_one(&test.name, &plan, args, logs)?,
        };
        expected.apply(&mut outcome);
        println!("{}", report::row(&outcome));
        Ok(outcome)
    };
    let outcomes = pool.install(|| tests.par_iter().map(run).collect::<anyhow::Result<Vec<_>>>())?;
    println!("{}", report::summary(&outcomes, begin.elapsed()));
    for (path, text) in [
        (&args.json, report::json(&args.folder, &choice.arch, &outcomes)?),
        (&args.junit, report::junit(&choice.arch, &outcomes)),
    ] {
        if let Some(path) = path {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    let bad = outcomes.iter().any(|outcome| outcome.status.is_bad());
    Ok(if bad { exit::FAILURE } else { exit::SUCCESS })
}

/// The folder with `unittests.cfg` and the architecture that the tree was built for.
fn tree(folder: &Path) -> anyhow::Result<(std::path::PathBuf, String)> {
    let config = folder.join("config.mak");
    let text = fs::read_to_string(&config).with_context(|| {
        format!("{} is no built tree of kvm-unit-tests: cannot read {}", folder.display(), config.display())
    })?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(str::trim).unwrap_or_default().to_string()
    };
    let arch = value("ARCH");
    if !matches!(&*arch, "x86_64" | "i386") {
        bail!("{} is built for {arch:?}: this version runs x86_64 and i386", folder.display());
    }
    ensure!(value("CONFIG_EFI") != "y", "{} is built for EFI: build it without", folder.display());
    Ok((folder.join("x86"), arch))
}

/// The CPU time that a process has taken so far (proc(5): `utime` and `stime` in `/proc/PID/stat`).
fn cpu_time(process: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, which may hold anything, ends with the last parenthesis; the third field follows it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u32>().ok();
    Some(TICK * ticks(14)?.saturating_add(ticks(15)?))
}

/// Runs one test to its end, or until its time is up.
fn run_one(name: &str, plan: &Plan, args: &ConformArgs, logs: &Path) -> anyhow::Result<Outcome> {
    let file = |end: &str| logs.join(format!("{}.{end}", name.replace('/', "_")));
    let (output, messages, counters, environment) = (file("log"), file("err"), file("json"), file("env"));
    let create = |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
    fs::write(&environment, &plan.environment)
        .with_context(|| format!("cannot write {}", environment.display()))?;
    // No counters of an earlier run.
    let _ = fs::remove_file(&counters);
    let begin = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(&plan.arguments)
        .arg("--initrd")
        .arg(&environment)
        .args(["--engine", args.engine.name()])
        .arg("--stats")
        .arg(format!("json:{}", counters.display()))
        .stdin(Stdio::null())
        .stdout(create(&output)?)
        .stderr(create(&messages)?)
        .spawn()
        .context("cannot start a machine")?;
    let mut used = Duration::ZERO;
    let ended = loop {
        // The time of one that has ended but was not waited for yet is still to be had.
        used = cpu_time(child.id()).unwrap_or(used);
        if child.try_wait()?.is_some() {
            break true;
        }
        if used > plan.timeout || begin.elapsed() > plan.timeout * PATIENCE {
            child.kill()?;
            child.wait()?;
            break false;
        }
        std::thread::sleep(POLL);
    };
    let mut outcome = Outcome::read(name, &output, &messages, &counters, plan.panics);
    if !ended {
        outcome.status = Status::Timeout;
        outcome.reason = format!("its limit of {} seconds is over", plan.timeout.as_secs());
    }
    outcome.seconds = used.as_secs_f64();
    Ok(outcome)
}
