//! VMX: Intel's virtual-machine extensions (SDM 3C chapters 24 to 33).
//!
//! - [`vmcs`]: the fields; [`controls`]: the controls; [`capability`]: the MSRs that tell software of them.
//! - [`instructions`]: VMXON to VMFUNC. [`entry`] enters a guest after [`entry_checks`], [`exit`] leaves it.
//! - [`hooks`]: what a guest's instructions and events ask; [`ept`]: its memory; [`apicv`] and [`posted`]: its interrupts.

pub mod apicv;
pub mod capability;
pub mod controls;
pub mod entry;
pub mod entry_checks;
pub mod ept;
pub mod events;
pub mod exit;
pub mod exit_info;
pub mod hooks;
pub mod inspect;
pub mod instructions;
mod msr_lists;
mod posted;
pub mod reason;
mod state;
mod timer;
pub mod vmcs;

use crate::state::Activity;
use exit::Exit;
use serde::{Deserialize, Serialize};
use vmcs::Vmcs;

/// The processor's VMX state.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Vmx {
    /// In VMX operation: between VMXON and VMXOFF.
    pub on: bool,
    /// The VMXON region.
    pub region: u64,
    /// The current-VMCS pointer.
    pub current: Option<u64>,
    /// The current VMCS.
    pub vmcs: Vmcs,
    /// Whether the processor was in IA-32e mode before the last VM entry.
    pub(crate) entered_long: bool,
    /// The exit that a hook has noted.
    pub(crate) exit: Exit,
    /// A trap-like exit (APIC write, EOI, TPR below threshold) waits for the end of the instruction.
    pub(crate) trap_exit: Option<Exit>,
    /// A start-up IPI has come for a guest in the wait-for-SIPI state.
    pub(crate) sipi: Option<u8>,
    /// The activity state at the beginning of the last boundary.
    pub(crate) activity_before: Activity,
    /// Virtual-NMI blocking.
    pub(crate) virtual_nmi_blocked: bool,
    /// The instruction (count) in which IRET ended the blocking of NMIs.
    pub(crate) iret_unblocked: u64,
    /// With the monitor trap flag: the instruction count at VM entry; an exit is pending once it has changed.
    pub(crate) mtf_from: Option<u64>,
    /// The virtual time at which the VMX-preemption timer reaches zero, if it is active.
    pub(crate) timer_deadline: Option<u64>,
    /// PAUSE-loop exiting: the TSC at the first and at the last PAUSE of a loop.
    pub(crate) pause_loop: (u64, u64),
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
