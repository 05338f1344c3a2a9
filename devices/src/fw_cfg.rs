//! The firmware configuration device: named and numbered items that firmware and test suites read byte by byte.
//!
//! QEMU's docs/specs/fw_cfg.rst describes the interface: a selector at port 0x510 (offset 0), data at port 0x511, and the
//! address of a DMA request at ports 0x514 to 0x51b ([`DMA_OFFSET`]), big-endian.

use crate::device::{Device, DeviceContext, le_value, state_methods};
use crate::dma::{Dma, RequesterId};
use ringworld_core::GuestPhys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Item numbers.
const SIGNATURE: u16 = 0x00;
const FEATURES: u16 = 0x01;
const RAM_SIZE: u16 = 0x03;
const NB_CPUS: u16 = 0x05;
const MAX_CPUS: u16 = 0x0f;
const FILE_DIRECTORY: u16 = 0x19;
const FILE_FIRST: u16 = 0x20;
/// Items from here on are files or private to the architecture.
const FILES: usize = 0x1000;
/// Bytes of a file's name in the directory, with its final zero.
const NAME_LEN: usize = 56;

/// The DMA address register as this device sees it.
pub(crate) const DMA_OFFSET: u64 = 8;
/// What the DMA register reads as.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// The control word of a DMA request.
const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 2;
const DMA_SKIP: u32 = 4;
const DMA_SELECT: u32 = 8;
const DMA_WRITE: u32 = 16;
/// The device is no PCI function: its requests carry the host bridge's ID.
const REQUESTER: RequesterId = RequesterId(0);

/// What the device offers.
#[derive(Clone, Debug, Default)]
pub struct FwCfgConfig {
    /// Bytes of guest memory.
    pub ram_size: u64,
    /// Number of CPUs.
    pub cpus: u16,
    /// Further numbered items.
    pub items: Vec<(u16, Vec<u8>)>,
    /// Files by name (at most 55 bytes); they appear in the directory sorted by name.
    pub files: Vec<(String, Vec<u8>)>,
}

/// The device. Its items never change, so they are no part of its state.
#[derive(Debug)]
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    state: State,
}

#[derive(Clone, Hash, Debug, Default, Serialize, Deserialize)]
struct State {
    selector: u16,
    offset: u64,
    /// The upper half of the next DMA request's address.
    dma_high: u32,
}

impl FwCfg {
    /// A device with the items of `config`.
    pub fn new(config: FwCfgConfig) -> Self {
        let mut items = BTreeMap::from([
            (SIGNATURE, b"QEMU".to_vec()),
            (FEATURES, vec![3, 0, 0, 0]),
            (RAM_SIZE, config.ram_size.to_le_bytes().to_vec()),
            (NB_CPUS, config.cpus.to_le_bytes().to_vec()),
            (MAX_CPUS, config.cpus.to_le_bytes().to_vec()),
        ]);
        items.extend(config.items);
        let mut files = config.files;
        files.sort();
        files.truncate(FILES);
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        for (selector, (name, data)) in (FILE_FIRST..).zip(files) {
            let mut field = [0; NAME_LEN];
            let length = name.len().min(NAME_LEN - 1);
            field[..length].copy_from_slice(&name.as_bytes()[..length]);
            directory.extend((data.len() as u32).to_be_bytes());
            directory.extend(selector.to_be_bytes());
            directory.extend([0, 0]);
            directory.extend(field);
            items.insert(selector, data);
        }
        items.insert(FILE_DIRECTORY, directory);
        Self { items, state: State::default() }
    }

    /// The bytes of the selected item from the present offset on. Bit 14 of the selector meant writing and is gone.
    fn rest(&self) -> &[u8] {
        let item = self.items.get(&(self.state.selector & !0x4000)).map_or(&[][..], Vec::as_slice);
        usize::try_from(self.state.offset).ok().and_then(|at| item.get(at..)).unwrap_or_default()
    }

    /// Serves the DMA request at `address`: control, length and address, big-endian.
    fn transfer(&mut self, address: u64, dma: &Dma) {
        let Ok(request) = dma.read_array::<16>(GuestPhys(address)) else { return };
        let word =
            |at: usize| u32::from_be_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
        let (control, length) = (word(0), word(4));
        let mut to = GuestPhys(u64::from(word(8)) << 32 | u64::from(word(12)));
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let mut result = 0;
        if control & DMA_READ != 0 {
            // Past the end there are zeroes.
            let data = self.rest();
            let data = &data[..data.len().min(length as usize)];
            let mut failed = dma.write(to, data).is_err();
            to = to.offset(data.len() as u64);
            let mut left = length as usize - data.len();
            let zeroes = [0; 4096];
            while left > 0 && !failed {
                let take = left.min(zeroes.len());
                failed = dma.write(to, &zeroes[..take]).is_err();
                (to, left) = (to.offset(take as u64), left - take);
            }
            if failed {
                result = DMA_ERROR;
            }
        } else if control & DMA_WRITE != 0 {
            // No item can be written.
            result = DMA_ERROR;
        }
        if control & (DMA_READ | DMA_SKIP) != 0 {
            self.state.offset = self.state.offset.saturating_add(length.into());
        }
        // Where the request was read, its answer can be written.
        let _ = dma.write(GuestPhys(address), &result.to_be_bytes());
    }

