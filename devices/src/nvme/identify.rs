//! Identify data structures (NVMe 1.4, 5.15).

use super::{IO_QUEUES, Nvme, VERSION, status};
use crate::storage::SECTOR;

const SIZE: usize = 4096;
/// The largest transfer: 2^7 pages of 4 KiB.
pub(super) const MDTS: u8 = 7;
/// Supported log pages' and commands' limits.
pub(super) const MAX_EVENTS: u8 = 4;
/// Optional NVM commands: dataset management, write zeroes.
const ONCS: u16 = 1 << 2 | 1 << 3;

/// The only namespace.
pub(super) const NAMESPACE: u32 = 1;

fn text(to: &mut [u8], from: &str) {
    to.fill(b' ');
    for (to, from) in to.iter_mut().zip(from.bytes()) {
        *to = from;
    }
}

impl Nvme {
    /// The data structure that `cns` asks for.
    pub(super) fn identify(&self, cns: u8, namespace: u32) -> Result<Vec<u8>, u16> {
        let mut data = vec![0; SIZE];
        let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
        match cns {
            0x00 => {
                // All namespaces: what they have in common.
                if namespace != NAMESPACE && namespace != u32::MAX {
                    return if namespace == 0 { Err(status::INVALID_NAMESPACE) } else { Ok(data) };
                }
                let blocks = (self.disk.size() / SECTOR).to_le_bytes();
                put(0, &blocks);
                put(8, &blocks);
                put(16, &blocks);
                // Deallocated blocks read as anything.
                put(24, &[0]);
                put(128, &[0, 0, 9, 0]);
                if self.disk.is_read_only() {
                    put(99, &[1]);
                }
            }
            0x01 => {
                put(0, &0x1b36u16.to_le_bytes());
                put(2, &0x1af4u16.to_le_bytes());
                put(72, &[6]);
                put(77, &[MDTS]);
                put(80, &VERSION.to_le_bytes());
                // RTD3 latencies zero; an I/O controller.
                put(111, &[1]);
                // No optional admin commands; abort limit; event request limit; one read-only firmware slot.
                put(258, &[3, MAX_EVENTS - 1, 3, 0, 0]);
                // Warning and critical temperatures, in kelvins.
                put(266, &343u16.to_le_bytes());
                put(268, &373u16.to_le_bytes());
                put(512, &[0x66, 0x44]);
                put(516, &1u32.to_le_bytes());
                put(520, &ONCS.to_le_bytes());
                // A volatile write cache.
                put(525, &[1]);
                let name = format!(
                    "nqn.2014-08.org.nvmexpress:uuid:52494e47-0000-4000-8000-{:012x}",
                    self.serial_number()
                );
                put(768, name.as_bytes());
                // One power state of 25 W.
                put(2048, &2500u16.to_le_bytes());
                text(&mut data[4..24], &self.serial);
                text(&mut data[24..64], "Ringworld NVMe");
                text(&mut data[64..72], "1.0");
            }
            0x02 => {
                if namespace >= u32::MAX - 1 {
                    return Err(status::INVALID_NAMESPACE);
                }
                if namespace < NAMESPACE {
                    put(0, &NAMESPACE.to_le_bytes());
                }
            }
            0x03 => {
                if namespace != NAMESPACE {
                    return Err(status::INVALID_NAMESPACE);
                }
                // An NGUID.
                put(0, &[2, 16, 0, 0]);
                put(4, b"RINGWRLD");
                put(12, &self.serial_number().to_be_bytes());
            }
            _ => return Err(status::INVALID_FIELD),
        }
        Ok(data)
    }

    /// A number that tells this disk from the machine's others.
    fn serial_number(&self) -> u64 {
        self.serial.bytes().fold(0, |number, byte| number << 7 ^ u64::from(byte)) & 0xffff_ffff_ffff
    }
}

/// The value of feature "number of queues": zero-based, of both kinds.
pub(super) const QUEUES: u32 = (IO_QUEUES as u32 - 1) << 16 | (IO_QUEUES as u32 - 1);
