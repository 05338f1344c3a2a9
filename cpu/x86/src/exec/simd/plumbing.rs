//! Operands: from registers and memory to the pure lane functions and back, for legacy, VEX and EVEX forms of any length.

use super::form::{Form, form};
use super::vector::{Block, V, ones};
use crate::control::mxcsr;
use crate::insn::Exec;
use crate::mem::Kind;
use crate::{Cpu, Insn, Stop};
use iced_x86::EncodingKind;
use ringworld_core::{PAGE_MASK, PAGE_SIZE};
use ringworld_fp::{FpEnv, FpFlags, Rounding};
use zerocopy::{transmute_mut, transmute_ref};

/// What the function of an [`Operation`] sees.
pub struct Ops {
    /// The result. For [`Operation::ternary`] it holds the destination's old value, else zeros.
    pub d: V,
    /// First source (the VEX.vvvv operand; the destination of legacy forms).
    pub a: V,
    /// Last source, register or memory.
    pub b: V,
    /// The immediate, if there is one.
    pub imm: u8,
    /// Vector length in bytes.
    pub bytes: usize,
    /// Lanes that the mask governs.
    pub lanes: usize,
    /// Active lanes.
    pub mask: u64,
    /// The result of an operation whose destination is an opmask register; inactive lanes are cleared for it.
    pub k: u64,
    /// Floating-point environment.
    pub env: FpEnv,
    /// Zeroing-masking.
    pub zeroing: bool,
    /// Exceptions of the steps before the last one, for operations that compute in several.
    pub earlier: FpFlags,
}

/// A vector operation: its function on whole vectors, and how operands reach it.
pub struct Operation {
    run: fn(&mut Ops),
    /// Source operands: 1 (b), 2 (a and b), 3 (the destination as well).
    sources: u8,
    /// Bytes of the destination's element; 0: as the memory operand's.
    element: u8,
    /// Bytes of the source's element; 0: as the memory operand's.
    source: u8,
    /// Memory faults of inactive lanes do not happen (the manual's exception types without "NF").
    suppresses: bool,
    /// Uses and reports MXCSR.
    float: bool,
    /// The destination is an opmask register.
    to_mask: bool,
    /// Legacy forms do not require alignment.
    unaligned: bool,
    /// No #AC.
    unchecked: bool,
    /// The function has done the masking: the result is written whole.
    overlay: bool,
}

impl Ops {
    /// Ends a step of an operation that computes in several: whether it goes on, no exception being unmasked.
    pub fn step(&mut self) -> bool {
        let outcome = self.env.outcome();
        if outcome.fault {
            return false;
        }
        self.earlier |= outcome.flags;
        self.env.flags = FpFlags::empty();
        true
    }
}

impl Operation {
    const fn new(run: fn(&mut Ops), sources: u8) -> Self {
        Self {
            run,
            sources,
            element: 0,
            source: 0,
            suppresses: true,
            float: false,
            to_mask: false,
            unaligned: false,
            unchecked: false,
            overlay: false,
        }
    }
    /// `D = f(b)`.
    pub const fn unary(run: fn(&mut Ops)) -> Self {
        Self::new(run, 1)
    }
    /// `D = f(a, b)`.
    pub const fn binary(run: fn(&mut Ops)) -> Self {
        Self::new(run, 2)
    }
    /// `D = f(D, a, b)`.
    pub const fn ternary(run: fn(&mut Ops)) -> Self {
        Self::new(run, 3)
    }
    /// Element sizes of destination and source in bytes, where they are not the memory operand's.
    pub const fn elements(self, destination: usize, source: usize) -> Self {
        Self { element: destination as u8, source: source as u8, ..self }
    }
    /// Memory is read whole, whatever the mask.
    pub const fn no_suppression(self) -> Self {
        Self { suppresses: false, ..self }
    }
    /// Uses and reports MXCSR.
    pub const fn float(self) -> Self {
        Self { float: true, ..self }
    }
    /// The destination is an opmask register.
    pub const fn into_mask(self) -> Self {
        Self { to_mask: true, ..self }
    }
    /// The function does the masking.
    pub const fn overlay(self) -> Self {
        Self { overlay: true, ..self }
    }
    /// No #AC.
    pub const fn no_alignment_check(self) -> Self {
        Self { unchecked: true, ..self }
    }
    /// Legacy forms do not require alignment.
    pub const fn unaligned(self) -> Self {
        Self { unaligned: true, ..self }
    }
}

