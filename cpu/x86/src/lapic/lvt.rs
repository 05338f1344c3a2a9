//! The local vector table (SDM 3A 12.5.1).

use super::{Accepted, Lapic, TimerMode};
use ringworld_core::TriggerMode;

/// Sources of local interrupts, in the order of their entries in the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LocalSource {
    /// Corrected machine-check errors (only where the CPU model has it).
    Cmci,
    /// The timer.
    Timer,
    /// Thermal sensor.
    Thermal,
    /// Performance-counter overflow.
    Performance,
    /// The LINT0 (INTR) pin.
    Lint0,
    /// The LINT1 (NMI) pin.
    Lint1,
    /// Errors in the ESR.
    Error,
}

use LocalSource::*;

/// Number of entries.
pub(super) const ENTRIES: usize = 7;
pub(super) const MASKED: u32 = 1 << 16;
const VECTOR: u32 = 0xff;
const POLARITY: u32 = 1 << 13;
const REMOTE_IRR: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const TIMER_MODE: u32 = 3 << 17;
const TSC_DEADLINE: u32 = 2 << 17;

/// Delivery modes, bits 10:8.
const FIXED: u32 = 0;
const SMI: u32 = 2;
const NMI: u32 = 4;
const INIT: u32 = 5;
const EXT_INT: u32 = 7;

impl LocalSource {
    /// The source whose entry is at register number `register` (MMIO offset / 16).
    pub(super) fn of_register(register: u32) -> Option<Self> {
        Some(match register {
            0x2f => Cmci,
            0x32 => Timer,
            0x33 => Thermal,
            0x34 => Performance,
            0x35 => Lint0,
            0x36 => Lint1,
            0x37 => Error,
            _ => return None,
        })
    }

    /// Bits that software can set. In all entries, bit 12 (delivery status) and in LINT entries bit 14 (remote IRR) are
    /// read-only.
    fn writable(self, tsc_deadline: bool) -> u32 {
        match self {
            Timer if tsc_deadline => VECTOR | MASKED | TIMER_MODE,
            Timer => VECTOR | MASKED | 1 << 17,
            Error => VECTOR | MASKED,
            Cmci | Thermal | Performance => VECTOR | 7 << 8 | MASKED,
            Lint0 | Lint1 => VECTOR | 7 << 8 | POLARITY | LEVEL | MASKED,
        }
    }

    /// Bits that may be written without #GP in x2APIC mode.
    pub(super) fn allowed(self, tsc_deadline: bool) -> u32 {
        let read_only = if matches!(self, Lint0 | Lint1) { 1 << 12 | REMOTE_IRR } else { 1 << 12 };
        self.writable(tsc_deadline) | read_only
    }
}

impl Lapic {
    pub(super) fn timer_mode(&self) -> TimerMode {
        match self.lvt[Timer as usize] & TIMER_MODE {
            TSC_DEADLINE => TimerMode::TscDeadline,
            0 => TimerMode::OneShot,
            _ => TimerMode::Periodic,
        }
    }

    pub(super) fn lvt_masked(&self, source: LocalSource) -> bool {
        self.lvt[source as usize] & MASKED != 0
    }

    pub(super) fn lvt_vector(&self, source: LocalSource) -> u8 {
        (self.lvt[source as usize] & VECTOR) as u8
    }

    /// Writes an entry. While the APIC is disabled by software, the mask bits stay set.
    pub(super) fn write_lvt(&mut self, source: LocalSource, value: u32) -> Accepted {
        let writable = source.writable(self.config.tsc_deadline);
        let forced = if self.software_enabled() { 0 } else { MASKED };
        let old_mode = self.timer_mode();
        let remote_irr = self.lvt[source as usize] & REMOTE_IRR;
        self.lvt[source as usize] = value & writable | forced | remote_irr;
        match source {
            Timer => {
                let changed = old_mode != self.timer_mode();
                if changed
                    && (old_mode == TimerMode::TscDeadline || self.timer_mode() == TimerMode::TscDeadline)
                {
                    self.timer.disarm();
                }
                Accepted::No
            }
            Lint0 | Lint1 => {
                if self.lvt[source as usize] & LEVEL == 0 {
                    self.lvt[source as usize] &= !REMOTE_IRR;
                }
                self.lint_level(source)
            }
            _ => Accepted::No,
        }
    }

