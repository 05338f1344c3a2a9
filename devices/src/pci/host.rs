//! The root complex: configuration access by ports 0xcf8/0xcfc and by memory (ECAM), routing of memory, ports and
//! interrupts to the functions.
//!
//! Bus 0 holds the chipset, integrated endpoints, and root ports; each root port has one device behind it.

use super::chipset::{self, PAM, PAM_REGISTERS, PCIEXBAR, Plain};
use super::config_space::{ConfigSpace, register};
use super::device::{PciContext, PciDevice};
use crate::device::{Device, DeviceContext, StateError};
use crate::dma::RequesterId;
use crate::reset_control::ResetControl;
use core::ops::Range;
use ringworld_core::StateHasher;

/// Where this board's firmware puts the ECAM area.
pub const ECAM_BASE: u64 = 0xb000_0000;
/// 256 buses.
pub const ECAM_SIZE: u64 = 256 << 20;
/// The addresses below 4 GiB that base address registers get.
pub const MEMORY32_WINDOW: Range<u64> = 0xc000_0000..0xfec0_0000;
/// The size of the window above RAM for 64-bit base address registers.
pub const MEMORY64_SIZE: u64 = 64 << 30;

/// The offset of port 0xcf9 among the configuration ports.
const RESET_OFFSET: u64 = 1;
/// Timers of one function.
const TIMERS: u32 = 8;
/// Buses and functions, from ECAM's enable bit on (317607 5.1.15).
const ECAM_ENABLE: u64 = 1;

/// Where a function sits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PciPlace {
    /// On bus 0: device and function.
    Root(u8, u8),
    /// Behind the root port that is this many functions into the list, as device 0: function.
    Behind(usize, u8),
}

/// A function, to look at.
#[derive(Clone, Debug)]
pub struct PciFunctionInfo {
    /// Its name on the board.
    pub name: String,
    /// Where it is now.
    pub requester: RequesterId,
    /// Vendor and device.
    pub id: (u16, u16),
    /// Base address registers: number, address, size.
    pub bars: Vec<(usize, u64, u64)>,
}

pub(super) struct Function {
    pub(super) name: String,
    pub(super) parent: Option<usize>,
    pub(super) devfn: u8,
    pub(super) config: ConfigSpace,
    device: Box<dyn PciDevice>,
}

/// What answers a range of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Bar(usize),
    Rom,
    Fixed,
}

/// A range of addresses and who answers there.
#[derive(Clone, Copy, Debug)]
struct Route {
    start: u64,
    last: u64,
    function: usize,
    answer: Answer,
}

/// The root complex with everything behind it.
pub(crate) struct PciHost {
    pub(super) functions: Vec<Function>,
    lpc: usize,
    address: u32,
    reset_control: ResetControl,
    memory: Vec<Route>,
    ports: Vec<Route>,
    ecam: Option<Range<u64>>,
    /// The levels of PIRQA to PIRQH, as driven last.
    pirqs: [bool; 8],
}

/// The PIRQ (0 for A) of a device's interrupt pin (1 for INTA#) on bus 0: devices up to 24 take turns among E to H, the
/// chipset's own have A to D.
fn pirq(device: u8, pin: u8) -> usize {
    let pin = usize::from(pin.saturating_sub(1)) & 3;
    if device <= 24 { 4 + (usize::from(device) + pin) % 4 } else { pin }
}

/// The I/O APIC's input of a device's interrupt pin on bus 0.
pub fn interrupt_line(device: u8, pin: u8) -> u8 {
    16 + pirq(device, pin) as u8
}

impl PciHost {
    /// A root complex with its chipset. `pm_base` is where the ACPI registers are.
    pub(crate) fn new(pm_base: u16) -> Self {
        let mut host = Self {
            functions: Vec::new(),
            lpc: 1,
            address: 0,
            reset_control: ResetControl::default(),
            memory: Vec::new(),
            ports: Vec::new(),
            ecam: None,
            pirqs: [false; 8],
        };
        host.add("host-bridge", PciPlace::Root(0, 0), chipset::host_bridge(), Plain::boxed());
        host.add("lpc", PciPlace::Root(31, 0), chipset::lpc_bridge(pm_base), Plain::boxed());
        host
    }

