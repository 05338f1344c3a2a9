//! What a PC's firmware and boot loader leave in memory before the guest's first instruction: the kernel and its
//! modules, the structures of its boot protocol, ACPI tables and the BIOS data area.
//!
//! [`load`] turns files into an [`Image`]: pieces of guest memory and the CPU state ([`Entry`]) that the protocol
//! asks for. Nothing here runs; the machine writes the pieces and applies the entry.

mod acpi;
mod bios_data;
mod boot;
mod boot_params;
mod bzimage;
mod cpio;
pub mod demo;
mod elf;
mod entry;
mod error;
mod image;
mod initramfs;
mod memory_map;
mod mp_table;
mod multiboot;
mod page_tables;
mod pvh;
mod raw;
mod rom;
mod smbios;

pub use acpi::{AcpiConfig, PciConfig, waking_vector};
pub use boot::{BootFile, BootRequest, Framebuffer, Kind, detect, load, read_file};
pub use cpio::{Archive, CpioError};
pub use entry::{DescriptorTable, Entry, Mode, Registers, Segment, Segments};
pub use error::LoadError;
pub use image::{Image, Piece};
pub use initramfs::{Initramfs, USERSPACE_MARKER};
pub use memory_map::{MemoryMap, MemoryRange, MemorySizeError, Usage};
pub use rom::{Rom, firmware_files};
pub use smbios::Smbios;
