//! A function's configuration space: header, base address registers, capabilities (PCI 3.0 chapter 6, PCIe 3.0 chapter 7).
//!
//! What software may write is a mask beside the bytes, so a register that is not there reads as zero and ignores writes.

use crate::device::{le_value, put_le};
use serde::{Deserialize, Serialize};

/// Registers of the header (PCI 3.0 6.1).
pub mod register {
    #![allow(missing_docs, reason = "the registers' own names")]
    pub const VENDOR_ID: usize = 0x00;
    pub const DEVICE_ID: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION_ID: usize = 0x08;
    pub const CLASS_CODE: usize = 0x09;
    pub const CACHE_LINE_SIZE: usize = 0x0c;
    pub const HEADER_TYPE: usize = 0x0e;
    pub const BAR0: usize = 0x10;
    pub const PRIMARY_BUS: usize = 0x18;
    pub const SECONDARY_BUS: usize = 0x19;
    pub const SUBORDINATE_BUS: usize = 0x1a;
    pub const IO_BASE: usize = 0x1c;
    pub const IO_LIMIT: usize = 0x1d;
    pub const MEMORY_BASE: usize = 0x20;
    pub const MEMORY_LIMIT: usize = 0x22;
    pub const PREFETCHABLE_BASE: usize = 0x24;
    pub const PREFETCHABLE_LIMIT: usize = 0x26;
    pub const PREFETCHABLE_BASE_UPPER: usize = 0x28;
    pub const PREFETCHABLE_LIMIT_UPPER: usize = 0x2c;
    pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
    pub const SUBSYSTEM_ID: usize = 0x2e;
    pub const IO_BASE_UPPER: usize = 0x30;
    pub const ROM: usize = 0x30;
    pub const BRIDGE_ROM: usize = 0x38;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
    pub const BRIDGE_CONTROL: usize = 0x3e;
}
use register::*;

/// Command register bits.
pub const COMMAND_IO: u16 = 1;
/// Memory space enable.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Bus master enable.
pub const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_SPECIAL: u16 = 0x540;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_INTERRUPT: u16 = 1 << 3;
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Status bits that a write of one clears: none is ever set here, as no error is modelled.
const HEADER_BRIDGE: u8 = 1;

/// Bytes of a function's configuration space.
pub const SIZE: usize = 4096;

/// Capability IDs.
const CAP_POWER: u8 = 0x01;
const CAP_MSI: u8 = 0x05;
const CAP_EXPRESS: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;

/// What a base address register asks for. Sizes are powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bar {
    /// I/O ports.
    Io(u32),
    /// Memory below 4 GiB.
    Memory32(u32),
    /// Memory anywhere; takes two registers.
    Memory64(u64),
    /// Memory anywhere, prefetchable.
    Prefetchable64(u64),
}

impl Bar {
    /// Its size in bytes.
    pub fn size(self) -> u64 {
        match self {
            Self::Io(size) | Self::Memory32(size) => size.into(),
            Self::Memory64(size) | Self::Prefetchable64(size) => size,
        }
    }

    fn flags(self) -> u32 {
        match self {
            Self::Io(_) => 1,
            Self::Memory32(_) => 0,
            Self::Memory64(_) => 4,
            Self::Prefetchable64(_) => 0xc,
        }
    }

    /// Whether it takes two registers.
    pub fn is_wide(self) -> bool {
        matches!(self, Self::Memory64(_) | Self::Prefetchable64(_))
    }
}

/// The port type of a PCIe capability (PCIe 7.8.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// Behind a root port.
    Endpoint,
    /// On the root bus.
    IntegratedEndpoint,
    /// A root port; the number tells it from others.
    RootPort(u8),
}

#[derive(Clone, Copy, Debug)]
struct Msix {
    capability: usize,
    bar: usize,
    table: u64,
    pending: u64,
}

/// What one message does: address and data.
pub type Message = (u64, u32);

#[derive(Clone, Hash, Debug, Serialize, Deserialize)]
struct State {
    bytes: Vec<u8>,
    /// The function asks for INTx.
    intx: bool,
    /// Message address low, high, data, vector control, of each vector.
    table: Vec<[u32; 4]>,
    pending: Vec<bool>,
}