    /// Adds a root port as device `device` of bus 0; the place behind it.
    pub(crate) fn add_root_port(&mut self, device: u8) -> PciPlace {
        let config = chipset::root_port(device);
        PciPlace::Behind(self.add("root-port", PciPlace::Root(device, 0), config, Plain::boxed()), 0)
    }

    /// Adds a function, and returns its number.
    pub(crate) fn add(
        &mut self,
        name: &str,
        place: PciPlace,
        config: ConfigSpace,
        device: Box<dyn PciDevice>,
    ) -> usize {
        let (parent, devfn) = match place {
            PciPlace::Root(device, function) => (None, device << 3 | function),
            PciPlace::Behind(port, function) => (Some(port), function),
        };
        self.functions.push(Function { name: name.into(), parent, devfn, config, device });
        self.functions.len() - 1
    }

    /// The first device number of bus 0 that is free, from `first` on.
    pub(crate) fn free_device(&self, first: u8) -> Option<u8> {
        let taken = |device| self.functions.iter().any(|f| f.parent.is_none() && f.devfn >> 3 == device);
        (first..31).find(|&device| !taken(device))
    }

    pub(crate) fn reset(&mut self, ctx: &mut DeviceContext<'_>) {
        self.address = 0;
        self.pirqs = [false; 8];
        self.reset_control.reset(ctx);
        for index in 0..self.functions.len() {
            self.functions[index].config.reset();
            self.call(index, ctx, |device, ctx| device.reset(ctx));
        }
        self.map();
        self.shadow(ctx);
    }

    /// As [`Self::reset`], but for the PAM registers.
    pub(crate) fn suspend(&mut self, ctx: &mut DeviceContext<'_>) {
        let pam = self.functions[0].config.get(PAM, PAM_REGISTERS);
        self.reset(ctx);
        self.functions[0].config.put(PAM, PAM_REGISTERS, pam);
        self.shadow(ctx);
    }

    fn bus_of(&self, function: &Function) -> u8 {
        function
            .parent
            .and_then(|port| self.functions.get(port))
            .map_or(0, |port| port.config.get(register::SECONDARY_BUS, 1) as u8)
    }

    fn find(&self, bus: u8, devfn: u8) -> Option<usize> {
        // Behind an unconfigured bridge, no bus number leads there: bus 0 is the root's.
        self.functions
            .iter()
            .position(|f| f.devfn == devfn && self.bus_of(f) == bus && (bus != 0 || f.parent.is_none()))
    }

    /// Calls a function, and afterwards brings its interrupt to where it is routed.
    fn call<R>(
        &mut self,
        index: usize,
        ctx: &mut DeviceContext<'_>,
        call: impl FnOnce(&mut dyn PciDevice, &mut PciContext<'_, '_>) -> R,
    ) -> Option<R> {
        let requester = {
            let function = self.functions.get(index)?;
            RequesterId(u16::from(self.bus_of(function)) << 8 | u16::from(function.devfn))
        };
        let upstream = self.functions[index]
            .parent
            .and_then(|port| self.functions.get(port))
            .is_none_or(|port| port.config.may_master());
        let function = &mut self.functions[index];
        let before = function.config.intx();
        let mut pci = PciContext {
            config: &mut function.config,
            ctx,
            requester,
            upstream,
            timers: index as u32 * TIMERS,
        };
        let result = call(function.device.as_mut(), &mut pci);
        if before != function.config.intx() {
            self.drive(ctx);
        }
        Some(result)
    }

