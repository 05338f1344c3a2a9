//! The command line.

use crate::trace::TraceSpec;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ringworld_guests::{Architecture, Guest};
use ringworld_machine::{Loader, MachineConfig, host_has_avx512};
use std::ffi::OsString;
use std::path::PathBuf;

/// An instruction-level emulator of a PC.
#[derive(Debug, Parser)]
#[command(name = "ringworld", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 guest power-off, 1 failure, 2 usage; the guest's own through the debug-exit device; \
70 triple fault, 71 guest panic, 72 --max-instructions, 73 --timeout, 74 halted for ever, 75 reset with --no-reboot, \
76 suspended, 130 signal.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a kernel of your own
    Run(RunArgs),
    /// Fetch (once) and boot a guest system
    Boot(BootArgs),
    /// Manage the fetched guests
    #[command(subcommand)]
    Guests(GuestsCommand),
    /// List CPU models and features
    Cpus,
    /// List the checks of VM entry (VMX) and VMRUN (SVM), with their sections of the manuals
    Checks,
    /// Compare the engines over a whole run
    Lockstep(LockstepArgs),
    /// Run a small hypervisor and show what each way out of its guest costs
    Demo(DemoArgs),
    /// Run a test suite inside of the machine
    #[command(subcommand)]
    Conform(Suite),
}

/// `ringworld lockstep`.
#[derive(Debug, Args)]
pub struct LockstepArgs {
    /// Instructions between comparisons of the CPUs
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub step: u64,
    /// A run or boot command with its options
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `ringworld demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// What the hypervisor uses
    #[arg(value_enum)]
    pub kind: DemoKind,
    /// How often each row is repeated
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub count: u32,
    /// What executes instructions
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub engine: Engine,
    /// The CPU model [default: max, with SVM EPYC]
    #[arg(long, value_name = "MODEL[,+FEATURE][,-FEATURE]")]
    pub cpu: Option<String>,
}

/// The demonstrations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DemoKind {
    /// Intel's VMX, with extended page tables
    Vmx,
    /// AMD's SVM, with nested paging
    Svm,
    /// Neither: a kernel in ring 1, by trap and emulation
    Ring1,
}

/// `ringworld conform`.
#[derive(Debug, Subcommand)]
pub enum Suite {
    /// The tests of a built tree of kvm-unit-tests
    KvmUnitTests(ConformArgs),
}

/// `ringworld conform kvm-unit-tests`.
#[derive(Debug, Args)]
pub struct ConformArgs {
    /// The built tree, x86_64 or i386
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Only tests with these names; `*` stands for anything (separated by commas, may be repeated)
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub filter: Vec<String>,
    /// Only tests of this group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// The time limit of every test, in place of the suite's
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub timeout: Option<f64>,
    /// How many machines run at once [default: one for each processor of the host]
    #[arg(long, value_name = "N", value_parser = parse_jobs)]
    pub jobs: Option<usize>,
    /// The CPU that stands for QEMU's `max` and `host`
    #[arg(long, value_name = "MODEL[,+FEATURE][,-FEATURE]")]
    pub cpu: Option<String>,
    /// What executes instructions
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub engine: Engine,
    /// A file of expected failures: lines TEST or TEST: SUB-TEST
    #[arg(long, value_name = "FILE")]
    pub expected_failures: Option<PathBuf>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Keep each test's output in this folder
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
}

/// What a snapshot's machine has already.
const MACHINE_OPTIONS: [&str; 24] = [
    "slice",
    "console",
    "device",
    "cdrom",
    "vga",
    "kernel",
    "firmware",
    "firmware_vars",
    "drive",
    "net",
    "share",
    "vsock",
    "initrd",
    "append",
    "loader",
    "cpu",
    "cpus",
    "memory",
    "seed",
    "rtc",
    "cpu_test",
    "no_reboot",
    "on_triple_fault",
    "record",
];

/// `--on-triple-fault`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum OnTripleFault {
    /// End the run with exit code 70
    Stop,
    /// Reset the machine, as a PC does (kernels reboot this way as a last resort)
    Reset,
}

/// `ringworld run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The kernel: bzImage, ELF, multiboot or plain binary
    #[arg(long, value_name = "FILE", required_unless_present_any = ["restore", "firmware"])]
    pub kernel: Option<PathBuf>,
    /// Firmware to start at the reset vector in place of a kernel: SeaBIOS's bios-256k.bin, OVMF_CODE_4M.fd
    #[arg(long, visible_alias = "bios", value_name = "FILE", conflicts_with_all = ["kernel", "initrd", "append"])]
    pub firmware: Option<PathBuf>,
    /// A file for the firmware's variables: a copy of OVMF_VARS_4M.fd
    #[arg(long, value_name = "FILE", requires = "firmware")]
    pub firmware_vars: Option<PathBuf>,
    /// Go on where a snapshot was saved, with its machine
    #[arg(long, value_name = "FILE", conflicts_with_all = MACHINE_OPTIONS)]
    pub restore: Option<PathBuf>,
    /// The initial RAM disk, or a boot module with its arguments (may be repeated)
    #[arg(long, value_name = "FILE[ ARGUMENTS]")]
    pub initrd: Vec<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "STRING", default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// How to start the kernel
    #[arg(long, value_name = "auto|linux64|linux32|pvh|elf|multiboot|raw@ADDR", default_value = "auto")]
    pub loader: Loader,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// `ringworld boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// Which guest: debian (the kernel for virtual machines), debian-full, debian-installer, or nested (KVM in debian runs debian)
    pub guest: Guest,
    /// A kernel instead of the guest's own
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// An initial RAM disk instead of the one built around busybox
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// More for the kernel's command line
    #[arg(long, value_name = "STRING", default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// Run this shell script in the guest instead of a shell, then power off
    #[arg(long, value_name = "FILE", conflicts_with = "initrd")]
    pub script: Option<PathBuf>,
    #[command(flatten)]
    pub nested: NestedArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// `ringworld boot nested`.
#[derive(Debug, Args)]
pub struct NestedArgs {
    /// Nested: whose virtualisation KVM uses
    #[arg(long, value_enum, default_value_t = Virtualisation::Intel)]
    pub vendor: Virtualisation,
    /// Nested: whether KVM uses EPT or NPT (off: shadow page tables)
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub ept: Switch,
    /// Nested: how many systems run inside of each other, the machine's own included
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=4))]
    pub depth: u32,
    /// Nested: how many guests each system runs at once; only the first has the console, and the others' output follows at the end
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub guests: u32,
    /// Nested: CPUs of each guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub guest_cpus: u32,
    /// Nested: more parameters for kvm-intel or kvm-amd (for example 'enable_apicv=0 vpid=0')
    #[arg(long, value_name = "STRING", default_value = "", allow_hyphen_values = true)]
    pub kvm: String,
}

