//! Why a run ended, and until when it goes.

use ringworld_x86::watch::Watchpoint;
use serde::{Deserialize, Serialize};

/// Why [`crate::Machine::run`] returned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StopReason {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset, and the configuration says that this ends the run.
    Reset,
    /// The guest suspended the machine (ACPI S3), no alarm is set, and no input can come: nothing will ever wake it.
    Suspend,
    /// The guest ended the run through the debug-exit device with this code.
    GuestExit(u32),
    /// A CPU shut down after a triple fault.
    TripleFault {
        /// The CPU.
        cpu: u32,
        /// Its RIP.
        rip: u64,
    },
    /// The guest says that it has crashed (panic device).
    Panic,
    /// As many instructions as [`RunUntil::instructions`] have retired.
    InstructionLimit,
    /// Every CPU is halted, no timer is set or none is heard, and no input can come: nothing will ever happen.
    Idle,
    /// A CPU is about to execute the instruction at a breakpoint.
    Breakpoint {
        /// The CPU.
        cpu: u32,
        /// The linear address.
        address: u64,
    },
    /// A CPU has accessed memory at a watchpoint; the access is done.
    Watchpoint {
        /// The CPU.
        cpu: u32,
        /// The watchpoint's linear address.
        address: u64,
        /// Whether it wrote.
        write: bool,
    },
    /// Going backward, the beginning of what is remembered is reached.
    HistoryStart,
    /// Somebody's time limit passed ([`crate::MachineHandle::stop`]).
    Timeout,
    /// Somebody asked ([`crate::MachineHandle::stop`]).
    UserRequest,
}

impl StopReason {
    /// Whether it came from outside: a replay cannot find it by itself.
    pub(crate) fn is_from_host(&self) -> bool {
        matches!(self, Self::Timeout | Self::UserRequest)
    }
}

/// Until when a run goes, besides the guest's own end.
#[derive(Clone, Debug, Default)]
pub struct RunUntil {
    /// Retired instructions of all CPUs since power-on.
    pub instructions: Option<u64>,
    /// Retired instructions of one CPU (its number, its count).
    pub cpu_instructions: Option<(usize, u64)>,
    /// Linear addresses of instructions. While there are any, the machine looks at each instruction and is slow.
    pub breakpoints: Vec<u64>,
    /// Memory that is watched, on all CPUs.
    pub watchpoints: Vec<Watchpoint>,
}

impl RunUntil {
    /// Until this many instructions have retired in all.
    pub fn instructions(count: u64) -> Self {
        Self { instructions: Some(count), ..Self::default() }
    }
}
