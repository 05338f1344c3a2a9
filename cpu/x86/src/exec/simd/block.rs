//! Operations on 128-bit blocks: one function serves MMX, SSE, and each block of the VEX and EVEX forms.

use super::mmx;
use super::plumbing::{Operate, Operation, Ops, load_aligned};
use super::vector::Block;
use crate::{Cpu, Insn, Stop};

/// An operation that treats each 128 bits of its sources alike.
pub trait BlockOp {
    /// Bytes of the destination's element, where it is not the memory operand's.
    const ELEMENT: usize = 0;
    /// See [`Operation::elements`].
    const SOURCE: usize = 0;
    /// Works on the low 64 bits alone as MMX forms want it.
    const MMX: bool = true;
    /// Only the second source counts.
    const UNARY: bool = false;
    /// See [`Operation::no_suppression`].
    const SUPPRESSES: bool = true;
    /// The second source is one block (or less) for all blocks of the first: a shift count.
    const COUNT: bool = false;
    /// Bits of the immediate that each block uses up; 0 if all use the same ones.
    const IMM_STEP: usize = 0;
    /// AMD does not want the operand of the legacy form to be aligned.
    const SHA: bool = false;
    /// The result of one block.
    fn block(a: Block, b: Block, imm: u8) -> Block;
}

/// The VEX and EVEX forms of a block operation.
pub struct Whole<O>(O);

impl<O: BlockOp> Operate for Whole<O> {
    const OPERATION: Operation = {
        let operation = if O::UNARY { Operation::unary(whole::<O>) } else { Operation::binary(whole::<O>) };
        let operation = operation.elements(O::ELEMENT, O::SOURCE);
        if O::SUPPRESSES { operation } else { operation.no_suppression() }
    };
}

fn whole<O: BlockOp>(o: &mut Ops) {
    for n in (0..(o.bytes / 8).min(8)).step_by(2) {
        let m = if O::COUNT { 0 } else { n };
        let imm = o.imm >> (O::IMM_STEP * n / 2 & 7);
        let block = O::block([o.a[n], o.a[n + 1]], [o.b[m], o.b[m + 1]], imm);
        o.d[n] = block[0];
        o.d[n + 1] = block[1];
    }
}

/// The legacy SSE form with registers.
pub fn legacy_register<O: BlockOp>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let source = &cpu.zmm[usize::from(i.r[1] & 31)];
    let b = [source[0], source[1]];
    legacy::<O>(cpu, i, b);
    Ok(())
}

/// The legacy SSE form with a memory operand.
pub fn legacy_memory<O: BlockOp>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let b = if O::SHA { load_sha(cpu, i)? } else { load_aligned(cpu, i)? };
    legacy::<O>(cpu, i, b);
    Ok(())
}

/// The operand of the SHA extensions, which Intel wants to be aligned (SDM 2B SHA1RNDS4, exception type 4); AMD's silicon does
/// not.
pub fn load_sha(cpu: &mut Cpu, i: &Insn) -> Result<Block, Stop> {
    if cpu.model.is_amd() { cpu.load(i) } else { load_aligned(cpu, i) }
}

#[inline(always)]
fn legacy<O: BlockOp>(cpu: &mut Cpu, i: &Insn, b: Block) {
    let destination = &mut cpu.zmm[usize::from(i.r[0] & 31)];
    let block = O::block([destination[0], destination[1]], b, i.imm as u8);
    destination[0] = block[0];
    destination[1] = block[1];
}

/// The legacy SSE form without second source: `D = f(D, imm)`.
pub fn legacy_immediate<O: BlockOp>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let destination = &mut cpu.zmm[usize::from(i.r[0] & 31)];
    let block = [destination[0], destination[1]];
    let block = O::block(block, block, i.imm as u8);
    destination[0] = block[0];
    destination[1] = block[1];
    Ok(())
}

/// The MMX form without second source.
pub fn mmx_immediate<O: BlockOp>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    mmx::unary(cpu, i.r[0], |a| O::block([a, 0], [a, 0], i.imm as u8)[0])
}

/// The MMX form.
pub fn mmx<O: BlockOp>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    mmx::binary(cpu, i, |a, b, imm| O::block([a, 0], [b, 0], imm)[0])
}

/// Defines block operations by what they do to each lane: `Name: type, |a, b, imm| result;`. After the type come constants of
/// [`BlockOp`].
macro_rules! lane_ops {
    ($($name:ident: $t:ty $([$($const:ident = $value:expr),*])?, |$a:ident, $b:ident, $imm:ident| $body:expr;)*) => {$(
        pub struct $name;
        impl BlockOp for $name {
            $($(const $const: super::block::block_const!($const) = $value;)*)?
            #[inline(always)]
            fn block(a: Block, b: Block, $imm: u8) -> Block {
                let a: [$t; 16 / size_of::<$t>()] = zerocopy::transmute!(a);
                let b: [$t; 16 / size_of::<$t>()] = zerocopy::transmute!(b);
                let mut d = a;
                for n in 0..d.len() {
                    let ($a, $b) = (a[n], b[n]);
                    d[n] = $body;
                }
                zerocopy::transmute!(d)
            }
        }
    )*};
}

/// Defines block operations on whole blocks, seen as arrays of `type`: `Name: type, |a, b, imm| result;`, the result an
/// array of any type.
macro_rules! block_ops {
    ($($name:ident: $t:ty $([$($const:ident = $value:expr),*])?, |$a:ident, $b:ident, $imm:ident| $body:expr;)*) => {$(
        pub struct $name;
        impl BlockOp for $name {
            $($(const $const: super::block::block_const!($const) = $value;)*)?
            #[inline(always)]
            fn block(a: Block, b: Block, $imm: u8) -> Block {
                let $a: [$t; 16 / size_of::<$t>()] = zerocopy::transmute!(a);
                let $b: [$t; 16 / size_of::<$t>()] = zerocopy::transmute!(b);
                zerocopy::transmute!($body)
            }
        }
    )*};
}

/// The type of a constant of [`BlockOp`].
macro_rules! block_const {
    (ELEMENT) => {
        usize
    };
    (SOURCE) => {
        usize
    };
    (MMX) => {
        bool
    };
    (UNARY) => {
        bool
    };
    (SUPPRESSES) => {
        bool
    };
    (COUNT) => {
        bool
    };
    (IMM_STEP) => {
        usize
    };
    (SHA) => {
        bool
    };
}
pub(super) use {block_const, block_ops, lane_ops};
