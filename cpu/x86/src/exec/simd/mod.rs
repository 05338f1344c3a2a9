//! Vector instructions: MMX, SSE, AVX and AVX-512.
//!
//! An operation is written once, as a function on a 128-bit block ([`block`]) or on whole vectors ([`plumbing`]), and named once
//! in its family's `rows` with its mnemonics ([`table`]): all encodings of these become rows. The plumbing does operands, masks,
//! broadcasts and exceptions for all of them.
#![allow(clippy::useless_transmute, reason = "one macro body serves all element types, also the block's own")]

mod bf16;
mod block;
mod convert;
mod crypto;
mod evex_int;
mod float;
mod float_arith;
mod float_compare;
mod form;
mod gather;
mod int_arith;
mod mask;
mod mmx;
mod moves;
mod permute;
mod plumbing;
mod shift;
mod shuffle;
mod sse4a;
mod string;
mod table;
mod vector;

#[cfg(test)]
mod tests;

use crate::row::Rows;

/// Adds the rows of all vector families.
pub fn rows(rows: &mut Rows) {
    moves::rows(rows);
    int_arith::rows(rows);
    shift::rows(rows);
    shuffle::rows(rows);
    float_arith::rows(rows);
    float_compare::rows(rows);
    convert::rows(rows);
    crypto::rows(rows);
    string::rows(rows);
    permute::rows(rows);
    gather::rows(rows);
    mask::rows(rows);
    evex_int::rows(rows);
    bf16::rows(rows);
    mmx::rows(rows);
    sse4a::rows(rows);
}
