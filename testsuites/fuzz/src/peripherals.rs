//! PCI functions: configuration space, and devices with rings in memory. The host plays a driver that sets them up rightly
//! and then fills rings, commands and registers with noise. Nothing may panic, hang, or reach outside of memory.

use crate::random::Random;
use ringworld_core::{CpuId, GuestPhys, IoContext, Platform, StateHasher, VirtualTime};
use ringworld_devices::ahci::{Attachment, ahci};
use ringworld_devices::nvme::nvme;
use ringworld_devices::pci::{ConfigSpace, ECAM_BASE, PciDevice, Port};
use ringworld_devices::storage::Disk;
use ringworld_devices::vga::vga;
use ringworld_devices::virtio::{
    Virtio9p, VirtioBalloon, VirtioBlk, VirtioConsole, VirtioDevice, VirtioNet, VirtioRng, VirtioVsock,
    virtio_pci,
};
use ringworld_devices::{Board, BoardConfig, HostInput, PciSlot};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use std::io;
use std::sync::Arc;

const RAM: u64 = 1 << 20;
const DISK: usize = 1 << 18;
/// The devices' numbers on bus 0 in the order of [`slots`]; behind root ports, the bus.
const FIRST: u8 = 1;

const DEVICES: usize = 10;

/// A disk in memory.
struct Memory(Vec<u8>);

impl Disk for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn is_read_only(&self) -> bool {
        false
    }
    // Slices out of range panic, which is what is looked for.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        data.copy_from_slice(&self.0[offset as usize..][..data.len()]);
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.0[offset as usize..][..len as usize].fill(0);
        Ok(())
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(offset, len)
    }
}

fn disk() -> Box<dyn Disk> {
    Box::new(Memory(vec![0x5a; DISK]))
}

/// All devices, or the one with this number.
fn slots(only: Option<usize>) -> Vec<PciSlot> {
    let virtio = |device: Box<dyn VirtioDevice>| virtio_pci(device, Port::IntegratedEndpoint);
    let make = |n: usize| -> (bool, (ConfigSpace, Box<dyn PciDevice>)) {
        match n {
            0 => (false, virtio(Box::new(VirtioBlk::new(disk(), "fuzz")))),
            1 => (false, virtio(Box::new(VirtioNet::new(Box::new(|_: Vec<u8>| {}), [2; 6])))),
            2 => (false, virtio(Box::new(VirtioRng::new(1)))),
            3 => (false, virtio(Box::new(VirtioConsole::new(Box::new(|_: &[u8]| {}))))),
            4 => (false, virtio(Box::new(VirtioBalloon::new()))),
            5 => (true, nvme(disk(), "fuzz", Port::Endpoint)),
            6 => (false, ahci(vec![Attachment::Disk(disk(), "fuzz".into()), Attachment::Cdrom(disk())])),
            7 => (false, vga(None)),
            8 => (false, virtio(Box::new(Virtio9p::new(Box::new(|_, _: Vec<u8>| {}), "fuzz")))),
            _ => (false, virtio(Box::new(VirtioVsock::new(Box::new(|_: Vec<u8>| {}), 3)))),
        }
    };
    let slot = |n| {
        let (behind_port, (config, implementation)) = make(n);
        PciSlot {
            name: format!("device{n}"),
            behind_port,
            device: Some(FIRST + n as u8),
            function: 0,
            config,
            implementation,
        }
    };
    (0..DEVICES).filter(|n| only.is_none_or(|only| only == *n)).map(slot).collect()
}

struct Bench {
    board: Board,
    memory: Arc<GuestMemory>,
    now: u64,
}

impl Bench {
    fn new(only: Option<usize>) -> Self {
        let region = MemoryRegion { base: GuestPhys(0), size: RAM, kind: RegionKind::Ram };
        let memory = Arc::new(GuestMemory::new(&[region]).expect("1 MiB"));
        let config = BoardConfig { memory: Some(memory.clone()), pci: slots(only), ..BoardConfig::default() };
        let board = Board::new(config).expect("a board");
        board.assign_pci();
        let mut bench = Self { board, memory, now: 1 };
        for function in bench.board.pci_functions() {
            let at = ECAM_BASE + (u64::from(function.requester.0) << 12) + 4;
            bench.write(at, &[7, 0]);
        }
        bench
    }

    fn context(&mut self) -> IoContext {
        self.now += 100;
        IoContext { cpu: CpuId(0), now: VirtualTime(self.now) }
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        let ctx = self.context();
        self.board.mmio_write(ctx, GuestPhys(at), data);
    }

