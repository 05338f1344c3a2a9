//! The firmware configuration device: named and numbered items that firmware and test suites read byte by byte.
//!
//! QEMU's docs/specs/fw_cfg.rst describes the interface: a selector at port 0x510 (offset 0), data at port 0x511. There
//! is no DMA interface, and bit 1 of the feature item says so.

use crate::device::{Device, DeviceContext, le_value, state_methods};
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
}

impl FwCfg {
    /// A device with the items of `config`.
    pub fn new(config: FwCfgConfig) -> Self {
        let mut items = BTreeMap::from([
            (SIGNATURE, b"QEMU".to_vec()),
            (FEATURES, vec![1, 0, 0, 0]),
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
}

impl Device for FwCfg {
    fn read(&mut self, offset: u64, data: &mut [u8], _ctx: &mut DeviceContext<'_>) {
        let state = &mut self.state;
        match (offset, data) {
            (1, [byte]) => {
                // Bit 14 of the selector meant writing and is gone. Past the end there are zeros.
                let item = self.items.get(&(state.selector & !0x4000));
                let at = usize::try_from(state.offset).unwrap_or(usize::MAX);
                *byte = item.and_then(|item| item.get(at)).copied().unwrap_or(0);
                state.offset = state.offset.saturating_add(1);
            }
            (_, data) => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8], _ctx: &mut DeviceContext<'_>) {
        if offset == 0 {
            self.state = State { selector: le_value(data) as u16, offset: 0 };
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
        assert_eq!(item(1, 4), [1, 0, 0, 0]);
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
}
