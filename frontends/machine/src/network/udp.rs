//! UDP through the gateway: one socket of the host for each of the guest's.

use super::packet::datagram;
use super::{Forward, GATEWAY, NAME_SERVER, NetworkError, Protocol};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// How long a socket without traffic lives, and how many there are at most.
const IDLE: Duration = Duration::from_secs(120);
const MAX_SOCKETS: usize = 256;
const MAX_DATAGRAM: usize = 65_507;
const DNS_PORT: u16 = 53;

struct Flow {
    socket: UdpSocket,
    used: Instant,
    /// A forwarded port does not end.
    forward: bool,
}

/// The sockets, by the guest's address and port.
pub(super) struct Udp {
    flows: HashMap<SocketAddrV4, Flow>,
    name_server: SocketAddrV4,
}

/// The host's first name server.
fn host_name_server() -> SocketAddrV4 {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    SocketAddrV4::new(servers.into_iter().next().unwrap_or(Ipv4Addr::LOCALHOST), DNS_PORT)
}

fn bind(address: SocketAddrV4) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Udp {
    pub(super) fn new(forwards: &[Forward]) -> Result<Self, NetworkError> {
        let mut flows = HashMap::new();
        for forward in forwards.iter().filter(|forward| forward.protocol == Protocol::Udp) {
            let socket = bind(forward.host).map_err(|error| NetworkError::Listen(forward.host, error))?;
            flows.insert(forward.guest, Flow { socket, used: Instant::now(), forward: true });
        }
        Ok(Self { flows, name_server: host_name_server() })
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.flows.values().map(|flow| &flow.socket)
    }

    /// The guest sends.
    pub(super) fn send(&mut self, from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) {
        let target = match *to.ip() {
            NAME_SERVER if to.port() == DNS_PORT => self.name_server,
            GATEWAY => SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port()),
            ip if ip.is_broadcast() || ip.is_multicast() || ip.is_unspecified() => return,
            _ => to,
        };
        let now = Instant::now();
        self.flows.retain(|_, flow| flow.forward || now.duration_since(flow.used) < IDLE);
        if !self.flows.contains_key(&from) {
            if self.flows.len() >= MAX_SOCKETS {
                return;
            }
            let Ok(socket) = bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)) else { return };
            self.flows.insert(from, Flow { socket, used: now, forward: false });
        }
        if let Some(flow) = self.flows.get_mut(&from) {
            flow.used = now;
            // A datagram that cannot be sent is lost, as on any network.
            let _ = flow.socket.send_to(data, target);
        }
    }

    /// What has come for the guest, as frames.
    pub(super) fn receive(&mut self, mac: [u8; 6], frames: &mut Vec<Vec<u8>>) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        for (guest, flow) in &mut self.flows {
            for _ in 0..64 {
                let Ok((len, SocketAddr::V4(from))) = flow.socket.recv_from(&mut buffer) else { break };
                flow.used = Instant::now();
                // What is longer than the MTU would want fragments.
                if len > 1472 {
                    continue;
                }
                let from = if from == self.name_server {
                    SocketAddrV4::new(NAME_SERVER, from.port())
                } else if from.ip().is_loopback() {
                    SocketAddrV4::new(GATEWAY, from.port())
                } else {
                    from
                };
                frames.push(datagram(from, *guest, mac, &buffer[..len]));
            }
        }
    }
}
