//! A port: its registers, command lists and FISes (AHCI 1.3.1, 3.3, chapters 4 and 5).

use super::{Attachment, ata, atapi};
use crate::StateError;
use crate::dma::{Dma, DmaError};
use crate::storage::Disk;
use crate::virtio::Segment;
use ringworld_core::{GuestPhys, StateHasher};
use serde::{Deserialize, Serialize};

/// Port registers.
const CLB: u64 = 0x00;
const CLBU: u64 = 0x04;
const FB: u64 = 0x08;
const FBU: u64 = 0x0c;
const PXIS: u64 = 0x10;
const IE: u64 = 0x14;
const CMD: u64 = 0x18;
const TFD: u64 = 0x20;
const SIG: u64 = 0x24;
const SSTS: u64 = 0x28;
const SCTL: u64 = 0x2c;
const SERR: u64 = 0x30;
const SACT: u64 = 0x34;
const CI: u64 = 0x38;

/// Command and status.
const START: u32 = 1;
const OVERRIDE: u32 = 1 << 3;
const FIS_ENABLE: u32 = 1 << 4;
const FIS_RUNNING: u32 = 1 << 14;
const RUNNING: u32 = 1 << 15;
const IS_ATAPI: u32 = 1 << 24;
/// Start, spin-up, power, FIS receive, ATAPI, aggressive power management.
const CMD_WRITABLE: u32 = START | 2 | 4 | FIS_ENABLE | IS_ATAPI | 0x0e00_0000;

/// Interrupts: D2H register FIS, PIO setup FIS, set device bits, port connect, task file error, host bus error.
const DHRS: u32 = 1;
const PSS: u32 = 1 << 1;
const SDBS: u32 = 1 << 3;
const PCS: u32 = 1 << 6;
const HBFS: u32 = 1 << 29;
const TFES: u32 = 1 << 30;

/// Status and error registers of the task file.
pub(super) const STATUS_READY: u8 = 0x50;
pub(super) const STATUS_ERROR: u8 = 0x41;
pub(super) const ERROR_ABORT: u8 = 0x04;
const STATUS_BUSY: u32 = 0x80;
/// A device is there and the link is up at 1.5 Gbit/s.
const LINK_UP: u32 = 0x113;
const SIGNATURE_DISK: u32 = 0x0000_0101;
const SIGNATURE_ATAPI: u32 = 0xeb14_0101;
const NO_DEVICE: u32 = 0xffff_ffff;
/// The most bytes of a descriptor.
const PRD_BYTES: u32 = 1 << 22;

/// A drive behind a port.
pub(super) struct Drive {
    pub(super) disk: Box<dyn Disk>,
    pub(super) serial: String,
    pub(super) cdrom: bool,
    pub(super) state: DriveState,
}

/// A drive's own state.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct DriveState {
    /// Sectors of a multiple transfer.
    pub(super) multiple: u8,
    /// The write cache is off.
    pub(super) write_through: bool,
    /// Sense key, additional code and qualifier of the last packet command.
    pub(super) sense: (u8, u8, u8),
}

impl Drive {
    pub(super) fn new(attachment: Attachment) -> Self {
        let (disk, serial, cdrom) = match attachment {
            Attachment::Disk(disk, serial) => (disk, serial, false),
            Attachment::Cdrom(disk) => (disk, "ringworld-cd".into(), true),
        };
        Self { disk, serial, cdrom, state: DriveState::default() }
    }

    pub(super) fn reset(&mut self) {
        self.state = DriveState::default();
    }

    fn signature(&self) -> u32 {
        if self.cdrom { SIGNATURE_ATAPI } else { SIGNATURE_DISK }
    }

    pub(super) fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.state);
        self.disk.hash_state(hasher);
    }

    pub(super) fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(postcard::to_stdvec(&(&self.state, self.disk.save()?))?)
    }

    pub(super) fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        let (state, disk): (DriveState, Vec<u8>) = postcard::from_bytes(image)?;
        self.state = state;
        self.disk.restore(&disk)
    }
}

