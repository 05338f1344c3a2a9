//! The ACPI tables of the board, built by the `acpi_tables` crate and placed in the BIOS area.

mod dsdt;
mod fadt;
mod madt;
mod pci;
mod waking;

pub(crate) use dsdt::SLEEP_TYPE_S3;
pub(crate) use fadt::SCI;
pub use pci::PciConfig;
pub use waking::waking_vector;

use crate::LoadError;
use crate::image::Placer;
use crate::memory_map::{BIOS_AREA, BIOS_SEGMENT};
use acpi_tables::sdt::{GenericAddress, Sdt};
use acpi_tables::{Aml, AmlSink, facs::FACS};
use ringworld_core::GuestPhys;

const OEM_ID: [u8; 6] = *b"RINGWD";
const OEM_TABLE_ID: [u8; 8] = *b"RINGWRLD";
const OEM_REVISION: u32 = 1;
/// A table's common header (ACPI 5.2.6).
const HEADER_SIZE: u32 = 36;
const RSDP_SIZE: usize = 36;
/// The HPET's registers (IA-PC HPET 1.0a, 3.2.4).
const HPET_ADDRESS: u64 = 0xfed0_0000;
/// General capabilities, bits 31:0: Intel's vendor ID, legacy replacement, 64-bit counter, three comparators.
const HPET_BLOCK_ID: u32 = 0x8086_a201;

/// What the tables describe, beyond what every board of this machine has.
#[derive(Clone, Debug)]
pub struct AcpiConfig {
    /// The number of CPUs; their local APIC IDs count from 0.
    pub cpus: u32,
    /// The number of serial ports, from COM1 on; at most four.
    pub serial_ports: usize,
    /// Whether there is an HPET.
    pub hpet: bool,
    /// Whether there is a VGA.
    pub vga: bool,
    /// The PCI Express root complex, if there is one.
    pub pci: Option<PciConfig>,
}

/// All tables but the RSDP, one after the other.
pub(crate) struct Tables {
    /// Their bytes, for the address that they were made for.
    pub bytes: Vec<u8>,
    /// Where in them there are addresses of others: offset and size.
    pub pointers: Vec<(u32, u8)>,
    /// Tables with such addresses: offset and length. Their checksums change with the address.
    pub changed: Vec<(u32, u32)>,
    rsdt: u32,
    xsdt: u32,
}

/// Fields of the FADT that hold addresses: FIRMWARE_CTRL, DSDT, X_DSDT (ACPI table 5-9).
const FADT_POINTERS: [(u32, u8); 3] = [(36, 4), (40, 4), (140, 8)];

impl Tables {
    /// The tables for an address, a multiple of 64.
    pub(crate) fn new(config: &AcpiConfig, base: u32) -> Self {
        let mut area = Area { base, bytes: Vec::new() };
        // ACPI 5.2.10: the FACS lies on a 64-byte boundary.
        let facs = area.add(&bytes_of(&FACS::new()), 64);
        let dsdt = area.add(&dsdt::table(config), 16);
        let fadt_bytes = fadt::table(facs, dsdt, config.vga);
        let fadt = area.add(&fadt_bytes, 16);
        let mut tables = vec![fadt, area.add(&madt::table(config.cpus), 16)];
        if config.hpet {
            tables.push(area.add(&hpet(), 16));
        }
        if let Some(config) = &config.pci {
            tables.push(area.add(&pci::mcfg(config), 16));
        }
        let mut rsdt = sdt(*b"RSDT", 1);
        let mut xsdt = sdt(*b"XSDT", 1);
        for table in &tables {
            rsdt.append_slice(&table.to_le_bytes());
            xsdt.append_slice(&u64::from(*table).to_le_bytes());
        }
        let (rsdt_at, xsdt_at) = (area.add(rsdt.as_slice(), 16), area.add(xsdt.as_slice(), 16));
        let at = |address: u32| address - base;
        let mut pointers = FADT_POINTERS.map(|(offset, size)| (at(fadt) + offset, size)).to_vec();
        for n in 0..tables.len() as u32 {
            pointers.push((at(rsdt_at) + HEADER_SIZE + 4 * n, 4));
            pointers.push((at(xsdt_at) + HEADER_SIZE + 8 * n, 8));
        }
        let changed = vec![
            (at(fadt), fadt_bytes.len() as u32),
            (at(rsdt_at), rsdt.as_slice().len() as u32),
            (at(xsdt_at), xsdt.as_slice().len() as u32),
        ];
        Self { bytes: area.bytes, pointers, changed, rsdt: rsdt_at, xsdt: xsdt_at }
    }

    /// The RSDP that leads to them.
    pub(crate) fn rsdp(&self) -> [u8; RSDP_SIZE] {
        rsdp(self.rsdt, self.xsdt)
    }
}

/// Where the tables follow the RSDP in the BIOS area.
const AFTER_RSDP: u64 = 64;

/// Builds the tables and puts them into the BIOS area, the RSDP at its start, where operating systems search for it.
/// Returns the RSDP's address.
pub(crate) fn place(placer: &mut Placer, config: &AcpiConfig) -> Result<GuestPhys, LoadError> {
    let tables = Tables::new(config, (BIOS_AREA + AFTER_RSDP) as u32);
    let mut area = tables.rsdp().to_vec();
    area.resize(AFTER_RSDP as usize, 0);
    area.extend(tables.bytes);
    let (size, room) = (area.len(), (BIOS_SEGMENT - BIOS_AREA) as usize);
    if size > room {
        return Err(LoadError::AcpiTooLarge { cpus: config.cpus, size, room });
    }
    placer.firmware("ACPI tables", BIOS_AREA, area.into(), 0);
    Ok(GuestPhys(BIOS_AREA))
}

