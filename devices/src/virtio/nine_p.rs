//! The 9P transport device (virtio 1.2, 5.9): carries requests for a shared folder to whoever serves it, and replies back.

use super::queue::{Chain, QueueError, gather, scatter, total};
use super::{VirtioDevice, VirtioIo, device_type};
use crate::device::state_methods;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who serves a shared folder.
pub trait ShareBackend: Send {
    /// The guest makes a request. The reply comes as input: the number (32 bits, little-endian), then the message.
    fn request(&mut self, number: u32, request: Vec<u8>);
}

impl<F: FnMut(u32, Vec<u8>) + Send> ShareBackend for F {
    fn request(&mut self, number: u32, request: Vec<u8>) {
        self(number, request);
    }
}

const QUEUE_SIZE: u16 = 128;
/// The longest request: servers offer 512 KiB.
const MAX_REQUEST: u64 = 1 << 20;
/// Bytes of a message's size, type and tag.
const HEADER: usize = 7;
const MAX_TAG: usize = 255;
/// The tag is in the device configuration.
const MOUNT_TAG: u64 = 1;

/// The reply to a request that cannot be served, and its reasons (Linux's numbers).
const RLERROR: u8 = 7;
const EIO: u32 = 5;
const EMSGSIZE: u32 = 90;

/// A shared folder.
pub struct Virtio9p {
    backend: Box<dyn ShareBackend>,
    tag: String,
    state: State,
}

#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
struct State {
    /// The number of the next request; a reset does not begin again, so that late replies find nobody.
    next: u32,
    /// Requests without a reply, with their tags.
    waiting: BTreeMap<u32, (Chain, [u8; 2])>,
}

impl Virtio9p {
    /// A folder that the guest mounts by this tag, of at most 255 bytes.
    pub fn new(backend: Box<dyn ShareBackend>, tag: impl Into<String>) -> Self {
        Self { backend, tag: tag.into(), state: State::default() }
    }
}

fn answer(io: &mut VirtioIo<'_>, chain: &Chain, message: &[u8]) -> Result<(), QueueError> {
    let written = scatter(&io.dma, &chain.writable, message)?;
    io.push(0, chain, written as u32)
}

fn error(tag: [u8; 2], errno: u32) -> Vec<u8> {
    let mut message = (HEADER as u32 + 4).to_le_bytes().to_vec();
    message.push(RLERROR);
    message.extend(tag);
    message.extend(errno.to_le_bytes());
    message
}

impl VirtioDevice for Virtio9p {
    fn device_type(&self) -> u16 {
        device_type::NINE_P
    }

    fn class(&self) -> u32 {
        0x01_80_00
    }

    fn features(&self) -> u64 {
        MOUNT_TAG
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let tag = &self.tag.as_bytes()[..self.tag.len().min(MAX_TAG)];
        let config = [&(tag.len() as u16).to_le_bytes(), tag].concat();
        for (i, to) in data.iter_mut().enumerate() {
            *to = config.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    fn process(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        while self.state.waiting.len() < usize::from(QUEUE_SIZE) {
            let Some(chain) = io.pop(index)? else { break };
            let len = total(&chain.readable);
            let mut request = vec![0; len.min(MAX_REQUEST) as usize];
            gather(&io.dma, &chain.readable, &mut request)?;
            let Some(&[tag, tag_high]) = request.get(5..HEADER) else {
                return Err(QueueError::Malformed("a request without a header"));
            };
            if len > MAX_REQUEST {
                answer(io, &chain, &error([tag, tag_high], EMSGSIZE))?;
                continue;
            }
            let number = self.state.next;
            self.state.next = number.wrapping_add(1);
            self.state.waiting.insert(number, (chain, [tag, tag_high]));
            self.backend.request(number, request);
        }
        Ok(())
    }

    /// A reply; nothing at all says that the server has forgotten all requests.
    fn input(&mut self, bytes: &[u8], io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        match bytes.split_first_chunk() {
            Some((number, message)) => {
                if let Some((chain, _)) = self.state.waiting.remove(&u32::from_le_bytes(*number)) {
                    answer(io, &chain, message)?;
                }
            }
            None => {
                for (chain, tag) in core::mem::take(&mut self.state.waiting).into_values() {
                    answer(io, &chain, &error(tag, EIO))?;
                }
            }
        }
        self.process(0, io)
    }

    fn queue_reset(&mut self, _index: usize) {
        self.state.waiting.clear();
    }

    fn reset(&mut self) {
        self.state.waiting.clear();
    }

    state_methods!(self => self.state);
}
