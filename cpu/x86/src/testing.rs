//! A processor for unit tests: a little memory, and nothing else.

use crate::Cpu;
use crate::decode::{Decoded, decode};
use crate::model::Model;
use iced_x86::{Decoder, Instruction};
use ringworld_core::{CpuId, GuestPhys, InterruptMessage, IoContext, Platform, PlatformAttention};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use std::sync::Arc;

/// Nothing answers.
#[derive(Default)]
struct Empty(PlatformAttention);

impl Platform for Empty {
    fn mmio_read(&self, _: IoContext, _: GuestPhys, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: IoContext, _: GuestPhys, _: &[u8]) {}
    fn port_read(&self, _: IoContext, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, _: IoContext, _: u16, _: &[u8]) {}
    fn acknowledge(&self, _: IoContext) -> u8 {
        0xff
    }
    fn send(&self, _: IoContext, _: InterruptMessage) {}
    fn end_of_interrupt(&self, _: IoContext, _: u8) {}
    fn attention(&self) -> &PlatformAttention {
        &self.0
    }
}

/// A processor after reset, with 2 MiB of memory and all features of its model.
pub fn cpu(model: &str) -> Cpu {
    let region = MemoryRegion { base: GuestPhys(0), size: 2 << 20, kind: RegionKind::Ram };
    let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
    Cpu::new(CpuId(0), Arc::new(Model::as_if_complete(model)), memory, Arc::new(Empty::default()))
}

/// Puts the processor into flat 64-bit code at CPL 0, without paging: enough for instructions run by [`run`].
pub fn long_mode(cpu: &mut Cpu) {
    use crate::control::{cr0, cr4, efer};
    cpu.cr0 |= cr0::PE;
    cpu.cr4 |= cr4::OSFXSR;
    cpu.efer = efer::LME | efer::LMA;
    cpu.seg[crate::insn::seg::CS as usize].rights |= crate::segment::rights::L;
    cpu.update_mode();
}

/// Decodes one instruction and runs it; the vector of its exception if it raises one.
pub fn run(cpu: &mut Cpu, bytes: &[u8]) -> Result<(), u8> {
    let model = cpu.model.clone();
    let bits = cpu.mode.bitness();
    let mut decoder = Decoder::with_ip(bits, bytes, cpu.rip(), model.decoder_options());
    let Decoded::Instruction(insn, _) = decode(&mut decoder, &mut Instruction::default(), cpu.mode, &model)
    else {
        panic!("{bytes:x?} is no whole instruction");
    };
    (insn.exec)(cpu, &insn).map_err(|_| cpu.pending.vector)
}
