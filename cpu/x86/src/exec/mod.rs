//! The instructions, by family. Each family's `rows` adds its rows to the table.

mod alu;
mod bits;
mod branch;
mod control;
mod cpuid;
mod far;
mod io;
mod misc;
mod mov;
mod msr;
mod muldiv;
pub mod operand;
mod shift;
pub mod simd;
mod stack;
mod string;
mod tsc;

use crate::row::Rows;

/// Adds every family's rows.
pub fn rows(rows: &mut Rows) {
    alu::rows(rows);
    bits::rows(rows);
    branch::rows(rows);
    control::rows(rows);
    far::rows(rows);
    io::rows(rows);
    misc::rows(rows);
    mov::rows(rows);
    muldiv::rows(rows);
    shift::rows(rows);
    simd::rows(rows);
    stack::rows(rows);
    string::rows(rows);
    cpuid::rows(rows);
    msr::rows(rows);
    tsc::rows(rows);
    crate::x87::rows(rows);
}
