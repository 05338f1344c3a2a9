//! A VGA with Bochs's display interface and a linear framebuffer, as a PCI function.
//!
//! Registers are those of IBM's VGA technical reference; the display interface ("DISPI") is that of Bochs 2.6's VBE
//! extension, version 5: ports 0x1ce and 0x1cf, and in memory at 0x500 of BAR 2. VGA ports are at 0x400 of BAR 2, too.

mod memory;
mod render;

use crate::device::{le_value, put_le};
use crate::pci::{Bar, ConfigSpace, PciContext, PciDevice, Port};
use crate::screen::Screen;
use ringworld_core::VirtualTime;
use serde::{Deserialize, Serialize};

/// Bytes of video memory.
pub const VIDEO_MEMORY: usize = 16 << 20;
const FRAMEBUFFER_BAR: usize = 0;
const REGISTER_BAR: usize = 2;
const VGA_PORTS: u64 = 0x3c0;
const VGA_OFFSET: u64 = 0x400;
const DISPI_OFFSET: u64 = 0x500;
const DISPI_INDEX: u64 = 0x1ce;
const DISPI_DATA: u64 = 0x1cf;

/// Registers of the display interface.
mod dispi {
    pub const ID: usize = 0;
    pub const X: usize = 1;
    pub const Y: usize = 2;
    pub const BPP: usize = 3;
    pub const ENABLE: usize = 4;
    pub const BANK: usize = 5;
    pub const VIRTUAL_WIDTH: usize = 6;
    pub const VIRTUAL_HEIGHT: usize = 7;
    pub const X_OFFSET: usize = 8;
    pub const Y_OFFSET: usize = 9;
    pub const MEMORY: usize = 10;
    pub const COUNT: usize = 11;

    pub const VERSION: u16 = 0xb0c5;
    pub const ENABLED: u16 = 1;
    pub const GET_LIMITS: u16 = 2;
    pub const DAC_8_BITS: u16 = 0x20;
    pub const KEEP_MEMORY: u16 = 0x80;
    pub const MAX_X: u16 = 2560;
    pub const MAX_Y: u16 = 1600;
}

/// A frame takes a sixtieth of a second, and a twentieth of it is vertical retrace.
const FRAME: u64 = 16_666_667;
const RETRACE: u64 = FRAME / 20;
const LINE: u64 = 31_778;

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    misc: u8,
    sequencer_index: u8,
    sequencer: [u8; 8],
    graphics_index: u8,
    graphics: [u8; 16],
    crtc_index: u8,
    crtc: Vec<u8>,
    attribute_index: u8,
    attribute: [u8; 21],
    /// The next write to port 0x3c0 is data.
    attribute_data: bool,
    dac_mask: u8,
    dac_read: u8,
    dac_write: u8,
    /// Which of red, green and blue is next.
    dac_part: u8,
    /// Port 0x3c7 reads as "reading".
    dac_reading: bool,
    palette: Vec<u8>,
    dispi_index: u16,
    dispi: [u16; dispi::COUNT],
    latch: [u8; 4],
    memory: Vec<u8>,
}

impl Default for State {
    fn default() -> Self {
        let mut dispi = [0; dispi::COUNT];
        dispi[dispi::ID] = dispi::VERSION;
        dispi[dispi::MEMORY] = (VIDEO_MEMORY >> 16) as u16;
        Self {
            misc: 0,
            sequencer_index: 0,
            sequencer: [0; 8],
            graphics_index: 0,
            graphics: [0; 16],
            crtc_index: 0,
            crtc: vec![0; 256],
            attribute_index: 0,
            attribute: [0; 21],
            attribute_data: false,
            dac_mask: 0xff,
            dac_read: 0,
            dac_write: 0,
            dac_part: 0,
            dac_reading: false,
            palette: vec![0; 768],
            dispi_index: 0,
            dispi,
            latch: [0; 4],
            memory: vec![0; VIDEO_MEMORY],
        }
    }
}

/// The card.
struct Vga {
    state: State,
}

