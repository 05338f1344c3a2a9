//! Frames between gateway and guest: what the gateway looks at, and what it makes itself (UDP, DHCP).

use super::{GATEWAY, GATEWAY_MAC, GUEST, NAME_SERVER};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr, TcpPacket, UdpPacket, UdpRepr,
};
use std::net::{Ipv4Addr, SocketAddrV4};

/// What a frame of the guest is to the gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// For the gateway's own stack: ARP and ICMP of its addresses, TCP.
    Stack,
    /// Opens a TCP connection.
    Open {
        /// From.
        from: SocketAddrV4,
        /// To.
        to: SocketAddrV4,
    },
    /// A UDP datagram.
    Datagram {
        /// From.
        from: SocketAddrV4,
        /// To.
        to: SocketAddrV4,
        /// What it says.
        data: Vec<u8>,
    },
    /// Nothing that the gateway carries.
    Other,
}

/// Looks at a frame.
pub(super) fn classify(frame: &[u8]) -> Kind {
    kind(frame).unwrap_or(Kind::Other)
}

fn kind(frame: &[u8]) -> Option<Kind> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Arp => {
            let arp = ArpPacket::new_checked(ethernet.payload()).ok()?;
            // The stack would answer for every address.
            let target: [u8; 4] = arp.target_protocol_addr().try_into().ok()?;
            [GATEWAY.octets(), NAME_SERVER.octets()].contains(&target).then_some(Kind::Stack)
        }
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            if ip.more_frags() || ip.frag_offset() != 0 {
                return None;
            }
            let (source, target) = (ip.src_addr(), ip.dst_addr());
            match ip.next_header() {
                IpProtocol::Icmp => [GATEWAY, NAME_SERVER].contains(&target).then_some(Kind::Stack),
                IpProtocol::Tcp => {
                    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
                    if target.is_broadcast() || target.is_multicast() || target.is_unspecified() {
                        return None;
                    }
                    Some(if tcp.syn() && !tcp.ack() {
                        Kind::Open {
                            from: SocketAddrV4::new(source, tcp.src_port()),
                            to: SocketAddrV4::new(target, tcp.dst_port()),
                        }
                    } else {
                        Kind::Stack
                    })
                }
                IpProtocol::Udp => {
                    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
                    Some(Kind::Datagram {
                        from: SocketAddrV4::new(source, udp.src_port()),
                        to: SocketAddrV4::new(target, udp.dst_port()),
                        data: udp.payload().to_vec(),
                    })
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// A datagram for the guest as a frame.
pub(super) fn datagram(from: SocketAddrV4, to: SocketAddrV4, to_mac: [u8; 6], data: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let ip = Ipv4Repr {
        src_addr: *from.ip(),
        dst_addr: *to.ip(),
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + data.len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(GATEWAY_MAC),
        dst_addr: EthernetAddress(to_mac),
        ethertype: EthernetProtocol::Ipv4,
    };
    let checksums = ChecksumCapabilities::default();
    let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + udp.header_len() + data.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    ethernet.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &ip.src_addr.into(),
        &ip.dst_addr.into(),
        data.len(),
        |to| to.copy_from_slice(data),
        &checksums,
    );
    bytes
}

/// DHCP (RFC 2131, 2132).
const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const OPTIONS: usize = 240;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const LEASE: u32 = 86_400;
/// Port numbers of server and client.
pub(super) const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// The gateway's answer to a DHCP message, as a frame.
pub(super) fn dhcp(message: &[u8], from_mac: [u8; 6]) -> Option<Vec<u8>> {
    if message.len() < OPTIONS || message[0] != BOOTREQUEST || message[236..240] != MAGIC {
        return None;
    }
    let option = |wanted: u8| {
        let mut rest = &message[OPTIONS..];
        while let [code, tail @ ..] = rest {
            match code {
                0 => rest = tail,
                255 => return None,
                _ => {
                    let (&len, tail) = tail.split_first()?;
                    let value = tail.get(..usize::from(len))?;
                    if *code == wanted {
                        return Some(value);
                    }
                    rest = &tail[usize::from(len)..];
                }
            }
        }
        None
    };
    let asked = option(50).and_then(|address| <[u8; 4]>::try_from(address).ok());
    let current: [u8; 4] = message[12..16].try_into().ok()?;
    let wants = asked.or((current != [0; 4]).then_some(current));
    let kind = match *option(53)?.first()? {
        DISCOVER => OFFER,
        REQUEST if wants.is_none_or(|address| address == GUEST.octets()) => ACK,
        REQUEST => NAK,
        _ => return None,
    };
    let mut reply = vec![0; OPTIONS];
    reply[..4].copy_from_slice(&[BOOTREPLY, 1, 6, 0]);
    // Transaction, flags, client hardware address.
    reply[4..8].copy_from_slice(&message[4..8]);
    reply[10..12].copy_from_slice(&message[10..12]);
    reply[28..44].copy_from_slice(&message[28..44]);
    reply[236..240].copy_from_slice(&MAGIC);
    let mut add = |code: u8, value: &[u8]| {
        reply.extend([code, value.len() as u8]);
        reply.extend_from_slice(value);
    };
    add(53, &[kind]);
    add(54, &GATEWAY.octets());
    if kind != NAK {
        add(51, &LEASE.to_be_bytes());
        add(1, &[255, 255, 255, 0]);
        add(3, &GATEWAY.octets());
        add(6, &NAME_SERVER.octets());
        reply[16..20].copy_from_slice(&GUEST.octets());
        reply[20..24].copy_from_slice(&GATEWAY.octets());
    }
    reply.push(255);
    reply.resize(reply.len().max(300), 0);
    let from = SocketAddrV4::new(GATEWAY, DHCP_SERVER);
    // A client that has no address yet hears broadcasts only, or its own hardware address.
    Some(datagram(from, SocketAddrV4::new(Ipv4Addr::BROADCAST, DHCP_CLIENT), from_mac, &reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_what_it_says() {
        let (from, to) = (SocketAddrV4::new(GATEWAY, 53), SocketAddrV4::new(GUEST, 4000));
        let frame = datagram(from, to, [2; 6], b"hello");
        assert_eq!(classify(&frame), Kind::Datagram { from, to, data: b"hello".to_vec() });
        for len in 0..frame.len() {
            classify(&frame[..len]);
        }
    }

    #[test]
    fn dhcp_offers_and_acknowledges() {
        let message = |kind: u8, asked: Option<[u8; 4]>| {
            let mut message = vec![0; OPTIONS];
            message[0] = BOOTREQUEST;
            message[4..8].copy_from_slice(&[1, 2, 3, 4]);
            message[236..240].copy_from_slice(&MAGIC);
            message.extend([53, 1, kind]);
            if let Some(address) = asked {
                message.extend([50, 4]);
                message.extend(address);
            }
            message.push(255);
            message
        };
        for (kind, asked, expected) in [
            (DISCOVER, None, Some(OFFER)),
            (REQUEST, Some([10, 0, 2, 15]), Some(ACK)),
            (REQUEST, Some([192, 168, 1, 1]), Some(NAK)),
            (7, None, None),
        ] {
            let reply = dhcp(&message(kind, asked), [2; 6]);
            let found = reply.map(|frame| match classify(&frame) {
                Kind::Datagram { data, .. } => {
                    assert_eq!(data[4..8], [1, 2, 3, 4]);
                    data[OPTIONS + 2]
                }
                other => panic!("{other:?}"),
            });
            assert_eq!(found, expected, "{kind} {asked:?}");
        }
        let cut = message(DISCOVER, None);
        for len in 0..cut.len() {
            dhcp(&cut[..len], [0; 6]);
        }
    }
}
