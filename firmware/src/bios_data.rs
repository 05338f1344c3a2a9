//! What software expects of a BIOS in low memory even when it never calls it.

use crate::Smbios;
use crate::image::Placer;
use crate::memory_map::{BIOS_SEGMENT, EBDA};

/// The BIOS data area.
const BIOS_DATA: u64 = 0x400;
/// Where IBM's BIOS has its interrupt handler that only returns.
const DUMMY_HANDLER: u16 = 0xff53;
const IRET: u8 = 0xcf;
/// SMBIOS in the BIOS segment: 24 bytes, and tables of up to 56 KiB.
const SMBIOS_ANCHOR: u64 = BIOS_SEGMENT;
const SMBIOS_TABLES: u64 = BIOS_SEGMENT + 0x100;
/// The ports of COM1 to COM4.
const SERIAL_PORTS: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];

/// Places the interrupt vectors of real mode, which all lead to an IRET, and the fields of the BIOS data area that
/// operating systems read: the serial ports (0x400), the EBDA's segment (0x40E) and the conventional memory's size in
/// KiB (0x413). A guest that is loaded over the vectors or the data area is stronger.
pub(crate) fn place(placer: &mut Placer, serial_ports: usize, cpus: u32) {
    let vector = u32::from(DUMMY_HANDLER) | ((BIOS_SEGMENT >> 4) as u32) << 16;
    placer.firmware_where_free("interrupt vectors", 0, vector.to_le_bytes().repeat(256).into());
    placer.firmware("interrupt handler", BIOS_SEGMENT + u64::from(DUMMY_HANDLER), vec![IRET].into(), 0);

    let mut data = [0u8; 0x15];
    for (slot, port) in data.chunks_exact_mut(2).zip(SERIAL_PORTS.iter().take(serial_ports)) {
        slot.copy_from_slice(&port.to_le_bytes());
    }
    data[0x0e..0x10].copy_from_slice(&((EBDA >> 4) as u16).to_le_bytes());
    data[0x13..0x15].copy_from_slice(&((EBDA >> 10) as u16).to_le_bytes());
    placer.firmware_where_free("BIOS data area", BIOS_DATA, data.to_vec().into());
    // The EBDA begins with its own size in KiB.
    placer.firmware("extended BIOS data area", EBDA, vec![1].into(), 0);

    // Operating systems search the BIOS segment for the anchor.
    let smbios = Smbios::new(placer.map(), cpus).at(SMBIOS_TABLES);
    placer.firmware("SMBIOS anchor", SMBIOS_ANCHOR, smbios.anchor.into(), 0);
    placer.firmware("SMBIOS tables", SMBIOS_TABLES, smbios.tables.into(), 0);
}
