//! Integer operations that only AVX-512 has: comparisons to masks, ternary logic, narrowing, compress and expand, conflicts,
//! funnel shifts, dot products.

use super::form::form;
use super::plumbing::{
    Operate, Operation, Ops, check_operand_alignment, lane_mask, load, load_lanes, load_lanes_unchecked,
    operations, register, store_lanes, store_lanes_unchecked, write,
};
use super::table::{self, Kind};
use super::vector::{Lane, V, lane, ones, set_lane};
use crate::mem::Kind as Access;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use core::marker::PhantomData;
use iced_x86::Mnemonic as M;

/// A mask of the lanes of `T` for which `f` holds.
fn select<T: Lane>(o: &mut Ops, f: impl Fn(T, T) -> bool) {
    for n in 0..o.bytes.min(64) / size_of::<T>() {
        o.k |= u64::from(f(T::lanes(&o.a)[n], T::lanes(&o.b)[n])) << n;
    }
}

/// VPCMPB and kin: the predicate is in the immediate.
struct Compare<T>(PhantomData<T>);
impl<T: Lane> Operate for Compare<T> {
    const OPERATION: Operation = Operation::binary(compare::<T>).into_mask();
}
fn compare<T: Lane>(o: &mut Ops) {
    match o.imm & 7 {
        0 => select::<T>(o, |a, b| a == b),
        1 => select::<T>(o, |a, b| a < b),
        2 => select::<T>(o, |a, b| a <= b),
        3 => {}
        4 => select::<T>(o, |a, b| a != b),
        5 => select::<T>(o, |a, b| a >= b),
        6 => select::<T>(o, |a, b| a > b),
        _ => select::<T>(o, |_, _| true),
    }
}

/// VPCMPEQB and kin.
struct Equal<T>(PhantomData<T>);
impl<T: Lane> Operate for Equal<T> {
    const OPERATION: Operation = Operation::binary(|o| select::<T>(o, |a, b| a == b)).into_mask();
}

/// VPCMPGTB and kin.
struct Greater<T>(PhantomData<T>);
impl<T: Lane> Operate for Greater<T> {
    const OPERATION: Operation = Operation::binary(|o| select::<T>(o, |a, b| a > b)).into_mask();
}

/// VPTESTMB and kin: bits in common; `NOT`: none in common.
struct Test<T, const NOT: bool>(PhantomData<T>);
impl<T: Lane + Into<u64>, const NOT: bool> Operate for Test<T, NOT> {
    const OPERATION: Operation =
        Operation::binary(|o| select::<T>(o, |a, b| (a.into() & b.into() == 0) == NOT)).into_mask();
}

/// VPBLENDMB and kin: active lanes from `b`, the others from `a` (or zero).
struct Blend<const SIZE: usize>;
impl<const SIZE: usize> Operate for Blend<SIZE> {
    const OPERATION: Operation = Operation::binary(blend::<SIZE>).overlay();
}
fn blend<const SIZE: usize>(o: &mut Ops) {
    for n in 0..o.bytes.min(64) / SIZE {
        let source = if o.mask >> n & 1 != 0 { &o.b } else { &o.a };
        let value = if o.mask >> n & 1 == 0 && o.zeroing { 0 } else { lane(source, SIZE, n) };
        set_lane(&mut o.d, SIZE, n, value);
    }
}

