//! An AHCI controller (AHCI 1.3.1) with disks and CD-ROM drives.
//!
//! Registers and the way of a command are here, disks' commands in `ata`, CD-ROM drives' in `atapi`.

mod ata;
mod atapi;
mod port;

use crate::StateError;
use crate::device::{le_value, put_le};
use crate::pci::{Bar, ConfigSpace, PciContext, PciDevice};
use crate::storage::{Disk, LATENCY};
use port::{Drive, PortState};
use ringworld_core::StateHasher;
use serde::{Deserialize, Serialize};

/// Ports of the controller.
pub const PORTS: usize = 6;
const ABAR: usize = 5;
const PORT_BASE: u64 = 0x100;
const PORT_SIZE: u64 = 0x80;

/// Generic host control (3.1).
const CAP: u64 = 0x00;
const GHC: u64 = 0x04;
const IS: u64 = 0x08;
const PI: u64 = 0x0c;
const VS: u64 = 0x10;
/// 64-bit addresses, native command queuing, AHCI only, 1.5 Gbit/s, 32 slots.
const CAPABILITIES: u32 = 1 << 31 | 1 << 30 | 1 << 18 | 1 << 20 | 31 << 8 | (PORTS as u32 - 1);
const VERSION: u32 = 0x0001_0301;
const GHC_RESET: u32 = 1;
const GHC_INTERRUPTS: u32 = 2;
const GHC_AHCI: u32 = 1 << 31;

/// What a port has attached.
pub enum Attachment {
    /// A disk.
    Disk(Box<dyn Disk>, String),
    /// A CD-ROM drive with this disc in it.
    Cdrom(Box<dyn Disk>),
}

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct State {
    interrupts: bool,
    status: u32,
    ports: Vec<PortState>,
}

/// The controller.
struct Ahci {
    drives: Vec<Option<Drive>>,
    state: State,
}

/// A controller with what is attached to its ports, as a PCI function.
pub fn ahci(attachments: Vec<Attachment>) -> (ConfigSpace, Box<dyn PciDevice>) {
    let config = ConfigSpace::new(0x8086, 0x2922, 0x01_06_01, 2)
        .subsystem(0x1af4, 0x1100)
        .interrupt_pin()
        .bar(ABAR, Bar::Memory32(0x1000))
        .power_management()
        .msi()
        .seal();
    let mut drives: Vec<Option<Drive>> =
        attachments.into_iter().take(PORTS).map(|attachment| Some(Drive::new(attachment))).collect();
    drives.resize_with(PORTS, || None);
    let ports = drives.iter().map(PortState::new).collect();
    (config, Box::new(Ahci { drives, state: State { interrupts: false, status: 0, ports } }))
}

impl Ahci {
    fn reset_controller(&mut self) {
        let ports = self.drives.iter_mut().map(|drive| {
            drive.iter_mut().for_each(Drive::reset);
            PortState::new(drive)
        });
        self.state = State { interrupts: false, status: 0, ports: ports.collect() };
    }

    fn register(&self, at: u64) -> u32 {
        match at {
            CAP => CAPABILITIES,
            GHC => GHC_AHCI | if self.state.interrupts { GHC_INTERRUPTS } else { 0 },
            IS => self.state.status,
            PI => (1 << PORTS) - 1,
            VS => VERSION,
            PORT_BASE.. => {
                let port = ((at - PORT_BASE) / PORT_SIZE) as usize;
                self.state.ports.get(port).map_or(0, |port| port.register((at - PORT_BASE) % PORT_SIZE))
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, at: u64, value: u32, ctx: &mut PciContext<'_, '_>) {
        match at {
            GHC if value & GHC_RESET != 0 => self.reset_controller(),
            GHC => self.state.interrupts = value & GHC_INTERRUPTS != 0,
            IS => self.state.status &= !value,
            PORT_BASE.. => {
                let number = ((at - PORT_BASE) / PORT_SIZE) as usize;
                let drive = self.drives.get_mut(number).and_then(Option::as_mut);
                if let Some(port) = self.state.ports.get_mut(number) {
                    let dma = ctx.dma();
                    if port.write((at - PORT_BASE) % PORT_SIZE, value, drive, &dma) {
                        ctx.schedule(0, ctx.now() + LATENCY);
                    }
                }
            }
            _ => {}
        }
        self.drive_interrupt(ctx);
    }

    /// Brings the ports' interrupts to the controller's, and that to the machine (10.7.2).
    fn drive_interrupt(&mut self, ctx: &mut PciContext<'_, '_>) {
        let before = self.state.status;
        for (number, port) in self.state.ports.iter().enumerate() {
            if port.interrupts() {
                self.state.status |= 1 << number;
            }
        }
        let asserted = self.state.interrupts && self.state.status != 0;
        if asserted && self.state.status & !before != 0 {
            ctx.signal(0);
        }
        ctx.set_intx(asserted);
    }
}

impl PciDevice for Ahci {
    fn read(&mut self, _bar: usize, offset: u64, data: &mut [u8], _ctx: &mut PciContext<'_, '_>) {
        let low = u64::from(self.register(offset & !3));
        let high = if data.len() > 4 { u64::from(self.register((offset & !3) + 4)) << 32 } else { 0 };
        put_le((low | high) >> (8 * (offset & 3)), data);
    }

    fn write(&mut self, _bar: usize, offset: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        // Registers are written as words only.
        for (at, word) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            if at.is_multiple_of(4) {
                self.write_register(at, le_value(word) as u32, ctx);
            }
        }
    }

    fn timer(&mut self, _timer: u8, ctx: &mut PciContext<'_, '_>) {
        let dma = ctx.dma();
        for (port, drive) in self.state.ports.iter_mut().zip(&mut self.drives) {
            if let Some(drive) = drive {
                port.serve(drive, &dma);
            }
        }
        self.drive_interrupt(ctx);
    }

    fn reset(&mut self, _ctx: &mut PciContext<'_, '_>) {
        self.reset_controller();
    }

    fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.state);
        for drive in self.drives.iter().flatten() {
            drive.hash_state(hasher);
        }
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        let drives = self.drives.iter().flatten().map(Drive::save).collect::<Result<Vec<_>, _>>()?;
        Ok(postcard::to_stdvec(&(&self.state, drives))?)
    }

    fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        let (state, drives): (State, Vec<Vec<u8>>) = postcard::from_bytes(image)?;
        if state.ports.len() != PORTS || drives.len() != self.drives.iter().flatten().count() {
            return Err(StateError::OtherBoard("an AHCI controller with other drives".into()));
        }
        self.state = state;
        self.drives.iter_mut().flatten().zip(&drives).try_for_each(|(drive, state)| drive.restore(state))
    }
}
