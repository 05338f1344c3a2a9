//! Packed shifts and rotations.

use super::block::{self, BlockOp, block_ops, lane_ops};
use super::plumbing;
use super::table::{self, Kind, has_immediate};
use super::vector::Block;
use crate::row::Rows;
use iced_x86::Mnemonic as M;

/// For each: by a count in the low quadword of a register, by an immediate, and by a count for each lane.
macro_rules! shifts {
    ($($by_count:ident $by_immediate:ident $variable:ident: $t:ty, $wide:ty, |$x:ident, $n:ident| $body:expr;)*) => {$(
        pub struct $by_count;
        impl BlockOp for $by_count {
            const COUNT: bool = true;
            const SUPPRESSES: bool = false;
            #[inline(always)]
            fn block(a: Block, b: Block, _: u8) -> Block {
                let mut a: [$t; 16 / size_of::<$t>()] = zerocopy::transmute!(a);
                let $n = b[0];
                for lane in &mut a {
                    let $x = *lane;
                    *lane = $body;
                }
                zerocopy::transmute!(a)
            }
        }
        lane_ops! {
            $by_immediate: $t [UNARY = true], |_a, $x, imm| { let $n = u64::from(imm); $body };
            $variable: $t, |$x, b, _i| { let $n = u64::from(b as $wide); $body };
        }
    )*};
}

shifts! {
    Psllw PsllwImm Psllvw: u16, u16, |x, n| if n < 16 { x << n } else { 0 };
    Pslld PslldImm Psllvd: u32, u32, |x, n| if n < 32 { x << n } else { 0 };
    Psllq PsllqImm Psllvq: u64, u64, |x, n| if n < 64 { x << n } else { 0 };
    Psrlw PsrlwImm Psrlvw: u16, u16, |x, n| if n < 16 { x >> n } else { 0 };
    Psrld PsrldImm Psrlvd: u32, u32, |x, n| if n < 32 { x >> n } else { 0 };
    Psrlq PsrlqImm Psrlvq: u64, u64, |x, n| if n < 64 { x >> n } else { 0 };
    Psraw PsrawImm Psravw: i16, u16, |x, n| x >> n.min(15);
    Psrad PsradImm Psravd: i32, u32, |x, n| x >> n.min(31);
    Psraq PsraqImm Psravq: i64, u64, |x, n| x >> n.min(63);
}

lane_ops! {
    ProldImm: u32 [UNARY = true], |_a, b, imm| b.rotate_left(imm.into());
    ProlqImm: u64 [UNARY = true], |_a, b, imm| b.rotate_left(imm.into());
    PrordImm: u32 [UNARY = true], |_a, b, imm| b.rotate_right(imm.into());
    ProrqImm: u64 [UNARY = true], |_a, b, imm| b.rotate_right(imm.into());
    Prolvd: u32, |a, b, _i| a.rotate_left(b & 31);
    Prolvq: u64, |a, b, _i| a.rotate_left(b as u32 & 63);
    Prorvd: u32, |a, b, _i| a.rotate_right(b & 31);
    Prorvq: u64, |a, b, _i| a.rotate_right(b as u32 & 63);
}

fn wide(b: [u64; 2]) -> u128 {
    u128::from(b[0]) | u128::from(b[1]) << 64
}

fn narrow(x: u128) -> [u64; 2] {
    [x as u64, (x >> 64) as u64]
}

block_ops! {
    Pslldq: u64 [UNARY = true], |_a, b, imm| narrow(if imm < 16 { wide(b) << (8 * imm) } else { 0 });
    Psrldq: u64 [UNARY = true], |_a, b, imm| narrow(if imm < 16 { wide(b) >> (8 * imm) } else { 0 });
}

/// The forms with a count in a register or memory, and those with an immediate.
fn shift<C: BlockOp, I: BlockOp>(rows: &mut Rows, mnemonics: &[M]) {
    table::block_if::<C>(rows, mnemonics, |code| !has_immediate(code));
    immediate::<I>(rows, mnemonics);
}

fn immediate<I: BlockOp>(rows: &mut Rows, mnemonics: &[M]) {
    for &mnemonic in mnemonics {
        for &code in table::forms(mnemonic).iter().filter(|&&code| has_immediate(code)) {
            let exec = match Kind::of(code) {
                Kind::Mmx => block::mmx_immediate::<I>,
                Kind::Legacy => block::legacy_immediate::<I>,
                _ => plumbing::exec_of::<block::Whole<I>>(),
            };
            table::add(rows, code, exec, exec);
        }
    }
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    shift::<Psllw, PsllwImm>(rows, &[M::Psllw, M::Vpsllw]);
    shift::<Pslld, PslldImm>(rows, &[M::Pslld, M::Vpslld]);
    shift::<Psllq, PsllqImm>(rows, &[M::Psllq, M::Vpsllq]);
    shift::<Psrlw, PsrlwImm>(rows, &[M::Psrlw, M::Vpsrlw]);
    shift::<Psrld, PsrldImm>(rows, &[M::Psrld, M::Vpsrld]);
    shift::<Psrlq, PsrlqImm>(rows, &[M::Psrlq, M::Vpsrlq]);
    shift::<Psraw, PsrawImm>(rows, &[M::Psraw, M::Vpsraw]);
    shift::<Psrad, PsradImm>(rows, &[M::Psrad, M::Vpsrad]);
    shift::<Psraq, PsraqImm>(rows, &[M::Vpsraq]);
    immediate::<Pslldq>(rows, &[M::Pslldq, M::Vpslldq]);
    immediate::<Psrldq>(rows, &[M::Psrldq, M::Vpsrldq]);
    immediate::<ProldImm>(rows, &[M::Vprold]);
    immediate::<ProlqImm>(rows, &[M::Vprolq]);
    immediate::<PrordImm>(rows, &[M::Vprord]);
    immediate::<ProrqImm>(rows, &[M::Vprorq]);
    table::block::<Psllvw>(rows, &[M::Vpsllvw]);
    table::block::<Psllvd>(rows, &[M::Vpsllvd]);
    table::block::<Psllvq>(rows, &[M::Vpsllvq]);
    table::block::<Psrlvw>(rows, &[M::Vpsrlvw]);
    table::block::<Psrlvd>(rows, &[M::Vpsrlvd]);
    table::block::<Psrlvq>(rows, &[M::Vpsrlvq]);
    table::block::<Psravw>(rows, &[M::Vpsravw]);
    table::block::<Psravd>(rows, &[M::Vpsravd]);
    table::block::<Psravq>(rows, &[M::Vpsravq]);
    table::block::<Prolvd>(rows, &[M::Vprolvd]);
    table::block::<Prolvq>(rows, &[M::Vprolvq]);
    table::block::<Prorvd>(rows, &[M::Vprorvd]);
    table::block::<Prorvq>(rows, &[M::Vprorvq]);
}
