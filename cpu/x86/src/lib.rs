//! The x86-64 processor: state, instruction rows, execution, system state.
//!
//! Start at [`Cpu`] (the state), [`insn::Insn`] (a decoded instruction), [`row`] (the table of instructions) and
//! [`interp::Interpreter`] (the loop).

mod apic;
pub mod control;
pub mod decode;
mod deliver;
mod descriptor;
mod elements;
mod events;
pub mod exec;
pub mod fault;
pub mod flags;
pub mod insn;
pub mod interp;
pub mod lapic;
pub mod mem;
pub mod mode;
pub mod model;
pub mod msr;
pub mod native;
mod nested;
pub mod paging;
mod pmu;
mod reset;
pub mod row;
pub mod segment;
mod silicon;
mod smm;
pub mod snapshot;
pub mod state;
pub mod svm;
mod task;
#[cfg(test)]
mod testing;
mod timers;
pub mod virt;
pub mod vmx;
pub mod watch;
pub mod worlds;
pub mod x87;

pub use fault::Stop;
pub use insn::{Exec, Insn};
pub use silicon::Silicon;
pub use state::{Activity, Cpu};
