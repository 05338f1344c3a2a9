//! A disk's commands (ATA8-ACS).

use super::port::{Done, Drive, ERROR_ABORT, Request, STATUS_ERROR};
use crate::storage::{SECTOR, is_inside};
use crate::virtio::{gather, part, scatter, total};

/// Status and error registers of a command that fails.
pub(super) type Failure = (u8, u8);
pub(super) const ABORTED: Failure = (STATUS_ERROR, ERROR_ABORT);
/// The address is not there; the medium cannot be read.
const NOT_FOUND: Failure = (STATUS_ERROR, 0x10);
const UNCORRECTABLE: Failure = (STATUS_ERROR, 0x40);
/// The most that is moved in one go.
const CHUNK: u64 = 1 << 20;

const TRIM: u8 = 1;

/// How a command names its sectors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Address {
    /// 28 bits, count of 8.
    Short,
    /// 48 bits, count of 16.
    Long,
    /// 48 bits, count in the features register.
    Queued,
}

/// Executes a command other than PACKET.
pub(super) fn command(drive: &mut Drive, request: &mut Request<'_>) -> Result<Done, Failure> {
    use Address::{Long, Queued, Short};
    let opcode = request.fis[2];
    if drive.cdrom {
        return match opcode {
            0xa1 => identify(drive, request),
            // DEVICE RESET, FLUSH CACHE, SET FEATURES, power management.
            0x08 | 0xe7 | 0xef | 0xe0..=0xe3 => Ok(Done::Register),
            0xe5 => power_mode(request),
            // IDENTIFY DEVICE fails with the signature.
            0xec => Err(ABORTED),
            _ => Err(ABORTED),
        };
    }
    match opcode {
        0xec => identify(drive, request),
        0xc8 => read(drive, request, Short).map(|()| Done::Register),
        0x25 => read(drive, request, Long).map(|()| Done::Register),
        0x20 | 0xc4 => read(drive, request, Short).map(|()| Done::Pio),
        0x24 | 0x29 => read(drive, request, Long).map(|()| Done::Pio),
        0x60 => read(drive, request, Queued).map(|()| Done::Queued),
        0xca | 0x30 | 0xc5 => write(drive, request, Short, false).map(|()| Done::Register),
        0x35 | 0x34 | 0x39 => write(drive, request, Long, false).map(|()| Done::Register),
        0x3d | 0xce => write(drive, request, Long, true).map(|()| Done::Register),
        0x61 => {
            let force = request.fis[7] & 0x80 != 0;
            write(drive, request, Queued, force).map(|()| Done::Queued)
        }
        // READ VERIFY.
        0x40 => range(drive, request, Short).map(|_| Done::Register),
        0x42 => range(drive, request, Long).map(|_| Done::Register),
        0xe7 | 0xea => drive.disk.flush().map(|()| Done::Register).map_err(|_| UNCORRECTABLE),
        0x06 if request.fis[3] & TRIM != 0 => trim(drive, request),
        0xef => set_features(drive, request),
        0xc6 => {
            let sectors = request.fis[12];
            if sectors > 16 || (sectors != 0 && !sectors.is_power_of_two()) {
                return Err(ABORTED);
            }
            drive.state.multiple = sectors;
            Ok(Done::Register)
        }
        // READ NATIVE MAX ADDRESS.
        0xf8 | 0x27 => {
            let last = drive.disk.size() / SECTOR - 1;
            request.lba = if opcode == 0xf8 { last.min(0x0fff_ffff) } else { last };
            Ok(Done::Register)
        }
        // INITIALIZE DEVICE PARAMETERS, RECALIBRATE, SEEK, standby, idle, sleep.
        0x91 | 0x10 | 0x70 | 0xe0..=0xe3 | 0xe6 => Ok(Done::Register),
        0xe5 => power_mode(request),
        _ => Err(ABORTED),
    }
}

