//! Virtqueues, split and packed (virtio 1.2, 2.7 and 2.8), from the device's side.
//!
//! Everything in a ring is the guest's: indices, lengths and addresses are checked here, and a ring that no driver could
//! have made gives a [`QueueError`], upon which the transport asks for a reset.

use crate::dma::{Dma, DmaError};
use ringworld_core::GuestPhys;
use serde::{Deserialize, Serialize};

/// Descriptor flags (2.7.5, 2.8.1).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Packed ring: availability and use, compared with the wrap counters.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Split ring: the driver wants no interrupts; the device wants no notifications.
const NO_INTERRUPT: u16 = 1;
/// Packed ring: event suppression (2.8.10).
const EVENTS_DISABLED: u16 = 1;
const EVENTS_BY_DESCRIPTOR: u16 = 2;
/// The most descriptors of a chain with an indirect table. Drivers make tables of at most the queue's size, or this.
const MAX_INDIRECT: usize = 1024;

/// The largest queue.
pub const MAX_SIZE: u16 = 1024;

/// A ring that breaks the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QueueError {
    /// A part of it is not in memory.
    #[error(transparent)]
    Memory(#[from] DmaError),
    /// An index, a length or a chain that cannot be.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A piece of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// Where it is.
    pub addr: GuestPhys,
    /// Its length in bytes.
    pub len: u32,
}

/// A buffer that the driver made available: first what the device reads, then what it writes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// The head's index, or the buffer ID.
    id: u16,
    /// Packed ring: descriptors that it takes.
    descriptors: u16,
    /// What the device reads.
    pub readable: Vec<Segment>,
    /// What the device writes.
    pub writable: Vec<Segment>,
}

/// Bytes of all segments.
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// The segments that cover `len` bytes from `offset` on.
pub fn part(segments: &[Segment], mut offset: u64, mut len: u64) -> Vec<Segment> {
    let mut parts = Vec::new();
    for segment in segments {
        let size = u64::from(segment.len);
        if offset >= size {
            offset -= size;
            continue;
        }
        let take = (size - offset).min(len);
        if take == 0 {
            break;
        }
        parts.push(Segment { addr: segment.addr.offset(offset), len: take as u32 });
        (offset, len) = (0, len - take);
    }
    parts
}

/// Reads from the start of `segments` as much as they and `data` have; the number of bytes.
pub fn gather(dma: &Dma, segments: &[Segment], data: &mut [u8]) -> Result<usize, DmaError> {
    let mut done = 0;
    for segment in segments {
        let len = (segment.len as usize).min(data.len() - done);
        dma.read(segment.addr, &mut data[done..done + len])?;
        done += len;
    }
    Ok(done)
}

/// Writes to the start of `segments` as much as fits; the number of bytes.
pub fn scatter(dma: &Dma, segments: &[Segment], data: &[u8]) -> Result<usize, DmaError> {
    let mut done = 0;
    for segment in segments {
        let len = (segment.len as usize).min(data.len() - done);
        dma.write(segment.addr, &data[done..done + len])?;
        done += len;
    }
    Ok(done)
}

/// A queue's registers and position.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// The largest size.
    pub max_size: u16,
    /// Its size in entries.
    pub size: u16,
    /// The driver has set it up.
    pub enabled: bool,
    /// The MSI-X vector, 0xffff for none.
    pub vector: u16,
    /// The descriptor area.
    pub descriptors: u64,
    /// The driver area: available ring, or the driver's event suppression.
    pub driver: u64,
    /// The device area: used ring, or the device's event suppression.
    pub device: u64,
    packed: bool,
    event_index: bool,
    /// The next available entry.
    next: u16,
    /// The next used entry.
    used: u16,
    /// Packed ring: wrap counters of both.
    next_wrap: bool,
    used_wrap: bool,
    /// Entries used since the driver was last asked about an interrupt.
    unsignalled: u16,
}

/// A queue without vector.
pub const NO_VECTOR: u16 = 0xffff;

