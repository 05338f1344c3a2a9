//! The 16550A UART: National Semiconductor PC16550D data sheet.
//!
//! The transmitter is faster than any line: a character leaves at once and THRE never clears, so that a guest that
//! polls loses no time. Only the THRE *interrupt* takes [`TRANSMIT_NS`] a character, so that an interrupt handler comes
//! to an end. The receiver takes characters from the host's queue at the programmed rate, and waits while its FIFO is
//! full: the host never causes an overrun.

use crate::device::{Device, DeviceContext, state_methods};
use ringworld_core::VirtualTime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Where the characters go that a guest sends.
pub trait CharBackend: Send {
    /// Takes characters; never blocks for long.
    fn output(&mut self, bytes: &[u8]);
}

impl<F: FnMut(&[u8]) + Send> CharBackend for F {
    fn output(&mut self, bytes: &[u8]) {
        self(bytes);
    }
}

/// Baud rate generator input / 16, in Hz: the rate with divisor 1.
const BASE_BAUD: u64 = 115_200;
/// From a character's transmission to the THRE interrupt.
const TRANSMIT_NS: u64 = 2_000;
const FIFO_SIZE: usize = 16;

/// IER bits, and the sources that they enable.
const RX_AVAILABLE: u8 = 1;
const THR_EMPTY: u8 = 2;
const LINE_STATUS: u8 = 4;
const MODEM_STATUS: u8 = 8;

const LSR_DR: u8 = 0x01;
const LSR_OE: u8 = 0x02;
const LSR_ERRORS: u8 = 0x1e;
const LSR_THRE_TEMT: u8 = 0x60;

const LCR_DLAB: u8 = 0x80;
const LCR_BREAK: u8 = 0x40;
const FCR_ENABLE: u8 = 0x01;
const MCR_OUT2: u8 = 0x08;
const MCR_LOOP: u8 = 0x10;
/// A host that listens: DCD, DSR and CTS asserted.
const MSR_CONNECTED: u8 = 0xb0;

const TIMER_RECEIVE: u32 = 0;
const TIMER_TIMEOUT: u32 = 1;
const TIMER_TRANSMIT: u32 = 2;

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    irq: u8,
    divisor: u16,
    ier: u8,
    lcr: u8,
    mcr: u8,
    msr: u8,
    scratch: u8,
    fcr: u8,
    /// OE and the errors of the character on top.
    line_errors: u8,
    /// Characters with their error bits (PE, FE, BI).
    fifo: VecDeque<(u8, u8)>,
    thr_interrupt: bool,
    timeout_interrupt: bool,
    /// When the transmitter will be done.
    transmit_done: VirtualTime,
    /// Whether a moment for the next character from the host is appointed.
    receiving: bool,
    /// What the host sends.
    input: VecDeque<u8>,
}

/// A 16550A with eight registers.
pub struct Uart {
    state: State,
    backend: Box<dyn CharBackend>,
}

impl Uart {
    /// A UART on ISA line `irq` whose transmitter feeds `backend`.
    pub fn new(irq: u8, backend: Box<dyn CharBackend>) -> Self {
        let state = State {
            irq,
            divisor: 0,
            ier: 0,
            lcr: 0,
            mcr: 0,
            msr: MSR_CONNECTED,
            scratch: 0,
            fcr: 0,
            line_errors: 0,
            fifo: VecDeque::new(),
            thr_interrupt: false,
            timeout_interrupt: false,
            transmit_done: VirtualTime(0),
            receiving: false,
            input: VecDeque::new(),
        };
        Self { state, backend }
    }

    fn fifos(&self) -> bool {
        self.state.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos() { FIFO_SIZE } else { 1 }
    }

    fn trigger_level(&self) -> usize {
        if self.fifos() { [1, 4, 8, 14][usize::from(self.state.fcr >> 6)] } else { 1 }
    }

