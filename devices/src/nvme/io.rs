//! The NVM command set (NVMe 1.4, chapter 6).

use super::admin::WRITE_CACHE;
use super::identify::MDTS;
use super::queues::Command;
use super::{Nvme, Outcome, PAGE, prp, status};
use crate::dma::Dma;
use crate::storage::{SECTOR, is_inside};
use crate::virtio::{gather, scatter};

const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const WRITE_ZEROES: u8 = 0x08;
const DATASET_MANAGEMENT: u8 = 0x09;
/// Force unit access, in dword 12.
const FUA: u32 = 1 << 30;
/// Attribute of dataset management: deallocate.
const DEALLOCATE: u32 = 1 << 2;
const ALL_NAMESPACES: u32 = u32::MAX;

impl Nvme {
    /// Executes a command of an I/O queue.
    pub(super) fn io(&mut self, command: &Command, dma: &Dma) -> Outcome {
        if !command.is_plain() {
            return Err(status::INVALID_FIELD);
        }
        let flush_all = command.opcode() == FLUSH && command.namespace() == ALL_NAMESPACES;
        if !Self::is_namespace(command) && !flush_all {
            return Err(status::INVALID_NAMESPACE);
        }
        let result = match command.opcode() {
            FLUSH => self.disk.flush().map_err(|_| status::INTERNAL),
            READ => self.read(command, dma),
            WRITE => self.write(command, dma),
            WRITE_ZEROES => self.range(command, false).and_then(|(offset, len)| {
                self.disk.write_zeroes(offset, len).map_err(|_| status::INTERNAL)?;
                self.settle(command)
            }),
            DATASET_MANAGEMENT => self.manage(command, dma),
            _ => Err(status::INVALID_OPCODE),
        };
        result.map(|()| 0)
    }

    /// Offset and length that a command names.
    fn range(&self, command: &Command, transfers: bool) -> Result<(u64, u64), u16> {
        let len = (u64::from(command.dword(12) & 0xffff) + 1) * SECTOR;
        let offset = command.qword(10).checked_mul(SECTOR).ok_or(status::OUT_OF_RANGE)?;
        if !is_inside(self.disk.size(), offset, len) {
            return Err(status::OUT_OF_RANGE);
        }
        if transfers && len > PAGE << MDTS {
            return Err(status::INVALID_FIELD);
        }
        if command.opcode() != READ && self.disk.is_read_only() {
            return Err(status::READ_ONLY);
        }
        Ok((offset, len))
    }

    fn read(&mut self, command: &Command, dma: &Dma) -> Result<(), u16> {
        let (offset, len) = self.range(command, true)?;
        let to = prp::segments(dma, command.prp(), len)?;
        let mut data = vec![0; len as usize];
        self.disk.read(offset, &mut data).map_err(|_| status::INTERNAL)?;
        scatter(dma, &to, &data).map(|_| ()).map_err(|_| status::DATA_TRANSFER)
    }

    fn write(&mut self, command: &Command, dma: &Dma) -> Result<(), u16> {
        let (offset, len) = self.range(command, true)?;
        let from = prp::segments(dma, command.prp(), len)?;
        let mut data = vec![0; len as usize];
        gather(dma, &from, &mut data).map_err(|_| status::DATA_TRANSFER)?;
        self.disk.write(offset, &data).map_err(|_| status::INTERNAL)?;
        self.settle(command)
    }

    /// Keeps what was written safe if the command or the cache's setting says so.
    fn settle(&mut self, command: &Command) -> Result<(), u16> {
        if command.dword(12) & FUA != 0 || self.state.features[WRITE_CACHE] & 1 == 0 {
            return self.disk.flush().map_err(|_| status::INTERNAL);
        }
        Ok(())
    }

    fn manage(&mut self, command: &Command, dma: &Dma) -> Result<(), u16> {
        let count = (command.dword(10) & 0xff) as usize + 1;
        let mut ranges = vec![0; count * 16];
        let from = prp::segments(dma, command.prp(), ranges.len() as u64)?;
        gather(dma, &from, &mut ranges).map_err(|_| status::DATA_TRANSFER)?;
        if command.dword(11) & DEALLOCATE == 0 {
            return Ok(());
        }
        if self.disk.is_read_only() {
            return Err(status::READ_ONLY);
        }
        for range in ranges.chunks_exact(16) {
            let value = u128::from_le_bytes(range.try_into().unwrap_or_default());
            let len = u64::from((value >> 32) as u32) * SECTOR;
            let offset = ((value >> 64) as u64).checked_mul(SECTOR).ok_or(status::OUT_OF_RANGE)?;
            if !is_inside(self.disk.size(), offset, len) {
                return Err(status::OUT_OF_RANGE);
            }
            self.disk.discard(offset, len).map_err(|_| status::INTERNAL)?;
        }
        Ok(())
    }
}
