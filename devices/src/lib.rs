//! The devices of a PC, without any notion of a CPU's instruction set: buses, interrupt controllers, timers, serial
//! ports, and the [`Board`] that carries them.

mod acpi_pm;
mod board;
mod bus;
mod coprocessor_error;
mod cpu_test;
mod debug;
mod device;
mod dma;
mod fabric;
mod fw_cfg;
mod hpet;
mod i8042;
mod ioapic;
mod pic;
mod pit;
mod ps2_keyboard;
mod ps2_mouse;
mod reset_control;
mod rtc;
mod rtc_calendar;
mod uart;

pub use acpi_pm::{
    ACPI_DISABLE, ACPI_ENABLE, GPE0, PM_BASE, PM_TIMER, PM_TIMER_HZ, PM1A_CONTROL, SCI_IRQ, SLP_TYP_S3,
    SLP_TYP_S5, SMI_COMMAND,
};
pub use board::{
    Board, BoardConfig, BoardCounters, COM_PORTS, CPU_TEST_MEMORY, HostInput, IOAPIC_BASE, OutputBuffer,
};
pub use bus::{BusError, Region, RegionCounters};
pub use device::{Device, DeviceContext, StateError};
pub use fabric::{A20Source, PowerRequest};
pub use fw_cfg::FwCfgConfig;
pub use hpet::HPET_BASE;
pub use i8042::{key_event, mouse_event};
pub use pit::PIT_HZ;
pub use rtc::CmosConfig;
pub use uart::CharBackend;
