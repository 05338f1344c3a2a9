//! Frames of a guest to the gateway of its network: ARP, ICMP, UDP with DHCP, TCP, and noise. Connections reach one listener of
//! the fuzzer's own, and a port of the host where nobody listens.

use crate::random::Random;
use ringworld_machine::fuzz_gateway;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::OnceLock;

const GUEST: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
const NAME_SERVER: [u8; 4] = [10, 0, 2, 3];
const CLOSED: u16 = 1;

/// A server on the loopback interface that sends a little, takes a little, and closes.
fn server() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.set_nonblocking(true);
                let _ = stream.write(&[0x55; 3000]);
                let _ = stream.read(&mut [0; 4000]);
            }
        });
        port
    })
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0x12, 0x34, 0x56][..], &kind.to_be_bytes(), payload].concat()
}

fn ip(random: &mut Random, protocol: u8, target: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let words = if random.one_in(16) { random.below(11) } else { 0 };
    let options = random.bytes(4 * words);
    let length = (20 + options.len() + payload.len()) as u16;
    let mut header = vec![0x45 + (options.len() / 4) as u8, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(GUEST);
    header.extend(target);
    header.extend(options);
    let sum = sum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend_from_slice(payload);
    ethernet(0x0800, &header)
}

fn tcp(random: &mut Random, sequence: &mut u32, acknowledged: u32) -> Vec<u8> {
    let port = if random.one_in(8) { CLOSED } else { server() };
    let flags = random.pick(&[0x02u8, 0x02, 0x10, 0x10, 0x18, 0x18, 0x11, 0x04, 0x12, 0x29, 0xff, 0]);
    let options: Vec<u8> = match random.below(6) {
        // MSS, window scale; noise.
        0 => vec![2, 4, 5, 0xb4, 1, 3, 3, 7],
        1 => vec![2, 4, 0, 0, 3, 3, 255, 0],
        2 => {
            let len = 4 * random.below(11);
            random.bytes(len)
        }
        _ => Vec::new(),
    };
    let mut segment = Vec::new();
    segment.extend(random.pick(&[4000u16, 4000, 4001, 0]).to_be_bytes());
    segment.extend(port.to_be_bytes());
    let at = if random.one_in(8) { random.edgy() as u32 } else { *sequence };
    segment.extend(at.to_be_bytes());
    let ack = if random.one_in(4) { random.edgy() as u32 } else { acknowledged };
    segment.extend(ack.to_be_bytes());
    let offset = if random.one_in(16) { random.below(16) as u8 } else { 5 + (options.len() / 4) as u8 };
    segment.extend([offset << 4, flags]);
    segment.extend(random.pick(&[0u16, 1, 1000, 0xffff]).to_be_bytes());
    segment.extend([0, 0, 0, random.below(2) as u8]);
    segment.extend(options);
    let len = random.pick(&[0usize, 0, 1, 100, 1460, 9000]);
    segment.resize(segment.len() + len, 0x33);
    *sequence = sequence.wrapping_add(len as u32 + u32::from(flags & 3 != 0));
    ip(random, 6, GATEWAY, &segment)
}

fn udp(random: &mut Random) -> Vec<u8> {
    let dhcp = random.one_in(2);
    let data = if dhcp {
        let mut message = vec![1u8, 1, 6, 0, 1, 2, 3, 4];
        message.resize(236, 0);
        message.extend([99, 130, 83, 99, 53, 1, random.below(9) as u8]);
        let len = random.below(40);
        message.extend((0..len).map(|_| random.edgy() as u8));
        message.truncate(if random.one_in(4) { random.below(300) } else { 1000 });
        message
    } else {
        let len = random.below(100);
        random.bytes(len)
    };
    let length = if random.one_in(8) { random.edgy() as u16 } else { 8 + data.len() as u16 };
    let mut datagram = random.pick(&[68u16, 5000, 0]).to_be_bytes().to_vec();
    datagram.extend(if dhcp { 67 } else { CLOSED }.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    let target = if dhcp { [255; 4] } else { GATEWAY };
    ip(random, 17, target, &datagram)
}

/// Changed bytes must not lead out of this host, nor to somebody else's server here.
fn keep_inside(frame: &mut [u8]) {
    if frame.len() < 34 || frame[12..14] != [8, 0] || !matches!(frame[23], 6 | 17) {
        return;
    }
    if ![GATEWAY, [255; 4]].iter().any(|target| frame[30..34] == target[..]) {
        frame[30..34].copy_from_slice(&GATEWAY);
    }
    let ports = 14 + usize::from(frame[14] & 15) * 4;
    if let Some(port) = frame.get_mut(ports + 2..ports + 4) {
        let number = u16::from_be_bytes([port[0], port[1]]);
        if ![67, CLOSED, server()].contains(&number) {
            port.copy_from_slice(&CLOSED.to_be_bytes());
        }
    }
}

pub fn run(random: &mut Random) -> &'static str {
    let (mut sequence, mut frames) = (1, Vec::new());
    for _ in 0..random.below(40) {
        let mut frame = match random.below(10) {
            0 => {
                let mut arp = vec![0, 1, 8, 0, 6, 4, 0, random.below(3) as u8, 2, 2, 2, 2, 2, 2];
                arp.extend(GUEST);
                arp.extend([0; 6]);
                arp.extend(random.pick(&[GATEWAY, NAME_SERVER, GUEST, [8, 8, 8, 8]]));
                ethernet(0x0806, &arp)
            }
            1 => {
                let len = random.below(1500);
                let mut echo = vec![random.pick(&[8u8, 8, 0, 3, 13]), 0, 0, 0, 0, 1, 0, 1];
                echo.resize(8 + len, 7);
                let sum = sum(&echo);
                echo[2..4].copy_from_slice(&sum.to_be_bytes());
                ip(random, 1, GATEWAY, &echo)
            }
            2 | 3 => udp(random),
            4 => {
                let len = random.below(100);
                let payload = random.bytes(len);
                ethernet(random.pick(&[0x0800, 0x0806, 0x86dd, 0x8100, 0]), &payload)
            }
            // The gateway's first sequence numbers follow from its seed: some acknowledgements are right.
            _ => {
                let ack = random.edgy() as u32;
                tcp(random, &mut sequence, ack)
            }
        };
        if random.one_in(8) {
            random.damage(&mut frame, 60);
        }
        if random.one_in(16) {
            frame.truncate(14.max(random.below(frame.len() + 1)));
        }
        keep_inside(&mut frame);
        // The card lets nothing shorter through.
        if frame.len() >= 14 {
            frames.push(frame);
        }
    }
    match fuzz_gateway(frames) {
        Ok(0) => "silence",
        Ok(_) => "answers",
        // The host has no descriptors left for a moment.
        Err(_) => "no gateway",
    }
}