    /// Brings the interrupt pins' levels to the interrupt controllers.
    fn drive(&mut self, ctx: &mut DeviceContext<'_>) {
        let mut levels = [false; 8];
        for function in self.functions.iter().filter(|f| f.config.intx()) {
            let pin = function.config.get(register::INTERRUPT_PIN, 1) as u8;
            // A root port's secondary bus has device 0 only: pins go through unchanged (PCIe 2.2.8.1).
            let device = function.parent.and_then(|p| self.functions.get(p)).unwrap_or(function).devfn >> 3;
            levels[pirq(device, pin)] = true;
        }
        self.pirqs = levels;
        let mut irqs = [false; 16];
        for (n, level) in levels.into_iter().enumerate() {
            ctx.set_irq(16 + n as u8, level);
            if let Some(irq) = chipset::routed_irq(&self.functions[self.lpc].config, n) {
                irqs[usize::from(irq)] |= level;
            }
        }
        for (irq, level) in irqs.into_iter().enumerate() {
            ctx.set_pic_irq(irq as u8, level);
        }
    }

    /// Works out who answers where, after a change of a configuration space.
    pub(super) fn map(&mut self) {
        let (mut memory, mut ports) = (Vec::new(), Vec::new());
        for (index, function) in self.functions.iter().enumerate() {
            let port = function.parent.and_then(|port| self.functions.get(port));
            let reaches = |start: u64, last: u64, io: bool| {
                port.is_none_or(|port| windows(&port.config, io).iter().any(|w| w.0 <= start && last <= w.1))
            };
            let config = &function.config;
            let mut add = |start: u64, size: u64, answer, io: bool| {
                let Some(last) = start.checked_add(size - 1) else { return };
                if reaches(start, last, io) {
                    let to = if io { &mut ports } else { &mut memory };
                    to.push(Route { start, last, function: index, answer });
                }
            };
            for bar in 0..6 {
                let Some(kind) = config.bar_kind(bar) else { continue };
                let io = matches!(kind, super::Bar::Io(_));
                let address = config.bar_address(bar);
                // Zero is where firmware has not been yet.
                if address != 0 && if io { config.io_enabled() } else { config.memory_enabled() } {
                    add(address, kind.size(), Answer::Bar(bar), io);
                }
            }
            if let Some((address, size)) = config.rom_range() {
                add(address, size, Answer::Rom, false);
            }
            for (fixed, io) in
                [(function.device.fixed_memory(), false), (function.device.fixed_ports(), true)]
            {
                for &(start, len) in fixed {
                    if if io { config.io_enabled() } else { config.memory_enabled() } {
                        add(start, len, Answer::Fixed, io);
                    }
                }
            }
        }
        // Where two answer, the one that was added first does.
        memory.sort_by_key(|route: &Route| route.start);
        ports.sort_by_key(|route: &Route| route.start);
        (self.memory, self.ports) = (memory, ports);
        let pciexbar = self.functions[0].config.get(PCIEXBAR, 8);
        let size = [256 << 20, 128 << 20, 64 << 20, 0][(pciexbar >> 1 & 3) as usize];
        let base = pciexbar & 0xf_f000_0000;
        self.ecam = (pciexbar & ECAM_ENABLE != 0).then_some(base..base + size);
    }

    /// Turns the ECAM area on, as firmware does.
    pub(super) fn enable_ecam(&mut self) {
        self.functions[0].config.put(PCIEXBAR, 8, ECAM_BASE | ECAM_ENABLE);
    }

    /// How wide the one that answers at `address` takes an access, and how many bytes are left of its range; `None` if
    /// nobody answers.
    pub(crate) fn claims(&self, port: bool, address: u64) -> Option<u64> {
        if !port && let Some(ecam) = self.ecam.as_ref().filter(|ecam| ecam.contains(&address)) {
            return Some(ecam.end - address);
        }
        self.route(port, address).map(|route| route.last - address + 1)
    }

    fn route(&self, port: bool, address: u64) -> Option<Route> {
        let routes = if port { &self.ports } else { &self.memory };
        let end = routes.partition_point(|route| route.start <= address);
        // Ranges may overlap if software wants it so.
        routes[..end].iter().rev().find(|route| route.last >= address).copied()
    }

