//! A whole PC as a library: build a [`Machine`] from a [`MachineConfig`], run it, look inside.
//!
//! ```no_run
//! use ringworld_machine::{Backends, Machine, MachineConfig, RunUntil, Source};
//!
//! let config = MachineConfig {
//!     kernel: Source::Path("vmlinuz".into()),
//!     command_line: "console=ttyS0".into(),
//!     ..MachineConfig::default()
//! };
//! let console = |bytes: &[u8]| print!("{}", String::from_utf8_lossy(bytes));
//! let mut machine = Machine::new(config, Backends::console(console))?;
//! let reason = machine.run(&RunUntil::default())?;
//! println!("{reason:?} after {} instructions", machine.instructions());
//! # Ok::<(), ringworld_machine::MachineError>(())
//! ```
//!
//! A run is deterministic: the same configuration gives the same instructions, the same output and the same
//! [`Machine::state_hash`]. What comes from outside goes through one queue ([`MachineHandle::send`]), which can be
//! recorded and replayed ([`Machine::record`], [`Machine::replay`]).

mod config;
mod entry;
mod error;
mod history;
mod host;
mod inspect;
mod interrupts;
mod lockstep;
mod log;
mod machine;
mod network;
mod pace;
mod peripherals;
mod reverse;
mod schedule;
mod share;
mod snapshot;
mod stats;
mod stop;
#[cfg(test)]
mod testing;
mod vsock;

pub use config::{
    DEFAULT_RTC_START, Drive, Engine, Interface, Loader, MAX_CPUS, MachineConfig, Module, Source, TimeMode,
    UnknownLoader, host_time,
};
pub use error::MachineError;
pub use history::{HistoryConfig, HistoryRange};
pub use host::{Frame, Held, HostEvent, MachineHandle};
pub use inspect::{PageWalk, linear_rip, read_linear};
pub use lockstep::{Verdict, lockstep};
pub use log::{Recording, RecordingEnd, RecordingHeader};
pub use machine::{Backends, Machine};
pub use network::fuzz_gateway;
pub use network::{Forward, GUEST, Network, NetworkError, NetworkKind, Protocol};
pub use share::{Share, ShareError};
pub use snapshot::{Snapshot, SnapshotHeader};
pub use stats::{CpuStats, RegionStats, Stats, TranslatorStats};
pub use stop::{RunUntil, StopReason};
pub use vsock::{Vsock, VsockError};

pub use ringworld_devices::CharBackend;
pub use ringworld_devices::storage::{DiskError, DiskOptions, ImageFormat};
pub use ringworld_firmware::{BootFile, LoadError};
pub use ringworld_jit_x86::{host_can_translate, host_has_avx512};
pub use ringworld_x86::interp::{NoObserver, Observer};
pub use ringworld_x86::watch::Watchpoint;
