//! What a device is to the board, and what the board offers to a device.

use crate::dma::{Dma, RequesterId};
use crate::fabric::{Fabric, PowerRequest};
use ringworld_core::{CpuId, GuestPhys, StateHasher, VirtualTime};
use ringworld_mmu::GuestMemory;
use std::sync::Arc;

/// The board's or a device's state could not be written or read back.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The bytes are not a state.
    #[error("device state: {0}")]
    Codec(#[from] postcard::Error),
    /// The state is that of a board with other devices.
    #[error("device state: this board has no such device: {0}")]
    OtherBoard(String),
}

/// A device behind I/O ports or memory-mapped registers.
///
/// `offset` is counted from the start of the region that the board registered for the device (a device with several
/// regions has them at different offsets). The bus never hands over more bytes than the region's access width, and
/// pieces are naturally aligned.
pub trait Device: Send {
    /// Reads `data.len()` bytes at `offset`. `data` comes filled with ones.
    fn read(&mut self, offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>);

    /// Writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>);

    /// The moment scheduled for `timer` has come; `ctx.now` is that moment.
    fn timer(&mut self, timer: u32, ctx: &mut DeviceContext<'_>) {
        let _ = (timer, ctx);
    }

    /// Bytes from the host (keys, a serial line).
    fn input(&mut self, bytes: &[u8], ctx: &mut DeviceContext<'_>) {
        let _ = (bytes, ctx);
    }

    /// Power-on or hard reset. Lines that the device drives have been released and its timers cancelled.
    fn reset(&mut self, ctx: &mut DeviceContext<'_>);

    /// Adds the architectural state to `hasher`.
    fn hash_state(&self, hasher: &mut StateHasher);

    /// The state as bytes, for [`Device::restore`].
    fn save(&self) -> Result<Vec<u8>, StateError>;

    /// Takes over a state that [`Device::save`] wrote.
    fn restore(&mut self, image: &[u8]) -> Result<(), StateError>;
}

/// Implements the state methods of [`Device`] for the part of the device that is its state.
macro_rules! state_methods {
    ($this:ident => $state:expr) => {
        fn hash_state(&$this, hasher: &mut ringworld_core::StateHasher) {
            hasher.add(&$state);
        }

        fn save(&$this) -> Result<Vec<u8>, $crate::device::StateError> {
            Ok(postcard::to_stdvec(&$state)?)
        }

        fn restore(&mut $this, image: &[u8]) -> Result<(), $crate::device::StateError> {
            $state = postcard::from_bytes(image)?;
            Ok(())
        }
    };
}
pub(crate) use state_methods;

/// The board as a device sees it during one call.
pub struct DeviceContext<'a> {
    /// The moment of the call. It never runs backward, whatever the CPU.
    pub now: VirtualTime,
    /// The accessing CPU (the first one when a timer or the host calls).
    pub cpu: CpuId,
    owner: u32,
    fabric: &'a mut Fabric,
}

impl<'a> DeviceContext<'a> {
    /// The context of a call to device number `owner`.
    pub(crate) fn new(now: VirtualTime, cpu: CpuId, owner: u32, fabric: &'a mut Fabric) -> Self {
        Self { now, cpu, owner, fabric }
    }

    /// Drives interrupt line `line`: an ISA IRQ (0 to 15) or a further IOAPIC input (16 to 23). Several devices may
    /// drive a line; it is active while any of them asserts it.
    pub fn set_irq(&mut self, line: u8, asserted: bool) {
        self.fabric.set_irq(self.owner, line, asserted);
    }

    /// A rising edge on `line`, which stays asserted until the next pulse.
    pub fn pulse_irq(&mut self, line: u8) {
        self.set_irq(line, false);
        self.set_irq(line, true);
    }

    /// Calls [`Device::timer`] with `timer` at `at` (replacing an earlier appointment of that timer);
    /// [`VirtualTime::NEVER`] cancels it. The moment is always after `now`.
    pub fn schedule(&mut self, timer: u32, at: VirtualTime) {
        self.fabric.schedule(self.owner, timer, at.max(self.now + 1));
    }

    /// Asks for a change of the machine's power state.
    pub fn power(&mut self, request: PowerRequest) {
        self.fabric.request_power(request);
    }

    /// The wire from the clock to the ACPI hardware (RTC_STS).
    pub(crate) fn raise_alarm(&mut self) {
        self.fabric.raise_alarm();
    }

    /// Clears IRQ 13 and asserts IGNNE# (the coprocessor error port).
    pub fn ignore_numeric_error(&mut self) {
        self.fabric.ignore_numeric_error();
    }

    /// Masks (true) or unmasks NMI, as bit 7 of port 0x70 does.
    pub fn mask_nmi(&mut self, masked: bool) {
        self.fabric.mask_nmi(masked);
    }

