//! PCI Express to the operating system: MCFG (PCI firmware specification 3.2, 4.1.2) and the host bridge in the DSDT with its
//! windows, interrupt routing and _OSC.

use super::{Bytes, OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO, If,
    Local, Memory32Fixed, Method, Name, NotEqual, Or, Package, Path, ResourceTemplate, Return, Store, Uuid,
};
use acpi_tables::{Aml, mcfg::MCFG};
use core::ops::Range;

/// The PCI Express root complex.
#[derive(Clone, Debug)]
pub struct PciConfig {
    /// First address of the configuration space area; 256 buses of 1 MiB.
    pub ecam: u64,
    /// Addresses for base address registers below 4 GiB.
    pub memory32: Range<u64>,
    /// Addresses for 64-bit base address registers.
    pub memory64: Range<u64>,
    /// The I/O APIC's input of a device's pin (1 for INTA#) on bus 0.
    pub interrupt: fn(device: u8, pin: u8) -> u8,
}

const BUSES: u8 = 255;
const ECAM_SIZE: u32 = 256 << 20;
/// "PCI host bridge" of _OSC (PCI firmware specification 4.5.1).
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// Control of the PCIe capability structure is granted; hot-plug, PME and error reporting are not there.
const OSC_GRANTED: u32 = 1 << 4;
const OSC_UNRECOGNIZED_UUID: u32 = 1 << 2;
const OSC_UNRECOGNIZED_REVISION: u32 = 1 << 3;
const OSC_MASKED: u32 = 1 << 4;

pub(super) fn mcfg(config: &PciConfig) -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(config.ecam, 0, 0, BUSES);
    bytes_of(&mcfg)
}

/// _PRT: each device's four pins (ACPI 6.2.13).
fn routing(config: &PciConfig) -> Bytes {
    let mut entries = Vec::new();
    for device in 0..32u8 {
        for pin in 0..4u8 {
            let address = u32::from(device) << 16 | 0xffff;
            let line = (config.interrupt)(device, pin + 1);
            entries.push(Bytes(bytes_of(&Package::new(vec![&address, &pin, &0u8, &line]))));
        }
    }
    Bytes(bytes_of(&Package::new(entries.iter().map(|entry| entry as &dyn Aml).collect())))
}

fn osc() -> Bytes {
    let field = Path::new;
    let create = |name: &str, at: u8| Bytes(bytes_of(&CreateDWordField::new(&field(name), &Arg(3), &at)));
    let set = |flag: u32| Bytes(bytes_of(&Or::new(&field("CDW1"), &field("CDW1"), &flag)));
    let known = [
        create("CDW2", 4),
        create("CDW3", 8),
        Bytes(bytes_of(&And::new(&Local(0), &field("CDW3"), &OSC_GRANTED))),
        Bytes(bytes_of(&If::new(&NotEqual::new(&Arg(1), &1u8), vec![&set(OSC_UNRECOGNIZED_REVISION)]))),
        Bytes(bytes_of(&If::new(&NotEqual::new(&Local(0), &field("CDW3")), vec![&set(OSC_MASKED)]))),
        Bytes(bytes_of(&Store::new(&field("CDW3"), &Local(0)))),
    ];
    let uuid = Uuid::new(OSC_UUID);
    let matches = Equal::new(&Arg(0), &uuid);
    let first = create("CDW1", 0);
    let when = If::new(&matches, known.iter().map(|term| term as &dyn Aml).collect());
    let unknown = set(OSC_UNRECOGNIZED_UUID);
    let otherwise = Else::new(vec![&unknown]);
    let give = Return::new(&Arg(3));
    Bytes(bytes_of(&Method::new("_OSC".into(), 4, true, vec![&first, &when, &otherwise, &give])))
}

/// The host bridge, and the device that reserves its configuration space area.
pub(super) fn host_bridge(config: &PciConfig) -> Bytes {
    let buses = AddressSpace::<u16>::new_bus_number(0, BUSES.into());
    let ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::<u16>::new_io(0, 0xcf7, None);
    let high_ports = AddressSpace::<u16>::new_io(0xd00, 0xffff, None);
    let vga =
        AddressSpace::<u32>::new_memory(AddressSpaceCacheable::NotCacheable, true, 0xa_0000, 0xb_ffff, None);
    let memory32 = AddressSpace::<u32>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        config.memory32.start as u32,
        (config.memory32.end - 1) as u32,
        None,
    );
    let memory64 = AddressSpace::<u64>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        config.memory64.start,
        config.memory64.end - 1,
        None,
    );
    let resources =
        ResourceTemplate::new(vec![&buses, &ports, &low_ports, &high_ports, &vga, &memory32, &memory64]);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let zero = |name: &str| Bytes(bytes_of(&Name::new(name.into(), &0u8)));
    let crs = Name::new("_CRS".into(), &resources);
    let prt = Name::new("_PRT".into(), &routing(config));
    let osc = osc();
    let (seg, bbn, uid) = (zero("_SEG"), zero("_BBN"), zero("_UID"));
    let bridge = Device::new("PCI0".into(), vec![&hid, &cid, &seg, &bbn, &uid, &crs, &prt, &osc]);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0C02"));
    let ecam = Memory32Fixed::new(true, config.ecam as u32, ECAM_SIZE);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam]));
    let mut bytes = bytes_of(&bridge);
    bytes.extend(bytes_of(&Device::new("MRES".into(), vec![&hid, &uid, &crs])));
    Bytes(bytes)
}
