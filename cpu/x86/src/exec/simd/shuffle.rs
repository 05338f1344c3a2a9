//! Shuffles, unpacks, packs, blends, inserts and extracts within 128-bit blocks.

use super::block::{BlockOp, block_ops};
use super::mmx;
use super::plumbing::{Operate, Operation, Ops, register, write};
use super::table::{self, Kind};
use super::vector::{Block, Lane, V};
use crate::exec::operand::Int;
use crate::row::Rows;
use crate::{Cpu, Exec, Insn, Stop};
use core::marker::PhantomData;
use iced_x86::Mnemonic as M;

/// Two bits of a shuffle's immediate.
fn two(imm: u8, n: usize) -> usize {
    usize::from(imm >> (2 * n) & 3)
}

/// `[a[from], b[from], a[from + 1], b[from + 1], ...]`.
macro_rules! unpack {
    ($a:ident, $b:ident, $from:expr) => {{
        let mut d = $a;
        for n in 0..d.len() / 2 {
            d[2 * n] = $a[$from + n];
            d[2 * n + 1] = $b[$from + n];
        }
        d
    }};
}

/// `a` then `b`, each element saturated.
macro_rules! pack {
    ($a:ident, $b:ident, $to:ty, $n:expr) => {{
        let mut d = [0 as $to; $n];
        for n in 0..$n / 2 {
            d[n] = saturate($a[n].into(), <$to>::MIN.into(), <$to>::MAX.into()) as $to;
            d[$n / 2 + n] = saturate($b[n].into(), <$to>::MIN.into(), <$to>::MAX.into()) as $to;
        }
        d
    }};
}

fn saturate(x: i64, min: i64, max: i64) -> i64 {
    x.clamp(min, max)
}

/// The sum or difference of adjacent elements, first of `a`, then of `b`.
macro_rules! horizontal {
    ($a:ident, $b:ident, $f:ident) => {{
        let mut d = $a;
        let half = d.len() / 2;
        for n in 0..half {
            d[n] = $a[2 * n].$f($a[2 * n + 1]);
            d[half + n] = $b[2 * n].$f($b[2 * n + 1]);
        }
        d
    }};
}

