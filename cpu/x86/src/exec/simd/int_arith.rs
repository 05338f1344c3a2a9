//! Packed integer arithmetic, logic and comparison.

use super::block::{BlockOp, block_ops, lane_ops};
use super::table::{self, Kind};
use super::vector::Block;
use crate::row::Rows;
use iced_x86::Mnemonic as M;

lane_ops! {
    Paddb: u8, |a, b, _i| a.wrapping_add(b);
    Paddw: u16, |a, b, _i| a.wrapping_add(b);
    Paddd: u32, |a, b, _i| a.wrapping_add(b);
    Paddq: u64, |a, b, _i| a.wrapping_add(b);
    Psubb: u8, |a, b, _i| a.wrapping_sub(b);
    Psubw: u16, |a, b, _i| a.wrapping_sub(b);
    Psubd: u32, |a, b, _i| a.wrapping_sub(b);
    Psubq: u64, |a, b, _i| a.wrapping_sub(b);
    Paddsb: i8, |a, b, _i| a.saturating_add(b);
    Paddsw: i16, |a, b, _i| a.saturating_add(b);
    Paddusb: u8, |a, b, _i| a.saturating_add(b);
    Paddusw: u16, |a, b, _i| a.saturating_add(b);
    Psubsb: i8, |a, b, _i| a.saturating_sub(b);
    Psubsw: i16, |a, b, _i| a.saturating_sub(b);
    Psubusb: u8, |a, b, _i| a.saturating_sub(b);
    Psubusw: u16, |a, b, _i| a.saturating_sub(b);
    Pminub: u8, |a, b, _i| a.min(b);
    Pminuw: u16, |a, b, _i| a.min(b);
    Pminud: u32, |a, b, _i| a.min(b);
    Pminuq: u64, |a, b, _i| a.min(b);
    Pminsb: i8, |a, b, _i| a.min(b);
    Pminsw: i16, |a, b, _i| a.min(b);
    Pminsd: i32, |a, b, _i| a.min(b);
    Pminsq: i64, |a, b, _i| a.min(b);
    Pmaxub: u8, |a, b, _i| a.max(b);
    Pmaxuw: u16, |a, b, _i| a.max(b);
    Pmaxud: u32, |a, b, _i| a.max(b);
    Pmaxuq: u64, |a, b, _i| a.max(b);
    Pmaxsb: i8, |a, b, _i| a.max(b);
    Pmaxsw: i16, |a, b, _i| a.max(b);
    Pmaxsd: i32, |a, b, _i| a.max(b);
    Pmaxsq: i64, |a, b, _i| a.max(b);
    Pavgb: u8, |a, b, _i| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    Pavgw: u16, |a, b, _i| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16;
    Pabsb: i8 [UNARY = true], |_a, b, _i| b.wrapping_abs();
    Pabsw: i16 [UNARY = true], |_a, b, _i| b.wrapping_abs();
    Pabsd: i32 [UNARY = true], |_a, b, _i| b.wrapping_abs();
    Pabsq: i64 [UNARY = true], |_a, b, _i| b.wrapping_abs();
    Psignb: i8, |a, b, _i| a.wrapping_mul(b.signum());
    Psignw: i16, |a, b, _i| a.wrapping_mul(b.signum());
    Psignd: i32, |a, b, _i| a.wrapping_mul(b.signum());
    Pmullw: u16, |a, b, _i| a.wrapping_mul(b);
    Pmulld: u32, |a, b, _i| a.wrapping_mul(b);
    Pmullq: u64, |a, b, _i| a.wrapping_mul(b);
    Pmulhw: i16, |a, b, _i| (i32::from(a) * i32::from(b) >> 16) as i16;
    Pmulhuw: u16, |a, b, _i| (u32::from(a) * u32::from(b) >> 16) as u16;
    Pmulhrsw: i16, |a, b, _i| ((i32::from(a) * i32::from(b) >> 14) + 1 >> 1) as i16;
    Pmuludq: u64, |a, b, _i| (a & 0xffff_ffff) * (b & 0xffff_ffff);
    Pmuldq: i64, |a, b, _i| i64::from(a as i32) * i64::from(b as i32);
    Pcmpeqb: u8, |a, b, _i| if a == b { 0xff } else { 0 };
    Pcmpeqw: u16, |a, b, _i| if a == b { 0xffff } else { 0 };
    Pcmpeqd: u32, |a, b, _i| if a == b { u32::MAX } else { 0 };
    Pcmpeqq: u64, |a, b, _i| if a == b { u64::MAX } else { 0 };
    Pcmpgtb: i8, |a, b, _i| if a > b { -1 } else { 0 };
    Pcmpgtw: i16, |a, b, _i| if a > b { -1 } else { 0 };
    Pcmpgtd: i32, |a, b, _i| if a > b { -1 } else { 0 };
    Pcmpgtq: i64, |a, b, _i| if a > b { -1 } else { 0 };
    Pand: u64, |a, b, _i| a & b;
    Pandn: u64, |a, b, _i| !a & b;
    Por: u64, |a, b, _i| a | b;
    Pxor: u64, |a, b, _i| a ^ b;
}

