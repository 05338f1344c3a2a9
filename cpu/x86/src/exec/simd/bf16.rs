//! BF16: conversions and dot products. Rounding is to nearest, denormals are zeros on the way in and out, nothing is reported
//! (SDM 2C VCVTNEPS2BF16, VDPBF16PS).

use super::plumbing::{Operate, Operation, Ops, operations};
use super::table::{self, Kind};
use super::vector::Lane;
use crate::row::Rows;
use iced_x86::Mnemonic as M;
use ringworld_fp::{self as fp, FmaNegate, FpEnv};

/// Everything masked, DAZ and FTZ.
const ENVIRONMENT: FpEnv = FpEnv::from_mxcsr(0x9fc0);

fn to_bf16(x: u32) -> u16 {
    let magnitude = x & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        (x >> 16) as u16 | 0x40
    } else if magnitude < 0x0080_0000 {
        (x >> 16) as u16 & 0x8000
    } else {
        // To nearest, ties to even; the largest values carry into infinity.
        ((x + 0x7fff + (x >> 16 & 1)) >> 16) as u16
    }
}

operations! {
    /// VCVTNEPS2BF16.
    Convert = Operation::unary(|o| {
        for n in 0..o.bytes.min(64) / 4 {
            u16::lanes_mut(&mut o.d)[n] = to_bf16(u32::lanes(&o.b)[n]);
        }
    }).elements(2, 4);
    /// VCVTNE2PS2BF16: `b` goes to the lower half, `a` to the upper one.
    ConvertTwo = Operation::binary(|o| {
        let half = o.bytes.min(64) / 4;
        for n in 0..half {
            u16::lanes_mut(&mut o.d)[n] = to_bf16(u32::lanes(&o.b)[n]);
            u16::lanes_mut(&mut o.d)[half + n] = to_bf16(u32::lanes(&o.a)[n]);
        }
    }).elements(2, 2).no_suppression();
    /// VDPBF16PS.
    Dot = Operation::ternary(dot);
}

fn dot(o: &mut Ops) {
    let mut env = ENVIRONMENT;
    for n in (0..o.lanes.min(16)).filter(|n| o.mask >> n & 1 != 0) {
        let mut sum = u32::lanes(&o.d)[n];
        for m in [2 * n + 1, 2 * n] {
            let wide = |v| u32::from(u16::lanes(v)[m]) << 16;
            sum = fp::fma(&mut env, wide(&o.a), wide(&o.b), sum, FmaNegate::default());
        }
        u32::lanes_mut(&mut o.d)[n] = sum;
    }
}

/// Adds this family. (VEX forms of VCVTNEPS2BF16 belong to AVX-NE-CONVERT.)
pub fn rows(rows: &mut Rows) {
    for &code in table::forms(M::Vcvtneps2bf16).iter().filter(|&&code| Kind::of(code) == Kind::Evex) {
        let exec = super::plumbing::exec_of::<Convert>();
        table::add(rows, code, exec, exec);
    }
    table::operation::<ConvertTwo>(rows, &[M::Vcvtne2ps2bf16]);
    table::operation::<Dot>(rows, &[M::Vdpbf16ps]);
}
