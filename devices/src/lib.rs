//! The devices of a PC, without any notion of a CPU's instruction set: buses, interrupt controllers, timers, serial
//! ports, and the [`Board`] that carries them.

mod acpi_pm;
mod board;
mod bus;
mod debug;
mod device;
mod fabric;
mod ioapic;
mod pic;
mod pit;
mod reset_control;
mod rtc;
mod rtc_calendar;
mod uart;

pub use acpi_pm::{
    ACPI_DISABLE, ACPI_ENABLE, GPE0, PM_BASE, PM_TIMER, PM_TIMER_HZ, PM1A_CONTROL, SCI_IRQ, SLP_TYP_S3,
    SLP_TYP_S5, SMI_COMMAND,
};
pub use board::{Board, BoardConfig, BoardCounters, COM_PORTS, HostInput, IOAPIC_BASE, OutputBuffer};
pub use bus::{BusError, Region, RegionCounters};
pub use device::{Device, DeviceContext, StateError};
pub use fabric::{A20Source, PowerRequest};
pub use pit::PIT_HZ;
pub use rtc::CmosConfig;
pub use uart::CharBackend;
