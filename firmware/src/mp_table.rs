//! The MultiProcessor configuration table (Intel MultiProcessor Specification 1.4, chapter 4), which older operating
//! systems, and small ones, read in place of ACPI's tables.

use crate::acpi::{AcpiConfig, PciConfig, SCI};
use crate::image::Placer;
use crate::memory_map::BIOS_SEGMENT;

/// The floating pointer structure, where operating systems search for it, and the table behind SMBIOS.
const POINTER: u64 = BIOS_SEGMENT + 0x20;
const TABLE: u64 = BIOS_SEGMENT + 0xe200;
const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
const IO_APIC_ADDRESS: u32 = 0xfec0_0000;
/// IDs of local APICs fit in a byte, and the last one is the broadcast.
const MOST_CPUS: u32 = 255;
/// Versions of the APICs, as their registers say.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x20;
const REVISION: u8 = 4;
const ENABLED: u8 = 1;
const BOOTSTRAP: u8 = 2;
/// Bus IDs.
const PCI: u8 = 0;
const ISA: u8 = 1;
/// Assignments of interrupts to the I/O APIC (4.3.4) and to local APICs (4.3.5): entry and interrupt types (table 4-10).
const IO_INT: [u8; 2] = [3, 0];
const LOCAL_EXT_INT: [u8; 2] = [4, 3];
const LOCAL_NMI: [u8; 2] = [4, 1];
/// Polarity and trigger mode (table 4-11): as the bus says, which for PCI is level, active low; level, active high.
const CONFORMS: u16 = 0;
const LEVEL_HIGH: u16 = 0b1101;
/// The PIT's interrupt comes to this pin of the I/O APIC, as pin 0 belongs to the 8259.
const TIMER_PIN: u8 = 2;
const ALL_LOCAL_APICS: u8 = 0xff;
/// The I/O APIC's ID, as its register says after a reset. Processors' start at 0, too: they are on buses of their own.
const IO_APIC_ID: u8 = 0;

/// What the first CPU is: signature and features, as CPUID leaf 1 has them in EAX and EDX. The specification asks for
/// them; nobody needs them who can execute CPUID, so this is a processor with an FPU and a local APIC.
const SIGNATURE: u32 = 0x600;
const FEATURES: u32 = 1 << 9 | 1;

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Table entries, and how many there are.
#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    fn add(&mut self, fields: &[u8]) {
        self.bytes.extend_from_slice(fields);
        self.count += 1;
    }

    /// An interrupt's assignment: the entry's type and the interrupt's, from a bus and its interrupt to an APIC and its pin.
    fn interrupt(&mut self, kind: [u8; 2], flags: u16, from: [u8; 2], to: [u8; 2]) {
        self.add(&[kind, flags.to_le_bytes(), from, to].concat());
    }
}

fn table(cpus: u32, pci: Option<&PciConfig>) -> Vec<u8> {
    let mut entries = Entries::default();
    for cpu in 0..cpus.min(MOST_CPUS) {
        // 4.3.1 Processor.
        let flags = if cpu == 0 { ENABLED | BOOTSTRAP } else { ENABLED };
        let mut entry = vec![0, cpu as u8, LOCAL_APIC_VERSION, flags];
        entry.extend(SIGNATURE.to_le_bytes());
        entry.extend(FEATURES.to_le_bytes());
        entry.extend([0; 8]);
        entries.add(&entry);
    }
    // 4.3.2 Bus.
    if pci.is_some() {
        entries.add(&[&[1, PCI][..], b"PCI   "].concat());
    }
    entries.add(&[&[1, ISA][..], b"ISA   "].concat());
    // 4.3.3 I/O APIC.
    let [a, b, c, d] = IO_APIC_ADDRESS.to_le_bytes();
    entries.add(&[2, IO_APIC_ID, IO_APIC_VERSION, ENABLED, a, b, c, d]);
    if let Some(pci) = pci {
        for device in 0..32u8 {
            for pin in 0..4u8 {
                let line = (pci.interrupt)(device, pin + 1);
                entries.interrupt(IO_INT, CONFORMS, [PCI, device << 2 | pin], [IO_APIC_ID, line]);
            }
        }
    }
    for irq in (0..16).filter(|irq| *irq != 2) {
        let (flags, pin) = match irq {
            0 => (CONFORMS, TIMER_PIN),
            SCI => (LEVEL_HIGH, SCI),
            _ => (CONFORMS, irq),
        };
        entries.interrupt(IO_INT, flags, [ISA, irq], [IO_APIC_ID, pin]);
    }
    for (lint, kind) in [LOCAL_EXT_INT, LOCAL_NMI].into_iter().enumerate() {
        entries.interrupt(kind, CONFORMS, [ISA, 0], [ALL_LOCAL_APICS, lint as u8]);
    }

    // 4.2 The header.
    let mut table = b"PCMP".to_vec();
    let length = 44 + entries.bytes.len() as u16;
    table.extend(length.to_le_bytes());
    table.extend([REVISION, 0]);
    table.extend(b"RINGWRLDRingworld PC");
    table.extend([0; 6]);
    table.extend(entries.count.to_le_bytes());
    table.extend(LOCAL_APIC_ADDRESS.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries.bytes);
    table[7] = checksum(&table);
    table
}

