//! The block device (virtio 1.2, 5.2).

use super::queue::{Chain, QueueError, gather, part, scatter, total};
use super::{VirtioDevice, VirtioIo, device_type};
use crate::StateError;
use crate::storage::{Disk, LATENCY, SECTOR, is_inside};
use ringworld_core::StateHasher;

const QUEUE_SIZE: u16 = 256;
/// The most that is moved in one go.
const CHUNK: u64 = 1 << 20;
/// The most sectors that one segment of a discard or a write of zeroes may name, and the most segments.
const MAX_RANGE: u32 = 1 << 22;
const MAX_SEGMENTS: usize = 16;
/// The most bytes of one request, which keeps the guest's others waiting.
const MAX_REQUEST: u64 = 256 << 20;
/// The longest serial number.
const ID_LEN: usize = 20;

/// Feature bits.
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// Request types.
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;
/// In a segment of a write of zeroes: the range may be given up.
const UNMAP: u32 = 1;

/// Request status.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// A disk with one queue.
pub struct VirtioBlk {
    disk: Box<dyn Disk>,
    serial: String,
    /// Writes are kept safe one by one, as the driver does not know of flushes (5.2.6.2).
    write_through: bool,
}

impl VirtioBlk {
    /// A device with this disk; `serial` is cut to 20 bytes.
    pub fn new(disk: Box<dyn Disk>, serial: impl Into<String>) -> Self {
        Self { disk, serial: serial.into(), write_through: false }
    }

    /// Serves one request; its status and the bytes written to the buffer besides it.
    fn serve(&mut self, chain: &Chain, io: &VirtioIo<'_>) -> Result<(u8, u64), QueueError> {
        let mut header = [0; 16];
        if gather(&io.dma, &chain.readable, &mut header)? < header.len() {
            return Err(QueueError::Malformed("a request without a header"));
        }
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let sector = u64::from(word(12)) << 32 | u64::from(word(8));
        let Some(offset) = sector.checked_mul(SECTOR) else { return Ok((IOERR, 0)) };
        // The last writable byte is the status.
        let room = total(&chain.writable) - 1;
        let payload = total(&chain.readable) - header.len() as u64;
        let result = match word(0) {
            T_IN => return self.read(chain, offset, room, io),
            T_OUT => return self.write(chain, offset, payload, io),
            T_FLUSH => self.disk.flush(),
            T_GET_ID => {
                let mut id = [0; ID_LEN];
                let len = self.serial.len().min(ID_LEN);
                id[..len].copy_from_slice(&self.serial.as_bytes()[..len]);
                let to = part(&chain.writable, 0, room);
                return Ok((OK, scatter(&io.dma, &to, &id)? as u64));
            }
            kind @ (T_DISCARD | T_WRITE_ZEROES) => return Ok((self.ranges(chain, payload, kind, io)?, 0)),
            _ => return Ok((UNSUPP, 0)),
        };
        Ok((status(result), 0))
    }

    fn takes(&self, offset: u64, len: u64) -> bool {
        len.is_multiple_of(SECTOR) && len <= MAX_REQUEST && is_inside(self.disk.size(), offset, len)
    }

    fn read(
        &mut self,
        chain: &Chain,
        offset: u64,
        len: u64,
        io: &VirtioIo<'_>,
    ) -> Result<(u8, u64), QueueError> {
        if !self.takes(offset, len) {
            return Ok((IOERR, 0));
        }
        let mut buffer = vec![0; len.min(CHUNK) as usize];
        let mut done = 0;
        while done < len {
            let data = &mut buffer[..(len - done).min(CHUNK) as usize];
            if self.disk.read(offset + done, data).is_err() {
                return Ok((IOERR, done));
            }
            scatter(&io.dma, &part(&chain.writable, done, data.len() as u64), data)?;
            done += data.len() as u64;
        }
        Ok((OK, len))
    }

