//! A CD-ROM drive's packet commands (MMC-5, SPC-3).

use super::ata::{Failure, transfer_in};
use super::port::{Done, Drive, Request, STATUS_ERROR};
use crate::storage::is_inside;
use crate::virtio::scatter;

/// The ATA command that carries a packet.
pub(super) const PACKET: u8 = 0xa0;
/// Bytes of a block of a disc.
const BLOCK: u64 = 2048;

/// Sense keys and additional codes.
const NO_SENSE: (u8, u8, u8) = (0, 0, 0);
const OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
const INVALID_COMMAND: (u8, u8, u8) = (5, 0x20, 0);
const INVALID_FIELD: (u8, u8, u8) = (5, 0x24, 0);
const UNREADABLE: (u8, u8, u8) = (3, 0x11, 0);

/// Executes the packet.
pub(super) fn packet(drive: &mut Drive, request: &mut Request<'_>) -> Result<Done, Failure> {
    let sense = drive.state.sense;
    drive.state.sense = NO_SENSE;
    match execute(drive, request, sense) {
        Ok(()) => {
            // The interrupt reason: command complete.
            request.count = 3;
            Ok(Done::Register)
        }
        Err(sense) => {
            drive.state.sense = sense;
            Err((STATUS_ERROR, sense.0 << 4))
        }
    }
}

fn execute(drive: &mut Drive, request: &mut Request<'_>, sense: (u8, u8, u8)) -> Result<(), (u8, u8, u8)> {
    let packet = request.packet;
    let short = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let long = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let blocks = (drive.disk.size() / BLOCK) as u32;
    let last = blocks.saturating_sub(1).to_be_bytes();
    match packet[0] {
        // TEST UNIT READY, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, SEEK, SET CD SPEED.
        0x00 | 0x1b | 0x1e | 0x2b | 0xbb => Ok(()),
        0x03 => {
            let data = [0x70, 0, sense.0, 0, 0, 0, 0, 10, 0, 0, 0, 0, sense.1, sense.2, 0, 0, 0, 0];
            give(request, &data, packet[4].into())
        }
        0x12 if packet[1] & 1 != 0 => Err(INVALID_FIELD),
        0x12 => {
            // A removable CD-ROM drive of MMC.
            let mut data = vec![5, 0x80, 5, 0x32, 31, 0, 0, 0];
            data.extend(b"RNGWORLDCD-ROM          1.0 ");
            give(request, &data, short(3).into())
        }
        0x25 => {
            let mut data = last.to_vec();
            data.extend((BLOCK as u32).to_be_bytes());
            give(request, &data, 8)
        }
        0x28 => read(drive, request, long(2), short(7).into()),
        0xa8 => read(drive, request, long(2), long(6)),
        0x1a => give(request, &[3, 0x05, 0x80, 0], packet[4].into()),
        0x5a => mode_sense(request, packet[2], short(7).into()),
        0x43 => table_of_contents(request, &packet, blocks),
        0x46 => {
            // The CD-ROM profile is current; core, and removable medium features.
            let mut data = vec![0, 0, 0, 0, 0, 0, 0, 8];
            data.extend([0, 0, 3, 4, 0, 8, 1, 0]);
            data.extend([0, 1, 3, 8, 0, 0, 0, 2, 0, 0, 0, 0]);
            data.extend([0, 3, 3, 4, 0x29, 0, 0, 0]);
            let len = data.len() as u32 - 4;
            data[..4].copy_from_slice(&len.to_be_bytes());
            give(request, &data, short(7).into())
        }
        0x4a if packet[1] & 1 == 0 => Err(INVALID_FIELD),
        // No change of the medium, which is there.
        0x4a if packet[4] & 0x10 != 0 => give(request, &[0, 6, 4, 0x10, 0, 2, 0, 0], short(7).into()),
        0x4a => give(request, &[0, 2, 0x80, 0x10], short(7).into()),
        0x51 => {
            let mut data = vec![0; 34];
            data[1] = 32;
            // Complete disc, last session complete; one track, one session.
            data[2..7].copy_from_slice(&[0x0e, 1, 1, 1, 1]);
            give(request, &data, short(7).into())
        }
        0xbd => give(request, &[0, 0, 0, 0, 0, 1, 0, 0], short(8).into()),
        _ => Err(INVALID_COMMAND),
    }
}

/// Gives the answer to a command, cut to what the host has room for.
fn give(request: &mut Request<'_>, data: &[u8], room: usize) -> Result<(), (u8, u8, u8)> {
    let data = &data[..data.len().min(room)];
    request.moved = scatter(request.dma, &request.data, data).map_err(|_| UNREADABLE)? as u32;
    Ok(())
}

fn read(drive: &mut Drive, request: &mut Request<'_>, block: u32, count: u32) -> Result<(), (u8, u8, u8)> {
    let (offset, len) = (u64::from(block) * BLOCK, u64::from(count) * BLOCK);
    if !is_inside(drive.disk.size() / BLOCK * BLOCK, offset, len) {
        return Err(OUT_OF_RANGE);
    }
    transfer_in(drive, request, offset, len).map_err(|_| UNREADABLE)
}

fn mode_sense(request: &mut Request<'_>, page: u8, room: usize) -> Result<(), (u8, u8, u8)> {
    // Mode data header: its length, and nothing else.
    let mut data = vec![0, 0, 0, 0, 0, 0, 0, 0];
    match page & 0x3f {
        0x01 => data.extend([1, 6, 0, 5, 0, 0, 0, 0]),
        // CD capabilities: reads CD-R, CD-RW; no audio; lock, eject, tray.
        0x2a => {
            data.extend([0x2a, 18, 3, 0, 0, 0, 0x29, 0, 2, 0xc2, 0, 2, 2, 0, 2, 0xc2, 0, 0, 0, 0]);
        }
        _ => return Err(INVALID_FIELD),
    }
    let len = data.len() as u16 - 2;
    data[..2].copy_from_slice(&len.to_be_bytes());
    give(request, &data, room)
}

fn table_of_contents(request: &mut Request<'_>, packet: &[u8; 16], blocks: u32) -> Result<(), (u8, u8, u8)> {
    let room = usize::from(u16::from_be_bytes([packet[7], packet[8]]));
    let format = if packet[9] >> 6 != 0 { packet[9] >> 6 } else { packet[2] & 0xf };
    // Addresses by minute, second and frame, or by block.
    let address = |block: u32| {
        if packet[1] & 2 == 0 {
            return block.to_be_bytes();
        }
        let frames = block.saturating_add(150);
        [0, (frames / 4500).min(255) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
    };
    let track = |number: u8, block: u32| {
        let mut entry = vec![0, 0x14, number, 0];
        entry.extend(address(block));
        entry
    };
    let mut data = vec![0, 0, 1, 1];
    match format {
        // One data track and the lead-out.
        0 => {
            if packet[6] <= 1 {
                data.extend(track(1, 0));
            }
            data.extend(track(0xaa, blocks));
        }
        // One session.
        1 => data.extend(track(1, 0)),
        _ => return Err(INVALID_FIELD),
    }
    let len = data.len() as u16 - 2;
    data[..2].copy_from_slice(&len.to_be_bytes());
    give(request, &data, room)
}
