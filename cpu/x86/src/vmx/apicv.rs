//! APIC virtualization: TPR shadow, APIC accesses, registers, x2APIC mode, virtual interrupts (SDM 3C chapter 31).

use super::controls::bits::*;
use super::exit::Exit;
use super::reason;
use super::vmcs::Field;
use crate::deliver::Origin;
use crate::flags::bits;
use crate::mem::Kind;
use crate::state::boundary;
use crate::{Cpu, Stop};
use ringworld_core::GuestPhys;

/// Offsets in the virtual-APIC page.
mod page {
    pub const TPR: u64 = 0x80;
    pub const PPR: u64 = 0xa0;
    pub const EOI: u64 = 0xb0;
    pub const ISR: u64 = 0x100;
    pub const IRR: u64 = 0x200;
    pub const ICR_LOW: u64 = 0x300;
    pub const ICR_HIGH: u64 = 0x310;
}

/// Whether APIC-register virtualization covers reads of a register (SDM 3C 31.4.2).
fn virtualizes_read(offset: u64) -> bool {
    matches!(
        offset & 0xff0,
        0x20 | 0x30 | 0x80 | 0xb0 | 0xd0 | 0xe0 | 0xf0 | 0x100..=0x280 | 0x300..=0x380 | 0x3e0
    )
}

/// Whether it covers writes (SDM 3C 31.4.3.1).
fn virtualizes_write(offset: u64) -> bool {
    matches!(offset & 0xff0, 0x20 | 0x80 | 0xb0 | 0xd0 | 0xe0 | 0xf0 | 0x280 | 0x300..=0x380 | 0x3e0)
}

impl Cpu {
    fn virtual_apic(&self, offset: u64) -> GuestPhys {
        GuestPhys(self.virt.vmx.vmcs.get(Field::VirtualApicAddress).wrapping_add(offset & 0xfff))
    }

    /// A register of the virtual-APIC page; without memory, ones.
    fn virtual_register(&self, offset: u64) -> u32 {
        self.memory.read_u32(self.virtual_apic(offset)).unwrap_or(u32::MAX)
    }

    fn set_virtual_register(&mut self, offset: u64, value: u32) {
        let at = self.virtual_apic(offset);
        self.write_physical(at.0, &value.to_le_bytes());
    }

    /// The place of a vector's bit in the eight registers at `set` (VISR, VIRR).
    fn virtual_vector(set: u64, vector: u8) -> (u64, u32) {
        (set + u64::from(vector / 32) * 16, 1 << (vector & 31))
    }

    pub(super) fn set_virtual_vector(&mut self, set: u64, vector: u8, member: bool) {
        let (offset, bit) = Self::virtual_vector(set, vector);
        let old = self.virtual_register(offset);
        self.set_virtual_register(offset, if member { old | bit } else { old & !bit });
    }

    fn highest_virtual_vector(&self, set: u64) -> u8 {
        let found = (0..8_u64).rev().find_map(|n| match self.virtual_register(set + 16 * n) {
            0 => None,
            word => Some(n as u8 * 32 + 31 - word.leading_zeros() as u8),
        });
        found.unwrap_or(0)
    }

    /// VTPR.
    pub(super) fn virtual_tpr(&self) -> u8 {
        self.virtual_register(page::TPR) as u8
    }

    /// Writes VTPR, as MOV to CR8 does.
    pub(super) fn write_virtual_tpr(&mut self, value: u8) {
        self.set_virtual_register(page::TPR, value.into());
        self.tpr_virtualization();
    }

    /// SDM 3C 31.1.2.
    fn tpr_virtualization(&mut self) {
        let vmx = &self.virt.vmx;
        if vmx.secondary(VIRTUAL_INTERRUPT_DELIVERY) {
            self.ppr_virtualization();
            self.look_at_virtual_interrupts();
        } else {
            self.check_tpr_threshold();
        }
    }

    fn check_tpr_threshold(&mut self) {
        if u64::from(self.virtual_tpr() >> 4) < self.virt.vmx.vmcs.get(Field::TprThreshold) & 15 {
            self.exit_after_instruction(Exit { reason: reason::TPR_BELOW_THRESHOLD, ..Exit::default() });
        }
    }

    /// A trap-like exit: at the next boundary.
    fn exit_after_instruction(&mut self, exit: Exit) {
        self.virt.vmx.trap_exit = Some(exit);
        self.look_at_virtual_interrupts();
    }

    fn look_at_virtual_interrupts(&mut self) {
        self.boundary |= boundary::INTERRUPT;
        self.end_block();
    }

    /// Requesting and servicing virtual interrupt (RVI, SVI).
    pub(super) fn interrupt_status(&self) -> (u8, u8) {
        let status = self.virt.vmx.vmcs.get(Field::GuestInterruptStatus);
        (status as u8, (status >> 8) as u8)
    }

    pub(super) fn set_interrupt_status(&mut self, rvi: u8, svi: u8) {
        self.virt.vmx.vmcs.set(Field::GuestInterruptStatus, u64::from(rvi) | u64::from(svi) << 8);
    }

