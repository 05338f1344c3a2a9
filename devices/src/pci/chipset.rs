//! The chipset's own functions: host bridge, LPC bridge, root ports.
//!
//! Their IDs are those of Intel's Q35 and ICH9, which firmware recognizes; registers that nothing on this board
//! implements read as zero. Intel 82Q35 data sheet (317607), ICH9 data sheet (316972).

use super::config_space::{ConfigSpace, Port};
use super::device::{PciContext, PciDevice};
use crate::device::state_methods;
use core::ops::Range;

const INTEL: u16 = 0x8086;

/// PCIEXBAR of the host bridge: enable, size, base of the ECAM area (317607 5.1.15).
pub(super) const PCIEXBAR: usize = 0x60;
/// PAM0 to PAM6: who answers between 768 KiB and 1 MiB (317607 5.1.16 to 5.1.22).
pub(super) const PAM: usize = 0x90;
pub(super) const PAM_REGISTERS: usize = 7;
const SMRAM: usize = 0x9d;
/// PIRQA to PIRQD routing of the LPC bridge, and PIRQE to PIRQH (316972 13.1.8).
pub(super) const PIRQ: [usize; 2] = [0x60, 0x68];
/// A PIRQ that goes to no IRQ of the 8259.
const UNROUTED: u64 = 0x80;

/// A function without registers of its own beyond its configuration space.
pub(super) struct Plain {
    state: (),
}

impl Plain {
    pub(super) fn boxed() -> Box<dyn PciDevice> {
        Box::new(Self { state: () })
    }
}

impl PciDevice for Plain {
    fn read(&mut self, _bar: usize, _offset: u64, _data: &mut [u8], _ctx: &mut PciContext<'_, '_>) {}
    fn write(&mut self, _bar: usize, _offset: u64, _data: &[u8], _ctx: &mut PciContext<'_, '_>) {}
    fn reset(&mut self, _ctx: &mut PciContext<'_, '_>) {}
    state_methods!(self => self.state);
}

/// The 82Q35's host bridge.
pub(super) fn host_bridge() -> ConfigSpace {
    ConfigSpace::new(INTEL, 0x29c0, 0x06_00_00, 0)
        .subsystem(0x1af4, 0x1100)
        // Enable, length (256, 128, 64 MiB), base.
        .register(PCIEXBAR, 8, 0, 0x0000_000f_f000_0007)
        .register(PAM, PAM_REGISTERS, 0, 0x0033_3333_3333_3330)
        .register(SMRAM, 1, 0x02, 0x00)
        .seal()
}

/// What the PAM registers say of the areas: addresses, whether reads see RAM, whether writes reach it.
pub(super) fn shadow(bridge: &ConfigSpace) -> impl Iterator<Item = (Range<u64>, bool, bool)> {
    let field = |register: usize, shift: u32| bridge.get(PAM + register, 1) >> shift & 3;
    // PAM0 has the BIOS's 64 KiB in its upper half, the others two areas of 16 KiB each.
    let bios = (0xf_0000..0x10_0000, field(0, 4));
    let others = (0..12u64).map(move |n| {
        let start = 0xc_0000 + 0x4000 * n;
        (start..start + 0x4000, field(1 + n as usize / 2, if n % 2 == 0 { 0 } else { 4 }))
    });
    others.chain([bios]).map(|(area, field)| (area, field & 1 != 0, field & 2 != 0))
}

/// All of it to RAM, as firmware leaves it that has no code of its own there.
pub(super) fn open_shadow(bridge: &mut ConfigSpace) {
    bridge.put(PAM, PAM_REGISTERS, 0x0033_3333_3333_3330);
}

/// The ICH9's LPC bridge. ACPI registers and interrupt routing are where this board has them.
pub(super) fn lpc_bridge(pm_base: u16) -> ConfigSpace {
    ConfigSpace::new(INTEL, 0x2918, 0x06_01_00, 2)
        .subsystem(0x1af4, 0x1100)
        .multi_function()
        .register(0x40, 4, u64::from(pm_base) | 1, 0)
        // ACPI_CNTL: enabled, SCI is IRQ 9.
        .register(0x44, 1, 0x80, 0x80)
        .register(PIRQ[0], 4, UNROUTED * 0x0101_0101, 0x8f8f_8f8f)
        .register(PIRQ[1], 4, UNROUTED * 0x0101_0101, 0x8f8f_8f8f)
        // LPC_I/O_DEC, LPC_EN: COM1 is decoded at 0x3f8, whatever is written.
        .register(0x80, 4, 0x0001_0000, 0)
        // RCBA: base, enable. Nothing is behind it.
        .register(0xf0, 4, 0, 0xffff_c001)
        .seal()
}

/// A root port without a slot's controls.
pub(super) fn root_port(number: u8) -> ConfigSpace {
    ConfigSpace::bridge(INTEL, 0x3420, 2)
        .interrupt_pin()
        .power_management()
        .express(Port::RootPort(number))
        .seal()
}

/// The IRQ of the 8259 to which PIRQ `n` (0 for PIRQA) is routed.
pub(super) fn routed_irq(lpc: &ConfigSpace, n: usize) -> Option<u8> {
    let value = lpc.get(PIRQ[n / 4] + n % 4, 1) as u8;
    // 0, 1, 2, 8 and 13 are reserved.
    (value & 0x80 == 0).then_some(value & 0xf).filter(|irq| !matches!(irq, 0..=2 | 8 | 13))
}
