//! The PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference, "Keyboard (101/102-key)").

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Answers and codes of the keyboard.
const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const BAT_OK: u8 = 0xaa;
/// Bytes that the keyboard buffers; a key that finds no room leaves an overrun code.
const BUFFER: usize = 16;
const BREAK_PREFIX: u8 = 0xf0;
const EXTENDED: u8 = 0x80;
/// The key number of Pause (Ctrl-Break in set 1's extended codes).
const PAUSE: u8 = EXTENDED | 0x46;

/// What the 8042 makes of a set 2 code: a set 1 code, with 0xf0 taken out and bit 7 for break.
pub(crate) const SET_2_TO_1: [u8; 0x80] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, //
];

/// Translates one byte from the keyboard that is not the break prefix.
pub(crate) fn translate(code: u8) -> u8 {
    match code {
        // F7 and Alt-SysRq have set 2 codes above 0x7f.
        0x83 => 0x41,
        0x84 => 0x54,
        0x80.. => code,
        _ => SET_2_TO_1[usize::from(code)],
    }
}

/// The set 2 code of the key with this set 1 make code.
fn set_2(make: u8) -> Option<u8> {
    match make {
        0x41 => Some(0x83),
        0x54 => Some(0x84),
        _ => SET_2_TO_1.iter().position(|&code| code == make).map(|code| code as u8),
    }
}

/// Set 3 codes that differ from set 2's, by key number.
const SET_3: [(u8, u8); 45] = [
    (0x01, 0x08),
    (0x1d, 0x11),
    (0x2b, 0x5c),
    (0x38, 0x19),
    (0x3a, 0x14),
    (0x3b, 0x07),
    (0x3c, 0x0f),
    (0x3d, 0x17),
    (0x3e, 0x1f),
    (0x3f, 0x27),
    (0x40, 0x2f),
    (0x41, 0x37),
    (0x42, 0x3f),
    (0x43, 0x47),
    (0x44, 0x4f),
    (0x45, 0x76),
    (0x46, 0x5f),
    (0x37, 0x7e),
    (0x4a, 0x84),
    (0x4e, 0x7c),
    (0x56, 0x13),
    (0x57, 0x56),
    (0x58, 0x5e),
    (EXTENDED | 0x1c, 0x79),
    (EXTENDED | 0x1d, 0x58),
    (EXTENDED | 0x35, 0x77),
    (EXTENDED | 0x37, 0x57),
    (EXTENDED | 0x38, 0x39),
    (PAUSE, 0x62),
    (EXTENDED | 0x47, 0x6e),
    (EXTENDED | 0x48, 0x63),
    (EXTENDED | 0x49, 0x6f),
    (EXTENDED | 0x4b, 0x61),
    (EXTENDED | 0x4d, 0x6a),
    (EXTENDED | 0x4f, 0x65),
    (EXTENDED | 0x50, 0x60),
    (EXTENDED | 0x51, 0x6d),
    (EXTENDED | 0x52, 0x67),
    (EXTENDED | 0x53, 0x64),
    (EXTENDED | 0x5b, 0x8b),
    (EXTENDED | 0x5c, 0x8c),
    (EXTENDED | 0x5d, 0x8d),
    (EXTENDED | 0x5e, 0x8e),
    (EXTENDED | 0x5f, 0x8f),
    (EXTENDED | 0x63, 0x90),
];

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Keyboard {
    queue: VecDeque<u8>,
    /// A command that waits for its argument.
    command: Option<u8>,
    /// The last byte sent, for RESEND.
    last: u8,
    scanning: bool,
    set: u8,
    leds: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { queue: VecDeque::new(), command: None, last: 0, scanning: true, set: 2, leds: 0 }
    }
}

