//! The `ringworld` command, as a library, so that fuzzers reach what takes input from outside.
#![warn(clippy::print_stderr)]

#[macro_use]
mod say;

mod args;
mod boot;
mod checks;
mod conform;
mod console;
mod control;
mod cpus;
mod demo;
mod disassembly;
mod drive;
mod exit;
mod gdb;
mod guests;
mod lockstep;
mod monitor;
mod nested;
mod net;
mod outside;
mod run;
mod screen;
mod stats;
mod terminal;
mod trace;
mod worlds;

use args::{Cli, Command, Suite};
use clap::Parser;

pub use control::fuzz as fuzz_control;

/// Runs the command with the process's arguments; returns the exit code.
pub fn run_command() -> i32 {
    terminal::restore_on_panic();
    let code = match Cli::try_parse_from(args::qemu_forms(std::env::args_os())) {
        Ok(cli) => match command(cli.command) {
            Ok(code) => code,
            Err(error) => {
                terminal::restore();
                say_line!("ringworld: {}", format!("{error:#}").replace('\n', " "));
                exit::of_error(&error)
            }
        },
        // Help and version.
        Err(text) if !text.use_stderr() => {
            // Nobody reads a closed pipe's error.
            let _ = text.print();
            exit::SUCCESS
        }
        Err(error) => {
            say_line!("ringworld: {}", args::one_line(&error));
            exit::USAGE
        }
    };
    terminal::restore();
    code
}

/// Reads a command line (without running it), for the fuzzer: the error's one line.
///
/// # Errors
/// What the user would be told.
pub fn parse_command(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<(), String> {
    Cli::try_parse_from(args::qemu_forms(arguments)).map(drop).map_err(|error| args::one_line(&error))
}

fn command(command: Command) -> anyhow::Result<i32> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Boot(args) => boot::boot(&args),
        Command::Guests(command) => {
            terminal::end_at_closed_pipe();
            guests::guests(&command)
        }
        Command::Cpus => {
            terminal::end_at_closed_pipe();
            cpus::list()
        }
        Command::Checks => {
            terminal::end_at_closed_pipe();
            checks::list()
        }
        Command::Demo(args) => {
            terminal::end_at_closed_pipe();
            demo::demo(&args)
        }
        Command::Lockstep(args) => {
            terminal::end_at_closed_pipe();
            lockstep::compare(&args)
        }
        Command::Conform(Suite::KvmUnitTests(args)) => {
            terminal::end_at_closed_pipe();
            conform::conform(&args)
        }
    }
}
