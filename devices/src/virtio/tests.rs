//! Virtqueues and the PCI transport, driven as a driver does.

use super::queue::{Chain, Queue, QueueError, total};
use super::{VirtioBlk, VirtioRng, virtio_pci};
use crate::dma::{Dma, RequesterId};
use crate::pci::{ECAM_BASE, Port};
use crate::storage::{DiskOptions, LATENCY, open_disk};
use crate::{Board, BoardConfig, PciSlot};
use ringworld_core::{CpuId, GuestPhys, IoContext, Platform, VirtualTime};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use std::sync::Arc;

const DESCRIPTORS: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn memory() -> Arc<GuestMemory> {
    let region = MemoryRegion { base: GuestPhys(0), size: 1 << 20, kind: RegionKind::Ram };
    Arc::new(GuestMemory::new(&[region]).unwrap())
}

fn dma(memory: &Arc<GuestMemory>) -> Dma {
    Dma::new(Some(memory.clone()), RequesterId(0))
}

fn queue(size: u16, packed: bool, events: bool) -> Queue {
    let mut queue = Queue::new(size);
    (queue.descriptors, queue.driver, queue.device) = (DESCRIPTORS, DRIVER, DEVICE);
    queue.enable(packed, events);
    queue
}

/// Address, length, flags, next (or ID).
type Entry = (u64, u32, u16, u16);

fn put(memory: &GuestMemory, at: u64, entries: &[Entry], packed: bool) {
    for (n, &(addr, len, flags, next)) in entries.iter().enumerate() {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        let (first, second) = if packed { (next, flags) } else { (flags, next) };
        bytes.extend(first.to_le_bytes());
        bytes.extend(second.to_le_bytes());
        memory.write(GuestPhys(at + 16 * n as u64), &bytes).unwrap();
    }
}

/// Makes `heads` available in a split ring of size 4.
fn offer(memory: &GuestMemory, heads: &[u16]) {
    for (n, head) in heads.iter().enumerate() {
        memory.write_u16(GuestPhys(DRIVER + 4 + 2 * n as u64), *head).unwrap();
    }
    memory.write_u16(GuestPhys(DRIVER + 2), heads.len() as u16).unwrap();
}

fn lengths(chain: &Chain) -> (u64, u64) {
    (total(&chain.readable), total(&chain.writable))
}

/// 2.7.5: chains, indirect tables, and what is not allowed.
#[test]
fn split_chains() {
    let good = |entries: &[Entry], heads: &[u16], table: &[Entry]| {
        let memory = memory();
        put(&memory, DESCRIPTORS, entries, false);
        put(&memory, 0x4000, table, false);
        offer(&memory, heads);
        queue(4, false, false).pop(&dma(&memory))
    };
    let chain = good(
        &[(0x100, 16, NEXT, 2), (0, 0, 0, 0), (0x200, 32, NEXT | WRITE, 3), (0x300, 1, WRITE, 0)],
        &[0],
        &[],
    );
    assert_eq!(lengths(&chain.unwrap().unwrap()), (16, 33));
    let chain = good(&[(0x4000, 32, INDIRECT, 0)], &[0], &[(0x100, 8, NEXT, 1), (0x200, 9, WRITE, 0)]);
    assert_eq!(lengths(&chain.unwrap().unwrap()), (8, 9));
    let loops: [(&[Entry], &[u16], &[Entry]); 9] = [
        // A loop; a next and a head outside of the table.
        (&[(0, 1, NEXT, 1), (0, 1, NEXT, 0)], &[0], &[]),
        (&[(0, 1, NEXT, 4)], &[0], &[]),
        (&[], &[4], &[]),
        // Readable after writable.
        (&[(0, 1, NEXT | WRITE, 1), (0, 1, 0, 0)], &[0], &[]),
        // Indirect inside of a chain, inside of a table, of a wrong size, and outside of memory.
        (&[(0, 1, NEXT, 1), (0x4000, 16, INDIRECT, 0)], &[0], &[]),
        (&[(0x4000, 16, INDIRECT, 0)], &[0], &[(0x4000, 16, INDIRECT, 0)]),
        (&[(0x4000, 17, INDIRECT, 0)], &[0], &[]),
        (&[(0x4000, 0, INDIRECT, 0)], &[0], &[]),
        (&[(u64::MAX - 8, 32, INDIRECT, 0)], &[0], &[]),
    ];
    for (n, (entries, heads, table)) in loops.into_iter().enumerate() {
        assert!(good(entries, heads, table).is_err(), "case {n}");
    }
    let memory = memory();
    memory.write_u16(GuestPhys(DRIVER + 2), 5).unwrap();
    let error = queue(4, false, false).pop(&dma(&memory)).unwrap_err();
    assert!(matches!(error, QueueError::Malformed(_)), "more than the ring has");
}