fn power_mode(request: &mut Request<'_>) -> Result<Done, Failure> {
    request.count = 0xff;
    Ok(Done::Register)
}

/// Offset and length in bytes.
fn range(drive: &Drive, request: &Request<'_>, address: Address) -> Result<(u64, u64), Failure> {
    let fis = &request.fis;
    let byte = |at: usize| u64::from(fis[at]);
    let low = byte(4) | byte(5) << 8 | byte(6) << 16;
    let count = byte(12) | byte(13) << 8;
    let (lba, count, whole) = match address {
        Address::Short => (low | (byte(7) & 0xf) << 24, count & 0xff, 0x100),
        Address::Long => (low | byte(8) << 24 | byte(9) << 32 | byte(10) << 40, count, 0x1_0000),
        Address::Queued => {
            (low | byte(8) << 24 | byte(9) << 32 | byte(10) << 40, byte(3) | byte(11) << 8, 0x1_0000)
        }
    };
    let (offset, len) = (lba * SECTOR, if count == 0 { whole } else { count } * SECTOR);
    // Cylinders, heads and sectors are not offered.
    if fis[7] & 0x40 == 0 {
        return Err(ABORTED);
    }
    if is_inside(drive.disk.size(), offset, len) { Ok((offset, len)) } else { Err(NOT_FOUND) }
}

/// Moves `len` bytes from the disk.
pub(super) fn transfer_in(
    drive: &mut Drive,
    request: &mut Request<'_>,
    offset: u64,
    len: u64,
) -> Result<(), Failure> {
    if total(&request.data) < len {
        return Err(ABORTED);
    }
    let mut buffer = vec![0; len.min(CHUNK) as usize];
    let mut done = 0;
    while done < len {
        let data = &mut buffer[..(len - done).min(CHUNK) as usize];
        drive.disk.read(offset + done, data).map_err(|_| UNCORRECTABLE)?;
        let to = part(&request.data, done, data.len() as u64);
        scatter(request.dma, &to, data).map_err(|_| ABORTED)?;
        done += data.len() as u64;
    }
    request.moved = len as u32;
    Ok(())
}

fn read(drive: &mut Drive, request: &mut Request<'_>, address: Address) -> Result<(), Failure> {
    let (offset, len) = range(drive, request, address)?;
    transfer_in(drive, request, offset, len)
}

fn write(drive: &mut Drive, request: &mut Request<'_>, address: Address, force: bool) -> Result<(), Failure> {
    let (offset, len) = range(drive, request, address)?;
    if drive.disk.is_read_only() || total(&request.data) < len {
        return Err(ABORTED);
    }
    let mut buffer = vec![0; len.min(CHUNK) as usize];
    let mut done = 0;
    while done < len {
        let data = &mut buffer[..(len - done).min(CHUNK) as usize];
        gather(request.dma, &part(&request.data, done, data.len() as u64), data).map_err(|_| ABORTED)?;
        drive.disk.write(offset + done, data).map_err(|_| UNCORRECTABLE)?;
        done += data.len() as u64;
    }
    request.moved = len as u32;
    if force || drive.state.write_through {
        drive.disk.flush().map_err(|_| UNCORRECTABLE)?;
    }
    Ok(())
}

/// DATA SET MANAGEMENT: blocks of ranges, eight bytes each.
fn trim(drive: &mut Drive, request: &mut Request<'_>) -> Result<Done, Failure> {
    let blocks = usize::from(request.fis[12]);
    if drive.disk.is_read_only() || !(1..=8).contains(&blocks) {
        return Err(ABORTED);
    }
    let mut ranges = vec![0; blocks * 512];
    if gather(request.dma, &request.data, &mut ranges).map_err(|_| ABORTED)? < ranges.len() {
        return Err(ABORTED);
    }
    for range in ranges.chunks_exact(8) {
        let value = crate::device::le_value(range);
        let (offset, len) = ((value & 0xffff_ffff_ffff) * SECTOR, (value >> 48) * SECTOR);
        if len == 0 {
            continue;
        }
        if !is_inside(drive.disk.size(), offset, len) {
            return Err(NOT_FOUND);
        }
        drive.disk.discard(offset, len).map_err(|_| UNCORRECTABLE)?;
    }
    request.moved = ranges.len() as u32;
    Ok(Done::Register)
}