/// Whose virtualisation extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Virtualisation {
    /// VMX and kvm-intel.
    Intel,
    /// SVM and kvm-amd.
    Amd,
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[allow(missing_docs)]
pub enum Switch {
    On,
    Off,
}

/// Everything that the engines run at full speed: without AVX-512 of its own, the host would run a guest's by functions, and the C
/// library uses it wherever it is.
pub fn default_cpu() -> &'static str {
    if host_has_avx512() { "max" } else { "max,-avx512f" }
}

/// Options of every machine.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// The CPU model, with features to add and to take away; see `ringworld cpus`. By default everything, but for AVX-512 on
    /// hosts that cannot run it
    #[arg(long, value_name = "MODEL[,+FEATURE][,-FEATURE]", default_value = default_cpu())]
    pub cpu: String,
    /// The number of CPUs
    #[arg(long, visible_alias = "smp", value_name = "N", default_value_t = 1, value_parser = parse_cpus)]
    pub cpus: u32,
    /// How long each of several CPUs runs before the next one has its turn, in nanoseconds of virtual time
    #[arg(long, value_name = "NS", default_value_t = MachineConfig::default().slice, value_parser = parse_count)]
    pub slice: u64,
    /// RAM: a number of MiB, or with a suffix K, M, G or T
    #[arg(short, long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub memory: u64,
    /// A graphics card: `std`, or `none` (what it shows: `screendump FILE.png` in the monitor, `--screendump`)
    #[arg(long, action = clap::ArgAction::Set, value_name = "std|none", default_value = "none", value_parser = parse_vga)]
    pub vga: bool,
    /// What the console is: COM1 (`console=ttyS0`) or a virtio console (`console=hvc0`)
    #[arg(long, value_enum, default_value_t = ConsoleKind::Serial)]
    pub console: ConsoleKind,
    /// Further devices (separated by commas)
    #[arg(long, value_enum, value_delimiter = ',')]
    pub device: Vec<DeviceKind>,
    /// Write what the graphics card shows at the end to a PNG file
    #[arg(long, value_name = "FILE")]
    pub screendump: Option<PathBuf>,
    /// A disk: file=FILE[,if=virtio|nvme|ahci][,media=cdrom][,format=raw|qcow2][,readonly=on][,snapshot=on] (may be repeated)
    #[arg(long, value_name = "file=FILE,...", value_parser = crate::drive::parse_drive)]
    pub drive: Vec<ringworld_machine::Drive>,
    /// A disc in a CD-ROM drive
    #[arg(long, value_name = "FILE")]
    pub cdrom: Vec<PathBuf>,
    /// A network card: user[,hostfwd=tcp:[ADDRESS]:PORT-[ADDRESS]:PORT][,mac=MAC], or tap,ifname=NAME[,mac=MAC] (may be
    /// repeated). Time is real then, unless --time says otherwise
    #[arg(long, value_name = "user,...|tap,...", value_parser = crate::net::parse_net)]
    pub net: Vec<ringworld_machine::Network>,
    /// A folder that the guest mounts by 9P over virtio, by its tag (`share` unless given; may be repeated). Time is real
    /// then, unless --time says otherwise
    #[arg(long, value_name = "FOLDER[,tag=TAG][,readonly=on]", value_parser = crate::outside::parse_share)]
    pub share: Vec<ringworld_machine::Share>,
    /// Sockets between host and guest: a connection to PATH that says `CONNECT PORT` reaches the guest's port; the guest's
    /// to the host's port P reaches PATH_P
    #[arg(long, value_name = "uds=PATH[,cid=N]", value_parser = crate::outside::parse_vsock)]
    pub vsock: Option<ringworld_machine::Vsock>,
    /// What executes instructions
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub engine: Engine,
    /// What time follows: the instruction count alone, or the wall clock, too [default: real on a terminal, else
    /// deterministic]
    #[arg(long, value_enum)]
    pub time: Option<Time>,
    /// The real-time clock's start: `now`, or seconds since 1970 [default: now with --time real, else a fixed date]
    #[arg(long, value_name = "now|SECONDS", value_parser = parse_rtc)]
    pub rtc: Option<Rtc>,
    /// Seeds the guest's random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Stop after this many instructions (of all CPUs)
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub max_instructions: Option<u64>,
    /// Stop after this many seconds of the host's time
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub timeout: Option<f64>,
    /// Name translated code for perf (/tmp/perf-PID.map)
    #[arg(long)]
    pub perf_map: bool,
    /// Add the device that bare-metal CPU test suites drive
    #[arg(long)]
    pub cpu_test: bool,
    /// Stop when the guest asks for a reset
    #[arg(long)]
    pub no_reboot: bool,
    /// What a triple fault does
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnTripleFault::Stop)]
    pub on_triple_fault: OnTripleFault,
    /// Record everything that comes from outside
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Replay a recording in place of the console's input
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    pub replay: Option<PathBuf>,
    /// Save a snapshot once this many instructions (of all CPUs) have retired, and go on (may be repeated)
    #[arg(long, value_name = "COUNT:FILE", value_parser = parse_snapshot_at)]
    pub snapshot_at: Vec<(u64, PathBuf)>,
    /// Keep the past in memory, so that the monitor and gdb can go back
    #[arg(long)]
    pub reverse: bool,
    /// Take commands as lines of JSON from a socket (loopback unless an address is given)
    #[arg(long, value_name = "unix:PATH|[ADDRESS:]PORT")]
    pub control: Option<crate::control::ControlAddress>,
    /// Wait for the control socket's `cont` before the guest starts
    #[arg(long, requires = "control")]
    pub paused: bool,
    /// Listen for gdb (on the loopback interface unless an address is given)
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = crate::gdb::parse_address)]
    pub gdb: Option<std::net::SocketAddr>,
    /// Let the guest wait for gdb
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
    /// Trace to standard error: insn, exception, interrupt, io, mmio, svm, vmx or all, separated by commas, with filters
    /// addr=FROM..TO and count=FROM..TO
    #[arg(long, value_name = "SPEC")]
    pub trace: Option<TraceSpec>,
    /// Write the trace to a file
    #[arg(long, value_name = "FILE", requires = "trace")]
    pub trace_file: Option<PathBuf>,
    /// Print counters at the end: `text` (to standard error), text:FILE or json:FILE (may be repeated)
    #[arg(long, value_name = "text|text:FILE|json:FILE", value_parser = parse_stats)]
    pub stats: Vec<StatsTarget>,
    /// Read monitor commands from a file before the guest starts
    #[arg(long, value_name = "FILE")]
    pub monitor_script: Option<PathBuf>,
    /// Also print the debug consoles (ports 0xe9 and 0x402) to standard error
    #[arg(long)]
    pub debug_console: bool,
}