/// 2.7.7.2, 2.7.10: interrupts when the driver wants them.
#[test]
fn split_interrupts() {
    for (events, flags, used_event, expected) in [
        (false, 0u16, 0u16, true),
        (false, 1, 0, false),
        (true, 1, 0, true),
        (true, 0, 1, false),
        (true, 0, 0xffff, false),
    ] {
        let memory = memory();
        put(&memory, DESCRIPTORS, &[(0x100, 16, 0, 0)], false);
        offer(&memory, &[0]);
        memory.write_u16(GuestPhys(DRIVER), flags).unwrap();
        memory.write_u16(GuestPhys(DRIVER + 4 + 8), used_event).unwrap();
        let (mut queue, dma) = (queue(4, false, events), dma(&memory));
        let chain = queue.pop(&dma).unwrap().unwrap();
        assert!(!queue.wants_interrupt(&dma).unwrap());
        queue.push(&dma, &chain, 7).unwrap();
        assert_eq!(queue.wants_interrupt(&dma).unwrap(), expected, "{events} {flags} {used_event}");
        assert_eq!(memory.read_u16(GuestPhys(DEVICE + 2)).unwrap(), 1);
        assert_eq!(memory.read_u32(GuestPhys(DEVICE + 8)).unwrap(), 7);
        let told = memory.read_u16(GuestPhys(DEVICE + 4 + 32)).unwrap();
        assert_eq!(told, u16::from(events), "avail_event");
        assert_eq!(queue.pop(&dma).unwrap(), None);
    }
}

/// 2.8: chains over the end of the ring, wrap counters, used descriptors.
#[test]
fn packed_ring_wraps() {
    const AVAIL: u16 = 0x80;
    const USED: u16 = 0x8000;
    let (memory, size) = (memory(), 3);
    let (mut queue, dma) = (queue(size, true, false), dma(&memory));
    let mut wrap = true;
    let mut at = 0u16;
    for round in 0..10u16 {
        assert_eq!(queue.pop(&dma).unwrap(), None, "round {round}");
        let id = 100 + round;
        // Two descriptors; the head becomes available last.
        let first = at;
        for part in 0..2 {
            let phase = if wrap { AVAIL } else { USED };
            let flags = if part == 0 { NEXT } else { WRITE } | phase;
            put(&memory, DESCRIPTORS + 16 * u64::from(at), &[(0x100, 8, flags, id)], true);
            at += 1;
            if at == size {
                (at, wrap) = (0, !wrap);
            }
        }
        let chain = queue.pop(&dma).unwrap().unwrap();
        assert_eq!(lengths(&chain), (8, 8));
        queue.push(&dma, &chain, 8).unwrap();
        assert!(queue.wants_interrupt(&dma).unwrap());
        let used = GuestPhys(DESCRIPTORS + 16 * u64::from(first));
        assert_eq!(memory.read_u16(used.offset(12)).unwrap(), id);
        let flags = memory.read_u16(used.offset(14)).unwrap();
        assert_eq!(flags & AVAIL != 0, flags & USED != 0, "used as seen with either counter");
    }
}

