//! SMBIOS tables (DMTF DSP0134, version 3.0): what management software wants to know of the machine.

use crate::{MemoryMap, Usage};

/// The structures, and the entry point that leads to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Smbios {
    /// The 64-bit entry point (5.2.2), whose table address is yet to be set.
    pub anchor: Vec<u8>,
    /// The structures.
    pub tables: Vec<u8>,
}

const ANCHOR_SIZE: usize = 24;
/// Where the anchor has the address of the structures.
const ANCHOR_ADDRESS: usize = 16;
const ANCHOR_CHECKSUM: usize = 5;
const VENDOR: &str = "Ringworld";
const MIB: u64 = 1 << 20;

/// Structure types (chapter 7).
const BIOS: u8 = 0;
const SYSTEM: u8 = 1;
const ENCLOSURE: u8 = 3;
const PROCESSOR: u8 = 4;
const MEMORY_ARRAY: u8 = 16;
const MEMORY_DEVICE: u8 = 17;
const MAPPED_ADDRESS: u8 = 19;
const BOOT: u8 = 32;
const END: u8 = 127;

struct Structures {
    bytes: Vec<u8>,
    longest: usize,
}

impl Structures {
    /// Appends a structure: what follows the header, and its strings.
    fn add(&mut self, kind: u8, handle: u16, body: &[u8], strings: &[&str]) {
        let start = self.bytes.len();
        self.bytes.extend([kind, 4 + body.len() as u8]);
        self.bytes.extend(handle.to_le_bytes());
        self.bytes.extend_from_slice(body);
        for text in strings {
            self.bytes.extend_from_slice(text.as_bytes());
            self.bytes.push(0);
        }
        // The set of strings ends with an empty one, of which there are two zeroes if there are none.
        self.bytes.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
        self.longest = self.longest.max(self.bytes.len() - start);
    }
}

