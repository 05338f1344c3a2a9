//! The PCI devices that a configuration asks for.

use crate::config::{Drive, Interface};
use crate::{HostEvent, Machine, MachineConfig, MachineError, MachineHandle, entry, network, share, vsock};
use ringworld_core::{CpuId, GuestPhys, IoContext, Platform, VirtualTime};
use ringworld_devices::PciSlot;
use ringworld_devices::ahci::{self, Attachment, ahci};
use ringworld_devices::nvme::nvme;
use ringworld_devices::pci::{
    ConfigSpace, ECAM_BASE, MEMORY32_WINDOW, MEMORY64_SIZE, PciDevice, Port, interrupt_line, test_device,
};
use ringworld_devices::storage::{DiskError, DiskOptions, open_disk};
use ringworld_devices::vga::{VIDEO_MEMORY, vga};
use ringworld_devices::virtio::{
    Virtio9p, VirtioBalloon, VirtioBlk, VirtioConsole, VirtioDevice, VirtioNet, VirtioRng, VirtioVsock,
    virtio_pci,
};
use ringworld_devices::{Board, CharBackend, Pflash, Region};
use ringworld_firmware::{AcpiConfig, Framebuffer, Image, MemoryMap, PciConfig};
use ringworld_x86::model::{Feature, Model};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The first device number on bus 0 for what the user adds; the first one is left to graphics.
const FIRST_DEVICE: u8 = 2;
/// Where Debian and others have a BIOS for this card (package seabios).
const VGA_BIOS: [&str; 2] = ["/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/qemu/vgabios-stdvga.bin"];
const GRAPHICS_DEVICE: u8 = 1;
const CHIPSET_DEVICE: u8 = 31;
/// The largest flash.
const FLASH_LIMIT: u64 = 4 << 20;
/// The window for 64-bit base address registers begins here, or above all RAM.
const MEMORY64_BASE: u64 = 0x40_0000_0000;

/// The root complex as ACPI describes it.
pub(crate) fn pci_config(memory: &MemoryMap) -> PciConfig {
    let ram = memory.ranges().iter().map(|range| range.end().0).max().unwrap_or(0);
    let base = MEMORY64_BASE.max(ram.next_multiple_of(MEMORY64_SIZE));
    PciConfig {
        ecam: ECAM_BASE,
        memory32: MEMORY32_WINDOW,
        memory64: base..base + MEMORY64_SIZE,
        interrupt: interrupt_line,
    }
}

/// What a recording says of the devices.
pub(crate) fn describe(config: &MachineConfig) -> String {
    let on = [
        (config.graphics, "graphics"),
        (config.virtio_console, "virtio console"),
        (config.entropy, "virtio entropy"),
        (config.balloon, "virtio balloon"),
    ];
    let single = on.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_string());
    let networks =
        config.networks.iter().enumerate().map(|(n, card)| format!("network {:02x?}", card.mac(n)));
    let drives = config.drives.iter().map(|drive| {
        let size = std::fs::metadata(&drive.disk.file).map_or(0, |file| file.len());
        format!("{:?} drive of {size} bytes, read only {}", drive.interface, drive.disk.read_only)
    });
    let shares = config.shares.iter().map(|share| format!("share {}", share.tag));
    let sockets = config.vsock.iter().map(|vsock| format!("sockets of {}", vsock.cid));
    single.chain(networks).chain(drives).chain(shares).chain(sockets).collect::<Vec<_>>().join("; ")
}

/// The board as ACPI describes it.
pub(crate) fn acpi_config(config: &MachineConfig, serial_ports: usize, memory: &MemoryMap) -> AcpiConfig {
    AcpiConfig {
        cpus: config.cpus,
        serial_ports,
        hpet: true,
        vga: config.graphics,
        pci: Some(pci_config(memory)),
    }
}

/// The files of the configuration device, which firmware reads.
pub(crate) fn firmware_files(
    config: &MachineConfig,
    serial_ports: usize,
    memory: &MemoryMap,
    image: &Image,
    model: &Model,
) -> Vec<(String, Vec<u8>)> {
    if image.entry.is_some() {
        return Vec::new();
    }
    let mut files = ringworld_firmware::firmware_files(memory, &acpi_config(config, serial_ports, memory));
    if !config.graphics {
        // SeaBIOS has its console there instead.
        files.push(("etc/sercon-port".into(), 0x3f8u64.to_le_bytes().to_vec()));
    }
    if model.has(Feature::Vmx) {
        // IA32_FEATURE_CONTROL of each CPU.
        files.push(("etc/msr_feature_control".into(), entry::FEATURE_CONTROL.to_le_bytes().to_vec()));
    }
    files
}