const BASE: u64 = 0xc000_0000;

/// A board with one device, its registers enabled; where BAR 4 is.
fn board(memory: &Arc<GuestMemory>, device: Box<dyn super::VirtioDevice>) -> (Board, u64) {
    let (config, implementation) = virtio_pci(device, Port::IntegratedEndpoint);
    let slot = PciSlot {
        name: "device".into(),
        behind_port: false,
        device: Some(2),
        function: 0,
        config,
        implementation,
    };
    let config = BoardConfig { memory: Some(memory.clone()), pci: vec![slot], ..BoardConfig::default() };
    let board = Board::new(config).unwrap();
    board.assign_pci();
    let bar = board.pci_functions().iter().find(|f| f.name == "device").unwrap().bars[1];
    assert!(bar.0 == 4 && bar.1 >= BASE);
    write(&board, ECAM_BASE + (2 << 15) + 4, 7, 2);
    (board, bar.1)
}

fn at(now: u64) -> IoContext {
    IoContext { cpu: CpuId(0), now: VirtualTime(now) }
}

fn write(board: &Board, address: u64, value: u64, len: usize) {
    board.mmio_write(at(1), GuestPhys(address), &value.to_le_bytes()[..len]);
}

fn read(board: &Board, address: u64, len: usize) -> u64 {
    let mut data = [0; 8];
    board.mmio_read(at(1), GuestPhys(address), &mut data[..len]);
    u64::from_le_bytes(data)
}

/// Sets the device up with one split queue of four entries (3.1.1).
fn start(board: &Board, base: u64, features: u64) {
    for (offset, value, len) in [
        (0x14, 0u64, 1),
        (0x14, 3, 1),
        (0x08, 0, 4),
        (0x0c, features & 0xffff_ffff, 4),
        (0x08, 1, 4),
        (0x0c, features >> 32, 4),
        (0x14, 0x0b, 1),
    ] {
        write(board, base + offset, value, len);
    }
    assert_eq!(read(board, base + 0x14, 1), 0x0b, "FEATURES_OK");
    for (offset, value, len) in [
        (0x16, 0, 2),
        (0x18, 4, 2),
        (0x20, DESCRIPTORS, 8),
        (0x28, DRIVER, 8),
        (0x30, DEVICE, 8),
        (0x1c, 1, 2),
        (0x14, 0x0f, 1),
    ] {
        write(board, base + offset, value, len);
    }
}

const VERSION_1: u64 = 1 << 32;

/// 2.2, 3.1.1: features that are not offered, or without VERSION_1, are not taken.
#[test]
fn features_are_negotiated() {
    let memory = memory();
    let (board, base) = board(&memory, Box::new(VirtioRng::new(1)));
    for (low, high, taken) in
        [(0u64, 1u64, true), (0, 0, false), (1 << 5, 1, false), (1 << 29, 5, true), (0, 1 | 1 << 6, false)]
    {
        for (offset, value, len) in [
            (0x14, 0, 1),
            (0x14, 3, 1),
            (0x08, 0, 4),
            (0x0c, low, 4),
            (0x08, 1, 4),
            (0x0c, high, 4),
            (0x14, 0x0b, 1),
        ] {
            write(&board, base + offset, value, len);
        }
        assert_eq!(read(&board, base + 0x14, 1) & 8 != 0, taken, "{low:#x} {high:#x}");
    }
}

