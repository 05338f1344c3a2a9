//! Why a machine cannot be built or go on: each error is one line that says what, where and what to do.

use ringworld_devices::BusError;
use ringworld_devices::storage::DiskError;
use ringworld_firmware::{LoadError, MemorySizeError};
use ringworld_jit_x86::JitError;
use ringworld_mmu::{MemoryError, Unbacked};
use ringworld_x86::model::ModelError;

/// Why a machine cannot be built or go on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// There is no translator.
    #[error("{0}: use --engine interp")]
    Translator(#[from] JitError),
    /// The memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// An impossible amount of memory.
    #[error(transparent)]
    MemorySize(#[from] MemorySizeError),
    /// The guest cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The image does not fit the memory that it was made for.
    #[error(transparent)]
    Unbacked(#[from] Unbacked),
    /// The board cannot be built.
    #[error("cannot build the board: {0}: move the device")]
    Bus(#[from] BusError),
    /// A disk cannot be had.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// More drives than the AHCI controller has ports.
    #[error("there are {0} drives on AHCI, which has {ports} ports: use if=virtio or if=nvme", ports = ringworld_devices::ahci::PORTS)]
    AhciPorts(
        /// The drives.
        usize,
    ),
    /// More devices than bus 0 has room for.
    #[error("there are too many PCI devices: there is room for {0}")]
    PciDevices(
        /// The room.
        usize,
    ),
    /// A network cannot be had.
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    /// A folder cannot be shared.
    #[error(transparent)]
    Share(#[from] crate::share::ShareError),
    /// Sockets cannot be had.
    #[error(transparent)]
    Vsock(#[from] crate::vsock::VsockError),
    /// An impossible number of CPUs.
    #[error("a machine of {0} CPUs is not possible: give 1 to {max}", max = crate::MAX_CPUS)]
    CpuCount(
        /// The number asked for.
        u32,
    ),
    /// An impossible slice.
    #[error("a slice of {0} ns is not possible: give 1 to 1000000000")]
    Slice(
        /// The slice asked for.
        u64,
    ),
    /// No map for `perf`.
    #[error("cannot make {path} for perf: {0}", path = ringworld_jit_x86::PerfMap::path().display())]
    PerfMap(
        /// Why.
        std::io::Error,
    ),
    /// The CPU model is not known.
    #[error("{0} (`ringworld cpus` lists all)")]
    CpuModel(
        /// What is wrong with it.
        #[from]
        ModelError,
    ),
    /// Memory could not be cleared at reset.
    #[error("cannot clear the guest's memory: {0}")]
    Clear(
        /// What the host said.
        std::io::Error,
    ),
    /// An input log cannot be read or written.
    #[error("the recording: {0}")]
    Recording(
        /// What is wrong with it.
        String,
    ),
    /// A snapshot cannot be read, written or taken over.
    #[error("the snapshot: {0}")]
    Snapshot(
        /// What is wrong with it.
        String,
    ),
    /// The machine cannot go back.
    #[error("the history: {0}")]
    History(
        /// Why.
        String,
    ),
    /// A replay does not do what was recorded.
    #[error(
        "the replay diverged: recorded was {recorded}, replayed {replayed}: record again with this version"
    )]
    Diverged {
        /// What was recorded.
        recorded: String,
        /// Where the replay is.
        replayed: String,
    },
}
