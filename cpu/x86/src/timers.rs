//! The processor's own timers: those of its local APIC, and the performance counters that interrupt.

use crate::Cpu;
use crate::lapic::{Lapic, LapicConfig};
use crate::model::{Feature, Model};
use crate::state::{Activity, boundary};
use ringworld_core::{CpuId, VirtualTime};

/// The local APIC of a model's processor; its ID is the processor's number.
pub(crate) fn lapic_for(model: &Model, cpu: CpuId) -> Lapic {
    Lapic::new(LapicConfig {
        cpu,
        id: cpu.0,
        bsp: cpu.0 == 0,
        x2apic: model.has(Feature::X2apic),
        tsc_deadline: model.has(Feature::TscDeadline),
        suppress_eoi_broadcast: false,
        cmci: false,
        physical_address_bits: model.physical_bits(),
    })
}

impl Cpu {
    /// The moment of the next event that [`Cpu::advance_timers`] has to see: the local APIC's timer, or the overflow of
    /// a performance counter. It changes only where the CPU asks for the machine's loop.
    pub fn next_timer(&self) -> VirtualTime {
        let overflow = match self.pmu_deadline() {
            u64::MAX => VirtualTime::NEVER,
            // While the processor is idle, nothing is counted.
            _ if self.activity != Activity::Active => VirtualTime::NEVER,
            icount => self.clock.at(icount),
        };
        self.lapic.next_timer(self.now()).min(overflow).min(self.guest_deadline())
    }

    /// Brings the processor's timers to its present.
    pub fn advance_timers(&mut self) {
        let now = self.now();
        if self.lapic.tick(now) {
            self.boundary |= boundary::INTERRUPT;
        }
        if self.guest_deadline() <= now {
            self.boundary |= boundary::INTERRUPT;
        }
        if self.pmu_deadline() <= self.icount {
            self.pmu_sync();
        }
    }
}
