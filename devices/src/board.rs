//! The board: all devices of a PC, their buses, and the interface to the CPUs.

use crate::acpi_pm::{self, AcpiPm};
use crate::bus::{Bus, BusError, Region, RegionCounters};
use crate::coprocessor_error::CoprocessorError;
use crate::cpu_test::{self, CpuTest};
use crate::debug::{DebugConsole, DebugExit, PvPanic};
use crate::device::{Device, DeviceContext, StateError};
use crate::fabric::{Fabric, NO_CPU, PowerRequest};
use crate::fw_cfg::{self, FwCfg, FwCfgConfig};
use crate::hpet::{HPET_BASE, Hpet};
use crate::i8042::KeyboardController;
use crate::isa_dma::{self, IsaDma};
use crate::pci::{ConfigSpace, PciDevice, PciFunctionInfo, PciHost, PciPlace};
use crate::pit::Pit;
use crate::reset_control::Port92;
use crate::rtc::{CmosConfig, Rtc};
use crate::uart::{CharBackend, Uart};
use ringworld_core::{
    CpuId, GuestPhys, InterruptMessage, IoContext, Platform, PlatformAttention, StateHasher, VirtualTime,
};
use ringworld_mmu::GuestMemory;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where the I/O APIC's registers are.
pub const IOAPIC_BASE: GuestPhys = GuestPhys(0xfec0_0000);
/// The base ports and ISA lines of COM1 to COM4.
pub const COM_PORTS: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// A PCI device of the board.
pub struct PciSlot {
    /// Its name.
    pub name: String,
    /// Whether it sits behind a root port of its own; otherwise it is integrated on bus 0.
    pub behind_port: bool,
    /// The device number on bus 0 (of the device, or of its root port); `None` takes the next free one.
    pub device: Option<u8>,
    /// The function's number.
    pub function: u8,
    /// Its configuration space.
    pub config: ConfigSpace,
    /// What it does.
    pub implementation: Box<dyn PciDevice>,
}

/// What is on a board.
pub struct BoardConfig {
    /// The memory that bus masters reach.
    pub memory: Option<Arc<GuestMemory>>,
    /// PCI devices; [`HostInput::Pci`] counts them from 0.
    pub pci: Vec<PciSlot>,
    /// The clock's start and what CMOS memory says.
    pub cmos: CmosConfig,
    /// Where COM1, COM2, ... send to; as many ports exist as there are entries, at most four.
    pub serial: Vec<Box<dyn CharBackend>>,
    /// Where the debug consoles at ports 0xe9 and 0x402 send to, if they exist.
    pub debug_console: Option<Box<dyn CharBackend>>,
    /// First of the four ports of the debug-exit device, if it exists.
    pub debug_exit: Option<u16>,
    /// Whether the ACPI hardware starts in ACPI mode (FADT: SMI_CMD 0).
    pub acpi_mode: bool,
    /// Whether writes to the SMI command port can raise SMI#. Firmware that finds it cannot leaves system management mode
    /// alone.
    pub smi: bool,
    /// What firmware finds in the configuration device.
    pub fw_cfg: FwCfgConfig,
    /// Whether there are high precision event timers.
    pub hpet: bool,
    /// Whether there is the device that bare-metal CPU test suites drive (ports 0xe0 to 0xe8, 0x2000 to 0x2017, 64 KiB
    /// at [`CPU_TEST_MEMORY`]).
    pub cpu_test: bool,
}

/// Where the CPU test device's memory is.
pub const CPU_TEST_MEMORY: GuestPhys = GuestPhys(0xff00_0000);

impl Default for BoardConfig {
    fn default() -> Self {
        Self {
            memory: None,
            pci: Vec::new(),
            cmos: CmosConfig { start_time: 0, low_memory: 0, high_memory: 0, cpus: 1 },
            serial: Vec::new(),
            debug_console: None,
            debug_exit: None,
            acpi_mode: false,
            smi: true,
            fw_cfg: FwCfgConfig::default(),
            hpet: true,
            cpu_test: false,
        }
    }
}

/// Collects what a guest sends until somebody takes it.
#[derive(Clone, Default, Debug)]
pub struct OutputBuffer(Arc<Mutex<Vec<u8>>>);

