//! The high precision event timers: IA-PC HPET Specification 1.0a. One block of three 64-bit comparators, all of them
//! able to run periodically, with legacy replacement routing; no FSB (MSI) delivery.

use crate::device::{Device, DeviceContext, le_value, put_le, state_methods};
use ringworld_core::{GuestPhys, VirtualTime};
use serde::{Deserialize, Serialize};

/// Where the block is.
pub const HPET_BASE: GuestPhys = GuestPhys(0xfed0_0000);
/// Nanoseconds of a tick of the main counter (100 MHz).
const TICK_NS: u64 = 10;
/// Femtoseconds of a tick, as the capabilities say.
const PERIOD_FS: u64 = TICK_NS * 1_000_000;
const TIMERS: usize = 3;
/// The shortest time between two interrupts of a periodic timer; more matches than that merge.
const SHORTEST_NS: u64 = 1_000;

/// Vendor Intel, legacy replacement, 64 bits, three timers, revision 1 (2.3.4).
const CAPABILITIES: u64 = PERIOD_FS << 32 | 0x8086 << 16 | 0xa0 << 8 | ((TIMERS as u64 - 1) << 8) | 1;
const ENABLE: u64 = 1;
const LEGACY_ROUTE: u64 = 2;

/// Timer configuration (2.3.8): level, interrupt enable, periodic, VAL_SET, 32-bit mode, route.
const LEVEL: u64 = 1 << 1;
const INT_ENABLE: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const VAL_SET: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE: u64 = 0x1f << 9;
const WRITABLE: u64 = LEVEL | INT_ENABLE | PERIODIC | VAL_SET | MODE_32 | ROUTE;
/// IOAPIC inputs 20 to 23 can be chosen.
const ROUTES: u64 = 0x00f0_0000;
/// Read-only bits: able to be periodic, 64 bits wide, the routes.
const TIMER_CAPABILITIES: u64 = ROUTES << 32 | 1 << 5 | 1 << 4;

#[derive(Clone, Copy, Hash, Debug, Serialize, Deserialize)]
struct Timer {
    config: u64,
    comparator: u64,
    /// What a periodic match adds to the comparator.
    period: u64,
    /// The tick (of virtual time) of the next match; `u64::MAX` is never.
    due: u64,
}

impl Timer {
    fn mask(&self) -> u64 {
        if self.config & MODE_32 != 0 { 0xffff_ffff } else { u64::MAX }
    }
}

/// The timer block.
#[derive(Debug, Default)]
pub struct Hpet {
    state: State,
}

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    config: u64,
    status: u64,
    /// The main counter was `counter` at tick `since` (while it stands still, it is `counter`).
    counter: u64,
    since: u64,
    timers: [Timer; TIMERS],
    /// The line that each timer asserts.
    lines: [Option<u8>; TIMERS],
}

impl Default for State {
    fn default() -> Self {
        let timer = Timer { config: 0, comparator: u64::MAX, period: 0, due: u64::MAX };
        Self { config: 0, status: 0, counter: 0, since: 0, timers: [timer; TIMERS], lines: [None; TIMERS] }
    }
}

impl Hpet {
    fn enabled(&self) -> bool {
        self.state.config & ENABLE != 0
    }

    fn counter(&self, tick: u64) -> u64 {
        let passed = if self.enabled() { tick.wrapping_sub(self.state.since) } else { 0 };
        self.state.counter.wrapping_add(passed)
    }

    /// The line that a timer is routed to, if its route exists.
    fn line(&self, timer: usize) -> Option<u8> {
        match timer {
            0 if self.legacy() => Some(0),
            1 if self.legacy() => Some(8),
            _ => {
                let route = (self.state.timers[timer].config >> 9 & 0x1f) as u8;
                (ROUTES >> route & 1 != 0).then_some(route)
            }
        }
    }

    /// 2.3.5: routing applies while the block is enabled.
    fn legacy(&self) -> bool {
        self.state.config & (ENABLE | LEGACY_ROUTE) == ENABLE | LEGACY_ROUTE
    }

    /// Finds the next match of a timer.
    fn arm(&mut self, index: usize, tick: u64) {
        let counter = self.counter(tick);
        let enabled = self.enabled();
        let timer = &mut self.state.timers[index];
        let mask = timer.mask();
        timer.due = if enabled {
            // A comparator equal to the counter has just been passed.
            let distance = timer.comparator.wrapping_sub(counter).wrapping_sub(1) & mask;
            tick.saturating_add(distance).saturating_add(1)
        } else {
            u64::MAX
        };
    }

    /// Handles the matches up to `tick`.
    fn sync(&mut self, tick: u64, ctx: &mut DeviceContext<'_>) {
        for index in 0..TIMERS {
            let timer = &mut self.state.timers[index];
            if timer.due > tick || timer.due == u64::MAX {
                continue;
            }
            let mask = timer.mask();
            let period = timer.period & mask;
            if timer.config & PERIODIC != 0 && period != 0 {
                let matches = (tick - timer.due) / period + 1;
                timer.comparator = timer.comparator.wrapping_add(matches.wrapping_mul(period)) & mask;
                timer.due = timer.due.saturating_add(matches.saturating_mul(period));
            } else {
                // The counter wraps and comes by again.
                self.arm(index, tick);
            }
            self.fire(index, ctx);
        }
    }

