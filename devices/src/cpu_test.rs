//! The device that bare-metal x86 test suites expect: a latch, ISA lines driven by port writes, and RAM behind MMIO.
//!
//! Ports 0xe0 to 0xe3: a latch of 1, 2 or 4 bytes. 0xe4: a page address to be flushed by the host, of no meaning here.
//! 0xe8: a latch of one byte. 0x2000 + n: the level of ISA line n. 0xff000000: 64 KiB of memory.

use crate::device::{Device, DeviceContext, le_value, put_le, state_methods};
use serde::{Deserialize, Serialize};

/// Offsets as this device sees them: the latches' ports from 0 on, the lines, the memory.
pub(crate) const LINES: u64 = 0x100;
pub(crate) const MEMORY: u64 = 0x1_0000;
/// Length of the memory.
pub(crate) const MEMORY_LEN: u64 = 0x1_0000;
/// Number of lines.
pub(crate) const LINE_COUNT: u64 = 24;

/// The test device.
#[derive(Debug)]
pub struct CpuTest {
    state: State,
}

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    latch: u32,
    byte: u8,
    memory: Vec<u8>,
}

impl Default for CpuTest {
    fn default() -> Self {
        Self { state: State { latch: 0, byte: 0, memory: vec![0; MEMORY_LEN as usize] } }
    }
}

impl Device for CpuTest {
    fn read(&mut self, offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        match offset {
            0..4 => put_le(u64::from(self.state.latch) >> (8 * offset), data),
            8 => data.fill(self.state.byte),
            MEMORY.. => {
                let at = (offset - MEMORY) as usize;
                if let Some(bytes) = self.state.memory.get(at..at + data.len()) {
                    data.copy_from_slice(bytes);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        match offset {
            0..4 => {
                let shift = 8 * offset as u32;
                let mask = u64::from(u32::MAX) >> (32 - 8 * data.len().clamp(1, 4) as u32);
                let value = u64::from(self.state.latch) & !(mask << shift) | (le_value(data) & mask) << shift;
                self.state.latch = value as u32;
            }
            8 => self.state.byte = le_value(data) as u8,
            LINES..MEMORY => ctx.set_irq((offset - LINES) as u8, le_value(data) != 0),
            MEMORY.. => {
                let at = (offset - MEMORY) as usize;
                if let Some(bytes) = self.state.memory.get_mut(at..at + data.len()) {
                    bytes.copy_from_slice(data);
                }
            }
            _ => {}
        }
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {
        *self = Self::default();
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;

    #[test]
    fn latches_lines_and_memory() {
        let mut bench = Bench::new(CpuTest::default());
        for (size, value) in [(1, 0x5a), (2, 0x1234), (4, 0x8765_4321)] {
            bench.write_n(0, size, value);
            assert_eq!(bench.read_n(0, size), value);
        }
        bench.write(1, 0xee);
        assert_eq!(bench.read_n(0, 4), 0x8765_ee21);
        bench.write(8, 0x77);
        assert_eq!(bench.read(8), 0x77);
        bench.write(LINES + 14, 1);
        assert!(bench.irq(14));
        bench.write_n(LINES + 14, 4, 0);
        assert!(!bench.irq(14));
        for size in [1, 2, 4, 8] {
            bench.write_n(MEMORY + 0x100, size, 0x1122_3344_5566_7788);
            assert_eq!(
                bench.read_n(MEMORY + 0x100, size),
                0x1122_3344_5566_7788 & u64::MAX >> (64 - 8 * size)
            );
        }
    }
}
