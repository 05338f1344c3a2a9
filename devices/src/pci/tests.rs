//! The root complex as software sees it.

use super::config_space::register::*;
use super::{Bar, ConfigSpace, ECAM_BASE, PciContext, PciDevice, Port, interrupt_line};
use crate::device::state_methods;
use crate::{Board, BoardConfig, PciSlot};
use ringworld_core::{
    CpuId, Delivery, Destination, GuestPhys, IoContext, Platform, TriggerMode, VirtualTime,
};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use std::sync::Arc;

/// One register: writing 1 asks for an interrupt, 0 takes that back, other values go to memory by DMA.
#[derive(Default)]
struct Echo {
    state: u32,
}

impl PciDevice for Echo {
    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8], _ctx: &mut PciContext<'_, '_>) {
        data[0] = self.state as u8;
        if let [_, second, third, ..] = data {
            (*second, *third) = (bar as u8, offset as u8);
        }
    }
    fn write(&mut self, _bar: usize, _offset: u64, data: &[u8], ctx: &mut PciContext<'_, '_>) {
        self.state = data[0].into();
        match data[0] {
            0 | 1 if !ctx.signal(0) => ctx.set_intx(data[0] == 1),
            0 | 1 => {}
            _ => self.state = u32::from(ctx.dma().write(GuestPhys(0x100), data).is_ok()) << 4,
        }
    }
    fn reset(&mut self, _ctx: &mut PciContext<'_, '_>) {
        self.state = 0;
    }
    state_methods!(self => self.state);
}

struct Bench {
    board: Board,
    memory: Arc<GuestMemory>,
}

const DEVICE: u8 = 3;

impl Bench {
    fn new(behind_port: bool) -> Self {
        let region = MemoryRegion { base: GuestPhys(0), size: 0x1000, kind: RegionKind::Ram };
        let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
        let port = if behind_port { Port::Endpoint } else { Port::IntegratedEndpoint };
        let config = ConfigSpace::new(0x1234, 0x5678, 0xff_00_00, 0)
            .interrupt_pin()
            .bar(0, Bar::Memory32(0x1000))
            .bar(2, Bar::Io(0x20))
            .bar(4, Bar::Prefetchable64(0x4000))
            .power_management()
            .express(port)
            .msi()
            .seal();
        let slot = PciSlot {
            name: "echo".into(),
            behind_port,
            device: Some(DEVICE),
            function: 0,
            config,
            implementation: Box::new(Echo::default()),
        };
        let config = BoardConfig { memory: Some(memory.clone()), pci: vec![slot], ..BoardConfig::default() };
        Self { board: Board::new(config).unwrap(), memory }
    }

    fn ctx() -> IoContext {
        IoContext { cpu: CpuId(0), now: VirtualTime(1) }
    }

    /// A register by ports 0xcf8 and 0xcfc.
    fn config(&self, bus: u8, device: u8, register: usize, write: Option<u32>) -> u32 {
        let address = 1 << 31 | u32::from(bus) << 16 | u32::from(device) << 11 | register as u32;
        self.board.port_write(Self::ctx(), 0xcf8, &address.to_le_bytes());
        let mut data = [0; 4];
        match write {
            Some(value) => self.board.port_write(Self::ctx(), 0xcfc, &value.to_le_bytes()),
            None => self.board.port_read(Self::ctx(), 0xcfc, &mut data),
        }
        u32::from_le_bytes(data)
    }

