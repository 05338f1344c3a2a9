//! IA32_APIC_BASE: where the APIC's page is, and the APIC's mode (SDM 3A 12.4.3, 12.4.4, 12.12.5).

use super::{ApicFault, Lapic};
use ringworld_core::{GuestPhys, VirtualTime};

/// The APIC's page after power-up.
pub const APIC_BASE_DEFAULT: u64 = 0xfee0_0000;
/// IA32_APIC_BASE.BSP.
pub const APIC_BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE.EXTD.
pub const APIC_BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE.EN.
pub const APIC_BASE_ENABLE: u64 = 1 << 11;

/// How the registers are reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ApicMode {
    /// Not at all: globally disabled.
    Disabled,
    /// By memory.
    XApic,
    /// By MSRs.
    X2Apic,
}

fn mode_of(base: u64) -> Option<ApicMode> {
    match (base & APIC_BASE_ENABLE != 0, base & APIC_BASE_X2APIC != 0) {
        (false, false) => Some(ApicMode::Disabled),
        (true, false) => Some(ApicMode::XApic),
        (true, true) => Some(ApicMode::X2Apic),
        (false, true) => None,
    }
}

impl Lapic {
    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The mode.
    pub fn mode(&self) -> ApicMode {
        mode_of(self.base).unwrap_or(ApicMode::Disabled)
    }

    /// Whether the APIC is enabled globally; CPUID.01H:EDX.APIC\[9\] says the same.
    pub fn enabled(&self) -> bool {
        self.base & APIC_BASE_ENABLE != 0
    }

    /// Whether IA32_APIC_BASE says that this is the bootstrap processor.
    pub fn is_bsp(&self) -> bool {
        self.base & APIC_BASE_BSP != 0
    }

    /// Whether the APIC's page (in xAPIC mode) holds `addr`.
    #[inline]
    pub fn claims(&self, addr: GuestPhys) -> bool {
        self.base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC) == APIC_BASE_ENABLE
            && addr.0 & !0xfff == self.base & !0xfff
    }

    /// Writes IA32_APIC_BASE. Reserved bits and transitions that figure 12-26 does not have are faults.
    pub fn set_base(&mut self, value: u64, now: VirtualTime) -> Result<(), ApicFault> {
        let address = u64::MAX >> (64 - u32::from(self.config.physical_address_bits).clamp(32, 52)) & !0xfff;
        let x2apic = if self.config.x2apic { APIC_BASE_X2APIC } else { 0 };
        if value & !(address | APIC_BASE_BSP | APIC_BASE_ENABLE | x2apic) != 0 {
            return Err(ApicFault);
        }
        let old = self.mode();
        let new = mode_of(value).ok_or(ApicFault)?;
        match (old, new) {
            (ApicMode::Disabled, ApicMode::X2Apic) | (ApicMode::X2Apic, ApicMode::XApic) => {
                return Err(ApicFault);
            }
            _ => {}
        }
        self.tick(now);
        self.base = value;
        if new == ApicMode::Disabled && old != ApicMode::Disabled {
            // A globally disabled APIC forgets its state, an ID that software has set included.
            self.clear_registers();
            self.id = self.config.id as u8;
        }
        Ok(())
    }
}