/// A function's configuration space, with its MSI-X table.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    state: State,
    initial: State,
    /// The bits that software can write.
    mask: Vec<u8>,
    bars: [Option<Bar>; 6],
    rom: Option<(usize, Vec<u8>)>,
    power: Option<usize>,
    msi: Option<usize>,
    msix: Option<Msix>,
    last_capability: usize,
    free: usize,
}

/// In the MSI-X table, a vector's control word: masked.
const VECTOR_MASKED: u32 = 1;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;

impl ConfigSpace {
    /// A function with a type 0 header. `class` is base class, sub-class, programming interface, from the top byte down.
    pub fn new(vendor: u16, device: u16, class: u32, revision: u8) -> Self {
        let state = State { bytes: vec![0; SIZE], intx: false, table: Vec::new(), pending: Vec::new() };
        let mut config = Self {
            initial: state.clone(),
            state,
            mask: vec![0; SIZE],
            bars: [None; 6],
            rom: None,
            power: None,
            msi: None,
            msix: None,
            last_capability: CAPABILITIES,
            free: 0x40,
        };
        config.put(VENDOR_ID, 2, vendor.into());
        config.put(DEVICE_ID, 2, device.into());
        config.put(REVISION_ID, 4, u64::from(class) << 8 | u64::from(revision));
        config.allow(COMMAND, 2, (COMMAND_SPECIAL | COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER).into());
        config.allow(CACHE_LINE_SIZE, 1, 0xff);
        config.allow(INTERRUPT_LINE, 1, 0xff);
        config
    }

    /// A PCI-to-PCI bridge (type 1 header) with I/O, memory and 64-bit prefetchable windows.
    pub fn bridge(vendor: u16, device: u16, revision: u8) -> Self {
        let mut config = Self::new(vendor, device, 0x06_04_00, revision);
        config.put(HEADER_TYPE, 1, HEADER_BRIDGE.into());
        config.allow(PRIMARY_BUS, 3, 0xff_ffff);
        config.put(IO_BASE, 2, 0x0101);
        config.allow(IO_BASE, 2, 0xf0f0);
        config.allow(IO_BASE_UPPER, 4, 0xffff_ffff);
        config.allow(MEMORY_BASE, 4, 0xfff0_fff0);
        config.put(PREFETCHABLE_BASE, 4, 0x0001_0001);
        config.allow(PREFETCHABLE_BASE, 4, 0xfff0_fff0);
        config.allow(PREFETCHABLE_BASE_UPPER, 8, u64::MAX);
        // Parity, SERR, ISA, VGA, VGA 16-bit, secondary bus reset.
        config.allow(BRIDGE_CONTROL, 2, 0x005f);
        config
    }

    /// Names the subsystem.
    pub fn subsystem(mut self, vendor: u16, device: u16) -> Self {
        self.put(SUBSYSTEM_VENDOR_ID, 4, u64::from(device) << 16 | u64::from(vendor));
        self
    }

    /// The function may use INTA# (PCI 3.0 6.2.4).
    pub fn interrupt_pin(mut self) -> Self {
        self.put(INTERRUPT_PIN, 1, 1);
        self
    }

    /// The device has further functions.
    pub fn multi_function(mut self) -> Self {
        let kind = self.state.bytes[HEADER_TYPE] | 0x80;
        self.put(HEADER_TYPE, 1, kind.into());
        self
    }

    /// Adds a base address register.
    pub fn bar(mut self, index: usize, bar: Bar) -> Self {
        let at = BAR0 + 4 * index;
        let mask = !(bar.size() - 1);
        self.bars[index] = Some(bar);
        self.put(at, 4, bar.flags().into());
        self.allow(at, 4, mask & if matches!(bar, Bar::Io(_)) { 0xffff_fffc } else { 0xffff_fff0 });
        if bar.is_wide() {
            self.allow(at + 4, 4, mask >> 32);
        }
        self
    }

    /// Adds an expansion ROM with these contents (PCI 3.0 6.2.5.2).
    pub fn rom(mut self, contents: Vec<u8>) -> Self {
        let size = (contents.len().max(2048)).next_power_of_two();
        let at = if self.is_bridge() { BRIDGE_ROM } else { ROM };
        self.allow(at, 4, !(size as u64 - 1) & 0xffff_f800 | 1);
        self.rom = Some((size, contents));
        self
    }