    fn read(&mut self, at: u64, len: usize) {
        let ctx = self.context();
        let mut data = [0; 8];
        self.board.mmio_read(ctx, GuestPhys(at), &mut data[..len]);
    }

    /// Lets appointments come.
    fn wait(&mut self) {
        self.now += 100_000;
        self.board.advance(VirtualTime(self.now));
        self.board.take_messages();
    }

    fn bar(&self, device: usize, bar: usize) -> u64 {
        let name = format!("device{device}");
        let functions = self.board.pci_functions();
        let function = functions.iter().find(|function| function.name == name);
        function.and_then(|f| f.bars.iter().find(|b| b.0 == bar)).map_or(0, |b| b.1)
    }

    fn fill(&self, random: &mut Random, at: u64, len: u64) {
        let bytes: Vec<u8> = (0..len).map(|_| random.edgy() as u8).collect();
        // Noise may go past the end of memory.
        let _ = self.memory.write(GuestPhys(at), &bytes);
    }

    fn hash(&self) -> u128 {
        let mut hasher = StateHasher::new();
        self.board.hash_state(&mut hasher);
        hasher.digest()
    }

    /// The state survives being saved and restored.
    fn finish(mut self, random: &mut Random) -> &'static str {
        self.wait();
        if random.one_in(16) {
            let image = self.board.save().expect("a state");
            let before = self.hash();
            self.board.reset(VirtualTime(self.now));
            self.board.restore(&image).expect("its own state");
            assert!(self.hash() == before, "another state after restoring");
            let mut damaged = image;
            let at = random.below(damaged.len());
            damaged[at] ^= 1 << random.below(8);
            if self.board.restore(&damaged).is_ok() {
                self.wait();
            }
        }
        "done"
    }
}

/// Configuration space and registers, without any order.
pub fn pci(random: &mut Random) -> &'static str {
    // Video memory makes the last one slow.
    let devices = if random.one_in(16) { 8 } else { 7 };
    let only = random.below(devices);
    let mut bench = Bench::new(Some(only));
    for _ in 0..200 {
        let value = random.edgy().to_le_bytes();
        let len = random.pick(&[1usize, 2, 4, 4, 8]);
        match random.below(8) {
            0..=2 => {
                let function = u64::from(random.pick(&[0u16, 8, 16, 24, 32, 40, 48, 56, 64, 0xf8, 0x100]));
                let offset = {
                    let room = if random.one_in(2) { 0x100 } else { 0x1000 };
                    random.below(room) as u64
                };
                let at = ECAM_BASE + (function << 12) + offset;
                if random.one_in(3) { bench.read(at, len) } else { bench.write(at, &value[..len]) }
            }
            3 => {
                let ctx = bench.context();
                let address = 0x8000_0000u32 | (random.edgy() as u32 & 0x0001_fffc);
                bench.board.port_write(ctx, 0xcf8, &address.to_le_bytes());
                bench.board.port_write(ctx, 0xcfc + random.below(4) as u16, &value[..len.min(4)]);
            }
            4..=6 => {
                let device = only;
                let bar = random.pick(&[0usize, 1, 2, 4, 5]);
                let at = bench.bar(device, bar) + random.below(0x4000) as u64;
                if random.one_in(3) { bench.read(at, len) } else { bench.write(at, &value[..len]) }
            }
            _ => bench.wait(),
        }
    }
    bench.finish(random)
}

