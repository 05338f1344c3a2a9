//! The PCI transport of virtio 1.2 (4.1), without the legacy interface.

use super::queue::NO_VECTOR;
use super::{Queue, QueueError, VirtioDevice, VirtioIo};
use crate::device::{StateError, le_value, put_le};
use crate::pci::{Bar, ConfigSpace, PciContext, PciDevice, Port};
use ringworld_core::{StateHasher, VirtualTime};
use serde::{Deserialize, Serialize};

const VENDOR: u16 = 0x1af4;
/// Device IDs are this plus the device type.
const DEVICE_BASE: u16 = 0x1040;
/// The BARs: MSI-X, and virtio's structures.
const MSIX_BAR: usize = 1;
const VIRTIO_BAR: usize = 4;
const MSIX_PENDING: u32 = 0x800;
/// Structures in [`VIRTIO_BAR`], each with room of its own, and their types (4.1.4).
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const ROOM: u64 = 0x1000;
const NOTIFY_MULTIPLIER: u32 = 4;
const CAP_VENDOR: u8 = 0x09;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Device status (2.1).
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const KNOWN_STATUS: u8 = 1 | 2 | DRIVER_OK | FEATURES_OK | NEEDS_RESET | 128;

/// Feature bits of every device (chapter 6).
pub(super) const INDIRECT_DESC: u64 = 1 << 28;
pub(super) const EVENT_IDX: u64 = 1 << 29;
pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const RING_PACKED: u64 = 1 << 34;
const NOTIFICATION_DATA: u64 = 1 << 38;
const RING_RESET: u64 = 1 << 40;

/// ISR status (4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct State {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    generation: u8,
    queue_select: u16,
    isr: u8,
    queues: Vec<Queue>,
}

/// A virtio device as a PCI function.
struct VirtioPci {
    device: Box<dyn VirtioDevice>,
    state: State,
    /// Where the PCI configuration access capability is.
    window: usize,
}

/// A virtio device as a PCI function: configuration space and registers. Behind a root port it is an endpoint, on bus 0
/// an integrated one.
pub fn virtio_pci(device: Box<dyn VirtioDevice>, port: Port) -> (ConfigSpace, Box<dyn PciDevice>) {
    let kind = device.device_type();
    let sizes = device.queue_sizes();
    let vectors = sizes.len() as u16 + 1;
    let structure = |cfg: u8, offset: u64, len: u64, extra: &[u8]| {
        let mut body = vec![16 + extra.len() as u8, cfg, VIRTIO_BAR as u8, 0, 0, 0];
        body.extend((offset as u32).to_le_bytes());
        body.extend((len as u32).to_le_bytes());
        body.extend_from_slice(extra);
        body
    };
    let mut config = ConfigSpace::new(VENDOR, DEVICE_BASE + kind, device.class(), 1)
        .subsystem(VENDOR, 0x40 + kind)
        .interrupt_pin()
        .bar(MSIX_BAR, Bar::Memory32(0x1000))
        .bar(VIRTIO_BAR, Bar::Prefetchable64(4 * ROOM))
        .power_management()
        .express(port)
        .msix(vectors, MSIX_BAR, 0, MSIX_PENDING);
    for (cfg, offset, extra) in [
        (CFG_COMMON, COMMON, &[][..]),
        (CFG_ISR, ISR, &[]),
        (CFG_DEVICE, DEVICE, &[]),
        (CFG_NOTIFY, NOTIFY, &NOTIFY_MULTIPLIER.to_le_bytes()),
    ] {
        config = config.capability(CAP_VENDOR, &structure(cfg, offset, ROOM, extra), &[]);
    }
    // Access to the structures by configuration space: BAR, offset, length and data can be written.
    let body = structure(CFG_PCI, 0, 0, &[0; 4]);
    let mut mask = vec![0xff; body.len()];
    mask[..2].fill(0);
    mask[3..6].fill(0);
    config = config.capability(CAP_VENDOR, &body, &mask).seal();
    let window = (0x40..0x100)
        .step_by(4)
        .find(|&at| config.get(at, 1) as u8 == CAP_VENDOR && config.get(at + 3, 1) as u8 == CFG_PCI)
        .unwrap_or(0);
    let queues = sizes.into_iter().map(Queue::new).collect();
    let state = State {
        device_feature_select: 0,
        driver_feature_select: 0,
        driver_features: 0,
        config_vector: NO_VECTOR,
        status: 0,
        generation: 0,
        queue_select: 0,
        isr: 0,
        queues,
    };
    (config, Box::new(VirtioPci { device, state, window }))
}

impl VirtioPci {
    fn features(&self) -> u64 {
        self.device.features() | INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_PACKED | RING_RESET
    }

