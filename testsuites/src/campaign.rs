//! Runs many cases of many forms in worker processes and collects what differs.

use crate::case::{Case, Outcome};
use crate::compare::{differences, trap_before_fault};
use crate::emulated::Emulated;
use crate::engines::Engines;
use crate::forms::{Unasked, askable};
use crate::generate::{Sequences, generate, generate_sequence};
use crate::native::Native;
use crate::random::Random;
use anyhow::{Context, Result};
use iced_x86::Code;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Most mismatches of one form that are kept as files.
const MAX_KEPT: usize = 3;

/// A mismatch, as it is kept in a file.
#[derive(Clone, Serialize, Deserialize)]
pub struct Mismatch {
    /// What was run.
    pub text: String,
    /// How the outcomes differ.
    pub differences: Vec<String>,
    /// To run it again.
    pub case: Case,
    /// What the host did.
    pub host: Outcome,
    /// What the emulator did.
    pub ours: Option<Outcome>,
}

/// What came of one form.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// Compared on this many cases.
    Compared(u64),
    /// This host cannot run it, and why.
    HostLacks(String),
    /// It is not compared, and why.
    Excluded(String),
    /// No valid encoding was generated: a gap of the generator.
    NotGenerated,
    /// The worker died of it.
    Crashed,
}

/// The result of one form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FormResult {
    /// `iced_x86::Code`.
    pub code: u16,
    /// What was done.
    pub verdict: Verdict,
    /// How many cases differ.
    pub mismatches: u64,
    /// How many cases raised an exception on the host.
    pub faults: u64,
    /// Runs that translated code did alone, without a call of the instruction's function.
    pub emitted: u64,
    /// The first mismatches.
    pub examples: Vec<String>,
}

/// What runs a case on our side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
pub enum Engine {
    /// The function of each instruction.
    Exec,
    /// The translator, which must also agree with the interpreter on the whole state, undefined flags and all.
    Jit,
}

/// All runners.
pub struct Bench {
    native: Native,
    emulated: Emulated,
    engines: Option<Engines>,
}

impl Bench {
    /// Takes the process's signals.
    pub fn new(engine: Engine) -> Result<Self> {
        let engines = if engine == Engine::Jit { Some(Engines::new()?) } else { None };
        Ok(Self { native: Native::new()?, emulated: Emulated::new()?, engines })
    }

    /// How the engines differ on a case.
    pub fn engines(&mut self, case: &Case, cut: Option<u64>) -> Result<Option<Mismatch>> {
        let case = &self.native.confined(case);
        let Some(engines) = &mut self.engines else { return Ok(None) };
        let differences = engines.compare(case, cut)?;
        Ok((!differences.is_empty()).then(|| Mismatch {
            text: case.text(),
            differences,
            case: case.clone(),
            host: Outcome { state: case.state, fault: None },
            ours: None,
        }))
    }

    /// Runs a case on both; `None` if they agree. With true the host raised an exception.
    pub fn compare(&mut self, case: &Case) -> (Option<Mismatch>, bool) {
        let case = &self.native.confined(case);
        let host = self.native.run(case);
        let faulted = host.fault.is_some();
        let host_memory = self.native.window();
        let ours = catch_unwind(AssertUnwindSafe(|| match &mut self.engines {
            Some(engines) => {
                let mut outcome = engines.translator.run_as_machine(case, None);
                if trap_before_fault(case, &host, &outcome) {
                    outcome.fault = None;
                }
                (outcome, engines.translator.window())
            }
            None => {
                let outcome = self.emulated.run(case);
                (outcome, self.emulated.window())
            }
        }));
        let (differences, ours) = match ours {
            Ok((ours, our_memory)) => {
                (differences(case, (&host, &host_memory), (&ours, &our_memory)), Some(ours))
            }
            Err(_) => (vec!["the emulator panicked".to_string()], None),
        };
        let mismatch = (!differences.is_empty()).then(|| Mismatch {
            text: case.text(),
            differences,
            case: case.clone(),
            host,
            ours,
        });
        (mismatch, faulted)
    }

    /// Runs `count` random sequences of instructions; returns how many differ, and the first of them.
    pub fn sequences(&mut self, count: u64, seed: u64, save: Option<&Path>) -> Result<(u64, Vec<String>)> {
        let forms = Sequences::default();
        let mut random = Random::new(seed);
        let (mut wrong, mut examples) = (0, Vec::new());
        for _ in 0..count {
            let Some(case) = generate_sequence(&forms, &mut random) else { continue };
            let mismatch = match self.compare(&case).0 {
                Some(mismatch) => Some(mismatch),
                None => {
                    // Whole, and stopped once in the middle.
                    let cut = random.below(u64::from(case.steps) + 1);
                    self.engines(&case, (cut > 0).then_some(cut))?
                }
            };
            let Some(mismatch) = mismatch else { continue };
            wrong += 1;
            if examples.len() < 10 {
                examples.push(format!("{} | {}", mismatch.text, mismatch.differences.join(" | ")));
                if let Some(save) = save {
                    std::fs::create_dir_all(save)?;
                    let file = save.join(format!("sequence-{}.json", examples.len()));
                    std::fs::write(file, serde_json::to_vec(&mismatch)?)?;
                }
            }
        }
        Ok((wrong, examples))
    }

