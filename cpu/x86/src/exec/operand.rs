//! Integers and general-register operands.

use crate::Cpu;
use crate::mem::MemValue;

/// An operand size: u8, u16, u32 or u64.
pub trait Int: MemValue + Eq + Ord + core::fmt::Debug {
    /// Width in bits.
    const BITS: u32;
    /// All ones, zero-extended.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);
    /// Truncates.
    fn of(value: u64) -> Self;
    /// Zero-extends.
    fn zx(self) -> u64;
    /// Sign-extends.
    fn sx(self) -> u64;
    /// Reads a general register by its number in an [`crate::Insn`].
    fn get(cpu: &Cpu, r: u8) -> Self;
    /// Writes a general register: 8- and 16-bit writes keep the rest, 32-bit writes clear the upper half.
    fn set(cpu: &mut Cpu, r: u8, value: Self);
}

impl Int for u8 {
    const BITS: u32 = 8;
    #[inline(always)]
    fn of(value: u64) -> Self {
        value as u8
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        self.into()
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self as i8 as i64 as u64
    }
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> Self {
        // Bit 5 marks AH, CH, DH, BH: a shift by 8.
        (cpu.regs[(r & 15) as usize] >> (r >> 2 & 8)) as u8
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, value: Self) {
        let shift = r >> 2 & 8;
        let register = &mut cpu.regs[(r & 15) as usize];
        *register = *register & !(0xff << shift) | u64::from(value) << shift;
    }
}

impl Int for u16 {
    const BITS: u32 = 16;
    #[inline(always)]
    fn of(value: u64) -> Self {
        value as u16
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        self.into()
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self as i16 as i64 as u64
    }
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> Self {
        cpu.regs[(r & 15) as usize] as u16
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, value: Self) {
        let register = &mut cpu.regs[(r & 15) as usize];
        *register = *register & !0xffff | u64::from(value);
    }
}

impl Int for u32 {
    const BITS: u32 = 32;
    #[inline(always)]
    fn of(value: u64) -> Self {
        value as u32
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        self.into()
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self as i32 as i64 as u64
    }
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> Self {
        cpu.regs[(r & 15) as usize] as u32
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, value: Self) {
        cpu.regs[(r & 15) as usize] = value.into();
    }
}

impl Int for u64 {
    const BITS: u32 = 64;
    #[inline(always)]
    fn of(value: u64) -> Self {
        value
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        self
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self
    }
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> Self {
        cpu.regs[(r & 15) as usize]
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, value: Self) {
        cpu.regs[(r & 15) as usize] = value;
    }
}

/// Where an operand is; implemented by [`R`], [`Mem`] and [`Imm`].
pub trait Source {
    /// The operand is in the instruction.
    const IMMEDIATE: bool = false;
    /// Reads it.
    fn read<T: Int>(cpu: &mut Cpu, i: &crate::Insn) -> Result<T, crate::Stop>;
}

/// A place that can be read, written, and modified.
pub trait Place: Source {
    /// Whether it is in memory.
    const MEMORY: bool = false;
    /// Writes it.
    fn write<T: Int>(cpu: &mut Cpu, i: &crate::Insn, value: T) -> Result<(), crate::Stop>;
    /// Reads it, and writes what `f` makes of it; faults before `f` runs.
    fn modify<T: Int>(
        cpu: &mut Cpu,
        i: &crate::Insn,
        f: impl FnOnce(&mut Cpu, T) -> T,
    ) -> Result<(), crate::Stop>;
}

/// Register operand number `N`.
pub struct R<const N: usize>;
/// The memory operand.
pub struct Mem;
/// The immediate.
pub struct Imm;
/// The accumulator.
pub struct Acc;
/// CL.
pub struct Cl;
/// The constant one.
pub struct One;

impl<const N: usize> Source for R<N> {
    #[inline(always)]
    fn read<T: Int>(cpu: &mut Cpu, i: &crate::Insn) -> Result<T, crate::Stop> {
        Ok(T::get(cpu, i.r[N]))
    }
}

impl<const N: usize> Place for R<N> {
    #[inline(always)]
    fn write<T: Int>(cpu: &mut Cpu, i: &crate::Insn, value: T) -> Result<(), crate::Stop> {
        T::set(cpu, i.r[N], value);
        Ok(())
    }
    #[inline(always)]
    fn modify<T: Int>(
        cpu: &mut Cpu,
        i: &crate::Insn,
        f: impl FnOnce(&mut Cpu, T) -> T,
    ) -> Result<(), crate::Stop> {
        let old = T::get(cpu, i.r[N]);
        let new = f(cpu, old);
        T::set(cpu, i.r[N], new);
        Ok(())
    }
}

impl Source for Mem {
    #[inline(always)]
    fn read<T: Int>(cpu: &mut Cpu, i: &crate::Insn) -> Result<T, crate::Stop> {
        cpu.load(i)
    }
}

impl Place for Mem {
    const MEMORY: bool = true;
    #[inline(always)]
    fn write<T: Int>(cpu: &mut Cpu, i: &crate::Insn, value: T) -> Result<(), crate::Stop> {
        cpu.store(i, value)
    }
    #[inline(always)]
    fn modify<T: Int>(
        cpu: &mut Cpu,
        i: &crate::Insn,
        f: impl FnOnce(&mut Cpu, T) -> T,
    ) -> Result<(), crate::Stop> {
        cpu.modify(i, f)
    }
}

impl Source for Imm {
    const IMMEDIATE: bool = true;
    #[inline(always)]
    fn read<T: Int>(_: &mut Cpu, i: &crate::Insn) -> Result<T, crate::Stop> {
        Ok(T::of(i.imm))
    }
}

impl Source for Acc {
    #[inline(always)]
    fn read<T: Int>(cpu: &mut Cpu, _: &crate::Insn) -> Result<T, crate::Stop> {
        Ok(T::get(cpu, 0))
    }
}

impl Source for Cl {
    #[inline(always)]
    fn read<T: Int>(cpu: &mut Cpu, _: &crate::Insn) -> Result<T, crate::Stop> {
        Ok(T::of(cpu.regs[1] & 0xff))
    }
}

impl Source for One {
    #[inline(always)]
    fn read<T: Int>(_: &mut Cpu, _: &crate::Insn) -> Result<T, crate::Stop> {
        Ok(T::of(1))
    }
}