impl Keyboard {
    /// The next byte for the controller.
    pub(crate) fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A byte from the controller. A command throws away what waits to be sent.
    pub(crate) fn receive(&mut self, byte: u8) {
        if let Some(command) = self.command.take() {
            // A command in place of the argument ends the former.
            if byte < 0xed {
                return self.argument(command, byte);
            }
        }
        if byte != RESEND {
            self.queue.clear();
        }
        match byte {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.command = Some(byte);
                self.queue.push_back(ACK);
            }
            0xee => self.queue.push_back(0xee),
            0xf2 => self.queue.extend([ACK, 0xab, 0x83]),
            0xf4 => self.enable(true),
            0xf5 => {
                self.set_defaults();
                self.enable(false);
            }
            0xf6 => {
                self.set_defaults();
                self.queue.push_back(ACK);
            }
            // Key types of set 3: all keys are make/break here.
            0xf7..=0xfa => self.queue.push_back(ACK),
            0xfe => self.queue.push_front(self.last),
            0xff => {
                *self = Self::default();
                self.queue.extend([ACK, BAT_OK]);
            }
            _ => self.queue.push_back(RESEND),
        }
    }

    fn enable(&mut self, scanning: bool) {
        self.scanning = scanning;
        self.queue.push_back(ACK);
    }

    fn set_defaults(&mut self) {
        self.set = 2;
        self.leds = 0;
    }

    fn argument(&mut self, command: u8, value: u8) {
        match (command, value) {
            (0xf0, 0) => {
                self.queue.extend([ACK, self.set]);
                return;
            }
            (0xf0, 1..=3) => self.set = value,
            (0xf0, _) => {
                self.queue.push_back(RESEND);
                return;
            }
            (0xed, _) => self.leds = value & 7,
            _ => {}
        }
        self.queue.push_back(ACK);
    }

    /// A key goes down or up. `key` is its set 1 make code, with bit 7 for the keys with an 0xe0 prefix.
    pub(crate) fn key(&mut self, key: u8, pressed: bool) {
        if !self.scanning {
            return;
        }
        let mut codes = Vec::new();
        let make = key & !EXTENDED;
        match (self.set, key) {
            (1, PAUSE) if pressed => codes.extend([0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
            (2, PAUSE) if pressed => codes.extend([0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]),
            (1 | 2, PAUSE) => {}
            (1, _) => {
                codes.extend((key & EXTENDED != 0).then_some(0xe0));
                codes.push(make | if pressed { 0 } else { 0x80 });
            }
            _ => {
                let special = SET_3.iter().find(|&&(number, _)| number == key);
                let (code, prefix) = match special.filter(|_| self.set == 3) {
                    Some(&(_, code)) => (Some(code), false),
                    None => (set_2(make), key & EXTENDED != 0 && self.set != 3),
                };
                let Some(code) = code else { return };
                codes.extend(prefix.then_some(0xe0));
                codes.extend((!pressed).then_some(BREAK_PREFIX));
                codes.push(code);
            }
        }
        if self.queue.len() + codes.len() <= BUFFER {
            self.queue.extend(codes);
        } else if self.queue.len() < BUFFER {
            // Overrun: 0 in sets 2 and 3, 0xff in set 1.
            self.queue.push_back(if self.set == 1 { 0xff } else { 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(keyboard: &mut Keyboard) -> Vec<u8> {
        core::iter::from_fn(|| keyboard.take()).collect()
    }

    #[test]
    fn commands_and_answers() {
        let mut keyboard = Keyboard::default();
        for (bytes, answer) in [
            (&[0xff][..], &[0xfa, 0xaa][..]),
            (&[0xf2], &[0xfa, 0xab, 0x83]),
            (&[0xee], &[0xee]),
            (&[0xed, 7], &[0xfa, 0xfa]),
            (&[0xf3, 0x20], &[0xfa, 0xfa]),
            (&[0xf0, 0], &[0xfa, 0xfa, 2]),
            (&[0xf0, 1], &[0xfa, 0xfa]),
            (&[0xf0, 0], &[0xfa, 0xfa, 1]),
            (&[0xf0, 9], &[0xfa, 0xfe]),
            (&[0xf6], &[0xfa]),
            (&[0xf0, 0], &[0xfa, 0xfa, 2]),
            (&[0x12], &[0xfe]),
            (&[0xed, 0xf4], &[0xfa, 0xfa]),
            (&[0xfe], &[0xfa]),
        ] {
            let mut got = Vec::new();
            for &byte in bytes {
                keyboard.receive(byte);
                got.extend(sent(&mut keyboard));
            }
            assert_eq!(got, answer, "{bytes:x?}");
        }
    }

    #[test]
    fn scan_codes_of_the_three_sets() {
        // Key numbers: A, F7, cursor up, right Ctrl, Pause, left Windows
        for (set, key, make, release) in [
            (1, 0x1e, &[0x1e][..], &[0x9e][..]),
            (1, 0xc8, &[0xe0, 0x48], &[0xe0, 0xc8]),
            (1, 0xc6, &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5], &[]),
            (2, 0x1e, &[0x1c], &[0xf0, 0x1c]),
            (2, 0x41, &[0x83], &[0xf0, 0x83]),
            (2, 0xc8, &[0xe0, 0x75], &[0xe0, 0xf0, 0x75]),
            (2, 0x9d, &[0xe0, 0x14], &[0xe0, 0xf0, 0x14]),
            (2, 0xc6, &[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77], &[]),
            (3, 0x1e, &[0x1c], &[0xf0, 0x1c]),
            (3, 0x41, &[0x37], &[0xf0, 0x37]),
            (3, 0xc8, &[0x63], &[0xf0, 0x63]),
            (3, 0xc6, &[0x62], &[0xf0, 0x62]),
            (3, 0xdb, &[0x8b], &[0xf0, 0x8b]),
        ] {
            let mut keyboard = Keyboard { set, ..Keyboard::default() };
            keyboard.key(key, true);
            assert_eq!(sent(&mut keyboard), make, "set {set} key {key:#x}");
            keyboard.key(key, false);
            assert_eq!(sent(&mut keyboard), release, "set {set} key {key:#x}");
        }
    }

    /// The controller's translation must give back set 1's codes.
    #[test]
    fn translation_is_the_inverse() {
        for make in 1..0x59 {
            let Some(code) = set_2(make) else { continue };
            assert_eq!(translate(code), make);
        }
        assert_eq!(translate(0xfa), 0xfa);
    }

    #[test]
    fn a_full_buffer_overruns_once() {
        let mut keyboard = Keyboard::default();
        for _ in 0..20 {
            keyboard.key(0x1e, true);
        }
        assert_eq!(sent(&mut keyboard).len(), 16);
        keyboard.receive(0xf5);
        assert_eq!(sent(&mut keyboard), [0xfa]);
        keyboard.key(0x1e, true);
        assert_eq!(sent(&mut keyboard), [], "scanning is off");
    }
}
