//! The traditional memory balloon (virtio 1.2, 5.5). The host gets the pages' memory back.

use super::queue::{QueueError, gather, part, total};
use super::{VirtioDevice, VirtioIo, device_type};
use crate::device::{le_value, state_methods};
use ringworld_core::{GuestPhys, PAGE_SIZE};
use serde::{Deserialize, Serialize};

const QUEUE_SIZE: u16 = 128;
const INFLATE: usize = 0;
/// Page numbers of one buffer: Linux gives 256.
const MAX_PAGES: u64 = 4096;
/// The driver tells before it uses a page again.
const MUST_TELL_HOST: u64 = 1;

/// The balloon.
#[derive(Default)]
pub struct VirtioBalloon {
    state: State,
}

#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
struct State {
    /// Pages that the host wants, and that the driver has given.
    wanted: u32,
    actual: u32,
}

impl VirtioBalloon {
    /// A balloon that wants nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for VirtioBalloon {
    fn device_type(&self) -> u16 {
        device_type::BALLOON
    }

    fn class(&self) -> u32 {
        0xff_00_00
    }

    fn features(&self) -> u64 {
        MUST_TELL_HOST
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = self.state.wanted.to_le_bytes().to_vec();
        config.extend(self.state.actual.to_le_bytes());
        for (i, to) in data.iter_mut().enumerate() {
            *to = config.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if (offset, data.len()) == (4, 4) {
            self.state.actual = le_value(data) as u32;
        }
    }

    fn process(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        while let Some(chain) = io.pop(index)? {
            let len = (total(&chain.readable) / 4).min(MAX_PAGES) * 4;
            let mut pages = vec![0; len as usize];
            gather(&io.dma, &part(&chain.readable, 0, len), &mut pages)?;
            if index == INFLATE {
                for page in pages.chunks_exact(4) {
                    // One that is not memory is the driver's mistake.
                    let _ = io.dma.release_page(GuestPhys(le_value(page) * PAGE_SIZE));
                }
            }
            io.push(index, &chain, 0)?;
        }
        Ok(())
    }

    fn input_without_driver(&mut self, bytes: &[u8]) {
        self.state.wanted = le_value(bytes) as u32;
    }

    /// Four bytes: the number of pages that the host wants.
    fn input(&mut self, bytes: &[u8], io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        self.input_without_driver(bytes);
        io.config_changed();
        Ok(())
    }

    fn reset(&mut self) {
        self.state.actual = 0;
    }

    state_methods!(self => self.state);
}
