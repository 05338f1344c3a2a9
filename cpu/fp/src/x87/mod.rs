//! x87 arithmetic: rounding and precision control, exceptions with masked and unmasked responses, and condition bit C1
//! (SDM 1 chapter 8).
//!
//! An operation takes an [`X87Env`], made from the control word for one instruction, and collects exceptions and C1 in
//! it. Its result is to be stored if [`X87Env::stores`] says so. Stack faults are the caller's.

mod arith;
mod compare;
mod constants;
mod convert;
mod exponential;
mod remainder;
mod scale;
mod trigonometric;
mod wide;

use crate::f80::{BIAS, EMIN, F80};
use crate::format::{Class, Unpacked};
use crate::round::cut;
use crate::{FpFlags, Rounding};

pub use arith::{fadd, fdiv, fmul, fsqrt, fsub};
pub use compare::{Examined, compare, examine};
pub use constants::Constant;
pub use convert::{
    BCD_INDEFINITE, from_bcd, from_float, from_integer, to_bcd, to_float, to_integer, with_float,
};
pub use exponential::{f2xm1, fyl2x, fyl2xp1};
pub use remainder::{Remainder, fprem, fprem1};
pub use scale::{frndint, fscale, fxtract};
pub use trigonometric::{fcos, fpatan, fptan, fsin, fsincos};

/// What the control word's PC field asks of FADD, FSUB, FMUL, FDIV and FSQRT (SDM 1 8.1.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// 24 bits.
    Single,
    /// 53 bits.
    Double,
    /// 64 bits; also what the reserved encoding 01 gives.
    Extended,
}

impl Precision {
    const fn bits(self) -> u32 {
        match self {
            Self::Single => 24,
            Self::Double => 53,
            Self::Extended => 64,
        }
    }
}

/// The environment of one x87 instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct X87Env {
    /// Rounding control.
    pub rounding: Rounding,
    /// Precision control.
    pub precision: Precision,
    /// The masked exceptions.
    pub masks: FpFlags,
    /// The exceptions raised.
    pub flags: FpFlags,
    /// The result was rounded up in magnitude (SDM 1 8.1.3.3); meaningful if PE was raised, else clear.
    pub c1: bool,
    /// As AMD's processors do: FPREM, FPREM1 and FSCALE respond to unmasked underflow even if the tiny result is the operand
    /// itself (a division by infinity, a scale of zero), which Intel's leave as it is. Measured on Zen 4 and Golden Cove.
    pub amd: bool,
}

impl X87Env {
    /// The environment that a control word describes, with no exceptions yet.
    #[inline]
    pub const fn from_control(fcw: u16) -> Self {
        Self {
            rounding: Rounding::from_rc(fcw as u32 >> 10),
            precision: match fcw >> 8 & 3 {
                0 => Precision::Single,
                2 => Precision::Double,
                _ => Precision::Extended,
            },
            masks: FpFlags::from_bits_truncate(fcw as u8),
            flags: FpFlags::empty(),
            c1: false,
            amd: false,
        }
    }

    /// Whether the result is stored: an unmasked IE, DE or ZE leaves the destination and the stack as they were (SDM 1 8.5).
    #[inline]
    pub fn stores(&self) -> bool {
        self.masks.contains(self.flags & FpFlags::PRE_COMPUTATION)
    }

    /// As [`stores`](Self::stores) for a destination in memory, which an unmasked overflow or underflow leaves alone, too
    /// (SDM 1 8.5.4, 8.5.5).
    #[inline]
    pub fn stores_to_memory(&self) -> bool {
        self.masks.contains(self.flags & !FpFlags::PE)
    }

    #[inline]
    pub(crate) fn raise(&mut self, flags: FpFlags) {
        self.flags |= flags;
    }

    pub(crate) fn invalid(&mut self) -> F80 {
        self.raise(FpFlags::IE);
        F80::INDEFINITE
    }

    pub(crate) fn denormal(&mut self, any: bool) {
        if any {
            self.raise(FpFlags::DE);
        }
    }
}

/// The exponent adjustment of an unmasked overflow or underflow (SDM 1 8.5.4).
const BIAS_ADJUST: i32 = 24576;

