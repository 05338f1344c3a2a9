//! The MADT: interrupt controllers and CPUs (ACPI 5.2.12).

use super::fadt::SCI;
use super::sdt;

const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
const IO_APIC_ADDRESS: u32 = 0xfec0_0000;
/// There are two 8259s as well.
const PCAT_COMPAT: u32 = 1;
const ENABLED: u32 = 1;
/// The PIT's interrupt comes to this pin of the I/O APIC, as pin 0 belongs to the 8259.
const TIMER_PIN: u32 = 2;
/// MPS INTI flags (ACPI table 5-26): as the bus says, which for ISA is edge, active high; level, active high.
const CONFORMS: u16 = 0;
const LEVEL_HIGH: u16 = 0b1101;
/// Local APIC IDs from here on do not fit an xAPIC entry: 255 is the broadcast.
const FIRST_X2APIC: u32 = 255;
/// All processors.
const ALL_XAPIC: u8 = 0xff;
const ALL_X2APIC: u32 = u32::MAX;
/// NMI comes to this pin of each local APIC.
const NMI_LINT: u8 = 1;

/// A machine of `cpus` CPUs whose local APIC IDs and processor UIDs count from 0.
pub(super) fn table(cpus: u32) -> Vec<u8> {
    let mut body = Vec::new();
    let mut word = |value: u32| body.extend(value.to_le_bytes());
    word(LOCAL_APIC_ADDRESS);
    word(PCAT_COMPAT);
    let mut entry = |kind: u8, fields: &[&[u8]]| {
        let length: usize = 2 + fields.iter().map(|field| field.len()).sum::<usize>();
        body.extend([kind, length as u8]);
        fields.iter().for_each(|field| body.extend_from_slice(field));
    };
    for cpu in 0..cpus {
        // 5.2.12.2 Processor Local APIC, 5.2.12.12 Processor Local x2APIC.
        if cpu < FIRST_X2APIC {
            entry(0, &[&[cpu as u8, cpu as u8], &ENABLED.to_le_bytes()]);
        } else {
            entry(9, &[&[0, 0], &cpu.to_le_bytes(), &ENABLED.to_le_bytes(), &cpu.to_le_bytes()]);
        }
    }
    // 5.2.12.3 I/O APIC: ID, reserved, address, first global interrupt.
    entry(1, &[&[0, 0], &IO_APIC_ADDRESS.to_le_bytes(), &0u32.to_le_bytes()]);
    // 5.2.12.5 Interrupt Source Override: bus ISA, source, global interrupt, flags.
    for (source, gsi, flags) in [(0, TIMER_PIN, CONFORMS), (SCI, SCI.into(), LEVEL_HIGH)] {
        entry(2, &[&[0, source], &gsi.to_le_bytes(), &flags.to_le_bytes()]);
    }
    // 5.2.12.7 Local APIC NMI, 5.2.12.13 Local x2APIC NMI.
    entry(4, &[&[ALL_XAPIC], &CONFORMS.to_le_bytes(), &[NMI_LINT]]);
    if cpus > FIRST_X2APIC {
        entry(10, &[&CONFORMS.to_le_bytes(), &ALL_X2APIC.to_le_bytes(), &[NMI_LINT, 0, 0, 0]]);
    }
    let mut table = sdt(*b"APIC", 4);
    table.append_slice(&body);
    table.as_slice().to_vec()
}