impl Smbios {
    /// The tables of a machine.
    pub fn new(memory: &MemoryMap, cpus: u32) -> Self {
        let mut all = Structures { bytes: Vec::new(), longest: 0 };
        // 7.1: vendor, version, segment, date, size, characteristics (unsupported), virtual machine, release.
        let mut bios = vec![1, 2, 0x00, 0xe8, 3, 0];
        bios.extend((1u64 << 3).to_le_bytes());
        bios.extend([0x00, 0x1c, 0, 0, 0xff, 0xff]);
        all.add(BIOS, 0, &bios, &[VENDOR, env!("CARGO_PKG_VERSION"), "01/01/2026"]);
        // 7.2: manufacturer, product, version, serial, UUID, wake-up by power switch, SKU, family.
        let mut system = vec![1, 2, 3, 0];
        system.extend(*b"RINGWORLD-MACHIN");
        system.extend([6, 0, 0]);
        all.add(SYSTEM, 0x100, &system, &[VENDOR, "Ringworld PC", "q35"]);
        // 7.4: other type; states safe; no power cords, no contained elements.
        let chassis = [1, 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        all.add(ENCLOSURE, 0x300, &chassis, &[VENDOR]);
        // 7.5: one socket for each CPU.
        for cpu in 0..cpus.min(0x100) as u16 {
            let mut body = vec![1, 3, 1, 2];
            body.extend([0; 8]);
            body.extend([3, 0, 0, 0, 0xe8, 0x03, 0xe8, 0x03, 0x41, 1]);
            // No caches are described.
            body.extend([0xff; 6]);
            body.extend([0, 0, 0, 1, 1, 1]);
            body.extend([0x04, 0x00, 0x01, 0x00]);
            body.extend([1, 0, 1, 0, 1, 0]);
            all.add(PROCESSOR, 0x400 + cpu, &body, &["CPU", VENDOR]);
        }
        // 7.17: system memory on the board, multi-bit ECC unknown; capacity in KiB, or in bytes in the extended field.
        let ram = memory.ram();
        let kib = if ram < 2 << 40 { (ram >> 10) as u32 } else { 0x8000_0000 };
        let mut array = vec![1, 3, 3];
        array.extend(kib.to_le_bytes());
        array.extend([0xfe, 0xff, 1, 0]);
        array.extend(if kib == 0x8000_0000 { ram } else { 0 }.to_le_bytes());
        all.add(MEMORY_ARRAY, 0x1000, &array, &[]);
        // 7.18: one module. Up to 32 GiB - 1 MiB in MiB, else in the extended field.
        let mib = ram / MIB;
        let mut module = vec![0x00, 0x10, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
        module.extend((if mib < 0x7fff { mib as u16 } else { 0x7fff }).to_le_bytes());
        module.extend([9, 0, 1, 0, 7, 2, 0, 0, 0, 2, 0, 0, 0, 0]);
        module.extend((if mib < 0x7fff { 0 } else { mib as u32 }).to_le_bytes());
        module.extend([0; 8]);
        all.add(MEMORY_DEVICE, 0x1100, &module, &["DIMM 0", VENDOR]);
        // 7.20: the ranges of RAM.
        let ranges = [(0, memory.low_ram_end().0)].into_iter().chain(
            memory
                .ranges()
                .iter()
                .filter(|range| range.usage == Usage::Ram && range.start.0 >= 1 << 32)
                .map(|range| (range.start.0, range.end().0)),
        );
        for (handle, (start, end)) in (0x1300..).zip(ranges) {
            let mut body = u32::MAX.to_le_bytes().repeat(2);
            body.extend(0x1000u16.to_le_bytes());
            body.push(1);
            body.extend(start.to_le_bytes());
            body.extend((end - 1).to_le_bytes());
            all.add(MAPPED_ADDRESS, handle, &body, &[]);
        }
        all.add(BOOT, 0x2000, &[0; 7], &[]);
        all.add(END, 0x7f00, &[], &[]);

        let mut anchor = vec![0; ANCHOR_SIZE];
        anchor[..5].copy_from_slice(b"_SM3_");
        anchor[6..11].copy_from_slice(&[ANCHOR_SIZE as u8, 3, 0, 0, 1]);
        anchor[12..16].copy_from_slice(&(all.bytes.len() as u32).to_le_bytes());
        let mut smbios = Self { anchor, tables: all.bytes };
        smbios.checksum();
        smbios
    }

    fn checksum(&mut self) {
        self.anchor[ANCHOR_CHECKSUM] = 0;
        self.anchor[ANCHOR_CHECKSUM] = self.anchor.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    }

    /// Sets the address of the structures.
    pub fn at(mut self, address: u64) -> Self {
        self.anchor[ANCHOR_ADDRESS..].copy_from_slice(&address.to_le_bytes());
        self.checksum();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DSP0134 6.1.2, 6.1.3: lengths and strings lead from each structure to the next.
    #[test]
    fn structures_follow_each_other() {
        for (ram, cpus) in [(64 << 20, 1), (40 << 30, 4), (3 << 40, 200)] {
            let smbios = Smbios::new(&MemoryMap::pc(ram).unwrap(), cpus).at(0xf_1000);
            assert_eq!(smbios.anchor.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            assert_eq!(smbios.anchor[16..18], [0, 0x10]);
            let mut kinds = Vec::new();
            let mut rest = &smbios.tables[..];
            while !rest.is_empty() {
                let (kind, len) = (rest[0], usize::from(rest[1]));
                // Minimum lengths of version 3.0.
                let minimum = match kind {
                    BIOS => 0x18,
                    SYSTEM => 0x1b,
                    ENCLOSURE => 0x15,
                    PROCESSOR => 0x30,
                    MEMORY_ARRAY => 0x17,
                    MEMORY_DEVICE => 0x28,
                    MAPPED_ADDRESS => 0x1f,
                    BOOT => 0x0b,
                    _ => 4,
                };
                assert_eq!(len, minimum, "type {kind}");
                kinds.push(kind);
                let end = rest[len..].windows(2).position(|pair| pair == [0, 0]).unwrap();
                rest = &rest[len + end + 2..];
            }
            assert_eq!(kinds.iter().filter(|kind| **kind == PROCESSOR).count(), cpus as usize);
            assert_eq!(kinds.last(), Some(&END));
        }
    }
}
