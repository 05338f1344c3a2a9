//! `ringworld-diff`: every implemented instruction form against the host's silicon.

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use iced_x86::Code;
use ringworld_jit_x86::emit_of;
use ringworld_testsuites::campaign::{self, Bench, Engine, FormResult, Mismatch, Plan, Verdict};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Runs instructions on the host's CPU and on the emulated one, and compares")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run random cases of all forms
    Run {
        /// What runs them: with `jit` only forms that the translator emits, and the engines are compared, too
        #[arg(long, value_enum, default_value = "exec")]
        engine: Engine,
        /// Only forms whose name contains this (ignoring case); several, separated by commas
        #[arg(long)]
        filter: Option<String>,
        /// Cases a form
        #[arg(long, default_value_t = 2000)]
        cases: u64,
        /// Selects the cases
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Worker processes
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Where to keep mismatches as files
        #[arg(long)]
        save: Option<PathBuf>,
        /// Print every form that was not compared
        #[arg(long)]
        verbose: bool,
    },
    /// Run random sequences of 10 to 20 instructions, ours by the interpreter's blocks
    Sequences {
        /// What runs them: with `jit` only forms that the translator emits, and the engines are compared, too
        #[arg(long, value_enum, default_value = "exec")]
        engine: Engine,
        /// How many
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        /// Selects them
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Where to keep mismatches as files
        #[arg(long)]
        save: Option<PathBuf>,
    },
    /// Run kept mismatches again
    Replay {
        /// What runs them: with `jit` only forms that the translator emits, and the engines are compared, too
        #[arg(long, value_enum, default_value = "exec")]
        engine: Engine,
        /// Files
        files: Vec<PathBuf>,
    },
    /// What `run` starts
    #[command(hide = true)]
    Worker {
        /// What runs them: with `jit` only forms that the translator emits, and the engines are compared, too
        #[arg(long, value_enum, default_value = "exec")]
        engine: Engine,
        #[arg(long)]
        cases: u64,
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        save: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringworld-diff: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act() -> Result<()> {
    match Arguments::parse().command {
        Action::Run { engine, filter, cases, seed, jobs, save, verbose } => {
            let codes: Vec<Code> = ringworld_x86::row::implemented()
                .filter(|&code| selected(code, filter.as_deref()))
                // Natively PUSHFQ shows the TF that steps it; translated code runs without.
                .filter(|&code| {
                    engine == Engine::Exec
                        || emit_of(code).is_some() && !matches!(code, Code::Pushfd | Code::Pushfq)
                })
                .collect();
            let plan = Plan { cases, seed, engine, jobs, save, program: std::env::current_exe()? };
            let results = campaign::run(&plan, &codes)?;
            if engine == Engine::Jit {
                coverage(&results);
            }
            report(&results, verbose)
        }
        Action::Sequences { engine, count, seed, save } => {
            let (wrong, examples) = Bench::new(engine)?.sequences(count, seed, save.as_deref())?;
            for example in examples {
                println!("{example}");
            }
            println!("{count} sequences, {wrong} differ");
            if wrong > 0 {
                bail!("{wrong} sequences differ");
            }
            Ok(())
        }
        Action::Replay { engine, files } => replay(engine, &files),
        Action::Worker { engine, cases, seed, save } => {
            campaign::worker(engine, cases, seed, save.as_deref())
        }
    }
}

fn selected(code: Code, filter: Option<&str>) -> bool {
    let Some(filter) = filter else { return true };
    let name = format!("{code:?}").to_lowercase();
    filter.split(',').any(|part| name.contains(&part.to_lowercase()))
}

/// How many forms are emitted, and which of them no case got translated code to do alone.
fn coverage(results: &[FormResult]) {
    let implemented: Vec<Code> = ringworld_x86::row::implemented().collect();
    let emitted = implemented.iter().filter(|&&code| emit_of(code).is_some()).count();
    println!("{emitted} of {} implemented forms are emitted", implemented.len());
    let never: Vec<String> = results
        .iter()
        .filter(|result| matches!(result.verdict, Verdict::Compared(_)) && result.emitted == 0)
        .filter_map(|result| Code::try_from(usize::from(result.code)).ok())
        .map(|code| format!("{code:?}"))
        .collect();
    if !never.is_empty() {
        println!("{} never ran without their function: {}", never.len(), never.join(" "));
    }
}

fn report(results: &[FormResult], verbose: bool) -> Result<()> {
    let name =
        |result: &FormResult| format!("{:?}", Code::try_from(usize::from(result.code)).unwrap_or_default());
    let mut covered = 0;
    let mut cases = 0;
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for result in results {
        let mut reason = |text: String| reasons.entry(text).or_default().push(name(result));
        match &result.verdict {
            Verdict::Compared(count) => {
                covered += 1;
                cases += count;
                if result.faults == *count {
                    reason("compared, but every case raised an exception".into());
                }
            }
            Verdict::HostLacks(feature) => reason(format!("host lacks {feature}")),
            Verdict::Excluded(why) => reason(format!("excluded: {why}")),
            Verdict::NotGenerated => reason("no encoding generated".into()),
            Verdict::Crashed => reason("crashed".into()),
        }
    }
    for (reason, forms) in &reasons {
        println!("{:5} {reason}", forms.len());
        if verbose || reason.starts_with("no encoding") || reason.starts_with("crashed") {
            println!("      {}", forms.join(" "));
        }
    }
    let wrong: Vec<_> = results.iter().filter(|result| result.mismatches > 0).collect();
    for result in &wrong {
        println!("{}: {} mismatches", name(result), result.mismatches);
        for example in &result.examples {
            println!("    {example}");
        }
    }
    println!(
        "{} forms implemented, {covered} compared, {cases} cases, {} forms wrong",
        results.len(),
        wrong.len()
    );
    let failed = wrong.len() + reasons.get("no encoding generated").map_or(0, Vec::len);
    if failed > 0 {
        bail!("{failed} forms failed");
    }
    Ok(())
}

fn replay(engine: Engine, files: &[PathBuf]) -> Result<()> {
    let mut bench = Bench::new(engine)?;
    let mut wrong = 0;
    for file in files {
        let kept: Mismatch = serde_json::from_slice(&std::fs::read(file)?)?;
        println!("{}: {}", file.display(), kept.text);
        let case = &kept.case;
        println!("  {:?}, bytes {:02x?}", case.mode, case.bytes);
        println!("  rip {:#x} rflags {:#x} gpr {:x?}", case.state.rip, case.state.rflags, case.state.gpr);
        let mismatch = match bench.compare(case).0 {
            Some(mismatch) => Some(mismatch),
            None => bench.engines(case, None)?,
        };
        match mismatch {
            None => println!("  agrees now"),
            Some(mismatch) => {
                wrong += 1;
                for difference in mismatch.differences {
                    println!("  {difference}");
                }
            }
        }
    }
    if wrong > 0 {
        bail!("{wrong} of {} cases differ", files.len());
    }
    Ok(())
}