    fn fire(&mut self, index: usize, ctx: &mut DeviceContext<'_>) {
        let config = self.state.timers[index].config;
        if config & LEVEL != 0 {
            self.state.status |= 1 << index;
        } else if config & INT_ENABLE != 0 {
            let line = self.line(index);
            self.assert(index, None, ctx);
            self.assert(index, line, ctx);
        }
    }

    /// Moves a timer's signal to `line`.
    fn assert(&mut self, index: usize, line: Option<u8>, ctx: &mut DeviceContext<'_>) {
        let old = core::mem::replace(&mut self.state.lines[index], line);
        if old == line {
            return;
        }
        if let Some(old) = old
            && !self.state.lines.contains(&Some(old))
        {
            ctx.set_irq(old, false);
        }
        if let Some(line) = line {
            ctx.set_irq(line, true);
        }
    }

    /// Brings levels to their lines and makes the appointments.
    fn drive(&mut self, ctx: &mut DeviceContext<'_>) {
        for index in 0..TIMERS {
            let timer = self.state.timers[index];
            let wired = timer.config & INT_ENABLE != 0 && self.enabled();
            if timer.config & LEVEL != 0 {
                let active = wired && self.state.status >> index & 1 != 0;
                let line = self.line(index).filter(|_| active);
                self.assert(index, line, ctx);
            } else if !wired || self.state.lines[index] != self.line(index) {
                self.assert(index, None, ctx);
            }
            let wanted = timer.due != u64::MAX && timer.config & (INT_ENABLE | LEVEL) != 0;
            let mut at =
                if wanted { VirtualTime(timer.due.saturating_mul(TICK_NS)) } else { VirtualTime::NEVER };
            if timer.config & PERIODIC != 0 && timer.period < SHORTEST_NS / TICK_NS {
                at = at.max(ctx.now + SHORTEST_NS);
            }
            ctx.schedule(index as u32, at);
        }
    }