    fn read(&self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.board.mmio_read(Self::ctx(), GuestPhys(address), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, address: u64, value: u32) {
        self.board.mmio_write(Self::ctx(), GuestPhys(address), &value.to_le_bytes());
    }
}

/// PCI 3.0 3.2.2.3.2, 6.1: both ways to configuration space lead to the same; nobody answers with ones.
#[test]
fn configuration_mechanisms() {
    let bench = Bench::new(false);
    assert_eq!(bench.config(0, DEVICE, VENDOR_ID, None), 0x5678_1234);
    assert_eq!(bench.config(0, 0, VENDOR_ID, None), 0x29c0_8086);
    assert_eq!(bench.config(0, 9, VENDOR_ID, None), u32::MAX);
    assert_eq!(bench.config(1, 0, VENDOR_ID, None), u32::MAX);
    assert_eq!(bench.read(ECAM_BASE), u32::MAX, "ECAM is off after a reset");
    bench.config(0, 0, 0x60, Some(ECAM_BASE as u32 | 1));
    assert_eq!(bench.read(ECAM_BASE + (u64::from(DEVICE) << 15)), 0x5678_1234);
    assert_eq!(bench.read(ECAM_BASE + (u64::from(DEVICE) << 15) + 0x100), 0, "no extended capabilities");
    bench.config(0, 0, 0x60, Some(0xd000_0001));
    assert_eq!(bench.read(0xd000_0000), 0x29c0_8086, "it moves");
    // Bytes and words of the data port.
    bench.config(0, DEVICE, VENDOR_ID, None);
    let mut word = [0; 2];
    bench.board.port_read(Bench::ctx(), 0xcfe, &mut word);
    assert_eq!(word, [0x78, 0x56]);
}

/// PCI 3.0 6.2.5: registers answer where software puts them, while it lets them.
#[test]
fn bars_move() {
    let bench = Bench::new(false);
    bench.config(0, DEVICE, BAR0, Some(0xc010_0000));
    assert_eq!(bench.read(0xc010_0004), u32::MAX, "memory space is off");
    bench.config(0, DEVICE, COMMAND, Some(2));
    assert_eq!(bench.read(0xc010_0004), 0xff04_0000);
    bench.config(0, DEVICE, BAR0, Some(0xc020_0000));
    assert_eq!((bench.read(0xc010_0004), bench.read(0xc020_0008)), (u32::MAX, 0xff08_0000));
    bench.config(0, DEVICE, BAR0 + 16, Some(0));
    bench.config(0, DEVICE, BAR0 + 20, Some(0x40));
    assert_eq!(bench.read(0x40_0000_0010), 0xff10_0400);
    bench.config(0, DEVICE, BAR0 + 8, Some(0xc001));
    let port = |port| {
        let mut data = [0; 4];
        bench.board.port_read(Bench::ctx(), port, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!(port(0xc004), u32::MAX, "I/O space is off");
    bench.config(0, DEVICE, COMMAND, Some(3));
    assert_eq!(port(0xc004), 0xff04_0200);
}

/// PCI-to-PCI bridge 1.2, 3.2.5: a window that is closed, and bus numbers that are not there, lead nowhere.
#[test]
fn a_root_port_forwards() {
    let bench = Bench::new(true);
    assert_eq!(bench.config(0, DEVICE, VENDOR_ID, None), 0x3420_8086);
    assert_eq!(bench.config(5, 0, VENDOR_ID, None), u32::MAX);
    bench.config(0, DEVICE, PRIMARY_BUS, Some(0x0005_0500));
    assert_eq!(bench.config(5, 0, VENDOR_ID, None), 0x5678_1234);
    assert_eq!(bench.config(5, 1, VENDOR_ID, None), u32::MAX, "one device on a link");
    bench.config(5, 0, BAR0, Some(0xc100_0000));
    bench.config(5, 0, COMMAND, Some(6));
    assert_eq!(bench.read(0xc100_0000), u32::MAX, "the bridge is off");
    bench.config(0, DEVICE, COMMAND, Some(2));
    bench.config(0, DEVICE, MEMORY_BASE, Some(0xc1f0_c100));
    assert_eq!(bench.read(0xc100_0000), 0xff00_0000);
    // Without the bridge's bus master enable, requests do not come through.
    bench.write(0xc100_0000, 0x77);
    assert_eq!(bench.read(0xc100_0000) & 0xff, 0);
    bench.config(0, DEVICE, COMMAND, Some(6));
    bench.write(0xc100_0000, 0x77);
    assert_eq!(
        (bench.read(0xc100_0000) & 0xff, bench.memory.read_u32(GuestPhys(0x100)).unwrap()),
        (0x10, 0x77)
    );
    bench.config(0, DEVICE, MEMORY_BASE, Some(0xc2f0_c200));
    assert_eq!(bench.read(0xc100_0000), u32::MAX);
}

/// INTx by the I/O APIC and by the routing to the 8259; MSI (PCI 3.0 6.8, SDM 3A 12.11).
#[test]
fn interrupts() {
    let bench = Bench::new(false);
    bench.board.assign_pci();
    let info = bench.board.pci_functions();
    let base = info.iter().find(|f| f.name == "echo").unwrap().bars[0].1;
    bench.config(0, DEVICE, COMMAND, Some(6));
    let line = interrupt_line(DEVICE, 1);
    assert_eq!(line, 16 + 4 + 3);
    // Level, active low, vector 0x51.
    for (index, value) in [(0x11 + 2 * u32::from(line), 0u32), (0x10 + 2 * u32::from(line), 0xa051)] {
        bench.write(0xfec0_0000, index);
        bench.write(0xfec0_0010, value);
    }
    bench.write(base, 1);
    let messages = bench.board.take_messages();
    assert_eq!((messages.len(), messages[0].vector, messages[0].trigger), (1, 0x51, TriggerMode::Level));
    assert_eq!(bench.config(0, DEVICE, COMMAND, None) >> 16 & 8, 8, "interrupt status");
    // IRQ 11 of the 8259: unmasked, INTR rises.
    for (port, value) in [
        (0x20u16, 0x11u8),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0),
        (0xa0, 0x11),
        (0xa1, 0x38),
        (0xa1, 2),
        (0xa1, 1),
        (0xa1, 0),
    ] {
        bench.board.port_write(Bench::ctx(), port, &[value]);
    }
    bench.board.port_write(Bench::ctx(), 0x4d1, &[0x0c]);
    assert!(bench.board.intr());
    assert_eq!(bench.board.acknowledge(Bench::ctx()), 0x38 + 3);
    // The interrupt disable bit takes the pin away.
    bench.config(0, DEVICE, COMMAND, Some(0x406));
    bench.board.end_of_interrupt(Bench::ctx(), 0x51);
    assert!(bench.board.take_messages().is_empty());
    // MSI in place of it.
    let mut at = bench.config(0, DEVICE, CAPABILITIES, None) as usize & 0xff;
    while bench.config(0, DEVICE, at, None) & 0xff != 5 {
        at = bench.config(0, DEVICE, at, None) as usize >> 8 & 0xff;
    }
    for (offset, value) in [(4, 0xfee0_3004u32), (8, 0), (12, 0x0161), (0, 0x1_0000)] {
        bench.config(0, DEVICE, at + offset, Some(value));
    }
    bench.write(base, 1);
    let messages = bench.board.take_messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(
        (messages[0].destination, messages[0].delivery),
        (Destination::Logical(3), Delivery::LowestPriority)
    );
    assert_eq!((messages[0].vector, messages[0].trigger), (0x61, TriggerMode::Edge));
    // A message is a write by the function.
    bench.config(0, DEVICE, COMMAND, Some(2));
    bench.write(base, 1);
    assert!(bench.board.take_messages().is_empty());
}

/// QEMU docs/specs/pci-testdev.rst: tests are counted up by the writes that they ask for, and end with one of width 0.
#[test]
fn the_test_device_counts() {
    let (config, implementation) = super::test_device();
    let slot = PciSlot {
        name: "test".into(),
        behind_port: false,
        device: Some(DEVICE),
        function: 0,
        config,
        implementation,
    };
    let bench = Bench {
        board: Board::new(BoardConfig { pci: vec![slot], ..BoardConfig::default() }).unwrap(),
        ..Bench::new(false)
    };
    bench.board.assign_pci();
    assert_eq!(bench.config(0, DEVICE, VENDOR_ID, None), 0x0005_1b36);
    let memory = u64::from(bench.config(0, DEVICE, 0x10, None) & !0xf);
    let port = (bench.config(0, DEVICE, 0x14, None) & !3) as u16;
    let io = |offset: u16, write: Option<u8>| {
        let mut data = [write.unwrap_or(0)];
        match write {
            Some(_) => bench.board.port_write(Bench::ctx(), port + offset, &data),
            None => bench.board.port_read(Bench::ctx(), port + offset, &mut data),
        }
        data[0]
    };
    let byte = |address: u64, value: u8| bench.board.mmio_write(Bench::ctx(), GuestPhys(address), &[value]);
    for test in 0..3 {
        byte(memory, test);
        assert_eq!((bench.read(memory) >> 8) as u8, 1);
        let (offset, data) = (bench.read(memory + 4), bench.read(memory + 8) as u8);
        (0..16).for_each(|_| byte(memory + u64::from(offset), data));
        byte(memory + u64::from(offset), !data);
        byte(memory + u64::from(offset) + 8, data);
        assert_eq!(bench.read(memory + 12), 16, "test {test}");
        assert_eq!(bench.read(memory + 16), u32::from_le_bytes(*b"mmio"));
        io(0, Some(test));
        assert_eq!(io(1, None), 1);
        let (offset, data) = (io(4, None), io(8, None));
        (0..3).for_each(|_| _ = io(offset.into(), Some(data)));
        assert_eq!(io(12, None), 3);
    }
    byte(memory, 3);
    assert_eq!((bench.read(memory) >> 8) as u8, 0);
    byte(memory, 0);
    assert_eq!(bench.read(memory + 12), 0);
}
