//! The devices of a PC, without any notion of a CPU's instruction set: buses, interrupt controllers, timers, serial
//! ports, and the [`Board`] that carries them.
//!
//! A device of your own implements [`Device`] and is attached to a board:
//!
//! ```
//! use ringworld_core::{CpuId, IoContext, Platform, StateHasher, VirtualTime};
//! use ringworld_devices::{Board, BoardConfig, Device, DeviceContext, Region, StateError};
//!
//! /// Asserts IRQ 5 a microsecond after each write, until it is read.
//! struct Alarm;
//!
//! impl Device for Alarm {
//!     fn read(&mut self, _offset: u64, data: &mut [u8], ctx: &mut DeviceContext<'_>) {
//!         data.fill(0);
//!         ctx.set_irq(5, false);
//!     }
//!     fn write(&mut self, _offset: u64, _data: &[u8], ctx: &mut DeviceContext<'_>) {
//!         ctx.schedule(0, ctx.now + 1_000);
//!     }
//!     fn timer(&mut self, _timer: u32, ctx: &mut DeviceContext<'_>) {
//!         ctx.set_irq(5, true);
//!     }
//!     fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {}
//!     // It has no state of its own: the line and the timer are the board's.
//!     fn hash_state(&self, _hasher: &mut StateHasher) {}
//!     fn save(&self) -> Result<Vec<u8>, StateError> {
//!         Ok(Vec::new())
//!     }
//!     fn restore(&mut self, _image: &[u8]) -> Result<(), StateError> {
//!         Ok(())
//!     }
//! }
//!
//! let board = Board::new(BoardConfig::default())?;
//! board.attach("alarm", Box::new(Alarm), &[Region::new("alarm", 0x300, 1, 1)], &[])?;
//! let ctx = IoContext { cpu: CpuId(0), now: VirtualTime(5_000) };
//! board.port_write(ctx, 0x300, &[1]);
//! assert_eq!(board.next_event(), VirtualTime(6_000));
//! board.advance(VirtualTime(6_000));
//! assert!(board.intr());
//! # Ok::<(), ringworld_devices::BusError>(())
//! ```

mod acpi_pm;
pub mod ahci;
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
mod isa_dma;
pub mod nvme;
pub mod pci;
mod pflash;
mod pic;
mod pit;
mod ps2_keyboard;
mod ps2_mouse;
mod reset_control;
mod rtc;
mod rtc_calendar;
mod screen;
pub mod storage;
mod uart;
pub mod vga;
pub mod virtio;

pub use acpi_pm::{
    ACPI_DISABLE, ACPI_ENABLE, GPE0, PM_BASE, PM_TIMER, PM_TIMER_HZ, PM1A_CONTROL, SCI_IRQ, SLP_TYP_S3,
    SLP_TYP_S5, SMI_COMMAND,
};
pub use board::{
    Board, BoardConfig, BoardCounters, COM_PORTS, CPU_TEST_MEMORY, HostInput, IOAPIC_BASE, OutputBuffer,
    PciSlot,
};
pub use bus::{BusError, Region, RegionCounters};
pub use device::{Device, DeviceContext, StateError};
pub use dma::{Dma, DmaError, RequesterId};
pub use fabric::PowerRequest;
pub use fw_cfg::FwCfgConfig;
pub use hpet::HPET_BASE;
pub use i8042::{key_event, mouse_event};
pub use pflash::Pflash;
pub use pit::PIT_HZ;
pub use rtc::CmosConfig;
pub use screen::Screen;
pub use uart::CharBackend;
