//! Between the CPU and its local APIC: the memory-mapped page.

use crate::Cpu;
use crate::lapic::{Accepted, Effects};
use crate::state::boundary;
use ringworld_core::GuestPhys;

impl Cpu {
    /// Whether the local APIC answers at this guest-physical address.
    pub(crate) fn lapic_claims(&self, _address: GuestPhys) -> bool {
        false
    }

    /// Reads the local APIC's page; false if the address is not in it.
    pub(crate) fn lapic_read(&mut self, _address: GuestPhys, _data: &mut [u8]) -> bool {
        false
    }

    /// Writes the local APIC's page; false if the address is not in it.
    pub(crate) fn lapic_write(&mut self, _address: GuestPhys, _data: &[u8]) -> bool {
        false
    }

    /// Carries out what a write to an APIC register asks for, and lets the machine see changed timers.
    pub(crate) fn apply_apic_effects(&mut self, effects: Effects) {
        if let Some(message) = effects.ipi {
            self.platform.clone().send(self.io_context(), message);
        }
        if let Some(vector) = effects.eoi {
            self.platform.clone().end_of_interrupt(self.io_context(), vector);
        }
        self.accept(effects.local);
        self.yield_to_machine();
    }

    /// Takes what the local APIC has accepted.
    pub fn accept(&mut self, accepted: Accepted) {
        match accepted {
            Accepted::Nmi => self.nmi_pending = true,
            Accepted::Smi => self.smi_pending = true,
            _ => {}
        }
        self.boundary |= boundary::INTERRUPT;
        self.end_block();
    }
}
