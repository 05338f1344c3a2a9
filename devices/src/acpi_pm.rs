//! The ACPI fixed hardware: PM1a event and control blocks, PM timer, an empty GPE0 block, and the SMI command port.
//!
//! ACPI specification 6.5, chapter 4.8. There is no System Management firmware: the SMI command port itself switches
//! between legacy and ACPI mode, and raises SMI# where the guest's firmware has enabled that.
//!
//! In S3 this block and the clock keep their power, as in the ICH9's resume well (data sheet 316972, 5.13.7): the power button,
//! the clock's alarm (if RTC_EN is set) and whatever else the host calls a wake event end the sleep.

use crate::device::{Device, DeviceContext, le_value, put_le, state_methods};
use crate::fabric::PowerRequest;
use ringworld_core::VirtualTime;
use serde::{Deserialize, Serialize};

/// First port of the block. PM1a_EVT_BLK is here (4 bytes).
pub const PM_BASE: u16 = 0x600;
/// PM1a_CNT_BLK (2 bytes).
pub const PM1A_CONTROL: u16 = PM_BASE + 4;
/// PM_TMR_BLK (4 bytes).
pub const PM_TIMER: u16 = PM_BASE + 8;
/// GPE0_BLK (8 bytes: 4 of status, 4 of enable). No event is wired to it.
pub const GPE0: u16 = PM_BASE + 0x20;
/// SMI_CMD.
pub const SMI_COMMAND: u16 = 0xb2;
/// Written to [`SMI_COMMAND`]: ACPI mode on (FADT ACPI_ENABLE).
pub const ACPI_ENABLE: u8 = 0xf1;
/// Written to [`SMI_COMMAND`]: ACPI mode off (FADT ACPI_DISABLE).
pub const ACPI_DISABLE: u8 = 0xf0;
/// The SCI's ISA line; level triggered, active high (the MADT must say so).
pub const SCI_IRQ: u8 = 9;
/// SLP_TYP of S5, soft off.
pub const SLP_TYP_S5: u8 = 0;
/// SLP_TYP of S3, suspend to memory.
pub const SLP_TYP_S3: u8 = 1;
/// The PM timer's clock in Hz.
pub const PM_TIMER_HZ: u64 = 3_579_545;

/// SMI_EN, as on ICH at PM_BASE + 0x30: bit 0 enables SMI# globally, bit 5 on writes to the command port.
const SMI_ENABLE: u64 = 0x30;
const APMC_SMI: u32 = 0x21;
const COMMAND_SMI: u32 = 0x20;

const TMR: u16 = 1 << 0;
const GBL: u16 = 1 << 5;
const PWRBTN: u16 = 1 << 8;
const RTC: u16 = 1 << 10;
const PCIEXP_WAKE: u16 = 1 << 14;
const WAK: u16 = 1 << 15;
/// Enable bits that exist.
const ENABLES: u16 = TMR | GBL | PWRBTN | RTC | PCIEXP_WAKE;
const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
/// Control bits that software sets: BM_RLD, SLP_TYP.
const CONTROL: u16 = 0x1c02;

/// Offset of the SMI command port as this device sees it; the status port follows.
pub(crate) const COMMAND_OFFSET: u64 = 0x100;

/// The ACPI fixed hardware: ports from [`PM_BASE`] at offset 0, the SMI command ports at [`COMMAND_OFFSET`].
#[derive(Debug)]
pub struct AcpiPm {
    acpi_mode: bool,
    smi: bool,
    state: State,
}

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    /// Bits of the PM timer: 24 or 32.
    timer_bits: u32,
    status: u16,
    enables: u16,
    control: u16,
    gpe_enables: u32,
    smi_enable: u32,
    command: u8,
    command_status: u8,
    /// Carries of the timer that TMR_STS knows about.
    carries: u64,
    /// In S3, until something wakes the machine.
    asleep: bool,
}