    /// Nanoseconds that a character takes: start bit, data, parity and stop bits.
    fn character_time(&self) -> u64 {
        let lcr = self.state.lcr;
        let half_bits = 2 * (6 + u64::from(lcr & 3))
            + if lcr & 8 != 0 { 2 } else { 0 }
            + match (lcr & 4 != 0, lcr & 3) {
                (false, _) => 2,
                (true, 0) => 3,
                (true, _) => 4,
            };
        // A divisor of zero would stop the line; take it as one.
        half_bits * 500_000_000 * u64::from(self.state.divisor.max(1)) / BASE_BAUD
    }

    fn line_status(&self) -> u8 {
        let fifo_error = self.fifos() && self.state.fifo.iter().any(|&(_, errors)| errors != 0);
        LSR_THRE_TEMT
            | self.state.line_errors
            | if self.state.fifo.is_empty() { 0 } else { LSR_DR }
            | if fifo_error { 0x80 } else { 0 }
    }

    /// IIR bits 3-0 by the priorities of the data sheet's table 4.
    fn interrupt(&self) -> u8 {
        let state = &self.state;
        let available = state.fifo.len() >= self.trigger_level();
        let sources = [
            (LINE_STATUS, state.line_errors & LSR_ERRORS != 0, 0x06),
            (RX_AVAILABLE, available, 0x04),
            (RX_AVAILABLE, state.timeout_interrupt, 0x0c),
            (THR_EMPTY, state.thr_interrupt, 0x02),
            (MODEM_STATUS, state.msr & 0x0f != 0, 0x00),
        ];
        let pending = sources.iter().find(|(enable, pending, _)| state.ier & enable != 0 && *pending);
        pending.map_or(0x01, |&(_, _, id)| id)
    }

    /// OUT2 gates the interrupt on a PC; loopback drives it inactive.
    fn drive(&self, ctx: &mut DeviceContext<'_>) {
        let gate = self.state.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        ctx.set_irq(self.state.irq, gate && self.interrupt() != 0x01);
    }

    /// The modem inputs: the host's, or in loopback the modem outputs.
    fn update_modem_status(&mut self) {
        let state = &mut self.state;
        let mcr = state.mcr;
        let lines = if mcr & MCR_LOOP != 0 {
            // DTR -> DSR, RTS -> CTS, OUT1 -> RI, OUT2 -> DCD
            (mcr & 1) << 5 | (mcr & 2) << 3 | (mcr & 0x0c) << 4
        } else {
            MSR_CONNECTED
        };
        let changed = lines ^ state.msr & 0xf0;
        let mut deltas = changed >> 4 & 0x0b;
        // TERI: RI has gone from active to inactive.
        if changed & 0x40 != 0 && lines & 0x40 == 0 {
            deltas |= 0x04;
        }
        state.msr = lines | state.msr & 0x0f | deltas;
    }

    fn receive(&mut self, byte: u8, errors: u8, ctx: &mut DeviceContext<'_>) {
        if self.state.fifo.len() >= self.capacity() {
            self.state.line_errors |= LSR_OE;
            if !self.fifos() {
                // The holding register is overwritten; a full FIFO loses the new character.
                self.state.fifo.clear();
                self.push(byte, errors);
            }
        } else {
            self.push(byte, errors);
        }
        self.arm_timeout(ctx);
    }

    fn push(&mut self, byte: u8, errors: u8) {
        if self.state.fifo.is_empty() {
            self.state.line_errors |= errors;
        }
        self.state.fifo.push_back((byte, errors));
    }

    /// Four character times without traffic and with characters below the trigger level are a timeout.
    fn arm_timeout(&mut self, ctx: &mut DeviceContext<'_>) {
        self.state.timeout_interrupt = false;
        let waits = self.fifos() && !self.state.fifo.is_empty();
        let at = if waits { ctx.now + 4 * self.character_time() } else { VirtualTime::NEVER };
        ctx.schedule(TIMER_TIMEOUT, at);
    }

    /// Appoints the arrival of the host's next character, if there is one and room for it.
    fn arm_receiver(&mut self, ctx: &mut DeviceContext<'_>) {
        // In loopback the line is disconnected; the host's characters wait.
        let connected = self.state.mcr & MCR_LOOP == 0;
        let ready = connected && !self.state.input.is_empty() && self.state.fifo.len() < self.capacity();
        if ready && !self.state.receiving {
            self.state.receiving = true;
            ctx.schedule(TIMER_RECEIVE, ctx.now + self.character_time());
        }
    }

