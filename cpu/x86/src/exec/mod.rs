//! The instructions, by family. Each family's `rows` adds its rows to the table.

mod alu;
mod bits;
mod cpuid;
mod mov;
mod msr;
mod muldiv;
pub mod operand;
mod shift;
mod tsc;
pub mod simd;

use crate::row::Rows;

/// Adds every family's rows.
pub fn rows(rows: &mut Rows) {
    alu::rows(rows);
    mov::rows(rows);
    shift::rows(rows);
    muldiv::rows(rows);
    bits::rows(rows);
    cpuid::rows(rows);
    msr::rows(rows);
    tsc::rows(rows);
    simd::rows(rows);
}
