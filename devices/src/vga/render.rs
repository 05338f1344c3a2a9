//! From video memory to a picture.

use super::{State, dispi};
use crate::screen::Screen;

const TEXT_OFF: u8 = 1;
/// The largest picture of plain VGA.
const MAX: usize = 2048;

impl State {
    /// What is shown now.
    pub(super) fn screen(&self) -> Screen {
        if self.dispi[dispi::ENABLE] & dispi::ENABLED != 0 {
            self.linear()
        } else if self.graphics[6] & TEXT_OFF == 0 {
            self.text()
        } else {
            self.planes()
        }
    }

    /// Red, green, blue of an entry of the palette.
    fn colour(&self, index: u8) -> [u8; 3] {
        let at = usize::from(index & self.dac_mask) * 3;
        let eight = self.dispi[dispi::ENABLE] & dispi::DAC_8_BITS != 0;
        // Six bits to eight: the top two again at the bottom.
        let wide = |value: u8| if eight { value } else { value << 2 | value >> 4 };
        [wide(self.palette[at]), wide(self.palette[at + 1]), wide(self.palette[at + 2])]
    }

    /// A four-bit colour through the attribute controller's palette.
    fn attribute_colour(&self, index: u8) -> [u8; 3] {
        let entry = self.attribute[usize::from(index & 15)] & 0x3f;
        let select = self.attribute[0x14];
        let low = if self.attribute[0x10] & 0x80 != 0 { entry & 0xf | select << 4 & 0x30 } else { entry };
        self.colour(low | select << 4 & 0xc0)
    }

    fn byte(&self, at: usize) -> u8 {
        self.memory.get(at).copied().unwrap_or(0)
    }