    fn register(&self, offset: u64, tick: u64) -> u64 {
        match offset {
            0x000 => CAPABILITIES,
            0x010 => self.state.config,
            0x020 => self.state.status,
            0x0f0 => self.counter(tick),
            0x100..0x160 => {
                let timer = &self.state.timers[(offset as usize - 0x100) / 0x20];
                match offset & 0x1f {
                    0x00 => timer.config | TIMER_CAPABILITIES,
                    0x08 => timer.comparator,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u64, mask: u64, tick: u64, ctx: &mut DeviceContext<'_>) {
        let merge = |old: u64| old & !mask | value & mask;
        match offset {
            0x010 => {
                self.state.counter = self.counter(tick);
                self.state.since = tick;
                self.state.config = merge(self.state.config) & (ENABLE | LEGACY_ROUTE);
                ctx.set_legacy_replacement(self.legacy());
                (0..TIMERS).for_each(|index| self.arm(index, tick));
            }
            0x020 => self.state.status &= !(value & mask),
            0x0f0 => {
                self.state.counter = merge(self.counter(tick));
                self.state.since = tick;
                (0..TIMERS).for_each(|index| self.arm(index, tick));
            }
            0x100..0x160 => {
                let index = (offset as usize - 0x100) / 0x20;
                let timer = &mut self.state.timers[index];
                match offset & 0x1f {
                    0x00 => {
                        timer.config = merge(timer.config) & WRITABLE;
                        // A route that is not offered is not taken (2.3.8: read back to see).
                        if ROUTES >> (timer.config >> 9 & 0x1f) & 1 == 0 {
                            timer.config &= !ROUTE;
                        }
                        if timer.config & MODE_32 != 0 {
                            timer.comparator &= 0xffff_ffff;
                        }
                        // Of an edge-triggered timer there is no status.
                        if timer.config & LEVEL == 0 {
                            self.state.status &= !(1 << index);
                        }
                    }
                    0x08 => {
                        let periodic = timer.config & PERIODIC != 0;
                        if !periodic || timer.config & VAL_SET != 0 {
                            timer.comparator = merge(timer.comparator) & timer.mask();
                        }
                        if periodic {
                            timer.period = merge(timer.period) & timer.mask();
                        }
                        timer.config &= !VAL_SET;
                    }
                    _ => {}
                }
                self.arm(index, tick);
            }
            _ => {}
        }
    }
}

impl Device for Hpet {
    fn read(&mut self, offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        let tick = ctx.now.0 / TICK_NS;
        self.sync(tick, ctx);
        put_le(self.register(offset & !7, tick) >> (8 * (offset & 7)), data);
        self.drive(ctx);
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        let tick = ctx.now.0 / TICK_NS;
        self.sync(tick, ctx);
        let shift = 8 * (offset & 7) as u32;
        let mask = u64::MAX >> (64 - 8 * data.len().clamp(1, 8) as u32) << shift;
        self.write_register(offset & !7, le_value(data) << shift, mask, tick, ctx);
        self.drive(ctx);
    }

    fn timer(&mut self, _timer: u32, ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now.0 / TICK_NS, ctx);
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

    fn bench() -> Bench<Hpet> {
        Bench::new(Hpet::default())
    }

    fn w(bench: &mut Bench<Hpet>, offset: u64, value: u64) {
        bench.write_n(offset, 8, value);
    }

    fn tick(bench: &mut Bench<Hpet>, tick: u64) {
        bench.run_to(VirtualTime(tick * TICK_NS));
    }

    /// 2.3.4 to 2.3.8: capabilities and read-only bits
    #[test]
    fn capabilities() {
        let mut bench = bench();
        assert_eq!(bench.read_n(0, 8), 0x0098_9680_8086_a201);
        assert_eq!(bench.read_n(4, 4), 10_000_000);
        w(&mut bench, 0x100, u64::MAX);
        assert_eq!(bench.read_n(0x100, 8), 0x00f0_0000_0000_0000 | 0x017e, "route 31 is not offered");
        w(&mut bench, 0x100, 22 << 9);
        assert_eq!(bench.read_n(0x100, 4), 22 << 9 | 0x30);
    }

    /// 2.3.7: the main counter
    #[test]
    fn the_main_counter_runs_while_enabled() {
        let mut bench = bench();
        tick(&mut bench, 100);
        assert_eq!(bench.read_n(0xf0, 8), 0);
        w(&mut bench, 0xf0, 0xffff_fff0);
        w(&mut bench, 0x10, 1);
        tick(&mut bench, 120);
        assert_eq!(bench.read_n(0xf0, 8), 0x1_0000_0004);
        assert_eq!((bench.read_n(0xf0, 4), bench.read_n(0xf4, 4)), (4, 1));
        w(&mut bench, 0x10, 0);
        tick(&mut bench, 200);
        assert_eq!(bench.read_n(0xf0, 8), 0x1_0000_0004);
    }

    #[test]
    fn one_shot_level_interrupt() {
        let mut bench = bench();
        w(&mut bench, 0x120, 21 << 9 | INT_ENABLE | LEVEL);
        w(&mut bench, 0x128, 500);
        w(&mut bench, 0x10, 1);
        tick(&mut bench, 499);
        assert!(!bench.irq(21));
        tick(&mut bench, 500);
        assert!(bench.irq(21));
        assert_eq!(bench.read_n(0x20, 8), 2);
        w(&mut bench, 0x20, 2);
        assert!(!bench.irq(21));
        tick(&mut bench, 100_000);
        assert!(!bench.irq(21), "once");
    }

    /// 2.3.9.2.2: in periodic mode the comparator moves on; VAL_SET sets it
    #[test]
    fn periodic_with_legacy_replacement() {
        let mut bench = bench();
        w(&mut bench, 0x10, 3);
        tick(&mut bench, 1000);
        w(&mut bench, 0x100, INT_ENABLE | PERIODIC | VAL_SET);
        w(&mut bench, 0x108, 2000);
        w(&mut bench, 0x108, 300);
        assert_eq!(bench.read_n(0x108, 8), 2000);
        tick(&mut bench, 1999);
        assert!(!bench.irq(0));
        tick(&mut bench, 2000);
        assert!(bench.irq(0), "IRQ0 in place of the 8254");
        assert_eq!(bench.read_n(0x108, 8), 2300);
        tick(&mut bench, 30_050);
        assert_eq!(bench.read_n(0x108, 8), 30_200);
        w(&mut bench, 0x120, INT_ENABLE);
        w(&mut bench, 0x128, 31_000);
        tick(&mut bench, 31_000);
        assert!(bench.irq(8), "IRQ8 for timer 1");
        w(&mut bench, 0x10, 0);
        assert!(!bench.irq(0) && !bench.irq(8));
    }

    /// 2.3.8: 32-bit mode matches at each wrap
    #[test]
    fn thirty_two_bit_mode() {
        let mut bench = bench();
        w(&mut bench, 0x140, 20 << 9 | INT_ENABLE | LEVEL | MODE_32);
        w(&mut bench, 0x148, 0x7_0000_0100);
        assert_eq!(bench.read_n(0x148, 8), 0x100);
        w(&mut bench, 0xf0, 0xffff_ff00);
        w(&mut bench, 0x10, 1);
        for matched in [0x200, 0x1_0000_0200] {
            tick(&mut bench, matched - 1);
            assert!(!bench.irq(20));
            tick(&mut bench, matched);
            assert!(bench.irq(20));
            w(&mut bench, 0x20, 7);
        }
    }

    #[test]
    fn the_shortest_period_makes_no_storm() {
        let mut bench = bench();
        w(&mut bench, 0x100, INT_ENABLE | PERIODIC | VAL_SET);
        w(&mut bench, 0x108, 1);
        w(&mut bench, 0x10, 3);
        let mut events = 0;
        while let Some((at, _)) = bench.fabric.pop_due(VirtualTime(1_000_000)) {
            bench.now = at;
            bench.with(|hpet, ctx| hpet.timer(0, ctx));
            events += 1;
        }
        assert!((900..1100).contains(&events), "{events} events in a millisecond");
    }
}