    /// A local event: delivers what its entry says (SDM 3A 12.5.1, "Delivery Mode").
    pub fn trigger(&mut self, source: LocalSource) -> Accepted {
        let entry = self.lvt[source as usize];
        if entry & MASKED != 0 || !self.enabled() {
            return Accepted::No;
        }
        if source == Performance {
            // "It automatically sets the mask flag in the LVT performance counter register."
            self.lvt[source as usize] |= MASKED;
        }
        let lint = matches!(source, Lint0 | Lint1);
        match entry >> 8 & 7 {
            FIXED => {
                let level = lint && entry & LEVEL != 0;
                let trigger = if level { TriggerMode::Level } else { TriggerMode::Edge };
                let accepted = self.accept_fixed(self.lvt_vector(source), trigger);
                if level && accepted == Accepted::Interrupt {
                    self.lvt[source as usize] |= REMOTE_IRR;
                }
                accepted
            }
            SMI => Accepted::Smi,
            NMI => Accepted::Nmi,
            INIT if lint => Accepted::Init,
            EXT_INT if lint => Accepted::ExtInt,
            _ => Accepted::No,
        }
    }

    /// Drives pin LINT0 (false) or LINT1 (true). In ExtINT mode nothing is accepted here: the line itself is the
    /// request, see [`Lapic::ext_int_enabled`].
    pub fn set_lint(&mut self, lint1: bool, level: bool) -> Accepted {
        let source = if lint1 { Lint1 } else { Lint0 };
        if core::mem::replace(&mut self.lint[usize::from(lint1)], level) == level {
            return Accepted::No;
        }
        let entry = self.lvt[source as usize];
        if entry >> 8 & 7 == EXT_INT {
            return Accepted::No;
        }
        if entry & LEVEL != 0 && entry >> 8 & 7 == FIXED {
            return self.lint_level(source);
        }
        if level != (entry & POLARITY != 0) { self.trigger(source) } else { Accepted::No }
    }

    /// Serves a level-triggered LINT pin that is active and not already in service.
    fn lint_level(&mut self, source: LocalSource) -> Accepted {
        let entry = self.lvt[source as usize];
        let active = self.lint[usize::from(source == Lint1)] != (entry & POLARITY != 0);
        let level = entry & LEVEL != 0 && entry >> 8 & 7 == FIXED;
        if active && level && entry & REMOTE_IRR == 0 { self.trigger(source) } else { Accepted::No }
    }

    /// The end of a level-triggered interrupt that came by a LINT pin.
    pub(super) fn lint_end_of_interrupt(&mut self, vector: u8) {
        for source in [Lint0, Lint1] {
            if self.lvt[source as usize] & REMOTE_IRR != 0 && self.lvt_vector(source) == vector {
                self.lvt[source as usize] &= !REMOTE_IRR;
                self.lint_level(source);
            }
        }
    }

    /// Whether the 8259's INTR reaches the processor: the APIC is globally disabled, or LINT0 is in ExtINT mode and not
    /// masked.
    pub fn ext_int_enabled(&self) -> bool {
        let entry = self.lvt[Lint0 as usize];
        !self.enabled() || entry & MASKED == 0 && entry >> 8 & 7 == EXT_INT
    }

    /// The state in which firmware hands over: virtual wire mode, LINT0 as ExtINT on the bootstrap processor, LINT1 as
    /// NMI on all (MP specification 1.4, 3.6.2.2).
    pub fn set_virtual_wire_mode(&mut self) {
        self.svr = 0x10f;
        self.lvt[Lint0 as usize] = if self.is_bsp() { EXT_INT << 8 } else { MASKED | EXT_INT << 8 };
        self.lvt[Lint1 as usize] = NMI << 8;
    }
}