    fn common_read(&mut self, offset: u64) -> u64 {
        let state = &self.state;
        let queue = state.queues.get(usize::from(state.queue_select));
        match offset {
            0x00 => state.device_feature_select.into(),
            0x04 => select(self.features(), state.device_feature_select),
            0x08 => state.driver_feature_select.into(),
            0x0c => select(state.driver_features, state.driver_feature_select),
            0x10 => state.config_vector.into(),
            0x12 => state.queues.len() as u64,
            0x14 => state.status.into(),
            0x15 => state.generation.into(),
            0x16 => state.queue_select.into(),
            // For a queue that is not there, all reads as zero (4.1.4.3.1).
            0x18 => queue.map_or(0, |queue| queue.size.into()),
            0x1a => queue.map_or(NO_VECTOR, |queue| queue.vector).into(),
            0x1c => queue.is_some_and(|queue| queue.enabled).into(),
            0x1e => queue.map_or(0, |_| state.queue_select).into(),
            0x20 => queue.map_or(0, |queue| queue.descriptors),
            0x28 => queue.map_or(0, |queue| queue.driver),
            0x30 => queue.map_or(0, |queue| queue.device),
            // queue_notify_data, queue_reset (done at once).
            _ => 0,
        }
    }

    fn common_write(&mut self, offset: u64, value: u64, len: usize, ctx: &mut PciContext<'_, '_>) {
        let (vectors, features) = (self.state.queues.len() as u64 + 1, self.features());
        let state = &mut self.state;
        let vector = if value < vectors { value as u16 } else { NO_VECTOR };
        let (packed, event) =
            (state.driver_features & RING_PACKED != 0, state.driver_features & EVENT_IDX != 0);
        match offset {
            0x00 => state.device_feature_select = value as u32,
            0x08 => state.driver_feature_select = value as u32,
            0x0c if state.status & FEATURES_OK == 0 => {
                let shift = match state.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                state.driver_features =
                    state.driver_features & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
            }
            0x10 => state.config_vector = vector,
            0x14 => self.set_status(value as u8, features, ctx),
            0x16 => state.queue_select = value as u16,
            _ => {
                let index = usize::from(state.queue_select);
                let Some(queue) = state.queues.get_mut(index) else { return };
                match offset {
                    0x1a => queue.vector = vector,
                    // Writing one resets the queue (4.1.4.3.2).
                    0x3a if value == 1 => {
                        *queue = Queue::new(queue.max_size);
                        self.device.queue_reset(index);
                    }
                    _ if queue.enabled => {}
                    0x18 => queue.size = value as u16,
                    0x1c if value == 1 => queue.enable(packed, event),
                    0x20..0x38 => {
                        let field = match offset & !7 {
                            0x20 => &mut queue.descriptors,
                            0x28 => &mut queue.driver,
                            _ => &mut queue.device,
                        };
                        let shift = 8 * (offset & 7);
                        let mask = if len >= 8 { u64::MAX } else { ((1 << (8 * len)) - 1) << shift };
                        *field = *field & !mask | value << shift & mask;
                    }
                    _ => {}
                }
            }
        }
    }

    fn set_status(&mut self, value: u8, features: u64, ctx: &mut PciContext<'_, '_>) {
        let state = &mut self.state;
        if value == 0 {
            self.reset_device(ctx);
            return;
        }
        let mut value = value & KNOWN_STATUS | state.status & NEEDS_RESET;
        if value & FEATURES_OK != 0 && state.status & FEATURES_OK == 0 {
            let taken = state.driver_features;
            // Not offered, or the legacy interface, which there is not.
            if taken & !features != 0 || taken & VERSION_1 == 0 || taken & NOTIFICATION_DATA != 0 {
                value &= !FEATURES_OK;
            }
        }
        let starts = value & DRIVER_OK != 0 && state.status & DRIVER_OK == 0;
        state.status = value;
        if starts {
            self.device.activate(state.driver_features);
            for index in 0..self.state.queues.len() {
                self.run(ctx, |device, io| device.notified(index, io));
            }
        }
    }

    fn reset_device(&mut self, ctx: &mut PciContext<'_, '_>) {
        ctx.schedule(0, VirtualTime::NEVER);
        ctx.set_intx(false);
        self.device.reset();
        let queues = self.state.queues.iter().map(|queue| Queue::new(queue.max_size)).collect();
        self.state = State {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            isr: 0,
            queues,
        };
    }

