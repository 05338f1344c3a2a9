//! Between the CPU and its local APIC.

use crate::Cpu;
use crate::lapic::{Accepted, ApicMode, Effects};
use crate::state::{Activity, boundary};
use ringworld_core::GuestPhys;

impl Cpu {
    /// Whether the local APIC answers at this guest-physical address.
    #[inline]
    pub(crate) fn lapic_claims(&self, address: GuestPhys) -> bool {
        self.lapic.claims(address)
    }

    /// Reads the local APIC's page; false if the address is not in it.
    pub(crate) fn lapic_read(&mut self, address: GuestPhys, data: &mut [u8]) -> bool {
        if !self.lapic_claims(address) {
            return false;
        }
        let now = self.now();
        let accepted = self.lapic.mmio_read(address.page_offset(), data, now);
        self.accept(accepted);
        true
    }

    /// Writes the local APIC's page; false if the address is not in it.
    pub(crate) fn lapic_write(&mut self, address: GuestPhys, data: &[u8]) -> bool {
        if !self.lapic_claims(address) {
            return false;
        }
        let now = self.now();
        let effects = self.lapic.mmio_write(address.page_offset(), data, now);
        self.apply_apic_effects(effects);
        true
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
        self.boundary |= boundary::INTERRUPT;
        self.yield_to_machine();
    }

    /// Takes what the local APIC has accepted (from a message or a local source).
    pub fn accept(&mut self, accepted: Accepted) {
        match accepted {
            Accepted::No => return,
            Accepted::Interrupt => {}
            Accepted::Nmi => self.nmi_pending = true,
            Accepted::Smi => self.smi_pending = true,
            // INIT waits for the end of system-management mode (SDM 3C 33.3).
            Accepted::Init if self.smm || self.init_held() => self.init_pending = true,
            Accepted::Init => self.take_init(),
            Accepted::StartUp(page) => {
                if self.activity == Activity::WaitForSipi && !self.start_up_held(page) {
                    self.start_up(page);
                }
            }
            Accepted::ExtInt => self.intr = true,
        }
        self.boundary |= boundary::INTERRUPT;
        self.end_block();
    }

    /// INIT: the bootstrap processor starts at the reset vector, the others wait for a start-up IPI.
    pub(crate) fn take_init(&mut self) {
        if self.svm_redirect_init() {
            return;
        }
        self.lapic.init();
        self.init();
        if !self.lapic.is_bsp() {
            self.activity = Activity::WaitForSipi;
            self.boundary |= boundary::INACTIVE;
        }
    }

    /// CR8: the task-priority class.
    pub fn cr8(&self) -> u8 {
        self.lapic.cr8()
    }

    /// Whether the 8259's INTR line reaches the core.
    pub(crate) fn ext_int_reaches(&self) -> bool {
        self.lapic.mode() == ApicMode::Disabled || self.lapic.ext_int_enabled()
    }
}