/// Sums of adjacent products.
macro_rules! madd {
    ($a:ident, $b:ident, $out:ty, $n:expr, $add:ident) => {{
        let mut d = [0 as $out; $n];
        for n in 0..$n {
            let product = |m: usize| (<$out>::from($a[m]) as $out).wrapping_mul(<$out>::from($b[m]));
            d[n] = product(2 * n).$add(product(2 * n + 1));
        }
        d
    }};
}

block_ops! {
    Pmaddwd: i16 [ELEMENT = 4, SUPPRESSES = false], |a, b, _i| madd!(a, b, i32, 4, wrapping_add);
    Pmaddubsw: u8 [ELEMENT = 2, SUPPRESSES = false], |a, b, _i| {
        let b = b.map(|x| x as i8);
        let a = a.map(i16::from);
        madd!(a, b, i16, 8, saturating_add)
    };
    Psadbw: u8 [ELEMENT = 8], |a, b, _i| {
        let sum = |from: usize| (from..from + 8).map(|n| u64::from(a[n].abs_diff(b[n]))).sum::<u64>();
        [sum(0), sum(8)]
    };
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    use table::block;
    block::<Paddb>(rows, &[M::Paddb, M::Vpaddb]);
    block::<Paddw>(rows, &[M::Paddw, M::Vpaddw]);
    block::<Paddd>(rows, &[M::Paddd, M::Vpaddd]);
    block::<Paddq>(rows, &[M::Paddq, M::Vpaddq]);
    block::<Psubb>(rows, &[M::Psubb, M::Vpsubb]);
    block::<Psubw>(rows, &[M::Psubw, M::Vpsubw]);
    block::<Psubd>(rows, &[M::Psubd, M::Vpsubd]);
    block::<Psubq>(rows, &[M::Psubq, M::Vpsubq]);
    block::<Paddsb>(rows, &[M::Paddsb, M::Vpaddsb]);
    block::<Paddsw>(rows, &[M::Paddsw, M::Vpaddsw]);
    block::<Paddusb>(rows, &[M::Paddusb, M::Vpaddusb]);
    block::<Paddusw>(rows, &[M::Paddusw, M::Vpaddusw]);
    block::<Psubsb>(rows, &[M::Psubsb, M::Vpsubsb]);
    block::<Psubsw>(rows, &[M::Psubsw, M::Vpsubsw]);
    block::<Psubusb>(rows, &[M::Psubusb, M::Vpsubusb]);
    block::<Psubusw>(rows, &[M::Psubusw, M::Vpsubusw]);
    block::<Pminub>(rows, &[M::Pminub, M::Vpminub]);
    block::<Pminuw>(rows, &[M::Pminuw, M::Vpminuw]);
    block::<Pminud>(rows, &[M::Pminud, M::Vpminud]);
    block::<Pminuq>(rows, &[M::Vpminuq]);
    block::<Pminsb>(rows, &[M::Pminsb, M::Vpminsb]);
    block::<Pminsw>(rows, &[M::Pminsw, M::Vpminsw]);
    block::<Pminsd>(rows, &[M::Pminsd, M::Vpminsd]);
    block::<Pminsq>(rows, &[M::Vpminsq]);
    block::<Pmaxub>(rows, &[M::Pmaxub, M::Vpmaxub]);
    block::<Pmaxuw>(rows, &[M::Pmaxuw, M::Vpmaxuw]);
    block::<Pmaxud>(rows, &[M::Pmaxud, M::Vpmaxud]);
    block::<Pmaxuq>(rows, &[M::Vpmaxuq]);
    block::<Pmaxsb>(rows, &[M::Pmaxsb, M::Vpmaxsb]);
    block::<Pmaxsw>(rows, &[M::Pmaxsw, M::Vpmaxsw]);
    block::<Pmaxsd>(rows, &[M::Pmaxsd, M::Vpmaxsd]);
    block::<Pmaxsq>(rows, &[M::Vpmaxsq]);
    block::<Pavgb>(rows, &[M::Pavgb, M::Vpavgb]);
    block::<Pavgw>(rows, &[M::Pavgw, M::Vpavgw]);
    block::<Pabsb>(rows, &[M::Pabsb, M::Vpabsb]);
    block::<Pabsw>(rows, &[M::Pabsw, M::Vpabsw]);
    block::<Pabsd>(rows, &[M::Pabsd, M::Vpabsd]);
    block::<Pabsq>(rows, &[M::Vpabsq]);
    block::<Psignb>(rows, &[M::Psignb, M::Vpsignb]);
    block::<Psignw>(rows, &[M::Psignw, M::Vpsignw]);
    block::<Psignd>(rows, &[M::Psignd, M::Vpsignd]);
    block::<Pmullw>(rows, &[M::Pmullw, M::Vpmullw]);
    block::<Pmulld>(rows, &[M::Pmulld, M::Vpmulld]);
    block::<Pmullq>(rows, &[M::Vpmullq]);
    block::<Pmulhw>(rows, &[M::Pmulhw, M::Vpmulhw]);
    block::<Pmulhuw>(rows, &[M::Pmulhuw, M::Vpmulhuw]);
    block::<Pmulhrsw>(rows, &[M::Pmulhrsw, M::Vpmulhrsw]);
    block::<Pmuludq>(rows, &[M::Pmuludq, M::Vpmuludq]);
    block::<Pmuldq>(rows, &[M::Pmuldq, M::Vpmuldq]);
    block::<Pmaddwd>(rows, &[M::Pmaddwd, M::Vpmaddwd]);
    block::<Pmaddubsw>(rows, &[M::Pmaddubsw, M::Vpmaddubsw]);
    block::<Psadbw>(rows, &[M::Psadbw, M::Vpsadbw]);
    block::<Pand>(rows, &[M::Pand, M::Vpand, M::Vpandd, M::Vpandq, M::Andps, M::Andpd, M::Vandps, M::Vandpd]);
    block::<Pandn>(
        rows,
        &[M::Pandn, M::Vpandn, M::Vpandnd, M::Vpandnq, M::Andnps, M::Andnpd, M::Vandnps, M::Vandnpd],
    );
    block::<Por>(rows, &[M::Por, M::Vpor, M::Vpord, M::Vporq, M::Orps, M::Orpd, M::Vorps, M::Vorpd]);
    block::<Pxor>(rows, &[M::Pxor, M::Vpxor, M::Vpxord, M::Vpxorq, M::Xorps, M::Xorpd, M::Vxorps, M::Vxorpd]);
    compare::<Pcmpeqb>(rows, &[M::Pcmpeqb, M::Vpcmpeqb]);
    compare::<Pcmpeqw>(rows, &[M::Pcmpeqw, M::Vpcmpeqw]);
    compare::<Pcmpeqd>(rows, &[M::Pcmpeqd, M::Vpcmpeqd]);
    compare::<Pcmpeqq>(rows, &[M::Pcmpeqq, M::Vpcmpeqq]);
    compare::<Pcmpgtb>(rows, &[M::Pcmpgtb, M::Vpcmpgtb]);
    compare::<Pcmpgtw>(rows, &[M::Pcmpgtw, M::Vpcmpgtw]);
    compare::<Pcmpgtd>(rows, &[M::Pcmpgtd, M::Vpcmpgtd]);
    compare::<Pcmpgtq>(rows, &[M::Pcmpgtq, M::Vpcmpgtq]);
}

/// EVEX comparisons write opmask registers: they are not these.
fn compare<O: BlockOp>(rows: &mut Rows, mnemonics: &[M]) {
    table::block_if::<O>(rows, mnemonics, |code| Kind::of(code) != Kind::Evex);
}