    fn write(
        &mut self,
        chain: &Chain,
        offset: u64,
        len: u64,
        io: &VirtioIo<'_>,
    ) -> Result<(u8, u64), QueueError> {
        if !self.takes(offset, len) || self.disk.is_read_only() {
            return Ok((IOERR, 0));
        }
        let mut buffer = vec![0; len.min(CHUNK) as usize];
        let mut done = 0;
        while done < len {
            let data = &mut buffer[..(len - done).min(CHUNK) as usize];
            gather(&io.dma, &part(&chain.readable, 16 + done, data.len() as u64), data)?;
            if self.disk.write(offset + done, data).is_err() {
                return Ok((IOERR, 0));
            }
            done += data.len() as u64;
        }
        Ok((if self.write_through { status(self.disk.flush()) } else { OK }, 0))
    }

    /// Discards, or writes zeroes.
    fn ranges(&mut self, chain: &Chain, len: u64, kind: u32, io: &VirtioIo<'_>) -> Result<u8, QueueError> {
        let count = (len / 16) as usize;
        if !len.is_multiple_of(16) || !(1..=MAX_SEGMENTS).contains(&count) {
            return Ok(IOERR);
        }
        if self.disk.is_read_only() {
            return Ok(IOERR);
        }
        let mut segments = vec![0; count * 16];
        gather(&io.dma, &part(&chain.readable, 16, len), &mut segments)?;
        for segment in segments.chunks_exact(16) {
            let value = u128::from_le_bytes(segment.try_into().unwrap_or_default());
            let (sector, sectors, flags) = (value as u64, (value >> 64) as u32, (value >> 96) as u32);
            let allowed = if kind == T_WRITE_ZEROES { UNMAP } else { 0 };
            if flags & !allowed != 0 {
                return Ok(UNSUPP);
            }
            let range = u64::from(sectors) * SECTOR;
            let Some(offset) = sector.checked_mul(SECTOR) else { return Ok(IOERR) };
            if sectors > MAX_RANGE || !is_inside(self.disk.size(), offset, range) {
                return Ok(IOERR);
            }
            let result = match kind {
                T_DISCARD => self.disk.discard(offset, range),
                _ => self.disk.write_zeroes(offset, range),
            };
            if result.is_err() {
                return Ok(IOERR);
            }
        }
        Ok(OK)
    }
}

fn status(result: std::io::Result<()>) -> u8 {
    if result.is_ok() { OK } else { IOERR }
}

impl VirtioDevice for VirtioBlk {
    fn device_type(&self) -> u16 {
        device_type::BLOCK
    }

    fn class(&self) -> u32 {
        0x01_00_00
    }

    fn features(&self) -> u64 {
        let writable = if self.disk.is_read_only() { RO } else { DISCARD | WRITE_ZEROES };
        SEG_MAX | BLK_SIZE | FLUSH | writable
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0u8; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.disk.size() / SECTOR).to_le_bytes());
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        if !self.disk.is_read_only() {
            for (at, value) in [
                (36, MAX_RANGE),
                (40, MAX_SEGMENTS as u32),
                (44, 1),
                (48, MAX_RANGE),
                (52, MAX_SEGMENTS as u32),
            ] {
                put(at, &value.to_le_bytes());
            }
            put(56, &[1]);
        }
        for (i, to) in data.iter_mut().enumerate() {
            *to = config.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, features: u64) {
        self.write_through = features & FLUSH == 0;
    }

    fn notified(&mut self, _index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        io.schedule(io.now + LATENCY);
        Ok(())
    }

    fn timer(&mut self, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        self.process(0, io)
    }

    fn process(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        while let Some(chain) = io.pop(index)? {
            let room = total(&chain.writable);
            if room == 0 {
                return Err(QueueError::Malformed("a request without room for its status"));
            }
            let (status, written) = self.serve(&chain, io)?;
            scatter(&io.dma, &part(&chain.writable, room - 1, 1), &[status])?;
            // What is before the status counts as written, so that the length covers it.
            let len = if written == 0 { 1 } else { room };
            io.push(index, &chain, len.try_into().unwrap_or(u32::MAX))?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.write_through = false;
    }

    fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.write_through);
        self.disk.hash_state(hasher);
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(postcard::to_stdvec(&(self.write_through, self.disk.save()?))?)
    }

    fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        let (write_through, disk): (bool, Vec<u8>) = postcard::from_bytes(image)?;
        self.write_through = write_through;
        self.disk.restore(&disk)
    }
}