    fn select(&mut self, selector: u16) {
        (self.state.selector, self.state.offset) = (selector, 0);
    }
}

impl Device for FwCfg {
    fn read(&mut self, offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        match (offset, data) {
            (1, [byte]) => {
                *byte = self.rest().first().copied().unwrap_or(0);
                self.state.offset = self.state.offset.saturating_add(1);
            }
            (DMA_OFFSET.., data) => {
                for (to, at) in data.iter_mut().zip(offset - DMA_OFFSET..) {
                    *to = DMA_SIGNATURE[at as usize & 7];
                }
            }
            (_, data) => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8], ctx: &mut DeviceContext<'_>) {
        const HIGH: u64 = DMA_OFFSET;
        const LOW: u64 = DMA_OFFSET + 4;
        match (offset, data) {
            (0, _) => self.select(le_value(data) as u16),
            (HIGH, &[a, b, c, d]) => self.state.dma_high = u32::from_be_bytes([a, b, c, d]),
            (LOW, &[a, b, c, d]) => {
                let high = core::mem::take(&mut self.state.dma_high);
                let address = u64::from(high) << 32 | u64::from(u32::from_be_bytes([a, b, c, d]));
                self.transfer(address, &ctx.dma(REQUESTER));
            }
            _ => {}
        }
    }

    fn reset(&mut self, _ctx: &mut DeviceContext<'_>) {
        self.state = State::default();
    }

    state_methods!(self => self.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Bench;

    #[test]
    fn items_and_files() {
        let mut bench = Bench::new(FwCfg::new(FwCfgConfig {
            ram_size: 0x1_2345_6789,
            cpus: 3,
            items: vec![(0x8003, vec![9])],
            files: vec![("opt/b".into(), b"bee".to_vec()), ("etc/a".into(), vec![7; 300])],
        }));
        let mut item = |selector: u64, len: usize| {
            bench.write_n(0, 2, selector);
            (0..len).map(|_| bench.read(1)).collect::<Vec<_>>()
        };
        assert_eq!(item(0, 6), b"QEMU\0\0");
        assert_eq!(item(1, 4), [3, 0, 0, 0]);
        assert_eq!(item(3, 8), 0x1_2345_6789u64.to_le_bytes());
        assert_eq!(item(5, 2), [3, 0]);
        assert_eq!(item(0x8003, 2), [9, 0]);
        assert_eq!(item(0x7777, 2), [0, 0]);
        let directory = item(0x19, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..18], *b"\0\0\x01\x2c\0\x20\0\0etc/a\0");
        assert_eq!(directory[68..82], *b"\0\0\0\x03\0\x21\0\0opt/b\0");
        assert_eq!(item(0x21, 4), b"bee\0");
        assert_eq!(item(0x20, 300), [7; 300]);
    }

    /// docs/specs/fw_cfg.rst, "DMA interface"
    #[test]
    #[allow(clippy::field_reassign_with_default, reason = "the other fields are private")]
    fn dma_requests() {
        use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
        let region = MemoryRegion { base: GuestPhys(0), size: 0x4000, kind: RegionKind::Ram };
        let memory = std::sync::Arc::new(GuestMemory::new(&[region]).unwrap());
        let mut fabric = crate::fabric::Fabric::default();
        fabric.memory = Some(memory.clone());
        let device =
            FwCfg::new(FwCfgConfig { items: vec![(0x8001, b"abcdef".to_vec())], ..Default::default() });
        let mut bench = Bench::with_fabric(device, fabric);
        assert_eq!(bench.read_n(DMA_OFFSET, 4).to_le_bytes()[..4], *b"QEMU");
        for (control, length, to, result, bytes) in [
            (0x8001_000au32, 4u32, 0x2000u64, 0u32, *b"abcd"),
            (0x8001_000c, 2, 0x2000, 0, *b"abcd"),
            (DMA_READ, 4, 0x2000, 0, *b"cdef"),
            (DMA_READ, 4, 0x2000, 0, [0; 4]),
            (DMA_READ, u32::MAX, 0x3ffe, DMA_ERROR, [0; 4]),
            (DMA_WRITE | DMA_SELECT, 1, 0x2000, DMA_ERROR, [0; 4]),
        ] {
            let mut request = control.to_be_bytes().to_vec();
            request.extend(length.to_be_bytes());
            request.extend(to.to_be_bytes());
            memory.write(GuestPhys(0x1000), &request).unwrap();
            bench.write_n(DMA_OFFSET, 4, 0);
            bench.write_n(DMA_OFFSET + 4, 4, u64::from(0x1000u32.swap_bytes()));
            assert_eq!(memory.read_u32(GuestPhys(0x1000)).unwrap(), result.to_be(), "{control:#x}");
            assert_eq!(memory.read_u32(GuestPhys(0x2000)).unwrap().to_le_bytes(), bytes, "{control:#x}");
        }
        // A request that is not in memory.
        bench.write_n(DMA_OFFSET, 4, 0xffff_ffff);
        bench.write_n(DMA_OFFSET + 4, 4, 0xffff_ffff);
    }
}