/// A graphics card as a PCI function, with a BIOS for it if there is one.
pub fn vga(bios: Option<Vec<u8>>) -> (ConfigSpace, Box<dyn PciDevice>) {
    let mut config = ConfigSpace::new(0x1234, 0x1111, 0x03_00_00, 2)
        .subsystem(0x1af4, 0x1100)
        .bar(FRAMEBUFFER_BAR, Bar::Memory32(VIDEO_MEMORY as u32))
        .bar(REGISTER_BAR, Bar::Memory32(0x1000))
        .power_management()
        .express(Port::IntegratedEndpoint);
    if let Some(bios) = bios {
        config = config.rom(bios);
    }
    (config.seal(), Box::new(Vga { state: State::default() }))
}

impl Vga {
    /// Whether the CRT controller's ports are those of colour (0x3d0) or of monochrome (0x3b0).
    fn answers(&self, port: u64) -> bool {
        let colour = self.state.misc & 1 != 0;
        match port {
            0x3b0..0x3c0 => !colour,
            0x3d0..0x3e0 => colour,
            _ => true,
        }
    }

    fn port_read(&mut self, port: u64, now: VirtualTime) -> u8 {
        let state = &mut self.state;
        match port {
            0x3c0 if state.attribute_data => 0,
            0x3c0 => state.attribute_index,
            0x3c1 => state.attribute.get(usize::from(state.attribute_index & 0x1f)).copied().unwrap_or(0),
            0x3c2 => 0,
            0x3c4 => state.sequencer_index,
            0x3c5 => state.sequencer[usize::from(state.sequencer_index & 7)],
            0x3c6 => state.dac_mask,
            0x3c7 => {
                if state.dac_reading {
                    3
                } else {
                    0
                }
            }
            0x3c8 => state.dac_write,
            0x3c9 => {
                let value = state.palette[usize::from(state.dac_read) * 3 + usize::from(state.dac_part)];
                state.dac_part += 1;
                if state.dac_part == 3 {
                    (state.dac_part, state.dac_read) = (0, state.dac_read.wrapping_add(1));
                }
                value
            }
            0x3ca => 0,
            0x3cc => state.misc,
            0x3ce => state.graphics_index,
            0x3cf => state.graphics[usize::from(state.graphics_index & 15)],
            0x3b4 | 0x3d4 => state.crtc_index,
            0x3b5 | 0x3d5 => state.crtc[usize::from(state.crtc_index)],
            0x3ba | 0x3da => {
                state.attribute_data = false;
                let vertical = now.0 % FRAME < RETRACE;
                let blank = vertical || now.0 % LINE < LINE / 5;
                u8::from(blank) | u8::from(vertical) << 3
            }
            _ => 0xff,
        }
    }

    fn port_write(&mut self, port: u64, value: u8) {
        let state = &mut self.state;
        match port {
            0x3c0 => {
                if !state.attribute_data {
                    state.attribute_index = value & 0x3f;
                } else if let Some(register) =
                    state.attribute.get_mut(usize::from(state.attribute_index & 0x1f))
                {
                    *register = value;
                }
                state.attribute_data = !state.attribute_data;
            }
            0x3c2 => state.misc = value,
            0x3c4 => state.sequencer_index = value,
            0x3c5 => state.sequencer[usize::from(state.sequencer_index & 7)] = value,
            0x3c6 => state.dac_mask = value,
            0x3c7 => (state.dac_read, state.dac_part, state.dac_reading) = (value, 0, true),
            0x3c8 => (state.dac_write, state.dac_part, state.dac_reading) = (value, 0, false),
            0x3c9 => {
                let at = usize::from(state.dac_write) * 3 + usize::from(state.dac_part);
                let eight = state.dispi[dispi::ENABLE] & dispi::DAC_8_BITS != 0;
                state.palette[at] = if eight { value } else { value & 0x3f };
                state.dac_part += 1;
                if state.dac_part == 3 {
                    (state.dac_part, state.dac_write) = (0, state.dac_write.wrapping_add(1));
                }
            }
            0x3ce => state.graphics_index = value,
            0x3cf => state.graphics[usize::from(state.graphics_index & 15)] = value,
            0x3b4 | 0x3d4 => state.crtc_index = value,
            0x3b5 | 0x3d5 => {
                // Bit 7 of register 0x11 protects registers 0 to 7, but for bit 4 of the last.
                let index = usize::from(state.crtc_index);
                let protected = state.crtc[0x11] & 0x80 != 0;
                match index {
                    7 if protected => state.crtc[7] = state.crtc[7] & !0x10 | value & 0x10,
                    0..8 if protected => {}
                    _ => state.crtc[index] = value,
                }
            }
            _ => {}
        }
    }

