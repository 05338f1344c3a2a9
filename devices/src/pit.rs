//! The 8254 interval timer and the system control port 0x61 in front of its channel 2.
//!
//! Intel 8254 data sheet (231164). Each counter keeps the number of its last clock and is brought up to date when
//! somebody looks; only channel 0's transitions, which drive IRQ0, are events.

use crate::device::{Device, DeviceContext, state_methods};
use ringworld_core::VirtualTime;
use serde::{Deserialize, Serialize};

/// The input clock in Hz (the NTSC colour carrier, a third of it).
pub const PIT_HZ: u64 = 1_193_182;
/// Clocks between two refresh requests (channel 1 as firmware programs it: 15 us).
const REFRESH_CLOCKS: u64 = 18;
const TIMER_IRQ: u8 = 0;

/// One counter.
#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct Counter {
    /// The last control word: RW1-0, M2-0, BCD.
    control: u8,
    /// The count register CR, as written.
    reload: u16,
    /// CE, the counting element, in binary.
    element: u32,
    out: bool,
    gate: bool,
    /// CR is to be moved to CE with the next clock.
    load: bool,
    /// CE counts (from the first load or trigger on).
    running: bool,
    /// The count is not written completely: mode 0 stands still.
    halted: bool,
    /// CR has not reached CE yet (status bit 6).
    null_count: bool,
    /// A control word came and no count since: nothing to load.
    fresh: bool,
    /// In mode 3 with an odd count: the extra clock of the high half is to come.
    extra: bool,
    write_low: Option<u8>,
    /// The next read delivers the high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    /// The clock up to which this is true.
    clock: u64,
    /// OUT rose since this was last asked.
    rose: bool,
}

impl Counter {
    fn new(gate: bool) -> Self {
        Self {
            control: 0x30,
            reload: 0,
            element: 0,
            out: false,
            gate,
            load: false,
            running: false,
            halted: false,
            null_count: true,
            fresh: true,
            extra: false,
            write_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
            clock: 0,
            rose: false,
        }
    }

    /// Modes 6 and 7 are 2 and 3.
    fn mode(&self) -> u8 {
        match self.control >> 1 & 7 {
            mode @ 6.. => mode - 4,
            mode => mode,
        }
    }

    fn modulus(&self) -> u32 {
        if self.control & 1 != 0 { 10_000 } else { 0x1_0000 }
    }

    /// The count that CR holds; zero stands for the modulus.
    fn count(&self) -> u32 {
        let count = u32::from(self.reload);
        let count = if self.control & 1 != 0 {
            // Digits above 9 are illegal; they count as what they weigh.
            (count >> 12) * 1000 + (count >> 8 & 15) * 100 + (count >> 4 & 15) * 10 + (count & 15)
        } else {
            count
        };
        match (count % self.modulus(), self.mode()) {
            (0, _) => self.modulus(),
            // Illegal in these modes.
            (1, 2 | 3) => 2,
            (count, _) => count,
        }
    }

    fn set_out(&mut self, out: bool) {
        self.rose |= out && !self.out;
        self.out = out;
    }

    fn load_element(&mut self) {
        let count = self.count();
        self.load = false;
        self.null_count = false;
        self.running = true;
        if self.mode() == 3 {
            self.element = count & !1;
            self.extra = count & 1 != 0 && self.out;
        } else {
            self.element = count % self.modulus();
        }
    }

    /// Whether clocks are counted at all.
    fn counting(&self) -> bool {
        self.running
            && match self.mode() {
                0 => self.gate && !self.halted,
                2..=4 => self.gate,
                _ => true,
            }
    }

    /// Clocks until CE reaches zero.
    fn to_zero(&self) -> u64 {
        u64::from(if self.element == 0 { self.modulus() } else { self.element })
    }

