//! The instructions, by family. Each family's `rows` adds its rows to the table.

mod alu;
pub mod operand;

use crate::row::Rows;

/// Adds every family's rows.
pub fn rows(rows: &mut Rows) {
    alu::rows(rows);
}