/// What the host or another device does to the fixed hardware ([`Device::input`]).
pub(crate) mod event {
    /// The power button is pressed.
    pub(crate) const POWER_BUTTON: u8 = 0;
    /// Something without a status bit of its own (a key) ends a sleep; awake, it is nothing.
    pub(crate) const WAKE: u8 = 1;
    /// The clock's alarm goes off.
    pub(crate) const ALARM: u8 = 2;
    /// The board has lost its power but for this block, the clock and memory.
    pub(crate) const POWER_LOST: u8 = 3;
}

impl AcpiPm {
    /// Fixed hardware with a 32-bit PM timer (FADT flag TMR_VAL_EXT), or a 24-bit one. `acpi_mode`: whether it is in
    /// ACPI mode from the start, as hardware without legacy mode is (FADT SMI_CMD 0). Without `smi`, SMI_EN is fixed with
    /// the command port's bit set, which tells firmware that it is not the first to come.
    pub fn new(timer_32_bit: bool, acpi_mode: bool, smi: bool) -> Self {
        let control = if acpi_mode { SCI_EN } else { 0 };
        Self {
            acpi_mode,
            smi,
            state: State {
                timer_bits: if timer_32_bit { 32 } else { 24 },
                status: 0,
                enables: 0,
                control,
                gpe_enables: 0,
                smi_enable: 0,
                command: 0,
                command_status: 0,
                carries: 0,
                asleep: false,
            },
        }
    }

    /// How often the timer's top bit has changed: TMR_STS is set at each change.
    fn carries_at(&self, now: VirtualTime) -> u64 {
        now.ticks(PM_TIMER_HZ) >> (self.state.timer_bits.clamp(24, 32) - 1)
    }

    fn sync(&mut self, now: VirtualTime) {
        let carries = self.carries_at(now);
        if carries != self.state.carries {
            self.state.carries = carries;
            self.state.status |= TMR;
        }
    }

    fn drive(&mut self, ctx: &mut DeviceContext<'_>) {
        let state = &self.state;
        let sci = state.control & SCI_EN != 0 && state.status & state.enables & !PCIEXP_WAKE != 0;
        ctx.set_irq(SCI_IRQ, sci);
        let carry = if state.enables & TMR != 0 && state.status & TMR == 0 {
            let ticks = (state.carries + 1) << (state.timer_bits.clamp(24, 32) - 1);
            VirtualTime::of_ticks(ticks, PM_TIMER_HZ)
        } else {
            VirtualTime::NEVER
        };
        ctx.schedule(0, carry);
    }