operations! {
    /// VPTERNLOG: each bit of the immediate is the result for one combination of bits.
    Ternary = Operation::ternary(|o| {
        for n in 0..8 {
            let (d, a, b) = (o.d[n], o.a[n], o.b[n]);
            let mut result = 0;
            for row in 0..8u8 {
                if o.imm >> row & 1 != 0 {
                    let pick = |x: u64, bit: u8| if row & bit != 0 { x } else { !x };
                    result |= pick(d, 4) & pick(a, 2) & pick(b, 1);
                }
            }
            o.d[n] = if n < o.bytes / 8 { result } else { 0 };
        }
    });
    ConflictD = Operation::unary(conflict::<u32>).no_suppression();
    ConflictQ = Operation::unary(conflict::<u64>).no_suppression();
    LeadingZerosD = Operation::unary(|o| map::<u32>(o, |_, b| b.leading_zeros()));
    LeadingZerosQ = Operation::unary(|o| map::<u64>(o, |_, b| b.leading_zeros().into()));
    PopcountB = Operation::unary(|o| map::<u8>(o, |_, b| b.count_ones() as u8));
    PopcountW = Operation::unary(|o| map::<u16>(o, |_, b| b.count_ones() as u16));
    PopcountD = Operation::unary(|o| map::<u32>(o, |_, b| b.count_ones()));
    PopcountQ = Operation::unary(|o| map::<u64>(o, |_, b| b.count_ones().into()));
    /// VPMULTISHIFTQB: eight unaligned bytes of each quadword of `b`, at the bits that `a` names.
    Multishift = Operation::binary(|o| {
        for n in 0..o.bytes.min(64) {
            let control = lane(&o.a, 1, n) as u32;
            let byte = o.b[n / 8].rotate_right(control & 63);
            set_lane(&mut o.d, 1, n, byte);
        }
    }).elements(1, 1).no_suppression();
    /// VPSHUFBITQMB: the bits of each quadword of `a` that the bytes of `b` name.
    ShuffleBits = Operation::binary(|o| {
        for n in 0..o.bytes.min(64) {
            o.k |= (o.a[n / 8] >> (lane(&o.b, 1, n) & 63) & 1) << n;
        }
    }).into_mask();
    /// VDBPSADBW: sums of absolute differences of `a`'s quadruplets and shuffled ones of `b` (SDM 2C).
    DoubleBlockSad = Operation::binary(|o| {
        for block in 0..o.bytes.min(64) / 16 {
            let shuffled: [u32; 4] = core::array::from_fn(|n| {
                u32::lanes(&o.b)[4 * block + usize::from(o.imm >> (2 * n) & 3)]
            });
            let bytes: [u8; 16] = zerocopy::transmute!(shuffled);
            for n in 0..8 {
                // Two results of each quadruplet of `a`; the window into `b` moves by one.
                let from_a = 16 * block + 4 * (n / 2);
                let from_b = 8 * (n / 4) + n % 4;
                let sum: u16 = (0..4).map(|m| u16::from(u8::lanes(&o.a)[from_a + m].abs_diff(bytes[from_b + m]))).sum();
                u16::lanes_mut(&mut o.d)[8 * block + n] = sum;
            }
        }
    }).elements(2, 1).no_suppression();
    Madd52Low = Operation::ternary(|o| madd52(o, 0));
    Madd52High = Operation::ternary(|o| madd52(o, 52));
    DotBytes = Operation::ternary(|o| dot_bytes(o, i32::wrapping_add)).elements(4, 4);
    DotBytesSaturated = Operation::ternary(|o| dot_bytes(o, i32::saturating_add)).elements(4, 4);
    DotWords = Operation::ternary(|o| dot_words(o, false)).elements(4, 4);
    DotWordsSaturated = Operation::ternary(|o| dot_words(o, true)).elements(4, 4);
}

fn map<T: Lane>(o: &mut Ops, f: impl Fn(T, T) -> T) {
    for n in 0..o.bytes.min(64) / size_of::<T>() {
        T::lanes_mut(&mut o.d)[n] = f(T::lanes(&o.a)[n], T::lanes(&o.b)[n]);
    }
}

/// Each element: which lower ones equal it.
fn conflict<T: Lane>(o: &mut Ops) {
    for n in 0..o.bytes.min(64) / size_of::<T>() {
        let lanes = T::lanes(&o.b);
        let equal = (0..n).fold(0, |mask, m| mask | u64::from(lanes[m] == lanes[n]) << m);
        set_lane(&mut o.d, size_of::<T>(), n, equal);
    }
}

fn madd52(o: &mut Ops, shift: u32) {
    const LOW: u64 = (1 << 52) - 1;
    for n in 0..o.bytes.min(64) / 8 {
        let product = u128::from(o.a[n] & LOW) * u128::from(o.b[n] & LOW);
        o.d[n] = o.d[n].wrapping_add((product >> shift) as u64 & LOW);
    }
}

/// VPDPBUSD: unsigned bytes of `a` by signed bytes of `b`.
fn dot_bytes(o: &mut Ops, add: fn(i32, i32) -> i32) {
    for n in 0..o.bytes.min(64) / 4 {
        let product =
            |m: usize| i32::from(u8::lanes(&o.a)[4 * n + m]) * i32::from(i8::lanes(&o.b)[4 * n + m]);
        let sum = (0..4).map(product).sum();
        let d = &mut i32::lanes_mut(&mut o.d)[n];
        *d = add(*d, sum);
    }
}