/// Something with an [`Operation`]: a type for each, so that each has an [`Exec`] of its own.
pub trait Operate {
    /// The operation.
    const OPERATION: Operation;
}

/// Defines types with an [`Operation`] each.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $operation:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Operate for $name {
            const OPERATION: Operation = $operation;
        }
    )*};
}
pub(super) use operations;

/// The [`Exec`] of an operation.
pub fn exec<O: Operate>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    operate(cpu, i, const { &O::OPERATION })
}

/// As a value.
pub const fn exec_of<O: Operate>() -> Exec {
    exec::<O>
}

fn operate(cpu: &mut Cpu, i: &Insn, op: &Operation) -> Result<(), Stop> {
    let form = form(i);
    let bytes = usize::from(form.length);
    let or_memory = |size: u8| usize::from(if size == 0 { form.element } else { size }).max(1);
    let element = or_memory(op.element);
    let lanes = bytes / element.max(or_memory(op.source));
    let mask = lane_mask(cpu, i, lanes);
    let first = if op.sources == 1 { 1 } else { usize::from(i.is_vex()) };
    let (a, b) = if op.sources == 1 { (0, 1) } else { (first, first + 1) };
    let mut ops = Ops {
        d: [0; 8],
        a: register(cpu, i, a),
        b: [0; 8],
        imm: i.imm as u8,
        bytes,
        lanes,
        mask,
        k: 0,
        env: environment(cpu, i, &form),
        zeroing: i.zeroing(),
        earlier: FpFlags::empty(),
    };
    if op.sources == 3 {
        let quads = if i.is_vex() { bytes / 8 } else { 8 };
        ops.d[..quads.min(8)].copy_from_slice(&register(cpu, i, 0)[..quads.min(8)]);
    }
    ops.b = if !i.has_memory() {
        register(cpu, i, b)
    } else if !i.is_vex() {
        if op.unaligned || form.memory != 16 {
            load(cpu, i, form.memory.into())?
        } else {
            let block = load_aligned(cpu, i)?;
            [block[0], block[1], 0, 0, 0, 0, 0, 0]
        }
    } else if i.evex_b() {
        if op.suppresses && mask == 0 { [0; 8] } else { broadcast(cpu, i, form.element.into())? }
    } else if op.unchecked && cpu.alignment_checked() && !cpu.model.is_amd() {
        load_lanes_unchecked(cpu, i, usize::from(form.memory) / lanes.max(1), lanes, mask)?
    } else if op.suppresses && !read_whole(cpu, i, form.memory.into(), lanes, mask) {
        load_lanes(cpu, i, usize::from(form.memory) / lanes.max(1), lanes, mask)?
    } else {
        load(cpu, i, form.memory.into())?
    };
    (op.run)(&mut ops);
    if op.float {
        cpu.mxcsr |= u32::from(ops.earlier.bits());
        report(cpu, i, &ops.env)?;
    }
    if op.to_mask {
        cpu.k[usize::from(i.r[0] & 7)] = ops.k & mask;
    } else if op.overlay {
        cpu.zmm[usize::from(i.r[0] & 31)] = ops.d;
    } else {
        write(cpu, i, &ops.d, element, lanes);
    }
    Ok(())
}

/// Register operand `n` of an instruction, whole.
#[inline(always)]
pub fn register(cpu: &Cpu, i: &Insn, n: usize) -> V {
    cpu.zmm[usize::from(i.r[n] & 31)]
}

/// The active ones of `lanes` lanes.
#[inline(always)]
pub fn lane_mask(cpu: &Cpu, i: &Insn, lanes: usize) -> u64 {
    let all = ones(lanes);
    if i.opmask() == 0 { all } else { cpu.k[usize::from(i.opmask())] & all }
}

/// The environment of `i`: MXCSR's, or with EVEX.b embedded rounding and no exceptions.
pub fn environment(cpu: &Cpu, i: &Insn, form: &Form) -> FpEnv {
    let env = if i.evex_b() && !i.has_memory() {
        let rounding = Rounding::from_rc(i.rounding().into());
        FpEnv::suppressing(cpu.mxcsr, form.rounds.then_some(rounding))
    } else {
        FpEnv::from_mxcsr(cpu.mxcsr)
    };
    FpEnv { amd: cpu.model.is_amd(), ..env }
}