    fn read_receiver(&mut self, ctx: &mut DeviceContext<'_>) -> u8 {
        let Some((byte, errors)) = self.state.fifo.pop_front() else { return 0 };
        self.state.line_errors &= !errors | LSR_OE;
        if let Some(&(_, errors)) = self.state.fifo.front() {
            self.state.line_errors |= errors;
        }
        self.arm_timeout(ctx);
        byte
    }

    fn transmit(&mut self, byte: u8, ctx: &mut DeviceContext<'_>) {
        self.state.thr_interrupt = false;
        self.state.transmit_done = self.state.transmit_done.max(ctx.now) + TRANSMIT_NS;
        // While the interrupt is off, enabling it will request it.
        if self.state.ier & THR_EMPTY != 0 {
            ctx.schedule(TIMER_TRANSMIT, self.state.transmit_done);
        }
        if self.state.mcr & MCR_LOOP != 0 {
            let mask = 0xffu8 >> (3 - (self.state.lcr & 3));
            self.receive(byte & mask, 0, ctx);
        } else {
            self.backend.output(&[byte]);
        }
    }

    fn write_fcr(&mut self, value: u8, ctx: &mut DeviceContext<'_>) {
        let toggled = (value ^ self.state.fcr) & FCR_ENABLE != 0;
        // The other bits are only programmed together with the enable.
        let active = value & FCR_ENABLE != 0;
        self.state.fcr = if active { value & 0xc9 } else { 0 };
        if toggled || active && value & 2 != 0 {
            self.state.fifo.clear();
            self.state.line_errors &= LSR_OE;
            self.arm_timeout(ctx);
        }
        if toggled || active && value & 4 != 0 {
            self.state.thr_interrupt = true;
        }
    }

    fn write_ier(&mut self, value: u8) {
        // Enabling the interrupt while THR is empty requests it.
        if value & !self.state.ier & THR_EMPTY != 0 {
            self.state.thr_interrupt = true;
        }
        self.state.ier = value & 0x0f;
    }

    fn write_lcr(&mut self, value: u8, ctx: &mut DeviceContext<'_>) {
        let breaks = value & !self.state.lcr & LCR_BREAK != 0;
        self.state.lcr = value;
        if breaks && self.state.mcr & MCR_LOOP != 0 {
            // A break is received as a zero with BI and FE.
            self.receive(0, 0x18, ctx);
        }
    }
}

impl Device for Uart {
    fn read(&mut self, offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        let Some(to) = data.first_mut() else { return };
        let latch = self.state.lcr & LCR_DLAB != 0;
        *to = match offset {
            0 if latch => self.state.divisor as u8,
            0 => self.read_receiver(ctx),
            1 if latch => (self.state.divisor >> 8) as u8,
            1 => self.state.ier,
            2 => {
                let id = self.interrupt();
                if id == 0x02 {
                    self.state.thr_interrupt = false;
                }
                id | if self.fifos() { 0xc0 } else { 0 }
            }
            3 => self.state.lcr,
            4 => self.state.mcr,
            5 => {
                let status = self.line_status();
                self.state.line_errors = 0;
                if let Some((_, errors)) = self.state.fifo.front_mut() {
                    *errors = 0;
                }
                status
            }
            6 => {
                let status = self.state.msr;
                self.state.msr &= 0xf0;
                status
            }
            _ => self.state.scratch,
        };
        self.arm_receiver(ctx);
        self.drive(ctx);
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        let Some(&value) = data.first() else { return };
        let latch = self.state.lcr & LCR_DLAB != 0;
        match offset {
            0 if latch => self.state.divisor = self.state.divisor & 0xff00 | u16::from(value),
            0 => self.transmit(value, ctx),
            1 if latch => self.state.divisor = self.state.divisor & 0x00ff | u16::from(value) << 8,
            1 => self.write_ier(value),
            2 => self.write_fcr(value, ctx),
            3 => self.write_lcr(value, ctx),
            4 => {
                self.state.mcr = value & 0x1f;
                self.update_modem_status();
            }
            // LSR is meant for factory tests, MSR likewise.
            5 | 6 => {}
            _ => self.state.scratch = value,
        }
        self.arm_receiver(ctx);
        self.drive(ctx);
    }

