//! AVIC: the guest's local APIC as a page in memory, and interrupts between guest processors without exits (APM 2 15.29).

use super::vmcb::{nested, v_intr};
use super::{Exit, ExitCode};
use crate::mem::Kind;
use crate::model::Feature;
use crate::state::boundary;
use crate::virt::Level;
use crate::{Cpu, Stop};
use ringworld_core::{Delivery, Destination, GuestPhys, InterruptMessage, PAGE_MASK, TriggerMode};

/// Bits 51:12 of a pointer.
const POINTER: u64 = 0x000f_ffff_ffff_f000;

/// Offsets in the backing page: those of the local APIC's registers.
mod offset {
    pub const ID: u64 = 0x20;
    pub const VERSION: u64 = 0x30;
    pub const TPR: u64 = 0x80;
    pub const PPR: u64 = 0xa0;
    pub const EOI: u64 = 0xb0;
    pub const LDR: u64 = 0xd0;
    pub const DFR: u64 = 0xe0;
    pub const SVR: u64 = 0xf0;
    pub const ISR: u64 = 0x100;
    pub const TMR: u64 = 0x180;
    pub const IRR: u64 = 0x200;
    pub const ESR: u64 = 0x280;
    pub const ICR_LOW: u64 = 0x300;
    pub const ICR_HIGH: u64 = 0x310;
    pub const LVT_TIMER: u64 = 0x320;
    pub const LVT_ERROR: u64 = 0x370;
    pub const INITIAL_COUNT: u64 = 0x380;
    pub const DIVIDE: u64 = 0x3e0;
}

/// Entries of the physical APIC ID table.
mod physical_entry {
    pub const HOST_ID: u64 = 0xff;
    pub const RUNNING: u64 = 1 << 62;
    pub const VALID: u64 = 1 << 63;
}

/// Why an IPI is left to the hypervisor: EXITINFO2\[63:32\].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Incomplete {
    InvalidType = 0,
    NotRunning = 1,
    InvalidTarget = 2,
    InvalidBackingPage = 3,
    InvalidVector = 4,
}

/// What the processor does with an access to a register (APM 2 table 15-22).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behaviour {
    /// Carries it out.
    Accelerated,
    /// Carries it out and exits.
    Trap,
    /// Exits without it.
    Fault,
}

fn behaviour(at: u64, kind: Kind) -> Behaviour {
    use Behaviour::{Accelerated, Fault, Trap};
    let local_vectors = (offset::LVT_TIMER..=offset::LVT_ERROR).contains(&at);
    match kind {
        Kind::Read | Kind::Fetch => match at {
            offset::ID
            | offset::VERSION
            | offset::TPR
            | offset::PPR
            | offset::LDR
            | offset::DFR
            | offset::SVR
            | offset::ISR..=offset::ESR
            | offset::ICR_LOW
            | offset::ICR_HIGH
            | offset::INITIAL_COUNT
            | offset::DIVIDE => Accelerated,
            _ if local_vectors => Accelerated,
            _ => Fault,
        },
        Kind::Write => match at {
            offset::TPR | offset::EOI | offset::ICR_LOW | offset::ICR_HIGH => Accelerated,
            offset::ID
            | offset::LDR
            | offset::DFR
            | offset::SVR
            | offset::ESR
            | offset::INITIAL_COUNT
            | offset::DIVIDE => Trap,
            _ if local_vectors => Trap,
            _ => Fault,
        },
    }
}

impl Cpu {
    /// Whether the running guest's local APIC is virtual.
    pub(super) fn avic_active(&self) -> bool {
        let control = &self.virt.svm.guest.control;
        self.virt.level == Level::Svm
            && control.v_intr & v_intr::AVIC_ENABLE != 0
            && control.nested & nested::NP_ENABLE != 0
            && self.model.has(Feature::Avic)
    }

    fn avic_page(&self) -> u64 {
        self.virt.svm.guest.control.avic_backing_page & POINTER
    }

