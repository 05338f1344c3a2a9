//! Tests of the emulator against the silicon it runs on, against itself, and against chaos.
//!
//! [`campaign`] is the differential test: [`generate`] makes cases (one instruction and the whole state around it),
//! [`native`] runs them on the host's CPU, [`emulated`] on ours, and [`compare`] tells what differs.

pub mod campaign;
pub mod case;
pub mod compare;
pub mod emulated;
pub mod engines;
pub mod forms;
pub mod generate;
pub mod native;
pub mod random;
pub mod undefined;
