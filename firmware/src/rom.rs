//! Firmware that starts at the reset vector: where its image goes, and what it finds in the configuration device.

use crate::acpi::{self, AcpiConfig};
use crate::smbios::Smbios;
use crate::{BootFile, LoadError, MemoryMap, Usage};
use ringworld_core::GuestPhys;
use std::sync::Arc;

const FOUR_GIB: u64 = 1 << 32;
/// Images are whole multiples of this; the local APIC's page bounds them.
const GRANULE: u64 = 4096;
const MAX_SIZE: u64 = 16 << 20;

/// A firmware image that ends at 4 GiB.
#[derive(Clone, Debug)]
pub struct Rom {
    /// Where it starts.
    pub base: GuestPhys,
    /// Its contents.
    pub data: Arc<Vec<u8>>,
}

impl Rom {
    /// The image in a file.
    ///
    /// # Errors
    /// A size that no firmware has.
    pub fn new(file: &BootFile) -> Result<Self, LoadError> {
        let size = file.data.len() as u64;
        if size == 0 || !size.is_multiple_of(GRANULE) || size > MAX_SIZE {
            return Err(LoadError::NotBootable {
                name: file.name.clone(),
                found: format!("{size} bytes"),
                advice: "firmware has a multiple of 4 KiB up to 16 MiB, like SeaBIOS's bios-256k.bin or OVMF_CODE_4M.fd",
            });
        }
        Ok(Self { base: GuestPhys(FOUR_GIB - size), data: file.data.clone() })
    }
}

/// Commands of the table loader (QEMU's docs/specs/acpi_hw_hotplug and hw/acpi/bios-linker-loader describe them): 128 bytes
/// each.
const COMMAND: usize = 128;
const NAME: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
const ZONE_HIGH: u8 = 1;
const ZONE_FSEG: u8 = 2;
const TABLES: &str = "etc/acpi/tables";
const RSDP: &str = "etc/acpi/rsdp";

struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, kind: u32, names: &[&str], fields: &[&[u8]]) {
        let start = self.0.len();
        self.0.extend(kind.to_le_bytes());
        for name in names {
            let at = self.0.len();
            self.0.extend_from_slice(name.as_bytes());
            self.0.resize(at + NAME, 0);
        }
        fields.iter().for_each(|field| self.0.extend_from_slice(field));
        self.0.resize(start + COMMAND, 0);
    }

    fn allocate(&mut self, name: &str, align: u32, zone: u8) {
        self.command(ALLOCATE, &[name], &[&align.to_le_bytes(), &[zone]]);
    }

    fn pointer(&mut self, file: &str, offset: u32, size: u8) {
        self.command(ADD_POINTER, &[file, TABLES], &[&offset.to_le_bytes(), &[size]]);
    }

    fn checksum(&mut self, file: &str, at: u32, start: u32, length: u32) {
        self.command(
            ADD_CHECKSUM,
            &[file],
            &[&at.to_le_bytes(), &start.to_le_bytes(), &length.to_le_bytes()],
        );
    }
}

/// What firmware is to believe of S0 to S5 (QEMU's hw/i386/pc.c): SLP_TYP, and bit 7 where the state can be entered.
fn system_states() -> [u8; 6] {
    [0x80, 0, 0, 0x80 | acpi::SLEEP_TYPE_S3, 0, 0x80]
}

/// The files that firmware reads from the configuration device: memory map, ACPI and SMBIOS tables.
pub fn firmware_files(memory: &MemoryMap, config: &AcpiConfig) -> Vec<(String, Vec<u8>)> {
    let mut e820 = Vec::new();
    // Low memory is whole to firmware, which takes its own parts out of it.
    let low = (0, memory.low_ram_end().0);
    let high = memory.ranges().iter().filter(|range| range.start.0 >= FOUR_GIB && range.usage == Usage::Ram);
    for (start, length) in [low].into_iter().chain(high.map(|range| (range.start.0, range.length))) {
        e820.extend(start.to_le_bytes());
        e820.extend(length.to_le_bytes());
        e820.extend((Usage::Ram as u32).to_le_bytes());
    }
    let mut tables = acpi::Tables::new(config, 0);
    let mut script = Script(Vec::new());
    script.allocate(RSDP, 16, ZONE_FSEG);
    script.allocate(TABLES, 64, ZONE_HIGH);
    for &(offset, size) in &tables.pointers {
        script.pointer(TABLES, offset, size);
    }
    for &(start, length) in &tables.changed {
        // Firmware sums all bytes; some (OVMF) with what is there.
        tables.bytes[start as usize + 9] = 0;
        script.checksum(TABLES, start + 9, start, length);
    }
    let mut rsdp = tables.rsdp().to_vec();
    // The checksums are made when the pointers are known.
    (rsdp[8], rsdp[32]) = (0, 0);
    script.pointer(RSDP, 16, 4);
    script.pointer(RSDP, 24, 8);
    script.checksum(RSDP, 8, 0, 20);
    script.checksum(RSDP, 32, 0, 36);
    let smbios = Smbios::new(memory, config.cpus);
    [
        ("etc/e820", e820),
        (TABLES, tables.bytes),
        (RSDP, rsdp),
        ("etc/table-loader", script.0),
        ("etc/system-states", system_states().to_vec()),
        ("etc/smbios/smbios-anchor", smbios.anchor),
        ("etc/smbios/smbios-tables", smbios.tables),
    ]
    .map(|(name, data)| (name.to_string(), data))
    .into()
}
