//! Small hypervisors, assembled when they are asked for, that show and measure what virtualisation costs.
//!
//! [`hypervisor`] uses VMX or SVM: it enters a 64-bit guest with a second stage of page tables, and the guest does one thing
//! after another that leaves it. [`ring1`] has neither: it runs a 32-bit kernel in ring 1 and emulates what traps; what does
//! not trap, and shows the kernel that it is not in ring 0, is listed.
//!
//! A program tells its state by writing to the debug-exit port: number 2n begins the measured part of row n, 2n + 1 ends it;
//! [`FAILED`] says that the guest saw something that it should not have seen.

mod guest;
mod handlers;
mod image;
mod ring1;
mod ring1_guest;
mod svm;
mod vmx;

use crate::BootFile;
pub use ring1_guest::{Probe, probes};
use ringworld_core::GuestPhys;

/// A program wrote this to the debug-exit port: it failed.
pub const FAILED: u8 = 0x7f;
/// The port.
const EXIT_PORT: i8 = 0xf4_u8 as i8;
/// How often each row is repeated before it is measured.
const WARM_UP: i32 = 200;

/// Whose virtualisation extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// Intel's VMX.
    Vmx,
    /// AMD's SVM.
    Svm,
}

/// A program and what it measures.
#[derive(Debug)]
pub struct Program {
    /// The kernel to boot.
    pub kernel: BootFile,
    /// What its rows are about.
    pub rows: Vec<&'static str>,
}

/// A hypervisor that measures each row over `count` repetitions.
pub fn hypervisor(extension: Extension, count: u32) -> Program {
    let (kernel, rows) = match extension {
        Extension::Vmx => vmx::kernel(count),
        Extension::Svm => svm::kernel(count),
    };
    Program { kernel, rows }
}

/// The hypervisor without hardware's help.
pub fn ring1(count: u32) -> Program {
    let (kernel, rows) = ring1::kernel(count);
    Program { kernel, rows }
}

/// A probe that raised a fault which the hypervisor cannot emulate has this result.
pub const FAULTED: u32 = ring1_guest::FAULTED as u32;
/// Where [`ring1`]'s hypervisor counts how often it was entered, as 32 bits.
pub const TRAPS: GuestPhys = GuestPhys(ring1_guest::TRAPS as u64);

/// Where the results of a probe lie once row 0 has begun, 32 bits each: in ring 0 and in ring 1. After the result comes how
/// often the hypervisor was entered.
pub fn probe_results(number: usize) -> [GuestPhys; 2] {
    [ring1_guest::RESULTS_NATIVE, ring1_guest::RESULTS_RING1]
        .map(|base| GuestPhys(u64::from(base) + 8 * number as u64))
}