    /// Adds a register of the function's own: its initial value, and the bits that can be written.
    pub fn register(mut self, at: usize, len: usize, value: u64, mask: u64) -> Self {
        self.put(at, len, value);
        self.allow(at, len, mask);
        self
    }

    /// Adds a capability: what follows its ID and next pointer, and which bits of that can be written.
    pub fn capability(self, id: u8, body: &[u8], mask: &[u8]) -> Self {
        self.add_capability(id, body, mask).0
    }

    fn add_capability(mut self, id: u8, body: &[u8], mask: &[u8]) -> (Self, usize) {
        let at = self.free;
        self.put(self.last_capability, 1, at as u64);
        self.state.bytes[at] = id;
        self.state.bytes[at + 1] = 0;
        self.state.bytes[at + 2..][..body.len()].copy_from_slice(body);
        self.mask[at + 2..][..mask.len()].copy_from_slice(mask);
        self.last_capability = at + 1;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        let status = self.get(STATUS, 2) as u16 | STATUS_CAPABILITIES;
        self.put(STATUS, 2, status.into());
        (self, at)
    }

    /// Adds power management: D0 and D3hot, no PME (PCI-PM 1.2 3.2). PCIe asks for it.
    pub fn power_management(self) -> Self {
        // Version 3; No_Soft_Reset.
        let (mut this, at) = self.add_capability(CAP_POWER, &[3, 0, 8, 0, 0, 0], &[0, 0, 3, 0, 0, 0]);
        this.power = Some(at);
        this
    }

    /// Adds the PCIe capability, version 2 (PCIe 7.8). No slot, so no hot-plug; a link of one lane at 2.5 GT/s.
    pub fn express(self, port: Port) -> Self {
        let kind: u16 = match port {
            Port::Endpoint => 0,
            Port::RootPort(_) => 4,
            Port::IntegratedEndpoint => 9,
        };
        let link = !matches!(port, Port::IntegratedEndpoint);
        let mut body = [0u8; 0x3a];
        let mut mask = [0u8; 0x3a];
        // Offsets of PCIe 7.8 minus the two bytes of ID and next pointer.
        let mut put = |at: usize, value: u32, writable: u32| {
            body[at - 2..at + 2].copy_from_slice(&value.to_le_bytes());
            mask[at - 2..at + 2].copy_from_slice(&writable.to_le_bytes());
        };
        // Device capabilities: role-based error reporting; payload of 128 bytes.
        put(0x04, 1 << 15, 0);
        // Device control: error reporting enables, relaxed ordering, payload size, no snoop, read request size.
        put(0x08, 0x2810, 0x78ff);
        if link {
            let number = if let Port::RootPort(number) = port { number } else { 0 };
            put(0x0c, 0x11 | u32::from(number) << 24, 0);
            put(0x10, 0x11 << 16, 0x00c8);
        }
        if matches!(port, Port::RootPort(_)) {
            // Root control: error enables.
            put(0x1c, 0, 7);
        }
        if link {
            // Link capabilities 2 and control 2: 2.5 GT/s.
            put(0x2c, 2, 0);
            put(0x30, 1, 0);
        }
        body[..2].copy_from_slice(&(2 | kind << 4).to_le_bytes());
        self.add_capability(CAP_EXPRESS, &body, &mask).0
    }