impl OutputBuffer {
    /// Takes what has come since the last time.
    pub fn take(&self) -> Vec<u8> {
        core::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl CharBackend for OutputBuffer {
    fn output(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
    }
}

/// What the board's buses have seen.
#[derive(Clone, Debug)]
pub struct BoardCounters {
    /// Regions of the port bus, by port.
    pub ports: Vec<RegionCounters>,
    /// Regions of memory-mapped registers, by address.
    pub memory: Vec<RegionCounters>,
    /// Bytes of port accesses that nothing answered.
    pub unclaimed_ports: u64,
    /// Bytes of memory accesses that nothing answered.
    pub unclaimed_memory: u64,
}

/// A device to which the host can send bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HostInput {
    /// COM1 (0) to COM4 (3).
    Serial(usize),
    /// The keyboard: any number of [`crate::key_event`]s.
    Keyboard,
    /// The mouse: one [`crate::mouse_event`].
    Mouse,
    /// The power button; the bytes do not matter.
    PowerButton,
    /// A PCI device of the configuration, by its place in the list.
    Pci(usize),
}

/// Each device's name and state.
type DeviceImages = Vec<(String, Vec<u8>)>;

/// Who answers a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Pic,
    IoApic,
    PciPorts,
    Device(u32),
}

/// The owner of the PCI functions' timers and lines.
const PCI_OWNER: u32 = Fabric::MAX_OWNERS - 1;

struct Slot {
    name: &'static str,
    device: Box<dyn Device>,
}

struct Inner {
    fabric: Fabric,
    ports: Bus<Target>,
    memory: Bus<Target>,
    devices: Vec<Slot>,
    /// The latest moment seen. Devices' time never runs backward, whichever CPU's turn it is.
    now: VirtualTime,
    pci: PciHost,
    /// The configured PCI devices' numbers at the root complex.
    pci_slots: Vec<usize>,
    serial: Vec<u32>,
    keyboard: u32,
    acpi: u32,
    rtc: u32,
}

/// A PC's board without its CPUs.
pub struct Board {
    inner: Mutex<Inner>,
    attention: PlatformAttention,
}

