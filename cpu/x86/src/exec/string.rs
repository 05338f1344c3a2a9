//! String instructions and their repetition.
//!
//! A repeated instruction runs in parts. After each part the registers show how far it has come, and RIP is at the
//! instruction again if it is not done: interrupts are taken there, as the manual wants (SDM 2B, REP).

use super::io::IoSize;
use super::operand::*;
use crate::flags::bits;
use crate::insn::{prefix, seg};
use crate::mem::Kind;
use crate::row::Rows;
use crate::state::gpr::*;
use crate::virt::IoAccess;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

/// Most elements of one part.
const PART: u64 = 4096;

/// One step of a string instruction: an element, or several at once. Returns the number of elements (at least 1).
trait Step {
    /// SCAS and CMPS end when ZF differs from the prefix.
    const COMPARES: bool;
    /// The registers that Intel's silicon truncates to a 32-bit address size at once, even if nothing is moved.
    const TRUNCATES: &[usize] = &[RCX];
    /// What is checked even if the count is zero.
    fn check<T: Int>(_: &mut Cpu) -> Result<(), Stop> {
        Ok(())
    }
    /// Handles up to `most` elements.
    fn step<T: Int>(cpu: &mut Cpu, i: &Insn, most: u64) -> Result<u64, Stop>;
}

fn masked(cpu: &Cpu, i: &Insn, register: usize) -> u64 {
    cpu.regs[register] & i.address_mask()
}

/// Adds to RSI, RDI or RCX at the address size.
fn advance(cpu: &mut Cpu, i: &Insn, register: usize, by: u64) {
    let new = cpu.regs[register].wrapping_add(by);
    cpu.regs[register] = match i.address_bytes() {
        2 => cpu.regs[register] & !0xffff | new & 0xffff,
        4 => new & 0xffff_ffff,
        _ => new,
    };
}

/// The signed size of `n` elements in the direction of DF.
fn distance<T: Int>(cpu: &Cpu, n: u64) -> u64 {
    let bytes = T::SIZE.wrapping_mul(n);
    if cpu.flags.has(bits::DF) { bytes.wrapping_neg() } else { bytes }
}

fn es(cpu: &Cpu) -> u8 {
    if cpu.long64() { seg::FLAT } else { seg::ES }
}

fn run<S: Step, T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if i.prefixes & (prefix::REP | prefix::REPNE) == 0 {
        S::check::<T>(cpu)?;
        S::step::<T>(cpu, i, 1)?;
        return Ok(());
    }
    S::check::<T>(cpu)?;
    if i.address_bytes() == 4 && !cpu.model.is_amd() {
        for &register in S::TRUNCATES {
            advance(cpu, i, register, 0);
        }
    }
    let flags = cpu.flags;
    let boundary = cpu.boundary;
    let mut part = if cpu.stepping { 1 } else { PART };
    loop {
        let left = masked(cpu, i, RCX);
        if left == 0 {
            return Ok(());
        }
        if part == 0 {
            break;
        }
        let done = match S::step::<T>(cpu, i, left.min(part)) {
            Ok(done) => done,
            Err(stop) => {
                // A fault restores the flags that CMPS and SCAS have changed (SDM 2B, REP); AMD keeps the last iteration's.
                if !cpu.model.is_amd() {
                    cpu.flags = flags;
                }
                return Err(stop);
            }
        };
        advance(cpu, i, RCX, done.wrapping_neg());
        part -= done;
        if S::COMPARES && cpu.flags.zf() == until_equal(i) {
            return Ok(());
        }
        if masked(cpu, i, RCX) != 0 && (cpu.boundary != boundary || cpu.pending_db != 0) {
            // A device or a data breakpoint wants a look: the latter also where RF wants one anyway. (Changed code does not: how much is decoded is the engine's
            // affair.)
            break;
        }
    }
    cpu.go_on_later(i);
    Ok(())
}

/// Whether SCAS and CMPS end at equal elements.
fn until_equal(i: &Insn) -> bool {
    i.prefixes & prefix::REPNE != 0
}

/// How many of up to `most` elements, at these offsets in these segments, may be handled at once: none, if it would be only one.
fn many<T: Int>(cpu: &Cpu, most: u64, down: bool, places: &[(u8, u64)]) -> Option<u64> {
    if most <= 1 {
        return None;
    }
    let in_page = |&(segment, offset): &(u8, u64)| cpu.elements_in_page::<T>(segment, offset, down);
    let many = places.iter().map(in_page).fold(most, u64::min);
    (many > 1).then_some(many)
}