    pub(crate) fn read(&mut self, port: bool, address: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        if !port && let Some(ecam) = self.ecam.clone().filter(|ecam| ecam.contains(&address)) {
            self.config_read((address - ecam.start) as u32, data, ctx);
            return;
        }
        let Some(Route { function, answer, start, .. }) = self.route(port, address) else { return };
        self.call(function, ctx, |device, ctx| match answer {
            Answer::Bar(bar) if ctx.config.msix_read(bar, address - start, data) => {}
            Answer::Bar(bar) => device.read(bar, address - start, data, ctx),
            Answer::Rom => ctx.config.read_rom(address - start, data),
            Answer::Fixed => device.fixed_read(port, address, data, ctx),
        });
    }

    pub(crate) fn write(&mut self, port: bool, address: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        if !port && let Some(ecam) = self.ecam.clone().filter(|ecam| ecam.contains(&address)) {
            self.config_write((address - ecam.start) as u32, data, ctx);
            return;
        }
        let Some(Route { function, answer, start, .. }) = self.route(port, address) else { return };
        self.call(function, ctx, |device, ctx| match answer {
            Answer::Bar(bar) if ctx.config.msix_write(bar, address - start, data) => {
                for message in ctx.config.unmasked() {
                    ctx.send(message);
                }
            }
            Answer::Bar(bar) => device.write(bar, address - start, data, ctx),
            Answer::Rom => {}
            Answer::Fixed => device.fixed_write(port, address, data, ctx),
        });
    }

    /// `at`: bus in bits 27:20, device and function in 19:12, register in 11:0 (PCIe 7.2.2).
    fn config_read(&mut self, at: u32, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        let Some(index) = self.find((at >> 20) as u8, (at >> 12) as u8) else { return };
        let offset = (at & 0xfff) as usize;
        let len = data.len();
        self.call(index, ctx, |device, ctx| {
            device.config_access(offset, len, false, ctx);
            ctx.config.read(offset, data);
        });
    }

    fn config_write(&mut self, at: u32, data: &[u8], ctx: &mut DeviceContext<'_>) {
        let Some(index) = self.find((at >> 20) as u8, (at >> 12) as u8) else { return };
        let offset = (at & 0xfff) as usize;
        self.call(index, ctx, |device, ctx| {
            ctx.config.write(offset, data);
            device.config_access(offset, data.len(), true, ctx);
            for message in ctx.config.unmasked() {
                ctx.send(message);
            }
        });
        self.map();
        self.shadow(ctx);
        self.drive(ctx);
    }

    /// Brings the PAM registers to memory.
    pub(crate) fn shadow(&self, ctx: &mut DeviceContext<'_>) {
        let Some(memory) = ctx.guest_memory() else { return };
        let mut changed = false;
        for (area, reads, writes) in chipset::shadow(&self.functions[0].config) {
            changed |= memory.set_shadow(area, reads, writes);
        }
        if changed {
            ctx.memory_has_moved();
        }
    }

    /// The register that ports 0xcfc to 0xcff show (PCI 3.0 3.2.2.3.2).
    fn selected(&self, offset: u64) -> Option<u32> {
        let address = self.address;
        let place = address >> 16 << 20 | (address >> 8 & 0xff) << 12 | (address & 0xfc);
        (address >> 31 != 0).then_some((place & 0x0fff_ffff) | (offset as u32 & 3))
    }

