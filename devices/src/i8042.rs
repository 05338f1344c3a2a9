//! The 8042 keyboard controller of a PS/2: ports 0x60 (offset 0) and 0x64 (offset 1).
//!
//! IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller". A byte of a device needs
//! [`BYTE_NS`] to arrive after the output buffer was emptied, as on the serial wire (there it is more): so a guest that
//! reads port 0x60 twice gets the same byte twice.

use crate::device::{Device, DeviceContext, state_methods};
use crate::fabric::PowerRequest;
use crate::ps2_keyboard::{Keyboard, translate};
use crate::ps2_mouse::Mouse;
use serde::{Deserialize, Serialize};

const KEYBOARD_IRQ: u8 = 1;
const AUX_IRQ: u8 = 12;
const BYTE_NS: u64 = 50_000;

/// Status register.
const OBF: u8 = 0x01;
const SYS: u8 = 0x04;
const COMMAND: u8 = 0x08;
const UNLOCKED: u8 = 0x10;
const AUX_OBF: u8 = 0x20;

/// Command byte.
const KEYBOARD_INTERRUPT: u8 = 0x01;
const AUX_INTERRUPT: u8 = 0x02;
const KEYBOARD_OFF: u8 = 0x10;
const AUX_OFF: u8 = 0x20;
const TRANSLATE: u8 = 0x40;
/// As firmware leaves it: translation, passed self-test, keyboard interrupt.
const FIRMWARE_COMMAND_BYTE: u8 = TRANSLATE | SYS | KEYBOARD_INTERRUPT;

/// Output port: not reset, A20 (which gates nothing, as for port 0x92); the interrupt lines are added when it is read.
const NOT_RESET: u8 = 0x01;
const GATE_A20: u8 = 0x02;
const OUTPUT_PORT: u8 = 0xcf;