    /// The number of the next clock that does more than count down; `None` if none will.
    fn next_action(&self) -> Option<u64> {
        if self.load {
            return Some(1);
        }
        if !self.counting() {
            // A strobe ends even so.
            return (self.mode() >= 4 && !self.out).then_some(1);
        }
        match self.mode() {
            0 | 1 => (!self.out).then(|| self.to_zero()),
            2 if !self.out => Some(1),
            2 => Some(self.to_zero() - 1).filter(|&clocks| clocks > 0).or(Some(1)),
            3 => Some(u64::from(self.element / 2) + u64::from(self.extra)).map(|clocks| clocks.max(1)),
            _ if !self.out => Some(1),
            // The strobe comes once for each load.
            _ => (!self.halted).then(|| self.to_zero()),
        }
    }

    /// Counts `clocks` clocks in which nothing else happens.
    fn count_down(&mut self, clocks: u64) {
        if !self.counting() {
            return;
        }
        if self.mode() == 3 {
            let steps = clocks.saturating_mul(2).min(u64::from(self.element)) as u32;
            self.element -= steps;
        } else {
            let modulus = u64::from(self.modulus());
            let element = u64::from(self.element) % modulus;
            self.element = ((element + modulus - clocks % modulus) % modulus) as u32;
        }
    }

    /// The clock in which [`Counter::next_action`] is due.
    fn act(&mut self) {
        if self.mode() >= 4 && !self.out {
            self.set_out(true);
        }
        if self.load {
            if self.mode() == 1 {
                self.set_out(false);
            }
            return self.load_element();
        }
        if !self.counting() {
            return;
        }
        match self.mode() {
            0 | 1 => {
                self.count_down(1);
                self.set_out(true);
            }
            2 if !self.out => {
                self.set_out(true);
                self.load_element();
            }
            2 => {
                self.count_down(1);
                self.out = false;
            }
            3 => {
                self.out = !self.out;
                self.rose |= self.out;
                self.load_element();
            }
            _ => {
                self.count_down(1);
                if self.element == 0 && !self.halted {
                    self.out = false;
                    self.halted = true;
                }
            }
        }
    }

    /// Brings the counter to `clock`.
    fn run_to(&mut self, clock: u64) {
        while self.clock < clock {
            self.skip_periods(clock);
            self.step(clock);
        }
    }

    /// Whole periods of a free-running counter change nothing but OUT's edges.
    fn skip_periods(&mut self, clock: u64) {
        let steady = self.counting() && !self.load && !self.null_count;
        if steady && matches!(self.mode(), 2 | 3) {
            let period = u64::from(self.count());
            let periods = clock.saturating_sub(self.clock) / period;
            self.clock += periods * period;
            self.rose |= periods > 0;
        }
    }

    /// To the next action or to `clock`, whichever is earlier.
    fn step(&mut self, clock: u64) {
        let left = clock.saturating_sub(self.clock);
        match self.next_action() {
            Some(action) if action <= left => {
                self.count_down(action - 1);
                self.act();
                self.clock += action;
            }
            _ => {
                self.count_down(left);
                self.clock += left;
            }
        }
    }

    fn write_control(&mut self, control: u8) {
        self.control = control & 0x3f;
        self.load = false;
        self.running = false;
        self.halted = false;
        self.null_count = true;
        self.fresh = true;
        self.extra = false;
        self.write_low = None;
        self.read_high = false;
        self.latched_count = None;
        self.latched_status = None;
        self.set_out(self.mode() != 0);
    }

    fn write_count(&mut self, value: u8) {
        let reload = match (self.control >> 4 & 3, self.write_low) {
            (1, _) => u16::from(value),
            (2, _) => u16::from(value) << 8,
            (_, None) => {
                self.write_low = Some(value);
                if self.mode() == 0 {
                    // "Writing the first byte disables counting. OUT is set low immediately."
                    self.halted = true;
                    self.out = false;
                }
                return;
            }
            (_, Some(low)) => {
                self.write_low = None;
                u16::from_le_bytes([low, value])
            }
        };
        self.reload = reload;
        self.null_count = true;
        match self.mode() {
            0 => {
                self.out = false;
                self.halted = false;
                self.load = true;
            }
            4 => {
                self.halted = false;
                self.load = true;
            }
            // Free-running modes take a new count at the end of the period, hardware-triggered ones at the trigger.
            2 | 3 if self.fresh => self.load = self.gate,
            _ => {}
        }
        self.fresh = false;
    }

