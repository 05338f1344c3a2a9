//! Ring 0 end to end: segmentation, interrupts, tasks, debugging, paging, self-modifying code, modes. Each test cites the
//! section of the manual that it holds the processor to.

#![allow(clippy::type_complexity)] // rows of tables

#[path = "../common/mod.rs"]
mod common;
mod debug;
mod helpers;
mod interrupts;
mod modes;
mod paging;
mod restart;
mod segmentation;
mod smc;
mod strings;
mod tasks;
mod transfers;
mod v8086;

use ringworld_x86::native::NoNative as Native;
