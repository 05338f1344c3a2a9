//! The I/O APIC: Intel 82093AA data sheet (290566), with the EOI register of version 0x20 (ICH, 82489DX successor).

use ringworld_core::{Delivery, Destination, InterruptMessage, TriggerMode};
use serde::{Deserialize, Serialize};

use crate::device::{le_value, read_u32_bytes};

/// Interrupt inputs.
pub const PINS: usize = 24;
/// Version 0x20, maximum redirection entry 23.
const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x20;
/// Inputs wired to PCI interrupt lines, which are active low.
const ACTIVE_LOW: u32 = 0x00ff_0000;

const VECTOR: u64 = 0xff;
const LOGICAL: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const LOW_ACTIVE: u64 = 1 << 13;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Bits of an entry that software sets.
const WRITABLE: u64 = 0xff00_0000_0001_ffff & !(DELIVERY_STATUS | REMOTE_IRR);

/// The I/O APIC's registers and inputs.
#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
pub struct IoApic {
    select: u8,
    id: u32,
    redirection: [u64; PINS],
    /// Inputs that their devices assert.
    asserted: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, id: 0, redirection: [MASKED; PINS], asserted: 0 }
    }
}

fn delivery(entry: u64) -> Option<Delivery> {
    Some(match entry >> 8 & 7 {
        0 => Delivery::Fixed,
        1 => Delivery::LowestPriority,
        2 => Delivery::Smi,
        4 => Delivery::Nmi,
        5 => Delivery::Init,
        7 => Delivery::ExtInt,
        _ => return None,
    })
}

/// Whether the entry is level triggered. SMI, NMI, INIT and ExtINT are always treated as edges.
fn is_level(entry: u64) -> bool {
    entry & LEVEL != 0 && matches!(delivery(entry), Some(Delivery::Fixed | Delivery::LowestPriority))
}

fn message(entry: u64) -> Option<InterruptMessage> {
    let destination = (entry >> 56) as u32;
    Some(InterruptMessage {
        source: None,
        destination: if entry & LOGICAL != 0 {
            Destination::Logical(destination)
        } else {
            Destination::Physical(destination)
        },
        delivery: delivery(entry)?,
        vector: (entry & VECTOR) as u8,
        trigger: if is_level(entry) { TriggerMode::Level } else { TriggerMode::Edge },
        assert: true,
    })
}

impl IoApic {
    /// The redirection entry of `pin`.
    pub fn redirection(&self, pin: usize) -> Option<u64> {
        self.redirection.get(pin).copied()
    }

    /// Whether the input is at the level that its entry calls active.
    fn is_active(&self, pin: usize) -> bool {
        let high = (self.asserted ^ ACTIVE_LOW) >> pin & 1 != 0;
        high != (self.redirection[pin] & LOW_ACTIVE != 0)
    }

    /// A device asserts or releases the input `pin`; the message that this causes.
    pub fn set_pin(&mut self, pin: u8, asserted: bool) -> Option<InterruptMessage> {
        let pin = usize::from(pin);
        if pin >= PINS || asserted == (self.asserted >> pin & 1 != 0) {
            return None;
        }
        self.asserted ^= 1 << pin;
        let entry = self.redirection[pin];
        if is_level(entry) {
            return self.service_level(pin);
        }
        // An edge at a masked input is lost.
        if entry & MASKED == 0 && self.is_active(pin) { message(entry) } else { None }
    }

    fn service_level(&mut self, pin: usize) -> Option<InterruptMessage> {
        let entry = self.redirection[pin];
        if !is_level(entry) || entry & (MASKED | REMOTE_IRR) != 0 || !self.is_active(pin) {
            return None;
        }
        self.redirection[pin] |= REMOTE_IRR;
        message(entry)
    }

