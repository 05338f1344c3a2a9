//! The SSE floating-point environment: MXCSR's rounding, modes, masks and flags (SDM 1 10.2.3).

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// Rounding mode, encoded as MXCSR.RC, the x87 control word's RC and EVEX's static rounding (SDM 1 table 4-8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub enum Rounding {
    /// To the nearest value, ties to the even one.
    #[default]
    NearestEven,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
    /// Toward zero.
    Zero,
}

impl Rounding {
    /// The mode of a two-bit RC field; higher bits are ignored.
    #[inline]
    pub const fn from_rc(rc: u32) -> Self {
        match rc & 3 {
            0 => Self::NearestEven,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

bitflags! {
    /// The six exceptions, at their bit positions in MXCSR and in the x87 status and control words.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
    pub struct FpFlags: u8 {
        /// Invalid operation.
        const IE = 1;
        /// Denormal operand.
        const DE = 2;
        /// Divide by zero.
        const ZE = 4;
        /// Overflow.
        const OE = 8;
        /// Underflow.
        const UE = 16;
        /// Precision (inexact result).
        const PE = 32;
    }
}

impl FpFlags {
    /// The exceptions that are detected before the result is computed (SDM 1 11.5.1).
    pub const PRE_COMPUTATION: Self = Self::IE.union(Self::DE).union(Self::ZE);
}

/// What an instruction reports to MXCSR once all its elements are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The flags to set in MXCSR, whether or not the instruction faults.
    pub flags: FpFlags,
    /// An unmasked exception: #XM (or #UD with CR4.OSXMMEXCPT clear) is raised, and the destination stays unchanged.
    pub fault: bool,
}

/// The environment of one SSE, AVX or AVX-512 instruction.
///
/// Make one for each instruction, run all elements with it, then ask for the [`outcome`](Self::outcome).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FpEnv {
    /// Rounding mode.
    pub rounding: Rounding,
    /// Denormal operands are zeros.
    pub daz: bool,
    /// Results that underflow are zeros. It counts only while underflow is masked.
    pub ftz: bool,
    /// The masked exceptions. They matter to arithmetic for underflow only: masked, UE needs a result that is tiny *and*
    /// inexact; unmasked, tiny is enough (SDM 1 4.9.1.5).
    pub masks: FpFlags,
    /// The exceptions raised since the environment was made.
    pub flags: FpFlags,
    /// AMD's choices where processors of the two vendors differ: VREDUCEPS under FTZ, VCVTPS2PH of
    /// denormal operands.
    pub amd: bool,
    /// PE need not be reported: it is masked and MXCSR has it already. A hint that saves time.
    pub inexact_known: bool,
}

impl FpEnv {
    /// MXCSR after reset and FNINIT-like initialisation: nearest, no DAZ or FTZ, all exceptions masked.
    pub const MXCSR_DEFAULT: u32 = 0x1f80;

    /// The environment that MXCSR describes, with no flags raised yet.
    #[inline]
    pub const fn from_mxcsr(mxcsr: u32) -> Self {
        Self {
            rounding: Rounding::from_rc(mxcsr >> 13),
            daz: mxcsr & 1 << 6 != 0,
            ftz: mxcsr & 1 << 15 != 0,
            masks: FpFlags::from_bits_truncate((mxcsr >> 7) as u8),
            flags: FpFlags::empty(),
            amd: false,
            inexact_known: mxcsr & 0x1020 == 0x1020,
        }
    }

    /// As [`from_mxcsr`](Self::from_mxcsr) under "suppress all exceptions": everything is masked, and the caller drops the flags. A
    /// `rounding` replaces MXCSR.RC (EVEX.b with EVEX.L'L, SDM 2A 2.7.8).
    #[inline]
    pub const fn suppressing(mxcsr: u32, rounding: Option<Rounding>) -> Self {
        let mut env = Self::from_mxcsr(mxcsr);
        if let Some(rounding) = rounding {
            env.rounding = rounding;
        }
        env.masks = FpFlags::all();
        env.inexact_known = true;
        env
    }

    /// Flags and fault of the whole instruction. An unmasked IE, DE or ZE of any element keeps the OE, UE and PE of all
    /// elements from being reported (SDM 1 11.5.3).
    #[inline]
    pub fn outcome(&self) -> Outcome {
        let pre = self.flags & FpFlags::PRE_COMPUTATION;
        let flags = if self.masks.contains(pre) { self.flags } else { pre };
        Outcome { flags, fault: !self.masks.contains(flags) }
    }

    #[inline]
    pub(crate) fn raise(&mut self, flags: FpFlags) {
        self.flags |= flags;
    }
}