impl Queue {
    /// A queue of at most `max_size` entries, not set up.
    pub fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            enabled: false,
            vector: NO_VECTOR,
            descriptors: 0,
            driver: 0,
            device: 0,
            packed: false,
            event_index: false,
            next: 0,
            used: 0,
            next_wrap: true,
            used_wrap: true,
            unsignalled: 0,
        }
    }

    /// The driver enables the queue. A size that cannot be leaves it off.
    pub fn enable(&mut self, packed: bool, event_index: bool) {
        let size = self.size;
        let fits = size != 0 && size <= self.max_size && (packed || size.is_power_of_two());
        (self.packed, self.event_index, self.enabled) = (packed, event_index, fits);
    }

    /// Takes the next buffer, if there is one.
    ///
    /// # Errors
    /// A ring that breaks the rules.
    pub fn pop(&mut self, dma: &Dma) -> Result<Option<Chain>, QueueError> {
        if !self.enabled {
            return Ok(None);
        }
        if self.packed { self.pop_packed(dma) } else { self.pop_split(dma) }
    }

    fn pop_split(&mut self, dma: &Dma) -> Result<Option<Chain>, QueueError> {
        let index = dma.read_u16(GuestPhys(self.driver.wrapping_add(2)))?;
        let waiting = index.wrapping_sub(self.next);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(QueueError::Malformed("more buffers are available than the ring has"));
        }
        let slot = u64::from(self.next % self.size);
        let head = dma.read_u16(GuestPhys(self.driver.wrapping_add(4 + 2 * slot)))?;
        let mut chain = Chain { id: head, descriptors: 1, readable: Vec::new(), writable: Vec::new() };
        let (mut table, mut entries, mut at) = (self.descriptors, usize::from(self.size), head);
        let (mut seen, mut indirect) = (0, false);
        loop {
            if usize::from(at) >= entries || seen >= entries {
                return Err(QueueError::Malformed("a chain leaves its table or is a loop"));
            }
            seen += 1;
            let bytes: [u8; 16] =
                dma.read_array(GuestPhys(table.wrapping_add(u64::from(at) * DESCRIPTOR)))?;
            let descriptor = Descriptor::split(bytes);
            if descriptor.flags & INDIRECT != 0 {
                if indirect || descriptor.flags & NEXT != 0 || seen != 1 {
                    return Err(QueueError::Malformed("an indirect table inside of a chain"));
                }
                (table, entries) = (descriptor.addr, descriptor.entries()?);
                (at, seen, indirect) = (0, 0, true);
                continue;
            }
            chain.add(&descriptor)?;
            if descriptor.flags & NEXT == 0 {
                break;
            }
            at = descriptor.id;
        }
        self.next = self.next.wrapping_add(1);
        if self.event_index {
            // avail_event: tell of the next one (2.7.10).
            let event = self.device.wrapping_add(4 + 8 * u64::from(self.size));
            dma.write_u16(GuestPhys(event), self.next)?;
        }
        Ok(Some(chain))
    }

    fn pop_packed(&mut self, dma: &Dma) -> Result<Option<Chain>, QueueError> {
        let (mut at, mut wrap) = (self.next, self.next_wrap);
        let mut chain = Chain { id: 0, descriptors: 0, readable: Vec::new(), writable: Vec::new() };
        loop {
            if at >= self.size {
                return Err(QueueError::Malformed("a ring of another size"));
            }
            let bytes: [u8; 16] =
                dma.read_array(GuestPhys(self.descriptors.wrapping_add(u64::from(at) * DESCRIPTOR)))?;
            let descriptor = Descriptor::packed(bytes);
            if chain.descriptors == 0 {
                let available = descriptor.flags & AVAIL != 0;
                let used = descriptor.flags & USED != 0;
                if available != wrap || used == wrap {
                    return Ok(None);
                }
            }
            chain.descriptors += 1;
            if chain.descriptors > self.size {
                return Err(QueueError::Malformed("a chain is longer than its ring"));
            }
            at += 1;
            if at == self.size {
                (at, wrap) = (0, !wrap);
            }
            if descriptor.flags & INDIRECT != 0 {
                if descriptor.flags & NEXT != 0 || chain.descriptors != 1 {
                    return Err(QueueError::Malformed("an indirect table inside of a chain"));
                }
                for entry in 0..descriptor.entries()? as u64 {
                    let bytes =
                        dma.read_array(GuestPhys(descriptor.addr.wrapping_add(entry * DESCRIPTOR)))?;
                    chain.add(&Descriptor::packed(bytes))?;
                }
            } else {
                chain.add(&descriptor)?;
            }
            // The last descriptor of a chain has the buffer's ID (2.8.6).
            chain.id = descriptor.id;
            if descriptor.flags & NEXT == 0 {
                break;
            }
        }
        (self.next, self.next_wrap) = (at, wrap);
        Ok(Some(chain))
    }

    /// Gives a buffer back, `written` bytes of which the device has written.
    ///
    /// # Errors
    /// A ring that is not in memory.
    pub fn push(&mut self, dma: &Dma, chain: &Chain, written: u32) -> Result<(), QueueError> {
        if !self.enabled {
            return Ok(());
        }
        if self.packed {
            let slot = GuestPhys(self.descriptors.wrapping_add(u64::from(self.used) * DESCRIPTOR));
            let flags = if self.used_wrap { AVAIL | USED } else { 0 };
            let flags = flags | if written > 0 { WRITE } else { 0 };
            dma.write(slot.offset(8), &written.to_le_bytes())?;
            dma.write_u16(slot.offset(12), chain.id)?;
            // The flags come last: they hand the descriptor over.
            dma.write_u16(slot.offset(14), flags)?;
            self.used = self.used.wrapping_add(chain.descriptors);
            if self.used >= self.size {
                self.used -= self.size;
                self.used_wrap = !self.used_wrap;
            }
            self.unsignalled = self.unsignalled.saturating_add(chain.descriptors);
        } else {
            let slot = u64::from(self.used % self.size);
            let entry = GuestPhys(self.device.wrapping_add(4 + 8 * slot));
            dma.write(entry, &u32::from(chain.id).to_le_bytes())?;
            dma.write(entry.offset(4), &written.to_le_bytes())?;
            self.used = self.used.wrapping_add(1);
            dma.write_u16(GuestPhys(self.device.wrapping_add(2)), self.used)?;
            self.unsignalled = self.unsignalled.saturating_add(1);
        }
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was given back since the last call.
    ///
    /// # Errors
    /// A ring that is not in memory.
    pub fn wants_interrupt(&mut self, dma: &Dma) -> Result<bool, QueueError> {
        let count = core::mem::take(&mut self.unsignalled);
        if count == 0 || !self.enabled {
            return Ok(false);
        }
        if self.packed {
            let offset = dma.read_u16(GuestPhys(self.driver))?;
            let flags = dma.read_u16(GuestPhys(self.driver.wrapping_add(2)))? & 3;
            if flags != EVENTS_BY_DESCRIPTOR || !self.event_index {
                return Ok(flags != EVENTS_DISABLED);
            }
            // The event's place relative to the ring as the device now counts it (2.8.10).
            let (wrap, mut event) = (offset >> 15 != 0, i32::from(offset & 0x7fff));
            if wrap != self.used_wrap {
                event -= i32::from(self.size);
            }
            let old = self.used as i32 - i32::from(count);
            return Ok(event >= old && event < i32::from(self.used));
        }
        if self.event_index {
            // used_event, and the test of 2.7.7.2.
            let event = dma.read_u16(GuestPhys(self.driver.wrapping_add(4 + 2 * u64::from(self.size))))?;
            let old = self.used.wrapping_sub(count);
            return Ok(self.used.wrapping_sub(event).wrapping_sub(1) < self.used.wrapping_sub(old));
        }
        Ok(dma.read_u16(GuestPhys(self.driver))? & NO_INTERRUPT == 0)
    }
}

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    /// Split: the next descriptor; packed: the buffer's ID.
    id: u16,
}

