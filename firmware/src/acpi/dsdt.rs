//! The DSDT: the devices that an operating system cannot find by itself (ACPI 5.2.11.1, ACPI 6).

use super::{AcpiConfig, Bytes, HPET_ADDRESS, bytes_of, pci, sdt};
use acpi_tables::aml::{Device, EISAName, IO, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope};
use acpi_tables::{Aml, AmlSink};

const HPET_SIZE: u32 = 0x400;
/// The values of SLP_TYP that suspend to memory and switch off, for both PM1 control registers (ACPI 7.4.2.4, 7.4.2.6).
pub(crate) const SLEEP_TYPE_S3: u8 = 1;
const SLEEP_TYPE_S5: u8 = 0;

/// A device at fixed ports and ISA interrupts.
struct IsaDevice {
    name: &'static str,
    id: &'static str,
    uid: u8,
    /// First port and number of ports.
    ports: &'static [(u16, u8)],
    interrupt: Option<u8>,
}

const fn isa(
    name: &'static str,
    id: &'static str,
    uid: u8,
    ports: &'static [(u16, u8)],
    interrupt: Option<u8>,
) -> IsaDevice {
    IsaDevice { name, id, uid, ports, interrupt }
}

/// The legacy devices of every board. With an HPET, the timers' interrupts are its own.
const ISA_DEVICES: &[IsaDevice] = &[
    isa("PIC_", "PNP0000", 0, &[(0x20, 2), (0xa0, 2), (0x4d0, 2)], Some(2)),
    isa("TIMR", "PNP0100", 0, &[(0x40, 4)], Some(0)),
    isa("RTC_", "PNP0B00", 0, &[(0x70, 2)], Some(8)),
    isa("KBD_", "PNP0303", 0, &[(0x60, 1), (0x64, 1)], Some(1)),
    isa("MOU_", "PNP0F13", 0, &[], Some(12)),
];

/// The serial ports, as many as the board has.
const SERIAL_PORTS: &[IsaDevice] = &[
    isa("COM1", "PNP0501", 1, &[(0x3f8, 8)], Some(4)),
    isa("COM2", "PNP0501", 2, &[(0x2f8, 8)], Some(3)),
    isa("COM3", "PNP0501", 3, &[(0x3e8, 8)], Some(4)),
    isa("COM4", "PNP0501", 4, &[(0x2e8, 8)], Some(3)),
];

/// The IRQ descriptor without flags: edge, active high, exclusive (ACPI 6.4.2.1).
struct Irq(u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

impl Aml for IsaDevice {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports: Vec<IO> = self.ports.iter().map(|&(port, count)| IO::new(port, port, 1, count)).collect();
        let interrupt = self.interrupt.map(Irq);
        let mut resources: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
        resources.extend(interrupt.as_ref().map(|interrupt| interrupt as &dyn Aml));
        device(self.name, &EISAName::new(self.id), &self.uid, Some(resources)).to_aml_bytes(sink);
    }
}

/// A device of the processor container.
struct Processor(u32);

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        device(&format!("C{:03X}", self.0), &"ACPI0007", &self.0, None).to_aml_bytes(sink);
    }
}

struct Hpet;

impl Aml for Hpet {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let registers = Memory32Fixed::new(true, HPET_ADDRESS as u32, HPET_SIZE);
        device("HPET", &EISAName::new("PNP0103"), &0u8, Some(vec![&registers])).to_aml_bytes(sink);
    }
}

/// A device with `_HID`, `_UID` and, where it has resources, `_CRS`.
fn device(name: &str, id: &dyn Aml, uid: &dyn Aml, resources: Option<Vec<&dyn Aml>>) -> impl Aml {
    let mut bytes = Vec::new();
    let hid = Name::new("_HID".into(), id);
    let uid = Name::new("_UID".into(), uid);
    let crs = resources.map(|resources| Name::new("_CRS".into(), &ResourceTemplate::new(resources)));
    let mut children: Vec<&dyn Aml> = vec![&hid, &uid];
    children.extend(crs.as_ref().map(|crs| crs as &dyn Aml));
    Device::new(Path::new(name), children).to_aml_bytes(&mut bytes);
    Bytes(bytes)
}

pub(super) fn table(config: &AcpiConfig) -> Vec<u8> {
    let processors: Vec<Processor> = (0..config.cpus.min(0x1000)).map(Processor).collect();
    let mut devices: Vec<&dyn Aml> = ISA_DEVICES.iter().map(|device| device as &dyn Aml).collect();
    devices.extend(SERIAL_PORTS.iter().take(config.serial_ports).map(|port| port as &dyn Aml));
    devices.extend(config.hpet.then_some(&Hpet as &dyn Aml));
    let bridge = config.pci.as_ref().map(pci::host_bridge);
    devices.extend(bridge.iter().map(|bridge| bridge as &dyn Aml));
    devices.extend(processors.iter().map(|processor| processor as &dyn Aml));
    let bus = Scope::new("\\_SB_".into(), devices);
    let suspend = Package::new(vec![&SLEEP_TYPE_S3, &SLEEP_TYPE_S3, &0u8, &0u8]);
    let s3 = Name::new("\\_S3_".into(), &suspend);
    let off = Package::new(vec![&SLEEP_TYPE_S5, &SLEEP_TYPE_S5, &0u8, &0u8]);
    let s5 = Name::new("\\_S5_".into(), &off);

    let mut table = sdt(*b"DSDT", 2);
    table.append_slice(&bytes_of(&bus));
    table.append_slice(&bytes_of(&s3));
    table.append_slice(&bytes_of(&s5));
    table.as_slice().to_vec()
}