fn set_features(drive: &mut Drive, request: &Request<'_>) -> Result<Done, Failure> {
    match request.fis[3] {
        0x02 => drive.state.write_through = false,
        0x82 => {
            drive.state.write_through = true;
            drive.disk.flush().map_err(|_| UNCORRECTABLE)?;
        }
        // Transfer mode; look-ahead on and off; power-on defaults off.
        0x03 | 0xaa | 0x55 | 0x66 | 0xcc => {}
        _ => return Err(ABORTED),
    }
    Ok(Done::Register)
}

/// A string in words with their bytes swapped.
fn text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().chain(core::iter::repeat(b' '));
    for word in words {
        let (first, second) = (bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' '));
        *word = u16::from(first) << 8 | u16::from(second);
    }
}

/// IDENTIFY DEVICE and IDENTIFY PACKET DEVICE (7.12, 7.13).
fn identify(drive: &Drive, request: &mut Request<'_>) -> Result<Done, Failure> {
    let mut words = [0u16; 256];
    let sectors = drive.disk.size() / SECTOR;
    text(&mut words[10..20], &drive.serial);
    text(&mut words[23..27], "1.0");
    text(&mut words[27..47], if drive.cdrom { "Ringworld CD-ROM" } else { "Ringworld disk" });
    // DMA and LBA; IORDY.
    words[49] = 0x0b00;
    // Words 64 to 70 and 88 are valid: PIO 3 and 4, multiword DMA 2, Ultra DMA 5.
    words[53] = 6;
    words[63] = 0x0007;
    words[64] = 3;
    words[65..69].fill(120);
    // SATA 1.5 Gbit/s.
    words[76] = 0x0002;
    words[80] = 0x01f0;
    words[88] = 0x203f;
    // 7.12.6: a world wide name is not there; the words' validity marks.
    words[84] = 0x4000;
    words[87] = 0x4000;
    if drive.cdrom {
        // Removable CD-ROM with 12-byte packets.
        words[0] = 0x8580;
        words[82] = 0x0210;
        words[83] = 0x4000;
        words[85] = 0x0210;
    } else {
        words[0] = 0x0040;
        words[47] = 0x8010;
        words[50] = 0x4000;
        words[59] = if drive.state.multiple == 0 { 0 } else { 0x0100 | u16::from(drive.state.multiple) };
        let short = sectors.min(0x0fff_ffff) as u32;
        (words[60], words[61]) = (short as u16, (short >> 16) as u16);
        words[69] = 0x4000;
        // Queue depth 32, native command queuing.
        words[75] = 31;
        words[76] |= 0x0100;
        // Write cache; 48-bit addresses, flushes, FUA.
        words[82] = 0x4020;
        words[83] = 0x7400;
        words[84] |= 0x0040;
        words[85] = if drive.state.write_through { 0x4000 } else { 0x4020 };
        words[86] = 0x3400;
        words[87] |= 0x0040;
        for n in 0..4 {
            words[100 + n] = (sectors >> (16 * n)) as u16;
        }
        // TRIM of eight blocks; solid state.
        words[105] = 8;
        words[169] = 1;
        words[217] = 1;
    }
    let mut data = [0u8; 512];
    for (to, word) in data.chunks_exact_mut(2).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    data[510] = 0xa5;
    data[511] = data[..511].iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    request.moved = scatter(request.dma, &request.data, &data).map_err(|_| ABORTED)? as u32;
    Ok(Done::Pio)
}