block_ops! {
    Pshufd: u32 [UNARY = true, SUPPRESSES = false], |_a, b, imm| core::array::from_fn::<u32, 4, _>(|n| b[two(imm, n)]);
    Pshuflw: u16 [UNARY = true, SUPPRESSES = false, MMX = false], |_a, b, imm| {
        core::array::from_fn::<u16, 8, _>(|n| if n < 4 { b[two(imm, n)] } else { b[n] })
    };
    Pshufhw: u16 [UNARY = true, SUPPRESSES = false, MMX = false], |_a, b, imm| {
        core::array::from_fn::<u16, 8, _>(|n| if n < 4 { b[n] } else { b[4 + two(imm, n - 4)] })
    };
    Punpcklbw: u8 [MMX = false, SUPPRESSES = false], |a, b, _i| unpack!(a, b, 0);
    Punpcklwd: u16 [MMX = false, SUPPRESSES = false], |a, b, _i| unpack!(a, b, 0);
    Punpckldq: u32 [MMX = false, SUPPRESSES = false], |a, b, _i| unpack!(a, b, 0);
    Punpcklqdq: u64 [MMX = false, SUPPRESSES = false], |a, b, _i| [a[0], b[0]];
    Punpckhbw: u8 [MMX = false, SUPPRESSES = false], |a, b, _i| unpack!(a, b, 8);
    Punpckhwd: u16 [MMX = false, SUPPRESSES = false], |a, b, _i| unpack!(a, b, 4);
    Punpckhdq: u32 [MMX = false, SUPPRESSES = false], |a, b, _i| unpack!(a, b, 2);
    Punpckhqdq: u64 [MMX = false, SUPPRESSES = false], |a, b, _i| [a[1], b[1]];
    Packsswb: i16 [MMX = false, ELEMENT = 1, SOURCE = 1, SUPPRESSES = false], |a, b, _i| pack!(a, b, i8, 16);
    Packuswb: i16 [MMX = false, ELEMENT = 1, SOURCE = 1, SUPPRESSES = false], |a, b, _i| pack!(a, b, u8, 16);
    Packssdw: i32 [MMX = false, ELEMENT = 2, SOURCE = 2, SUPPRESSES = false], |a, b, _i| pack!(a, b, i16, 8);
    Packusdw: i32 [MMX = false, ELEMENT = 2, SOURCE = 2, SUPPRESSES = false], |a, b, _i| pack!(a, b, u16, 8);
    Pshufb: u8 [MMX = false, SUPPRESSES = false], |a, b, _i| {
        core::array::from_fn::<u8, 16, _>(|n| if b[n] & 0x80 != 0 { 0 } else { a[usize::from(b[n] & 15)] })
    };
    Palignr: u64 [MMX = false, SUPPRESSES = false], |a, b, imm| {
        let wide = |x: [u64; 2]| u128::from(x[0]) | u128::from(x[1]) << 64;
        let shift = 8 * u32::from(imm);
        let low = wide(b).checked_shr(shift).unwrap_or(0);
        let high = if shift < 128 {
            wide(a).checked_shl(128 - shift).unwrap_or(0)
        } else {
            wide(a).checked_shr(shift - 128).unwrap_or(0)
        };
        let d = low | high;
        [d as u64, (d >> 64) as u64]
    };
    Shufps: u32 [SUPPRESSES = false], |a, b, imm| [a[two(imm, 0)], a[two(imm, 1)], b[two(imm, 2)], b[two(imm, 3)]];
    Shufpd: u64 [SUPPRESSES = false, IMM_STEP = 2], |a, b, imm| [a[usize::from(imm & 1)], b[usize::from(imm >> 1 & 1)]];
    PermilpsImm: u32 [UNARY = true, SUPPRESSES = false], |_a, b, imm| {
        core::array::from_fn::<u32, 4, _>(|n| b[two(imm, n)])
    };
    PermilpdImm: u64 [UNARY = true, SUPPRESSES = false, IMM_STEP = 2], |_a, b, imm| {
        [b[usize::from(imm & 1)], b[usize::from(imm >> 1 & 1)]]
    };
    Permilps: u32 [SUPPRESSES = false], |a, b, _i| core::array::from_fn::<u32, 4, _>(|n| a[(b[n] & 3) as usize]);
    Permilpd: u64 [SUPPRESSES = false], |a, b, _i| core::array::from_fn::<u64, 2, _>(|n| a[(b[n] >> 1 & 1) as usize]);
    Movshdup: u32 [UNARY = true, SUPPRESSES = false], |_a, b, _i| [b[1], b[1], b[3], b[3]];
    Movsldup: u32 [UNARY = true, SUPPRESSES = false], |_a, b, _i| [b[0], b[0], b[2], b[2]];
    Phaddw: i16 [MMX = false], |a, b, _i| horizontal!(a, b, wrapping_add);
    Phaddd: i32 [MMX = false], |a, b, _i| horizontal!(a, b, wrapping_add);
    Phaddsw: i16 [MMX = false], |a, b, _i| horizontal!(a, b, saturating_add);
    Phsubw: i16 [MMX = false], |a, b, _i| horizontal!(a, b, wrapping_sub);
    Phsubd: i32 [MMX = false], |a, b, _i| horizontal!(a, b, wrapping_sub);
    Phsubsw: i16 [MMX = false], |a, b, _i| horizontal!(a, b, saturating_sub);
    Pblendw: u16, |a, b, imm| core::array::from_fn::<u16, 8, _>(|n| if imm >> n & 1 != 0 { b[n] } else { a[n] });
    Blendps: u32 [IMM_STEP = 4], |a, b, imm| {
        core::array::from_fn::<u32, 4, _>(|n| if imm >> n & 1 != 0 { b[n] } else { a[n] })
    };
    Blendpd: u64 [IMM_STEP = 2], |a, b, imm| {
        core::array::from_fn::<u64, 2, _>(|n| if imm >> n & 1 != 0 { b[n] } else { a[n] })
    };
    Mpsadbw: u8 [IMM_STEP = 3], |a, b, imm| {
        let (from_a, from_b) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
        core::array::from_fn::<u16, 8, _>(|n| {
            (0..4).map(|m| u16::from(a[from_a + n + m].abs_diff(b[from_b + m]))).sum()
        })
    };
    Phminposuw: u16 [UNARY = true], |_a, b, _i| {
        let mut best = 0;
        for n in 1..8 {
            if b[n] < b[best] {
                best = n;
            }
        }
        [b[best], best as u16, 0, 0, 0, 0, 0, 0]
    };
}