    /// Reads ports 0xcf8 to 0xcff.
    pub(crate) fn port_read(&mut self, offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (RESET_OFFSET, 1) => self.reset_control.read(offset, data, ctx),
            (4.., _) => {
                if let Some(at) = self.selected(offset) {
                    self.config_read(at, data, ctx);
                }
            }
            _ => {}
        }
    }

    /// Writes ports 0xcf8 to 0xcff.
    pub(crate) fn port_write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]) & 0x80ff_fffc,
            (RESET_OFFSET, [_]) => self.reset_control.write(offset, data, ctx),
            (4.., _) => {
                if let Some(at) = self.selected(offset) {
                    self.config_write(at, data, ctx);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn timer(&mut self, timer: u32, ctx: &mut DeviceContext<'_>) {
        self.call((timer / TIMERS) as usize, ctx, |device, ctx| device.timer((timer % TIMERS) as u8, ctx));
    }

    pub(crate) fn input(&mut self, function: usize, bytes: &[u8], ctx: &mut DeviceContext<'_>) {
        self.call(function, ctx, |device, ctx| device.input(bytes, ctx));
    }

    pub(crate) fn screen(&self) -> Option<crate::Screen> {
        self.functions.iter().find_map(|function| function.device.screen())
    }

    pub(crate) fn info(&self) -> Vec<PciFunctionInfo> {
        let info = |function: &Function| PciFunctionInfo {
            name: function.name.clone(),
            requester: RequesterId(u16::from(self.bus_of(function)) << 8 | u16::from(function.devfn)),
            id: (
                function.config.get(register::VENDOR_ID, 2) as u16,
                function.config.get(register::DEVICE_ID, 2) as u16,
            ),
            bars: (0..6)
                .filter_map(|bar| {
                    let kind = function.config.bar_kind(bar)?;
                    Some((bar, function.config.bar_address(bar), kind.size()))
                })
                .collect(),
        };
        self.functions.iter().map(info).collect()
    }

    pub(crate) fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&(self.address, self.pirqs));
        self.reset_control.hash_state(hasher);
        for function in &self.functions {
            function.config.hash_state(hasher);
            function.device.hash_state(hasher);
        }
    }

    pub(crate) fn save(&self) -> Result<Vec<u8>, StateError> {
        let functions = self.functions.iter().map(|f| Ok((f.config.save()?, f.device.save()?)));
        let functions = functions.collect::<Result<Vec<_>, StateError>>()?;
        Ok(postcard::to_stdvec(&(self.address, self.pirqs, self.reset_control.save()?, functions))?)
    }

    pub(crate) fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        type Image = (u32, [bool; 8], Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);
        let (address, pirqs, reset_control, functions): Image = postcard::from_bytes(image)?;
        if functions.len() != self.functions.len() {
            return Err(StateError::OtherBoard(format!("{} PCI functions", functions.len())));
        }
        (self.address, self.pirqs) = (address, pirqs);
        self.reset_control.restore(&reset_control)?;
        for (function, (config, device)) in self.functions.iter_mut().zip(&functions) {
            function.config.restore(config)?;
            function.device.restore(device)?;
        }
        self.map();
        Ok(())
    }
}

/// A bridge's windows as first and last address (PCI-to-PCI bridge 1.2, 3.2.5).
fn windows(bridge: &ConfigSpace, io: bool) -> Vec<(u64, u64)> {
    use register::*;
    let get = |at, len| bridge.get(at, len);
    if io {
        let base = (get(IO_BASE, 1) & 0xf0) << 8 | get(IO_BASE_UPPER, 2) << 16;
        let last = (get(IO_LIMIT, 1) & 0xf0) << 8 | 0xfff | get(IO_BASE_UPPER + 2, 2) << 16;
        return if bridge.io_enabled() { vec![(base, last)] } else { Vec::new() };
    }
    if !bridge.memory_enabled() {
        return Vec::new();
    }
    let address = |at| (get(at, 2) & 0xfff0) << 16;
    vec![
        (address(MEMORY_BASE), address(MEMORY_LIMIT) | 0xf_ffff),
        (
            address(PREFETCHABLE_BASE) | get(PREFETCHABLE_BASE_UPPER, 4) << 32,
            address(PREFETCHABLE_LIMIT) | 0xf_ffff | get(PREFETCHABLE_LIMIT_UPPER, 4) << 32,
        ),
    ]
}