    /// The 64 bytes of the block, one 32-bit register at a time.
    fn register(&self, offset: u64, now: VirtualTime) -> u32 {
        let state = &self.state;
        match offset & !3 {
            0x00 => u32::from(state.status) | u32::from(state.enables) << 16,
            0x04 => u32::from(state.control),
            0x08 => now.ticks(PM_TIMER_HZ) as u32 & (u32::MAX >> (32 - state.timer_bits.clamp(24, 32))),
            0x24 => state.gpe_enables,
            SMI_ENABLE if !self.smi => COMMAND_SMI,
            SMI_ENABLE => state.smi_enable,
            _ => 0,
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8, ctx: &mut DeviceContext<'_>) {
        let state = &mut self.state;
        let shift = 8 * (offset & 1) as u32;
        let wide = u16::from(value) << shift;
        let replace = |old: u16| old & !(0xff << shift) | wide;
        let shift32 = 8 * (offset & 3) as u32;
        let replace32 = |old: u32| old & !(0xff << shift32) | u32::from(value) << shift32;
        match offset {
            // Status bits are cleared by writing ones.
            0x00 | 0x01 => state.status &= !wide,
            0x02 | 0x03 => state.enables = replace(state.enables) & ENABLES,
            0x04 | 0x05 => {
                let written = replace(state.control);
                state.control = written & CONTROL | state.control & SCI_EN;
                if written & SLP_EN != 0 {
                    match (written >> 10 & 7) as u8 {
                        SLP_TYP_S5 => ctx.power(PowerRequest::PowerOff),
                        SLP_TYP_S3 => {
                            state.asleep = true;
                            ctx.power(PowerRequest::Suspend);
                        }
                        _ => {}
                    }
                }
            }
            0x24..0x28 => state.gpe_enables = replace32(state.gpe_enables),
            _ if offset & !3 == SMI_ENABLE && self.smi => {
                state.smi_enable = replace32(state.smi_enable) & APMC_SMI
            }
            _ => {}
        }
    }

    /// ACPI 4.8.2.2.1 and 4.8.2.4: the power button wakes in any case, the alarm if it is enabled.
    fn wake_if_due(&mut self, ctx: &mut DeviceContext<'_>) {
        if self.state.status & (PWRBTN | self.state.enables & RTC) != 0 {
            self.wake(ctx);
        }
    }

    fn wake(&mut self, ctx: &mut DeviceContext<'_>) {
        if self.state.asleep {
            self.state.asleep = false;
            self.state.status |= WAK;
            ctx.power(PowerRequest::Wake);
        }
    }

    fn command(&mut self, value: u8, ctx: &mut DeviceContext<'_>) {
        let state = &mut self.state;
        state.command = value;
        match value {
            ACPI_ENABLE => state.control |= SCI_EN,
            ACPI_DISABLE => state.control &= !SCI_EN,
            _ => {}
        }
        if state.smi_enable & APMC_SMI == APMC_SMI {
            ctx.raise_smi();
        }
    }
}

impl Device for AcpiPm {
    fn read(&mut self, offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        let value = match offset {
            COMMAND_OFFSET => u64::from(self.state.command),
            0x101 => u64::from(self.state.command_status),
            _ => u64::from(self.register(offset, ctx.now)) >> (8 * (offset & 3)),
        };
        put_le(value, data);
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        match offset {
            COMMAND_OFFSET => self.command(le_value(data) as u8, ctx),
            0x101 => self.state.command_status = le_value(data) as u8,
            _ => {
                // The control register's high byte, with SLP_EN, goes last.
                for (i, &value) in data.iter().enumerate() {
                    self.write_byte(offset + i as u64, value, ctx);
                }
            }
        }
        self.drive(ctx);
    }

    fn timer(&mut self, _timer: u32, ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        self.drive(ctx);
    }

    fn input(&mut self, bytes: &[u8], ctx: &mut DeviceContext<'_>) {
        self.sync(ctx.now);
        for byte in bytes {
            match *byte {
                event::POWER_BUTTON => self.state.status |= PWRBTN,
                event::ALARM => self.state.status |= RTC,
                event::WAKE => self.wake(ctx),
                event::POWER_LOST => {
                    let State { status, enables, control, timer_bits, .. } = self.state;
                    self.reset(ctx);
                    // SLP_TYP tells firmware what it wakes from. SCI_EN is set again by firmware or operating system.
                    let control = control & CONTROL | self.state.control;
                    self.state =
                        State { status, enables, control, timer_bits, asleep: true, ..self.state.clone() };
                }
                _ => {}
            }
        }
        self.wake_if_due(ctx);
        self.drive(ctx);
    }

