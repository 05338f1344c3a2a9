//! The console device (virtio 1.2, 5.3) with one port.

use super::queue::{QueueError, gather, part, scatter, total};
use super::{VirtioDevice, VirtioIo, device_type};
use crate::device::state_methods;
use crate::uart::CharBackend;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const QUEUE_SIZE: u16 = 64;
const RECEIVE: usize = 0;
/// Bytes that wait for the driver's buffers: more are lost.
const MAX_WAITING: usize = 64 << 10;
const CHUNK: u64 = 64 << 10;

/// A console.
pub struct VirtioConsole {
    backend: Box<dyn CharBackend>,
    state: State,
}

#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
struct State {
    waiting: VecDeque<u8>,
}

impl VirtioConsole {
    /// A console that feeds `backend`.
    pub fn new(backend: Box<dyn CharBackend>) -> Self {
        Self { backend, state: State::default() }
    }
}

impl VirtioDevice for VirtioConsole {
    fn device_type(&self) -> u16 {
        device_type::CONSOLE
    }

    fn class(&self) -> u32 {
        0x07_80_00
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn process(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        if index == RECEIVE {
            while !self.state.waiting.is_empty() {
                let Some(chain) = io.pop(RECEIVE)? else { break };
                let len = total(&chain.writable).min(self.state.waiting.len() as u64) as usize;
                let data: Vec<u8> = self.state.waiting.drain(..len).collect();
                scatter(&io.dma, &chain.writable, &data)?;
                io.push(RECEIVE, &chain, len as u32)?;
            }
            return Ok(());
        }
        while let Some(chain) = io.pop(index)? {
            let len = total(&chain.readable);
            let mut done = 0;
            // A driver's buffers are small; one that is not is cut.
            while done < len.min(1 << 20) {
                let mut data = vec![0; (len - done).min(CHUNK) as usize];
                gather(&io.dma, &part(&chain.readable, done, data.len() as u64), &mut data)?;
                self.backend.output(&data);
                done += data.len() as u64;
            }
            io.push(index, &chain, 0)?;
        }
        Ok(())
    }

    fn input(&mut self, bytes: &[u8], io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        let room = MAX_WAITING.saturating_sub(self.state.waiting.len());
        self.state.waiting.extend(bytes.iter().take(room));
        self.process(RECEIVE, io)
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    state_methods!(self => self.state);
}