/// VPDPWSSD: signed words. Two products of -32768 by itself sum to 2^31.
fn dot_words(o: &mut Ops, saturate: bool) {
    for n in 0..o.bytes.min(64) / 4 {
        let product =
            |m: usize| i64::from(i16::lanes(&o.a)[2 * n + m]) * i64::from(i16::lanes(&o.b)[2 * n + m]);
        let sum = product(0) + product(1);
        let d = &mut i32::lanes_mut(&mut o.d)[n];
        let exact = i64::from(*d) + sum;
        *d = if saturate { exact.clamp(i32::MIN.into(), i32::MAX.into()) as i32 } else { exact as i32 };
    }
}

/// The upper `bits` of `a:b` shifted left by `count` modulo `bits`.
fn shld(a: u64, b: u64, bits: u32, count: u64) -> u64 {
    let count = (count % u64::from(bits)) as u32;
    ((u128::from(a) << bits | u128::from(b)) << count >> bits) as u64
}

/// The lower `bits` of `b:a` shifted right.
fn shrd(a: u64, b: u64, bits: u32, count: u64) -> u64 {
    let count = (count % u64::from(bits)) as u32;
    ((u128::from(b) << bits | u128::from(a)) >> count) as u64
}

/// VPSHLD, VPSHRD by the immediate (`a`, `b`), or by `b` (the destination and `a`).
struct Funnel<const SIZE: usize, const LEFT: bool, const VARIABLE: bool>;
impl<const SIZE: usize, const LEFT: bool, const VARIABLE: bool> Operate for Funnel<SIZE, LEFT, VARIABLE> {
    const OPERATION: Operation = if VARIABLE {
        Operation::ternary(funnel::<SIZE, LEFT, VARIABLE>)
    } else {
        Operation::binary(funnel::<SIZE, LEFT, VARIABLE>)
    };
}
fn funnel<const SIZE: usize, const LEFT: bool, const VARIABLE: bool>(o: &mut Ops) {
    for n in 0..o.bytes.min(64) / SIZE {
        let at = |v: &V| lane(v, SIZE, n);
        let (x, y, count) = match VARIABLE {
            true => (at(&o.d), at(&o.a), at(&o.b)),
            false => (at(&o.a), at(&o.b), o.imm.into()),
        };
        let f = if LEFT { shld } else { shrd };
        set_lane(&mut o.d, SIZE, n, f(x, y, 8 * SIZE as u32, count));
    }
}

/// Ways of [`narrow`].
const TRUNCATE: u8 = 0;
const SIGNED: u8 = 1;
const UNSIGNED: u8 = 2;

/// VPMOVDB and kin: the destination may be in memory.
fn narrow<const FROM: usize, const TO: usize, const HOW: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let lanes = usize::from(form(i).length) / FROM;
    let source = register(cpu, i, 1);
    let mut v = [0; 8];
    for n in 0..lanes {
        let x = lane(&source, FROM, n);
        let signed = (x << (64 - 8 * FROM)) as i64 >> (64 - 8 * FROM);
        let (min, max) = (-(1i64 << (8 * TO - 1)), (1i64 << (8 * TO - 1)) - 1);
        let narrowed = match HOW {
            SIGNED => signed.clamp(min, max) as u64,
            UNSIGNED => x.min(ones(8 * TO)),
            _ => x,
        };
        set_lane(&mut v, TO, n, narrowed);
    }
    if i.has_memory() {
        let mask = lane_mask(cpu, i, lanes);
        return store_lanes(cpu, i, &v, TO, lanes, mask);
    }
    write(cpu, i, &v, TO, lanes);
    Ok(())
}

/// VPCOMPRESSD and kin: the active lanes, side by side.
fn compress<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let lanes = usize::from(form(i).length) / SIZE;
    let mask = lane_mask(cpu, i, lanes);
    let source = register(cpu, i, 1);
    let mut v = [0; 8];
    let mut count = 0;
    for n in (0..lanes).filter(|n| mask >> n & 1 != 0) {
        set_lane(&mut v, SIZE, count, lane(&source, SIZE, n));
        count += 1;
    }
    if i.has_memory() {
        let amd = cpu.model.is_amd();
        if amd {
            check_operand_alignment(cpu, i, SIZE, count, ones(count), Access::Write)?;
        }
        return if i.opmask() == 0 && !amd {
            store_lanes(cpu, i, &v, SIZE, count, ones(count))
        } else {
            store_lanes_unchecked(cpu, i, &v, SIZE, count, ones(count))
        };
    }
    if !i.zeroing() {
        let old = register(cpu, i, 0);
        for n in count..lanes {
            set_lane(&mut v, SIZE, n, lane(&old, SIZE, n));
        }
    }
    cpu.zmm[usize::from(i.r[0] & 31)] = v;
    Ok(())
}