/// The controller with its keyboard and mouse.
#[derive(Debug, Default)]
pub struct KeyboardController {
    state: State,
}

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    /// The internal memory; byte 0 is the command byte.
    memory: [u8; 32],
    output_port: u8,
    /// The output buffer: its byte, whether it is full, whether it came from the auxiliary device.
    output: u8,
    full: bool,
    aux: bool,
    /// The last write went to port 0x64.
    command_written: bool,
    /// A command that waits for its byte at port 0x60.
    command: Option<u8>,
    /// The break prefix was taken out by translation.
    breaks: bool,
    /// A byte of a device is under way.
    transfer: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl Default for State {
    fn default() -> Self {
        let mut memory = [0; 32];
        memory[0] = FIRMWARE_COMMAND_BYTE;
        Self {
            memory,
            output_port: OUTPUT_PORT,
            output: 0,
            full: false,
            aux: false,
            command_written: false,
            command: None,
            breaks: false,
            transfer: false,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

/// The bytes for [`crate::HostInput::Keyboard`] of one key going down or up: `key` is its set 1 make code, with bit 7 set
/// for the keys whose code has an 0xe0 prefix (0xc6 is Pause).
pub fn key_event(key: u8, pressed: bool) -> [u8; 2] {
    [key, u8::from(pressed)]
}

/// The bytes for [`crate::HostInput::Mouse`] of one movement: buttons (bit 0 left, 1 right, 2 middle), steps to the right,
/// upward, and of the wheel toward the user.
pub fn mouse_event(buttons: u8, x: i8, y: i8, wheel: i8) -> [u8; 5] {
    [MOUSE_EVENT, buttons, x as u8, y as u8, wheel as u8]
}

/// Marks a mouse event among the bytes from the host; 0 is no key.
const MOUSE_EVENT: u8 = 0;

impl KeyboardController {
    /// Fills the output buffer.
    fn put(&mut self, byte: u8, aux: bool) {
        let state = &mut self.state;
        state.output = byte;
        state.full = true;
        state.aux = aux;
    }

    fn command_byte(&self) -> u8 {
        self.state.memory[0]
    }

    fn drive(&mut self, ctx: &mut DeviceContext<'_>) {
        let state = &mut self.state;
        let full = |aux: bool, enable: u8| state.full && state.aux == aux && state.memory[0] & enable != 0;
        let (irq1, irq12) = (full(false, KEYBOARD_INTERRUPT), full(true, AUX_INTERRUPT));
        ctx.set_irq(KEYBOARD_IRQ, irq1);
        ctx.set_irq(AUX_IRQ, irq12);
        let waits = !state.keyboard.is_empty() && state.memory[0] & KEYBOARD_OFF == 0
            || !state.mouse.is_empty() && state.memory[0] & AUX_OFF == 0;
        if waits && !state.full && !state.transfer {
            state.transfer = true;
            ctx.schedule(0, ctx.now + BYTE_NS);
        }
    }

    /// Takes the next byte of a device into the output buffer.
    fn transfer(&mut self) {
        let state = &mut self.state;
        let from_keyboard = if state.memory[0] & KEYBOARD_OFF == 0 { state.keyboard.take() } else { None };
        if let Some(byte) = from_keyboard {
            if state.memory[0] & TRANSLATE == 0 {
                return self.put(byte, false);
            }
            if byte == 0xf0 {
                state.breaks = true;
                return;
            }
            let released = core::mem::take(&mut state.breaks);
            return self.put(translate(byte) | if released { 0x80 } else { 0 }, false);
        }
        if state.memory[0] & AUX_OFF == 0
            && let Some(byte) = state.mouse.take()
        {
            self.put(byte, true);
        }
    }

    fn write_command(&mut self, command: u8, ctx: &mut DeviceContext<'_>) {
        let state = &mut self.state;
        state.command_written = true;
        state.command = None;
        match command {
            0x20..=0x3f => {
                let byte = state.memory[usize::from(command & 0x1f)];
                self.put(byte, false);
            }
            0x60..=0x7f | 0xd1..=0xd4 => state.command = Some(command),
            0xa7 => state.memory[0] |= AUX_OFF,
            0xa8 => state.memory[0] &= !AUX_OFF,
            // Interface tests: no error.
            0xa9 | 0xab => self.put(0, false),
            0xaa => {
                state.memory[0] |= SYS;
                self.put(0x55, false);
            }
            0xad => state.memory[0] |= KEYBOARD_OFF,
            0xae => state.memory[0] &= !KEYBOARD_OFF,
            // Input port: keyboard not locked.
            0xc0 => self.put(0x80, false),
            0xd0 => {
                let lines = u8::from(state.full && !state.aux) << 4 | u8::from(state.full && state.aux) << 5;
                let byte = state.output_port & !0x30 | lines;
                self.put(byte, false);
            }
            0xdd => state.output_port &= !GATE_A20,
            0xdf => state.output_port |= GATE_A20,
            // Test inputs: clock lines free.
            0xe0 => self.put(0, false),
            // Pulses the output port's lower bits that are zero; bit 0 is the processor's reset.
            0xf0..=0xff if command & NOT_RESET == 0 => ctx.power(PowerRequest::Init),
            _ => {}
        }
    }

    fn write_data(&mut self, byte: u8, ctx: &mut DeviceContext<'_>) {
        let state = &mut self.state;
        state.command_written = false;
        match state.command.take() {
            Some(command @ 0x60..=0x7f) => state.memory[usize::from(command & 0x1f)] = byte,
            Some(0xd1) => {
                state.output_port = byte;
                if byte & NOT_RESET == 0 {
                    ctx.power(PowerRequest::Init);
                }
            }
            // As if the device had sent it.
            Some(0xd2) => self.put(byte, false),
            Some(0xd3) => self.put(byte, true),
            Some(_) => {
                state.memory[0] &= !AUX_OFF;
                state.mouse.receive(byte);
            }
            None => {
                state.memory[0] &= !KEYBOARD_OFF;
                state.breaks = false;
                state.keyboard.receive(byte);
            }
        }
    }
}

impl Device for KeyboardController {
    fn read(&mut self, offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        let Some(to) = data.first_mut() else { return };
        let state = &mut self.state;
        if offset == 0 {
            *to = state.output;
            state.full = false;
        } else {
            *to = UNLOCKED
                | self.command_byte() & SYS
                | if self.state.command_written { COMMAND } else { 0 }
                | if self.state.full { OBF } else { 0 }
                | if self.state.full && self.state.aux { AUX_OBF } else { 0 };
        }
        self.drive(ctx);
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        let Some(&byte) = data.first() else { return };
        if offset == 0 {
            self.write_data(byte, ctx);
        } else {
            self.write_command(byte, ctx);
        }
        self.drive(ctx);
    }

    fn timer(&mut self, _timer: u32, ctx: &mut DeviceContext<'_>) {
        self.state.transfer = false;
        if !self.state.full {
            self.transfer();
        }
        self.drive(ctx);
    }

    /// Key events of [`key_event`], or five bytes of a mouse event.
    fn input(&mut self, bytes: &[u8], ctx: &mut DeviceContext<'_>) {
        if let [MOUSE_EVENT, buttons, x, y, wheel] = *bytes {
            self.state.mouse.moved(buttons, x as i8, y as i8, wheel as i8);
        } else {
            for event in bytes.chunks_exact(2) {
                self.state.keyboard.key(event[0], event[1] != 0);
            }
        }
        self.drive(ctx);
    }

    fn reset(&mut self, ctx: &mut DeviceContext<'_>) {
        self.state = State::default();
        self.drive(ctx);
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;

    fn bench() -> Bench<KeyboardController> {
        Bench::new(KeyboardController::default())
    }

    fn command(bench: &mut Bench<KeyboardController>, command: u8, data: &[u8]) {
        bench.write(1, command);
        for &byte in data {
            bench.write(0, byte);
        }
    }

    /// Waits for a byte and reads it.
    fn next(bench: &mut Bench<KeyboardController>) -> Option<u8> {
        let to = bench.now + 2 * BYTE_NS;
        bench.run_to(to);
        (bench.read(1) & OBF != 0).then(|| bench.read(0))
    }

    #[test]
    fn self_test_and_memory() {
        let mut bench = bench();
        command(&mut bench, 0xaa, &[]);
        assert_eq!(bench.read(1), 0x1d, "unlocked, command, SYS, OBF");
        assert!(bench.irq(1));
        assert_eq!(bench.read(0), 0x55);
        assert_eq!(bench.read(0), 0x55, "the buffer keeps its byte");
        assert!(!bench.irq(1));
        command(&mut bench, 0x60, &[0x30]);
        command(&mut bench, 0x20, &[]);
        assert_eq!(bench.read(0), 0x30);
        assert_eq!(bench.read(1), 0x18, "SYS follows the command byte");
        command(&mut bench, 0x7f, &[0x99]);
        command(&mut bench, 0x3f, &[]);
        assert_eq!(bench.read(0), 0x99);
        for (test, answer) in [(0xa9, 0), (0xab, 0), (0xc0, 0x80)] {
            command(&mut bench, test, &[]);
            assert_eq!(bench.read(0), answer);
        }
        for (switch, byte) in [(0xa7, 0x30), (0xad, 0x30), (0xa8, 0x10), (0xae, 0)] {
            command(&mut bench, switch, &[]);
            command(&mut bench, 0x20, &[]);
            assert_eq!(bench.read(0), byte, "command {switch:#x}");
        }
    }

    #[test]
    fn keys_are_translated() {
        let mut bench = bench();
        for (command_byte, expected) in
            [(0x45, &[0x1e, 0x9e, 0xe0, 0x48][..]), (0x05, &[0x1c, 0xf0, 0x1c, 0xe0])]
        {
            command(&mut bench, 0x60, &[command_byte]);
            let events = [key_event(0x1e, true), key_event(0x1e, false), key_event(0xc8, true)].concat();
            bench.with(|controller, ctx| controller.input(&events, ctx));
            for &byte in expected {
                assert_eq!(next(&mut bench), Some(byte));
            }
            bench.write(0, 0xf6);
            assert_eq!(next(&mut bench), Some(0xfa), "the command flushes the rest");
        }
    }

    #[test]
    fn a_byte_waits_for_the_next_read() {
        let mut bench = bench();
        bench.write(0, 0xf2);
        assert_eq!(bench.read(1) & OBF, 0);
        assert_eq!(next(&mut bench), Some(0xfa));
        assert_eq!(bench.read(0), 0xfa, "not yet the next");
        assert_eq!((next(&mut bench), next(&mut bench), next(&mut bench)), (Some(0xab), Some(0x41), None));
    }

    #[test]
    fn the_auxiliary_device() {
        let mut bench = bench();
        command(&mut bench, 0x60, &[0x47]);
        command(&mut bench, 0xd4, &[0xff]);
        let to = bench.now + BYTE_NS;
        bench.run_to(to);
        assert_eq!(bench.read(1) & (OBF | AUX_OBF), OBF | AUX_OBF);
        assert!(bench.irq(12) && !bench.irq(1));
        assert_eq!(bench.read(0), 0xfa);
        assert_eq!((next(&mut bench), next(&mut bench)), (Some(0xaa), Some(0)));
        command(&mut bench, 0xd3, &[0x5a]);
        assert!(bench.irq(12), "written as if from the mouse");
        assert_eq!(bench.read(0), 0x5a);
        command(&mut bench, 0xd2, &[0xa5]);
        assert!(bench.irq(1));
        assert_eq!(bench.read(0), 0xa5);
        command(&mut bench, 0xd4, &[0xf4]);
        assert_eq!(next(&mut bench), Some(0xfa));
        bench.with(|controller, ctx| controller.input(&mouse_event(1, 2, 3, 0), ctx));
        assert_eq!((next(&mut bench), next(&mut bench), next(&mut bench)), (Some(9), Some(2), Some(3)));
    }

    #[test]
    fn a20_and_reset() {
        let mut bench = bench();
        command(&mut bench, 0xd1, &[0xdd]);
        command(&mut bench, 0xd0, &[]);
        assert_eq!(bench.read(0) & 0xcf, 0xcd);
        command(&mut bench, 0xdf, &[]);
        command(&mut bench, 0xff, &[]);
        assert_eq!(bench.fabric.take_power(), None, "no line is pulsed");
        command(&mut bench, 0xfe, &[]);
        assert_eq!(bench.fabric.take_power(), Some(PowerRequest::Init));
        command(&mut bench, 0xd1, &[0xde]);
        assert_eq!(bench.fabric.take_power(), Some(PowerRequest::Init));
    }
}