/// MMX unpacks of low halves: memory operands have 32 bits.
fn mmx_low<O: BlockOp>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    mmx::binary_low(cpu, i, |a, b| O::block([a, 0], [b, 0], 0)[0])
}

/// MMX unpacks of high halves: `O` unpacks low ones.
fn mmx_high<O: BlockOp>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    mmx::binary(cpu, i, |a, b, imm| O::block([a >> 32, 0], [b >> 32, 0], imm)[0])
}

/// Packs and horizontal operations: the result of `[a, b]` against nothing.
fn mmx_joined<O: BlockOp>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    mmx::binary(cpu, i, |a, b, imm| O::block([a, b], [0, 0], imm)[0])
}

fn mmx_pshufb(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    mmx::binary(cpu, i, |a, b, imm| Pshufb::block([a, 0], [b & !0x0808_0808_0808_0808, 0], imm)[0])
}

fn mmx_pshufw(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    mmx::binary(cpu, i, |_, b, imm| Pshuflw::block([0, 0], [b, 0], imm)[0])
}

fn mmx_palignr(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    mmx::binary(cpu, i, |a, b, imm| {
        let shift = 8 * u32::from(imm);
        (u128::from(a) << 64 | u128::from(b)).checked_shr(shift).unwrap_or(0) as u64
    })
}

/// BLENDVPS, BLENDVPD, PBLENDVB: the mask is XMM0, or the fourth operand of VEX forms.
fn blendv<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let mask = if i.is_vex() { register(cpu, i, 3) } else { cpu.zmm[0] };
    let (a, b) = two_sources(cpu, i)?;
    let (mask, a, b): ([u8; 64], [u8; 64], [u8; 64]) =
        (zerocopy::transmute!(mask), zerocopy::transmute!(a), zerocopy::transmute!(b));
    let mut d = [0; 64];
    for n in 0..i.vector_length() {
        let sign = mask[n / SIZE * SIZE + SIZE - 1];
        d[n] = if sign & 0x80 != 0 { b[n] } else { a[n] };
    }
    write(cpu, i, &zerocopy::transmute!(d), SIZE, 64);
    Ok(())
}

/// First and last source of a packed form without mask; legacy memory operands are aligned.
pub fn two_sources(cpu: &mut Cpu, i: &Insn) -> Result<(V, V), Stop> {
    let n = usize::from(i.is_vex());
    let b = if !i.has_memory() {
        register(cpu, i, n + 1)
    } else if i.is_vex() {
        super::plumbing::load(cpu, i, i.vector_length())?
    } else {
        let [low, high] = super::plumbing::load_aligned(cpu, i)?;
        [low, high, 0, 0, 0, 0, 0, 0]
    };
    Ok((register(cpu, i, n), b))
}

/// MOVDDUP: 128-bit forms read 64 bits.
struct Movddup;
impl Operate for Movddup {
    const OPERATION: Operation = Operation::unary(movddup).no_suppression().unaligned();
}
fn movddup(o: &mut Ops) {
    for n in 0..o.bytes.min(64) / 8 {
        o.d[n] = o.b[n & !1];
    }
}