impl Board {
    /// Builds the board that `config` describes.
    pub fn new(config: BoardConfig) -> Result<Self, BusError> {
        let mut inner = Inner {
            fabric: Fabric::default(),
            ports: Bus::ports(),
            memory: Bus::memory(),
            devices: Vec::new(),
            now: VirtualTime(0),
            pci: PciHost::new(acpi_pm::PM_BASE),
            pci_slots: Vec::new(),
            serial: Vec::new(),
            keyboard: 0,
            acpi: 0,
            rtc: 0,
        };
        inner.populate(config)?;
        let attention = inner.fabric.attention.clone();
        let board = Self { inner: Mutex::new(inner), attention };
        board.reset(VirtualTime(0));
        Ok(board)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a device that answers `ports` and `memory`.
    pub fn attach(
        &self,
        name: &'static str,
        device: Box<dyn Device>,
        ports: &[Region],
        memory: &[Region],
    ) -> Result<(), BusError> {
        let mut inner = self.lock();
        let owner = inner.attach(name, device, ports, memory)?;
        inner.with(owner, NO_CPU, |device, ctx| device.reset(ctx));
        Ok(())
    }

    /// The hard reset of everything on the board.
    pub fn reset(&self, now: VirtualTime) {
        let mut inner = self.lock();
        inner.advance(now);
        inner.fabric.reset();
        for owner in 0..inner.devices.len() as u32 {
            inner.with(owner, NO_CPU, |device, ctx| device.reset(ctx));
        }
        inner.with_pci(NO_CPU, |pci, ctx| pci.reset(ctx));
    }

    /// The board loses its power for a suspension to memory (S3). The clock and the ACPI hardware keep theirs, and so do the PAM
    /// registers: what firmware has in shadow RAM is there when it resumes.
    pub fn suspend(&self, now: VirtualTime) {
        let mut inner = self.lock();
        inner.advance(now);
        inner.fabric.reset();
        let (acpi, rtc) = (inner.acpi, inner.rtc);
        for owner in (0..inner.devices.len() as u32).filter(|owner| ![acpi, rtc].contains(owner)) {
            inner.with(owner, NO_CPU, |device, ctx| device.reset(ctx));
        }
        inner.with_pci(NO_CPU, |pci, ctx| pci.suspend(ctx));
        inner.with(acpi, NO_CPU, |acpi, ctx| acpi.input(&[acpi_pm::event::POWER_LOST], ctx));
        inner.with(rtc, NO_CPU, |rtc, ctx| rtc.input(&[], ctx));
    }

    /// Gives PCI buses, addresses and interrupt lines, and opens the shadow RAM, as firmware does; for guests that are loaded without
    /// firmware.
    pub fn assign_pci(&self) {
        let mut inner = self.lock();
        inner.pci.assign();
        inner.with_pci(NO_CPU, |pci, ctx| pci.shadow(ctx));
    }

    /// The PCI functions, to look at.
    pub fn pci_functions(&self) -> Vec<PciFunctionInfo> {
        self.lock().pci.info()
    }

    /// What the graphics card shows, if there is one.
    pub fn screen(&self) -> Option<crate::Screen> {
        self.lock().pci.screen()
    }

    /// The moment of the next event on the board. The machine's loop must call [`Board::advance`] then; if an earlier
    /// event comes up in between, the attention flag is raised.
    pub fn next_event(&self) -> VirtualTime {
        self.lock().fabric.next_event()
    }

    /// Handles all events up to `now`, each at its own moment.
    pub fn advance(&self, now: VirtualTime) {
        self.lock().advance(now);
    }

    /// Takes the messages for local interrupt controllers, in the order in which they were sent.
    pub fn take_messages(&self) -> Vec<InterruptMessage> {
        self.lock().fabric.take_messages()
    }

    /// The level of the 8259's INTR output, which is wired to the CPUs' LINT0 (INTR) input.
    pub fn intr(&self) -> bool {
        self.lock().fabric.intr()
    }

    /// Takes the pending change of the power state.
    pub fn take_power_request(&self) -> Option<PowerRequest> {
        self.lock().fabric.take_power()
    }

    /// Whether bit 7 of port 0x70 keeps NMIs from the CPU.
    pub fn nmi_masked(&self) -> bool {
        self.lock().fabric.nmi_masked()
    }

    /// Bytes from the host for a device.
    pub fn input(&self, to: HostInput, bytes: &[u8], now: VirtualTime) {
        let mut inner = self.lock();
        inner.advance(now);
        if let HostInput::Pci(slot) = to {
            if let Some(&function) = inner.pci_slots.get(slot) {
                inner.with_pci(NO_CPU, |pci, ctx| pci.input(function, bytes, ctx));
            }
            return;
        }
        let owner = match to {
            HostInput::Pci(_) => None,
            HostInput::Serial(port) => inner.serial.get(port).copied(),
            HostInput::Keyboard | HostInput::Mouse => Some(inner.keyboard),
            HostInput::PowerButton => Some(inner.acpi),
        };
        let bytes = if to == HostInput::PowerButton { &[acpi_pm::event::POWER_BUTTON] } else { bytes };
        if Some(inner.keyboard) == owner {
            // A key wakes a machine that sleeps.
            let acpi = inner.acpi;
            inner.with(acpi, NO_CPU, |device, ctx| device.input(&[acpi_pm::event::WAKE], ctx));
        }
        if let Some(owner) = owner {
            inner.with(owner, NO_CPU, |device, ctx| device.input(bytes, ctx));
        }
    }

    /// Accesses so far.
    pub fn counters(&self) -> BoardCounters {
        let inner = self.lock();
        BoardCounters {
            ports: inner.ports.counters().collect(),
            memory: inner.memory.counters().collect(),
            unclaimed_ports: inner.ports.unclaimed,
            unclaimed_memory: inner.memory.unclaimed,
        }
    }

    /// For the monitor: the I/O APIC's redirection entries and the 8259s' (IRR, ISR, IMR).
    pub fn interrupt_controllers(&self) -> (Vec<u64>, [(u8, u8, u8); 2]) {
        let inner = self.lock();
        let entries = (0..crate::ioapic::PINS).filter_map(|pin| inner.fabric.ioapic().redirection(pin));
        (entries.collect(), inner.fabric.pic().registers())
    }

    /// Adds the state of the board and its devices to `hasher`.
    pub fn hash_state(&self, hasher: &mut StateHasher) {
        let inner = self.lock();
        inner.fabric.hash_state(hasher);
        for slot in &inner.devices {
            slot.device.hash_state(hasher);
        }
        inner.pci.hash_state(hasher);
    }

    /// The state of the board and its devices as bytes.
    pub fn save(&self) -> Result<Vec<u8>, StateError> {
        let inner = self.lock();
        let devices = inner.devices.iter().map(|slot| Ok((slot.name, slot.device.save()?)));
        let devices = devices.collect::<Result<Vec<_>, StateError>>()?;
        Ok(postcard::to_stdvec(&(inner.now, inner.fabric.save()?, inner.pci.save()?, devices))?)
    }

    /// Takes over a state that [`Board::save`] wrote on a board of the same configuration. After an error the board's
    /// state is undefined but harmless; reset it.
    pub fn restore(&self, image: &[u8]) -> Result<(), StateError> {
        let (now, fabric, pci, devices): (VirtualTime, Vec<u8>, Vec<u8>, DeviceImages) =
            postcard::from_bytes(image)?;
        let mut inner = self.lock();
        if devices.len() != inner.devices.len() {
            return Err(StateError::OtherBoard(format!("{} devices", devices.len())));
        }
        for (slot, (name, _)) in inner.devices.iter().zip(&devices) {
            if slot.name != name {
                return Err(StateError::OtherBoard(name.clone()));
            }
        }
        for (slot, (_, state)) in inner.devices.iter_mut().zip(&devices) {
            slot.device.restore(state)?;
        }
        inner.pci.restore(&pci)?;
        inner.now = now;
        inner.with_pci(NO_CPU, |pci, ctx| pci.shadow(ctx));
        inner.fabric.restore(&fabric)
    }
}

impl Inner {
    fn attach(
        &mut self,
        name: &'static str,
        device: Box<dyn Device>,
        ports: &[Region],
        memory: &[Region],
    ) -> Result<u32, BusError> {
        let owner = self.devices.len() as u32;
        if owner >= PCI_OWNER {
            return Err(BusError::TooManyDevices);
        }
        self.devices.push(Slot { name, device });
        for region in ports {
            self.ports.register(*region, Target::Device(owner))?;
        }
        for region in memory {
            self.memory.register(*region, Target::Device(owner))?;
        }
        Ok(owner)
    }

