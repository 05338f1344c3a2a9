//! Two 8259A interrupt controllers as a PC wires them, and the ELCR.
//!
//! Intel 8259A data sheet (order number 231468); ELCR: 82371AB (PIIX4) data sheet 4.2.5. An edge is latched until it is
//! acknowledged ("set on a low to high transition", ICH9 data sheet 5.8.1), even if its line falls before; the 8259A would
//! answer such an INTA with the vector of IR7. After power-up the pair is in the state in which firmware leaves it.

use serde::{Deserialize, Serialize};

/// The master's input that the slave's INT drives.
const CASCADE: u8 = 2;

/// What the next writes to the odd port mean.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
enum Init {
    Ready,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct Pic {
    /// Levels of the inputs.
    lines: u8,
    /// Inputs that have risen and were not acknowledged (edge-triggered requests).
    edges: u8,
    isr: u8,
    imr: u8,
    /// Level-triggered inputs by the ELCR.
    elcr: u8,
    /// ELCR bits that exist.
    elcr_mask: u8,
    init: Init,
    icw1: u8,
    icw2: u8,
    /// Slaves' inputs (master) or the slave's ID.
    icw3: u8,
    icw4: u8,
    /// The input with the lowest priority.
    lowest: u8,
    rotate_on_aeoi: bool,
    special_mask: bool,
    poll: bool,
    read_isr: bool,
}

impl Pic {
    fn new(elcr_mask: u8) -> Self {
        Self {
            lines: 0,
            edges: 0,
            isr: 0,
            imr: 0,
            elcr: 0,
            elcr_mask,
            init: Init::Ready,
            icw1: 0,
            icw2: 0,
            icw3: 0,
            icw4: 0,
            lowest: 7,
            rotate_on_aeoi: false,
            special_mask: false,
            poll: false,
            read_isr: false,
        }
    }

    /// Inputs that are level triggered: all with LTIM, else by the ELCR.
    fn level(&self) -> u8 {
        if self.icw1 & 8 != 0 { 0xff } else { self.elcr }
    }

    /// The IRR: latched edges, and the levels of level-triggered inputs.
    fn irr(&self) -> u8 {
        self.edges & !self.level() | self.lines & self.level()
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << (input & 7);
        if level && self.lines & bit == 0 {
            self.lines |= bit;
            self.edges |= bit;
        } else if !level {
            self.lines &= !bit;
        }
    }

    /// 0 for the input of highest priority.
    fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }

    fn highest(&self, bits: u8) -> Option<u8> {
        (1..=8).map(|rank| self.lowest.wrapping_add(rank) & 7).find(|input| bits & (1 << input) != 0)
    }

    /// The request that INT signals.
    fn pending(&self) -> Option<u8> {
        if self.init != Init::Ready {
            return None;
        }
        let input = self.highest(self.irr() & !self.imr)?;
        // In special mask mode, a masked level in service inhibits nothing.
        let serving = self.highest(if self.special_mask { self.isr & !self.imr } else { self.isr });
        let Some(serving) = serving else { return Some(input) };
        // Special fully nested mode: a slave in service does not lock itself out.
        let nested = self.icw4 & 0x10 != 0 && input == serving && self.icw3 & (1 << input) != 0;
        (nested || self.rank(input) < self.rank(serving)).then_some(input)
    }

    /// INTA for the pending request; the acknowledged input.
    fn take(&mut self) -> Option<u8> {
        let input = self.pending()?;
        self.edges &= !(1 << input);
        if self.icw4 & 2 == 0 {
            self.isr |= 1 << input;
        } else if self.rotate_on_aeoi {
            self.lowest = input;
        }
        Some(input)
    }

    /// The vector byte for `input`: T7-T3 of ICW2, or the low byte of the MCS-80 call address.
    fn vector(&self, input: u8) -> u8 {
        match (self.icw4 & 1 != 0, self.icw1 & 4 != 0) {
            (true, _) => self.icw2 & 0xf8 | input,
            (false, true) => self.icw1 & 0xe0 | input << 2,
            (false, false) => self.icw1 & 0xc0 | input << 3,
        }
    }

    fn write_even(&mut self, value: u8) {
        match value & 0x18 {
            0x00 => self.ocw2(value),
            0x08 => {
                if value & 0x40 != 0 {
                    self.special_mask = value & 0x20 != 0;
                }
                if value & 4 != 0 {
                    self.poll = true;
                }
                if value & 2 != 0 {
                    self.read_isr = value & 1 != 0;
                }
            }
            // ICW1: clears the edge sense, the IMR, special mask mode; IRR is read next; IR7 has the lowest priority.
            _ => {
                *self = Self {
                    lines: self.lines,
                    elcr: self.elcr,
                    init: Init::Icw2,
                    icw1: value,
                    ..Self::new(self.elcr_mask)
                };
            }
        }
    }