/// The same, for what handles many going upwards only.
fn many_up<T: Int>(cpu: &Cpu, most: u64, places: &[(u8, u64)]) -> Option<u64> {
    if cpu.flags.has(bits::DF) { None } else { many::<T>(cpu, most, false, places) }
}

/// The lowest of `n` elements from `offset` on.
fn lowest<T: Int>(offset: u64, n: u64, down: bool) -> u64 {
    if down { offset - T::SIZE * (n - 1) } else { offset }
}

struct Movs;
impl Step for Movs {
    const COMPARES: bool = false;
    const TRUNCATES: &[usize] = &[RCX, RSI, RDI];
    #[inline(always)]
    fn step<T: Int>(cpu: &mut Cpu, i: &Insn, most: u64) -> Result<u64, Stop> {
        let (from, to) = (masked(cpu, i, RSI), masked(cpu, i, RDI));
        let down = cpu.flags.has(bits::DF);
        let (source, target) = (i.segment(), es(cpu));
        let many = many::<T>(cpu, most, down, &[(source, from), (target, to)]);
        let value = cpu.read::<T>(source, from)?;
        let sources = many.and_then(|n| cpu.elements::<T>(source, lowest::<T>(from, n, down), n, Kind::Read));
        cpu.write(target, to, value)?;
        let targets = many.and_then(|n| cpu.elements::<T>(target, lowest::<T>(to, n, down), n, Kind::Write));
        let n = match (many, sources, targets) {
            (Some(n), Some(sources), Some(targets))
                if sources.rest(down).copy_to(targets.rest(down), down) =>
            {
                n
            }
            _ => 1,
        };
        let by = distance::<T>(cpu, n);
        advance(cpu, i, RSI, by);
        advance(cpu, i, RDI, by);
        Ok(n)
    }
}

struct Stos;
impl Step for Stos {
    const COMPARES: bool = false;
    const TRUNCATES: &[usize] = &[RCX, RDI];
    #[inline(always)]
    fn step<T: Int>(cpu: &mut Cpu, i: &Insn, most: u64) -> Result<u64, Stop> {
        let to = masked(cpu, i, RDI);
        let value = T::get(cpu, RAX as u8);
        let down = cpu.flags.has(bits::DF);
        let target = es(cpu);
        cpu.write(target, to, value)?;
        let mut n = 1;
        if let Some(many) = many::<T>(cpu, most, down, &[(target, to)])
            && let Some(targets) = cpu.elements::<T>(target, lowest::<T>(to, many, down), many, Kind::Write)
        {
            targets.fill(value);
            n = many;
        }
        let by = distance::<T>(cpu, n);
        advance(cpu, i, RDI, by);
        Ok(n)
    }
}

struct Lods;
impl Step for Lods {
    const COMPARES: bool = false;
    #[inline(always)]
    fn step<T: Int>(cpu: &mut Cpu, i: &Insn, _: u64) -> Result<u64, Stop> {
        let value = cpu.read::<T>(i.segment(), masked(cpu, i, RSI))?;
        T::set(cpu, RAX as u8, value);
        let by = distance::<T>(cpu, 1);
        advance(cpu, i, RSI, by);
        Ok(1)
    }
}

struct Scas;
impl Step for Scas {
    const COMPARES: bool = true;
    #[inline(always)]
    fn step<T: Int>(cpu: &mut Cpu, i: &Insn, most: u64) -> Result<u64, Stop> {
        let (source, from) = (es(cpu), masked(cpu, i, RDI));
        let value = cpu.read::<T>(source, from)?;
        let accumulator = T::get(cpu, RAX as u8);
        cpu.sub(accumulator, value, false);
        let mut n = 1;
        if cpu.flags.zf() != until_equal(i)
            && let Some(many) = many_up::<T>(cpu, most, &[(source, from)])
            && let Some(elements) = cpu.elements::<T>(source, from, many, Kind::Read)
        {
            let rest = elements.rest(false);
            let last = rest.position(accumulator, until_equal(i)).unwrap_or(many as usize - 2);
            cpu.sub(accumulator, rest.get(last), false);
            n = last as u64 + 2;
        }
        let by = distance::<T>(cpu, n);
        advance(cpu, i, RDI, by);
        Ok(n)
    }
}