/// VPEXPANDD and kin: the reverse.
fn expand<const SIZE: usize>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let lanes = usize::from(form(i).length) / SIZE;
    let mask = lane_mask(cpu, i, lanes);
    let count = mask.count_ones() as usize;
    let source = if !i.has_memory() {
        register(cpu, i, 1)
    } else if !cpu.model.is_amd() {
        load_lanes_unchecked(cpu, i, SIZE, count, ones(count))?
    } else if i.opmask() == 0 {
        load(cpu, i, form(i).length.into())?
    } else {
        load_lanes(cpu, i, SIZE, count, ones(count))?
    };
    let mut v = [0; 8];
    for (n, to) in (0..lanes).filter(|n| mask >> n & 1 != 0).enumerate() {
        set_lane(&mut v, SIZE, to, lane(&source, SIZE, n));
    }
    write(cpu, i, &v, SIZE, lanes);
    Ok(())
}

/// The EVEX forms of comparisons whose VEX forms write vectors.
fn evex<O: Operate>(rows: &mut Rows, mnemonic: M) {
    for &code in table::forms(mnemonic).iter().filter(|&&code| Kind::of(code) == Kind::Evex) {
        let exec = super::plumbing::exec_of::<O>();
        table::add(rows, code, exec, exec);
    }
}

fn compare_rows(rows: &mut Rows) {
    use table::operation;
    evex::<Equal<u8>>(rows, M::Vpcmpeqb);
    evex::<Equal<u16>>(rows, M::Vpcmpeqw);
    evex::<Equal<u32>>(rows, M::Vpcmpeqd);
    evex::<Equal<u64>>(rows, M::Vpcmpeqq);
    evex::<Greater<i8>>(rows, M::Vpcmpgtb);
    evex::<Greater<i16>>(rows, M::Vpcmpgtw);
    evex::<Greater<i32>>(rows, M::Vpcmpgtd);
    evex::<Greater<i64>>(rows, M::Vpcmpgtq);
    operation::<Compare<i8>>(rows, &[M::Vpcmpb]);
    operation::<Compare<i16>>(rows, &[M::Vpcmpw]);
    operation::<Compare<i32>>(rows, &[M::Vpcmpd]);
    operation::<Compare<i64>>(rows, &[M::Vpcmpq]);
    operation::<Compare<u8>>(rows, &[M::Vpcmpub]);
    operation::<Compare<u16>>(rows, &[M::Vpcmpuw]);
    operation::<Compare<u32>>(rows, &[M::Vpcmpud]);
    operation::<Compare<u64>>(rows, &[M::Vpcmpuq]);
    operation::<Test<u8, false>>(rows, &[M::Vptestmb]);
    operation::<Test<u16, false>>(rows, &[M::Vptestmw]);
    operation::<Test<u32, false>>(rows, &[M::Vptestmd]);
    operation::<Test<u64, false>>(rows, &[M::Vptestmq]);
    operation::<Test<u8, true>>(rows, &[M::Vptestnmb]);
    operation::<Test<u16, true>>(rows, &[M::Vptestnmw]);
    operation::<Test<u32, true>>(rows, &[M::Vptestnmd]);
    operation::<Test<u64, true>>(rows, &[M::Vptestnmq]);
}