/// PMOVSX and PMOVZX.
struct Extend<S, D>(PhantomData<(S, D)>);

/// A widening of integers.
trait Widen<D> {
    fn widen(self) -> D;
}
macro_rules! widen {
    ($($s:ty => $($d:ty)*;)*) => {$($(
        impl Widen<$d> for $s {
            fn widen(self) -> $d {
                self.into()
            }
        }
    )*)*};
}
widen! {
    u8 => u16 u32 u64;
    u16 => u32 u64;
    u32 => u64;
    i8 => i16 i32 i64;
    i16 => i32 i64;
    i32 => i64;
}

impl<S: Lane + Widen<D>, D: Lane> Operate for Extend<S, D> {
    const OPERATION: Operation = Operation::unary(extend::<S, D>).elements(size_of::<D>(), size_of::<S>());
}

fn extend<S: Lane + Widen<D>, D: Lane>(o: &mut Ops) {
    for n in 0..o.bytes.min(64) / size_of::<D>() {
        D::lanes_mut(&mut o.d)[n] = S::lanes(&o.b)[n].widen();
    }
}

/// PINSRB, PINSRW, PINSRD, PINSRQ.
fn insert<T: Int + Lane>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let n = usize::from(i.is_vex());
    // Register operands have 32 or 64 bits, of which the low ones count.
    let value = if i.has_memory() { cpu.load::<T>(i)? } else { T::of(u64::get(cpu, i.r[n + 1] & 15)) };
    let a = register(cpu, i, n);
    let mut v: V = [a[0], a[1], 0, 0, 0, 0, 0, 0];
    T::lanes_mut(&mut v)[i.imm as usize & (16 / size_of::<T>() - 1)] = value;
    write(cpu, i, &v, 8, 2);
    Ok(())
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ, EXTRACTPS: to memory, or zero-extended to a general register.
fn extract<T: Int + Lane>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = T::lanes(&register(cpu, i, 1))[i.imm as usize & (16 / size_of::<T>() - 1)];
    if i.has_memory() {
        cpu.store(i, value)
    } else {
        u64::set(cpu, i.r[0], value.zx());
        Ok(())
    }
}

fn mmx_pinsrw(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    let value: u16 = if i.has_memory() { cpu.load(i)? } else { cpu.regs[usize::from(i.r[1] & 15)] as u16 };
    cpu.mmx_use();
    let shift = 16 * (i.imm & 3);
    let d = cpu.mm(i.r[0]) & !(0xffff << shift) | u64::from(value) << shift;
    cpu.set_mm(i.r[0], d);
    Ok(())
}

fn mmx_pextrw(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.mmx_check()?;
    cpu.mmx_use();
    cpu.regs[usize::from(i.r[0] & 15)] = cpu.mm(i.r[1]) >> (16 * (i.imm & 3)) & 0xffff;
    Ok(())
}

/// INSERTPS: imm bits 7:6 select the source element (registers only), 5:4 the destination, 3:0 what is cleared.
fn insertps(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let n = usize::from(i.is_vex());
    let imm = i.imm as u8;
    let value = if i.has_memory() {
        cpu.load::<u32>(i)?
    } else {
        u32::lanes(&register(cpu, i, n + 1))[usize::from(imm >> 6)]
    };
    let a = register(cpu, i, n);
    let mut v: V = [a[0], a[1], 0, 0, 0, 0, 0, 0];
    let lanes = u32::lanes_mut(&mut v);
    lanes[usize::from(imm >> 4 & 3)] = value;
    for (n, lane) in lanes.iter_mut().enumerate().take(4) {
        if imm >> n & 1 != 0 {
            *lane = 0;
        }
    }
    write(cpu, i, &v, 8, 2);
    Ok(())
}