    /// OCW2: end of interrupt and rotation.
    fn ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_aeoi = false,
            0b100 => self.rotate_on_aeoi = true,
            // Non-specific EOI: the highest in service; in special mask mode, masked levels are left alone.
            op @ (0b001 | 0b101) => {
                let serving = if self.special_mask { self.isr & !self.imr } else { self.isr };
                if let Some(input) = self.highest(serving) {
                    self.isr &= !(1 << input);
                    if op == 0b101 {
                        self.lowest = input;
                    }
                }
            }
            0b011 => self.isr &= !(1 << level),
            0b111 => {
                self.isr &= !(1 << level);
                self.lowest = level;
            }
            0b110 => self.lowest = level,
            _ => {}
        }
    }

    fn write_odd(&mut self, value: u8) {
        let needs_icw4 = self.icw1 & 1 != 0;
        let last = if needs_icw4 { Init::Icw4 } else { Init::Ready };
        match self.init {
            Init::Ready => self.imr = value,
            Init::Icw2 => {
                self.icw2 = value;
                self.init = if self.icw1 & 2 != 0 { last } else { Init::Icw3 };
            }
            Init::Icw3 => {
                self.icw3 = value;
                self.init = last;
            }
            Init::Icw4 => {
                self.icw4 = value & 0x1f;
                self.init = Init::Ready;
            }
        }
    }

    fn status(&self) -> u8 {
        if self.read_isr { self.isr } else { self.irr() }
    }
}

/// The master and the slave on its input 2, with the edge/level control registers.
#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
pub struct PicPair {
    master: Pic,
    slave: Pic,
}

impl Default for PicPair {
    fn default() -> Self {
        // IRQ 0, 1, 2, 8 and 13 are always edge triggered.
        let mut pair = Self { master: Pic::new(0xf8), slave: Pic::new(0xde) };
        // As firmware leaves them: vectors 0x08 and 0x70, cascaded, normal EOI, nothing masked.
        for (pic, icw2, icw3) in [(&mut pair.master, 0x08, 1 << CASCADE), (&mut pair.slave, 0x70, CASCADE)] {
            pic.write_even(0x11);
            [icw2, icw3, 1].into_iter().for_each(|word| pic.write_odd(word));
        }
        pair
    }
}

