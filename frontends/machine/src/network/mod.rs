//! Networks of the host's side. They run in threads of their own; what they have for the guest goes through the machine's one
//! queue of inputs, and so into recordings.

mod nat;
mod packet;
mod tap;
mod tcp;
mod udp;

use crate::{HostEvent, MachineHandle};
use nat::Nat;
use ringworld_devices::virtio::NetworkBackend;
use serde::{Deserialize, Serialize};
use std::io::{PipeWriter, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tap::Tap;

/// Frames of the guest that may wait for the network's thread.
const MAX_FRAMES: usize = 4096;
/// Events for the machine that may wait: more are lost, as on a congested wire.
const MAX_BACKLOG: usize = 1024;

/// A protocol that ports are forwarded of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Forward {
    /// The protocol.
    pub protocol: Protocol,
    /// Where the host listens; the loopback interface unless said otherwise.
    pub host: SocketAddrV4,
    /// The guest's address and port.
    pub guest: SocketAddrV4,
}

/// What a network card is attached to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NetworkKind {
    /// A network of its own behind a gateway, which gives addresses and leads to the host's network: guest 10.0.2.15,
    /// gateway (and host) 10.0.2.2, name server 10.0.2.3.
    User {
        /// Forwarded ports.
        forwards: Vec<Forward>,
    },
    /// A tap interface of the host.
    Tap {
        /// Its name.
        interface: String,
    },
}

/// A network card of the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    /// What it is attached to.
    pub kind: NetworkKind,
    /// Its Ethernet address; `None` takes one of its own.
    pub mac: Option<[u8; 6]>,
}

impl Network {
    /// The Ethernet address of the card with this number.
    pub(crate) fn mac(&self, number: usize) -> [u8; 6] {
        self.mac.unwrap_or([0x52, 0x54, 0x00, 0x12, 0x34, 0x56u8.wrapping_add(number as u8)])
    }
}

/// The gateway's, the name server's and the guest's addresses.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The address that the guest gets.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A port cannot be listened on.
    #[error("cannot listen on {0} for hostfwd: {1}: choose another port")]
    Listen(SocketAddrV4, std::io::Error),
    /// A tap interface cannot be opened: its name, why, and what to do.
    #[error("cannot open the tap interface {0}: {1}{2}")]
    Tap(String, std::io::Error, String),
    /// The host has no more files or pipes.
    #[error("cannot make the network: {0}")]
    Host(#[from] std::io::Error),
}

/// The machine's end of a network: takes the guest's frames.
struct GuestSide {
    frames: SyncSender<Vec<u8>>,
    wake: PipeWriter,
    /// The machine repeats its past: the network has seen these frames.
    muted: Arc<AtomicBool>,
    /// Whoever is there takes frames as the card's offloads make them.
    takes_offloads: bool,
}

impl NetworkBackend for GuestSide {
    fn transmit(&mut self, frame: Vec<u8>) {
        if self.muted.load(Ordering::Relaxed) {
            return;
        }
        // A full queue loses frames; a byte in the pipe wakes the thread, and a full pipe has bytes enough.
        if self.frames.try_send(frame).is_ok() {
            let _ = self.wake.write(&[1]);
        }
    }

    fn takes_offloads(&self) -> bool {
        self.takes_offloads
    }
}

/// A network that is ready, but has not begun to work.
pub(crate) struct Prepared(Kind);

enum Kind {
    User(Box<Nat>),
    Tap(Tap, HostSide),
}

/// The thread's end.
struct HostSide {
    frames: Receiver<Vec<u8>>,
    wake: std::io::PipeReader,
}

/// Makes a network: the card's side, and the one that [`Prepared::start`] runs.
pub(crate) fn prepare(
    network: &Network,
    muted: Arc<AtomicBool>,
) -> Result<(Box<dyn NetworkBackend>, Prepared), NetworkError> {
    let (sender, frames) = sync_channel(MAX_FRAMES);
    let (wake, waker) = std::io::pipe()?;
    for end in [rustix::fd::AsFd::as_fd(&wake), rustix::fd::AsFd::as_fd(&waker)] {
        rustix::io::ioctl_fionbio(end, true).map_err(std::io::Error::from)?;
    }
    let host = HostSide { frames, wake };
    let prepared = match &network.kind {
        NetworkKind::User { forwards } => Kind::User(Box::new(Nat::new(host, forwards)?)),
        NetworkKind::Tap { interface } => Kind::Tap(Tap::open(interface)?, host),
    };
    let takes_offloads = matches!(prepared, Kind::User(_));
    Ok((Box::new(GuestSide { frames: sender, wake: waker, muted, takes_offloads }), Prepared(prepared)))
}

/// Gives a gateway frames as a guest sends them, one after the other, for the fuzzer; the number of frames for the guest.
pub fn fuzz_gateway(frames: Vec<Vec<u8>>) -> Result<usize, NetworkError> {
    let (sender, receiver) = sync_channel(MAX_FRAMES);
    let (wake, _waker) = std::io::pipe()?;
    rustix::io::ioctl_fionbio(&wake, true).map_err(std::io::Error::from)?;
    let mut nat = Nat::new(HostSide { frames: receiver, wake }, &[])?;
    let mut count = 0;
    for frame in frames {
        // Taken at once, so there is room.
        let _ = sender.try_send(frame);
        nat.step(&mut |frames| count += frames.len());
    }
    Ok(count)
}

impl Prepared {
    /// Runs the network for as long as the card exists. Its frames go to card `port`.
    pub(crate) fn start(self, port: usize, handle: MachineHandle) {
        std::thread::spawn(move || {
            let send = |frames: Vec<Vec<u8>>| {
                if handle.backlog() < MAX_BACKLOG {
                    handle.send(HostEvent::Network {
                        port,
                        frames: frames.into_iter().map(Into::into).collect(),
                    });
                }
            };
            match self.0 {
                Kind::User(nat) => nat.run(send),
                Kind::Tap(tap, host) => tap.run(&host.frames, host.wake, send),
            }
        });
    }
}