/// The operands of a two-operand instruction taken apart, or the result if one is a NaN or unsupported. Of two NaNs the one
/// with the larger significand wins (SDM 1 table 4-7).
fn unpack2(env: &mut X87Env, a: F80, b: F80) -> Result<(Unpacked, Unpacked), F80> {
    let (Some(ua), Some(ub)) = (a.unpack(), b.unpack()) else {
        return Err(env.invalid());
    };
    if !ua.is_nan() && !ub.is_nan() {
        return Ok((ua, ub));
    }
    if ua.is_snan() || ub.is_snan() {
        env.raise(FpFlags::IE);
    }
    let first = match (ua.class, ub.class) {
        _ if !ub.is_nan() => true,
        _ if !ua.is_nan() => false,
        (Class::QNan, Class::SNan) => true,
        (Class::SNan, Class::QNan) => false,
        _ if a.sig != b.sig => a.sig > b.sig,
        _ => !a.sign(),
    };
    Err(if first { a.quiet() } else { b.quiet() })
}

/// As [`unpack2`] for one operand.
fn unpack1(env: &mut X87Env, a: F80) -> Result<Unpacked, F80> {
    let Some(u) = a.unpack() else {
        return Err(env.invalid());
    };
    if !u.is_nan() {
        return Ok(u);
    }
    if u.is_snan() {
        env.raise(FpFlags::IE);
    }
    Err(a.quiet())
}

/// Rounds `sig * 2^(exp - 127)`, bit 127 of `sig` set and bit 0 sticky, to `bits` significant bits, and raises OE, UE and PE;
/// nothing if an unmasked exception has already ended the operation.
fn round_pack(env: &mut X87Env, sign: bool, exp: i32, sig: u128, bits: u32) -> F80 {
    if !env.stores() {
        return F80::ZERO;
    }
    let drop = 128 - bits;
    let pack = |exp: i32, kept: u128| {
        let carry = (kept >> bits) as i32;
        let sig = ((kept >> carry) as u64) << (64 - bits);
        F80 { sig, sign_exp: (exp + carry + BIAS) as u16 }.with_sign(sign)
    };
    let unbounded = cut(sign, sig, drop, env.rounding);
    let rounded_exp = exp + (unbounded.kept >> bits) as i32;
    let overflow = rounded_exp > BIAS;
    let tiny = rounded_exp < EMIN;
    if overflow && env.masks.contains(FpFlags::OE) {
        env.raise(FpFlags::OE | FpFlags::PE);
        let to_inf = match env.rounding {
            Rounding::NearestEven => true,
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
        env.c1 = to_inf;
        let largest = F80 { sig: u64::MAX << (64 - bits), sign_exp: 0x7ffe };
        return if to_inf { F80::infinity(sign) } else { largest.with_sign(sign) };
    }
    if exp < EMIN && (!tiny || env.masks.contains(FpFlags::UE)) {
        let denormal = cut(sign, sig, drop.saturating_add((EMIN - exp) as u32), env.rounding);
        if denormal.inexact {
            env.raise(if tiny { FpFlags::UE | FpFlags::PE } else { FpFlags::PE });
            env.c1 = denormal.up;
        }
        let sig = (denormal.kept as u64) << (64 - bits);
        return F80 { sig, sign_exp: (sig >> 63) as u16 }.with_sign(sign);
    }
    if unbounded.inexact {
        env.raise(FpFlags::PE);
        env.c1 = unbounded.up;
    }
    // Unmasked over- and underflow deliver the value with its exponent brought into range. FSCALE can exceed even that
    // ("massive" overflow and underflow, SDM 1 8.5.4, 8.5.5).
    if overflow {
        env.raise(FpFlags::OE);
        if rounded_exp - BIAS_ADJUST <= BIAS {
            return pack(exp - BIAS_ADJUST, unbounded.kept);
        }
        env.raise(FpFlags::PE);
        env.c1 = true;
        F80::infinity(sign)
    } else if tiny {
        env.raise(FpFlags::UE);
        if rounded_exp + BIAS_ADJUST >= EMIN {
            return pack(exp + BIAS_ADJUST, unbounded.kept);
        }
        env.raise(FpFlags::PE);
        env.c1 = false;
        F80::zero(sign)
    } else {
        pack(exp, unbounded.kept)
    }
}

/// As [`round_pack`] for a nonzero `sig` that is not normalised.
fn normalize_round_pack(env: &mut X87Env, sign: bool, exp: i32, sig: u128, bits: u32) -> F80 {
    let shift = sig.leading_zeros();
    round_pack(env, sign, exp - shift as i32, sig << shift, bits)
}