/// Reports the exceptions of an instruction's whole computation; #XM if one is unmasked.
#[inline]
pub fn report(cpu: &mut Cpu, i: &Insn, env: &FpEnv) -> Result<(), Stop> {
    if env.flags.is_empty() || (i.evex_b() && !i.has_memory()) { Ok(()) } else { report_flags(cpu, env) }
}

/// As [`report`] for instructions that cannot suppress exceptions.
#[inline]
pub fn report_flags(cpu: &mut Cpu, env: &FpEnv) -> Result<(), Stop> {
    let outcome = env.outcome();
    cpu.mxcsr |= u32::from(outcome.flags.bits());
    if outcome.fault { Err(cpu.xm()) } else { Ok(()) }
}

/// Writes the destination, operand 0: legacy forms keep what is above 128 bits, the others clear what `value` has not;
/// inactive ones of the `lanes` lanes of `element` bytes stay as they are, or are cleared.
pub fn write(cpu: &mut Cpu, i: &Insn, value: &V, element: usize, lanes: usize) {
    let destination = &mut cpu.zmm[usize::from(i.r[0] & 31)];
    if !i.is_vex() {
        destination[0] = value[0];
        destination[1] = value[1];
    } else if i.opmask() == 0 {
        *destination = *value;
    } else {
        let mask = cpu.k[usize::from(i.opmask())];
        let old: [u8; 64] = zerocopy::transmute!(*destination);
        let new: &[u8; 64] = transmute_ref!(value);
        let out: &mut [u8; 64] = transmute_mut!(destination);
        for (lane, part) in out.chunks_exact_mut(element).enumerate() {
            let at = lane * element;
            if lane >= lanes || mask >> (lane & 63) & 1 != 0 {
                part.copy_from_slice(&new[at..at + element]);
            } else if i.zeroing() {
                part.fill(0);
            } else {
                part.copy_from_slice(&old[at..at + element]);
            }
        }
    }
}

/// Loads a legacy 128-bit operand: #GP(0) unless it is aligned.
#[inline(never)]
pub fn load_aligned(cpu: &mut Cpu, i: &Insn) -> Result<Block, Stop> {
    check_legacy_aligned(cpu, i)?;
    cpu.load(i)
}

/// #GP(0) unless the 128-bit operand of a legacy instruction is aligned; AMD's MXCSR.MM lifts that.
#[inline]
pub fn check_legacy_aligned(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.mxcsr & mxcsr::MM != 0 { Ok(()) } else { check_aligned(cpu, i, 16) }
}

/// #GP(0) unless the memory operand's linear address is a multiple of `size` (16, 32 or 64).
#[inline]
pub fn check_aligned(cpu: &mut Cpu, i: &Insn, size: u64) -> Result<(), Stop> {
    let offset = cpu.effective_address(i);
    let linear = cpu.fast[usize::from(i.segment() & 7)].base.wrapping_add(offset);
    if linear & (size - 1) != 0 { Err(cpu.gp0()) } else { Ok(()) }
}

/// Loads the low `bytes` (1, 2, 4, 8, 16, 32 or 64) bytes of a vector; the rest is zero.
pub fn load(cpu: &mut Cpu, i: &Insn, bytes: usize) -> Result<V, Stop> {
    let offset = cpu.effective_address(i);
    load_at(cpu, i.segment(), offset, bytes)
}

/// As [`load`], at an offset in a segment.
pub fn load_at(cpu: &mut Cpu, segment: u8, offset: u64, bytes: usize) -> Result<V, Stop> {
    let mut v = [0; 8];
    match bytes {
        1 => v[0] = cpu.read::<u8>(segment, offset)?.into(),
        2 => v[0] = cpu.read::<u16>(segment, offset)?.into(),
        4 => v[0] = cpu.read::<u32>(segment, offset)?.into(),
        8 => v[0] = cpu.read(segment, offset)?,
        16 => v[..2].copy_from_slice(&cpu.read::<[u64; 2]>(segment, offset)?),
        32 => v[..4].copy_from_slice(&cpu.read::<[u64; 4]>(segment, offset)?),
        _ => v = cpu.read(segment, offset)?,
    }
    Ok(v)
}

/// As [`load_at`], without alignment check: elements of masked operands.
pub fn load_element(cpu: &mut Cpu, segment: u8, offset: u64, bytes: usize) -> Result<V, Stop> {
    if !cpu.alignment_checked() {
        return load_at(cpu, segment, offset, bytes);
    }
    let mut data = [0; 64];
    cpu.read_bytes(segment, offset, &mut data[..bytes])?;
    Ok(zerocopy::transmute!(data))
}