    /// The backing page's address for a guest-physical address in the APIC's page.
    pub(super) fn avic_redirect(&self, address: GuestPhys) -> Option<GuestPhys> {
        let bar = self.virt.svm.guest.control.avic_apic_bar & POINTER;
        let inside = address.0 & !PAGE_MASK == bar;
        (inside && self.avic_active()).then(|| GuestPhys(self.avic_page() | address.0 & PAGE_MASK))
    }

    /// A register of a backing page. Where no memory is, all bits are clear.
    fn avic_read(&self, page: u64, at: u64) -> u32 {
        self.memory.read_u32(GuestPhys(page + at)).unwrap_or(0)
    }

    fn avic_write(&self, page: u64, at: u64, value: u32) {
        let _ = self.memory.write_u32(GuestPhys(page + at), value);
    }

    /// The highest vector in one of the 256-bit registers.
    fn avic_highest(&self, page: u64, first: u64) -> Option<u8> {
        (0..8).rev().find_map(|n| {
            let word = self.avic_read(page, first + 16 * n);
            (word != 0).then(|| (32 * n as u32 + 31 - word.leading_zeros()) as u8)
        })
    }

    /// Sets or clears the bit of a vector, atomically: other processors and the hypervisor write here, too.
    fn avic_set(&self, page: u64, first: u64, vector: u8, value: bool) {
        let at = GuestPhys(page + first + 16 * u64::from(vector >> 5));
        let bit = 1_u32 << (vector & 31);
        let mut old = self.memory.read_u32(at).unwrap_or(0);
        for _ in 0..64 {
            let new = if value { old | bit } else { old & !bit };
            match self.memory.compare_exchange_u32(at, old, new) {
                Some(Err(found)) => old = found,
                Some(Ok(_)) | None => return,
            }
        }
    }

    /// The vector that the guest would take, but for RFLAGS.IF: that of the highest request above the processor priority.
    pub(super) fn avic_pending(&self) -> Option<u8> {
        let page = self.avic_page();
        let vector = self.avic_highest(page, offset::IRR)?;
        let serving = self.avic_highest(page, offset::ISR).unwrap_or(0) >> 4;
        let priority = serving.max(self.virt.svm.guest.control.v_intr as u8 & 0xf);
        (vector >> 4 > priority).then_some(vector)
    }

    /// The guest takes an interrupt: from IRR to ISR.
    pub(super) fn avic_acknowledge(&mut self, vector: u8) {
        let page = self.avic_page();
        self.avic_set(page, offset::IRR, vector, false);
        self.avic_set(page, offset::ISR, vector, true);
        self.avic_update_ppr();
    }

    fn avic_update_ppr(&mut self) {
        let page = self.avic_page();
        let tpr = self.avic_read(page, offset::TPR);
        let serving = u32::from(self.avic_highest(page, offset::ISR).unwrap_or(0)) & 0xf0;
        self.avic_write(page, offset::PPR, if tpr & 0xf0 >= serving { tpr & 0xff } else { serving });
    }

    /// A write of CR8 shows in the backing page's TPR.
    pub(super) fn avic_set_tpr(&mut self, class: u8) {
        self.avic_write(self.avic_page(), offset::TPR, u32::from(class & 0xf) << 4);
        self.avic_update_ppr();
    }

    /// Whether an access to the backing page leaves the guest before it is made.
    pub(super) fn avic_check(&mut self, address: GuestPhys, len: usize, kind: Kind) -> Result<(), Stop> {
        if address.0 & !PAGE_MASK != self.avic_page() {
            return Ok(());
        }
        let at = address.page_offset();
        let whole = at & 0xf == 0 && len == 4;
        let partly = kind != Kind::Write && at & 0xf < 4;
        if (whole || partly) && behaviour(at & !0xf, kind) != Behaviour::Fault {
            return Ok(());
        }
        Err(self.svm_note(ExitCode::AVIC_NOACCEL, noaccel_info(at, kind == Kind::Write), 0))
    }