    fn timer(&mut self, timer: u32, ctx: &mut DeviceContext<'_>) {
        match timer {
            TIMER_RECEIVE => {
                self.state.receiving = false;
                let room = self.state.fifo.len() < self.capacity() && self.state.mcr & MCR_LOOP == 0;
                if room && let Some(byte) = self.state.input.pop_front() {
                    self.receive(byte, 0, ctx);
                }
            }
            TIMER_TIMEOUT => self.state.timeout_interrupt = !self.state.fifo.is_empty(),
            _ => self.state.thr_interrupt = true,
        }
        self.arm_receiver(ctx);
        self.drive(ctx);
    }

    fn input(&mut self, bytes: &[u8], ctx: &mut DeviceContext<'_>) {
        self.state.input.extend(bytes);
        self.arm_receiver(ctx);
    }

    fn reset(&mut self, ctx: &mut DeviceContext<'_>) {
        let fresh = Self::new(self.state.irq, Box::new(|_: &[u8]| {})).state;
        let input = core::mem::take(&mut self.state.input);
        self.state = State { input, ..fresh };
        self.arm_receiver(ctx);
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;
    use std::sync::{Arc, Mutex};

    fn bench() -> (Bench<Uart>, Arc<Mutex<Vec<u8>>>) {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&sent);
        let uart = Uart::new(4, Box::new(move |bytes: &[u8]| sink.lock().unwrap().extend(bytes)));
        let mut bench = Bench::new(uart);
        // 115200 8n1, OUT2
        for (offset, value) in [(3, 0x83), (0, 1), (1, 0), (3, 3), (4, 0x0b)] {
            bench.write(offset, value);
        }
        (bench, sent)
    }

    fn input(bench: &mut Bench<Uart>, bytes: &[u8]) {
        bench.with(|uart, ctx| uart.input(bytes, ctx));
    }

    fn pass(bench: &mut Bench<Uart>, ns: u64) {
        let to = bench.now + ns;
        bench.run_to(to);
    }

    const CHARACTER: u64 = 86_805;

    #[test]
    fn registers_read_back() {
        let (mut bench, _) = bench();
        for (offset, written, read) in [(7, 0x5a, 0x5a), (1, 0xff, 0x0f), (3, 0xff, 0xff), (4, 0xff, 0x1f)] {
            bench.write(offset, written);
            assert_eq!(bench.read(offset), read, "register {offset}");
        }
        bench.write(0, 0x34);
        bench.write(1, 0x12);
        assert_eq!((bench.read(0), bench.read(1)), (0x34, 0x12), "divisor latch");
        bench.write(3, 3);
        assert_eq!(bench.read(1), 0x0f);
        assert_eq!(bench.read(5), 0x60);
        assert_eq!(bench.read(2) & 0xc0, 0, "FIFOs off");
        bench.write(2, 1);
        assert_eq!(bench.read(2) & 0xc0, 0xc0);
    }

    #[test]
    fn transmission_and_its_interrupt() {
        let (mut bench, sent) = bench();
        bench.write(1, THR_EMPTY);
        assert!(bench.irq(4), "enabling with an empty THR requests");
        assert_eq!(bench.read(2), 0x02);
        assert_eq!(bench.read(2), 0x01, "reading IIR clears it");
        bench.write(0, b'h');
        bench.write(0, b'i');
        assert_eq!(*sent.lock().unwrap(), b"hi");
        assert!(!bench.irq(4));
        pass(&mut bench, 2 * TRANSMIT_NS - 1);
        assert!(!bench.irq(4));
        pass(&mut bench, 1);
        assert!(bench.irq(4));
        bench.write(4, 3);
        assert!(!bench.irq(4), "OUT2 gates");
    }