/// As [`store_at`], without alignment check.
pub fn store_element(cpu: &mut Cpu, segment: u8, offset: u64, v: &V, bytes: usize) -> Result<(), Stop> {
    if !cpu.alignment_checked() {
        return store_at(cpu, segment, offset, v, bytes);
    }
    let data: &[u8; 64] = transmute_ref!(v);
    cpu.write_bytes(segment, offset, &data[..bytes])
}

/// Stores the low `bytes` bytes of a vector.
pub fn store_at(cpu: &mut Cpu, segment: u8, offset: u64, v: &V, bytes: usize) -> Result<(), Stop> {
    match bytes {
        1 => cpu.write(segment, offset, v[0] as u8),
        2 => cpu.write(segment, offset, v[0] as u16),
        4 => cpu.write(segment, offset, v[0] as u32),
        8 => cpu.write(segment, offset, v[0]),
        16 => cpu.write(segment, offset, [v[0], v[1]]),
        32 => cpu.write(segment, offset, [v[0], v[1], v[2], v[3]]),
        _ => cpu.write(segment, offset, *v),
    }
}

/// Loads one element and repeats it over the vector.
fn broadcast(cpu: &mut Cpu, i: &Insn, element: usize) -> Result<V, Stop> {
    check_masked_element(cpu, i, element)?;
    let v = load(cpu, i, element)?;
    Ok(match element {
        2 => [v[0] & 0xffff, 0, 0, 0, 0, 0, 0, 0].map(|_: u64| (v[0] & 0xffff) * 0x0001_0001_0001_0001),
        4 => [v[0] | v[0] << 32; 8],
        _ => [v[0]; 8],
    })
}

/// Whether a masked operand of `bytes` bytes is read as if it had no mask: all lanes are active, and the order of #GP and
/// #AC, which differs, is not in question.
#[inline]
pub fn read_whole(cpu: &Cpu, i: &Insn, bytes: usize, lanes: usize, mask: u64) -> bool {
    mask == ones(lanes) && (i.opmask() == 0 || bytes > 8 && !cpu.model.is_amd())
}

/// Before the load of an active element of a masked instruction: it must be inside the segment wholly before #AC is
/// looked at.
#[inline(always)]
pub fn check_masked_element(cpu: &mut Cpu, i: &Insn, size: usize) -> Result<(), Stop> {
    if i.opmask() != 0 {
        let offset = cpu.effective_address(i);
        cpu.check_segment(i.segment(), offset, size as u64, Kind::Read)?;
    }
    Ok(())
}

/// #AC of a masked operand: it knows operands of up to 8 bytes only, and looks at the whole one. On silicon #GP or #SS of
/// an active lane comes first: a load's for all of the lane, a store's only if the lane begins outside.
pub fn check_operand_alignment(
    cpu: &mut Cpu,
    i: &Insn,
    size: usize,
    lanes: usize,
    mask: u64,
    kind: Kind,
) -> Result<(), Stop> {
    if mask == 0 || !cpu.alignment_checked() {
        return Ok(());
    }
    let linear = cpu.fast[usize::from(i.segment() & 7)].base.wrapping_add(cpu.effective_address(i));
    if cpu.model.is_amd() {
        // Each element is an access of its own; what its segment or address forbids comes first.
        let first = (mask.trailing_zeros() as usize * size) as u64;
        let offset = cpu.effective_address(i).wrapping_add(first);
        cpu.check_segment(i.segment(), offset, size as u64, kind)?;
        return if linear & (size as u64 - 1) != 0 { Err(cpu.ac()) } else { Ok(()) };
    }
    let bytes = size * lanes;
    if bytes > 8 {
        return Ok(());
    }
    let _checked = active_lanes(cpu, i, size, lanes, mask, kind, if kind == Kind::Write { 1 } else { size })?;
    if linear & (bytes as u64 - 1) != 0 { Err(cpu.ac()) } else { Ok(()) }
}