/// `ringworld guests`.
#[derive(Debug, Subcommand)]
pub enum GuestsCommand {
    /// List the guests in the cache
    List,
    /// Fetch the newest version of a guest
    Fetch(GuestArgs),
    /// Print the paths of a fetched guest's files
    Path(GuestArgs),
    /// Remove all fetched guests
    Clean,
}

/// Which guest.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// debian or debian-full
    #[arg(default_value = "debian")]
    pub guest: Guest,
    /// amd64 or arm64
    #[arg(long, default_value = "amd64", value_parser = parse_architecture)]
    pub architecture: Architecture,
}

/// What the console is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ConsoleKind {
    /// COM1
    Serial,
    /// A virtio console
    Virtio,
}

/// Devices that are there once, if at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DeviceKind {
    /// Random numbers, which follow from --seed
    VirtioRng,
    /// A memory balloon
    VirtioBalloon,
}

/// What executes instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Engine {
    /// The translator, where the host can run its code
    Auto,
    /// The interpreter
    Interp,
    /// The translator
    Jit,
}

impl Engine {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Interp => "interp",
            Self::Jit => "jit",
        }
    }
}

/// What virtual time follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Time {
    /// The instruction count alone; idle time is skipped
    Deterministic,
    /// Never ahead of the wall clock
    Real,
}

