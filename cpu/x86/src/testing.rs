//! A processor for unit tests: a little memory, and nothing else.

use crate::Cpu;
use crate::model::Model;
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
