//! The PS/2 mouse, with a wheel for those who ask for it (IBM PS/2 Hardware Interface Technical Reference, "Auxiliary
//! device"; Microsoft IntelliMouse: the sample rates 200, 100, 80 switch to packets of four bytes).

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const BUFFER: usize = 64;

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Mouse {
    queue: VecDeque<u8>,
    command: Option<u8>,
    last: u8,
    /// Streaming is enabled.
    reporting: bool,
    remote: bool,
    wrap: bool,
    scale_2_1: bool,
    resolution: u8,
    rate: u8,
    /// The last three sample rates.
    rates: [u8; 3],
    wheel: bool,
    buttons: u8,
    /// Movement not yet reported: x, y (up is positive), wheel.
    moved: [i16; 3],
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            command: None,
            last: 0,
            reporting: false,
            remote: false,
            wrap: false,
            scale_2_1: false,
            resolution: 2,
            rate: 100,
            rates: [0; 3],
            wheel: false,
            buttons: 0,
            moved: [0; 3],
        }
    }
}

impl Mouse {
    pub(crate) fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn receive(&mut self, byte: u8) {
        if let Some(command) = self.command.take() {
            return self.argument(command, byte);
        }
        if self.wrap && !matches!(byte, 0xec | 0xff) {
            return self.answer(&[byte]);
        }
        if byte != RESEND {
            self.queue.clear();
        }
        match byte {
            0xe6 | 0xe7 => self.scale_2_1 = byte == 0xe7,
            0xe8 | 0xf3 => self.command = Some(byte),
            0xe9 => {
                let status = (self.buttons & 1) << 2
                    | (self.buttons & 4) >> 1
                    | (self.buttons & 2) >> 1
                    | u8::from(self.scale_2_1) << 4
                    | u8::from(self.reporting) << 5
                    | u8::from(self.remote) << 6;
                return self.answer(&[ACK, status, self.resolution, self.rate]);
            }
            0xea => self.remote = false,
            0xeb => {
                self.answer(&[ACK]);
                return self.packet();
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => return self.answer(&[ACK, if self.wheel { 3 } else { 0 }]),
            0xf4 => self.reporting = true,
            0xf5 => self.reporting = false,
            0xf6 => self.set_defaults(),
            0xfe => return self.queue.push_front(self.last),
            0xff => {
                *self = Self { buttons: self.buttons, ..Self::default() };
                return self.answer(&[ACK, 0xaa, 0x00]);
            }
            _ => return self.answer(&[RESEND]),
        }
        self.answer(&[ACK]);
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
    }

    fn set_defaults(&mut self) {
        let Self { wheel, buttons, queue, last, .. } = core::mem::take(self);
        *self = Self { wheel, buttons, queue, last, ..Self::default() };
    }

    fn argument(&mut self, command: u8, value: u8) {
        if command == 0xe8 {
            if value > 3 {
                return self.answer(&[RESEND]);
            }
            self.resolution = value;
        } else {
            self.rate = value;
            self.rates = [self.rates[1], self.rates[2], value];
            self.wheel |= self.rates == [200, 100, 80];
        }
        self.answer(&[ACK]);
    }

    /// Movement and buttons (bit 0 left, 1 right, 2 middle); y grows upward, the wheel toward the user.
    pub(crate) fn moved(&mut self, buttons: u8, x: i8, y: i8, wheel: i8) {
        self.buttons = buttons & 7;
        for (sum, step) in self.moved.iter_mut().zip([x, y, wheel]) {
            *sum = sum.saturating_add(i16::from(step)).clamp(-255, 255);
        }
        // A guest that does not keep up gets the sum of what it has missed.
        if self.reporting && !self.remote && self.queue.len() < BUFFER {
            self.packet();
        }
    }

    fn packet(&mut self) {
        let [x, y, wheel] = core::mem::take(&mut self.moved);
        let [x, y] = [x, y].map(|step| if self.scale_2_1 && !self.remote { scale(step) } else { step });
        let sign = |value: i16| u8::from(value < 0);
        self.queue.extend([8 | self.buttons | sign(x) << 4 | sign(y) << 5, x as u8, y as u8]);
        if self.wheel {
            self.queue.push_back(wheel.clamp(-8, 7) as u8);
        }
    }
}

/// Scaling 2:1: 0, 1, 1, 3, 6, 9, and twice from 6 on.
fn scale(step: i16) -> i16 {
    let size = match step.unsigned_abs() {
        size @ 0..6 => [0, 1, 1, 3, 6, 9][usize::from(size)],
        size => (2 * size).min(255),
    };
    size as i16 * step.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        let mut got = Vec::new();
        for &byte in bytes {
            mouse.receive(byte);
            got.extend(core::iter::from_fn(|| mouse.take()));
        }
        got
    }

    #[test]
    fn commands_and_answers() {
        let mut mouse = Mouse::default();
        for (bytes, answer) in [
            (&[0xff][..], &[0xfa, 0xaa, 0x00][..]),
            (&[0xf2], &[0xfa, 0x00]),
            (&[0xe9], &[0xfa, 0x00, 2, 100]),
            (&[0xe8, 3, 0xf3, 40, 0xe7, 0xf4], &[0xfa; 6]),
            (&[0xe9], &[0xfa, 0x30, 3, 40]),
            (&[0xe8, 4], &[0xfa, 0xfe]),
            (&[0xee, 0x55, 0xf4, 0xec], &[0xfa, 0x55, 0xf4, 0xfa]),
            (&[0xf6, 0xe9], &[0xfa, 0xfa, 0x00, 2, 100]),
            (&[0x01], &[0xfe]),
            (&[0xfe], &[0xfe]),
            (&[0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf2], &[0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 3]),
        ] {
            assert_eq!(talk(&mut mouse, bytes), answer, "{bytes:x?}");
        }
    }

    #[test]
    fn packets() {
        let mut mouse = Mouse::default();
        mouse.moved(1, 5, -3, 0);
        assert!(mouse.is_empty(), "not enabled");
        assert_eq!(talk(&mut mouse, &[0xeb]), [0xfa, 0x29, 5, 0xfd]);
        talk(&mut mouse, &[0xf4]);
        mouse.moved(6, -1, 2, 1);
        assert_eq!(talk(&mut mouse, &[]), []);
        assert_eq!(core::iter::from_fn(|| mouse.take()).collect::<Vec<_>>(), [0x1e, 0xff, 2]);
        talk(&mut mouse, &[0xf3, 200, 0xf3, 100, 0xf3, 80]);
        mouse.moved(0, 0, 0, -1);
        assert_eq!(core::iter::from_fn(|| mouse.take()).collect::<Vec<_>>(), [0x08, 0, 0, 0xff]);
        for _ in 0..1000 {
            mouse.moved(0, 100, 100, 0);
        }
        assert!(mouse.queue.len() < BUFFER + 4);
    }
}
