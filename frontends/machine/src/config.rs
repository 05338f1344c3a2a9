//! What a machine is made of, as plain data.

use crate::network::Network;
use crate::share::Share;
use crate::vsock::Vsock;
use ringworld_devices::storage::DiskOptions;
use ringworld_firmware::{BootFile, Kind, LoadError, read_file};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The clock of a deterministic machine starts here: 2026-01-01 00:00:00 UTC, in seconds since 1970.
pub const DEFAULT_RTC_START: u64 = 1_767_225_600;

/// The most CPUs of a machine: each needs an 8-bit APIC ID of its own, and 255 means "all".
pub const MAX_CPUS: u32 = 255;

/// A file of the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Source {
    /// A file of the host.
    Path(PathBuf),
    /// Contents that somebody made in memory.
    #[serde(skip)]
    Memory(BootFile),
}

impl Source {
    /// Reads the file, unless it has more than `limit` bytes.
    pub(crate) fn read(&self, what: &'static str, limit: u64) -> Result<BootFile, LoadError> {
        match self {
            Self::Path(path) => read_file(what, path, limit),
            Self::Memory(file) => Ok(file.clone()),
        }
    }
}

/// An initrd or a boot module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Module {
    /// What is in it.
    pub file: Source,
    /// Its own command line, which kernels of multiboot and PVH get.
    pub arguments: String,
}

impl Module {
    /// A module without arguments.
    pub fn new(file: Source) -> Self {
        Self { file, arguments: String::new() }
    }

    /// Reads the file, unless it has more than `limit` bytes.
    pub(crate) fn read(&self, limit: u64) -> Result<BootFile, LoadError> {
        Ok(BootFile { arguments: self.arguments.clone(), ..self.file.read("initrd", limit)? })
    }
}

/// What runs the instructions. Both are the same machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Engine {
    /// The interpreter.
    #[default]
    Interp,
    /// The translator, and the interpreter for cold code.
    Jit,
}

/// How the kernel is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Loader {
    /// As the file itself says.
    #[default]
    Auto,
    /// Linux bzImage, 64-bit boot protocol.
    Linux64,
    /// Linux bzImage, 32-bit boot protocol.
    Linux32,
    /// ELF kernel by its PVH entry point.
    Pvh,
    /// ELF kernel at its entry point, with Linux's boot parameters in RSI.
    Elf,
    /// Multiboot 1.
    Multiboot,
    /// A plain binary in real mode at this segment and offset.
    RawReal(u16, u16),
    /// A plain binary in flat 32-bit protected mode at this physical address.
    RawProtected(u32),
}

impl Loader {
    pub(crate) fn kind(self) -> Option<Kind> {
        match self {
            Self::Auto => None,
            Self::Linux64 => Some(Kind::Linux64),
            Self::Linux32 => Some(Kind::Linux32),
            Self::Pvh => Some(Kind::Pvh),
            Self::Elf => Some(Kind::Elf),
            Self::Multiboot => Some(Kind::Multiboot),
            Self::RawReal(segment, offset) => Some(Kind::RawReal { segment, offset }),
            Self::RawProtected(address) => Some(Kind::RawProtected(address)),
        }
    }
}

/// A loader's name is none of the known ones.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "no loader is called {0:?}; there are auto, linux64, linux32, pvh, elf, multiboot, raw@ADDRESS and raw@SEGMENT:OFFSET"
)]
pub struct UnknownLoader(
    /// What was asked for.
    pub String,
);

impl FromStr for Loader {
    type Err = UnknownLoader;

    fn from_str(name: &str) -> Result<Self, UnknownLoader> {
        let unknown = || UnknownLoader(name.into());
        let number = |text: &str| {
            let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
            // `from_str_radix` would take a sign.
            let plain = digits.chars().all(|c| c.is_ascii_alphanumeric());
            u32::from_str_radix(digits, radix).ok().filter(|_| plain).ok_or_else(unknown)
        };
        let short = |text: &str| number(text)?.try_into().map_err(|_| unknown());
        match name {
            "auto" => Ok(Self::Auto),
            "linux64" => Ok(Self::Linux64),
            "linux32" => Ok(Self::Linux32),
            "pvh" => Ok(Self::Pvh),
            "elf" => Ok(Self::Elf),
            "multiboot" => Ok(Self::Multiboot),
            _ => match name.strip_prefix("raw@").ok_or_else(unknown)?.split_once(':') {
                Some((segment, offset)) => Ok(Self::RawReal(short(segment)?, short(offset)?)),
                None => Ok(Self::RawProtected(number(&name[4..])?)),
            },
        }
    }
}

/// What a disk is attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Interface {
    /// A virtio block device.
    Virtio,
    /// An NVMe controller of its own.
    Nvme,
    /// A port of the AHCI controller.
    Ahci,
    /// A port of the AHCI controller, as a disc in a CD-ROM drive.
    AhciCdrom,
}

/// A disk of the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drive {
    /// The image.
    pub disk: DiskOptions,
    /// What it is attached to.
    pub interface: Interface,
}