/// Tables one after the other.
struct Area {
    base: u32,
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table at a multiple of `align` and returns its address.
    fn add(&mut self, table: &[u8], align: usize) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
        let address = self.base + self.bytes.len() as u32;
        self.bytes.extend_from_slice(table);
        address
    }
}

/// AML that is already made.
struct Bytes(Vec<u8>);

impl Aml for Bytes {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A table with only a header.
fn sdt(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, HEADER_SIZE, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION)
}

/// The root pointer of ACPI 2.0 and later, with both roots (ACPI 5.2.5.3).
fn rsdp(rsdt: u32, xsdt: u32) -> [u8; RSDP_SIZE] {
    let mut rsdp = [0; RSDP_SIZE];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(&OEM_ID);
    rsdp[15] = 2;
    rsdp[16..20].copy_from_slice(&rsdt.to_le_bytes());
    rsdp[20..24].copy_from_slice(&(RSDP_SIZE as u32).to_le_bytes());
    rsdp[24..32].copy_from_slice(&u64::from(xsdt).to_le_bytes());
    // The first checksum covers the ACPI 1.0 part, the second all.
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

/// The byte that makes the sum zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// The HPET description table (IA-PC HPET 1.0a, 3.2.4).
fn hpet() -> Vec<u8> {
    let mut table = sdt(*b"HPET", 1);
    table.append_slice(&HPET_BLOCK_ID.to_le_bytes());
    let address = GenericAddress::mmio_address::<u64>(HPET_ADDRESS);
    table.append_slice(&[address.address_space_id, address.register_bit_width, 0, 0]);
    table.append_slice(&HPET_ADDRESS.to_le_bytes());
    // HPET number, the minimum period in clock ticks, no page protection.
    table.append_slice(&[0, 0x80, 0, 0]);
    table.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;
    use crate::MemoryMap;
    use std::io::Write;

    fn pci() -> PciConfig {
        PciConfig {
            ecam: 0xb000_0000,
            memory32: 0xc000_0000..0xfec0_0000,
            memory64: 0x40_0000_0000..0x50_0000_0000,
            interrupt: |device, pin| 16 + (device + pin) % 8,
        }
    }

    fn tables(cpus: u32, hpet: bool) -> Result<Vec<u8>, LoadError> {
        let map = MemoryMap::pc(64 << 20).unwrap();
        let mut placer = Placer::new(&map);
        let rsdp =
            place(&mut placer, &AcpiConfig { cpus, serial_ports: 2, hpet, vga: hpet, pci: hpet.then(pci) })?;
        assert_eq!(rsdp.0, BIOS_AREA);
        let image = placer.finish(Entry::real(0, 0, crate::Registers::default()));
        Ok(image.pieces()[0].bytes().to_vec())
    }

    /// Follows the pointers as an operating system does, checking signatures, lengths and sums.
    fn walk(area: &[u8]) -> Vec<(String, Vec<u8>)> {
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(&area[..8], b"RSD PTR ");
        assert_eq!((sum(&area[..20]), sum(&area[..36]), area[15]), (0, 0, 2));
        let mut found = Vec::new();
        let mut table = |address: u32| {
            let at = (address - BIOS_AREA as u32) as usize;
            let bytes = area[at..at + word(area, at + 4) as usize].to_vec();
            let name = String::from_utf8(bytes[..4].to_vec()).unwrap();
            if name == "FACS" {
                assert_eq!(address % 64, 0);
            } else {
                assert_eq!(sum(&bytes), 0, "{name}");
            }
            found.push((name, bytes.clone()));
            bytes
        };
        let rsdt = table(word(area, 16));
        let xsdt = table(word(area, 24));
        let pointers: Vec<u32> = rsdt[36..].chunks(4).map(|pointer| word(pointer, 0)).collect();
        let wide: Vec<u32> = xsdt[36..].chunks(8).map(|pointer| word(pointer, 0)).collect();
        assert_eq!(pointers, wide);
        for pointer in pointers {
            let bytes = table(pointer);
            if &bytes[..4] == b"FACP" {
                table(word(&bytes, 36));
                assert_eq!(word(&bytes, 40), word(&bytes, 140), "DSDT and X_DSDT");
                table(word(&bytes, 40));
            }
        }
        found
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        for (cpus, hpet) in [(1, false), (4, true), (255, false), (300, true)] {
            let found = walk(&tables(cpus, hpet).unwrap());
            let names: Vec<&str> = found.iter().map(|(name, _)| &name[..]).collect();
            let mut expected = vec!["RSDT", "XSDT", "FACP", "FACS", "DSDT", "APIC"];
            expected.extend(hpet.then_some(["HPET", "MCFG"]).into_iter().flatten());
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn too_many_cpus_are_refused() {
        assert!(matches!(tables(5000, false), Err(LoadError::AcpiTooLarge { .. })));
    }

    #[test]
    fn tables_disassemble_when_iasl_is_there() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in walk(&tables(300, true).unwrap()) {
            let file = folder.path().join(format!("{name}.aml"));
            std::fs::write(&file, &bytes).unwrap();
            let Ok(output) = std::process::Command::new("iasl").arg("-d").arg(&file).output() else {
                // Past the test runner, which keeps what passing tests print.
                writeln!(std::io::stderr(), "skipped the disassembly of the ACPI tables: no iasl").unwrap();
                return;
            };
            let text = String::from_utf8_lossy(&output.stdout).to_string()
                + &String::from_utf8_lossy(&output.stderr);
            println!("{text}{}", std::fs::read_to_string(file.with_extension("dsl")).unwrap_or_default());
            assert!(output.status.success() && !text.contains("rror"), "{name}: {text}");
        }
    }
}