    fn reset(&mut self, ctx: &mut DeviceContext<'_>) {
        *self = Self::new(self.state.timer_bits == 32, self.acpi_mode, self.smi);
        self.state.carries = self.carries_at(ctx.now);
        self.drive(ctx);
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;

    fn bench(timer_32_bit: bool) -> Bench<AcpiPm> {
        Bench::new(AcpiPm::new(timer_32_bit, false, true))
    }

    /// ACPI 4.8.3.2.1: "SLP_TYPx ... SLP_ENx"
    #[test]
    fn sleep_types() {
        for (value, expected) in [
            (0x2000, Some(PowerRequest::PowerOff)),
            (0x2400, Some(PowerRequest::Suspend)),
            (0x3c00, None),
            (0x0000, None),
        ] {
            let mut bench = bench(true);
            bench.write_n(4, 2, value);
            assert_eq!(bench.fabric.take_power(), expected, "{value:#x}");
            assert_eq!(bench.read_n(4, 2), value & 0x1c00, "SLP_EN reads as zero");
        }
    }

    /// ACPI 4.8.3.3: the timer, and TMR_STS at each change of its top bit
    #[test]
    fn pm_timer() {
        for (wide, bits) in [(false, 24), (true, 32)] {
            let mut bench = bench(wide);
            bench.write(0x100, ACPI_ENABLE);
            assert_eq!(bench.read_n(4, 2), 1, "SCI_EN");
            bench.write_n(2, 2, 1);
            for carry in 1..4u64 {
                bench.run_to(VirtualTime::of_ticks((carry << (bits - 1)) - 1, PM_TIMER_HZ));
                assert!(!bench.irq(9));
                let mask = (1u64 << bits) - 1;
                assert_eq!(bench.read_n(8, 4), ((carry << (bits - 1)) - 1) & mask);
                bench.run_to(VirtualTime::of_ticks(carry << (bits - 1), PM_TIMER_HZ));
                assert!(bench.irq(9));
                assert_eq!(bench.read_n(0, 2), 1);
                bench.write_n(0, 2, 1);
                assert!(!bench.irq(9));
            }
        }
    }

    #[test]
    fn power_button() {
        let mut bench = bench(true);
        bench.write_n(2, 2, 0x0100);
        bench.with(|pm, ctx| pm.input(&[0], ctx));
        assert!(!bench.irq(9), "legacy mode has no SCI");
        bench.write(0x100, ACPI_ENABLE);
        assert!(bench.irq(9));
        bench.write(1, 1);
        assert!(!bench.irq(9));
        bench.write(0x100, ACPI_DISABLE);
        assert_eq!(bench.read_n(4, 2), 0);
        assert_eq!(bench.read(0x100), ACPI_DISABLE);
    }

    /// ACPI 4.8.3.1.1 and 16.1.3: what ends a sleep, and the status that software finds.
    #[test]
    fn sleep_and_wake() {
        for (enables, event, wakes, status) in [
            (0, event::POWER_BUTTON, true, 0x8100),
            (0, event::ALARM, false, 0x0400),
            (0x400, event::ALARM, true, 0x8400),
            (0, event::WAKE, true, 0x8000),
        ] {
            let mut bench = bench(true);
            bench.write(0x100, ACPI_ENABLE);
            bench.write_n(2, 2, enables);
            bench.with(|pm, ctx| pm.input(&[event::WAKE], ctx));
            assert_eq!(bench.read_n(0, 2), 0, "nothing sleeps");
            bench.write_n(4, 2, 0x2400);
            assert_eq!(bench.fabric.take_power(), Some(PowerRequest::Suspend));
            bench.with(|pm, ctx| pm.input(&[event::POWER_LOST], ctx));
            assert_eq!(bench.fabric.take_power(), None);
            assert_eq!((bench.read_n(2, 2), bench.read_n(4, 2)), (enables, 0x400), "SCI_EN is gone");
            bench.with(|pm, ctx| pm.input(&[event], ctx));
            assert_eq!(bench.fabric.take_power(), wakes.then_some(PowerRequest::Wake), "{event}");
            assert_eq!(bench.read_n(0, 2), status);
            bench.with(|pm, ctx| pm.input(&[event], ctx));
            assert_eq!(bench.fabric.take_power(), None, "once");
        }
        // What is there already ends the sleep at once, and a reset ends it for good.
        let mut bench = bench(true);
        bench.with(|pm, ctx| pm.input(&[event::POWER_BUTTON], ctx));
        bench.write_n(4, 2, 0x2400);
        bench.fabric.take_power();
        bench.with(|pm, ctx| pm.input(&[event::POWER_LOST], ctx));
        assert_eq!(bench.fabric.take_power(), Some(PowerRequest::Wake));
        bench.write_n(4, 2, 0x2400);
        bench.fabric.take_power();
        bench.with(|pm, ctx| pm.reset(ctx));
        bench.with(|pm, ctx| pm.input(&[event::POWER_BUTTON], ctx));
        assert_eq!(bench.fabric.take_power(), None);
    }

    #[test]
    fn smi_only_where_enabled() {
        let mut bench = bench(true);
        bench.write(0x100, 0x55);
        assert!(bench.fabric.take_messages().is_empty());
        bench.write_n(0x30, 4, 0x21);
        bench.write(0x100, 0x55);
        assert_eq!(bench.fabric.take_messages().len(), 1);
    }
}