impl PicPair {
    /// Drives ISA IRQ `irq` (0 to 15; 2 is the cascade and not a line).
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set_line(irq, level),
            8..16 => self.slave.set_line(irq - 8, level),
            _ => {}
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        let level = self.slave.pending().is_some();
        self.master.set_line(CASCADE, level);
        if !level {
            // INT of the slave is a level that it withdraws.
            self.master.edges &= !(1 << CASCADE);
        }
    }

    /// The master's INT output.
    pub fn intr(&self) -> bool {
        self.master.pending().is_some()
    }

    /// (IRR, ISR, IMR) of the master and of the slave.
    pub fn registers(&self) -> [(u8, u8, u8); 2] {
        [&self.master, &self.slave].map(|pic| (pic.irr(), pic.isr, pic.imr))
    }

    /// The two INTA cycles of the CPU: the vector. Without a request, IR7's ("default IR7"), whose in-service bit
    /// stays clear.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.take() else { return self.master.vector(7) };
        let single = self.master.icw1 & 2 != 0;
        if input != CASCADE || single || self.master.icw3 & (1 << CASCADE) == 0 {
            self.cascade();
            return self.master.vector(input);
        }
        let input = self.slave.take();
        let vector = self.slave.vector(input.unwrap_or(7));
        // INT falls with INTA, so that a further request of the slave is a new edge.
        self.master.set_line(CASCADE, false);
        self.cascade();
        vector
    }

    fn poll(&mut self, slave: bool) -> u8 {
        let pic = if slave { &mut self.slave } else { &mut self.master };
        pic.poll = false;
        let polled = pic.take().map_or(0, |input| 0x80 | input);
        if slave && polled != 0 {
            self.master.set_line(CASCADE, false);
        }
        polled
    }

    /// Reads a register: 0 and 1 are the master's ports 0x20 and 0x21, 2 and 3 the slave's 0xa0 and 0xa1, 4 and 5 the
    /// ELCRs at 0x4d0.
    pub fn read(&mut self, offset: u64) -> u8 {
        let slave = offset & 2 != 0;
        let pic = if slave { &self.slave } else { &self.master };
        let value = match offset {
            4 => self.master.elcr,
            5 => self.slave.elcr,
            0..4 if pic.poll => self.poll(slave),
            0 | 2 => pic.status(),
            1 | 3 => pic.imr,
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// Writes a register (numbered as for [`PicPair::read`]).
    pub fn write(&mut self, offset: u64, value: u8) {
        match offset {
            0 => self.master.write_even(value),
            1 => self.master.write_odd(value),
            2 => self.slave.write_even(value),
            3 => self.slave.write_odd(value),
            4 => self.master.elcr = value & self.master.elcr_mask,
            5 => self.slave.elcr = value & self.slave.elcr_mask,
            _ => {}
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a PC's firmware leaves the pair: vectors 0x20 and 0x28, all unmasked, `icw4` for the master.
    fn pair(icw4: u8) -> PicPair {
        let mut pics = PicPair::default();
        for (offset, value) in
            [(0, 0x11), (1, 0x20), (1, 4), (1, icw4), (2, 0x11), (3, 0x28), (3, 2), (3, 1), (1, 0), (3, 0)]
        {
            pics.write(offset, value);
        }
        pics
    }

    #[test]
    fn fully_nested_mode_serves_by_priority() {
        let mut pics = pair(1);
        pics.set_line(4, true);
        pics.set_line(1, true);
        assert_eq!(pics.acknowledge(), 0x21);
        assert!(!pics.intr(), "IR4 waits for IR1");
        pics.set_line(0, true);
        assert_eq!(pics.acknowledge(), 0x20);
        pics.write(0, 0x0b);
        assert_eq!(pics.read(0), 0b11, "ISR");
        pics.write(0, 0x20);
        assert!(!pics.intr());
        pics.write(0, 0x20);
        assert_eq!(pics.acknowledge(), 0x24);
        assert!(!pics.intr());
        pics.write(0, 0x64);
        assert!(!pics.intr(), "the edge of IR4 is spent");
    }

    #[test]
    fn a_slave_interrupt_is_in_service_on_both() {
        let mut pics = pair(1);
        pics.set_line(12, true);
        assert!(pics.intr());
        assert_eq!(pics.acknowledge(), 0x2c);
        assert_eq!(pics.registers().map(|(_, isr, _)| isr), [4, 0x10]);
        pics.set_line(14, true);
        pics.set_line(9, true);
        assert!(!pics.intr(), "the master still serves IR2, fully nested");
        pics.write(2, 0x20);
        pics.write(0, 0x20);
        assert_eq!(pics.acknowledge(), 0x29);
        pics.write(2, 0x20);
        pics.write(0, 0x20);
        assert_eq!(pics.acknowledge(), 0x2e);
    }

    #[test]
    fn special_fully_nested_mode_lets_the_slave_nest() {
        let mut pics = pair(0x11);
        pics.set_line(12, true);
        assert_eq!(pics.acknowledge(), 0x2c);
        pics.set_line(14, true);
        pics.set_line(3, true);
        assert!(!pics.intr(), "lower levels stay locked out");
        pics.set_line(9, true);
        assert_eq!(pics.acknowledge(), 0x29);
    }

    #[test]
    fn an_edge_is_latched() {
        let mut pics = pair(1);
        pics.set_line(5, true);
        pics.set_line(5, false);
        assert_eq!(pics.acknowledge(), 0x25);
        assert!(!pics.intr());
    }

    #[test]
    fn a_request_that_goes_away_is_a_default_ir7() {
        let mut pics = pair(1);
        pics.write(4, 0x20);
        pics.set_line(5, true);
        assert!(pics.intr());
        pics.set_line(5, false);
        assert!(!pics.intr(), "a level-triggered request goes with its line");
        assert_eq!(pics.acknowledge(), 0x27);
        assert_eq!(pics.registers()[0].1, 0, "its ISR bit stays clear");
        pics.set_line(12, true);
        pics.write(3, 0x10);
        assert!(!pics.intr(), "the slave withdraws INT");
        assert_eq!(pics.acknowledge(), 0x27);
    }

    #[test]
    fn power_up_state_is_that_of_firmware() {
        let mut pics = PicPair::default();
        pics.set_line(11, true);
        assert_eq!(pics.acknowledge(), 0x73);
        pics.set_line(0, true);
        assert_eq!(pics.acknowledge(), 0x08);
    }

    #[test]
    fn level_inputs_request_as_long_as_they_are_high() {
        for elcr in [true, false] {
            let mut pics = pair(1);
            if elcr {
                pics.write(4, 0xff);
                assert_eq!(pics.read(4), 0xf8, "IRQ 0, 1, 2 are edge only");
                pics.write(5, 0xff);
                assert_eq!(pics.read(5), 0xde, "IRQ 8 and 13 are edge only");
            } else {
                for (offset, value) in [(0, 0x19), (1, 0x20), (1, 4), (1, 1), (1, 0)] {
                    pics.write(offset, value);
                }
            }
            pics.set_line(5, true);
            assert_eq!(pics.acknowledge(), 0x25);
            pics.write(0, 0x20);
            assert!(pics.intr(), "still high");
            pics.set_line(5, false);
            assert!(!pics.intr());
        }
    }

    #[test]
    fn masks_hold_requests_back_and_keep_them() {
        let mut pics = pair(1);
        pics.write(1, 0x10);
        pics.set_line(4, true);
        assert!(!pics.intr());
        assert_eq!((pics.read(0), pics.read(1)), (0x10, 0x10));
        pics.write(1, 0);
        assert!(pics.intr());
    }

    #[test]
    fn special_mask_mode_opens_lower_levels() {
        let mut pics = pair(1);
        pics.set_line(3, true);
        assert_eq!(pics.acknowledge(), 0x23);
        pics.set_line(6, true);
        assert!(!pics.intr());
        pics.write(1, 1 << 3);
        pics.write(0, 0x68);
        assert_eq!(pics.acknowledge(), 0x26);
        pics.write(0, 0x20);
        assert_eq!(pics.registers()[0].1, 1 << 3, "a non-specific EOI skips the masked level");
        pics.write(0, 0x48);
        pics.set_line(6, false);
        pics.set_line(6, true);
        assert!(!pics.intr());
    }

    #[test]
    fn rotation() {
        // Rotate on non-specific EOI: the level served becomes the lowest.
        let mut pics = pair(1);
        pics.set_line(1, true);
        assert_eq!(pics.acknowledge(), 0x21);
        pics.write(0, 0xa0);
        pics.set_line(1, false);
        pics.set_line(1, true);
        pics.set_line(6, true);
        assert_eq!(pics.acknowledge(), 0x26);
        pics.write(0, 0xe6);
        assert_eq!(pics.acknowledge(), 0x21, "after a specific rotation IR7, IR0, IR1, ... lead");
        pics.write(0, 0x20);
        // Set priority: IR5 lowest, so IR6 is the highest.
        pics.write(0, 0xc5);
        for irq in [0, 6] {
            pics.set_line(irq, false);
            pics.set_line(irq, true);
        }
        assert_eq!(pics.acknowledge(), 0x26);
    }

    #[test]
    fn automatic_eoi_and_its_rotation() {
        let mut pics = pair(3);
        pics.write(0, 0x80);
        pics.set_line(0, true);
        assert_eq!(pics.acknowledge(), 0x20);
        assert_eq!(pics.registers()[0].1, 0);
        pics.set_line(0, false);
        pics.set_line(0, true);
        pics.set_line(7, true);
        assert_eq!(pics.acknowledge(), 0x27, "IR0 rotated to the bottom");
        assert_eq!(pics.acknowledge(), 0x20);
    }

    #[test]
    fn the_poll_command_acknowledges() {
        let mut pics = pair(1);
        pics.write(0, 0x0c);
        assert_eq!(pics.read(0), 0, "nothing to serve");
        pics.set_line(4, true);
        pics.write(0, 0x0c);
        assert_eq!(pics.read(0), 0x84);
        assert_eq!(pics.registers()[0], (0, 0x10, 0));
        assert!(!pics.intr());
    }

    #[test]
    fn icw1_resets_and_a_single_8259_skips_icw3() {
        let mut pics = pair(1);
        pics.set_line(5, true);
        pics.write(1, 0xff);
        pics.write(0, 0x13);
        assert!(!pics.intr());
        for value in [0x48, 1] {
            pics.write(1, value);
        }
        assert_eq!(pics.read(1), 0, "ICW1 clears the IMR");
        assert!(!pics.intr(), "the edge must come again");
        pics.set_line(5, false);
        pics.set_line(5, true);
        assert_eq!(pics.acknowledge(), 0x4d);
    }
}
