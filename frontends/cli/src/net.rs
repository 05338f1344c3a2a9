//! `--net user,hostfwd=tcp::2222-:22` and `--net tap,ifname=tap0`, as QEMU's users know it.

use crate::drive::pairs;
use ringworld_machine::{Forward, GUEST, Network, NetworkKind, Protocol};
use std::net::{Ipv4Addr, SocketAddrV4};

/// `[address]:port`, with an address for where there is none.
fn endpoint(text: &str, default: Ipv4Addr) -> Option<SocketAddrV4> {
    let (address, port) = text.rsplit_once(':')?;
    let address = if address.is_empty() { default } else { address.parse().ok()? };
    port.parse().ok().filter(|port| *port != 0).map(|port| SocketAddrV4::new(address, port))
}

/// `tcp:[host]:port-[guest]:port`
fn forward(text: &str) -> Option<Forward> {
    let (protocol, rest) = text.split_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let (host, guest) = rest.rsplit_once('-')?;
    Some(Forward { protocol, host: endpoint(host, Ipv4Addr::LOCALHOST)?, guest: endpoint(guest, GUEST)? })
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    // A group address is no card's.
    <[u8; 6]>::try_from(bytes?).ok().filter(|mac| mac[0] & 1 == 0)
}

/// Parses the option.
pub fn parse_net(text: &str) -> Result<Network, String> {
    let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
    if !matches!(kind, "user" | "tap") {
        return Err(format!("there is no network {kind:?}: give user or tap"));
    }
    let (mut forwards, mut address, mut interface) = (Vec::new(), None, None);
    for (key, value) in if rest.is_empty() { Vec::new() } else { pairs(rest)? } {
        match &*key {
            "hostfwd" if kind == "user" => {
                let forward = forward(&value)
                    .ok_or_else(|| format!("hostfwd={value}: give tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT"))?;
                forwards.push(forward);
            }
            "mac" => {
                address = Some(
                    mac(&value)
                        .ok_or_else(|| format!("mac={value}: give six bytes like 52:54:00:12:34:56"))?,
                );
            }
            // Linux's IFNAMSIZ counts the zero at the end; it fills in a number for a percent sign.
            "ifname" if kind == "tap" && (value.len() > 15 || value.contains(['/', '%', ' '])) => {
                return Err(format!("ifname={value}: give the name of a network interface"));
            }
            "ifname" if kind == "tap" => interface = Some(value),
            _ => {
                return Err(format!("{kind} has no {key}=; user has hostfwd, tap has ifname, both have mac"));
            }
        }
    }
    let kind = match kind {
        "tap" => NetworkKind::Tap { interface: interface.ok_or("ifname= is missing: give tap,ifname=NAME")? },
        _ => NetworkKind::User { forwards },
    };
    Ok(Network { kind, mac: address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let network = parse_net("user,hostfwd=tcp::2222-:22,hostfwd=udp:0.0.0.0:53-10.0.2.16:5353").unwrap();
        let NetworkKind::User { forwards } = network.kind else { panic!() };
        assert_eq!(forwards[0].host, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2222));
        assert_eq!(forwards[0].guest, SocketAddrV4::new(GUEST, 22));
        assert_eq!(forwards[1].guest, "10.0.2.16:5353".parse().unwrap());
        assert_eq!(parse_net("user,mac=52:54:00:00:00:01").unwrap().mac, Some([0x52, 0x54, 0, 0, 0, 1]));
        let tap = parse_net("tap,ifname=tap0").unwrap();
        assert_eq!(tap.kind, NetworkKind::Tap { interface: "tap0".into() });
        for text in [
            "",
            "tap",
            "tap,ifname=a/b",
            "tap,ifname=0123456789abcdef",
            "tap,ifname=t,hostfwd=tcp::1-:2",
            "tun",
            "user,",
            "user,hostfwd=tcp:22",
            "user,hostfwd=icmp::1-:2",
            "user,mac=1:2:3:4:5:6",
            "user,x=y",
        ] {
            assert!(parse_net(text).is_err() || text == "user,", "{text}");
        }
    }
}