    /// HPET legacy replacement: while on, the timer chip's IRQ0 and the clock's IRQ8 are cut off.
    pub fn set_legacy_replacement(&mut self, on: bool) {
        self.fabric.set_legacy_replacement(self.owner, on);
    }

    /// Drives IRQ `irq` of the 8259 only, as the routing of PCI interrupts does.
    pub(crate) fn set_pic_irq(&mut self, irq: u8, asserted: bool) {
        self.fabric.set_pic_irq(irq, asserted);
    }

    /// Other memory answers where CPUs may hold pointers ([`GuestMemory::shadow_epoch`]): the one that runs has to stop.
    pub(crate) fn memory_has_moved(&mut self) {
        self.fabric.attention.raise();
    }

    /// The memory that bus masters reach.
    pub(crate) fn guest_memory(&self) -> Option<Arc<GuestMemory>> {
        self.fabric.memory.clone()
    }

    /// A bus master's way to memory.
    pub fn dma(&self, requester: RequesterId) -> Dma {
        Dma::new(self.guest_memory(), requester)
    }

    /// A message-signalled interrupt of `requester`: a write of `data` to `address`, to interrupt controllers or to memory.
    pub fn message(&mut self, requester: RequesterId, address: u64, data: u32) {
        if !self.fabric.message(address, data) {
            // Where there is no memory, the write is lost, as any other.
            let _ = self.dma(requester).write(GuestPhys(address & !3), &data.to_le_bytes());
        }
    }

    /// Pulses SMI# (to all CPUs, as a chipset does).
    pub fn raise_smi(&mut self) {
        self.fabric.raise_smi();
    }
}

/// Copies the little-endian bytes of a register at `register_offset` (4 bytes wide) that the access at `offset` covers.
pub(crate) fn read_u32_bytes(value: u32, offset: u64, data: &mut [u8]) {
    let shift = 8 * (offset & 3) as u32;
    let bytes = (u64::from(value) >> shift).to_le_bytes();
    for (to, from) in data.iter_mut().zip(bytes) {
        *to = from;
    }
}

/// The little-endian value of up to eight bytes.
pub(crate) fn le_value(data: &[u8]) -> u64 {
    data.iter().take(8).rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Fills `data` with the little-endian bytes of `value` (zeros beyond eight).
pub(crate) fn put_le(value: u64, data: &mut [u8]) {
    for (i, to) in data.iter_mut().enumerate() {
        *to = if i < 8 { (value >> (8 * i)) as u8 } else { 0 };
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! One device with a fabric around it, for the devices' unit tests.
    use super::*;

    pub(crate) struct Bench<D> {
        pub device: D,
        pub fabric: Fabric,
        pub now: VirtualTime,
    }

    /// The number of the device on the bench.
    pub(crate) const OWNER: u32 = 1;

    impl<D: Device> Bench<D> {
        pub(crate) fn new(device: D) -> Self {
            Self::with_fabric(device, Fabric::default())
        }

        pub(crate) fn with_fabric(device: D, fabric: Fabric) -> Self {
            let mut bench = Self { device, fabric, now: VirtualTime(0) };
            bench.with(|device, ctx| device.reset(ctx));
            bench
        }

        pub(crate) fn with<R>(&mut self, call: impl FnOnce(&mut D, &mut DeviceContext<'_>) -> R) -> R {
            let mut ctx = DeviceContext::new(self.now, CpuId(0), OWNER, &mut self.fabric);
            call(&mut self.device, &mut ctx)
        }

        pub(crate) fn read(&mut self, offset: u64) -> u8 {
            self.read_n(offset, 1) as u8
        }

        pub(crate) fn read_n(&mut self, offset: u64, size: usize) -> u64 {
            let mut data = [0xff; 8];
            self.with(|device, ctx| device.read(offset, &mut data[..size], ctx));
            le_value(&data[..size])
        }

        pub(crate) fn write(&mut self, offset: u64, value: u8) {
            self.write_n(offset, 1, u64::from(value));
        }

        pub(crate) fn write_n(&mut self, offset: u64, size: usize, value: u64) {
            self.with(|device, ctx| device.write(offset, &value.to_le_bytes()[..size], ctx));
        }

        /// Goes on to `now`, firing what is due.
        pub(crate) fn run_to(&mut self, now: VirtualTime) {
            while let Some((at, key)) = self.fabric.pop_due(now) {
                self.now = at;
                self.with(|device, ctx| device.timer(key.timer, ctx));
            }
            self.now = now;
        }

        pub(crate) fn irq(&self, line: u8) -> bool {
            self.fabric.irq(line)
        }
    }
}
