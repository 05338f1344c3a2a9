//! The gateway of a user-mode network: smoltcp's stack with the gateway's addresses, and the host's sockets behind it.

use super::packet::{DHCP_SERVER, Kind, classify, dhcp};
use super::tcp::Tcp;
use super::udp::Udp;
use super::{Forward, GATEWAY, GATEWAY_MAC, HostSide, NAME_SERVER, NetworkError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};
use std::collections::VecDeque;
use std::io::Read;
use std::sync::mpsc::TryRecvError;

/// Ethernet's header and the largest packet.
const MTU: usize = 1514;
/// The most frames for the guest that are collected before they go.
const BATCH: usize = 64;

/// The wire between the stack and the guest.
#[derive(Default)]
struct Wire {
    from_guest: VecDeque<Vec<u8>>,
    to_guest: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.from_guest.pop_front()?), Sending(&mut self.to_guest)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        (self.to_guest.len() < BATCH).then_some(Sending(&mut self.to_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        // The guest leaves checksums out, as its card offers.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

/// The gateway.
pub(super) struct Nat {
    host: HostSide,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    tcp: Tcp,
    udp: Udp,
    guest_mac: [u8; 6],
    start: std::time::Instant,
}

impl Nat {
    /// A gateway; forwarded ports are listened on from now on.
    pub(super) fn new(host: HostSide, forwards: &[Forward]) -> Result<Self, NetworkError> {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GATEWAY_MAC)));
        config.random_seed = 0x5249_4e47;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for address in [GATEWAY, NAME_SERVER] {
                // There is room for two (smoltcp's IFACE_MAX_ADDR_COUNT).
                let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, 24)));
            }
        });
        interface.set_any_ip(true);
        // With any_ip, the stack takes what is routed to itself.
        let _ = interface.routes_mut().add_default_ipv4_route(GATEWAY);
        Ok(Self {
            host,
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            tcp: Tcp::new(forwards)?,
            udp: Udp::new(forwards)?,
            guest_mac: [0xff; 6],
            start: std::time::Instant::now(),
        })
    }

    /// Works until the guest's card is gone.
    pub(super) fn run(mut self, mut send: impl FnMut(Vec<Vec<u8>>)) {
        while let Some(idle) = self.step(&mut send) {
            if let Some(now) = idle {
                let delay = self.interface.poll_delay(now, &self.sockets);
                self.wait(delay.map(|delay| delay.total_micros()));
            }
        }
    }

    /// Does what there is to do; the moment if there is nothing more to do now. `None` if the guest's card is gone.
    pub(super) fn step(&mut self, send: &mut impl FnMut(Vec<Vec<u8>>)) -> Option<Option<Instant>> {
        if !self.take_frames() {
            return None;
        }
        let mut frames = Vec::new();
        self.tcp.accept(&mut self.interface, &mut self.sockets, &mut frames);
        self.wire.from_guest.extend(frames);
        let now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let moved = self.tcp.pump(&mut self.sockets);
        self.udp.receive(self.guest_mac, &mut self.wire.to_guest);
        let full = self.wire.to_guest.len() >= BATCH;
        if !self.wire.to_guest.is_empty() {
            send(core::mem::take(&mut self.wire.to_guest));
        }
        Some((!moved && !full && self.wire.from_guest.is_empty()).then_some(now))
    }

    /// Takes what the guest has sent; false if nothing will come any more.
    fn take_frames(&mut self) -> bool {
        let mut bytes = [0; 4096];
        while matches!(self.host.wake.read(&mut bytes), Ok(n) if n == bytes.len()) {}
        loop {
            let frame = match self.host.frames.try_recv() {
                Ok(frame) => frame,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            let mut mac = [0; 6];
            mac.copy_from_slice(&frame[6..12]);
            match classify(&frame) {
                Kind::Stack => self.wire.from_guest.push_back(frame),
                Kind::Open { from, to } => {
                    self.guest_mac = mac;
                    let frame = self.tcp.open(from, to, frame, &self.sockets);
                    self.wire.from_guest.extend(frame);
                }
                Kind::Datagram { to, data, .. } if to.port() == DHCP_SERVER => {
                    self.guest_mac = mac;
                    self.wire.to_guest.extend(dhcp(&data, mac));
                }
                Kind::Datagram { from, to, data } => {
                    self.guest_mac = mac;
                    self.udp.send(from, to, &data);
                }
                Kind::Other => {}
            }
        }
    }

    /// Waits for the guest, for the host's sockets, or for the stack's timers (in microseconds).
    fn wait(&mut self, delay: Option<u64>) {
        let mut fds = vec![PollFd::new(&self.host.wake, PollFlags::IN)];
        self.tcp.poll_fds(&self.sockets, &mut fds);
        fds.extend(self.udp.sockets().map(|socket| PollFd::new(socket, PollFlags::IN)));
        let limit = delay.map(|micros| Timespec {
            tv_sec: (micros / 1_000_000) as i64,
            tv_nsec: (micros % 1_000_000 * 1000) as i64,
        });
        // Interrupted or not, the caller looks at everything.
        let _ = poll(&mut fds, limit.as_ref());
    }
}
