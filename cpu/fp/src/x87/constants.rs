//! FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ.

use super::X87Env;
use super::wide::Wide;
use crate::f80::F80;

/// A constant that an instruction loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constant {
    /// FLD1: 1.
    One,
    /// FLDL2T: log2(10).
    Log2Of10,
    /// FLDL2E: log2(e).
    Log2OfE,
    /// FLDPI: pi.
    Pi,
    /// FLDLG2: log10(2).
    Log10Of2,
    /// FLDLN2: ln(2).
    LnOf2,
    /// FLDZ: +0.
    Zero,
}

impl Constant {
    /// The value, rounded by the rounding control; raises nothing, not even PE (SDM 2A FLD1).
    pub fn load(self, env: &X87Env) -> F80 {
        let value = match self {
            Self::One => return F80::ONE,
            Self::Zero => return F80::ZERO,
            Self::Log2Of10 => Wide::LOG2_10,
            Self::Log2OfE => Wide::LOG2_E,
            Self::Pi => Wide::PI,
            Self::Log10Of2 => Wide::LOG10_2,
            Self::LnOf2 => Wide::LN_2,
        };
        value.round(&mut env.clone(), true)
    }
}