/// 4.1 The floating pointer structure, of 16 bytes, for a table there.
fn pointer(table: u32) -> Vec<u8> {
    let mut pointer = b"_MP_".to_vec();
    pointer.extend(table.to_le_bytes());
    pointer.extend([1, REVISION]);
    // No default configuration; virtual wire mode.
    pointer.extend([0; 6]);
    pointer[10] = checksum(&pointer);
    pointer
}

/// Places both into the BIOS segment.
pub(crate) fn place(placer: &mut Placer, config: &AcpiConfig) {
    placer.firmware("MP floating pointer", POINTER, pointer(TABLE as u32).into(), 0);
    placer.firmware("MP table", TABLE, table(config.cpus, config.pci.as_ref()).into(), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pci() -> PciConfig {
        PciConfig {
            ecam: 0xb000_0000,
            memory32: 0..0,
            memory64: 0..0,
            interrupt: |device, pin| 16 + (device + pin) % 8,
        }
    }

    /// The entries, by the sizes that 4.3 gives them.
    fn entries(table: &[u8]) -> Vec<&[u8]> {
        let mut rest = &table[44..];
        let mut entries = Vec::new();
        while let Some(kind) = rest.first() {
            let (entry, tail) = rest.split_at(if *kind == 0 { 20 } else { 8 });
            entries.push(entry);
            rest = tail;
        }
        entries
    }

    #[test]
    fn the_pointer_leads_to_the_table() {
        let pointer = pointer(TABLE as u32);
        assert_eq!(pointer.len(), 16);
        assert_eq!((&pointer[..4], checksum(&pointer)), (&b"_MP_"[..], 0));
        assert_eq!(pointer[4..8], (TABLE as u32).to_le_bytes());
        assert_eq!(POINTER % 16, 0, "4.1: on a 16-byte boundary");
    }

    #[test]
    fn entries_of_the_table() {
        for (cpus, shown) in [(1, 1), (4, 4), (255, 255), (1000, 255)] {
            let pci = pci();
            let table = table(cpus, Some(&pci));
            assert_eq!((&table[..4], checksum(&table)), (&b"PCMP"[..], 0));
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            let entries = entries(&table);
            assert_eq!(usize::from(u16::from_le_bytes([table[34], table[35]])), entries.len());
            assert!(entries.is_sorted_by_key(|entry| entry[0]), "4.3: in ascending order of type");
            let processors: Vec<_> = entries.iter().filter(|entry| entry[0] == 0).collect();
            assert_eq!(processors.len(), shown);
            assert_eq!(processors.iter().filter(|entry| entry[3] & BOOTSTRAP != 0).count(), 1);
            assert!(entries.contains(&&[3, 0, 0, 0, ISA, 4, IO_APIC_ID, 4][..]), "COM1");
            assert!(
                entries.contains(&&[3, 0, 0, 0, PCI, 3 << 2 | 1, IO_APIC_ID, 21][..]),
                "INTB# of device 3"
            );
            // The dummy interrupt handler and the reset vector follow.
            assert!(TABLE + table.len() as u64 <= BIOS_SEGMENT + 0xff00);
        }
    }
}
