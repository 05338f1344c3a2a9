//! Posted-interrupt processing (SDM 3C 31.6).

use super::controls::bits::*;
use super::vmcs::Field;
use crate::Cpu;
use crate::lapic::ApicMode;
use crate::state::Activity;
use ringworld_core::GuestPhys;

impl Cpu {
    /// An acknowledged interrupt: if it is the posted-interrupt notification, the posted requests become virtual
    /// interrupts, and no exit follows.
    pub(super) fn take_posted_notification(&mut self, vector: u8) -> bool {
        let vmx = &self.virt.vmx;
        let notification = vmx.vmcs.get(Field::PostedInterruptNotificationVector);
        if !vmx.pin(POSTED_INTERRUPTS) || notification != u64::from(vector) {
            return false;
        }
        let descriptor = vmx.vmcs.get(Field::PostedInterruptDescriptor);
        self.clear_outstanding(descriptor);
        self.end_physical_interrupt();
        for n in 0..4_u64 {
            let mut requests = self.take_requests(GuestPhys(descriptor + 8 * n));
            while requests != 0 {
                let bit = requests.trailing_zeros();
                requests &= requests - 1;
                self.request_virtual_interrupt((n * 64) as u8 + bit as u8);
            }
        }
        if self.virt.vmx.activity_before == Activity::Halted && !self.virtual_interrupt_waits() {
            // Nothing for the guest: it goes on waiting.
            self.suspend(Activity::Halted);
        }
        true
    }

    /// Clears the outstanding-notification bit (bit 256).
    fn clear_outstanding(&mut self, descriptor: u64) {
        let at = GuestPhys(descriptor + 32);
        let mut old = self.memory.read_u32(at).unwrap_or(0);
        // Other processors change the descriptor at the same time; a race that never ends is left to the next notification.
        for _ in 0..64 {
            match self.memory.compare_exchange_u32(at, old, old & !1) {
                Some(Err(found)) => old = found,
                Some(Ok(_)) | None => return,
            }
        }
    }

    /// Takes 64 posted requests out of the descriptor.
    fn take_requests(&mut self, at: GuestPhys) -> u64 {
        let mut old = self.memory.read_u64(at).unwrap_or(0);
        for _ in 0..64 {
            match self.memory.compare_exchange_u64(at, old, 0) {
                Some(Err(found)) => old = found,
                Some(Ok(_)) => return old,
                None => return 0,
            }
        }
        0
    }

    /// EOI to the local APIC.
    fn end_physical_interrupt(&mut self) {
        let now = self.now();
        let effects = if self.lapic.mode() == ApicMode::X2Apic {
            self.lapic.msr_write(0x80b, 0, now).unwrap_or_default()
        } else {
            self.lapic.mmio_write(0xb0, &[0; 4], now)
        };
        self.apply_apic_effects(effects);
    }
}