/// Puts the flash for the firmware's variables below the firmware.
pub(crate) fn attach_flash(board: &Board, options: &DiskOptions, end: GuestPhys) -> Result<(), MachineError> {
    let disk = open_disk(options)?;
    let size = disk.size();
    let failed = |error| MachineError::Disk(DiskError::Open(options.file.clone(), error));
    if size > FLASH_LIMIT || !size.is_multiple_of(4096) {
        return Err(failed(std::io::Error::other("variables have a multiple of 4 KiB up to 4 MiB")));
    }
    let region = Region::new("pflash", end.0 - size, size, 8);
    board.attach("pflash", Box::new(Pflash::new(disk).map_err(failed)?), &[], &[region])?;
    Ok(())
}

/// The screen of a guest that is loaded without firmware. The framebuffer is the largest of all base address registers, and so
/// the first in the window.
pub(crate) const FRAMEBUFFER: Framebuffer =
    Framebuffer { base: MEMORY32_WINDOW.start as u32, size: VIDEO_MEMORY as u32, width: 1024, height: 768 };

/// Sets the graphics card to [`FRAMEBUFFER`]'s mode by its display interface, as firmware does.
pub(crate) fn set_screen(board: &Board, now: VirtualTime) {
    let ctx = IoContext { cpu: CpuId(0), now };
    // The CRT controller where colour cards have it, whoever looks.
    board.port_write(ctx, 0x3c2, &[0x67]);
    // Width, height, bits a pixel; enabled, linear.
    for (index, value) in [(1u16, FRAMEBUFFER.width), (2, FRAMEBUFFER.height), (3, 32), (4, 0x41)] {
        board.port_write(ctx, 0x1ce, &index.to_le_bytes());
        board.port_write(ctx, 0x1cf, &value.to_le_bytes());
    }
}

/// The devices that have another side on the host: their places among the board's PCI devices.
#[derive(Default)]
pub(crate) struct Outside {
    /// Network cards.
    pub networks: Vec<usize>,
    /// Shared folders.
    pub shares: Vec<usize>,
    /// Sockets.
    pub socket: Option<usize>,
    /// The memory balloon, which the host inflates.
    pub balloon: Option<usize>,
    /// What begins to work on the host when the machine does.
    waiting: Vec<Box<dyn FnOnce(MachineHandle) + Send>>,
}

impl Outside {
    /// Whether there is none that a thread of the host's answers for.
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.shares.is_empty() && self.socket.is_none()
    }
}

/// What a configuration's peripherals are made of.
pub(crate) struct Peripherals {
    /// The board's PCI devices.
    pub slots: Vec<PciSlot>,
    /// Those with another side on the host.
    pub outside: Outside,
    /// The virtio console's place among them.
    pub console: Option<usize>,
}