/// A port's registers.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct PortState {
    list: u64,
    fis: u64,
    status: u32,
    enable: u32,
    command: u32,
    task_file: u32,
    signature: u32,
    link: u32,
    control: u32,
    errors: u32,
    active: u32,
    issued: u32,
    /// The device is in a software reset.
    resetting: bool,
    /// The device's first FIS after a reset waits until software wants FISes.
    first_waits: bool,
}

/// How a command ends for the host.
pub(super) enum Done {
    /// With a D2H register FIS.
    Register,
    /// With data that came by PIO: a PIO setup FIS before.
    Pio,
    /// A queued command: set device bits.
    Queued,
}

/// A command as a drive sees it.
pub(super) struct Request<'a> {
    /// The H2D register FIS.
    pub(super) fis: [u8; 20],
    /// The packet.
    pub(super) packet: [u8; 16],
    /// Where data is.
    pub(super) data: Vec<Segment>,
    pub(super) dma: &'a Dma,
    /// Bytes moved.
    pub(super) moved: u32,
    /// What a non-data command leaves in LBA (byte-wise) and count.
    pub(super) lba: u64,
    pub(super) count: u16,
}

impl PortState {
    pub(super) fn new(drive: &Option<Drive>) -> Self {
        let there = drive.is_some();
        Self {
            list: 0,
            fis: 0,
            status: if there { PCS } else { 0 },
            enable: 0,
            command: 0,
            task_file: if there { STATUS_READY.into() } else { 0x7f },
            signature: drive.as_ref().map_or(NO_DEVICE, Drive::signature),
            link: if there { LINK_UP } else { 0 },
            control: 0,
            errors: if there { 1 << 26 } else { 0 },
            active: 0,
            issued: 0,
            resetting: false,
            first_waits: there,
        }
    }

    pub(super) fn interrupts(&self) -> bool {
        self.status & self.enable != 0
    }

    pub(super) fn register(&self, at: u64) -> u32 {
        match at {
            CLB => self.list as u32,
            CLBU => (self.list >> 32) as u32,
            FB => self.fis as u32,
            FBU => (self.fis >> 32) as u32,
            PXIS => self.status,
            IE => self.enable,
            CMD => {
                let running = if self.command & START != 0 { RUNNING } else { 0 };
                let receiving = if self.command & FIS_ENABLE != 0 { FIS_RUNNING } else { 0 };
                self.command | running | receiving
            }
            TFD => self.task_file,
            SIG => self.signature,
            SSTS => self.link,
            SCTL => self.control,
            SERR => self.errors,
            SACT => self.active,
            CI => self.issued,
            _ => 0,
        }
    }

    /// Writes a register; whether there may be commands to serve.
    pub(super) fn write(&mut self, at: u64, value: u32, drive: Option<&mut Drive>, dma: &Dma) -> bool {
        let low = |old: u64, value: u32| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64, value: u32| old & 0xffff_ffff | u64::from(value) << 32;
        match at {
            CLB => self.list = low(self.list, value & !0x3ff),
            CLBU => self.list = high(self.list, value),
            FB => self.fis = low(self.fis, value & !0xff),
            FBU => self.fis = high(self.fis, value),
            PXIS => self.status &= !value,
            IE => self.enable = value & 0xfdc0_00ff,
            CMD => {
                if value & START == 0 {
                    (self.issued, self.active) = (0, 0);
                }
                if value & OVERRIDE != 0 {
                    self.task_file &= !(STATUS_BUSY | 8);
                }
                self.command = value & CMD_WRITABLE;
                if self.first_waits && value & FIS_ENABLE != 0 {
                    self.post_register(dma, 0, 0);
                }
            }
            SCTL => {
                // DET: 1 resets the link, and then 0 lets the device come again.
                let was = self.control & 0xf;
                self.control = value & 0xfff;
                if was == 1 && value & 0xf == 0 {
                    if let Some(drive) = drive {
                        drive.reset();
                        (self.link, self.signature) = (LINK_UP, drive.signature());
                        self.task_file = STATUS_READY.into();
                        self.errors |= 1 << 26;
                        self.status |= PCS;
                        // It waits for software that wants FISes (3.3.7, PxCMD.FRE), but only once: another one could be taken
                        // for a command's end.
                        self.first_waits = self.command & FIS_ENABLE == 0;
                        self.post_register(dma, 0, 0);
                    }
                } else if value & 0xf == 1 || value & 0xf == 4 {
                    self.link = if value & 0xf == 4 { 4 } else { 0 };
                    if drive.is_some() {
                        self.task_file = STATUS_BUSY;
                    }
                }
            }
            SERR => self.errors &= !value,
            SACT if self.command & START != 0 => self.active |= value,
            CI if self.command & START != 0 => {
                self.issued |= value;
                return self.issued != 0;
            }
            _ => {}
        }
        self.issued != 0
    }