fn mmx_rows(rows: &mut Rows) {
    let mut add = |mnemonic: M, exec: Exec| {
        for &code in table::forms(mnemonic).iter().filter(|&&code| Kind::of(code) == Kind::Mmx) {
            table::add(rows, code, exec, exec);
        }
    };
    add(M::Punpcklbw, mmx_low::<Punpcklbw>);
    add(M::Punpcklwd, mmx_low::<Punpcklwd>);
    add(M::Punpckldq, mmx_low::<Punpckldq>);
    add(M::Punpckhbw, mmx_high::<Punpcklbw>);
    add(M::Punpckhwd, mmx_high::<Punpcklwd>);
    add(M::Punpckhdq, mmx_high::<Punpckldq>);
    add(M::Packsswb, mmx_joined::<Packsswb>);
    add(M::Packuswb, mmx_joined::<Packuswb>);
    add(M::Packssdw, mmx_joined::<Packssdw>);
    add(M::Phaddw, mmx_joined::<Phaddw>);
    add(M::Phaddd, mmx_joined::<Phaddd>);
    add(M::Phaddsw, mmx_joined::<Phaddsw>);
    add(M::Phsubw, mmx_joined::<Phsubw>);
    add(M::Phsubd, mmx_joined::<Phsubd>);
    add(M::Phsubsw, mmx_joined::<Phsubsw>);
    add(M::Pshufb, mmx_pshufb);
    add(M::Pshufw, mmx_pshufw);
    add(M::Palignr, mmx_palignr);
    add(M::Pinsrw, mmx_pinsrw);
    add(M::Pextrw, mmx_pextrw);
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    use table::{add_all, block, block_if, operation};
    block::<Pshufd>(rows, &[M::Pshufd, M::Vpshufd]);
    block::<Pshuflw>(rows, &[M::Pshuflw, M::Vpshuflw]);
    block::<Pshufhw>(rows, &[M::Pshufhw, M::Vpshufhw]);
    block::<Punpcklbw>(rows, &[M::Punpcklbw, M::Vpunpcklbw]);
    block::<Punpcklwd>(rows, &[M::Punpcklwd, M::Vpunpcklwd]);
    block::<Punpckldq>(rows, &[M::Punpckldq, M::Vpunpckldq, M::Unpcklps, M::Vunpcklps]);
    block::<Punpcklqdq>(rows, &[M::Punpcklqdq, M::Vpunpcklqdq, M::Unpcklpd, M::Vunpcklpd]);
    block::<Punpckhbw>(rows, &[M::Punpckhbw, M::Vpunpckhbw]);
    block::<Punpckhwd>(rows, &[M::Punpckhwd, M::Vpunpckhwd]);
    block::<Punpckhdq>(rows, &[M::Punpckhdq, M::Vpunpckhdq, M::Unpckhps, M::Vunpckhps]);
    block::<Punpckhqdq>(rows, &[M::Punpckhqdq, M::Vpunpckhqdq, M::Unpckhpd, M::Vunpckhpd]);
    block::<Packsswb>(rows, &[M::Packsswb, M::Vpacksswb]);
    block::<Packuswb>(rows, &[M::Packuswb, M::Vpackuswb]);
    block::<Packssdw>(rows, &[M::Packssdw, M::Vpackssdw]);
    block::<Packusdw>(rows, &[M::Packusdw, M::Vpackusdw]);
    block::<Pshufb>(rows, &[M::Pshufb, M::Vpshufb]);
    block::<Palignr>(rows, &[M::Palignr, M::Vpalignr]);
    block::<Shufps>(rows, &[M::Shufps, M::Vshufps]);
    block::<Shufpd>(rows, &[M::Shufpd, M::Vshufpd]);
    block_if::<PermilpsImm>(rows, &[M::Vpermilps], table::has_immediate);
    block_if::<PermilpdImm>(rows, &[M::Vpermilpd], table::has_immediate);
    block_if::<Permilps>(rows, &[M::Vpermilps], |code| !table::has_immediate(code));
    block_if::<Permilpd>(rows, &[M::Vpermilpd], |code| !table::has_immediate(code));
    block::<Movshdup>(rows, &[M::Movshdup, M::Vmovshdup]);
    block::<Movsldup>(rows, &[M::Movsldup, M::Vmovsldup]);
    operation::<Movddup>(rows, &[M::Movddup, M::Vmovddup]);
    block::<Phaddw>(rows, &[M::Phaddw, M::Vphaddw]);
    block::<Phaddd>(rows, &[M::Phaddd, M::Vphaddd]);
    block::<Phaddsw>(rows, &[M::Phaddsw, M::Vphaddsw]);
    block::<Phsubw>(rows, &[M::Phsubw, M::Vphsubw]);
    block::<Phsubd>(rows, &[M::Phsubd, M::Vphsubd]);
    block::<Phsubsw>(rows, &[M::Phsubsw, M::Vphsubsw]);
    block::<Pblendw>(rows, &[M::Pblendw, M::Vpblendw]);
    block::<Blendps>(rows, &[M::Blendps, M::Vblendps, M::Vpblendd]);
    block::<Blendpd>(rows, &[M::Blendpd, M::Vblendpd]);
    block::<Mpsadbw>(rows, &[M::Mpsadbw, M::Vmpsadbw]);
    block::<Phminposuw>(rows, &[M::Phminposuw, M::Vphminposuw]);
    add_all(rows, blendv::<1>, &[M::Pblendvb, M::Vpblendvb]);
    add_all(rows, blendv::<4>, &[M::Blendvps, M::Vblendvps]);
    add_all(rows, blendv::<8>, &[M::Blendvpd, M::Vblendvpd]);
    operation::<Extend<u8, u16>>(rows, &[M::Pmovzxbw, M::Vpmovzxbw]);
    operation::<Extend<u8, u32>>(rows, &[M::Pmovzxbd, M::Vpmovzxbd]);
    operation::<Extend<u8, u64>>(rows, &[M::Pmovzxbq, M::Vpmovzxbq]);
    operation::<Extend<u16, u32>>(rows, &[M::Pmovzxwd, M::Vpmovzxwd]);
    operation::<Extend<u16, u64>>(rows, &[M::Pmovzxwq, M::Vpmovzxwq]);
    operation::<Extend<u32, u64>>(rows, &[M::Pmovzxdq, M::Vpmovzxdq]);
    operation::<Extend<i8, i16>>(rows, &[M::Pmovsxbw, M::Vpmovsxbw]);
    operation::<Extend<i8, i32>>(rows, &[M::Pmovsxbd, M::Vpmovsxbd]);
    operation::<Extend<i8, i64>>(rows, &[M::Pmovsxbq, M::Vpmovsxbq]);
    operation::<Extend<i16, i32>>(rows, &[M::Pmovsxwd, M::Vpmovsxwd]);
    operation::<Extend<i16, i64>>(rows, &[M::Pmovsxwq, M::Vpmovsxwq]);
    operation::<Extend<i32, i64>>(rows, &[M::Pmovsxdq, M::Vpmovsxdq]);
    add_all(rows, insert::<u8>, &[M::Pinsrb, M::Vpinsrb]);
    add_all(rows, insert::<u16>, &[M::Pinsrw, M::Vpinsrw]);
    add_all(rows, insert::<u32>, &[M::Pinsrd, M::Vpinsrd]);
    add_all(rows, insert::<u64>, &[M::Pinsrq, M::Vpinsrq]);
    add_all(rows, extract::<u8>, &[M::Pextrb, M::Vpextrb]);
    add_all(rows, extract::<u16>, &[M::Pextrw, M::Vpextrw]);
    add_all(rows, extract::<u32>, &[M::Pextrd, M::Vpextrd, M::Extractps, M::Vextractps]);
    add_all(rows, extract::<u64>, &[M::Pextrq, M::Vpextrq]);
    add_all(rows, insertps, &[M::Insertps, M::Vinsertps]);
    mmx_rows(rows);
}