/// Virtqueues with everything that a driver writes being noise of the right form.
pub fn virtqueues(random: &mut Random) -> &'static str {
    let device = random.pick(&[0, 1, 2, 3, 4, 8, 9]);
    let mut bench = Bench::new(Some(device));
    let base = bench.bar(device, 4);
    let packed = random.one_in(2);
    bench.write(base + 0x14, &[0x03]);
    for (select, features) in [
        (0u32, 0x2000_0000u32 | 0x1000_0000 | random.edgy() as u32 & 0xffff),
        (1, 1 | u32::from(packed) << 2),
    ] {
        bench.write(base + 0x08, &select.to_le_bytes());
        // Features that are not offered would be refused: some are tried.
        let features = if random.one_in(4) { features } else { features & 0xf000_0005 };
        bench.write(base + 0x0c, &features.to_le_bytes());
    }
    bench.write(base + 0x14, &[0x0b]);
    let size: u16 = random.pick(&[1, 2, 4, 8, 16, 64, 256]);
    for queue in 0..4u16 {
        bench.write(base + 0x16, &queue.to_le_bytes());
        bench.write(base + 0x18, &size.to_le_bytes());
        for (at, area) in [(0x20, 0x1000u64), (0x28, 0x3000), (0x30, 0x5000)] {
            let area = if random.one_in(32) { random.edgy() } else { area + u64::from(queue) * 0x8000 };
            bench.write(base + at, &area.to_le_bytes());
        }
        bench.write(base + 0x1c, &1u16.to_le_bytes());
    }
    bench.write(base + 0x14, &[0x0f]);
    for round in 0..8u16 {
        let queue = random.below(3) as u64;
        let area = 0x1000 + queue * 0x8000;
        for slot in 0..u64::from(size) {
            let mut descriptor = Vec::new();
            let addr =
                if random.one_in(16) { random.edgy() } else { 0x4_0000 + random.below(0x8_0000) as u64 };
            descriptor.extend(addr.to_le_bytes());
            let len = random.pick(&[0u32, 1, 16, 17, 512, 528, 4096, 0x1_0000, u32::MAX]);
            descriptor.extend(len.to_le_bytes());
            let next = random.below(usize::from(size) + 1) as u16;
            if packed {
                let phase = if round & 1 == 0 { 0x80 } else { 0x8000 };
                let flags = random.pick(&[0u16, 1, 2, 3, 4, 6]) | phase;
                descriptor.extend(next.to_le_bytes());
                descriptor.extend(flags.to_le_bytes());
            } else {
                descriptor.extend(random.pick(&[0u16, 1, 2, 3, 3, 1, 4, 5, 0xffff]).to_le_bytes());
                descriptor.extend(next.to_le_bytes());
            }
            let _ = bench.memory.write(GuestPhys(area + slot * 16), &descriptor);
        }
        // Requests of the block device; indirect tables elsewhere are noise.
        for at in (0x4_0000u64..0x4_4000).step_by(0x400) {
            let mut header = random.pick(&[0u32, 1, 4, 8, 11, 13, 99]).to_le_bytes().to_vec();
            header.extend([0; 4]);
            header.extend(random.pick(&[0u64, 1, 100, 511, 512, u64::MAX]).to_le_bytes());
            let _ = bench.memory.write(GuestPhys(at), &header);
        }
        bench.fill(random, 0x4_4000, 0x200);
        if !packed {
            bench.fill(random, 0x3004 + queue * 0x8000, 64);
            let index = if random.one_in(8) { random.edgy() as u16 } else { (round + 1) * 2 };
            let _ = bench.memory.write_u16(GuestPhys(0x3002 + queue * 0x8000), index);
        }
        bench.write(base + 0x3000 + 4 * queue, &(queue as u16).to_le_bytes());
        let bytes: Vec<u8> = (0..random.below(2000)).map(|n| n as u8).collect();
        bench.board.input(HostInput::Pci(0), &bytes, VirtualTime(bench.now));
        bench.wait();
        if random.one_in(16) {
            bench.write(base + 0x14, &[0]);
        }
    }
    bench.finish(random)
}

