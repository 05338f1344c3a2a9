//! The entropy device (virtio 1.2, 5.4). Its numbers follow from a seed, so that runs repeat.

use super::queue::{QueueError, part, scatter, total};
use super::{VirtioDevice, VirtioIo, device_type};
use crate::device::state_methods;

const QUEUE_SIZE: u16 = 64;
/// The most bytes of one request.
const MAX: u64 = 4096;

/// The device.
pub struct VirtioRng {
    seed: u64,
    state: u64,
}

impl VirtioRng {
    /// A device whose numbers follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl VirtioDevice for VirtioRng {
    fn device_type(&self) -> u16 {
        device_type::ENTROPY
    }

    fn class(&self) -> u32 {
        0xff_00_00
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn process(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        while let Some(chain) = io.pop(index)? {
            let len = total(&chain.writable).min(MAX);
            let data: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
            let done = scatter(&io.dma, &part(&chain.writable, 0, len), &data[..len as usize])?;
            io.push(index, &chain, done as u32)?;
        }
        Ok(())
    }

    /// A reset of the driver's does not repeat numbers.
    fn reset(&mut self) {
        self.state ^= self.seed.rotate_left(32);
    }

    state_methods!(self => self.state);
}
