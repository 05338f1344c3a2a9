//! The window at 0xa0000 to video memory: four planes, latches, write and read modes (IBM VGA technical reference,
//! "Graphics controller").
//!
//! Byte `n` of plane `p` is byte `4 * n + p` of video memory.

use super::{State, VIDEO_MEMORY, dispi};

/// First address and size of the window.
pub(super) const WINDOW: u64 = 0xa_0000;
pub(super) const WINDOW_SIZE: u64 = 0x2_0000;

const CHAIN_4: u8 = 8;
const ODD_EVEN: u8 = 0x10;

impl State {
    /// The offset in video memory's address space of an offset in the window, by the memory map select.
    fn map(&self, at: usize) -> Option<usize> {
        let bank = usize::from(self.dispi[dispi::BANK]) << 16;
        match self.graphics[6] >> 2 & 3 {
            0 => Some(at),
            1 => (at < 0x1_0000).then_some(at + bank),
            2 => at.checked_sub(0x1_0000).filter(|at| *at < 0x8000),
            _ => at.checked_sub(0x1_8000),
        }
    }

    fn chain4(&self) -> bool {
        self.sequencer[4] & CHAIN_4 != 0
    }

    pub(super) fn window_read(&mut self, at: usize) -> u8 {
        let Some(at) = self.map(at) else { return 0xff };
        if self.chain4() {
            return self.memory.get(at).copied().unwrap_or(0xff);
        }
        if self.graphics[5] & ODD_EVEN != 0 {
            let plane = usize::from(self.graphics[4] & 2) | at & 1;
            return self.memory.get((at & !1) << 1 | plane).copied().unwrap_or(0xff);
        }
        let start = at * 4;
        let Some(planes) = self.memory.get(start..start + 4) else { return 0xff };
        self.latch.copy_from_slice(planes);
        if self.graphics[5] & 8 == 0 {
            return self.latch[usize::from(self.graphics[4] & 3)];
        }
        // Read mode 1: which pixels have the colour to compare, in the planes to care about.
        let (compare, care) = (self.graphics[2], self.graphics[7]);
        (0..4).filter(|plane| care >> plane & 1 != 0).fold(0xff, |equal, plane| {
            let wanted = if compare >> plane & 1 != 0 { 0xff } else { 0 };
            equal & !(self.latch[plane as usize] ^ wanted)
        })
    }

    pub(super) fn window_write(&mut self, at: usize, value: u8) {
        let Some(at) = self.map(at) else { return };
        let mask = self.sequencer[2];
        if self.chain4() {
            if mask >> (at & 3) & 1 != 0 && at < VIDEO_MEMORY {
                self.memory[at] = value;
            }
            return;
        }
        if self.graphics[5] & ODD_EVEN != 0 {
            let plane = usize::from(self.graphics[4] & 2) | at & 1;
            let to = (at & !1) << 1 | plane;
            if mask >> plane & 1 != 0 && to < VIDEO_MEMORY {
                self.memory[to] = value;
            }
            return;
        }
        let start = at * 4;
        if start + 4 > VIDEO_MEMORY {
            return;
        }
        let rotated = value.rotate_right((self.graphics[3] & 7).into());
        let (set, enable, bits) = (self.graphics[0], self.graphics[1], self.graphics[8]);
        for plane in 0..4usize {
            if mask >> plane & 1 == 0 {
                continue;
            }
            let fill = |on: u8| if on >> plane & 1 != 0 { 0xff } else { 0 };
            let latch = self.latch[plane];
            let (source, bits) = match self.graphics[5] & 3 {
                0 => (if enable >> plane & 1 != 0 { fill(set) } else { rotated }, bits),
                1 => (latch, 0),
                2 => (fill(value), bits),
                _ => (fill(set), bits & rotated),
            };
            let combined = match self.graphics[3] >> 3 & 3 {
                0 => source,
                1 => source & latch,
                2 => source | latch,
                _ => source ^ latch,
            };
            self.memory[start + plane] = combined & bits | latch & !bits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planar() -> State {
        let mut state = State { graphics: [0; 16], ..State::default() };
        state.graphics[6] = 1 << 2;
        state.graphics[8] = 0xff;
        state.sequencer[2] = 0xf;
        state
    }

    /// Graphics controller, registers 0, 1, 3, 5, 8.
    #[test]
    fn write_modes() {
        let mut state = planar();
        state.window_write(5, 0x81);
        assert_eq!(state.memory[20..24], [0x81; 4]);
        // Set/reset in planes 0 and 2.
        (state.graphics[0], state.graphics[1]) = (0b0100, 0b0101);
        state.window_write(5, 0x0f);
        assert_eq!(state.memory[20..24], [0, 0x0f, 0xff, 0x0f]);
        // Write mode 1 copies the latches.
        state.window_read(5);
        state.graphics[5] = 1;
        state.window_write(6, 0);
        assert_eq!(state.memory[24..28], [0, 0x0f, 0xff, 0x0f]);
        // Write mode 2 with a bit mask; the rest comes from the latches.
        (state.graphics[5], state.graphics[8]) = (2, 0xf0);
        state.window_write(6, 0b0001);
        assert_eq!(state.memory[24..28], [0xf0, 0x0f, 0x0f, 0x0f]);
        // XOR with the latches.
        state.graphics = planar().graphics;
        state.graphics[3] = 3 << 3;
        state.window_read(6);
        state.window_write(6, 0xff);
        assert_eq!(state.memory[24..28], [0x0f, 0xf0, 0xf0, 0xf0]);
        // Read mode 1: pixels of colour 0b1110.
        (state.graphics[5], state.graphics[2], state.graphics[7]) = (8, 0b1110, 0xf);
        assert_eq!(state.window_read(6), 0xf0);
    }

    #[test]
    fn text_goes_to_planes_0_and_1() {
        let mut state = State::default();
        (state.graphics[5], state.graphics[6], state.sequencer[2]) = (ODD_EVEN, 0xe, 3);
        state.window_write(0x1_8000, b'A');
        state.window_write(0x1_8001, 7);
        state.window_write(0x1_8002, b'B');
        assert_eq!(state.memory[..8], [b'A', 7, 0, 0, b'B', 0, 0, 0]);
        assert_eq!((state.window_read(0x1_8001), state.window_read(0x8000)), (7, 0xff));
        for at in [0, 0xffff, 0x1_ffff] {
            for map in 0..4 {
                state.graphics[6] = map << 2;
                state.window_write(at, 1);
                state.window_read(at);
            }
        }
    }
}
