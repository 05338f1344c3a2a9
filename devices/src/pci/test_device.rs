//! The PCI device of kvm-unit-tests (1b36:0005): counts the writes that reach it, in memory (BAR 0) and by ports (BAR 1).
//! QEMU docs/specs/pci-testdev.rst.

use super::config_space::{Bar, ConfigSpace};
use super::device::{PciContext, PciDevice};
use crate::device::{le_value, state_methods};
use serde::{Deserialize, Serialize};

const MEMORY_SIZE: u32 = 0x1000;
const PORTS: u32 = 0x100;
/// Of each BAR: bytes that can be written are from here on, one for each test.
const TARGETS: u64 = 0x80;
/// The value that a driver has to write.
const DATA: u8 = 0xfa;
/// The tests of each BAR. A hypervisor may serve the latter two by other ways; here they are the same.
const TESTS: [&str; 3] = ["no-eventfd", "wildcard-eventfd", "datamatch-eventfd"];
/// What a test's name begins with, by BAR.
const KINDS: [&str; 2] = ["mmio", "portio"];
/// Bytes of the header before the name.
const NAME: usize = 16;

/// A BAR's test: its number, and how often it was hit since it was chosen.
#[derive(Clone, Copy, Default, Hash, Debug, Serialize, Deserialize)]
struct Chosen {
    test: u8,
    count: u32,
}

struct TestDevice {
    state: [Chosen; 2],
}

/// The device.
pub fn test_device() -> (ConfigSpace, Box<dyn PciDevice>) {
    let config = ConfigSpace::new(0x1b36, 0x0005, 0x00_ff_00, 0)
        .subsystem(0x1af4, 0x1100)
        .bar(0, Bar::Memory32(MEMORY_SIZE))
        .bar(1, Bar::Io(PORTS))
        .seal();
    (config, Box::new(TestDevice { state: Default::default() }))
}

impl TestDevice {
    /// What a driver sees at the start of a BAR. Of a test that there is not, the width is zero.
    fn header(&self, bar: usize) -> Vec<u8> {
        let chosen = self.state[bar];
        let name = TESTS.get(usize::from(chosen.test));
        let mut header = vec![chosen.test, u8::from(name.is_some()), 0, 0];
        let (offset, data) = match name {
            Some(_) => (TARGETS as u32 + u32::from(chosen.test), u32::from(DATA)),
            None => (0, 0),
        };
        header.extend(offset.to_le_bytes());
        header.extend(data.to_le_bytes());
        header.extend(chosen.count.to_le_bytes());
        debug_assert_eq!(header.len(), NAME);
        if let Some(name) = name {
            header.extend(format!("{}-{name}\0", KINDS[bar]).bytes());
        }
        header
    }
}

impl PciDevice for TestDevice {
    fn read(&mut self, bar: usize, offset: u64, data: &mut [u8], _ctx: &mut PciContext<'_, '_>) {
        if bar < KINDS.len() {
            let header = self.header(bar);
            for (at, byte) in (offset as usize..).zip(data) {
                *byte = header.get(at).copied().unwrap_or(0);
            }
        }
    }

    fn write(&mut self, bar: usize, offset: u64, data: &[u8], _ctx: &mut PciContext<'_, '_>) {
        let Some(chosen) = self.state.get_mut(bar) else { return };
        if offset == 0 {
            *chosen = Chosen { test: data.first().copied().unwrap_or(0), count: 0 };
        } else if usize::from(chosen.test) < TESTS.len()
            && offset == TARGETS + u64::from(chosen.test)
            && le_value(data) == u64::from(DATA)
        {
            chosen.count = chosen.count.wrapping_add(1);
        }
    }

    fn reset(&mut self, _ctx: &mut PciContext<'_, '_>) {
        self.state = Default::default();
    }

    state_methods!(self => self.state);
}