    /// Calls the device while the driver is at work, and tells the driver what it wants to know afterwards.
    fn run(
        &mut self,
        ctx: &mut PciContext<'_, '_>,
        call: impl FnOnce(&mut dyn VirtioDevice, &mut VirtioIo<'_>) -> Result<(), QueueError>,
    ) {
        if self.state.status & (DRIVER_OK | NEEDS_RESET) != DRIVER_OK {
            return;
        }
        let mut io = VirtioIo {
            now: ctx.now(),
            dma: ctx.dma(),
            queues: &mut self.state.queues,
            wake: None,
            config_changed: false,
        };
        let mut result = call(self.device.as_mut(), &mut io);
        let (wake, mut config_changed) = (io.wake, io.config_changed);
        if let Some(at) = wake {
            ctx.schedule(0, at);
        }
        let dma = ctx.dma();
        for queue in &mut self.state.queues {
            match queue.wants_interrupt(&dma) {
                Ok(true) => interrupt(ctx, &mut self.state.isr, queue.vector, ISR_QUEUE),
                Ok(false) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        if let Err(error) = result {
            tracing::debug!(target: "ringworld::virtio", "the device needs a reset: {error}");
            self.state.status |= NEEDS_RESET;
            config_changed = true;
        }
        if config_changed {
            self.state.generation = self.state.generation.wrapping_add(1);
            interrupt(ctx, &mut self.state.isr, self.state.config_vector, ISR_CONFIG);
        }
    }

    fn bar_read(&mut self, offset: u64, data: &mut [u8], ctx: &mut PciContext<'_, '_>) {
        data.fill(0);
        match offset & !(ROOM - 1) {
            COMMON => {
                // The two halves of a 64-bit field may be read one by one.
                let (at, shift) = match offset {
                    0x20..0x38 => (offset & !7, offset & 7),
                    _ => (offset, 0),
                };
                put_le(self.common_read(at) >> (8 * shift), data);
            }
            ISR => {
                put_le(self.state.isr.into(), data);
                self.state.isr = 0;
                ctx.set_intx(false);
            }
            DEVICE => self.device.read_config(offset - DEVICE, data),
            _ => {}
        }
    }

    fn bar_write(&mut self, offset: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        match offset & !(ROOM - 1) {
            COMMON => self.common_write(offset, le_value(data), data.len(), ctx),
            DEVICE => self.device.write_config(offset - DEVICE, data),
            NOTIFY => {
                let index = ((offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER)) as usize;
                if index < self.state.queues.len() {
                    self.run(ctx, |device, io| device.notified(index, io));
                }
            }
            _ => {}
        }
    }
}

fn select(features: u64, half: u32) -> u64 {
    match half {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}

/// By MSI-X, or by the ISR status and INTA#.
fn interrupt(ctx: &mut PciContext<'_, '_>, isr: &mut u8, vector: u16, cause: u8) {
    if ctx.config.msix_enabled() {
        if vector != NO_VECTOR {
            ctx.signal(vector);
        }
    } else {
        *isr |= cause;
        ctx.set_intx(true);
    }
}

impl PciDevice for VirtioPci {
    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8], ctx: &mut PciContext<'_, '_>) {
        if bar == VIRTIO_BAR {
            self.bar_read(offset, data, ctx);
        }
    }

    fn write(&mut self, bar: usize, offset: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        if bar == VIRTIO_BAR {
            self.bar_write(offset, data, ctx);
        }
    }

    /// The PCI configuration access capability (4.1.4.9): its data register is a window to the structures.
    fn config_access(&mut self, offset: usize, len: usize, write: bool, ctx: &mut PciContext<'_, '_>) {
        let data_at = self.window + 16;
        if self.window == 0 || offset < data_at || offset + len > data_at + 4 {
            return;
        }
        let bar = ctx.config.get(self.window + 4, 1) as usize;
        let at = ctx.config.get(self.window + 8, 4);
        let size = ctx.config.get(self.window + 12, 4) as usize;
        if bar != VIRTIO_BAR
            || !matches!(size, 1 | 2 | 4)
            || !at.is_multiple_of(size as u64)
            || at >= 4 * ROOM
        {
            return;
        }
        let mut data = [0; 4];
        if write {
            put_le(ctx.config.get(data_at, 4), &mut data);
            self.bar_write(at, &data[..size], ctx);
        } else {
            self.bar_read(at, &mut data[..size], ctx);
            ctx.config.put(data_at, 4, le_value(&data));
        }
    }

    fn timer(&mut self, _timer: u8, ctx: &mut PciContext<'_, '_>) {
        self.run(ctx, |device, io| device.timer(io));
    }

    fn input(&mut self, bytes: &[u8], ctx: &mut PciContext<'_, '_>) {
        if self.state.status & DRIVER_OK == 0 {
            self.device.input_without_driver(bytes);
        }
        self.run(ctx, |device, io| device.input(bytes, io));
    }

    fn reset(&mut self, ctx: &mut PciContext<'_, '_>) {
        self.reset_device(ctx);
    }

    fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.state);
        self.device.hash_state(hasher);
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(postcard::to_stdvec(&(&self.state, self.device.save()?))?)
    }

    fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        let (state, device): (State, Vec<u8>) = postcard::from_bytes(image)?;
        if state.queues.len() != self.state.queues.len() {
            return Err(StateError::OtherBoard("a virtio device of another type".into()));
        }
        // Queue sizes bound loops and divide.
        for (queue, own) in state.queues.iter().zip(&self.state.queues) {
            if queue.max_size != own.max_size || (queue.enabled && !(1..=own.max_size).contains(&queue.size))
            {
                return Err(StateError::OtherBoard("a virtqueue of another size".into()));
            }
        }
        self.state = state;
        self.device.restore(&device)
    }
}
