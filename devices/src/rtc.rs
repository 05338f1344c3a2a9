//! The real-time clock and CMOS memory: Motorola MC146818A, with a second bank of 128 bytes (ports 0x72, 0x73).
//!
//! The clock starts at the configured moment and follows virtual time. Time and flags are brought up to date when
//! somebody looks; events exist only for interrupts that are enabled.

use crate::device::{Device, DeviceContext, state_methods};
use crate::rtc_calendar::DateTime;
use ringworld_core::VirtualTime;
use serde::{Deserialize, Serialize};

const RTC_IRQ: u8 = 8;
const SECOND: u64 = 1_000_000_000;
/// The divider chain's input in Hz.
const CRYSTAL: u64 = 32_768;
/// UIP is set from this long before the update on: tBUC plus tUC (data sheet, table 5).
const UPDATE_IN_PROGRESS: u64 = 244_000 + 1_984_000;

const REG_A: usize = 0x0a;
const REG_B: usize = 0x0b;
const REG_C: usize = 0x0c;
const REG_D: usize = 0x0d;
const CENTURY: usize = 0x32;

const UIP: u8 = 0x80;
/// B: SET, PIE, AIE, UIE, DM (binary), 24/12.
const SET: u8 = 0x80;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;
/// C: IRQF, PF, AF, UF. The enables in B are at the same places.
const IRQF: u8 = 0x80;
const PF: u8 = 0x40;
const AF: u8 = 0x20;
const UF: u8 = 0x10;

const TIMER_UPDATE: u32 = 0;
const TIMER_PERIODIC: u32 = 1;

/// What firmware would have left in CMOS memory.
#[derive(Clone, Copy, Debug)]
pub struct CmosConfig {
    /// The clock's first moment, in seconds since 1970-01-01 00:00:00 UTC.
    pub start_time: u64,
    /// Bytes of RAM below 4 GiB.
    pub low_memory: u64,
    /// Bytes of RAM from 4 GiB on.
    pub high_memory: u64,
    /// Number of CPUs.
    pub cpus: u32,
}

/// The clock and its memory: ports 0x70 to 0x73 at offsets 0 to 3.
#[derive(Debug)]
pub struct Rtc {
    config: CmosConfig,
    state: State,
}

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    /// 128 bytes; registers 0x0a to 0x0d and the time live here too.
    cmos: Vec<u8>,
    /// The second bank.
    extended: Vec<u8>,
    index: u8,
    extended_index: u8,
    /// The moment of the next update cycle's end; the rhythm of the divider chain.
    next_update: VirtualTime,
    /// The moment up to which PF is true.
    periodic_seen: VirtualTime,
    /// An enabled alarm's flag is set.
    alarm: bool,
}

/// The shutdown status byte: what firmware is to do after a reset.
const SHUTDOWN_STATUS: usize = 0x0f;
/// Its value after a suspension to memory, for SeaBIOS and OVMF.
const RESUME: u8 = 0xfe;

impl Rtc {
    /// A clock as firmware leaves it.
    pub fn new(config: CmosConfig) -> Self {
        let mut rtc = Self {
            config,
            state: State {
                cmos: vec![0; 128],
                extended: vec![0; 128],
                index: 0,
                extended_index: 0,
                next_update: VirtualTime(SECOND),
                periodic_seen: VirtualTime(0),
                alarm: false,
            },
        };
        rtc.fill();
        rtc
    }

    /// Writes the start time and the configuration bytes of a PC's firmware.
    fn fill(&mut self) {
        let kib = |bytes: u64, most: u64| (bytes / 1024).min(most);
        let CmosConfig { start_time, low_memory, high_memory, cpus } = self.config;
        self.set_reg(REG_A, 0x26);
        self.set_reg(REG_B, HOURS_24);
        self.set_reg(REG_D, 0x80);
        self.store(DateTime::from_unix(start_time));
        let above_1m = kib(low_memory.saturating_sub(1 << 20), 0xffff) as u16;
        let above_16m = (low_memory.saturating_sub(16 << 20) >> 16).min(0xffff) as u16;
        let above_4g = (high_memory >> 16).min(0xff_ffff) as u32;
        let [ext_low, ext_high] = above_1m.to_le_bytes();
        let [big_low, big_high] = above_16m.to_le_bytes();
        let [high0, high1, high2, _] = above_4g.to_le_bytes();
        let base = kib(low_memory, 640) as u16;
        for (index, value) in [
            // Equipment: FPU present, PS/2 mouse.
            (0x14, 0x06),
            (0x15, base as u8),
            (0x16, (base >> 8) as u8),
            (0x17, ext_low),
            (0x18, ext_high),
            (0x30, ext_low),
            (0x31, ext_high),
            (0x34, big_low),
            (0x35, big_high),
            // Boot order for virtual-machine firmware: hard disk, CD-ROM.
            (0x3d, 0x32),
            (0x5b, high0),
            (0x5c, high1),
            (0x5d, high2),
            (0x5f, cpus.saturating_sub(1).min(0xff) as u8),
        ] {
            self.set_reg(index, value);
        }
        let sum = self.state.cmos[0x10..0x2e].iter().map(|&byte| u16::from(byte)).sum::<u16>();
        let [low, high] = sum.to_le_bytes();
        self.set_reg(0x2e, high);
        self.set_reg(0x2f, low);
    }

