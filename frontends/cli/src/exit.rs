//! Exit codes. The README has the same table.

use crate::run::Usage;
use ringworld_machine::{MachineError, StopReason};

/// The guest powered off, the user left, or a command succeeded.
pub const SUCCESS: i32 = 0;
/// Anything that failed.
pub const FAILURE: i32 = 1;
/// The command line cannot be understood or asks for what does not exist.
pub const USAGE: i32 = 2;
/// The CPU shut down after a triple fault.
pub const TRIPLE_FAULT: i32 = 70;
/// The guest reported a crash through the panic device.
pub const PANIC: i32 = 71;
/// `--max-instructions`.
pub const INSTRUCTION_LIMIT: i32 = 72;
/// `--timeout`.
pub const TIMEOUT: i32 = 73;
/// The guest halted for ever.
pub const IDLE: i32 = 74;
/// The guest asked for a reset, with `--no-reboot`.
pub const RESET: i32 = 75;
/// The guest suspended the machine for ever.
pub const SUSPEND: i32 = 76;
/// A signal ended the run.
pub const SIGNAL: i32 = 130;

/// The exit code of a run that ended so.
pub fn of(stop: &StopReason) -> i32 {
    match stop {
        StopReason::PowerOff
        | StopReason::UserRequest
        | StopReason::Breakpoint { .. }
        | StopReason::Watchpoint { .. }
        | StopReason::HistoryStart => SUCCESS,
        // A process has eight bits.
        StopReason::GuestExit(code) => (code & 0xff) as i32,
        StopReason::TripleFault { .. } => TRIPLE_FAULT,
        StopReason::Panic => PANIC,
        StopReason::InstructionLimit => INSTRUCTION_LIMIT,
        StopReason::Timeout => TIMEOUT,
        StopReason::Idle => IDLE,
        StopReason::Reset => RESET,
        StopReason::Suspend => SUSPEND,
    }
}

/// What to tell about a stop on standard error; nothing about those that the user expects.
pub fn message(stop: &StopReason) -> Option<String> {
    Some(match stop {
        StopReason::TripleFault { cpu, rip } => {
            format!(
                "triple fault on CPU {cpu} at RIP {rip:#x}: look at what came before with --trace exception"
            )
        }
        StopReason::Panic => "the guest reported a crash (panic device)".into(),
        StopReason::InstructionLimit => "stopped at --max-instructions".into(),
        StopReason::Timeout => "stopped by --timeout".into(),
        StopReason::Idle => {
            "the guest halted and nothing can wake it: no timer is set, or none that it hears, and there is no input".into()
        }
        StopReason::Reset => "the guest asked for a reset, and --no-reboot is given".into(),
        StopReason::Suspend => {
            "the guest suspended the machine and nothing can wake it: no alarm is set, and there is no input"
                .into()
        }
        _ => return None,
    })
}

/// The exit code of an error.
pub fn of_error(error: &anyhow::Error) -> i32 {
    let usage = error.is::<Usage>()
        || matches!(error.downcast_ref(), Some(MachineError::CpuModel(_) | MachineError::CpuCount(_)));
    if usage { USAGE } else { FAILURE }
}
