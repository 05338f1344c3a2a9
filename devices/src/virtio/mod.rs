//! Virtio 1.2 devices: what a device implements ([`VirtioDevice`]), virtqueues, and the PCI transport.

mod balloon;
mod blk;
mod console;
mod net;
mod nine_p;
mod pci;
mod queue;
mod rng;
#[cfg(test)]
mod tests;
mod vsock;

pub use balloon::VirtioBalloon;
pub use blk::VirtioBlk;
pub use console::VirtioConsole;
pub use net::{NetworkBackend, VirtioNet};
pub use nine_p::{ShareBackend, Virtio9p};
pub use pci::virtio_pci;
pub use queue::{Chain, MAX_SIZE, NO_VECTOR, Queue, QueueError, Segment, gather, part, scatter, total};
pub use rng::VirtioRng;
pub use vsock::{SocketBackend, VSOCK_HEADER, VSOCK_MAX_DATA, VirtioVsock};

use crate::device::StateError;
use crate::dma::Dma;
use ringworld_core::{StateHasher, VirtualTime};

/// Device types (virtio 1.2, chapter 5).
pub mod device_type {
    #![allow(missing_docs, reason = "the device types' own names")]
    pub const NETWORK: u16 = 1;
    pub const BLOCK: u16 = 2;
    pub const CONSOLE: u16 = 3;
    pub const ENTROPY: u16 = 4;
    pub const BALLOON: u16 = 5;
    pub const NINE_P: u16 = 9;
    pub const SOCKET: u16 = 19;
}

/// A virtio device behind a transport.
pub trait VirtioDevice: Send {
    /// Its number of chapter 5.
    fn device_type(&self) -> u16;

    /// The PCI class code: base class, sub-class, programming interface.
    fn class(&self) -> u32;

    /// The feature bits of the device type (0 to 23 and from 50 on).
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each queue, a power of two up to [`MAX_SIZE`].
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads the device configuration; `data` comes zeroed.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let _ = (offset, data);
    }

    /// Writes the device configuration.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver has said DRIVER_OK, having taken these features.
    fn activate(&mut self, features: u64) {
        let _ = features;
    }

    /// There may be buffers in queue `index`.
    ///
    /// # Errors
    /// A ring that breaks the rules; the driver is then asked to reset the device.
    fn process(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError>;

    /// The driver has notified queue `index`; the device either looks at once (the default) or asks to be called later.
    ///
    /// # Errors
    /// As [`VirtioDevice::process`].
    fn notified(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        self.process(index, io)
    }

    /// The moment that [`VirtioIo::schedule`] asked for has come.
    ///
    /// # Errors
    /// As [`VirtioDevice::process`].
    fn timer(&mut self, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        let _ = io;
        Ok(())
    }

    /// Bytes from the host.
    ///
    /// # Errors
    /// As [`VirtioDevice::process`].
    fn input(&mut self, bytes: &[u8], io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        let _ = (bytes, io);
        Ok(())
    }

    /// Bytes from the host while no driver is at work. Most of them are lost then.
    fn input_without_driver(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// The driver resets queue `index`: its buffers are the driver's again.
    fn queue_reset(&mut self, index: usize) {
        let _ = index;
    }

    /// The driver, or a reset of the machine, resets the device.
    fn reset(&mut self);

    /// Adds the architectural state to `hasher`.
    fn hash_state(&self, hasher: &mut StateHasher);

    /// The state as bytes, for [`VirtioDevice::restore`].
    fn save(&self) -> Result<Vec<u8>, StateError>;

    /// Takes over a state that [`VirtioDevice::save`] wrote.
    fn restore(&mut self, image: &[u8]) -> Result<(), StateError>;
}

/// What a device has during one call.
pub struct VirtioIo<'a> {
    /// The moment of the call.
    pub now: VirtualTime,
    /// The way to memory.
    pub dma: Dma,
    /// The queues.
    pub queues: &'a mut [Queue],
    /// When [`VirtioDevice::timer`] is to be called; `None` leaves an earlier appointment as it is.
    wake: Option<VirtualTime>,
    /// The device configuration has changed.
    config_changed: bool,
}

impl VirtioIo<'_> {
    /// Takes the next buffer of queue `index`.
    ///
    /// # Errors
    /// A ring that breaks the rules.
    pub fn pop(&mut self, index: usize) -> Result<Option<Chain>, QueueError> {
        self.queues.get_mut(index).map_or(Ok(None), |queue| queue.pop(&self.dma))
    }

    /// Gives a buffer of queue `index` back; the driver is told after the call if it wants to be.
    ///
    /// # Errors
    /// A ring that is not in memory.
    pub fn push(&mut self, index: usize, chain: &Chain, written: u32) -> Result<(), QueueError> {
        self.queues.get_mut(index).map_or(Ok(()), |queue| queue.push(&self.dma, chain, written))
    }

    /// Asks for a call of [`VirtioDevice::timer`] at `at`.
    pub fn schedule(&mut self, at: VirtualTime) {
        self.wake = Some(at);
    }

    /// Tells the driver that the device configuration has changed.
    pub fn config_changed(&mut self) {
        self.config_changed = true;
    }
}