    fn reg(&self, index: usize) -> u8 {
        self.state.cmos.get(index).copied().unwrap_or(0)
    }

    fn set_reg(&mut self, index: usize, value: u8) {
        if let Some(reg) = self.state.cmos.get_mut(index) {
            *reg = value;
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.reg(REG_B) & BINARY != 0 {
            value
        } else {
            (value >> 4).wrapping_mul(10).wrapping_add(value & 15)
        }
    }

    fn encode(&self, value: u8) -> u8 {
        if self.reg(REG_B) & BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.reg(REG_B) & HOURS_24 != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.reg(REG_B) & HOURS_24 != 0 {
            return self.encode(hour);
        }
        let twelve = match hour % 12 {
            0 => 12,
            hour => hour,
        };
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn load(&self) -> DateTime {
        // The century byte is BCD whatever DM says.
        let century = self.reg(CENTURY);
        let century = u32::from(century >> 4) * 10 + u32::from(century & 15);
        DateTime {
            second: self.decode(self.reg(0)),
            minute: self.decode(self.reg(2)),
            hour: self.decode_hour(self.reg(4)),
            weekday: self.decode(self.reg(6)),
            day: self.decode(self.reg(7)),
            month: self.decode(self.reg(8)),
            year: century * 100 + u32::from(self.decode(self.reg(9))),
        }
    }

    fn store(&mut self, time: DateTime) {
        let century = (time.year / 100 % 100) as u8;
        for (index, value) in [
            (0, self.encode(time.second)),
            (2, self.encode(time.minute)),
            (4, self.encode_hour(time.hour)),
            (6, self.encode(time.weekday)),
            (7, self.encode(time.day)),
            (8, self.encode(time.month)),
            (9, self.encode((time.year % 100) as u8)),
            (CENTURY, ((century / 10) << 4) | (century % 10)),
        ] {
            self.set_reg(index, value);
        }
    }

    /// Whether the divider chain is held in reset (DV = 11x).
    fn divider_reset(&self) -> bool {
        self.reg(REG_A) & 0x60 == 0x60
    }

    fn updating(&self) -> bool {
        self.reg(REG_B) & SET == 0 && !self.divider_reset()
    }

    /// The alarm's time of day; `None` in a field means every value ("don't care": 0xc0 to 0xff).
    fn alarm(&self) -> [Option<u8>; 3] {
        let field = |value: u8, decoded: u8| (value < 0xc0).then_some(decoded);
        let [second, minute, hour] = [1, 3, 5].map(|index| self.reg(index));
        [
            field(second, self.decode(second)),
            field(minute, self.decode(minute)),
            field(hour, self.decode_hour(hour)),
        ]
    }

    /// Seconds from `time` until the alarm's next match (at least one); `None` if it never matches.
    fn seconds_to_alarm(&self, time: DateTime) -> Option<u64> {
        let [second, minute, hour] = self.alarm();
        let misses = |field: Option<u8>, value: u64| field.is_some_and(|field| u64::from(field) != value);
        if hour.is_some_and(|hour| hour > 23) || minute.max(second).is_some_and(|field| field > 59) {
            return None;
        }
        let now = time.second_of_day();
        let mut moment = now + 1;
        while moment <= now + 86_400 {
            moment += if misses(hour, moment / 3600 % 24) {
                3600 - moment % 3600
            } else if misses(minute, moment / 60 % 60) {
                60 - moment % 60
            } else if misses(second, moment % 60) {
                1
            } else {
                return Some(moment - now);
            };
        }
        None
    }

    /// Period of PF in crystal ticks, if it is on (data sheet, table 3, 32.768 kHz).
    fn period(&self) -> Option<u64> {
        match self.reg(REG_A) & 15 {
            0 => None,
            rate @ (1 | 2) => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
        .filter(|_| !self.divider_reset())
    }

    /// The last edge of PF at or before `now`, and the next one.
    fn periodic_edges(&self, now: VirtualTime) -> Option<(u64, VirtualTime)> {
        let period = self.period()?;
        let phase = self.state.next_update.0 % SECOND;
        // Nanoseconds since an edge that is at or before power-on.
        let elapsed = VirtualTime(now.0.saturating_add(SECOND - phase));
        let edge = elapsed.ticks(CRYSTAL) / period;
        let next = VirtualTime::of_ticks((edge + 1).saturating_mul(period), CRYSTAL);
        Some((edge, VirtualTime(next.0.saturating_sub(SECOND - phase))))
    }

    /// Brings time and flags to `now`.
    fn sync(&mut self, now: VirtualTime) {
        if let (Some((seen, _)), Some((edge, _))) =
            (self.periodic_edges(self.state.periodic_seen), self.periodic_edges(now))
            && edge > seen
        {
            self.set_reg(REG_C, self.reg(REG_C) | PF);
        }
        self.state.periodic_seen = now;
        if now < self.state.next_update || self.divider_reset() {
            return;
        }
        let seconds = now.since(self.state.next_update) / SECOND + 1;
        self.state.next_update = self.state.next_update + seconds * SECOND;
        if !self.updating() {
            return;
        }
        let time = self.load();
        let mut flags = self.reg(REG_C) | UF;
        if flags & AF == 0 && self.seconds_to_alarm(time.normalized()).is_some_and(|wait| wait <= seconds) {
            flags |= AF;
        }
        self.set_reg(REG_C, flags);
        self.store(time.plus_seconds(seconds));
    }

    /// Sets IRQF and the line by the flags, and appoints what enabled interrupts need.
    fn drive(&mut self, ctx: &mut DeviceContext<'_>) {
        let enabled = self.reg(REG_B) & (PF | AF | UF);
        let flags = self.reg(REG_C) & (PF | AF | UF);
        let irq = flags & enabled != 0;
        let alarm = flags & enabled & AF != 0;
        if alarm && !self.state.alarm {
            ctx.raise_alarm();
        }
        self.state.alarm = alarm;
        self.set_reg(REG_C, flags | if irq { IRQF } else { 0 });
        ctx.set_irq(RTC_IRQ, irq);
        // A flag that is set already can cause no further edge.
        let wanted = enabled & !flags;
        let update = if !self.updating() {
            None
        } else if wanted & UF != 0 {
            Some(0)
        } else if wanted & AF != 0 {
            self.seconds_to_alarm(self.load().normalized()).map(|seconds| seconds - 1)
        } else {
            None
        };
        let update = update.map(|seconds| self.state.next_update + seconds * SECOND);
        let periodic = self.periodic_edges(ctx.now).filter(|_| wanted & PF != 0).map(|(_, next)| next);
        ctx.schedule(TIMER_UPDATE, update.unwrap_or(VirtualTime::NEVER));
        ctx.schedule(TIMER_PERIODIC, periodic.unwrap_or(VirtualTime::NEVER));
    }

    fn read_data(&mut self, now: VirtualTime) -> u8 {
        let index = usize::from(self.state.index & 0x7f);
        match index {
            REG_A => {
                let due = self.state.next_update.since(now) <= UPDATE_IN_PROGRESS;
                self.reg(REG_A) & !UIP | if due && self.updating() { UIP } else { 0 }
            }
            REG_C => {
                let value = self.reg(REG_C);
                self.set_reg(REG_C, 0);
                value
            }
            _ => self.reg(index),
        }
    }

    fn write_data(&mut self, value: u8, now: VirtualTime) {
        let index = usize::from(self.state.index & 0x7f);
        match index {
            REG_A => {
                let held = self.divider_reset();
                self.set_reg(REG_A, value & !UIP);
                if held && !self.divider_reset() {
                    // "The first update cycle begins one-half second later."
                    self.state.next_update = now + SECOND / 2;
                    self.state.periodic_seen = now;
                }
            }
            REG_B => {
                // SET clears UIE.
                let value = if value & SET != 0 { value & !UF } else { value };
                self.set_reg(REG_B, value);
            }
            REG_C | REG_D => {}
            _ => self.set_reg(index, value),
        }
    }
}

impl Device for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        let Some(byte) = data.first_mut() else { return };
        self.sync(ctx.now);
        *byte = match offset {
            1 => self.read_data(ctx.now),
            2 => self.state.extended_index,
            3 => self
                .state
                .extended
                .get(usize::from(self.state.extended_index & 0x7f))
                .copied()
                .unwrap_or(0xff),
            // The index port is write-only.
            _ => 0xff,
        };
        self.drive(ctx);
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        let Some(&value) = data.first() else { return };
        self.sync(ctx.now);
        match offset {
            0 => {
                self.state.index = value & 0x7f;
                ctx.mask_nmi(value & 0x80 != 0);
            }
            1 => self.write_data(value, ctx.now),
            2 => self.state.extended_index = value & 0x7f,
            _ => {
                if let Some(byte) = self.state.extended.get_mut(usize::from(self.state.extended_index & 0x7f))
                {
                    *byte = value;
                }
            }
        }
        self.drive(ctx);
    }

    fn timer(&mut self, _timer: u32, ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        self.drive(ctx);
    }

    /// The board has lost its power for a suspension to memory: the battery keeps everything, and firmware will be told.
    fn input(&mut self, _bytes: &[u8], ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        self.set_reg(SHUTDOWN_STATUS, RESUME);
        self.drive(ctx);
    }

    /// RESET# clears the enables and flags; the battery keeps the rest (data sheet, "RESET").
    fn reset(&mut self, ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        self.state.index = 0;
        self.state.extended_index = 0;
        self.set_reg(REG_B, self.reg(REG_B) & !(PF | AF | UF | 0x08));
        self.set_reg(REG_C, 0);
        self.drive(ctx);
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;

    /// 2024-02-28 23:59:58 UTC, a Wednesday
    const START: u64 = 1_709_164_798;

    fn bench() -> Bench<Rtc> {
        let config = CmosConfig { start_time: START, low_memory: 3 << 30, high_memory: 5 << 30, cpus: 4 };
        Bench::new(Rtc::new(config))
    }

    fn get(bench: &mut Bench<Rtc>, index: u8) -> u8 {
        bench.write(0, index);
        bench.read(1)
    }

    fn set(bench: &mut Bench<Rtc>, index: u8, value: u8) {
        bench.write(0, index);
        bench.write(1, value);
    }

    fn time(bench: &mut Bench<Rtc>) -> [u8; 7] {
        [0, 2, 4, 6, 7, 8, 9].map(|index| get(bench, index))
    }

    #[test]
    fn time_goes_on_and_carries() {
        let mut bench = bench();
        assert_eq!(time(&mut bench), [0x58, 0x59, 0x23, 0x04, 0x28, 0x02, 0x24]);
        assert_eq!(get(&mut bench, 0x32), 0x20);
        bench.run_to(VirtualTime(2 * SECOND));
        assert_eq!(time(&mut bench), [0, 0, 0, 0x05, 0x29, 0x02, 0x24], "a leap day");
        bench.run_to(VirtualTime((2 + 86_400) * SECOND));
        assert_eq!(time(&mut bench), [0, 0, 0, 0x06, 0x01, 0x03, 0x24]);
    }

    #[test]
    fn binary_and_twelve_hours() {
        let mut bench = bench();
        set(&mut bench, 0x0b, 0x80);
        for (index, value) in [(0, 0x59), (2, 0x59), (4, 0x92)] {
            set(&mut bench, index, value);
        }
        bench.run_to(VirtualTime(3 * SECOND));
        assert_eq!(get(&mut bench, 0), 0x59, "SET stops the update");
        set(&mut bench, 0x0b, 0);
        bench.run_to(VirtualTime(4 * SECOND));
        assert_eq!([get(&mut bench, 0), get(&mut bench, 2), get(&mut bench, 4)], [0, 0, 0x81], "12:59:59 pm");
        set(&mut bench, 0x0b, 0x86);
        for (index, value) in [(0, 59), (2, 59), (4, 23), (7, 31), (8, 12), (9, 99), (0x32, 0x19)] {
            set(&mut bench, index, value);
        }
        set(&mut bench, 0x0b, 0x06);
        bench.run_to(VirtualTime(5 * SECOND));
        let seen = [0, 2, 4, 7, 8, 9, 0x32].map(|index| get(&mut bench, index));
        assert_eq!(seen, [0, 0, 0, 1, 1, 0, 0x20]);
    }

    /// Data sheet, register A: UIP
    #[test]
    fn update_in_progress() {
        let mut bench = bench();
        bench.run_to(VirtualTime(SECOND - 3_000_000));
        assert_eq!(get(&mut bench, 0x0a), 0x26);
        bench.run_to(VirtualTime(SECOND - 100_000));
        assert_eq!(get(&mut bench, 0x0a), 0xa6);
        bench.run_to(VirtualTime(SECOND));
        assert_eq!(get(&mut bench, 0x0a), 0x26);
    }

    #[test]
    fn update_interrupt() {
        let mut bench = bench();
        set(&mut bench, 0x0b, 0x12);
        bench.run_to(VirtualTime(SECOND - 1));
        assert!(!bench.irq(8));
        bench.run_to(VirtualTime(SECOND));
        assert!(bench.irq(8));
        assert_eq!(get(&mut bench, 0x0c), 0xd0, "UF, and PF, which is not enabled");
        assert!(!bench.irq(8), "reading C releases the line");
        assert_eq!(get(&mut bench, 0x0c), 0, "cleared by reading");
        bench.run_to(VirtualTime(2 * SECOND));
        assert!(bench.irq(8));
    }

    #[test]
    fn alarm_with_dont_care() {
        let mut bench = bench();
        for (index, value) in [(1, 0x05), (3, 0xff), (5, 0xc0), (0x0b, 0x22)] {
            set(&mut bench, index, value);
        }
        bench.run_to(VirtualTime(7 * SECOND - 1));
        assert!(!bench.irq(8));
        bench.run_to(VirtualTime(7 * SECOND));
        assert!(bench.irq(8), "at second 5 of the next minute");
        assert_eq!(get(&mut bench, 0x0c), 0xf0, "UF and PF are set although not enabled");
        bench.run_to(VirtualTime(67 * SECOND));
        assert!(bench.irq(8), "and a minute later");
        set(&mut bench, 1, 0x77);
        get(&mut bench, 0x0c);
        bench.run_to(VirtualTime(1000 * SECOND));
        assert!(!bench.irq(8), "no such second");
    }

    /// Data sheet, table 3: RS=0110 is 1024 Hz, RS=1111 2 Hz, RS=0001 256 Hz
    #[test]
    fn periodic_interrupts() {
        for (rate, hz) in [(6, 1024), (15, 2), (1, 256), (2, 128), (3, 8192)] {
            let mut bench = bench();
            set(&mut bench, 0x0a, 0x20 | rate);
            set(&mut bench, 0x0b, 0x42);
            let mut count = 0;
            for i in 1..=4 * hz {
                bench.run_to(VirtualTime::of_ticks(i, 2 * hz));
                if bench.irq(8) {
                    assert_eq!(get(&mut bench, 0x0c) & 0xc0, 0xc0);
                    count += 1;
                }
            }
            assert_eq!(count, 2 * hz, "{hz} Hz for two seconds");
        }
    }

    /// Data sheet, register A: after a divider reset, the first update comes half a second later
    #[test]
    fn divider_reset() {
        let mut bench = bench();
        set(&mut bench, 0x0a, 0x76);
        bench.run_to(VirtualTime(5 * SECOND + SECOND / 4));
        assert_eq!(get(&mut bench, 0), 0x58);
        set(&mut bench, 0x0a, 0x26);
        bench.run_to(VirtualTime(5 * SECOND + SECOND * 3 / 4 - 1));
        assert_eq!(get(&mut bench, 0), 0x58);
        bench.run_to(VirtualTime(5 * SECOND + SECOND * 3 / 4));
        assert_eq!(get(&mut bench, 0), 0x59);
    }

    #[test]
    fn memory_bytes_banks_and_nmi() {
        let mut bench = bench();
        let seen = [0x15, 0x16, 0x17, 0x18, 0x34, 0x35, 0x5b, 0x5c, 0x5d, 0x5f].map(|i| get(&mut bench, i));
        assert_eq!(seen, [0x80, 0x02, 0xff, 0xff, 0x00, 0xbf, 0x00, 0x40, 0x01, 3]);
        set(&mut bench, 0x0d, 0);
        assert_eq!(get(&mut bench, 0x0d), 0x80, "VRT is read-only");
        bench.write(2, 0x95);
        bench.write(3, 0x5a);
        bench.write(2, 0x15);
        assert_eq!(bench.read(3), 0x5a);
        assert_eq!(get(&mut bench, 0x15), 0x80, "the banks are separate");
        bench.write(0, 0x8f);
        assert!(bench.fabric.nmi_masked());
        bench.write(0, 0x0f);
        assert!(!bench.fabric.nmi_masked());
    }

    #[test]
    fn garbage_in_the_time_registers_does_no_harm() {
        for value in 0..=255u8 {
            let mut bench = bench();
            for index in [0, 2, 4, 6, 7, 8, 9, 0x32] {
                set(&mut bench, index, value);
            }
            bench.run_to(VirtualTime(100 * SECOND));
            get(&mut bench, 0);
            bench.run_to(VirtualTime(u64::MAX - 1));
            get(&mut bench, 9);
        }
    }
}