    fn set_gate(&mut self, gate: bool) {
        let rising = gate && !self.gate;
        self.gate = gate;
        match self.mode() {
            1 | 5 if rising && !self.fresh => {
                self.halted = false;
                self.load = true;
            }
            2 | 3 if rising && !self.fresh => self.load = true,
            2 | 3 if !gate => {
                self.set_out(true);
                self.load = false;
            }
            _ => {}
        }
    }

    fn latch_count(&mut self) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.visible_count());
        }
    }

    fn latch_status(&mut self) {
        if self.latched_status.is_none() {
            self.latched_status =
                Some(u8::from(self.out) << 7 | u8::from(self.null_count) << 6 | self.control);
        }
    }

    fn visible_count(&self) -> u16 {
        let count = self.element % self.modulus();
        if self.control & 1 != 0 {
            ((count / 1000 % 10) << 12 | (count / 100 % 10) << 8 | (count / 10 % 10) << 4 | (count % 10))
                as u16
        } else {
            count as u16
        }
    }

    fn read(&mut self) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.visible_count()).to_le_bytes();
        let (value, last) = match self.control >> 4 & 3 {
            1 => (low, true),
            2 => (high, true),
            _ if self.read_high => (high, true),
            _ => (low, false),
        };
        self.read_high = !last;
        if last {
            self.latched_count = None;
        }
        value
    }

    /// The clock of the next change of OUT that an interrupt input can see.
    fn next_edge(&self) -> Option<u64> {
        let action = self.next_action()?;
        let more = match self.mode() {
            // What follows the load is not known before it.
            _ if self.load => 0,
            // The low pulse is one clock long: its end is the edge.
            2 | 4 | 5 if self.out => 1,
            _ => 0,
        };
        self.clock.checked_add(action)?.checked_add(more)
    }
}

/// The 8254 (ports 0x40 to 0x43 at offsets 0 to 3) and port 0x61 (offset 4).
#[derive(Debug)]
pub struct Pit {
    state: State,
}

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    counters: [Counter; 3],
    /// Port 0x61 bits 3-0: IOCHK# and parity enables, speaker data, channel 2's gate.
    control61: u8,
}

impl Default for Pit {
    fn default() -> Self {
        Self { state: State { counters: [true, true, false].map(Counter::new), control61: 0 } }
    }
}

impl Pit {
    fn sync(&mut self, now: VirtualTime) {
        for counter in &mut self.state.counters {
            counter.run_to(now.ticks(PIT_HZ));
        }
    }

    /// Brings channel 0's OUT to IRQ0 and makes the next appointment.
    fn drive(&mut self, ctx: &mut DeviceContext<'_>) {
        let counter = &mut self.state.counters[0];
        if core::mem::take(&mut counter.rose) {
            ctx.pulse_irq(TIMER_IRQ);
        }
        ctx.set_irq(TIMER_IRQ, counter.out || counter.mode() == 2 && counter.running);
        let next =
            counter.next_edge().map_or(VirtualTime::NEVER, |clock| VirtualTime::of_ticks(clock, PIT_HZ));
        ctx.schedule(0, next);
    }
}

impl Device for Pit {
    fn read(&mut self, offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        let Some(byte) = data.first_mut() else { return };
        *byte = match offset {
            0..3 => self.state.counters[offset as usize].read(),
            // The control register cannot be read.
            3 => 0xff,
            _ => {
                let refresh = (ctx.now.ticks(PIT_HZ) / REFRESH_CLOCKS) & 1;
                self.state.control61 | (refresh as u8) << 4 | u8::from(self.state.counters[2].out) << 5
            }
        };
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        let Some(&value) = data.first() else { return };
        let counters = &mut self.state.counters;
        match offset {
            0..3 => counters[offset as usize].write_count(value),
            3 if value >> 6 == 3 => {
                // Read-back command: count and status are latched where their bits are clear.
                for (i, counter) in counters.iter_mut().enumerate() {
                    if value & 2 << i != 0 {
                        if value & 0x20 == 0 {
                            counter.latch_count();
                        }
                        if value & 0x10 == 0 {
                            counter.latch_status();
                        }
                    }
                }
            }
            3 if value & 0x30 == 0 => counters[usize::from(value >> 6)].latch_count(),
            3 => counters[usize::from(value >> 6)].write_control(value),
            _ => {
                self.state.control61 = value & 0x0f;
                counters[2].set_gate(value & 1 != 0);
            }
        }
        self.drive(ctx);
    }