impl Descriptor {
    fn split(bytes: [u8; 16]) -> Self {
        let value = u128::from_le_bytes(bytes);
        Self {
            addr: value as u64,
            len: (value >> 64) as u32,
            flags: (value >> 96) as u16,
            id: (value >> 112) as u16,
        }
    }

    fn packed(bytes: [u8; 16]) -> Self {
        let value = u128::from_le_bytes(bytes);
        Self {
            addr: value as u64,
            len: (value >> 64) as u32,
            id: (value >> 96) as u16,
            flags: (value >> 112) as u16,
        }
    }

    /// The number of entries of the indirect table that this is.
    fn entries(&self) -> Result<usize, QueueError> {
        let entries = (u64::from(self.len) / DESCRIPTOR) as usize;
        if entries == 0 || entries > MAX_INDIRECT || u64::from(self.len) % DESCRIPTOR != 0 {
            return Err(QueueError::Malformed("an indirect table of a size that cannot be"));
        }
        Ok(entries)
    }
}

impl Chain {
    fn add(&mut self, descriptor: &Descriptor) -> Result<(), QueueError> {
        if descriptor.flags & INDIRECT != 0 {
            return Err(QueueError::Malformed("an indirect table inside of another"));
        }
        let segment = Segment { addr: GuestPhys(descriptor.addr), len: descriptor.len };
        if descriptor.flags & WRITE != 0 {
            self.writable.push(segment);
        } else if self.writable.is_empty() {
            self.readable.push(segment);
        } else {
            return Err(QueueError::Malformed("a buffer to read after one to write"));
        }
        Ok(())
    }
}