/// 4.1.4.5, 2.1.2: a broken ring asks for a reset, and after a reset the device works.
#[test]
fn a_broken_ring_needs_a_reset() {
    let memory = memory();
    let (board, base) = board(&memory, Box::new(VirtioRng::new(1)));
    start(&board, base, VERSION_1);
    offer(&memory, &[9]);
    write(&board, base + 0x3000, 0, 2);
    assert_eq!(read(&board, base + 0x14, 1), 0x4f, "DEVICE_NEEDS_RESET");
    assert_eq!(read(&board, base + 0x1000, 1), 2, "the configuration interrupt");
    assert_eq!(read(&board, base + 0x1000, 1), 0, "reading clears it");
    put(&memory, DESCRIPTORS, &[(0x8000, 64, WRITE, 0)], false);
    offer(&memory, &[]);
    start(&board, base, VERSION_1);
    offer(&memory, &[0]);
    write(&board, base + 0x3000, 0, 2);
    assert_eq!((read(&board, base + 0x14, 1), read(&board, base + 0x1000, 1)), (0x0f, 1));
    let mut random = [0; 64];
    memory.read(GuestPhys(0x8000), &mut random).unwrap();
    assert!(random.iter().filter(|byte| **byte != 0).count() > 32);
    // Without the right to master the bus nothing is reached.
    write(&board, ECAM_BASE + (2 << 15) + 4, 3, 2);
    offer(&memory, &[0, 0]);
    write(&board, base + 0x3000, 0, 2);
    assert_eq!(read(&board, base + 0x14, 1), 0x4f);
}

/// 5.2.6: requests and their status.
#[test]
fn block_requests() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; 8192]).unwrap();
    let (memory, header, data, status) = (memory(), 0x8000, 0x9000, 0xa000);
    let disk = open_disk(&DiskOptions::new(file.path())).unwrap();
    let (board, base) = board(&memory, Box::new(VirtioBlk::new(disk, "serial")));
    assert_eq!(read(&board, base + 0x2000, 8), 16, "capacity");
    start(&board, base, VERSION_1 | 1 << 9 | 1 << 13 | 1 << 14);
    let mut now = 1;
    let mut count = 0;
    for (kind, sector, len, flags, expected) in [
        (0u32, 15u64, 512u32, WRITE, 0u8),
        (0, 16, 512, WRITE, 1),
        (0, u64::MAX, 512, WRITE, 1),
        (0, 0, 100, WRITE, 1),
        (1, 0, 512, 0, 0),
        (1, 15, 1024, 0, 1),
        (4, 0, 0, 0, 0),
        (8, 0, 20, WRITE, 0),
        (11, 0, 16, 0, 0),
        (13, 0, 16, 0, 0),
        (13, 0, 15, 0, 1),
        (99, 0, 0, 0, 2),
    ] {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        memory.write(GuestPhys(header), &bytes).unwrap();
        memory.write(GuestPhys(status), &[0xee]).unwrap();
        // As segments of discards and writes of zeroes: one sector, the second.
        memory.write(GuestPhys(data), &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let entries = [(header, 16, NEXT, 1), (data, len, flags | NEXT, 2), (status, 1, WRITE, 0)];
        put(&memory, DESCRIPTORS, &entries, false);
        memory.write_u16(GuestPhys(DRIVER + 4 + 2 * (count % 4)), 0).unwrap();
        count += 1;
        memory.write_u16(GuestPhys(DRIVER + 2), count as u16).unwrap();
        board.mmio_write(at(now), GuestPhys(base + 0x3000), &[0, 0]);
        let mut seen = [0];
        memory.read(GuestPhys(status), &mut seen).unwrap();
        assert_eq!(seen, [0xee], "not before its time");
        now += LATENCY;
        board.advance(VirtualTime(now));
        memory.read(GuestPhys(status), &mut seen).unwrap();
        assert_eq!(seen, [expected], "type {kind}, sector {sector}, {len} bytes");
        assert_eq!(memory.read_u16(GuestPhys(DEVICE + 2)).unwrap(), count as u16);
    }
    let contents = std::fs::read(file.path()).unwrap();
    assert_eq!(contents[..16], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], "written");
    assert!(contents[512..1024].iter().all(|byte| *byte == 0), "zeroed");
    assert!(contents[1024..].iter().all(|byte| *byte == 7));
}