/// What virtual time follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum TimeMode {
    /// Only the instruction count: one instruction takes one nanosecond, idle time is skipped. The host's clock is never
    /// looked at, so equal inputs give equal runs.
    #[default]
    Deterministic,
    /// The instruction count, too, but never ahead of the host's clock: an idle guest sleeps for as long as it says.
    Real,
}

/// A machine's description. Start from [`MachineConfig::default`] and change what matters:
///
/// ```
/// # use ringworld_machine::MachineConfig;
/// let config = MachineConfig { cpus: 2, memory: 512 << 20, ..MachineConfig::default() };
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineConfig {
    /// The CPU model, with features added and taken away: `max`, `qemu64,+avx2,-x2apic`.
    pub cpu: String,
    /// What runs the instructions.
    pub engine: Engine,
    /// The number of CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// RAM in bytes, a multiple of 4 KiB.
    pub memory: u64,
    /// The kernel.
    pub kernel: Source,
    /// The initrd, or several boot modules.
    pub modules: Vec<Module>,
    /// The kernel's command line.
    pub command_line: String,
    /// How the kernel is started.
    pub loader: Loader,
    /// Firmware to start at the reset vector in place of a kernel.
    pub firmware: Option<Source>,
    /// The flash memory for the firmware's variables, below the firmware.
    pub firmware_variables: Option<DiskOptions>,
    /// Whether there is a graphics card.
    pub graphics: bool,
    /// The first serial backend is a virtio console in place of COM1.
    pub virtio_console: bool,
    /// Whether there is a virtio entropy device.
    pub entropy: bool,
    /// Whether there is a virtio memory balloon.
    pub balloon: bool,
    /// Disks.
    pub drives: Vec<Drive>,
    /// Network cards.
    pub networks: Vec<Network>,
    /// Shared folders.
    pub shares: Vec<Share>,
    /// Sockets between host and guest.
    pub vsock: Option<Vsock>,
    /// What virtual time follows.
    pub time: TimeMode,
    /// What the real-time clock shows at power-on, in seconds since 1970-01-01 UTC.
    pub rtc_start: u64,
    /// Seeds the guest's random numbers (RDRAND, RDSEED).
    pub seed: u64,
    /// The first of the debug-exit device's four I/O ports; `None` leaves the device out.
    pub debug_exit: Option<u16>,
    /// Whether there is the device that bare-metal CPU test suites drive (ports 0xe0 to 0xe8, 0x2000 to 0x2017, 64 KiB at
    /// 0xff000000).
    pub cpu_test: bool,
    /// A reset that the guest asks for restarts it; otherwise it ends the run.
    pub reboot: bool,
    /// A triple fault resets the machine, as a PC's chipset does on a shutdown cycle; otherwise it ends the run.
    pub triple_fault_resets: bool,
    /// With several CPUs: how long each runs before the next one's turn, in nanoseconds (instructions) of virtual time.
    pub slice: u64,
    /// Tells `perf` the names of translated code by a file in /tmp ([`PerfMap`](ringworld_jit_x86::PerfMap)).
    pub perf_map: bool,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            cpu: "max".into(),
            engine: Engine::default(),
            cpus: 1,
            memory: 1 << 30,
            kernel: Source::Memory(BootFile::new("", Vec::new())),
            modules: Vec::new(),
            command_line: String::new(),
            loader: Loader::Auto,
            firmware: None,
            firmware_variables: None,
            graphics: false,
            virtio_console: false,
            entropy: false,
            balloon: false,
            drives: Vec::new(),
            networks: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            time: TimeMode::Deterministic,
            rtc_start: DEFAULT_RTC_START,
            seed: 0,
            debug_exit: Some(0xf4),
            cpu_test: false,
            reboot: true,
            triple_fault_resets: false,
            slice: 10_000,
            perf_map: false,
        }
    }
}

/// The host's time of day, for [`MachineConfig::rtc_start`].
pub fn host_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(DEFAULT_RTC_START, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_have_names() {
        for (name, loader) in [
            ("auto", Loader::Auto),
            ("linux64", Loader::Linux64),
            ("raw@0x100000", Loader::RawProtected(0x10_0000)),
            ("raw@4096", Loader::RawProtected(4096)),
            ("raw@0xf000:0xfff0", Loader::RawReal(0xf000, 0xfff0)),
            ("raw@0:0x7c00", Loader::RawReal(0, 0x7c00)),
        ] {
            assert_eq!(name.parse(), Ok(loader), "{name}");
        }
        for name in
            ["", "linux", "raw", "raw@", "raw@x", "raw@0x1ffffffff", "raw@0x10000:0", "raw@+1", "raw@1:2:3"]
        {
            assert_eq!(name.parse::<Loader>(), Err(UnknownLoader(name.into())));
        }
    }

    #[test]
    fn a_configuration_round_trips() {
        let config =
            MachineConfig { kernel: Source::Path("vmlinuz".into()), cpus: 3, ..MachineConfig::default() };
        let text = serde_json::to_string(&config).unwrap();
        let back: MachineConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert!(matches!(back.kernel, Source::Path(path) if path.to_str() == Some("vmlinuz")));
    }
}
