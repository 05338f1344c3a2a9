//! A parallel flash memory with Intel's command set, where UEFI firmware keeps its variables (Intel 28F256 data sheet,
//! CFI publication 100): byte programs, block erases, status.

use crate::StateError;
use crate::device::{Device, DeviceContext, le_value};
use crate::storage::{Disk, SECTOR};
use ringworld_core::StateHasher;
use serde::{Deserialize, Serialize};

/// Bytes that an erase covers.
const BLOCK: usize = 4096;

/// Commands.
const READ_ARRAY: u8 = 0xff;
const READ_STATUS: u8 = 0x70;
const CLEAR_STATUS: u8 = 0x50;
const PROGRAM: [u8; 2] = [0x10, 0x40];
const ERASE: u8 = 0x20;
const CONFIRM: u8 = 0xd0;
const READ_ID: u8 = 0x90;
/// Status: ready; erase or program failed.
const READY: u8 = 0x80;
const FAILED: u8 = 0x30;

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct State {
    contents: Vec<u8>,
    /// The command that reads and writes belong to.
    command: u8,
    status: u8,
}

/// The flash.
pub struct Pflash {
    disk: Box<dyn Disk>,
    state: State,
}

impl Pflash {
    /// A flash that keeps its contents in `disk`.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn new(mut disk: Box<dyn Disk>) -> std::io::Result<Self> {
        let mut contents = vec![0; disk.size() as usize];
        disk.read(0, &mut contents)?;
        Ok(Self { disk, state: State { contents, command: READ_ARRAY, status: 0 } })
    }

    /// Keeps a changed range safe.
    fn keep(&mut self, start: usize, len: usize) {
        let sector = SECTOR as usize;
        let first = start / sector * sector;
        let last = (start + len).next_multiple_of(sector).min(self.state.contents.len());
        let data = self.state.contents.get(first..last).unwrap_or_default();
        if self.disk.is_read_only() || self.disk.write(first as u64, data).is_err() {
            self.state.status |= FAILED;
        }
    }
}

impl Device for Pflash {
    fn read(&mut self, offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        match self.state.command {
            READ_ARRAY => {
                let at = offset as usize;
                for (to, from) in data.iter_mut().zip(self.state.contents.get(at..).unwrap_or_default()) {
                    *to = *from;
                }
            }
            READ_ID => data.fill(if offset & 1 == 0 { 0x89 } else { 0x18 }),
            _ => data.fill(self.state.status),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8], _ctx: &mut DeviceContext<'_>) {
        let at = offset as usize;
        let state = &mut self.state;
        match (state.command, le_value(data) as u8) {
            (command, _) if PROGRAM.contains(&command) => {
                // Programming only clears bits, as in a real cell.
                for (to, from) in state.contents.iter_mut().skip(at).zip(data) {
                    *to &= *from;
                }
                (state.command, state.status) = (READ_STATUS, state.status | READY);
                self.keep(at, data.len());
            }
            (ERASE, CONFIRM) => {
                let start = at / BLOCK * BLOCK;
                state.contents.iter_mut().skip(start).take(BLOCK).for_each(|byte| *byte = 0xff);
                (state.command, state.status) = (READ_STATUS, state.status | READY);
                self.keep(start, BLOCK);
            }
            (ERASE, _) => (state.command, state.status) = (READ_STATUS, state.status | READY | FAILED),
            (_, CLEAR_STATUS) => (state.command, state.status) = (READ_ARRAY, 0),
            (_, command @ (READ_STATUS | READ_ID | ERASE)) => state.command = command,
            (_, command) if PROGRAM.contains(&command) => state.command = command,
            _ => state.command = READ_ARRAY,
        }
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {
        (self.state.command, self.state.status) = (READ_ARRAY, 0);
    }

    fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.state);
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(postcard::to_stdvec(&self.state)?)
    }

    fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        let state: State = postcard::from_bytes(image)?;
        if state.contents.len() != self.state.contents.len() {
            return Err(StateError::OtherBoard("a flash of another size".into()));
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;
    use crate::storage::{DiskOptions, open_disk};

    /// How UEFI firmware finds out whether there is flash, and how it writes.
    #[test]
    fn firmware_writes_variables() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0xff; 2 * BLOCK]).unwrap();
        let disk = open_disk(&DiskOptions::new(file.path())).unwrap();
        let mut bench = Bench::new(Pflash::new(disk).unwrap());
        assert_eq!(bench.read(5), 0xff);
        bench.write(5, CLEAR_STATUS);
        bench.write(5, READ_STATUS);
        assert_eq!(bench.read(5), 0, "flash shows a cleared status, RAM would show the command");
        for (at, value) in [(BLOCK as u64 + 7, 0x5a), (BLOCK as u64 + 8, 0xa5)] {
            bench.write(at, PROGRAM[0]);
            bench.write(at, value);
            assert_eq!(bench.read(at), READY);
        }
        bench.write(0, READ_ARRAY);
        assert_eq!((bench.read(BLOCK as u64 + 7), bench.read(BLOCK as u64 + 8)), (0x5a, 0xa5));
        assert_eq!(std::fs::read(file.path()).unwrap()[BLOCK + 7..BLOCK + 9], [0x5a, 0xa5]);
        bench.write(BLOCK as u64, ERASE);
        bench.write(BLOCK as u64, CONFIRM);
        bench.write(0, READ_ARRAY);
        assert_eq!(bench.read_n(BLOCK as u64 + 7, 1), 0xff);
        assert_eq!(std::fs::read(file.path()).unwrap(), vec![0xff; 2 * BLOCK]);
    }
}