struct Cmps;
impl Step for Cmps {
    const COMPARES: bool = true;
    #[inline(always)]
    fn step<T: Int>(cpu: &mut Cpu, i: &Insn, most: u64) -> Result<u64, Stop> {
        // Which is read first shows if both fault: ES:RDI on silicon, but DS:RSI by a fast REPE CMPSB (Zen 4; not Zen 3).
        if T::BITS == 8
            && i.prefixes & prefix::REP != 0
            && cpu.model.is_amd()
            && cpu.model.has(crate::model::Feature::Fsrc)
        {
            cpu.read::<T>(i.segment(), masked(cpu, i, RSI))?;
        }
        let ((one, from), (other, to)) = ((i.segment(), masked(cpu, i, RSI)), (es(cpu), masked(cpu, i, RDI)));
        let many = many_up::<T>(cpu, most, &[(one, from), (other, to)]);
        let b = cpu.read::<T>(other, to)?;
        let others = many.and_then(|n| cpu.elements::<T>(other, to, n, Kind::Read));
        let a = cpu.read::<T>(one, from)?;
        let ones = many.and_then(|n| cpu.elements::<T>(one, from, n, Kind::Read));
        cpu.sub(a, b, false);
        let mut n = 1;
        if cpu.flags.zf() != until_equal(i)
            && let (Some(many), Some(ones), Some(others)) = (many, ones, others)
        {
            let (ones, others) = (ones.rest(false), others.rest(false));
            let last = ones.position_beside(others, until_equal(i)).unwrap_or(many as usize - 2);
            cpu.sub(ones.get(last), others.get(last), false);
            n = last as u64 + 2;
        }
        let by = distance::<T>(cpu, n);
        advance(cpu, i, RSI, by);
        advance(cpu, i, RDI, by);
        Ok(n)
    }
}

struct Ins;
impl Step for Ins {
    const COMPARES: bool = false;
    const TRUNCATES: &[usize] = &[];
    fn check<T: Int>(cpu: &mut Cpu) -> Result<(), Stop> {
        cpu.check_io(cpu.regs[RDX] as u16, IoSize::of::<T>())
    }
    fn step<T: Int>(cpu: &mut Cpu, i: &Insn, _: u64) -> Result<u64, Stop> {
        let port = cpu.regs[RDX] as u16;
        let size = IoSize::of::<T>();
        // The store may fault: it must be known before the device is read.
        let to = masked(cpu, i, RDI);
        let string = Some((es(cpu), to));
        cpu.intercept_io(IoAccess { port, size: size.bytes(), input: true, immediate: false, string }, i)?;
        cpu.probe(es(cpu), to, T::SIZE, Kind::Write)?;
        let value = T::of(cpu.port_in(port, size).into());
        cpu.write(es(cpu), to, value)?;
        let by = distance::<T>(cpu, 1);
        advance(cpu, i, RDI, by);
        Ok(1)
    }
}

struct Outs;
impl Step for Outs {
    const COMPARES: bool = false;
    const TRUNCATES: &[usize] = &[];
    fn check<T: Int>(cpu: &mut Cpu) -> Result<(), Stop> {
        cpu.check_io(cpu.regs[RDX] as u16, IoSize::of::<T>())
    }
    fn step<T: Int>(cpu: &mut Cpu, i: &Insn, _: u64) -> Result<u64, Stop> {
        let port = cpu.regs[RDX] as u16;
        let size = IoSize::of::<T>();
        let from = masked(cpu, i, RSI);
        let string = Some((i.segment(), from));
        cpu.intercept_io(IoAccess { port, size: size.bytes(), input: false, immediate: false, string }, i)?;
        let value = cpu.read::<T>(i.segment(), from)?;
        cpu.port_out(port, size, value.zx() as u32);
        let by = distance::<T>(cpu, 1);
        advance(cpu, i, RSI, by);
        Ok(1)
    }
}

macro_rules! string_rows {
    ($rows:ident, $($op:ident: $($code:ident $t:ty),*;)*) => {$($(
        $rows.add(Code::$code, run::<$op, $t>);
    )*)*};
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    string_rows! { rows,
        Movs: Movsb_m8_m8 u8, Movsw_m16_m16 u16, Movsd_m32_m32 u32, Movsq_m64_m64 u64;
        Stos: Stosb_m8_AL u8, Stosw_m16_AX u16, Stosd_m32_EAX u32, Stosq_m64_RAX u64;
        Lods: Lodsb_AL_m8 u8, Lodsw_AX_m16 u16, Lodsd_EAX_m32 u32, Lodsq_RAX_m64 u64;
        Scas: Scasb_AL_m8 u8, Scasw_AX_m16 u16, Scasd_EAX_m32 u32, Scasq_RAX_m64 u64;
        Cmps: Cmpsb_m8_m8 u8, Cmpsw_m16_m16 u16, Cmpsd_m32_m32 u32, Cmpsq_m64_m64 u64;
        Ins: Insb_m8_DX u8, Insw_m16_DX u16, Insd_m32_DX u32;
        Outs: Outsb_DX_m8 u8, Outsw_DX_m16 u16, Outsd_DX_m32 u32;
    }
}