fn move_rows(rows: &mut Rows) {
    use table::add_all;
    add_all(rows, narrow::<2, 1, TRUNCATE>, &[M::Vpmovwb]);
    add_all(rows, narrow::<4, 1, TRUNCATE>, &[M::Vpmovdb]);
    add_all(rows, narrow::<4, 2, TRUNCATE>, &[M::Vpmovdw]);
    add_all(rows, narrow::<8, 1, TRUNCATE>, &[M::Vpmovqb]);
    add_all(rows, narrow::<8, 2, TRUNCATE>, &[M::Vpmovqw]);
    add_all(rows, narrow::<8, 4, TRUNCATE>, &[M::Vpmovqd]);
    add_all(rows, narrow::<2, 1, SIGNED>, &[M::Vpmovswb]);
    add_all(rows, narrow::<4, 1, SIGNED>, &[M::Vpmovsdb]);
    add_all(rows, narrow::<4, 2, SIGNED>, &[M::Vpmovsdw]);
    add_all(rows, narrow::<8, 1, SIGNED>, &[M::Vpmovsqb]);
    add_all(rows, narrow::<8, 2, SIGNED>, &[M::Vpmovsqw]);
    add_all(rows, narrow::<8, 4, SIGNED>, &[M::Vpmovsqd]);
    add_all(rows, narrow::<2, 1, UNSIGNED>, &[M::Vpmovuswb]);
    add_all(rows, narrow::<4, 1, UNSIGNED>, &[M::Vpmovusdb]);
    add_all(rows, narrow::<4, 2, UNSIGNED>, &[M::Vpmovusdw]);
    add_all(rows, narrow::<8, 1, UNSIGNED>, &[M::Vpmovusqb]);
    add_all(rows, narrow::<8, 2, UNSIGNED>, &[M::Vpmovusqw]);
    add_all(rows, narrow::<8, 4, UNSIGNED>, &[M::Vpmovusqd]);
    add_all(rows, compress::<1>, &[M::Vpcompressb]);
    add_all(rows, compress::<2>, &[M::Vpcompressw]);
    add_all(rows, compress::<4>, &[M::Vpcompressd, M::Vcompressps]);
    add_all(rows, compress::<8>, &[M::Vpcompressq, M::Vcompresspd]);
    add_all(rows, expand::<1>, &[M::Vpexpandb]);
    add_all(rows, expand::<2>, &[M::Vpexpandw]);
    add_all(rows, expand::<4>, &[M::Vpexpandd, M::Vexpandps]);
    add_all(rows, expand::<8>, &[M::Vpexpandq, M::Vexpandpd]);
    table::operation::<Blend<1>>(rows, &[M::Vpblendmb]);
    table::operation::<Blend<2>>(rows, &[M::Vpblendmw]);
    table::operation::<Blend<4>>(rows, &[M::Vpblendmd, M::Vblendmps]);
    table::operation::<Blend<8>>(rows, &[M::Vpblendmq, M::Vblendmpd]);
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    use table::operation;
    compare_rows(rows);
    move_rows(rows);
    operation::<Ternary>(rows, &[M::Vpternlogd, M::Vpternlogq]);
    operation::<ConflictD>(rows, &[M::Vpconflictd]);
    operation::<ConflictQ>(rows, &[M::Vpconflictq]);
    operation::<LeadingZerosD>(rows, &[M::Vplzcntd]);
    operation::<LeadingZerosQ>(rows, &[M::Vplzcntq]);
    operation::<PopcountB>(rows, &[M::Vpopcntb]);
    operation::<PopcountW>(rows, &[M::Vpopcntw]);
    operation::<PopcountD>(rows, &[M::Vpopcntd]);
    operation::<PopcountQ>(rows, &[M::Vpopcntq]);
    operation::<Multishift>(rows, &[M::Vpmultishiftqb]);
    operation::<ShuffleBits>(rows, &[M::Vpshufbitqmb]);
    operation::<DoubleBlockSad>(rows, &[M::Vdbpsadbw]);
    operation::<Funnel<2, true, false>>(rows, &[M::Vpshldw]);
    operation::<Funnel<4, true, false>>(rows, &[M::Vpshldd]);
    operation::<Funnel<8, true, false>>(rows, &[M::Vpshldq]);
    operation::<Funnel<2, false, false>>(rows, &[M::Vpshrdw]);
    operation::<Funnel<4, false, false>>(rows, &[M::Vpshrdd]);
    operation::<Funnel<8, false, false>>(rows, &[M::Vpshrdq]);
    operation::<Funnel<2, true, true>>(rows, &[M::Vpshldvw]);
    operation::<Funnel<4, true, true>>(rows, &[M::Vpshldvd]);
    operation::<Funnel<8, true, true>>(rows, &[M::Vpshldvq]);
    operation::<Funnel<2, false, true>>(rows, &[M::Vpshrdvw]);
    operation::<Funnel<4, false, true>>(rows, &[M::Vpshrdvd]);
    operation::<Funnel<8, false, true>>(rows, &[M::Vpshrdvq]);
    operation::<Madd52Low>(rows, &[M::Vpmadd52luq]);
    operation::<Madd52High>(rows, &[M::Vpmadd52huq]);
    operation::<DotBytes>(rows, &[M::Vpdpbusd]);
    operation::<DotBytesSaturated>(rows, &[M::Vpdpbusds]);
    operation::<DotWords>(rows, &[M::Vpdpwssd]);
    operation::<DotWordsSaturated>(rows, &[M::Vpdpwssds]);
}