/// The offsets of the active ones of `lanes` lanes of `size` bytes, after the checks of the segment for the first
/// `checked` bytes of each.
fn active_lanes(
    cpu: &mut Cpu,
    i: &Insn,
    size: usize,
    lanes: usize,
    mask: u64,
    kind: Kind,
    checked: usize,
) -> Result<impl Iterator<Item = (usize, u64)> + Clone + use<>, Stop> {
    let start = cpu.effective_address(i);
    // Each of the accesses of AMD's VMASKMOVPS and kin wraps at the address size; other operands are one.
    let amd = cpu.model.is_amd();
    let width = if amd && i.code().encoding() == EncodingKind::VEX { i.address_mask() } else { u64::MAX };
    let active = (0..lanes)
        .filter(move |n| mask >> n & 1 != 0)
        .map(move |n| (n, start.wrapping_add((n * size) as u64) & width));
    for (_, offset) in active.clone() {
        let linear = cpu.check_segment(i.segment(), offset, checked as u64, kind)?;
        if amd {
            // Element by element: a page fault of one comes before #GP of the next.
            cpu.probe_linear(linear, size as u64, kind)?;
        }
    }
    Ok(active)
}

/// Loads the active ones of `lanes` lanes of `size` bytes and no others; lanes that are not loaded are zero.
pub fn load_lanes(cpu: &mut Cpu, i: &Insn, size: usize, lanes: usize, mask: u64) -> Result<V, Stop> {
    check_operand_alignment(cpu, i, size, lanes, mask, Kind::Read)?;
    load_lanes_unchecked(cpu, i, size, lanes, mask)
}

/// As [`load_lanes`], without alignment check.
pub fn load_lanes_unchecked(
    cpu: &mut Cpu,
    i: &Insn,
    size: usize,
    lanes: usize,
    mask: u64,
) -> Result<V, Stop> {
    let active = active_lanes(cpu, i, size, lanes, mask, Kind::Read, size)?;
    let mut v = [0; 8];
    let bytes: &mut [u8; 64] = transmute_mut!(&mut v);
    for (n, offset) in active {
        let lane = load_element(cpu, i.segment(), offset, size)?;
        let lane: &[u8; 64] = transmute_ref!(&lane);
        bytes[n * size..(n + 1) * size].copy_from_slice(&lane[..size]);
    }
    Ok(v)
}

/// Stores the active lanes of `size` bytes and no others; nothing is written if one of them faults.
pub fn store_lanes(cpu: &mut Cpu, i: &Insn, v: &V, size: usize, lanes: usize, mask: u64) -> Result<(), Stop> {
    if mask == ones(lanes) && i.opmask() == 0 {
        let start = cpu.effective_address(i);
        return store_at(cpu, i.segment(), start, v, size * lanes);
    }
    check_operand_alignment(cpu, i, size, lanes, mask, Kind::Write)?;
    store_lanes_unchecked(cpu, i, v, size, lanes, mask)
}

/// As [`store_lanes`], without alignment check.
pub fn store_lanes_unchecked(
    cpu: &mut Cpu,
    i: &Insn,
    v: &V,
    size: usize,
    lanes: usize,
    mask: u64,
) -> Result<(), Stop> {
    let bytes: &[u8; 64] = transmute_ref!(v);
    for (n, offset) in probe_store(cpu, i, size, lanes, mask)? {
        cpu.write_bytes(i.segment(), offset, &bytes[n * size..(n + 1) * size])?;
    }
    Ok(())
}

/// The faults of a store of the active lanes; their numbers and offsets.
pub fn probe_store(
    cpu: &mut Cpu,
    i: &Insn,
    size: usize,
    lanes: usize,
    mask: u64,
) -> Result<impl Iterator<Item = (usize, u64)> + Clone + use<>, Stop> {
    let start = cpu.effective_address(i);
    let active = active_lanes(cpu, i, size, lanes, mask, Kind::Write, size)?;
    if cpu.model.is_amd() {
        return Ok(active);
    }
    let linear = cpu.fast[usize::from(i.segment() & 7)].base.wrapping_add(start);
    let room = PAGE_SIZE - (linear & PAGE_MASK);
    let bounds = (active.clone().next(), active.clone().last());
    if let (Some((first, first_offset)), Some((last, last_offset))) = bounds
        && ((first * size) as u64) < room
        && ((last + 1) * size) as u64 > room
    {
        // Across two pages: silicon reports a fault on the second one at the last byte that would be written.
        cpu.probe(i.segment(), first_offset, 1, Kind::Write)?;
        cpu.probe(i.segment(), last_offset.wrapping_add(size as u64 - 1), 1, Kind::Write)?;
    } else if let Some((_, offset)) = bounds.0 {
        cpu.probe(i.segment(), offset, 1, Kind::Write)?;
    }
    Ok(active)
}
