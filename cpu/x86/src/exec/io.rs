//! IN and OUT, and their permission (SDM 1 19.5).

use super::operand::*;
use crate::row::Rows;
use crate::state::gpr::*;
use crate::virt::IoAccess;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

/// Size of a port access in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoSize(u8);

impl IoSize {
    /// In bytes.
    pub fn bytes(self) -> u8 {
        self.0
    }

    /// The size of an operand type.
    pub fn of<T: Int>() -> Self {
        Self((T::BITS / 8) as u8)
    }
}

/// What a port access takes, in nanoseconds: eight clocks of the 8.33 MHz ISA bus, which LPC keeps to (Intel LPC 1.1
/// chapter 6). Guests count on about a microsecond: they wait by reading ports, and calibrate clocks against port reads.
const PORT_NS: u64 = 960;

impl Cpu {
    /// Raises #GP(0) if neither IOPL nor the TSS's I/O permission bitmap allows the access.
    pub(crate) fn check_io(&mut self, port: u16, size: IoSize) -> Result<(), Stop> {
        if !self.protected() || (self.cpl <= self.flags.iopl() && !self.v8086()) {
            return Ok(());
        }
        // A 32- or 64-bit TSS that reaches beyond its I/O map base (offset 0x66).
        let tss = self.tr;
        if tss.unusable || !matches!(tss.kind(), 9 | 11) || tss.limit < 103 {
            return Err(self.gp0());
        }
        let map: u16 = self.read_system(tss.base.wrapping_add(0x66))?;
        let byte = u32::from(map) + u32::from(port) / 8;
        // Two bytes are read, as the bits of an access may span them.
        if byte + 1 > tss.limit {
            return Err(self.gp0());
        }
        let bits: u16 = self.read_system(tss.base.wrapping_add(byte.into()))?;
        let wanted = ((1_u16 << size.0) - 1) << (port & 7);
        if bits & wanted != 0 { Err(self.gp0()) } else { Ok(()) }
    }

    /// Reads a port.
    pub(crate) fn port_in(&mut self, port: u16, size: IoSize) -> u32 {
        self.counters.port_io += 1;
        let mut data = [0; 4];
        let platform = self.platform.clone();
        platform.port_read(self.io_context(), port, &mut data[..usize::from(size.0)]);
        self.check_port_breakpoints(port, size.0.into());
        self.end_block();
        self.device_cycle(PORT_NS);
        u32::from_le_bytes(data)
    }

    /// Writes a port.
    pub(crate) fn port_out(&mut self, port: u16, size: IoSize, value: u32) {
        self.counters.port_io += 1;
        let platform = self.platform.clone();
        platform.port_write(self.io_context(), port, &value.to_le_bytes()[..usize::from(size.0)]);
        self.check_port_breakpoints(port, size.0.into());
        self.end_block();
        self.device_cycle(PORT_NS);
    }
}

fn input<T: Int>(cpu: &mut Cpu, i: &Insn, port: u16, immediate: bool) -> Result<(), Stop> {
    let size = IoSize::of::<T>();
    cpu.check_io(port, size)?;
    let access = IoAccess { port, size: size.0, input: true, immediate, string: None };
    cpu.intercept_io(access, i)?;
    let value = cpu.port_in(port, size);
    T::set(cpu, RAX as u8, T::of(value.into()));
    Ok(())
}

fn output<T: Int>(cpu: &mut Cpu, i: &Insn, port: u16, immediate: bool) -> Result<(), Stop> {
    let size = IoSize::of::<T>();
    cpu.check_io(port, size)?;
    let access = IoAccess { port, size: size.0, input: false, immediate, string: None };
    cpu.intercept_io(access, i)?;
    let value = T::get(cpu, RAX as u8).zx() as u32;
    cpu.port_out(port, size, value);
    Ok(())
}

fn in_imm<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    input::<T>(cpu, i, i.imm as u16 & 0xff, true)
}

fn in_dx<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    input::<T>(cpu, i, cpu.regs[RDX] as u16, false)
}

fn out_imm<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    output::<T>(cpu, i, i.imm as u16 & 0xff, true)
}

fn out_dx<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    output::<T>(cpu, i, cpu.regs[RDX] as u16, false)
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::In_AL_imm8, in_imm::<u8>);
    rows.add(Code::In_AX_imm8, in_imm::<u16>);
    rows.add(Code::In_EAX_imm8, in_imm::<u32>);
    rows.add(Code::In_AL_DX, in_dx::<u8>);
    rows.add(Code::In_AX_DX, in_dx::<u16>);
    rows.add(Code::In_EAX_DX, in_dx::<u32>);
    rows.add(Code::Out_imm8_AL, out_imm::<u8>);
    rows.add(Code::Out_imm8_AX, out_imm::<u16>);
    rows.add(Code::Out_imm8_EAX, out_imm::<u32>);
    rows.add(Code::Out_DX_AL, out_dx::<u8>);
    rows.add(Code::Out_DX_AX, out_dx::<u16>);
    rows.add(Code::Out_DX_EAX, out_dx::<u32>);
}
