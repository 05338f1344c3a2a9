//! The interface between a CPU and everything outside of its package.
//!
//! A CPU reaches devices through [`Platform`]; the platform's answers to the CPU (interrupts, INIT, a changed INTR
//! line) do not call back: they raise [`PlatformAttention`], the CPU ends its run after the current instruction, and the
//! machine's loop delivers them. So both engines see them at the same instruction.

use crate::{GuestPhys, VirtualTime};
use core::sync::atomic::{AtomicBool, Ordering};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A CPU's number in the machine, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct CpuId(pub u32);

/// Who accesses a device, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoContext {
    /// The accessing CPU.
    pub cpu: CpuId,
    /// The CPU's virtual time at the access.
    pub now: VirtualTime,
}

/// Which interrupt controllers an [`InterruptMessage`] is for (SDM 3A 12.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Destination {
    /// The controller with this ID; `0xff` (xAPIC) and `0xffff_ffff` (x2APIC) mean all.
    Physical(u32),
    /// The controllers whose logical ID matches this message destination address.
    Logical(u32),
    /// The sender only.
    Own,
    /// All, with the sender.
    All,
    /// All but the sender.
    Others,
}

/// What a message does at its destination (SDM 3A 12.6.1, 12.11.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Delivery {
    /// Interrupt with the message's vector.
    Fixed,
    /// As [`Delivery::Fixed`], at the one destination with the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI; the message's vector is the start page.
    StartUp,
    /// The vector comes from the 8259 by an INTA cycle.
    ExtInt,
    /// A processor's doorbell (AMD's AVIC): its guest's interrupts are looked at again.
    Doorbell,
}

/// How an interrupt line signals.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum TriggerMode {
    /// Once, on the rising edge.
    #[default]
    Edge,
    /// As long as the line is asserted; wants an EOI.
    Level,
}

/// An interrupt on its way to the local interrupt controllers (an IPI, an IOAPIC's message or an MSI).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct InterruptMessage {
    /// The sending CPU of an IPI; `None` for a device's message.
    pub source: Option<CpuId>,
    /// For whom.
    pub destination: Destination,
    /// What it does there.
    pub delivery: Delivery,
    /// The vector.
    pub vector: u8,
    /// Edge or level.
    pub trigger: TriggerMode,
    /// Assert (true) or de-assert.
    pub assert: bool,
}

/// Raised by the platform when the machine's loop has something to deliver (or the user wants to stop).
#[derive(Clone, Default, Debug)]
pub struct PlatformAttention(Arc<AtomicBool>);

impl PlatformAttention {
    /// Asks every CPU to end its run at the next instruction boundary at which it looks.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody asked.
    #[inline(always)]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Takes the request back, saying whether there was one.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// What is outside of the CPU: memory-mapped devices, I/O ports, the way to other CPUs.
///
/// Methods take `&self`: the board behind them holds its own lock, as several CPUs share it.
pub trait Platform: Send + Sync {
    /// Reads `data.len()` (1 to 64) bytes at `addr`. Where nothing answers, all bits read as one.
    fn mmio_read(&self, ctx: IoContext, addr: GuestPhys, data: &mut [u8]);

    /// Writes `data` (1 to 64 bytes) at `addr`. Where nothing answers, the write is lost.
    fn mmio_write(&self, ctx: IoContext, addr: GuestPhys, data: &[u8]);

    /// Reads 1, 2 or 4 bytes at an I/O port.
    fn port_read(&self, ctx: IoContext, port: u16, data: &mut [u8]);

    /// Writes 1, 2 or 4 bytes at an I/O port.
    fn port_write(&self, ctx: IoContext, port: u16, data: &[u8]);

    /// The INTA cycle: the vector of the highest-priority request of the legacy controller; its spurious vector if the
    /// request has gone away.
    fn acknowledge(&self, ctx: IoContext) -> u8;

    /// Sends an interrupt to local interrupt controllers.
    fn send(&self, ctx: IoContext, message: InterruptMessage);

    /// A local controller's EOI of a level-triggered vector (goes to the I/O interrupt controllers).
    fn end_of_interrupt(&self, ctx: IoContext, vector: u8);

    /// The FERR# pin: a processor with CR0.NE clear stands before an unmasked x87 exception, or no longer does. Returns the IGNNE#
    /// pin: whether it is to go on nevertheless (SDM 1 8.7.2, D.2). Where nothing is attached it is.
    fn numeric_error(&self, _ctx: IoContext, _pending: bool) -> bool {
        true
    }

    /// The flag that this platform raises.
    fn attention(&self) -> &PlatformAttention;
}

/// No devices: all bits read as one, writes are lost, no interrupt comes. For processors that run code by themselves.
#[derive(Default)]
pub struct NoDevices(PlatformAttention);

impl Platform for NoDevices {
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
