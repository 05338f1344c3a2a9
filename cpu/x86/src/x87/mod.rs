//! The x87 floating-point unit.

use serde::{Deserialize, Serialize};

/// x87 state; also the MMX registers, which are the significands of the physical registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct X87 {
    /// Physical registers R0–R7: significand (also MM0–MM7).
    pub significand: [u64; 8],
    /// Physical registers R0–R7: sign and exponent.
    pub exponent: [u16; 8],
    /// Control word.
    pub control: u16,
    /// Status word; TOP in bits 11–13.
    pub status: u16,
    /// Bit n is set if physical register Rn is not empty (the abridged tag word of FXSAVE).
    pub valid: u8,
    /// Last instruction's opcode (11 bits).
    pub fop: u16,
    /// Last instruction pointer.
    pub fip: u64,
    /// Last data pointer.
    pub fdp: u64,
    /// Selector of the last instruction pointer.
    pub fcs: u16,
    /// Selector of the last data pointer.
    pub fds: u16,
}
