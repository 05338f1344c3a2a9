//! The PCI devices that a configuration asks for.

use crate::config::{Drive, Interface};
use crate::{MachineConfig, MachineError};
use ringworld_devices::PciSlot;
use ringworld_devices::pci::{
    ConfigSpace, ECAM_BASE, MEMORY32_WINDOW, MEMORY64_SIZE, PciDevice, Port, interrupt_line,
};
use ringworld_devices::storage::open_disk;
use ringworld_devices::virtio::{VirtioBlk, VirtioDevice, virtio_pci};
use ringworld_firmware::{MemoryMap, PciConfig};

/// The first device number on bus 0 for what the user adds; the first one is left to graphics.
const FIRST_DEVICE: u8 = 2;
/// The window for 64-bit base address registers begins here, or above all RAM.
const MEMORY64_BASE: u64 = 0x40_0000_0000;

/// The root complex as ACPI describes it.
pub(crate) fn pci_config(memory: &MemoryMap) -> PciConfig {
    let ram = memory.ranges().iter().map(|range| range.end().0).max().unwrap_or(0);
    let base = MEMORY64_BASE.max(ram.next_multiple_of(MEMORY64_SIZE));
    PciConfig {
        ecam: ECAM_BASE,
        memory32: MEMORY32_WINDOW,
        memory64: base..base + MEMORY64_SIZE,
        interrupt: interrupt_line,
    }
}

/// Builds the devices.
pub(crate) fn build(config: &MachineConfig) -> Result<Vec<PciSlot>, MachineError> {
    let mut slots = Slots { list: Vec::new(), next: FIRST_DEVICE };
    for (number, drive) in config.drives.iter().enumerate() {
        slots.drive(number, drive)?;
    }
    Ok(slots.list)
}

struct Slots {
    list: Vec<PciSlot>,
    next: u8,
}

impl Slots {
    fn push(&mut self, name: String, behind_port: bool, parts: (ConfigSpace, Box<dyn PciDevice>)) {
        let (config, implementation) = parts;
        let device = Some(self.next);
        self.next += 1;
        self.list.push(PciSlot { name, behind_port, device, function: 0, config, implementation });
    }

    fn virtio(&mut self, name: String, device: impl VirtioDevice + 'static) {
        self.push(name, false, virtio_pci(Box::new(device), Port::IntegratedEndpoint));
    }

    fn drive(&mut self, number: usize, drive: &Drive) -> Result<(), MachineError> {
        let disk = open_disk(&drive.disk)?;
        match drive.interface {
            Interface::Virtio => {
                self.virtio(
                    format!("virtio-blk{number}"),
                    VirtioBlk::new(disk, format!("ringworld-{number}")),
                );
            }
        }
        Ok(())
    }
}