    #[test]
    fn reception_at_the_programmed_rate() {
        let (mut bench, _) = bench();
        bench.write(1, RX_AVAILABLE);
        input(&mut bench, b"ab");
        pass(&mut bench, CHARACTER - 1);
        assert!(!bench.irq(4));
        pass(&mut bench, 1);
        assert!(bench.irq(4));
        assert_eq!((bench.read(5), bench.read(2)), (0x61, 0x04));
        pass(&mut bench, 10 * CHARACTER);
        assert_eq!(bench.read(5), 0x61, "the second waits: no overrun");
        assert_eq!(bench.read(0), b'a');
        assert!(!bench.irq(4));
        pass(&mut bench, CHARACTER);
        assert_eq!(bench.read(0), b'b');
        assert_eq!(bench.read(5), 0x60);
    }

    #[test]
    fn fifo_trigger_levels_and_timeout() {
        for (fcr, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
            let (mut bench, _) = bench();
            bench.write(2, fcr);
            bench.write(1, RX_AVAILABLE);
            input(&mut bench, &[7; 40]);
            for _ in 1..level {
                pass(&mut bench, CHARACTER);
                assert!(!bench.irq(4), "trigger level {level}");
            }
            pass(&mut bench, CHARACTER);
            assert_eq!(bench.read(2), 0xc4, "trigger level {level}");
            pass(&mut bench, 100 * CHARACTER);
            for _ in 0..16 {
                assert_eq!(bench.read(0), 7);
            }
            assert_eq!(bench.read(5) & 1, 0, "the FIFO holds 16");
        }
        let (mut bench, _) = bench();
        bench.write(2, 0xc1);
        bench.write(1, RX_AVAILABLE);
        input(&mut bench, b"x");
        pass(&mut bench, 5 * CHARACTER - 10);
        assert!(!bench.irq(4));
        pass(&mut bench, 10);
        assert_eq!(bench.read(2), 0xcc, "character timeout");
        assert_eq!(bench.read(0), b'x');
        assert_eq!(bench.read(2), 0xc1);
    }

    #[test]
    fn loopback() {
        let (mut bench, sent) = bench();
        bench.read(6);
        bench.write(4, 0x1a);
        assert_eq!(bench.read(6), 0x90 | 0x02, "RTS, OUT2 -> CTS, DCD; DSR has dropped");
        bench.write(4, 0x1f);
        assert_eq!(bench.read(6), 0xf0 | 0x02);
        bench.write(4, 0x1b);
        assert_eq!(bench.read(6), 0xb0 | 0x04, "trailing edge of RI");
        bench.write(0, 0xa5);
        assert_eq!(bench.read(0), 0xa5);
        bench.write(0, 1);
        bench.write(0, 2);
        assert_eq!(bench.read(5), 0x63, "overrun");
        assert_eq!(bench.read(5), 0x61);
        assert_eq!(bench.read(0), 2, "the later character stays");
        bench.write(3, 0x43);
        assert_eq!(bench.read(5), 0x79, "break");
        assert_eq!(bench.read(0), 0);
        assert!(sent.lock().unwrap().is_empty());
    }

    #[test]
    fn interrupt_priorities() {
        let (mut bench, _) = bench();
        bench.write(1, 0x0f);
        bench.read(6);
        bench.write(4, 0x1b);
        bench.write(4, 0x19);
        for byte in [1, 2] {
            bench.write(0, byte);
        }
        pass(&mut bench, 2 * TRANSMIT_NS);
        assert_eq!(bench.read(2), 0x06);
        bench.read(5);
        assert_eq!(bench.read(2), 0x04);
        bench.read(0);
        assert_eq!(bench.read(2), 0x02);
        assert_eq!(bench.read(2), 0x00);
        bench.read(6);
        assert_eq!(bench.read(2), 0x01);
    }

    #[test]
    fn fifo_overrun_keeps_the_old_characters() {
        let (mut bench, _) = bench();
        bench.write(2, 1);
        bench.write(4, 0x1b);
        for byte in 0..17 {
            bench.write(0, byte);
        }
        assert_eq!(bench.read(5), 0x63);
        for byte in 0..16 {
            assert_eq!(bench.read(0), byte);
        }
        assert_eq!(bench.read(5), 0x60);
        bench.write(0, 9);
        bench.write(2, 3);
        assert_eq!(bench.read(5), 0x60, "FCR bit 1 clears the receiver FIFO");
    }
}