    /// Runs `cases` cases of a form. Mismatches go to files in `save`.
    pub fn form(&mut self, code: Code, cases: u64, seed: u64, save: Option<&Path>) -> Result<FormResult> {
        let mut result = FormResult {
            code: code as u16,
            verdict: Verdict::NotGenerated,
            mismatches: 0,
            faults: 0,
            emitted: 0,
            examples: Vec::new(),
        };
        match askable(code) {
            Ok(()) => {}
            Err(Unasked::Host(feature)) => {
                result.verdict = Verdict::HostLacks(feature);
                return Ok(result);
            }
            Err(Unasked::Excluded(reason)) => {
                result.verdict = Verdict::Excluded(reason.into());
                return Ok(result);
            }
        }
        let mut random = Random::new(seed ^ (code as u64) << 32);
        let mut compared = 0;
        let emitted_before = self.engines.as_ref().map_or(0, Engines::emitted);
        for _ in 0..cases {
            let Some(case) = generate(code, &mut random) else { continue };
            compared += 1;
            let (mismatch, faulted) = self.compare(&case);
            result.faults += u64::from(faulted);
            let mismatch = match mismatch {
                Some(mismatch) => Some(mismatch),
                None => self.engines(&case, None)?,
            };
            let Some(mismatch) = mismatch else { continue };
            result.mismatches += 1;
            if result.examples.len() < MAX_KEPT {
                let text = format!("{} | {}", mismatch.text, mismatch.differences.join(" | "));
                result.examples.push(text);
                if let Some(save) = save {
                    let file = save.join(format!("{code:?}-{}.json", result.examples.len()));
                    std::fs::write(file, serde_json::to_vec(&mismatch)?)?;
                }
            }
        }
        if compared > 0 {
            result.verdict = Verdict::Compared(compared);
        }
        result.emitted = self.engines.as_ref().map_or(0, Engines::emitted).saturating_sub(emitted_before);
        Ok(result)
    }
}

/// A campaign's size.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Cases a form.
    pub cases: u64,
    /// Selects the cases.
    pub seed: u64,
    /// What runs them.
    pub engine: Engine,
    /// Worker processes.
    pub jobs: usize,
    /// Where mismatches are kept.
    pub save: Option<PathBuf>,
    /// The program to start as a worker: `ringworld-diff`.
    pub program: PathBuf,
}

/// Runs all `codes`, spread over the workers.
pub fn run(plan: &Plan, codes: &[Code]) -> Result<Vec<FormResult>> {
    if let Some(save) = &plan.save {
        std::fs::create_dir_all(save).with_context(|| format!("cannot create {}", save.display()))?;
    }
    let jobs = plan.jobs.max(1);
    let mut results = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|job| {
                let codes = codes.iter().copied().skip(job).step_by(jobs).collect();
                scope.spawn(move || work(plan, codes))
            })
            .collect();
        let mut results = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(part) => results.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(results)
    })?;
    results.sort_by_key(|result| result.code);
    Ok(results)
}

/// One worker's share: a form that kills the worker is noted, and a new worker goes on behind it.
fn work(plan: &Plan, mut codes: VecDeque<Code>) -> Result<Vec<FormResult>> {
    let mut results = Vec::new();
    while !codes.is_empty() {
        let mut command = Command::new(&plan.program);
        command.args(["worker", "--cases", &plan.cases.to_string(), "--seed", &plan.seed.to_string()]);
        if plan.engine == Engine::Jit {
            command.args(["--engine", "jit"]);
        }
        if let Some(save) = &plan.save {
            command.arg("--save").arg(save);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut list = String::new();
        for &code in &codes {
            list.push_str(&format!("{}\n", code as u16));
        }
        let stdin = child.stdin.take();
        let output = child.stdout.take().context("no pipe")?;
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(list.as_bytes())));
            for line in BufReader::new(output).lines() {
                results.push(serde_json::from_str::<FormResult>(&line?)?);
                codes.pop_front();
            }
            Ok(())
        })?;
        let status = child.wait()?;
        if let Some(code) = codes.pop_front() {
            let examples = vec![format!("the worker ended: {status}")];
            let verdict = Verdict::Crashed;
            results.push(FormResult {
                code: code as u16,
                verdict,
                mismatches: 1,
                faults: 0,
                emitted: 0,
                examples,
            });
        }
    }
    Ok(results)
}

/// Ends the process if a form takes more CPU time than any form should: a hang is a finding, not the end of the campaign.
fn watchdog() {
    #[cfg(unix)]
    // SAFETY: a plain system call; SIGPROF's default action ends the process.
    unsafe {
        let limit = libc::timeval { tv_sec: 120, tv_usec: 0 };
        let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let timer = libc::itimerval { it_interval: never, it_value: limit };
        libc::setitimer(libc::ITIMER_PROF, &timer, core::ptr::null_mut());
    }
}

/// A worker: reads forms from standard input, writes results to standard output.
pub fn worker(engine: Engine, cases: u64, seed: u64, save: Option<&Path>) -> Result<()> {
    let mut bench = Bench::new(engine)?;
    std::panic::set_hook(Box::new(|_| {}));
    for line in std::io::stdin().lines() {
        let code = Code::try_from(line?.parse::<usize>()?).map_err(|error| anyhow::anyhow!("{error}"))?;
        watchdog();
        let result = bench.form(code, cases, seed, save)?;
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &result)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}