    fn dispi_read(&self, index: usize) -> u16 {
        let registers = &self.state.dispi;
        let limits = registers[dispi::ENABLE] & dispi::GET_LIMITS != 0;
        match index {
            dispi::X if limits => dispi::MAX_X,
            dispi::Y if limits => dispi::MAX_Y,
            dispi::BPP if limits => 32,
            _ => registers.get(index).copied().unwrap_or(0),
        }
    }

    fn dispi_write(&mut self, index: usize, value: u16) {
        let state = &mut self.state;
        let registers = &mut state.dispi;
        let enabled = registers[dispi::ENABLE] & dispi::ENABLED != 0;
        match index {
            dispi::ID if value & 0xfff0 == dispi::VERSION & 0xfff0 => registers[dispi::ID] = value,
            // The resolution changes only while the interface is off.
            dispi::X if !enabled => registers[dispi::X] = value.min(dispi::MAX_X) & !7,
            dispi::Y if !enabled => registers[dispi::Y] = value.min(dispi::MAX_Y),
            dispi::BPP if !enabled => {
                let value = if value == 0 { 8 } else { value };
                if matches!(value, 4 | 8 | 15 | 16 | 24 | 32) {
                    registers[dispi::BPP] = value;
                }
            }
            dispi::BANK => registers[dispi::BANK] = value & 0xff,
            dispi::VIRTUAL_WIDTH => {
                registers[dispi::VIRTUAL_WIDTH] = value.max(registers[dispi::X]);
                self.fit();
            }
            dispi::X_OFFSET | dispi::Y_OFFSET => {
                registers[index] = value;
                self.fit();
            }
            dispi::ENABLE => {
                let starts = value & dispi::ENABLED != 0 && !enabled;
                registers[dispi::ENABLE] = value;
                if starts {
                    registers[dispi::VIRTUAL_WIDTH] = registers[dispi::X];
                    (registers[dispi::X_OFFSET], registers[dispi::Y_OFFSET]) = (0, 0);
                    if value & dispi::KEEP_MEMORY == 0 {
                        state.memory.fill(0);
                    }
                    self.fit();
                }
            }
            _ => {}
        }
    }

    /// The virtual height follows from the memory.
    fn fit(&mut self) {
        let line = self.state.line_bytes().max(1);
        let rows = (VIDEO_MEMORY / line).min(usize::from(u16::MAX));
        self.state.dispi[dispi::VIRTUAL_HEIGHT] = rows as u16;
    }

    fn register_access(&mut self, port: u64, write: Option<u8>, now: VirtualTime) -> u8 {
        if !self.answers(port) {
            return 0xff;
        }
        match write {
            None => self.port_read(port, now),
            Some(value) => {
                self.port_write(port, value);
                0
            }
        }
    }
}

impl State {
    /// Bytes of a line of the display interface's virtual screen.
    fn line_bytes(&self) -> usize {
        let width = usize::from(self.dispi[dispi::VIRTUAL_WIDTH]);
        match self.dispi[dispi::BPP] {
            4 => width / 2,
            15 => width * 2,
            bits => width * usize::from(bits) / 8,
        }
    }
}

