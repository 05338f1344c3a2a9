//! The instructions, by family. Each family's `rows` adds its rows to the table.

mod alu;
mod bits;
mod branch;
mod cache;
mod control;
mod cpuid;
mod far;
mod io;
mod misc;
mod monitor;
mod mov;
mod msr;
mod muldiv;
pub mod operand;
mod pkey;
mod random;
mod shift;
pub mod simd;
mod stack;
mod string;
mod tsc;
mod xsave;

use crate::row::Rows;

/// Adds every family's rows.
pub fn rows(rows: &mut Rows) {
    alu::rows(rows);
    bits::rows(rows);
    branch::rows(rows);
    cache::rows(rows);
    control::rows(rows);
    cpuid::rows(rows);
    far::rows(rows);
    io::rows(rows);
    misc::rows(rows);
    monitor::rows(rows);
    mov::rows(rows);
    msr::rows(rows);
    muldiv::rows(rows);
    pkey::rows(rows);
    random::rows(rows);
    shift::rows(rows);
    simd::rows(rows);
    crate::smm::rows(rows);
    stack::rows(rows);
    string::rows(rows);
    tsc::rows(rows);
    crate::x87::rows(rows);
    xsave::rows(rows);
}
