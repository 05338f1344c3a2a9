//! What a PCI function is to the root complex, and what the root complex offers to it.

use super::config_space::{ConfigSpace, Message};
use crate::device::{DeviceContext, StateError};
use crate::dma::{Dma, RequesterId};
use ringworld_core::{StateHasher, VirtualTime};

/// A PCI function's own registers, behind its base address registers. Configuration space, MSI and MSI-X are the root
/// complex's business.
pub trait PciDevice: Send {
    /// Reads at `offset` of base address register `bar`. `data` (1, 2, 4 or 8 bytes, naturally aligned) comes filled
    /// with ones.
    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8], ctx: &mut PciContext<'_, '_>);

    /// Writes `data` at `offset` of base address register `bar`.
    fn write(&mut self, bar: usize, offset: u64, data: &[u8], ctx: &mut PciContext<'_, '_>);

    /// Software is about to read (`write` false) or has written `len` bytes at `offset` of the configuration space.
    fn config_access(&mut self, offset: usize, len: usize, write: bool, ctx: &mut PciContext<'_, '_>) {
        let _ = (offset, len, write, ctx);
    }

    /// An access to a fixed range that the function decodes beside its base address registers (see
    /// [`PciDevice::fixed_memory`], [`PciDevice::fixed_ports`]).
    fn fixed_read(&mut self, port: bool, address: u64, data: &mut [u8], ctx: &mut PciContext<'_, '_>) {
        let _ = (port, address, data, ctx);
    }

    /// As [`PciDevice::fixed_read`], writing.
    fn fixed_write(&mut self, port: bool, address: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        let _ = (port, address, data, ctx);
    }

    /// Fixed memory that the function decodes while its memory space is enabled: first address and length.
    fn fixed_memory(&self) -> &'static [(u64, u64)] {
        &[]
    }

    /// Fixed ports that the function decodes while its I/O space is enabled.
    fn fixed_ports(&self) -> &'static [(u64, u64)] {
        &[]
    }

    /// The moment scheduled for `timer` has come.
    fn timer(&mut self, timer: u8, ctx: &mut PciContext<'_, '_>) {
        let _ = (timer, ctx);
    }

    /// Bytes from the host (a packet, keys).
    fn input(&mut self, bytes: &[u8], ctx: &mut PciContext<'_, '_>) {
        let _ = (bytes, ctx);
    }

    /// Power-on or hard reset, after that of the configuration space. Its timers have been cancelled.
    fn reset(&mut self, ctx: &mut PciContext<'_, '_>);

    /// Adds the architectural state to `hasher`.
    fn hash_state(&self, hasher: &mut StateHasher);

    /// The state as bytes, for [`PciDevice::restore`].
    fn save(&self) -> Result<Vec<u8>, StateError>;

    /// Takes over a state that [`PciDevice::save`] wrote.
    fn restore(&mut self, image: &[u8]) -> Result<(), StateError>;

    /// What a person may want to see of the device (a screen), for those that have it.
    fn screen(&self) -> Option<crate::Screen> {
        None
    }
}

/// The machine as a PCI function sees it during one call.
pub struct PciContext<'a, 'b> {
    /// The function's configuration space.
    pub config: &'a mut ConfigSpace,
    pub(super) ctx: &'a mut DeviceContext<'b>,
    pub(super) requester: RequesterId,
    /// All bridges above let the function's requests through.
    pub(super) upstream: bool,
    /// The first of the function's timers.
    pub(super) timers: u32,
}

impl PciContext<'_, '_> {
    /// The moment of the call.
    pub fn now(&self) -> VirtualTime {
        self.ctx.now
    }

    /// The function's way to memory.
    pub fn dma(&self) -> Dma {
        let memory = if self.upstream && self.config.may_master() { self.ctx.guest_memory() } else { None };
        Dma::new(memory, self.requester)
    }

    /// Calls [`PciDevice::timer`] at `at`, replacing an earlier appointment; [`VirtualTime::NEVER`] cancels it.
    pub fn schedule(&mut self, timer: u8, at: VirtualTime) {
        self.ctx.schedule(self.timers | u32::from(timer), at);
    }

    /// Drives INTA#, which has no effect while MSI or MSI-X is enabled.
    pub fn set_intx(&mut self, asserted: bool) {
        self.config.set_intx(asserted);
    }

    /// Sends the message of `vector`, if MSI or MSI-X is enabled. Returns whether it is: otherwise the function has to
    /// use [`PciContext::set_intx`].
    pub fn signal(&mut self, vector: u16) -> bool {
        if let Some(message) = self.config.signal(vector) {
            self.send(message);
        }
        self.config.msi_enabled() || self.config.msix_enabled()
    }

    /// A message-signalled interrupt is a memory write (PCI 3.0 6.8.3), so it needs the right to master the bus.
    pub(super) fn send(&mut self, message: Message) {
        if self.upstream && self.config.may_master() {
            self.ctx.message(self.requester, message.0, message.1);
        }
    }
}