    /// Adds MSI with one message and a 64-bit address (PCI 3.0 6.8.1).
    pub fn msi(self) -> Self {
        let body = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mask = [0x01, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let (mut this, at) = self.add_capability(CAP_MSI, &body, &mask);
        this.msi = Some(at);
        this
    }

    /// Adds MSI-X of `vectors` vectors, the table at `table` and the pending bits at `pending` of `bar` (PCI 3.0 6.8.2).
    pub fn msix(self, vectors: u16, bar: usize, table: u32, pending: u32) -> Self {
        let mut body = (vectors.max(1) - 1).to_le_bytes().to_vec();
        body.extend((table | bar as u32).to_le_bytes());
        body.extend((pending | bar as u32).to_le_bytes());
        let (mut this, capability) = self.add_capability(CAP_MSIX, &body, &[0, 0xc0]);
        this.msix = Some(Msix { capability, bar, table: table.into(), pending: pending.into() });
        this.state.table = vec![[0, 0, 0, VECTOR_MASKED]; vectors.into()];
        this.state.pending = vec![false; vectors.into()];
        this
    }

    /// Takes the present contents for those after a reset.
    pub fn seal(mut self) -> Self {
        self.initial = self.state.clone();
        self
    }

    /// Back to the contents after a reset.
    pub fn reset(&mut self) {
        self.state = self.initial.clone();
    }

    /// The value of `len` bytes at `at`.
    pub fn get(&self, at: usize, len: usize) -> u64 {
        self.state.bytes.get(at..at + len).map_or(0, le_value)
    }

    /// Sets `len` bytes at `at`, whatever software may do there.
    pub fn put(&mut self, at: usize, len: usize, value: u64) {
        if let Some(bytes) = self.state.bytes.get_mut(at..at + len) {
            put_le(value, bytes);
        }
    }

    fn allow(&mut self, at: usize, len: usize, mask: u64) {
        put_le(mask, &mut self.mask[at..at + len]);
    }

    /// Software reads.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        for (i, to) in data.iter_mut().enumerate() {
            *to = self.state.bytes.get(at + i).copied().unwrap_or(0);
        }
        if self.state.intx && (at..at + data.len()).contains(&STATUS) {
            data[STATUS - at] |= STATUS_INTERRUPT as u8;
        }
    }

    /// Software writes.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        for (i, &value) in data.iter().enumerate() {
            if let (Some(byte), Some(&mask)) = (self.state.bytes.get_mut(at + i), self.mask.get(at + i)) {
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.get(COMMAND, 2) as u16
    }

    /// Whether this is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.state.bytes[HEADER_TYPE] & 0x7f == HEADER_BRIDGE
    }

    /// In D3hot nothing but configuration space answers (PCI-PM 1.2 5.4.1).
    fn is_asleep(&self) -> bool {
        self.power.is_some_and(|at| self.get(at + 4, 1) & 3 == 3)
    }

    /// Whether the function answers memory accesses.
    pub fn memory_enabled(&self) -> bool {
        self.command() & COMMAND_MEMORY != 0 && !self.is_asleep()
    }

    /// Whether the function answers I/O accesses.
    pub fn io_enabled(&self) -> bool {
        self.command() & COMMAND_IO != 0 && !self.is_asleep()
    }

    /// Whether the function may master the bus.
    pub fn may_master(&self) -> bool {
        self.command() & COMMAND_MASTER != 0 && !self.is_asleep()
    }

    /// A base address register, if there is one.
    pub fn bar_kind(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    /// The address in a base address register.
    pub fn bar_address(&self, index: usize) -> u64 {
        let at = BAR0 + 4 * index;
        match self.bar_kind(index) {
            None => 0,
            Some(Bar::Io(_)) => self.get(at, 4) & !3,
            Some(bar) => self.get(at, if bar.is_wide() { 8 } else { 4 }) & !0xf,
        }
    }

    /// Sets the address in a base address register, as firmware does.
    pub fn set_bar_address(&mut self, index: usize, address: u64) {
        if let Some(bar) = self.bar_kind(index) {
            self.write(BAR0 + 4 * index, &address.to_le_bytes()[..if bar.is_wide() { 8 } else { 4 }]);
        }
    }

    /// Address and size of the expansion ROM, if it is enabled.
    pub fn rom_range(&self) -> Option<(u64, u64)> {
        let (size, _) = self.rom.as_ref()?;
        let value = self.get(if self.is_bridge() { BRIDGE_ROM } else { ROM }, 4);
        (value & 1 != 0 && self.memory_enabled()).then_some((value & !0x7ff, *size as u64))
    }

    /// Reads from the expansion ROM.
    pub fn read_rom(&self, offset: u64, data: &mut [u8]) {
        let rom = self.rom.as_ref().map_or(&[][..], |(_, contents)| contents);
        for (i, to) in data.iter_mut().enumerate() {
            *to = rom.get((offset as usize).wrapping_add(i)).copied().unwrap_or(0xff);
        }
    }

    /// The function asserts or releases its interrupt pin.
    pub fn set_intx(&mut self, asserted: bool) {
        self.state.intx = asserted;
    }

    /// Whether the interrupt pin is driven.
    pub fn intx(&self) -> bool {
        self.state.intx
            && self.command() & COMMAND_INTX_DISABLE == 0
            && !self.msi_enabled()
            && !self.msix_enabled()
    }

    /// Whether software has enabled MSI.
    pub fn msi_enabled(&self) -> bool {
        self.msi.is_some_and(|at| self.get(at + 2, 1) & 1 != 0)
    }

    fn msix_control(&self) -> u16 {
        self.msix.map_or(0, |msix| self.get(msix.capability + 2, 2) as u16)
    }

    /// Whether software has enabled MSI-X.
    pub fn msix_enabled(&self) -> bool {
        self.msix_control() & MSIX_ENABLE != 0
    }

    /// The message that a vector sends now; a masked vector is noted as pending.
    pub fn signal(&mut self, vector: u16) -> Option<Message> {
        if self.msix_enabled() {
            let entry = *self.state.table.get(usize::from(vector))?;
            if self.msix_control() & MSIX_FUNCTION_MASK != 0 || entry[3] & VECTOR_MASKED != 0 {
                self.state.pending[usize::from(vector)] = true;
                return None;
            }
            return Some((u64::from(entry[1]) << 32 | u64::from(entry[0]), entry[2]));
        }
        let at = self.msi.filter(|_| self.msi_enabled())?;
        Some((self.get(at + 4, 8), self.get(at + 12, 2) as u32))
    }

    /// Messages that waited for their masks, and may go now.
    pub fn unmasked(&mut self) -> Vec<Message> {
        if !self.msix_enabled() || self.msix_control() & MSIX_FUNCTION_MASK != 0 {
            return Vec::new();
        }
        let mut messages = Vec::new();
        for (entry, pending) in self.state.table.iter().zip(&mut self.state.pending) {
            if *pending && entry[3] & VECTOR_MASKED == 0 {
                *pending = false;
                messages.push((u64::from(entry[1]) << 32 | u64::from(entry[0]), entry[2]));
            }
        }
        messages
    }

    /// Where in the MSI-X structures an access to a BAR goes: in the table or (true) in the pending bits.
    fn msix_offset(&self, bar: usize, offset: u64) -> Option<(bool, usize)> {
        let msix = self.msix.filter(|msix| msix.bar == bar)?;
        let vectors = self.state.table.len() as u64;
        let table = offset.checked_sub(msix.table).filter(|at| *at < vectors * 16);
        let pending = offset.checked_sub(msix.pending).filter(|at| *at < vectors.div_ceil(64) * 8);
        table.map(|at| (false, at as usize)).or(pending.map(|at| (true, at as usize)))
    }

    /// Reads MSI-X structures; false if the access is not to them.
    pub fn msix_read(&self, bar: usize, offset: u64, data: &mut [u8]) -> bool {
        let Some((pending, at)) = self.msix_offset(bar, offset) else { return false };
        for (i, to) in data.iter_mut().enumerate() {
            let at = at + i;
            *to = if pending {
                (0..8).fold(0, |byte, bit| {
                    byte | u8::from(self.state.pending.get(at * 8 + bit) == Some(&true)) << bit
                })
            } else {
                self.state.table.get(at / 16).map_or(0, |entry| entry[at / 4 % 4].to_le_bytes()[at % 4])
            };
        }
        true
    }

    /// Writes MSI-X structures; false if the access is not to them. Only whole words count (PCI 3.0 6.8.2).
    pub fn msix_write(&mut self, bar: usize, offset: u64, data: &[u8]) -> bool {
        let Some((pending, at)) = self.msix_offset(bar, offset) else { return false };
        if !pending && at.is_multiple_of(4) {
            for (i, word) in data.chunks_exact(4).enumerate() {
                let at = at + 4 * i;
                if let Some(entry) = self.state.table.get_mut(at / 16) {
                    let mask = if at / 4 % 4 == 3 { VECTOR_MASKED } else { u32::MAX };
                    entry[at / 4 % 4] = le_value(word) as u32 & mask;
                }
            }
        }
        true
    }

    /// Adds the contents to `hasher`.
    pub fn hash_state(&self, hasher: &mut ringworld_core::StateHasher) {
        hasher.add(&self.state);
    }

    /// The contents as bytes.
    pub fn save(&self) -> Result<Vec<u8>, crate::StateError> {
        Ok(postcard::to_stdvec(&self.state)?)
    }

    /// Takes over what [`ConfigSpace::save`] wrote.
    pub fn restore(&mut self, image: &[u8]) -> Result<(), crate::StateError> {
        let state: State = postcard::from_bytes(image)?;
        let fits = state.bytes.len() == SIZE
            && state.table.len() == self.state.table.len()
            && state.pending.len() == self.state.pending.len();
        if !fits {
            return Err(crate::StateError::OtherBoard("a PCI function of another shape".into()));
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(config: &mut ConfigSpace, at: usize, value: u32) -> u32 {
        config.write(at, &value.to_le_bytes());
        config.get(at, 4) as u32
    }

    /// PCI 3.0 6.2.5.1: sizes read back after writing ones.
    #[test]
    fn bars_tell_their_sizes() {
        for (bar, low, high) in [
            (Bar::Io(0x20), 0xffff_ffe1u32, None),
            (Bar::Memory32(0x1000), 0xffff_f000, None),
            (Bar::Memory64(0x4000), 0xffff_c004, Some(0xffff_ffffu32)),
            (Bar::Prefetchable64(1 << 33), 0x0000_000c, Some(0xffff_fffe)),
        ] {
            let mut config = ConfigSpace::new(1, 2, 0, 0).bar(0, bar).seal();
            assert_eq!(write(&mut config, BAR0, u32::MAX), low, "{bar:?}");
            let upper = write(&mut config, BAR0 + 4, u32::MAX);
            assert_eq!(upper, high.unwrap_or(0), "{bar:?}");
        }
    }

    /// PCI 3.0 6.7: the list of capabilities ends, and each is where it says.
    #[test]
    fn capabilities_are_linked() {
        let config = ConfigSpace::new(1, 2, 0, 0)
            .power_management()
            .express(Port::IntegratedEndpoint)
            .msi()
            .msix(3, 1, 0, 0x800)
            .seal();
        let mut at = config.get(CAPABILITIES, 1) as usize;
        let mut found = Vec::new();
        while at != 0 {
            found.push(config.get(at, 1) as u8);
            at = config.get(at + 1, 1) as usize;
        }
        assert_eq!(found, [CAP_POWER, CAP_EXPRESS, CAP_MSI, CAP_MSIX]);
        assert_eq!(config.get(STATUS, 2) as u16, STATUS_CAPABILITIES);
    }

    /// PCI 3.0 6.8.2.6 to 6.8.2.9: masked vectors wait with their pending bit set.
    #[test]
    fn masked_vectors_wait() {
        let mut config = ConfigSpace::new(1, 2, 0, 0).msix(2, 1, 0, 0x800).seal();
        let control = config.get(CAPABILITIES, 1) as usize + 2;
        assert_eq!(config.signal(0), None, "MSI-X is off");
        config.write(control, &(MSIX_ENABLE | MSIX_FUNCTION_MASK).to_le_bytes());
        for (i, word) in [0xfee0_1000u32, 0, 0x41, 0].iter().enumerate() {
            assert!(config.msix_write(1, 16 + 4 * i as u64, &word.to_le_bytes()));
        }
        assert_eq!((config.signal(0), config.signal(1), config.signal(2)), (None, None, None));
        let mut bits = [0; 8];
        assert!(config.msix_read(1, 0x800, &mut bits));
        assert_eq!(bits[0], 3);
        config.write(control, &MSIX_ENABLE.to_le_bytes());
        assert_eq!(config.unmasked(), [(0xfee0_1000, 0x41)], "the other is masked by itself");
        assert_eq!(config.signal(1), Some((0xfee0_1000, 0x41)));
        assert!(!config.msix_read(0, 0, &mut bits) && !config.msix_write(1, 0x20, &[0; 4]));
    }

    #[test]
    fn d3hot_answers_nothing() {
        let mut config = ConfigSpace::new(1, 2, 0, 0).power_management().seal();
        config.write(COMMAND, &[7, 0]);
        assert!(config.memory_enabled() && config.io_enabled() && config.may_master());
        let at = config.get(CAPABILITIES, 1) as usize;
        config.write(at + 4, &[3]);
        assert!(!config.memory_enabled() && !config.io_enabled() && !config.may_master());
        config.reset();
        assert_eq!(config.command(), 0);
    }
}