    fn populate(&mut self, config: BoardConfig) -> Result<(), BusError> {
        self.fabric.memory = config.memory;
        for slot in config.pci {
            let device = slot.device.or_else(|| self.pci.free_device(1)).ok_or(BusError::TooManyDevices)?;
            let place = match slot.behind_port {
                true => self.pci.add_root_port(device),
                false => PciPlace::Root(device, slot.function),
            };
            let function = self.pci.add(&slot.name, place, slot.config, slot.implementation);
            self.pci_slots.push(function);
        }
        self.ports.register(Region::new("pci-config", 0xcf8, 8, 4), Target::PciPorts)?;
        for (base, offset) in [(0x20, 0), (0xa0, 2), (0x4d0, 4)] {
            self.ports.register(Region::new("pic", base, 2, 1).at_offset(offset), Target::Pic)?;
        }
        self.memory.register(Region::new("ioapic", IOAPIC_BASE.0, 0x1000, 4), Target::IoApic)?;
        let pit = [Region::new("pit", 0x40, 4, 1), Region::new("port61", 0x61, 1, 1).at_offset(4)];
        self.attach("pit", Box::new(Pit::default()), &pit, &[])?;
        self.rtc =
            self.attach("rtc", Box::new(Rtc::new(config.cmos)), &[Region::new("rtc", 0x70, 4, 1)], &[])?;
        const COMS: [&str; 4] = ["com1", "com2", "com3", "com4"];
        for ((backend, name), (base, irq)) in config.serial.into_iter().zip(COMS).zip(COM_PORTS) {
            let region = Region::new(name, base.into(), 8, 1);
            let owner = self.attach(name, Box::new(Uart::new(irq, backend)), &[region], &[])?;
            self.serial.push(owner);
        }
        let pm = [
            Region::new("acpi", acpi_pm::PM_BASE.into(), 0x40, 4),
            Region::new("smi-command", acpi_pm::SMI_COMMAND.into(), 2, 1).at_offset(acpi_pm::COMMAND_OFFSET),
        ];
        self.acpi =
            self.attach("acpi", Box::new(AcpiPm::new(true, config.acpi_mode, config.smi)), &pm, &[])?;
        let port = Region::new("coprocessor-error", 0xf0, 1, 1);
        self.attach("coprocessor-error", Box::new(CoprocessorError::default()), &[port], &[])?;
        self.attach("port92", Box::new(Port92::default()), &[Region::new("port92", 0x92, 1, 1)], &[])?;
        self.attach("pvpanic", Box::new(PvPanic::default()), &[Region::new("pvpanic", 0x505, 1, 1)], &[])?;
        let i8042 = [Region::new("i8042", 0x60, 1, 1), Region::new("i8042", 0x64, 1, 1).at_offset(1)];
        self.keyboard = self.attach("i8042", Box::new(KeyboardController::default()), &i8042, &[])?;
        let dma_ports = [
            Region::new("dma1", 0x00, 0x10, 1),
            Region::new("dma-page", 0x80, 0x10, 1).at_offset(isa_dma::PAGES),
            Region::new("dma2", 0xc0, 0x20, 1).at_offset(0x20),
        ];
        self.attach("dma", Box::new(IsaDma::default()), &dma_ports, &[])?;
        let fw_cfg = [
            Region::new("fw_cfg", 0x510, 2, 2),
            Region::new("fw_cfg", 0x514, 8, 4).at_offset(fw_cfg::DMA_OFFSET),
        ];
        self.attach("fw_cfg", Box::new(FwCfg::new(config.fw_cfg)), &fw_cfg, &[])?;
        if config.hpet {
            let region = Region::new("hpet", HPET_BASE.0, 0x400, 8);
            self.attach("hpet", Box::new(Hpet::default()), &[], &[region])?;
        }
        if config.cpu_test {
            let ports = [
                Region::new("cpu-test", 0xe0, 9, 4),
                Region::new("cpu-test-lines", 0x2000, cpu_test::LINE_COUNT, 1).at_offset(cpu_test::LINES),
            ];
            let memory = Region::new("cpu-test", CPU_TEST_MEMORY.0, cpu_test::MEMORY_LEN, 8)
                .at_offset(cpu_test::MEMORY);
            self.attach("cpu-test", Box::new(CpuTest::default()), &ports, &[memory])?;
        }
        if let Some(backend) = config.debug_console {
            let ports = [Region::new("debug-console", 0xe9, 1, 1), Region::new("debug-console", 0x402, 1, 1)];
            self.attach("debug-console", Box::new(DebugConsole::new(backend)), &ports, &[])?;
        }
        if let Some(base) = config.debug_exit {
            let region = Region::new("debug-exit", base.into(), 4, 4);
            self.attach("debug-exit", Box::new(DebugExit::default()), &[region], &[])?;
        }
        Ok(())
    }

