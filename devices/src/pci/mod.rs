//! PCI Express: the root complex of a q35-like board, its root ports, and what a function of one's own implements
//! ([`PciDevice`]).

mod assign;
mod chipset;
mod config_space;
mod device;
mod host;
mod test_device;
#[cfg(test)]
mod tests;

pub use config_space::{Bar, ConfigSpace, Message, Port, register};
pub use device::{PciContext, PciDevice};
pub(crate) use host::PciHost;
pub use host::{
    ECAM_BASE, ECAM_SIZE, MEMORY32_WINDOW, MEMORY64_SIZE, PciFunctionInfo, PciPlace, interrupt_line,
};
pub use test_device::test_device;
