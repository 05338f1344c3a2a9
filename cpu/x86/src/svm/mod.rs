//! SVM, AMD's secure virtual machine (APM 2 chapter 15).
//!
//! [`vmcb`] is the control block as data, [`checks`] what VMRUN demands of it. `enter` loads a guest and `leave` stores it
//! again; `hooks` answers what the rest of the processor asks of a guest ([`crate::virt`]), with `intercept` and `inject`
//! for the fields that describe exits and events; `npt` is the second stage of translation, `avic` the virtual local APIC.

mod avic;
pub mod checks;
mod enter;
pub mod exit_code;
mod hooks;
#[cfg(test)]
mod hostile;
pub mod inject;
pub(crate) mod instructions;
mod intercept;
mod leave;
pub(crate) mod msr;
pub(crate) mod npt;
#[cfg(test)]
mod tests;

pub mod rules;
pub mod vmcb;

pub use exit_code::ExitCode;

use crate::segment::Segment;
use crate::state::TableRegister;
use ringworld_core::GuestPhys;
use serde::{Deserialize, Serialize};
use vmcb::ControlArea;
use zerocopy::FromZeros;

/// Number of address-space identifiers, the host's included (CPUID 8000_000A EBX).
pub const ASIDS: u32 = 0x8000;

/// The processor's SVM state.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Svm {
    /// VM_CR.
    pub vm_cr: u64,
    /// VM_HSAVE_PA. The host's state is kept on the chip, which APM 2 15.30.4 allows.
    pub hsave_pa: u64,
    /// TSC_RATIO: 8.32 fixed point.
    pub tsc_ratio: u64,
    /// The guest that runs.
    pub guest: Guest,
    /// The host's state while a guest runs.
    pub(crate) host: Host,
    /// The exit that a hook has noted.
    pub(crate) exit: Exit,
    /// An exit that comes after the instruction.
    pub(crate) trap: Option<Exit>,
}

impl Default for Svm {
    fn default() -> Self {
        Self {
            vm_cr: 0,
            hsave_pa: 0,
            tsc_ratio: 1 << 32,
            guest: Guest::default(),
            host: Host::default(),
            exit: Exit::default(),
            trap: None,
        }
    }
}

/// What the processor keeps of a running guest's VMCB.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Guest {
    /// Where the VMCB is.
    pub vmcb: GuestPhys,
    /// The control area as VMRUN read it, but for what changes while the guest runs: the virtual interrupts.
    pub control: ControlArea,
    /// PAUSE instructions left before one exits.
    pub(crate) pauses: u16,
    /// The time-stamp counter at the last PAUSE.
    pub(crate) last_pause: u64,
}

impl Default for Guest {
    fn default() -> Self {
        Self { vmcb: GuestPhys(0), control: ControlArea::new_zeroed(), pauses: 0, last_pause: 0 }
    }
}

/// The host's state that #VMEXIT brings back (APM 2 15.5.1, 15.6).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Host {
    /// ES, CS, SS, DS.
    seg: [Segment; 4],
    gdtr: TableRegister,
    idtr: TableRegister,
    efer: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    rflags: u64,
    rip: u64,
    rsp: u64,
    rax: u64,
    pat: u64,
    /// DBGCTL and the last-branch registers, if they are virtualised.
    debug: [u64; 5],
    /// VMRUN ran with RFLAGS.TF set: the trap comes after #VMEXIT.
    trap: bool,
}

/// An exit, as the VMCB shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Exit {
    code: u64,
    info1: u64,
    info2: u64,
    next_rip: u64,
    /// The bytes at RIP are stored (decode assists, APM 2 15.10).
    bytes: bool,
}

/// #VMEXITs by exit code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExitCounts(std::collections::BTreeMap<u64, u64>);

impl ExitCounts {
    /// Counts one.
    pub(crate) fn note(&mut self, code: u64) {
        *self.0.entry(code).or_default() += 1;
    }

    /// The codes that occurred, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (ExitCode, u64)> + '_ {
        self.0.iter().map(|(&code, &count)| (ExitCode(code), count))
    }
}