impl PciDevice for Vga {
    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8], ctx: &mut PciContext<'_, '_>) {
        match bar {
            FRAMEBUFFER_BAR => {
                let at = offset as usize;
                if let Some(from) = self.state.memory.get(at..at + data.len()) {
                    data.copy_from_slice(from);
                }
            }
            _ => match offset {
                VGA_OFFSET..0x420 => {
                    for (to, port) in data.iter_mut().zip(offset - VGA_OFFSET + VGA_PORTS..) {
                        *to = self.register_access(port, None, ctx.now());
                    }
                }
                DISPI_OFFSET..0x516 if data.len() == 2 => {
                    put_le(self.dispi_read((offset - DISPI_OFFSET) as usize / 2).into(), data);
                }
                _ => data.fill(0xff),
            },
        }
    }

    fn write(&mut self, bar: usize, offset: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        match bar {
            FRAMEBUFFER_BAR => {
                let at = offset as usize;
                if let Some(to) = self.state.memory.get_mut(at..at + data.len()) {
                    to.copy_from_slice(data);
                }
            }
            _ => match offset {
                VGA_OFFSET..0x420 => {
                    for (value, port) in data.iter().zip(offset - VGA_OFFSET + VGA_PORTS..) {
                        self.register_access(port, Some(*value), ctx.now());
                    }
                }
                DISPI_OFFSET..0x516 if data.len() == 2 => {
                    self.dispi_write((offset - DISPI_OFFSET) as usize / 2, le_value(data) as u16);
                }
                _ => {}
            },
        }
    }

    fn fixed_memory(&self) -> &'static [(u64, u64)] {
        &[(memory::WINDOW, memory::WINDOW_SIZE)]
    }

    fn fixed_ports(&self) -> &'static [(u64, u64)] {
        &[(DISPI_INDEX, 3), (0x3b0, 0x30)]
    }

    fn fixed_read(&mut self, port: bool, address: u64, data: &mut [u8], ctx: &mut PciContext<'_, '_>) {
        match address {
            _ if !port => {
                for (to, at) in data.iter_mut().zip(address - memory::WINDOW..) {
                    *to = self.state.window_read(at as usize);
                }
            }
            DISPI_INDEX if data.len() == 2 => put_le(self.state.dispi_index.into(), data),
            DISPI_INDEX..0x1d1 => {
                // The data port is at an odd address, and a word at 0x1d0 is the same.
                let value = self.dispi_read(self.state.dispi_index.into());
                put_le(u64::from(value) >> (8 * (address.saturating_sub(DISPI_DATA) & 1)), data);
            }
            _ => {
                for (to, port) in data.iter_mut().zip(address..) {
                    *to = self.register_access(port, None, ctx.now());
                }
            }
        }
    }

    fn fixed_write(&mut self, port: bool, address: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        match address {
            _ if !port => {
                for (value, at) in data.iter().zip(address - memory::WINDOW..) {
                    self.state.window_write(at as usize, *value);
                }
            }
            DISPI_INDEX if data.len() == 2 => self.state.dispi_index = le_value(data) as u16,
            DISPI_INDEX..0x1d1 => {
                let index = self.state.dispi_index.into();
                let value = le_value(data) as u16;
                // Bytes come one by one where a word crosses what a bus carries.
                let value = match (data.len(), address) {
                    (1, DISPI_DATA) => self.dispi_read(index) & 0xff00 | value,
                    (1, _) => self.dispi_read(index) & 0xff | value << 8,
                    _ => value,
                };
                self.dispi_write(index, value);
            }
            _ => {
                for (value, port) in data.iter().zip(address..) {
                    self.register_access(port, Some(*value), ctx.now());
                }
            }
        }
    }

    fn reset(&mut self, _ctx: &mut PciContext<'_, '_>) {
        self.state = State::default();
    }

    fn screen(&self) -> Option<Screen> {
        Some(self.state.screen())
    }

    fn hash_state(&self, hasher: &mut ringworld_core::StateHasher) {
        hasher.add(&self.state);
    }

    fn save(&self) -> Result<Vec<u8>, crate::StateError> {
        Ok(postcard::to_stdvec(&self.state)?)
    }

    fn restore(&mut self, image: &[u8]) -> Result<(), crate::StateError> {
        let state: State = postcard::from_bytes(image)?;
        let fits = state.memory.len() == VIDEO_MEMORY
            && state.crtc.len() == 256
            && state.palette.len() == 768
            && state.dac_part < 3;
        if !fits {
            return Err(crate::StateError::OtherBoard("a graphics card of another kind".into()));
        }
        self.state = state;
        Ok(())
    }
}