    /// SDM 3C 31.1.3.
    fn ppr_virtualization(&mut self) {
        let (tpr, (_, svi)) = (self.virtual_tpr(), self.interrupt_status());
        let ppr = if tpr >> 4 >= svi >> 4 { tpr } else { svi & 0xf0 };
        self.set_virtual_register(page::PPR, ppr.into());
    }

    /// What VM entry does (SDM 3C 27.3.2.5, 27.7.7).
    pub(super) fn entry_virtual_interrupts(&mut self) {
        let vmx = &self.virt.vmx;
        if vmx.secondary(VIRTUAL_INTERRUPT_DELIVERY) {
            self.ppr_virtualization();
        } else if vmx.primary(TPR_SHADOW) && vmx.secondary(VIRTUALIZE_APIC_ACCESSES) {
            self.check_tpr_threshold();
        }
    }

    /// Evaluation of pending virtual interrupts (SDM 3C 31.2.1).
    pub(super) fn virtual_interrupt_recognized(&self) -> bool {
        let vmx = &self.virt.vmx;
        if !vmx.secondary(VIRTUAL_INTERRUPT_DELIVERY) || vmx.primary(INTERRUPT_WINDOW) {
            return false;
        }
        let (rvi, _) = self.interrupt_status();
        rvi >> 4 != 0 && u32::from(rvi >> 4) > self.virtual_register(page::PPR) >> 4 & 15
    }

    /// A virtual interrupt is pending, whatever its priority.
    pub(super) fn virtual_interrupt_pends(&self) -> bool {
        self.virt.vmx.secondary(VIRTUAL_INTERRUPT_DELIVERY) && self.interrupt_status().0 >> 4 != 0
    }

    /// A virtual interrupt would be delivered to a halted guest.
    pub(super) fn virtual_interrupt_waits(&self) -> bool {
        self.flags.has(bits::IF) && self.virtual_interrupt_recognized()
    }

    /// Virtual-interrupt delivery (SDM 3C 31.2.2); false if there is none.
    pub(super) fn deliver_virtual_interrupt(&mut self) -> bool {
        if !self.virtual_interrupt_waits() {
            return false;
        }
        let (vector, _) = self.interrupt_status();
        self.set_virtual_vector(page::ISR, vector, true);
        self.set_virtual_register(page::PPR, (vector & 0xf0).into());
        self.set_virtual_vector(page::IRR, vector, false);
        let rvi = self.highest_virtual_vector(page::IRR);
        self.set_interrupt_status(rvi, vector);
        self.deliver_external(vector);
        true
    }

    /// EOI virtualization (SDM 3C 31.1.4).
    fn eoi_virtualization(&mut self) {
        let (rvi, vector) = self.interrupt_status();
        self.set_virtual_vector(page::ISR, vector, false);
        let svi = self.highest_virtual_vector(page::ISR);
        self.set_interrupt_status(rvi, svi);
        self.ppr_virtualization();
        let bitmap = self.virt.vmx.vmcs.nth(Field::EoiExitBitmap0, usize::from(vector / 64));
        if bitmap >> (vector % 64) & 1 != 0 {
            self.exit_after_instruction(Exit {
                reason: reason::VIRTUALIZED_EOI,
                qualification: vector.into(),
                ..Exit::default()
            });
        } else {
            self.look_at_virtual_interrupts();
        }
    }

    /// Puts a vector into VIRR and RVI.
    pub(super) fn request_virtual_interrupt(&mut self, vector: u8) {
        self.set_virtual_vector(page::IRR, vector, true);
        let (rvi, svi) = self.interrupt_status();
        self.set_interrupt_status(rvi.max(vector), svi);
        self.look_at_virtual_interrupts();
    }

    // APIC accesses by memory.

    /// Whether a physical page is the APIC-access page.
    pub(crate) fn vmx_page_is_virtual(&self, address: GuestPhys) -> bool {
        let vmx = &self.virt.vmx;
        vmx.secondary(VIRTUALIZE_APIC_ACCESSES)
            && address.0 & !0xfff == vmx.vmcs.get(Field::ApicAccessAddress)
    }

