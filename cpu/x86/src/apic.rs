//! Between the CPU and its local APIC: the memory-mapped page.

use crate::Cpu;
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
}