    /// Whether the page is the running guest's backing page.
    pub(super) fn avic_is_page(&self, address: GuestPhys) -> bool {
        self.avic_active() && address.0 & !PAGE_MASK == self.avic_page()
    }

    /// Reads the backing page; false if the address is not in it.
    pub(super) fn avic_page_read(&mut self, address: GuestPhys, data: &mut [u8]) -> bool {
        if !self.avic_is_page(address) {
            return false;
        }
        if self.memory.read(address, data).is_err() {
            data.fill(0);
        }
        true
    }

    /// Writes a register of the guest's APIC; false if the address is not in its page. What needs the hypervisor exits
    /// after the instruction.
    pub(super) fn avic_page_write(&mut self, address: GuestPhys, data: &[u8]) -> bool {
        if !self.avic_is_page(address) {
            return false;
        }
        let Some(&bytes) = data.first_chunk() else { return true };
        let (page, at) = (self.avic_page(), address.page_offset() & !0xf);
        let value = u32::from_le_bytes(bytes);
        if at != offset::EOI {
            self.avic_write(page, at, value);
        }
        match at {
            offset::TPR => {
                let flags = &mut self.virt.svm.guest.control.v_intr;
                *flags = *flags & !v_intr::TPR | u64::from(value >> 4 & 0xf);
                self.avic_update_ppr();
            }
            offset::EOI => self.avic_end_of_interrupt(),
            offset::ICR_LOW => self.avic_send(value),
            _ if behaviour(at, Kind::Write) == Behaviour::Trap => {
                self.avic_trap(ExitCode::AVIC_NOACCEL, noaccel_info(at, true), 0);
            }
            _ => {}
        }
        self.boundary |= boundary::INTERRUPT;
        self.end_block();
        true
    }

    /// Exits when the instruction has completed.
    fn avic_trap(&mut self, code: ExitCode, info1: u64, info2: u64) {
        self.virt.svm.trap = Some(Exit { code: code.0, info1, info2, next_rip: 0, bytes: false });
    }

    /// EOI: an edge-triggered interrupt ends here, a level-triggered one with the hypervisor.
    fn avic_end_of_interrupt(&mut self) {
        let page = self.avic_page();
        let Some(vector) = self.avic_highest(page, offset::ISR) else { return };
        let level = self.avic_read(page, offset::TMR + 16 * u64::from(vector >> 5)) >> (vector & 31) & 1 != 0;
        if level {
            self.avic_trap(ExitCode::AVIC_NOACCEL, noaccel_info(offset::EOI, true), vector.into());
            return;
        }
        self.avic_set(page, offset::ISR, vector, false);
        self.avic_update_ppr();
    }

    /// A write of ICR's low half (APM 2 15.29.6).
    fn avic_send(&mut self, low: u32) {
        const LEVEL: u32 = 1 << 15;
        const LOGICAL: u32 = 1 << 11;
        let page = self.avic_page();
        let high = self.avic_read(page, offset::ICR_HIGH);
        let info1 = u64::from(low) | u64::from(high) << 32;
        let vector = low as u8;
        let incomplete = if low >> 8 & 7 != 0 || low & LEVEL != 0 {
            Some((Incomplete::InvalidType, 0))
        } else if vector < 16 {
            Some((Incomplete::InvalidVector, 0))
        } else {
            let destination = (high >> 24) as u8;
            match low >> 18 & 3 {
                1 => {
                    self.avic_set(page, offset::IRR, vector, true);
                    None
                }
                2 => self.avic_broadcast(vector, true),
                3 => self.avic_broadcast(vector, false),
                _ if destination == 0xff => self.avic_broadcast(vector, true),
                _ if low & LOGICAL != 0 => self.avic_logical(vector, destination),
                _ => self.avic_post(destination.into(), vector),
            }
        };
        if let Some((why, index)) = incomplete {
            self.avic_trap(ExitCode::AVIC_INCOMPLETE_IPI, info1, (why as u64) << 32 | u64::from(index));
        }
    }