    /// Serves all issued commands, until one fails.
    pub(super) fn serve(&mut self, drive: &mut Drive, dma: &Dma) {
        for slot in 0..32 {
            if self.issued >> slot & 1 == 0 || self.command & START == 0 {
                continue;
            }
            // After an error nothing is served until software starts the port again (6.2.2).
            if self.status & (TFES | HBFS) != 0 {
                return;
            }
            if self.serve_slot(slot, drive, dma).is_err() {
                self.status |= HBFS;
                return;
            }
        }
    }

    fn serve_slot(&mut self, slot: u32, drive: &mut Drive, dma: &Dma) -> Result<(), DmaError> {
        let header_at = GuestPhys(self.list.wrapping_add(u64::from(slot) * 32));
        let header: [u8; 16] = dma.read_array(header_at)?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let entries = u64::from(word(0) >> 16);
        let table = u64::from(word(12)) << 32 | u64::from(word(8) & !0x7f);
        let fis: [u8; 20] = dma.read_array(GuestPhys(table))?;
        let packet: [u8; 16] = dma.read_array(GuestPhys(table.wrapping_add(0x40)))?;
        let mut data = Vec::new();
        for entry in 0..entries {
            let prd: [u8; 16] = dma.read_array(GuestPhys(table.wrapping_add(0x80 + entry * 16)))?;
            let value = u128::from_le_bytes(prd);
            let len = ((value >> 96) as u32 & (PRD_BYTES - 1)) + 1;
            data.push(Segment { addr: GuestPhys(value as u64 & !1), len });
        }
        if fis[0] != 0x27 {
            // Not a register FIS: the device would not answer.
            self.finish(slot, dma, STATUS_ERROR, ERROR_ABORT, None)?;
            return Ok(());
        }
        if fis[1] & 0x80 == 0 {
            // The control register: software reset.
            let reset = fis[15] & 4 != 0;
            if self.resetting && !reset {
                drive.reset();
                self.signature = drive.signature();
                self.post_register(dma, STATUS_READY, 1);
            }
            self.resetting = reset;
            self.issued &= !(1 << slot);
            return Ok(());
        }
        let mut request = Request { fis, packet, data, dma, moved: 0, lba: 0, count: 0 };
        let result = match (drive.cdrom, fis[2]) {
            (true, atapi::PACKET) => atapi::packet(drive, &mut request),
            _ => ata::command(drive, &mut request),
        };
        dma.write(header_at.offset(4), &request.moved.to_le_bytes())?;
        match result {
            Ok(Done::Queued) => self.finish_queued(slot, dma),
            Ok(done) => self.finish(slot, dma, STATUS_READY, 0, Some((done, &request))),
            Err((status, error)) => self.finish(slot, dma, status, error, None),
        }
    }

