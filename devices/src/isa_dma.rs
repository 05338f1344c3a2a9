//! Two 8237A DMA controllers and their page registers: the registers as software sees them. No device on this board
//! asks for a transfer, so there is none; a software request completes at once.
//!
//! Intel 8237A data sheet (231466). Page register 0x80 is where firmware writes its POST codes.

use crate::device::{Device, DeviceContext, state_methods};
use serde::{Deserialize, Serialize};

/// Offset of the page registers as this device sees them.
pub(crate) const PAGES: u64 = 0x100;

#[derive(Clone, Copy, Hash, Debug, Default, Serialize, Deserialize)]
struct Channel {
    base_address: u16,
    base_count: u16,
    address: u16,
    count: u16,
    mode: u8,
}

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct Controller {
    channels: [Channel; 4],
    command: u8,
    status: u8,
    temporary: u8,
    mask: u8,
    /// The first/last flip-flop: the next access is to the high byte.
    high: bool,
}

impl Default for Controller {
    fn default() -> Self {
        Self { channels: Default::default(), command: 0, status: 0, temporary: 0, mask: 0x0f, high: false }
    }
}

impl Controller {
    /// Which half of a 16-bit register is next.
    fn flip(&mut self) -> usize {
        let half = usize::from(self.high);
        self.high = !self.high;
        half
    }

    fn read(&mut self, register: usize) -> u8 {
        match register {
            0..8 => {
                let channel = self.channels[register / 2];
                let value = if register & 1 == 0 { channel.address } else { channel.count };
                value.to_le_bytes()[self.flip()]
            }
            // Reading the status clears the terminal-count bits.
            8 => {
                let status = self.status;
                self.status &= 0xf0;
                status
            }
            13 => self.temporary,
            15 => self.mask | 0xf0,
            _ => 0xff,
        }
    }

    fn write(&mut self, register: usize, value: u8) {
        let selected = usize::from(value & 3);
        match register {
            0..8 => {
                let half = self.flip();
                let channel = &mut self.channels[register / 2];
                let base =
                    if register & 1 == 0 { &mut channel.base_address } else { &mut channel.base_count };
                let mut bytes = base.to_le_bytes();
                bytes[half] = value;
                *base = u16::from_le_bytes(bytes);
                channel.address = channel.base_address;
                channel.count = channel.base_count;
            }
            8 => self.command = value,
            // A request that is served at once leaves terminal count behind.
            9 if value & 4 != 0 => self.status |= 1 << selected,
            10 => self.mask = self.mask & !(1 << selected) | (value >> 2 & 1) << selected,
            11 => self.channels[selected].mode = value,
            12 => self.high = false,
            13 => *self = Self { channels: self.channels, ..Self::default() },
            14 => self.mask = 0,
            15 => self.mask = value & 0x0f,
            _ => {}
        }
    }
}

/// Controllers 1 (ports 0x00 to 0x0f, offset 0) and 2 (0xc0 to 0xdf, offset 0x20), page registers (0x80 to 0x8f).
#[derive(Debug, Default)]
pub struct IsaDma {
    state: State,
}

#[derive(Clone, Hash, Debug, Default, Serialize, Deserialize)]
struct State {
    controllers: [Controller; 2],
    pages: [u8; 16],
}

impl Device for IsaDma {
    fn read(&mut self, offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        let Some(to) = data.first_mut() else { return };
        *to = match offset {
            0..0x10 => self.state.controllers[0].read(offset as usize),
            // Controller 2's registers are two ports apart.
            0x20..0x40 => self.state.controllers[1].read((offset as usize - 0x20) / 2),
            _ => self.state.pages[offset as usize & 15],
        };
    }

    fn write(&mut self, offset: u64, data: &[u8], _ctx: &mut DeviceContext<'_>) {
        let Some(&value) = data.first() else { return };
        match offset {
            0..0x10 => self.state.controllers[0].write(offset as usize, value),
            0x20..0x40 => self.state.controllers[1].write((offset as usize - 0x20) / 2, value),
            _ => {
                if offset == PAGES {
                    tracing::debug!(target: "ringworld::post", "POST code {value:#04x}");
                }
                self.state.pages[offset as usize & 15] = value;
            }
        }
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {
        self.state = State::default();
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;

    #[test]
    fn sixteen_bit_registers_through_the_flip_flop() {
        for (base, step) in [(0, 1), (0x20, 2)] {
            let mut bench = Bench::new(IsaDma::default());
            for register in 0..8 {
                bench.write(base + 12 * step, 0);
                bench.write(base + register * step, 0x34 + register as u8);
                bench.write(base + register * step, 0x12);
            }
            for register in 0..8 {
                assert_eq!(bench.read(base + register * step), 0x34 + register as u8);
                assert_eq!(bench.read(base + register * step), 0x12);
            }
        }
    }

    #[test]
    fn masks_requests_and_master_clear() {
        let mut bench = Bench::new(IsaDma::default());
        assert_eq!(bench.read(15), 0xff);
        bench.write(10, 2);
        assert_eq!(bench.read(15), 0xfb);
        bench.write(14, 0);
        bench.write(9, 5);
        assert_eq!(bench.read(8), 2);
        assert_eq!(bench.read(8), 0, "terminal count is cleared by reading");
        bench.write(13, 0);
        assert_eq!(bench.read(15), 0xff);
    }

    #[test]
    fn page_registers() {
        let mut bench = Bench::new(IsaDma::default());
        for page in 0..16 {
            bench.write(PAGES + page, 0x40 + page as u8);
        }
        for page in 0..16 {
            assert_eq!(bench.read(PAGES + page), 0x40 + page as u8);
        }
    }
}