    /// Posts a vector to the guest processor with this APIC ID.
    fn avic_post(&mut self, id: u32, vector: u8) -> Option<(Incomplete, u32)> {
        let table = self.virt.svm.guest.control.avic_physical_table;
        if id > table as u32 & 0xff {
            return Some((Incomplete::InvalidTarget, id));
        }
        let at = GuestPhys((table & POINTER) + 8 * u64::from(id));
        let entry = self.memory.read_u64(at).unwrap_or(0);
        if entry & physical_entry::VALID == 0 {
            return Some((Incomplete::InvalidTarget, id));
        }
        let page = entry & POINTER;
        if page >> self.physical_bits() != 0 || self.memory.page(GuestPhys(page)).is_none() {
            return Some((Incomplete::InvalidBackingPage, id));
        }
        self.avic_set(page, offset::IRR, vector, true);
        if page == self.avic_page() {
            return None;
        }
        if entry & physical_entry::RUNNING == 0 {
            return Some((Incomplete::NotRunning, id));
        }
        self.ring_doorbell((entry & physical_entry::HOST_ID) as u32);
        None
    }

    /// All processors, or all others. Those that are not in the table do not count.
    fn avic_broadcast(&mut self, vector: u8, own: bool) -> Option<(Incomplete, u32)> {
        let table = self.virt.svm.guest.control.avic_physical_table;
        let mut incomplete = None;
        for id in 0..=(table as u32 & 0xff) {
            let at = GuestPhys((table & POINTER) + 8 * u64::from(id));
            let entry = self.memory.read_u64(at).unwrap_or(0);
            let itself = entry & POINTER == self.avic_page();
            if entry & physical_entry::VALID != 0 && (own || !itself) {
                incomplete = self.avic_post(id, vector).or(incomplete);
            }
        }
        incomplete
    }

    /// A logical destination: one entry of the logical table for each bit, in the flat or the cluster model.
    fn avic_logical(&mut self, vector: u8, destination: u8) -> Option<(Incomplete, u32)> {
        const VALID: u32 = 1 << 31;
        let page = self.avic_page();
        let flat = self.avic_read(page, offset::DFR) >> 28 == 0xf;
        let (first, bits) =
            if flat { (0, destination) } else { (4 * u64::from(destination >> 4), destination & 0xf) };
        if !flat && destination >> 4 == 0xf {
            return self.avic_broadcast(vector, true);
        }
        let table = self.virt.svm.guest.control.avic_logical_table & POINTER;
        let mut incomplete = None;
        for bit in (0..8).filter(|bit| bits >> bit & 1 != 0) {
            let index = first + bit;
            let entry = self.memory.read_u32(GuestPhys(table + 4 * index)).unwrap_or(0);
            let failed = if entry & VALID == 0 {
                Some((Incomplete::InvalidTarget, index as u32))
            } else {
                self.avic_post(entry & 0xff, vector)
            };
            incomplete = failed.or(incomplete);
        }
        incomplete
    }

    /// The doorbell of another processor: it looks at its guest's IRR again (APM 2 15.29.8).
    pub(super) fn ring_doorbell(&mut self, apic_id: u32) {
        let message = InterruptMessage {
            source: Some(self.id),
            destination: Destination::Physical(apic_id),
            delivery: Delivery::Doorbell,
            vector: 0,
            trigger: TriggerMode::Edge,
            assert: true,
        };
        self.platform.clone().send(self.io_context(), message);
        self.after_io();
    }
}

/// EXITINFO1 of an access that is not accelerated.
fn noaccel_info(at: u64, write: bool) -> u64 {
    u64::from(write) << 32 | at & 0xff0
}
