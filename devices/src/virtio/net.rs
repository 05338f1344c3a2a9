//! The network device (virtio 1.2, 5.1).

use super::queue::{QueueError, gather, part, scatter, total};
use super::{VirtioDevice, VirtioIo, device_type};
use crate::device::state_methods;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Where a network card's frames go.
pub trait NetworkBackend: Send {
    /// The guest sends an Ethernet frame, without its check sequence. With segmentation offload it may be longer than
    /// the network's and have TCP and UDP checksums that are not filled in.
    fn transmit(&mut self, frame: Vec<u8>);

    /// Whether frames as offloads make them may come: checksums missing, TCP segments longer than the MTU.
    fn takes_offloads(&self) -> bool {
        false
    }
}

impl<F: FnMut(Vec<u8>) + Send> NetworkBackend for F {
    fn transmit(&mut self, frame: Vec<u8>) {
        self(frame);
    }
}

const QUEUE_SIZE: u16 = 256;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// The header before each frame (5.1.6).
const HEADER: usize = 12;
/// The longest frame: Ethernet's header and the longest IP packet.
const MAX_FRAME: u64 = 14 + 65_535;
/// Frames that wait for the driver's buffers: more than a few connections' whole windows, as loss is slow to mend.
const MAX_WAITING: usize = 4096;

/// Feature bits.
const CSUM: u64 = 1;
const MAC: u64 = 1 << 5;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;
/// The link is up.
const LINK_UP: u16 = 1;

/// A network card.
pub struct VirtioNet {
    backend: Box<dyn NetworkBackend>,
    mac: [u8; 6],
    state: State,
}

#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
struct State {
    /// A frame may take several buffers.
    mergeable: bool,
    waiting: VecDeque<Vec<u8>>,
}

impl VirtioNet {
    /// A card with this address.
    pub fn new(backend: Box<dyn NetworkBackend>, mac: [u8; 6]) -> Self {
        Self { backend, mac, state: State::default() }
    }

    fn receive(&mut self, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        while let Some(frame) = self.state.waiting.front() {
            let mut packet = vec![0; HEADER];
            packet.extend_from_slice(frame);
            let mut buffers = Vec::new();
            let mut room = 0;
            while room < packet.len() as u64 {
                let Some(chain) = io.pop(RECEIVE)? else { break };
                let len = total(&chain.writable);
                if len < HEADER as u64 && room == 0 {
                    return Err(QueueError::Malformed("a receive buffer without room for the header"));
                }
                room += len;
                buffers.push(chain);
                if !self.state.mergeable || buffers.len() == usize::from(QUEUE_SIZE) {
                    break;
                }
            }
            if buffers.is_empty() {
                return Ok(());
            }
            // What does not fit is cut: only a driver with buffers too small can cause it.
            packet[10..12].copy_from_slice(&(buffers.len() as u16).to_le_bytes());
            let mut rest = &packet[..];
            for chain in &buffers {
                let done = scatter(&io.dma, &chain.writable, rest)?;
                rest = &rest[done..];
                io.push(RECEIVE, chain, done as u32)?;
            }
            self.state.waiting.pop_front();
        }
        Ok(())
    }

    fn transmit(&mut self, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        while let Some(chain) = io.pop(TRANSMIT)? {
            let len = total(&chain.readable).saturating_sub(HEADER as u64);
            // A runt or a giant never reaches a wire.
            if (14..=MAX_FRAME).contains(&len) {
                let mut frame = vec![0; len as usize];
                gather(&io.dma, &part(&chain.readable, HEADER as u64, len), &mut frame)?;
                self.backend.transmit(frame);
            }
            io.push(TRANSMIT, &chain, 0)?;
        }
        Ok(())
    }
}

impl VirtioDevice for VirtioNet {
    fn device_type(&self) -> u16 {
        device_type::NETWORK
    }

    fn class(&self) -> u32 {
        0x02_00_00
    }

    fn features(&self) -> u64 {
        let offloads = if self.backend.takes_offloads() { CSUM | HOST_TSO4 } else { 0 };
        MAC | MRG_RXBUF | STATUS | offloads
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = self.mac.to_vec();
        config.extend(LINK_UP.to_le_bytes());
        for (i, to) in data.iter_mut().enumerate() {
            *to = config.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, features: u64) {
        self.state.mergeable = features & MRG_RXBUF != 0;
    }

    fn process(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        if index == RECEIVE { self.receive(io) } else { self.transmit(io) }
    }

    fn input(&mut self, bytes: &[u8], io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        if self.state.waiting.len() < MAX_WAITING && bytes.len() as u64 <= MAX_FRAME {
            self.state.waiting.push_back(bytes.to_vec());
        }
        self.receive(io)
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    state_methods!(self => self.state);
}
