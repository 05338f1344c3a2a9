//! The instructions, by family. Each family's `rows` adds its rows to the table.

mod alu;
mod bits;
mod mov;
mod muldiv;
pub mod operand;
mod shift;

use crate::row::Rows;

/// Adds every family's rows.
pub fn rows(rows: &mut Rows) {
    alu::rows(rows);
    mov::rows(rows);
    shift::rows(rows);
    muldiv::rows(rows);
    bits::rows(rows);
}