/// NVMe commands.
pub fn nvme_commands(random: &mut Random) -> &'static str {
    let mut bench = Bench::new(Some(5));
    let base = bench.bar(5, 0);
    bench.write(base + 0x24, &0x003f_003fu32.to_le_bytes());
    bench.write(base + 0x28, &0x1_0000u64.to_le_bytes());
    bench.write(base + 0x30, &0x2_0000u64.to_le_bytes());
    bench.write(base + 0x14, &0x0046_0001u32.to_le_bytes());
    let (mut tails, mut made) = ([0u32; 3], false);
    for _ in 0..40 {
        let queue = if made { random.below(3) } else { 0 };
        let mut command = [0u8; 64];
        let opcode = if queue == 0 {
            random.pick(&[0u8, 1, 2, 4, 5, 6, 8, 9, 0xa, 0xc, 0x10, 1, 5])
        } else {
            random.pick(&[0u8, 1, 2, 8, 9, 1, 2, 0x7f])
        };
        command[0] = opcode;
        command[1] = if random.one_in(16) { random.edgy() as u8 } else { 0 };
        command[4..8].copy_from_slice(&random.pick(&[0u32, 1, 1, 1, 2, u32::MAX]).to_le_bytes());
        for (at, value) in [(24, 0x5_0000u64), (32, 0x6_0000)] {
            let value = if random.one_in(6) {
                random.edgy()
            } else {
                value + 8 * random.below(600) as u64 * u64::from(random.one_in(3))
            };
            command[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        for at in (40..64).step_by(4) {
            let value = {
                let noise = random.edgy() as u32;
                random.pick(&[0u32, 1, 2, 3, 7, 0x10, 0x3f_0001, 0x3f_0002, 1 << 16 | 1, noise])
            };
            command[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        made |= queue == 0 && opcode == 1;
        for entry in 0..512u64 {
            let page = if random.one_in(64) { random.edgy() } else { 0x7_0000 + (entry % 16) * 4096 };
            let _ = bench.memory.write(GuestPhys(0x6_0000 + entry * 8), &page.to_le_bytes());
        }
        let slot = 0x1_0000 + queue as u64 * 0x1_0000 + u64::from(tails[queue]) * 64;
        let _ = bench.memory.write(GuestPhys(slot), &command);
        tails[queue] = (tails[queue] + 1) % 64;
        let tail = if random.one_in(32) { random.edgy() as u32 } else { tails[queue] };
        bench.write(base + 0x1000 + 8 * queue as u64, &tail.to_le_bytes());
        if random.one_in(2) {
            bench.wait();
            let head = random.below(64) as u32;
            bench.write(base + 0x1004 + 8 * queue as u64, &head.to_le_bytes());
        }
    }
    bench.finish(random)
}

/// Commands of AHCI disks and CD-ROM drives.
pub fn ahci_commands(random: &mut Random) -> &'static str {
    let mut bench = Bench::new(Some(6));
    let base = bench.bar(6, 5);
    bench.write(base + 4, &0x8000_0002u32.to_le_bytes());
    for _ in 0..20 {
        let port = base + 0x100 + 0x80 * random.below(3) as u64;
        for (at, value) in [
            (0x00, 0x1_0000u32),
            (0x08, 0x2_0000),
            (0x14, u32::MAX),
            (0x18, 0),
            (0x10, u32::MAX),
            (0x18, 0x11),
        ] {
            bench.write(port + at, &value.to_le_bytes());
        }
        for slot in 0..4u64 {
            let mut header = Vec::new();
            let entries = {
                let many = 0xffff * u32::from(random.one_in(20));
                random.pick(&[0u32, 1, 2, 8, many])
            };
            header.extend((entries << 16 | 5).to_le_bytes());
            header.extend(0u32.to_le_bytes());
            let table = if random.one_in(20) { random.edgy() } else { 0x3_0000 + slot * 0x1000 };
            header.extend(table.to_le_bytes());
            let _ = bench.memory.write(GuestPhys(0x1_0000 + slot * 32), &header);
            let mut fis = [0u8; 20];
            fis[..3].copy_from_slice(&[0x27, if random.one_in(12) { 0 } else { 0x80 }, random.edgy() as u8]);
            if !random.one_in(4) {
                fis[2] = random
                    .pick(&[0xec, 0xa0, 0xa0, 0x25, 0x35, 0x60, 0x61, 0x20, 0xc8, 0xca, 0xef, 0x06, 0xa1]);
            }
            for byte in &mut fis[3..16] {
                *byte = {
                    let noise = random.edgy() as u8;
                    random.pick(&[0, 0, 1, 2, 0x40, noise])
                };
            }
            let _ = bench.memory.write(GuestPhys(0x3_0000 + slot * 0x1000), &fis);
            let mut packet = [0u8; 12];
            packet[0] = {
                let noise = random.edgy() as u8;
                random.pick(&[0, 3, 0x12, 0x25, 0x28, 0xa8, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xbd, noise])
            };
            for byte in &mut packet[1..] {
                *byte = {
                    let noise = random.edgy() as u8;
                    random.pick(&[0, 0, 1, 4, 0xff, noise])
                };
            }
            let _ = bench.memory.write(GuestPhys(0x3_0040 + slot * 0x1000), &packet);
            for entry in 0..8u64 {
                let mut prd = (if random.one_in(16) { random.edgy() } else { 0x5_0000 + entry * 0x2000 })
                    .to_le_bytes()
                    .to_vec();
                prd.extend([0; 4]);
                prd.extend(random.pick(&[511u32, 4095, 0x1fff, 0x3f_ffff, u32::MAX]).to_le_bytes());
                let _ = bench.memory.write(GuestPhys(0x3_0080 + slot * 0x1000 + entry * 16), &prd);
            }
        }
        bench.write(port + 0x38, &(random.edgy() as u32 & 0xf).to_le_bytes());
        bench.wait();
    }
    bench.finish(random)
}