    fn finish(
        &mut self,
        slot: u32,
        dma: &Dma,
        status: u8,
        error: u8,
        request: Option<(Done, &Request<'_>)>,
    ) -> Result<(), DmaError> {
        self.task_file = u32::from(error) << 8 | u32::from(status);
        let lba = request.as_ref().map_or(0, |(_, request)| request.lba).to_le_bytes();
        let count = request.as_ref().map_or(0, |(_, request)| request.count).to_le_bytes();
        if let Some((Done::Pio, request)) = &request {
            let mut fis = [0u8; 20];
            // PIO setup, interrupt, device to host; the end status.
            fis[..4].copy_from_slice(&[0x5f, 0x60, status, error]);
            fis[15] = status;
            fis[16..18].copy_from_slice(&(request.moved as u16).to_le_bytes());
            self.post(dma, 0x20, &fis)?;
            self.status |= PSS;
        }
        let mut fis = [0u8; 20];
        fis[..4].copy_from_slice(&[0x34, 0x40, status, error]);
        fis[4..7].copy_from_slice(&lba[..3]);
        fis[8..11].copy_from_slice(&lba[3..6]);
        fis[12..14].copy_from_slice(&count);
        self.post(dma, 0x40, &fis)?;
        self.status |= DHRS;
        if status & 1 != 0 {
            self.status |= TFES;
        } else {
            self.issued &= !(1 << slot);
        }
        Ok(())
    }

    fn finish_queued(&mut self, slot: u32, dma: &Dma) -> Result<(), DmaError> {
        let bit = 1u32 << slot;
        self.issued &= !bit;
        self.active &= !bit;
        self.task_file = STATUS_READY.into();
        let mut fis = [0xa1, 0x40, STATUS_READY, 0, 0, 0, 0, 0];
        fis[4..].copy_from_slice(&bit.to_le_bytes());
        self.status |= SDBS;
        self.post(dma, 0x58, &fis)
    }

    /// A D2H register FIS with the device's signature.
    fn post_register(&mut self, dma: &Dma, status: u8, error: u8) {
        self.first_waits &= self.command & FIS_ENABLE == 0;
        let [count, low, mid, high] = self.signature.to_le_bytes();
        let status = if status == 0 { self.task_file as u8 } else { status };
        let fis = [0x34, 0x40, status, error, low, mid, high, 0, 0, 0, 0, 0, count, 0, 0, 0, 0, 0, 0, 0];
        self.task_file = u32::from(error) << 8 | u32::from(status);
        self.status |= DHRS;
        if self.post(dma, 0x40, &fis).is_err() {
            self.status |= HBFS;
        }
    }

    /// Writes a FIS to the receive area, if software wants FISes.
    fn post(&self, dma: &Dma, at: u64, fis: &[u8]) -> Result<(), DmaError> {
        if self.command & FIS_ENABLE == 0 {
            return Ok(());
        }
        dma.write(GuestPhys(self.fis.wrapping_add(at)), fis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RequesterId;
    use crate::storage::{DiskOptions, open_disk};
    use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
    use std::sync::Arc;

    /// AHCI 1.3.1, 3.3.7: OVMF looks for a command's end in the receive area, which it clears, with FISes off, before each one.
    #[test]
    fn the_first_fis_waits_and_comes_once() {
        let region = MemoryRegion { base: GuestPhys(0), size: 0x4000, kind: RegionKind::Ram };
        let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
        let dma = Dma::new(Some(memory.clone()), RequesterId(0));
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 16).unwrap();
        let disk = open_disk(&DiskOptions::new(file.path())).unwrap();
        let mut drive = Some(Drive::new(Attachment::Cdrom(disk)));
        let mut port = PortState::new(&drive);
        port.write(FB, 0x1000, drive.as_mut(), &dma);
        let received = || {
            let fis = memory.read_u8(GuestPhys(0x1040)).unwrap();
            memory.write_u8(GuestPhys(0x1040), 0).unwrap();
            fis == 0x34
        };
        // What software writes, and whether that brings the FIS.
        for (at, value, comes) in [
            (CMD, FIS_ENABLE, true),
            (CMD, 0, false),
            (CMD, FIS_ENABLE, false),
            (SCTL, 1, false),
            (SCTL, 0, true),
            (CMD, 0, false),
            (CMD, FIS_ENABLE, false),
            (CMD, 0, false),
            (SCTL, 1, false),
            (SCTL, 0, false),
            (CMD, FIS_ENABLE, true),
            (CMD, FIS_ENABLE | START, false),
        ] {
            port.write(at, value, drive.as_mut(), &dma);
            assert_eq!(received(), comes, "{at:#x} {value:#x}");
        }
    }
}