    /// The display interface's linear modes.
    fn linear(&self) -> Screen {
        let (width, height) = (usize::from(self.dispi[dispi::X]), usize::from(self.dispi[dispi::Y]));
        let bits = self.dispi[dispi::BPP];
        let line = self.line_bytes();
        let left = usize::from(self.dispi[dispi::X_OFFSET]);
        let top = usize::from(self.dispi[dispi::Y_OFFSET]);
        let mut rgb = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                let column = left + x;
                let row = (top + y) * line;
                let word = |size: usize| {
                    let at = row + column * size;
                    (0..size).fold(0u32, |value, n| value | u32::from(self.byte(at + n)) << (8 * n))
                };
                let scaled =
                    |value: u32, bits: u32| ((value & ((1 << bits) - 1)) * 255 / ((1 << bits) - 1)) as u8;
                rgb.extend(match bits {
                    4 => {
                        let at = (row + column / 8) * 4;
                        let bit = 7 - column % 8;
                        let index = (0..4)
                            .fold(0, |index, plane| index | (self.byte(at + plane) >> bit & 1) << plane);
                        self.attribute_colour(index)
                    }
                    8 => self.colour(word(1) as u8),
                    15 => [scaled(word(2) >> 10, 5), scaled(word(2) >> 5, 5), scaled(word(2), 5)],
                    16 => [scaled(word(2) >> 11, 5), scaled(word(2) >> 5, 6), scaled(word(2), 5)],
                    24 => [(word(3) >> 16) as u8, (word(3) >> 8) as u8, word(3) as u8],
                    _ => [(word(4) >> 16) as u8, (word(4) >> 8) as u8, word(4) as u8],
                });
            }
        }
        Screen { width: width as u32, height: height as u32, rgb }
    }

    /// The last line that the CRT controller displays, plus one.
    fn lines(&self) -> usize {
        let overflow = usize::from(self.crtc[7]);
        (usize::from(self.crtc[0x12]) | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1
    }

    fn start(&self) -> usize {
        usize::from(self.crtc[0xc]) << 8 | usize::from(self.crtc[0xd])
    }

    fn text(&self) -> Screen {
        let columns = usize::from(self.crtc[1]) + 1;
        let cell_height = usize::from(self.crtc[9] & 0x1f) + 1;
        let cell_width = if self.sequencer[1] & 1 != 0 { 8 } else { 9 };
        let rows = (self.lines() / cell_height).max(1);
        let line = usize::from(self.crtc[0x13]) * 8;
        let (width, height) = (columns * cell_width, rows * cell_height);
        let mut rgb = vec![0; width * height * 3];
        // The sequencer's register 3 chooses the fonts; bit 3 of the attribute chooses between them.
        let font = |select: u8| usize::from(select & 3) << 14 | usize::from(select >> 2 & 1) << 13;
        let map = self.sequencer[3];
        let fonts = [font(map & 3 | map >> 2 & 4), font(map >> 2 & 3 | map >> 3 & 4)];
        let cursor = usize::from(self.crtc[0xe]) << 8 | usize::from(self.crtc[0xf]);
        let shape = self.crtc[0xa] & 0x1f..=self.crtc[0xb] & 0x1f;
        let cursor_on = self.crtc[0xa] & 0x20 == 0;
        for row in 0..rows {
            for column in 0..columns {
                let at = self.start() * 4 + row * line + column * 4;
                let (character, attribute) = (self.byte(at), self.byte(at + 1));
                let (front, back) =
                    (attribute & 15, attribute >> 4 & if self.attribute[0x10] & 8 != 0 { 7 } else { 15 });
                let (front, back) = (self.attribute_colour(front), self.attribute_colour(back));
                let base = fonts[usize::from(attribute & 8 == 0)];
                let here = cursor_on && at / 4 == cursor;
                for y in 0..cell_height {
                    let glyph = self.byte((base + usize::from(character) * 32 + y) * 4 + 2);
                    for x in 0..cell_width {
                        // The ninth column repeats the eighth for line graphics.
                        let bit = if x < 8 {
                            glyph >> (7 - x) & 1
                        } else if self.attribute[0x10] & 4 != 0 && (0xc0..=0xdf).contains(&character) {
                            glyph & 1
                        } else {
                            0
                        };
                        let lit = bit != 0 || (here && shape.contains(&(y as u8)));
                        let to = ((row * cell_height + y) * width + column * cell_width + x) * 3;
                        rgb[to..to + 3].copy_from_slice(if lit { &front } else { &back });
                    }
                }
            }
        }
        Screen { width: width as u32, height: height as u32, rgb }
    }

    /// Graphics modes of plain VGA: 256 colours, or four planes.
    fn planes(&self) -> Screen {
        let packed = self.graphics[5] & 0x40 != 0;
        let doubled = usize::from(self.crtc[9] & 0x1f)
            + 1
            + usize::from(self.crtc[9] >> 7) * usize::from(self.crtc[9] & 0x1f == 0);
        let cells = usize::from(self.crtc[1]) + 1;
        let (width, height) =
            (if packed { cells * 4 } else { cells * 8 }, (self.lines() / doubled).clamp(1, MAX));
        let line = usize::from(self.crtc[0x13]) * 8;
        let mut rgb = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                let row = self.start() * 4 + y * line;
                rgb.extend(if packed {
                    self.colour(self.byte(row + x))
                } else {
                    let at = row + x / 8 * 4;
                    let bit = 7 - x % 8;
                    let index =
                        (0..4).fold(0, |index, plane| index | (self.byte(at + plane) >> bit & 1) << plane);
                    self.attribute_colour(index & self.attribute[0x12])
                });
            }
        }
        Screen { width: width as u32, height: height as u32, rgb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_screen() {
        for (bits, bytes, rgb) in [
            (32u16, &[1u8, 2, 3, 0][..], [3u8, 2, 1]),
            (24, &[1, 2, 3], [3, 2, 1]),
            (16, &[0x1f, 0xf8], [255, 0, 255]),
            (15, &[0xe0, 0x03], [0, 255, 0]),
        ] {
            let mut state = State::default();
            state.dispi[dispi::X..=dispi::ENABLE].copy_from_slice(&[8, 2, bits, 1]);
            state.dispi[dispi::VIRTUAL_WIDTH] = 8;
            let line = state.line_bytes();
            state.memory[line..line + bytes.len()].copy_from_slice(bytes);
            let screen = state.screen();
            assert_eq!((screen.width, screen.height, screen.rgb.len()), (8, 2, 48));
            assert_eq!(screen.rgb[24..27], rgb, "{bits} bits");
        }
    }

    #[test]
    fn text_shows_glyphs() {
        let mut state = State::default();
        (state.crtc[1], state.crtc[9], state.crtc[0x12], state.crtc[0x13]) = (1, 7, 15, 1);
        (state.crtc[0xa], state.sequencer[1]) = (0x20, 1);
        state.attribute[1] = 1;
        state.palette[3..6].copy_from_slice(&[0x3f; 3]);
        state.memory[..2].copy_from_slice(&[1, 1]);
        state.memory[32 * 4 + 2] = 0x80;
        let screen = state.screen();
        assert_eq!((screen.width, screen.height), (16, 16));
        assert_eq!(screen.rgb[..6], [255, 255, 255, 0, 0, 0]);
    }

    #[test]
    fn any_registers_give_a_picture() {
        for value in [0x00, 0x55, 0xaa, 0xff] {
            let mut state = State { crtc: vec![value; 256], graphics: [value; 16], ..State::default() };
            for mode in [0, 1, 0x40] {
                (state.graphics[6], state.graphics[5]) = (mode & 1, mode);
                state.screen();
            }
        }
    }
}