    /// An EOI for `vector`, from a local APIC or the EOI register: inputs that are still active request again.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<InterruptMessage> {
        let mut messages = Vec::new();
        for pin in 0..PINS {
            let entry = self.redirection[pin];
            if is_level(entry) && entry & REMOTE_IRR != 0 && (entry & VECTOR) as u8 == vector {
                self.redirection[pin] &= !REMOTE_IRR;
                messages.extend(self.service_level(pin));
            }
        }
        messages
    }

    fn register(&self) -> u32 {
        match self.select {
            0 => self.id,
            1 => VERSION,
            // The arbitration ID is loaded with the ID.
            2 => self.id,
            index @ 0x10..0x40 => {
                let entry = self.redirection[usize::from(index - 0x10) / 2];
                (entry >> (32 * u32::from(index & 1))) as u32
            }
            _ => 0,
        }
    }

    /// Reads at `offset` from the base: IOREGSEL 0x00, IOWIN 0x10.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset & !3 {
            0x00 => u32::from(self.select),
            0x10 => self.register(),
            _ => 0,
        };
        read_u32_bytes(value, offset, data);
    }

    /// Writes at `offset` from the base: IOREGSEL 0x00, IOWIN 0x10, EOI 0x40. IOWIN takes 32-bit accesses only.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Vec<InterruptMessage> {
        let value = le_value(data);
        match (offset, data.len()) {
            (0x00, _) => self.select = value as u8,
            (0x10, 4) => return self.write_register(value),
            (0x40, _) => return self.end_of_interrupt(value as u8),
            _ => {}
        }
        Vec::new()
    }

    fn write_register(&mut self, value: u64) -> Vec<InterruptMessage> {
        match self.select {
            0 => self.id = value as u32 & 0x0f00_0000,
            index @ 0x10..0x40 => {
                let pin = usize::from(index - 0x10) / 2;
                let shift = 32 * u32::from(index & 1);
                let writable = WRITABLE & 0xffff_ffff << shift;
                let entry = &mut self.redirection[pin];
                *entry = *entry & !writable | value << shift & writable;
                if !is_level(*entry) {
                    *entry &= !REMOTE_IRR;
                }
                return self.service_level(pin).into_iter().collect();
            }
            _ => {}
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ioapic: &mut IoApic, index: u8, value: u32) -> Vec<InterruptMessage> {
        ioapic.write(0, &[index]);
        ioapic.write(0x10, &value.to_le_bytes())
    }

    fn get(ioapic: &mut IoApic, index: u8) -> u32 {
        ioapic.write(0, &[index, 0, 0, 0]);
        let mut data = [0; 4];
        ioapic.read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    fn vectors(messages: impl IntoIterator<Item = InterruptMessage>) -> Vec<u8> {
        messages.into_iter().map(|message| message.vector).collect()
    }

    /// 82093AA 3.2.1 to 3.2.3
    #[test]
    fn identification_registers() {
        let mut ioapic = IoApic::default();
        set(&mut ioapic, 0, 0xffff_ffff);
        assert_eq!(get(&mut ioapic, 0), 0x0f00_0000);
        assert_eq!(get(&mut ioapic, 2), 0x0f00_0000);
        set(&mut ioapic, 1, 0);
        assert_eq!(get(&mut ioapic, 1), 0x0017_0020);
        assert_eq!(get(&mut ioapic, 0x10), 0x0001_0000, "masked at reset");
        assert_eq!(get(&mut ioapic, 0x40), 0);
    }

    /// 82093AA 3.2.4: destination, delivery mode, trigger mode
    #[test]
    fn an_edge_makes_one_message() {
        let mut ioapic = IoApic::default();
        set(&mut ioapic, 0x10 + 2 * 4 + 1, 0x0300_0000);
        set(&mut ioapic, 0x10 + 2 * 4, 0x0000_0931);
        let message = ioapic.set_pin(4, true).unwrap();
        assert_eq!(message.destination, Destination::Logical(3));
        assert_eq!(message.delivery, Delivery::LowestPriority);
        assert_eq!((message.vector, message.trigger), (0x31, TriggerMode::Edge));
        assert_eq!(ioapic.set_pin(4, true), None);
        assert_eq!(ioapic.set_pin(4, false), None);
        assert!(ioapic.set_pin(4, true).is_some());
        assert_eq!(ioapic.end_of_interrupt(0x31), []);
    }

    /// 82093AA 3.2.4, bit 16: "edge-sensitive interrupts signaled on a masked interrupt pin are ignored"
    #[test]
    fn masked_edges_are_lost_and_masked_levels_wait() {
        let mut ioapic = IoApic::default();
        set(&mut ioapic, 0x10 + 2 * 14, 0x1_0040);
        assert_eq!(ioapic.set_pin(14, true), None);
        assert_eq!(set(&mut ioapic, 0x10 + 2 * 14, 0x40), []);
        ioapic.set_pin(14, false);
        set(&mut ioapic, 0x10 + 2 * 14, 0x1_8040);
        assert_eq!(ioapic.set_pin(14, true), None);
        assert_eq!(vectors(set(&mut ioapic, 0x10 + 2 * 14, 0x8040)), [0x40]);
    }

    /// 82093AA 3.2.4, bit 14: remote IRR
    #[test]
    fn a_level_waits_for_its_eoi() {
        let mut ioapic = IoApic::default();
        let low = 0x10 + 2 * 9;
        set(&mut ioapic, low, 0x8050);
        assert_eq!(vectors(ioapic.set_pin(9, true)), [0x50]);
        assert_eq!(get(&mut ioapic, low), 0xc050);
        ioapic.set_pin(9, false);
        assert_eq!(ioapic.set_pin(9, true), None, "not before the EOI");
        assert_eq!(ioapic.end_of_interrupt(0x51), []);
        assert_eq!(vectors(ioapic.end_of_interrupt(0x50)), [0x50]);
        ioapic.set_pin(9, false);
        assert_eq!(ioapic.write(0x40, &[0x50, 0, 0, 0]), [], "the EOI register");
        assert_eq!(get(&mut ioapic, low), 0x8050);
        ioapic.set_pin(9, true);
        set(&mut ioapic, low, 0x0050);
        assert_eq!(get(&mut ioapic, low), 0x0050, "edge mode has no remote IRR");
    }

    /// 82093AA 3.2.4, bit 13. ISA lines are active high, PCI lines active low.
    #[test]
    fn polarity() {
        let mut ioapic = IoApic::default();
        set(&mut ioapic, 0x10 + 2 * 5, 0x1_a060);
        assert_eq!(vectors(set(&mut ioapic, 0x10 + 2 * 5, 0xa060)), [0x60], "an idle ISA line is low");
        set(&mut ioapic, 0x10 + 2 * 17, 0xa061);
        assert_eq!(vectors(ioapic.set_pin(17, true)), [0x61]);
    }

    #[test]
    fn system_interrupts_are_edges_and_reserved_modes_do_nothing() {
        for (mode, expected) in [
            (2, Some(Delivery::Smi)),
            (3, None),
            (4, Some(Delivery::Nmi)),
            (5, Some(Delivery::Init)),
            (6, None),
            (7, Some(Delivery::ExtInt)),
        ] {
            let mut ioapic = IoApic::default();
            set(&mut ioapic, 0x12, 0x8000 | mode << 8);
            let message = ioapic.set_pin(1, true);
            assert_eq!(message.map(|message| message.delivery), expected);
            assert!(message.is_none_or(|message| message.trigger == TriggerMode::Edge));
            assert_eq!(get(&mut ioapic, 0x12), 0x8000 | mode << 8);
        }
    }

    #[test]
    fn odd_accesses_do_no_harm() {
        let mut ioapic = IoApic::default();
        set(&mut ioapic, 0x10, 0x42);
        assert_eq!(ioapic.write(0x10, &[0xff]), []);
        assert_eq!(ioapic.write(0x11, &[0xff]), []);
        let mut byte = [0];
        ioapic.read(0x10, &mut byte);
        assert_eq!(byte, [0x42]);
        ioapic.read(0xfff, &mut byte);
        assert_eq!(byte, [0]);
        assert_eq!(ioapic.set_pin(24, true), None);
    }
}