/// The real-time clock's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rtc {
    Now,
    At(u64),
}

/// Where counters go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StatsTarget {
    Text(Option<PathBuf>),
    Json(PathBuf),
}

fn parse_cpus(text: &str) -> Result<u32, String> {
    let max = ringworld_machine::MAX_CPUS;
    text.parse()
        .ok()
        .filter(|n| (1..=max).contains(n))
        .ok_or_else(|| format!("give a number from 1 to {max}"))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let shift = |suffix| match suffix {
        'k' => Some(10),
        'm' => Some(20),
        'g' => Some(30),
        't' => Some(40),
        _ => None,
    };
    let lower = text.to_ascii_lowercase();
    let (digits, shift) = match lower.chars().last().and_then(shift) {
        Some(shift) => (&lower[..lower.len() - 1], shift),
        None => (&lower[..], 20),
    };
    let size = digits.parse().ok().and_then(|n: u64| n.checked_mul(1 << shift));
    let size = size.filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let size = size.ok_or_else(|| "give a size like 512M or 2G".to_string())?;
    ringworld_firmware::MemoryMap::pc(size).map(|map| map.ram()).map_err(|error| error.to_string())
}

fn parse_rtc(text: &str) -> Result<Rtc, String> {
    match text {
        "now" => Ok(Rtc::Now),
        _ => text.parse().map(Rtc::At).map_err(|_| "give `now` or seconds since 1970".into()),
    }
}

/// A count, with an optional decimal suffix K, M, G.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let digits = digits.replace('_', "");
    let count = digits.parse().ok().and_then(|n: u64| n.checked_mul(factor));
    count.ok_or_else(|| "give a count like 1000000, 500M or 2G".into())
}

fn parse_snapshot_at(text: &str) -> Result<(u64, PathBuf), String> {
    let (count, file) = text.split_once(':').filter(|(_, file)| !file.is_empty()).ok_or("give COUNT:FILE")?;
    Ok((parse_count(count)?, file.into()))
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0 && *s < 1e9);
    seconds.ok_or_else(|| "give a number of seconds above zero".into())
}