    fn with(&mut self, owner: u32, cpu: CpuId, call: impl FnOnce(&mut dyn Device, &mut DeviceContext<'_>)) {
        if let Some(slot) = self.devices.get_mut(owner as usize) {
            let mut ctx = DeviceContext::new(self.now, cpu, owner, &mut self.fabric);
            call(slot.device.as_mut(), &mut ctx);
        }
        if self.fabric.take_alarm() {
            self.alarm();
        }
    }

    /// Brings the clock's alarm to the ACPI hardware.
    fn alarm(&mut self) {
        if let Some(slot) = self.devices.get_mut(self.acpi as usize) {
            let mut ctx = DeviceContext::new(self.now, NO_CPU, self.acpi, &mut self.fabric);
            slot.device.input(&[acpi_pm::event::ALARM], &mut ctx);
        }
    }

    fn with_pci(&mut self, cpu: CpuId, call: impl FnOnce(&mut PciHost, &mut DeviceContext<'_>)) {
        let mut ctx = DeviceContext::new(self.now, cpu, PCI_OWNER, &mut self.fabric);
        call(&mut self.pci, &mut ctx);
    }

    /// The piece of an access that PCI functions answer where nothing else is, if one does.
    fn pci_piece(&self, ports: bool, addr: u64, len: usize) -> Option<usize> {
        let room = self.pci.claims(ports, addr)?;
        let mut size = if ports { 4 } else { 8 };
        while size > len || addr & (size as u64 - 1) != 0 || size as u64 > room {
            size /= 2;
        }
        Some(size.max(1))
    }

    fn advance(&mut self, now: VirtualTime) {
        while let Some((at, key)) = self.fabric.pop_due(now) {
            self.now = self.now.max(at);
            if key.owner == PCI_OWNER {
                self.with_pci(NO_CPU, |pci, ctx| pci.timer(key.timer, ctx));
                continue;
            }
            self.with(key.owner, NO_CPU, |device, ctx| device.timer(key.timer, ctx));
        }
        self.now = self.now.max(now);
    }

    fn read(&mut self, ctx: IoContext, ports: bool, addr: u64, data: &mut [u8]) {
        self.advance(ctx.now);
        data.fill(0xff);
        let mut at = 0;
        while at < data.len() {
            let bus = if ports { &mut self.ports } else { &mut self.memory };
            let piece = bus.piece(addr.wrapping_add(at as u64), data.len() - at, false);
            let bytes = &mut data[at..at + piece.len];
            match piece.target {
                Some((Target::Pic, offset)) => bytes.fill(self.fabric.pic_read(offset)),
                Some((Target::IoApic, offset)) => self.fabric.ioapic_read(offset, bytes),
                Some((Target::Device(owner), offset)) => {
                    self.with(owner, ctx.cpu, |device, ctx| device.read(offset, bytes, ctx));
                }
                Some((Target::PciPorts, offset)) => {
                    self.with_pci(ctx.cpu, |pci, ctx| pci.port_read(offset, bytes, ctx));
                }
                None => {
                    let addr = addr.wrapping_add(at as u64);
                    if let Some(len) = self.pci_piece(ports, addr, data.len() - at) {
                        let bytes = &mut data[at..at + len];
                        self.with_pci(ctx.cpu, |pci, ctx| pci.read(ports, addr, bytes, ctx));
                        at += len;
                        continue;
                    }
                    (if ports { &mut self.ports } else { &mut self.memory }).unclaimed += 1;
                }
            }
            at += piece.len;
        }
    }

    fn write(&mut self, ctx: IoContext, ports: bool, addr: u64, data: &[u8]) {
        self.advance(ctx.now);
        let mut at = 0;
        while at < data.len() {
            let bus = if ports { &mut self.ports } else { &mut self.memory };
            let piece = bus.piece(addr.wrapping_add(at as u64), data.len() - at, true);
            let bytes = &data[at..at + piece.len];
            match piece.target {
                Some((Target::Pic, offset)) => {
                    bytes.iter().for_each(|&byte| self.fabric.pic_write(offset, byte))
                }
                Some((Target::IoApic, offset)) => self.fabric.ioapic_write(offset, bytes),
                Some((Target::Device(owner), offset)) => {
                    self.with(owner, ctx.cpu, |device, ctx| device.write(offset, bytes, ctx));
                }
                Some((Target::PciPorts, offset)) => {
                    self.with_pci(ctx.cpu, |pci, ctx| pci.port_write(offset, bytes, ctx));
                }
                None => {
                    let addr = addr.wrapping_add(at as u64);
                    if let Some(len) = self.pci_piece(ports, addr, data.len() - at) {
                        let bytes = &data[at..at + len];
                        self.with_pci(ctx.cpu, |pci, ctx| pci.write(ports, addr, bytes, ctx));
                        at += len;
                        continue;
                    }
                    (if ports { &mut self.ports } else { &mut self.memory }).unclaimed += 1;
                }
            }
            at += piece.len;
        }
    }
}

impl Platform for Board {
    fn mmio_read(&self, ctx: IoContext, addr: GuestPhys, data: &mut [u8]) {
        self.lock().read(ctx, false, addr.0, data);
        tracing::trace!(target: "ringworld::mmio", cpu = ctx.cpu.0, at = ?ctx.now, addr = addr.0, "read {data:02x?}");
    }

    fn mmio_write(&self, ctx: IoContext, addr: GuestPhys, data: &[u8]) {
        tracing::trace!(target: "ringworld::mmio", cpu = ctx.cpu.0, at = ?ctx.now, addr = addr.0, "write {data:02x?}");
        self.lock().write(ctx, false, addr.0, data);
    }

    fn port_read(&self, ctx: IoContext, port: u16, data: &mut [u8]) {
        self.lock().read(ctx, true, port.into(), data);
        tracing::trace!(target: "ringworld::io", cpu = ctx.cpu.0, at = ?ctx.now, port, "in {data:02x?}");
    }

    fn port_write(&self, ctx: IoContext, port: u16, data: &[u8]) {
        tracing::trace!(target: "ringworld::io", cpu = ctx.cpu.0, at = ?ctx.now, port, "out {data:02x?}");
        self.lock().write(ctx, true, port.into(), data);
    }

    fn acknowledge(&self, ctx: IoContext) -> u8 {
        let mut inner = self.lock();
        inner.advance(ctx.now);
        inner.fabric.acknowledge()
    }

    fn send(&self, ctx: IoContext, message: InterruptMessage) {
        let mut inner = self.lock();
        inner.advance(ctx.now);
        inner.fabric.send(message);
    }

    fn end_of_interrupt(&self, ctx: IoContext, vector: u8) {
        let mut inner = self.lock();
        inner.advance(ctx.now);
        inner.fabric.end_of_interrupt(vector);
    }

    fn numeric_error(&self, ctx: IoContext, pending: bool) -> bool {
        let mut inner = self.lock();
        inner.advance(ctx.now);
        inner.fabric.numeric_error(pending)
    }

    fn attention(&self) -> &PlatformAttention {
        &self.attention
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringworld_core::{Delivery, Destination, TriggerMode};

    fn board() -> (Board, OutputBuffer) {
        let output = OutputBuffer::default();
        let board = Board::new(BoardConfig {
            serial: vec![Box::new(output.clone())],
            debug_exit: Some(0xf4),
            ..BoardConfig::default()
        });
        (board.unwrap(), output)
    }

    fn at(now: u64) -> IoContext {
        IoContext { cpu: CpuId(0), now: VirtualTime(now) }
    }

    fn out(board: &Board, now: u64, port: u16, bytes: &[u8]) {
        for byte in bytes {
            board.port_write(at(now), port, &[*byte]);
        }
    }

    fn input(board: &Board, now: u64, port: u16, len: usize) -> u64 {
        let mut data = [0; 8];
        board.port_read(at(now), port, &mut data[..len]);
        u64::from_le_bytes(data)
    }

    fn init_pics(board: &Board) {
        out(board, 0, 0x20, &[0x11]);
        out(board, 0, 0x21, &[0x30, 4, 1, 0]);
        out(board, 0, 0xa0, &[0x11]);
        out(board, 0, 0xa1, &[0x38, 2, 1, 0]);
    }

    fn redirect(board: &Board, pin: u32, low: u32) {
        for (index, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, low)] {
            board.mmio_write(at(0), IOAPIC_BASE, &index.to_le_bytes());
            board.mmio_write(at(0), IOAPIC_BASE.offset(0x10), &value.to_le_bytes());
        }
    }

    #[test]
    fn the_timer_reaches_both_interrupt_controllers() {
        let (board, _) = board();
        init_pics(&board);
        redirect(&board, 2, 0x55);
        board.next_event();
        board.attention().take();
        out(&board, 0, 0x43, &[0x30]);
        out(&board, 0, 0x40, &[99, 0]);
        assert!(board.attention().is_raised(), "there is a new event");
        let load = board.next_event();
        board.advance(load);
        let due = board.next_event();
        assert_eq!(due, VirtualTime::of_ticks(100, crate::PIT_HZ));
        assert!(!board.intr());
        board.attention().take();
        board.advance(due);
        assert!(board.attention().is_raised() && board.intr());
        let messages = board.take_messages();
        assert_eq!(messages.len(), 1);
        assert_eq!((messages[0].vector, messages[0].destination), (0x55, Destination::Physical(0)));
        assert_eq!(board.acknowledge(at(due.0)), 0x30);
        assert!(!board.intr());
    }

    /// SDM 1 D.2.1.2: FERR# latches IRQ 13; port 0xf0 clears it and asserts IGNNE# while FERR# lasts.
    #[test]
    fn numeric_errors_reach_irq_13() {
        let (board, _) = board();
        init_pics(&board);
        assert!(!board.numeric_error(at(0), true) && board.intr());
        assert_eq!(board.acknowledge(at(0)), 0x38 + 5);
        out(&board, 0, 0xf0, &[0]);
        out(&board, 0, 0xa0, &[0x20]);
        out(&board, 0, 0x20, &[0x20]);
        assert!(!board.intr(), "the latch is clear");
        assert!(board.numeric_error(at(0), true), "IGNNE#");
        assert!(!board.intr(), "FERR# has not risen again");
        assert!(!board.numeric_error(at(0), false));
        assert!(!board.numeric_error(at(0), true) && board.intr());
        out(&board, 0, 0xf0, &[0]);
        board.numeric_error(at(0), false);
        out(&board, 0, 0xf0, &[0]);
        assert!(!board.numeric_error(at(0), true), "without FERR# port 0xf0 does not assert IGNNE#");
    }

    /// MP specification 1.4, 3.6.2.2: the 8259's INTR at the I/O APIC's input 0
    #[test]
    fn virtual_wire_mode_through_the_ioapic() {
        let (board, _) = board();
        init_pics(&board);
        redirect(&board, 0, 0x700);
        out(&board, 0, 0x3fc, &[8]);
        out(&board, 0, 0x3f9, &[2]);
        let messages = board.take_messages();
        assert_eq!(messages.iter().map(|message| message.delivery).collect::<Vec<_>>(), [Delivery::ExtInt]);
        assert_eq!(board.acknowledge(at(0)), 0x34);
    }

    #[test]
    fn a_level_interrupt_comes_again_after_its_eoi() {
        let (board, _) = board();
        redirect(&board, 4, 0x8066);
        out(&board, 0, 0x3fc, &[8]);
        out(&board, 0, 0x3f9, &[2]);
        let messages = board.take_messages();
        assert_eq!((messages.len(), messages[0].trigger), (1, TriggerMode::Level));
        board.end_of_interrupt(at(1), 0x66);
        assert_eq!(board.take_messages(), messages, "the UART still asks");
        assert_eq!(input(&board, 2, 0x3fa, 1), 2);
        board.end_of_interrupt(at(3), 0x66);
        assert!(board.take_messages().is_empty());
    }

    #[test]
    fn nothing_answers_with_ones() {
        let (board, _) = board();
        for port in [0xcfc, 0x1234, 0xfffe] {
            assert_eq!(input(&board, 0, port, 4), 0xffff_ffff, "port {port:#x}");
        }
        let mut data = [0; 64];
        board.mmio_read(at(0), GuestPhys(u64::MAX - 3), &mut data);
        assert_eq!(data, [0xff; 64]);
        assert_eq!(board.counters().unclaimed_ports, 8);
    }

    #[test]
    fn serial_output_power_and_counters() {
        let (board, output) = board();
        out(&board, 0, 0x3f8, b"hello");
        assert_eq!(output.take(), b"hello");
        board.port_write(at(0), 0xf4, &5u32.to_le_bytes());
        board.port_write(at(0), 0xf4, &6u32.to_le_bytes());
        assert_eq!(board.take_power_request(), Some(PowerRequest::Exit(11)), "the first counts");
        assert_eq!(board.take_power_request(), None);
        let counters = board.counters();
        let com1 = counters.ports.iter().find(|region| region.name == "com1").unwrap();
        assert_eq!((com1.reads, com1.writes), (0, 5));
    }

    fn hash(board: &Board) -> u128 {
        let mut hasher = StateHasher::new();
        board.hash_state(&mut hasher);
        hasher.digest()
    }

    #[test]
    fn a_restored_board_goes_on_the_same() {
        let (first, _) = board();
        init_pics(&first);
        out(&first, 5, 0x43, &[0x34]);
        out(&first, 5, 0x40, &[0, 1]);
        out(&first, 5, 0x70, &[0x0b]);
        out(&first, 5, 0x71, &[0x42]);
        first.input(HostInput::Serial(0), b"text", VirtualTime(1000));
        let (second, _) = board();
        assert_ne!(hash(&first), hash(&second));
        second.restore(&first.save().unwrap()).unwrap();
        for now in [1000, 1_000_000, 50_000_000, 2_000_000_000] {
            first.advance(VirtualTime(now));
            second.advance(VirtualTime(now));
            assert_eq!(hash(&first), hash(&second));
            assert_eq!(first.next_event(), second.next_event());
        }
        let image = first.save().unwrap();
        assert!(second.restore(&image[..image.len() / 2]).is_err());
        assert!(Board::new(BoardConfig::default()).unwrap().restore(&image).is_err());
        first.reset(VirtualTime(3_000_000_000));
        second.reset(VirtualTime(3_000_000_000));
    }
}
