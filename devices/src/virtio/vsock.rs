//! The socket device (virtio 1.2, 5.10): carries packets of stream connections between the guest and the host.

use super::queue::{QueueError, gather, part, scatter, total};
use super::{VirtioDevice, VirtioIo, device_type};
use crate::device::state_methods;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Where the guest's packets go. What comes back is input: one packet at a time.
pub trait SocketBackend: Send {
    /// The guest sends a packet: [`VSOCK_HEADER`] bytes of header, and its data.
    fn transmit(&mut self, packet: Vec<u8>);
}

impl<F: FnMut(Vec<u8>) + Send> SocketBackend for F {
    fn transmit(&mut self, packet: Vec<u8>) {
        self(packet);
    }
}

const QUEUE_SIZE: u16 = 256;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;
/// Bytes of a packet's header (5.10.6).
pub const VSOCK_HEADER: usize = 44;
/// The most data of one packet, as in Linux.
pub const VSOCK_MAX_DATA: usize = 64 << 10;
/// Packets that wait for the driver's buffers; with more, its own packets wait, too. The host's side bounds what it sends by
/// the credit that it got.
const MAX_WAITING: usize = 1024;
/// The event of a device whose connections are gone (5.10.6.7).
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// A guest's end of all its sockets.
pub struct VirtioVsock {
    backend: Box<dyn SocketBackend>,
    cid: u32,
    state: State,
}

#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    /// The driver is to hear that its connections are gone.
    lost: bool,
}

impl VirtioVsock {
    /// A device of the guest with this context ID (3 or more).
    pub fn new(backend: Box<dyn SocketBackend>, cid: u32) -> Self {
        Self { backend, cid, state: State::default() }
    }

    fn receive(&mut self, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        while let Some(packet) = self.state.waiting.front_mut() {
            if packet.len() < VSOCK_HEADER {
                // Of a damaged snapshot.
                self.state.waiting.pop_front();
                continue;
            }
            let Some(chain) = io.pop(RECEIVE)? else { return Ok(()) };
            let room = total(&chain.writable) as usize;
            if room <= VSOCK_HEADER {
                return Err(QueueError::Malformed("a receive buffer without room for a packet"));
            }
            // Data of a stream may come in pieces, each with the header and its own length.
            let data = (packet.len() - VSOCK_HEADER).min(room - VSOCK_HEADER);
            let rest = packet.split_off(VSOCK_HEADER + data);
            packet[24..28].copy_from_slice(&(data as u32).to_le_bytes());
            let written = scatter(&io.dma, &chain.writable, packet)?;
            io.push(RECEIVE, &chain, written as u32)?;
            if rest.is_empty() {
                self.state.waiting.pop_front();
            } else {
                packet.truncate(VSOCK_HEADER);
                packet.extend(rest);
            }
        }
        Ok(())
    }

    fn transmit(&mut self, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        while self.state.waiting.len() < MAX_WAITING {
            let Some(chain) = io.pop(TRANSMIT)? else { break };
            let len = total(&chain.readable);
            if (VSOCK_HEADER as u64..=(VSOCK_HEADER + VSOCK_MAX_DATA) as u64).contains(&len) {
                let mut packet = vec![0; len as usize];
                gather(&io.dma, &part(&chain.readable, 0, len), &mut packet)?;
                self.backend.transmit(packet);
            }
            io.push(TRANSMIT, &chain, 0)?;
        }
        Ok(())
    }

    fn event(&mut self, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        if self.state.lost
            && let Some(chain) = io.pop(EVENT)?
        {
            self.state.lost = false;
            let written = scatter(&io.dma, &chain.writable, &TRANSPORT_RESET)?;
            io.push(EVENT, &chain, written as u32)?;
        }
        Ok(())
    }
}

impl VirtioDevice for VirtioVsock {
    fn device_type(&self) -> u16 {
        device_type::SOCKET
    }

    fn class(&self) -> u32 {
        0x07_80_00
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = u64::from(self.cid).to_le_bytes();
        for (i, to) in data.iter_mut().enumerate() {
            *to = config.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    fn process(&mut self, index: usize, io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        match index {
            RECEIVE => {
                self.receive(io)?;
                self.transmit(io)
            }
            TRANSMIT => self.transmit(io),
            _ => self.event(io),
        }
    }

    /// A packet; nothing at all says that the host's side has forgotten all connections.
    fn input(&mut self, bytes: &[u8], io: &mut VirtioIo<'_>) -> Result<(), QueueError> {
        if bytes.is_empty() {
            self.state.lost = true;
            return self.event(io);
        }
        if (VSOCK_HEADER..=VSOCK_HEADER + VSOCK_MAX_DATA).contains(&bytes.len()) {
            self.state.waiting.push_back(bytes.to_vec());
        }
        self.process(RECEIVE, io)
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    state_methods!(self => self.state);
}