    fn timer(&mut self, _timer: u32, ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        self.drive(ctx);
    }

    fn reset(&mut self, ctx: &mut DeviceContext<'_>) {
        *self = Self::default();
        for counter in &mut self.state.counters {
            counter.clock = ctx.now.ticks(PIT_HZ);
        }
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;

    fn bench() -> Bench<Pit> {
        Bench::new(Pit::default())
    }

    fn clocks(bench: &mut Bench<Pit>, clock: u64) {
        bench.run_to(VirtualTime::of_ticks(clock, PIT_HZ));
    }

    fn read16(bench: &mut Bench<Pit>, channel: u64) -> u16 {
        u16::from_le_bytes([bench.read(channel), bench.read(channel)])
    }

    fn out2(bench: &mut Bench<Pit>) -> bool {
        bench.read(4) & 0x20 != 0
    }

    /// OUT2 after each clock, with `control` and `count` written at clock 0 and the gate high before, then low and
    /// high again at the clocks given.
    fn wave(control: u8, count: u16, gate_low: u64, gate_high: u64, clocks_to_see: u64) -> String {
        let mut bench = bench();
        bench.write(4, 1);
        bench.write(3, 0xb0 | control);
        for byte in count.to_le_bytes() {
            bench.write(2, byte);
        }
        let mut wave = String::new();
        for clock in 1..=clocks_to_see {
            clocks(&mut bench, clock);
            wave.push(if out2(&mut bench) { '1' } else { '0' });
            if clock == gate_low {
                bench.write(4, 0);
            }
            if clock == gate_high {
                bench.write(4, 1);
            }
        }
        wave
    }

    /// The waveforms of the data sheet's figures 15 to 20 (the first clock loads the count).
    #[test]
    fn waveforms() {
        for (what, control, count, gate_low, gate_high, expected) in [
            ("mode 0, N=4", 0, 4, 99, 99, "0000111111"),
            ("mode 0, gate low for two clocks", 0, 4, 3, 5, "0000001111"),
            ("mode 1, N=3, triggered after clock 3", 2, 3, 2, 3, "1110001111"),
            ("mode 2, N=3", 4, 3, 99, 99, "1101101101"),
            ("mode 2, gate low while OUT is high", 4, 3, 2, 4, "1111110110"),
            ("mode 3, N=4", 6, 4, 99, 99, "1100110011"),
            ("mode 3, N=5", 6, 5, 99, 99, "111001110011"),
            ("mode 4, N=3", 8, 3, 99, 99, "1110111111"),
            ("mode 4, gate low for two clocks", 8, 3, 2, 4, "1111101111"),
            ("mode 5, N=3, triggered after clock 2", 10, 3, 1, 2, "1111101111"),
        ] {
            let seen = wave(control, count, gate_low, gate_high, expected.len() as u64);
            assert_eq!(seen, expected, "{what}");
        }
    }

    #[test]
    fn long_runs_agree_with_single_steps() {
        for control in [0u8, 2, 4, 6, 8, 10, 1, 5, 7] {
            for count in [2u16, 3, 7, 0x10, 0] {
                let set = |bench: &mut Bench<Pit>| {
                    bench.write(3, 0xb0 | control);
                    for byte in count.to_le_bytes() {
                        bench.write(2, byte);
                    }
                    bench.write(4, 1);
                };
                let (mut far, mut near) = (bench(), bench());
                set(&mut far);
                set(&mut near);
                clocks(&mut far, 1003);
                for clock in 1..=1003 {
                    clocks(&mut near, clock);
                    near.with(|pit, ctx| pit.sync(ctx.now));
                }
                assert_eq!(out2(&mut far), out2(&mut near), "control {control:#x}, count {count}");
                assert_eq!(read16(&mut far, 2), read16(&mut near, 2), "control {control:#x}, count {count}");
            }
        }
    }

    /// Data sheet, mode 2: IRQ0 rises every N clocks.
    #[test]
    fn the_rate_generator_drives_irq0() {
        let mut bench = bench();
        for (offset, value) in [(3, 0x34), (0, 100), (0, 0)] {
            bench.write(offset, value);
        }
        assert!(bench.irq(0));
        let mut fired = Vec::new();
        while fired.len() < 3 {
            let (at, _) = bench.fabric.pop_due(VirtualTime::NEVER).unwrap();
            bench.now = at;
            bench.with(|pit, ctx| {
                pit.sync(ctx.now);
                if pit.state.counters[0].rose {
                    fired.push(ctx.now.ticks(PIT_HZ));
                }
                pit.drive(ctx);
            });
        }
        assert_eq!(fired, [101, 201, 301]);
    }

    #[test]
    fn the_one_shot_drives_irq0_once() {
        let mut bench = bench();
        for (offset, value) in [(3, 0x30), (0, 10), (0, 0)] {
            bench.write(offset, value);
        }
        clocks(&mut bench, 10);
        assert!(!bench.irq(0));
        clocks(&mut bench, 11);
        assert!(bench.irq(0));
        assert!(bench.fabric.pop_due(VirtualTime::NEVER).is_none(), "no more events");
    }

    /// Data sheet, "Counter latch command" and "Read-back command"
    #[test]
    fn latches() {
        let mut bench = bench();
        for (offset, value) in [(3, 0x34), (0, 0), (0, 0x10)] {
            bench.write(offset, value);
        }
        clocks(&mut bench, 11);
        bench.write(3, 0x00);
        clocks(&mut bench, 500);
        bench.write(3, 0x00);
        assert_eq!(read16(&mut bench, 0), 0x1000 - 10, "the first latch holds until read");
        assert_eq!(read16(&mut bench, 0), 0x1000 - 499);
        bench.write(3, 0xc2);
        assert_eq!(bench.read(0), 0xb4, "status first: OUT, count loaded, RW=3, mode 2");
        assert_eq!(read16(&mut bench, 0), 0x1000 - 499);
        bench.write(3, 0x38);
        bench.write(3, 0xe2);
        assert_eq!(bench.read(0), 0xf8, "null count");
    }

    #[test]
    fn access_modes_and_bcd() {
        let mut bench = bench();
        bench.write(4, 1);
        bench.write(3, 0x90);
        bench.write(2, 0x80);
        clocks(&mut bench, 1);
        assert_eq!((bench.read(2), bench.read(2)), (0x80, 0x80), "least significant byte only");
        bench.write(3, 0xa0);
        bench.write(2, 0x12);
        clocks(&mut bench, 2);
        assert_eq!((bench.read(2), bench.read(2)), (0x12, 0x12), "most significant byte only");
        bench.write(3, 0xb1);
        bench.write(2, 0x00);
        bench.write(2, 0x10);
        clocks(&mut bench, 4);
        assert_eq!(read16(&mut bench, 2), 0x0999, "BCD");
    }

    /// Data sheet, mode 0: "Writing the first byte disables counting"
    #[test]
    fn half_a_count_stops_mode_0() {
        let mut bench = bench();
        bench.write(4, 1);
        for (offset, value) in [(3, 0xb0), (2, 5), (2, 0)] {
            bench.write(offset, value);
        }
        clocks(&mut bench, 3);
        bench.write(2, 9);
        clocks(&mut bench, 50);
        assert!(!out2(&mut bench));
        assert_eq!(read16(&mut bench, 2), 3);
        bench.write(2, 0);
        clocks(&mut bench, 59);
        assert!(!out2(&mut bench));
        clocks(&mut bench, 60);
        assert!(out2(&mut bench));
    }

    #[test]
    fn port_61_toggles_with_refresh() {
        let mut bench = bench();
        bench.write(4, 0xff);
        assert_eq!(bench.read(4) & 0xcf, 0x0f);
        let first = bench.read(4) & 0x10;
        clocks(&mut bench, REFRESH_CLOCKS);
        assert_ne!(bench.read(4) & 0x10, first);
        clocks(&mut bench, 2 * REFRESH_CLOCKS);
        assert_eq!(bench.read(4) & 0x10, first);
    }
}
