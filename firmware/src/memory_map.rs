//! A PC's physical memory: what is RAM, what is reserved, and what an operating system is told of it (ACPI 15.1).

use core::ops::Range;
use ringworld_core::{GuestPhys, PAGE_MASK};
use ringworld_mmu::{MemoryRegion, RegionKind};
use thiserror::Error;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The end of conventional memory: the extended BIOS data area starts here.
pub(crate) const EBDA: u64 = 0x9_fc00;
/// The end of the RAM under the VGA window.
const VGA_WINDOW: u64 = 640 * KIB;
/// RAM in the place of option ROMs and the BIOS starts here.
const SHADOW: u64 = 768 * KIB;
/// The BIOS area: ACPI 5.2.5.1 has the RSDP searched for from here.
pub(crate) const BIOS_AREA: u64 = 0xe_0000;
/// The BIOS's last 64 KiB, which real-mode code sees at F000:0000.
pub(crate) const BIOS_SEGMENT: u64 = 0xf_0000;
/// The hole for memory-mapped devices starts here at the lowest.
const DEVICE_HOLE: u64 = 2 * GIB;
/// PCI Express configuration space.
const ECAM: Range<u64> = 0xb000_0000..0xc000_0000;
const FOUR_GIB: u64 = 4 * GIB;
/// More than any CPU model's physical address width lets a guest reach.
const MAX_RAM: u64 = 1 << 46;

/// What a range of physical addresses is to the operating system: the address range types of ACPI 15.1 and E820.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Usage {
    /// Free for the operating system.
    Ram = 1,
    /// In use by firmware or devices.
    Reserved = 2,
}

/// A range of physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// The first byte.
    pub start: GuestPhys,
    /// The length, in bytes.
    pub length: u64,
    /// What it is.
    pub usage: Usage,
}

impl MemoryRange {
    const fn new(start: u64, end: u64, usage: Usage) -> Self {
        Self { start: GuestPhys(start), length: end - start, usage }
    }

    /// The byte after the last.
    pub const fn end(&self) -> GuestPhys {
        GuestPhys(self.start.0 + self.length)
    }
}

/// The memory map of a PC with a given amount of RAM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryMap {
    ram: u64,
    ranges: Vec<MemoryRange>,
}

/// A machine cannot have this amount of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a memory of {0} bytes is not possible: give a multiple of 4 KiB from 2 MiB to 64 TiB")]
pub struct MemorySizeError(pub u64);

impl MemoryMap {
    /// A PC with `ram` bytes of memory: up to 2 GiB from address 0, the rest from 4 GiB on. The memory under the VGA
    /// window and in the BIOS's place counts, as on a real PC, although the operating system does not get it.
    pub fn pc(ram: u64) -> Result<Self, MemorySizeError> {
        if !(2 * MIB..=MAX_RAM).contains(&ram) || ram & PAGE_MASK != 0 {
            return Err(MemorySizeError(ram));
        }
        let mut ranges = vec![
            MemoryRange::new(0, EBDA, Usage::Ram),
            MemoryRange::new(EBDA, VGA_WINDOW, Usage::Reserved),
            MemoryRange::new(BIOS_AREA, MIB, Usage::Reserved),
            MemoryRange::new(MIB, ram.min(DEVICE_HOLE), Usage::Ram),
            MemoryRange::new(ECAM.start, ECAM.end, Usage::Reserved),
            // I/O APIC, HPET and local APIC.
            MemoryRange::new(0xfec0_0000, 0xfec0_1000, Usage::Reserved),
            MemoryRange::new(0xfed0_0000, 0xfed0_0400, Usage::Reserved),
            MemoryRange::new(0xfee0_0000, 0xfee0_1000, Usage::Reserved),
        ];
        if ram > DEVICE_HOLE {
            ranges.push(MemoryRange::new(FOUR_GIB, FOUR_GIB + (ram - DEVICE_HOLE), Usage::Ram));
        }
        Ok(Self { ram, ranges })
    }

    /// The machine's memory, in bytes.
    pub fn ram(&self) -> u64 {
        self.ram
    }

    /// What the operating system is told, in ascending order.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges
    }

    /// The regions that memory backs: all RAM, with the reserved parts that firmware uses.
    pub fn regions(&self) -> Vec<MemoryRegion> {
        let region = |base, size| MemoryRegion { base: GuestPhys(base), size, kind: RegionKind::Ram };
        let low = [region(0, VGA_WINDOW), region(SHADOW, self.ram.min(DEVICE_HOLE) - SHADOW)];
        let high = self.usable().filter(|range| range.start.0 >= FOUR_GIB);
        low.into_iter().chain(high.map(|range| region(range.start.0, range.length))).collect()
    }

    /// The end of the RAM below 4 GiB.
    pub fn low_ram_end(&self) -> GuestPhys {
        GuestPhys(self.ram.min(DEVICE_HOLE))
    }

    /// The usable RAM.
    pub(crate) fn usable(&self) -> impl DoubleEndedIterator<Item = &MemoryRange> {
        self.ranges.iter().filter(|range| range.usage == Usage::Ram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_around_the_device_hole() {
        for (ram, low_end, high) in [
            (2 * MIB, 2 * MIB, 0),
            (512 * MIB, 512 * MIB, 0),
            (2 * GIB, 2 * GIB, 0),
            (2 * GIB + 4096, 2 * GIB, 4096),
            (16 * GIB, 2 * GIB, 14 * GIB),
        ] {
            let map = MemoryMap::pc(ram).unwrap();
            assert_eq!(map.low_ram_end().0, low_end);
            let above: u64 =
                map.usable().filter(|range| range.start.0 >= FOUR_GIB).map(|range| range.length).sum();
            assert_eq!(above, high, "{ram:#x}");
            let backed: u64 = map.regions().iter().map(|region| region.size).sum();
            assert_eq!(backed, ram - (SHADOW - VGA_WINDOW));
            let mut end = 0;
            for range in map.ranges() {
                assert!(range.start.0 >= end && range.length > 0, "{range:?}");
                end = range.end().0;
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for ram in [0, MIB, 2 * MIB + 1, u64::MAX, MAX_RAM + 4096] {
            assert_eq!(MemoryMap::pc(ram), Err(MemorySizeError(ram)));
        }
    }
}