/// Builds the devices.
pub(crate) fn build(
    config: &MachineConfig,
    muted: &Arc<AtomicBool>,
    console_backend: Option<Box<dyn CharBackend>>,
) -> Result<Peripherals, MachineError> {
    // SeaBIOS makes no root port a bus master (PCI-to-PCI bridge 1.2, 3.2.4.3), so nothing behind one could be booted.
    let root_ports = config.firmware.is_none();
    let mut slots = Slots { list: Vec::new(), ahci: Vec::new(), next: FIRST_DEVICE, root_ports };
    let mut outside = Outside::default();
    if config.graphics {
        // Without the BIOS, text modes are not set up, and all else works.
        let bios = VGA_BIOS.iter().find_map(|path| std::fs::read(path).ok());
        let (config, implementation) = vga(bios);
        slots.list.push(PciSlot {
            name: "vga".into(),
            behind_port: false,
            device: Some(GRAPHICS_DEVICE),
            function: 0,
            config,
            implementation,
        });
    }
    for (number, card) in config.networks.iter().enumerate() {
        let (backend, network) = network::prepare(card, muted.clone())?;
        outside.networks.push(slots.list.len());
        outside.waiting.push(Box::new(move |handle| network.start(number, handle)));
        slots.virtio(format!("virtio-net{number}"), VirtioNet::new(backend, card.mac(number)));
    }
    for (number, drive) in config.drives.iter().enumerate() {
        slots.drive(number, drive)?;
    }
    let console = console_backend.map(|backend| {
        slots.virtio("virtio-console".into(), VirtioConsole::new(backend));
        slots.list.len() - 1
    });
    if config.entropy {
        slots.virtio("virtio-rng".into(), VirtioRng::new(config.seed));
    }
    if config.balloon {
        outside.balloon = Some(slots.list.len());
        slots.virtio("virtio-balloon".into(), VirtioBalloon::new());
    }
    for (number, share) in config.shares.iter().enumerate() {
        let (backend, server) = share::prepare(share, muted.clone())?;
        outside.shares.push(slots.list.len());
        outside.waiting.push(Box::new(move |handle| server.start(number, handle)));
        slots.virtio(format!("virtio-9p{number}"), Virtio9p::new(backend, &share.tag));
    }
    if let Some(vsock) = &config.vsock {
        let (backend, host) = vsock::prepare(vsock, muted.clone())?;
        outside.socket = Some(slots.list.len());
        outside.waiting.push(Box::new(move |handle| host.start(handle)));
        slots.virtio("virtio-vsock".into(), VirtioVsock::new(backend, vsock.cid));
    }
    if config.cpu_test {
        slots.push("pci-test".into(), false, test_device());
    }
    slots.finish()?;
    Ok(Peripherals { slots: slots.list, outside, console })
}

struct Slots {
    list: Vec<PciSlot>,
    ahci: Vec<Attachment>,
    next: u8,
    /// Whether endpoints are behind root ports of their own.
    root_ports: bool,
}

impl Slots {
    fn push(&mut self, name: String, behind_port: bool, parts: (ConfigSpace, Box<dyn PciDevice>)) {
        let (config, implementation) = parts;
        let device = Some(self.next);
        self.next = self.next.saturating_add(1);
        self.list.push(PciSlot { name, behind_port, device, function: 0, config, implementation });
    }

    fn virtio(&mut self, name: String, device: impl VirtioDevice + 'static) {
        self.push(name, false, virtio_pci(Box::new(device), Port::IntegratedEndpoint));
    }

    /// Adds what is there once.
    fn finish(&mut self) -> Result<(), MachineError> {
        if self.ahci.len() > ahci::PORTS {
            return Err(MachineError::AhciPorts(self.ahci.len()));
        }
        if !self.ahci.is_empty() {
            // As in the chipset whose IDs it has.
            let (config, implementation) = ahci(core::mem::take(&mut self.ahci));
            let device = Some(CHIPSET_DEVICE);
            let name = "ahci".into();
            self.list.push(PciSlot { name, behind_port: false, device, function: 2, config, implementation });
        }
        if self.next > CHIPSET_DEVICE {
            return Err(MachineError::PciDevices((CHIPSET_DEVICE - FIRST_DEVICE).into()));
        }
        Ok(())
    }

    fn drive(&mut self, number: usize, drive: &Drive) -> Result<(), MachineError> {
        let disk = open_disk(&drive.disk)?;
        let serial = format!("ringworld-{number}");
        match drive.interface {
            Interface::Virtio => self.virtio(format!("virtio-blk{number}"), VirtioBlk::new(disk, serial)),
            Interface::Ahci => self.ahci.push(Attachment::Disk(disk, serial)),
            Interface::AhciCdrom => self.ahci.push(Attachment::Cdrom(disk)),
            Interface::Nvme => {
                let port = if self.root_ports { Port::Endpoint } else { Port::IntegratedEndpoint };
                self.push(format!("nvme{number}"), self.root_ports, nvme(disk, serial, port));
            }
        }
        Ok(())
    }
}

impl Machine {
    /// Asks the guest by its balloon to leave itself `size` bytes of memory; false if it has no balloon. The guest does so
    /// when it runs.
    pub fn balloon(&self, size: u64) -> bool {
        let pages = self.config.memory.saturating_sub(size) / ringworld_core::PAGE_SIZE;
        self.handle.send(HostEvent::Balloon { pages: u32::try_from(pages).unwrap_or(u32::MAX) });
        self.outside.balloon.is_some()
    }

    /// Lets the other sides work, unless a replay knows already what they say.
    pub(crate) fn start_outside(&mut self) {
        if self.replay.is_none() {
            self.outside.waiting.drain(..).for_each(|start| start(self.handle.clone()));
        }
    }
}