    /// Exits for an access to the APIC-access page that is not virtualized (SDM 3C 31.4).
    pub(crate) fn vmx_device_access(
        &mut self,
        address: GuestPhys,
        linear: u64,
        len: usize,
        kind: Kind,
    ) -> Result<(), Stop> {
        if !self.vmx_page_is_virtual(address) {
            return Ok(());
        }
        let offset = address.page_offset();
        let vmx = &self.virt.vmx;
        let registers = vmx.secondary(APIC_REGISTER_VIRTUALIZATION);
        let interrupts = vmx.secondary(VIRTUAL_INTERRUPT_DELIVERY);
        let fits = offset & 15 < 4 && (offset & 3) + len as u64 <= 4;
        let covered = match kind {
            Kind::Read if registers => virtualizes_read(offset),
            Kind::Read => offset & 0xff0 == page::TPR,
            Kind::Write if registers => virtualizes_write(offset),
            Kind::Write => {
                let base = offset & 0xff0;
                base == page::TPR || interrupts && (base == page::EOI || base == page::ICR_LOW)
            }
            Kind::Fetch => false,
        };
        if vmx.primary(TPR_SHADOW) && fits && covered && self.virt.vectoring.is_none() {
            return Ok(());
        }
        let access = match kind {
            _ if self.virt.vectoring.is_some() => 3,
            Kind::Read => 0,
            Kind::Write => 1,
            Kind::Fetch => 2,
        };
        let rf = self.virt.vectoring.is_none_or(|event| event.origin == Origin::Fault);
        Err(self.vmx_exit(Exit {
            reason: reason::APIC_ACCESS,
            qualification: offset | access << 12,
            linear: Some(linear),
            rf,
            ..Exit::default()
        }))
    }

    pub(crate) fn vmx_virtual_read(&mut self, address: GuestPhys, data: &mut [u8]) -> bool {
        if !self.vmx_page_is_virtual(address) {
            return false;
        }
        let at = self.virtual_apic(address.page_offset());
        if self.memory.read(at, data).is_err() {
            data.fill(0xff);
        }
        true
    }

    /// A virtualized write: the register, then what follows it (APIC-write emulation, SDM 3C 31.4.3.2).
    pub(crate) fn vmx_virtual_write(&mut self, address: GuestPhys, data: &[u8]) -> bool {
        if !self.vmx_page_is_virtual(address) {
            return false;
        }
        let offset = address.page_offset();
        let at = self.virtual_apic(offset);
        self.write_physical(at.0, data);
        self.apic_write_emulation(offset & 0xff0, offset);
        true
    }

    fn apic_write_emulation(&mut self, register: u64, offset: u64) {
        let interrupts = self.virt.vmx.secondary(VIRTUAL_INTERRUPT_DELIVERY);
        match register {
            page::TPR => {
                let value = self.virtual_register(page::TPR);
                self.set_virtual_register(page::TPR, value & 0xff);
                return self.tpr_virtualization();
            }
            page::EOI if interrupts => {
                self.set_virtual_register(page::EOI, 0);
                return self.eoi_virtualization();
            }
            page::ICR_LOW if interrupts => {
                let value = self.virtual_register(page::ICR_LOW);
                let vector = value as u8;
                // A self-IPI, fixed, edge-triggered, with a legal vector (SDM 3C 31.1.5).
                if value & 0xfff0_0000 == 0 && value & 0xf_ff00 & !0x4000 == 0x4_0000 && vector >> 4 != 0 {
                    return self.request_virtual_interrupt(vector);
                }
            }
            page::ICR_HIGH => {
                let value = self.virtual_register(page::ICR_HIGH);
                self.set_virtual_register(page::ICR_HIGH, value & 0xff00_0000);
                return;
            }
            _ => {}
        }
        self.exit_after_instruction(Exit {
            reason: reason::APIC_WRITE,
            qualification: offset,
            ..Exit::default()
        });
    }

    // x2APIC mode.

    /// RDMSR of an x2APIC register (SDM 3C 31.5).
    pub(super) fn read_virtual_x2apic(&mut self, index: u32) -> Option<u64> {
        let vmx = &self.virt.vmx;
        if index >> 8 != 8 || !vmx.secondary(VIRTUALIZE_X2APIC) {
            return None;
        }
        if !vmx.secondary(APIC_REGISTER_VIRTUALIZATION) && index != 0x808 {
            return None;
        }
        let at = self.virtual_apic(u64::from(index & 0xff) << 4);
        Some(self.memory.read_u64(at).unwrap_or(u64::MAX))
    }

    /// WRMSR of an x2APIC register: true if it is virtualized.
    pub(super) fn write_virtual_x2apic(&mut self, index: u32, value: u64) -> Result<bool, Stop> {
        let vmx = &self.virt.vmx;
        if !vmx.secondary(VIRTUALIZE_X2APIC) {
            return Ok(false);
        }
        let interrupts = vmx.secondary(VIRTUAL_INTERRUPT_DELIVERY);
        match index {
            0x808 if value >> 8 == 0 => self.write_virtual_tpr(value as u8),
            0x80b if interrupts && value == 0 => {
                self.set_virtual_register(page::EOI, 0);
                self.eoi_virtualization();
            }
            0x83f if interrupts && value >> 8 == 0 => {
                let vector = value as u8;
                self.set_virtual_register(0x3f0, vector.into());
                if vector >> 4 != 0 {
                    self.request_virtual_interrupt(vector);
                } else {
                    self.exit_after_instruction(Exit {
                        reason: reason::APIC_WRITE,
                        qualification: 0x3f0,
                        ..Exit::default()
                    });
                }
            }
            0x808 => return Err(self.gp0()),
            0x80b | 0x83f if interrupts => return Err(self.gp0()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}
