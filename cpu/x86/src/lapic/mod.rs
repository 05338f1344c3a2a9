//! The local APIC, in xAPIC and x2APIC mode: SDM 3A chapter 12 (chapter 11 in older editions).
//!
//! It stands alone: time comes in as an argument, messages go out as [`Effects`], messages of others come in by
//! [`Lapic::accept`]. The owner asks [`Lapic::next_timer`] after every call that may have changed something, and calls
//! [`Lapic::tick`] at that moment.

mod base;
mod ipi;
mod lvt;
mod registers;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

pub use base::{APIC_BASE_BSP, APIC_BASE_DEFAULT, APIC_BASE_ENABLE, APIC_BASE_X2APIC, ApicMode};
pub use ipi::arbitrate;
pub use lvt::LocalSource;
pub use timer::{APIC_TIMER_HZ, TimerMode, TscClock};
pub use vectors::VectorSet;

use lvt::{ENTRIES, MASKED};
use ringworld_core::{CpuId, InterruptMessage, VirtualTime};
use serde::{Deserialize, Serialize};
use timer::Timer;

/// An access that raises #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("general protection fault by an APIC register")]
pub struct ApicFault;

/// What a message or a local event did to the processor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Accepted {
    /// Nothing: not for this APIC, or masked.
    #[default]
    No,
    /// An interrupt waits in IRR.
    Interrupt,
    /// An NMI is to be delivered.
    Nmi,
    /// An SMI is to be delivered.
    Smi,
    /// INIT is to be delivered (the owner calls [`Lapic::init`], too).
    Init,
    /// A start-up IPI with this start page.
    StartUp(u8),
    /// An interrupt whose vector the 8259 supplies.
    ExtInt,
}

/// What a register write asks of the outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Effects {
    /// A message to other local APICs (and, for some destinations, to this one).
    pub ipi: Option<InterruptMessage>,
    /// The EOI of this level-triggered vector, for the I/O APICs.
    pub eoi: Option<u8>,
    /// What the write did to this processor itself.
    pub local: Accepted,
}

/// What a CPU model says about its local APIC.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LapicConfig {
    /// The processor's number, as the source of its messages.
    pub cpu: CpuId,
    /// The initial APIC ID (32 bits; the low 8 are the xAPIC ID).
    pub id: u32,
    /// Whether this is the bootstrap processor.
    pub bsp: bool,
    /// CPUID.01H:ECX.x2APIC\[21\].
    pub x2apic: bool,
    /// CPUID.01H:ECX.TSC_Deadline\[24\].
    pub tsc_deadline: bool,
    /// Bit 24 of the version register: the SVR can suppress EOI broadcasts.
    pub suppress_eoi_broadcast: bool,
    /// IA32_MCG_CAP.MCG_CMCI_P\[10\]: there is an LVT entry for corrected machine-check errors.
    pub cmci: bool,
    /// MAXPHYADDR.
    pub physical_address_bits: u8,
}

impl Default for LapicConfig {
    fn default() -> Self {
        Self {
            cpu: CpuId(0),
            id: 0,
            bsp: true,
            x2apic: true,
            tsc_deadline: true,
            suppress_eoi_broadcast: false,
            cmci: false,
            physical_address_bits: 46,
        }
    }
}

/// Errors in the ESR (SDM 3A figure 12-9).
const ESR_SEND_VECTOR: u32 = 1 << 5;
const ESR_RECEIVE_VECTOR: u32 = 1 << 6;
const ESR_REGISTER: u32 = 1 << 7;

const SVR_ENABLE: u32 = 1 << 8;
const SVR_SUPPRESS_EOI: u32 = 1 << 12;

/// A local APIC.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Lapic {
    config: LapicConfig,
    /// IA32_APIC_BASE.
    base: u64,
    /// The xAPIC ID register's ID, which software can change.
    id: u8,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: VectorSet,
    tmr: VectorSet,
    irr: VectorSet,
    /// What a read of the ESR shows.
    esr: u32,
    /// Errors since the last write to the ESR.
    errors: u32,
    icr: u64,
    lvt: [u32; ENTRIES],
    /// Levels of the LINT pins.
    lint: [bool; 2],
    timer: Timer,
}

impl Default for Lapic {
    fn default() -> Self {
        Self::new(LapicConfig::default())
    }
}

impl Lapic {
    /// A local APIC after power-up: xAPIC mode, disabled by software.
    pub fn new(config: LapicConfig) -> Self {
        let mut lapic = Self {
            config,
            base: 0,
            id: 0,
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            irr: VectorSet::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [0; ENTRIES],
            lint: [false; 2],
            timer: Timer::default(),
        };
        lapic.reset();
        lapic
    }

    /// Power-up or RESET (SDM 3A 12.4.7.1). The pins and the TSC's clock are not the APIC's own.
    pub fn reset(&mut self) {
        self.base = APIC_BASE_DEFAULT | APIC_BASE_ENABLE | if self.config.bsp { APIC_BASE_BSP } else { 0 };
        self.id = self.config.id as u8;
        self.init();
    }

    /// INIT: as power-up, but IA32_APIC_BASE and the APIC ID stay (SDM 3A 12.4.7.3).
    pub fn init(&mut self) {
        self.tpr = 0;
        self.clear_registers();
    }