fn parse_jobs(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1024).contains(n)).ok_or_else(|| "give a number from 1 to 1024".into())
}

fn parse_vga(text: &str) -> Result<bool, String> {
    match text {
        "std" => Ok(true),
        "none" => Ok(false),
        _ => Err("give std or none".into()),
    }
}

fn parse_stats(text: &str) -> Result<StatsTarget, String> {
    let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
    match text.split_once(':') {
        None if text == "text" => Ok(StatsTarget::Text(None)),
        Some(("text", path)) if file(path).is_some() => Ok(StatsTarget::Text(file(path))),
        Some(("json", path)) if !path.is_empty() => Ok(StatsTarget::Json(path.into())),
        _ => Err("give text, text:FILE or json:FILE".into()),
    }
}

fn parse_architecture(text: &str) -> Result<Architecture, String> {
    let found = Architecture::ALL.into_iter().find(|architecture| architecture.to_string() == text);
    found.ok_or_else(|| format!("give {}", Architecture::ALL.map(|a| a.to_string()).join(" or ")))
}

/// QEMU's options with one dash, as this program's.
pub fn qemu_forms(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const FORMS: [&str; 9] =
        ["-kernel", "-initrd", "-append", "-cpu", "-smp", "-drive", "-bios", "-vga", "-cdrom"];
    arguments
        .map(|argument| match argument.to_str() {
            Some(text) if FORMS.contains(&text) => format!("-{text}").into(),
            _ if argument == "-no-reboot" => "--no-reboot".into(),
            _ => argument,
        })
        .collect()
}

/// One line for what clap says in several.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let parts = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let parts = parts.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = parts.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; see `ringworld --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(qemu_forms(line.split(' ').map(OsString::from)))
    }

    fn run(line: &str) -> RunArgs {
        match parse(line).unwrap().command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn qemu_users_feel_at_home() {
        let args = run("ringworld run -kernel k -initrd i -append a=b -m 512 -smp 2 -cpu max,-avx");
        assert_eq!((args.kernel, args.initrd), (Some("k".into()), vec!["i".into()]));
        assert_eq!((args.append, args.machine.memory, args.machine.cpus), ("a=b".into(), 512 << 20, 2));
        assert_eq!(args.machine.cpu, "max,-avx");
        let args = run("ringworld run --kernel k --memory 3G --cpus 4 --max-instructions 2G --append -x");
        assert_eq!((args.machine.memory, args.machine.cpus), (3 << 30, 4));
        assert_eq!((args.machine.max_instructions, &*args.append), (Some(2_000_000_000), "-x"));
        let args = run("ringworld run -bios b -cdrom c -vga std -drive file=d,if=nvme --net user");
        assert_eq!((args.firmware, args.machine.vga), (Some("b".into()), true));
        assert_eq!((args.machine.cdrom.len(), args.machine.drive.len(), args.machine.net.len()), (1, 1, 1));
    }

    #[test]
    fn sizes_and_counts() {
        for (text, size) in [("64", 64 << 20), ("2m", 2 << 20), ("4096K", 4 << 20), ("1T", 1 << 40)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in
            ["", "M", "0", "-1", "+64", "1P", "1.5G", "1K", "999999T", "20000000000000000000", "\u{e9}"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for (text, count) in [("10", 10), ("1_000", 1000), ("3k", 3000), ("5G", 5_000_000_000)] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for text in ["", "k", "-3", "1e9", "99999999999G", "\u{20ac}"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn usage_errors_are_one_line() {
        for line in [
            "ringworld",
            "ringworld run",
            "ringworld run --kernel",
            "ringworld run --kernel k --nonsense",
            "ringworld run --kernel k --time later",
            "ringworld run --kernel k --memory lots",
            "ringworld run --kernel k --cpus 0",
            "ringworld run --kernel k --loader grub",
            "ringworld run --kernel k --stats xml:f",
            "ringworld run --kernel k --record a --replay b",
            "ringworld run --kernel k --restore s",
            "ringworld run --restore s --cpus 2",
            "ringworld run --kernel k --snapshot-at 5",
            "ringworld run --kernel k --snapshot-at x:f",
            "ringworld boot hurd",
            "ringworld walk",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            let text = one_line(&error);
            assert!(!text.contains('\n') && text.ends_with("see `ringworld --help`"), "{line}: {text}");
        }
    }
}