    /// Everything at its reset value but for IA32_APIC_BASE, the ID, and the TPR, which is the processor's CR8, too.
    fn clear_registers(&mut self) {
        self.ldr = 0;
        self.dfr = 0xffff_ffff;
        self.svr = 0xff;
        self.isr = VectorSet::default();
        self.tmr = VectorSet::default();
        self.irr = VectorSet::default();
        self.esr = 0;
        self.errors = 0;
        self.icr = 0;
        self.lvt = [MASKED; ENTRIES];
        self.timer.reset();
    }

    /// Whether the SVR's APIC-enable flag is set (and the APIC is not disabled globally).
    pub fn software_enabled(&self) -> bool {
        self.enabled() && self.svr & SVR_ENABLE != 0
    }

    /// The ID that physical destinations name.
    pub fn physical_id(&self) -> u32 {
        if self.mode() == ApicMode::X2Apic { self.config.id } else { u32::from(self.id) }
    }

    /// The LDR. In x2APIC mode it follows from the ID (SDM 3A 12.12.10.2).
    fn logical_id(&self) -> u32 {
        if self.mode() == ApicMode::X2Apic {
            (self.config.id >> 4) << 16 | 1 << (self.config.id & 0xf)
        } else {
            self.ldr
        }
    }

    /// CR8: the task-priority class.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Writes CR8 (4 bits).
    pub fn set_cr8(&mut self, class: u8) {
        self.tpr = class << 4;
    }

    /// The processor priority (SDM 3A 12.8.3.1).
    pub fn ppr(&self) -> u8 {
        let serving = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= serving { self.tpr } else { serving }
    }

    /// The vector that the processor would get, if it accepts interrupts.
    pub fn pending_vector(&self) -> Option<u8> {
        let vector = self.irr.highest().filter(|_| self.enabled())?;
        (vector & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// The processor takes the pending interrupt: its vector moves from IRR to ISR. If there is none (any more), the
    /// spurious vector, which is not in service (SDM 3A 12.9).
    pub fn acknowledge(&mut self, now: VirtualTime) -> u8 {
        // An expiry up to now merges with the request that is still pending.
        self.tick(now);
        let Some(vector) = self.pending_vector() else { return self.svr as u8 };
        self.irr.set(vector, false);
        self.isr.set(vector, true);
        vector
    }

    /// EOI: the vector to be broadcast, if it was level triggered (SDM 3A 12.8.5).
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.set(vector, false);
        if !self.tmr.contains(vector) {
            return None;
        }
        self.lint_end_of_interrupt(vector);
        (self.svr & SVR_SUPPRESS_EOI == 0).then_some(vector)
    }

    /// Records an error and raises the error interrupt, once until the ESR is written (SDM 3A 12.5.3).
    fn error(&mut self, bit: u32) -> Accepted {
        let armed = self.errors == 0;
        self.errors |= bit;
        let illegal = self.lvt_vector(LocalSource::Error) < 16;
        if !armed {
            return Accepted::No;
        }
        if illegal {
            // The error entry's own vector is illegal: one more error, and no interrupt.
            self.errors |= if self.lvt_masked(LocalSource::Error) { 0 } else { ESR_RECEIVE_VECTOR };
            return Accepted::No;
        }
        self.trigger(LocalSource::Error)
    }

    /// Brings the timer to `now`; says whether that put an interrupt into IRR.
    pub fn tick(&mut self, now: VirtualTime) -> bool {
        let mode = self.timer_mode();
        self.timer.expire(mode, now) && self.trigger(LocalSource::Timer) == Accepted::Interrupt
    }

    /// The moment at which [`Lapic::tick`] has something to do. While the timer is masked, or its interrupt is still in
    /// IRR, a further expiry changes nothing.
    pub fn next_timer(&self, now: VirtualTime) -> VirtualTime {
        let merged = self.irr.contains(self.lvt_vector(LocalSource::Timer));
        if self.lvt_masked(LocalSource::Timer) || merged || !self.enabled() {
            return VirtualTime::NEVER;
        }
        self.timer.next(self.timer_mode(), now)
    }

    /// Tells the APIC how the time-stamp counter runs from now on (after a write to it).
    pub fn set_tsc_clock(&mut self, tsc: TscClock) {
        self.timer.tsc = tsc;
    }

    /// IA32_TSC_DEADLINE: zero unless the timer is armed in TSC-deadline mode.
    pub fn tsc_deadline(&mut self, now: VirtualTime) -> u64 {
        self.tick(now);
        self.timer.deadline
    }

    /// Writes IA32_TSC_DEADLINE (SDM 3A 12.5.4.1): ignored in other timer modes. A moment in the past fires at once.
    pub fn set_tsc_deadline(&mut self, value: u64, now: VirtualTime) {
        self.tick(now);
        if self.timer_mode() == TimerMode::TscDeadline {
            self.timer.deadline = value;
            self.tick(now);
        }
    }

    /// Interrupt requests that wait for the processor.
    pub fn irr(&self) -> &VectorSet {
        &self.irr
    }

    /// Interrupts in service.
    pub fn isr(&self) -> &VectorSet {
        &self.isr
    }
}
