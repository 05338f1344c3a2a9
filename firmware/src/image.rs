//! A loaded guest: pieces of memory that do not overlap, and how they were given their places.

use crate::{Entry, LoadError, MemoryMap, Rom};
use core::ops::Range;
use ringworld_core::GuestPhys;
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind, Unbacked};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

static ZEROES: [u8; 0x1_0000] = [0; 0x1_0000];

/// A part of guest memory that a loader fills.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "OwnPiece", into = "OwnPiece")]
pub struct Piece {
    /// What it is, for people.
    pub name: String,
    /// Where it goes.
    pub address: GuestPhys,
    data: Arc<Vec<u8>>,
    range: Range<usize>,
    /// The number of zero bytes that follow [`Piece::bytes`].
    pub zeroes: u64,
}

/// A piece with bytes of its own.
#[derive(Serialize, Deserialize)]
struct OwnPiece {
    name: String,
    address: GuestPhys,
    bytes: Vec<u8>,
    zeroes: u64,
}

impl From<OwnPiece> for Piece {
    fn from(OwnPiece { name, address, bytes, zeroes }: OwnPiece) -> Self {
        Self { name, address, range: 0..bytes.len(), data: Arc::new(bytes), zeroes }
    }
}

impl From<Piece> for OwnPiece {
    fn from(piece: Piece) -> Self {
        Self { bytes: piece.bytes().to_vec(), name: piece.name, address: piece.address, zeroes: piece.zeroes }
    }
}

impl Piece {
    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.range.clone()]
    }

    fn end(&self) -> u64 {
        self.address.0 + self.range.len() as u64 + self.zeroes
    }
}

/// A guest ready to start: write the pieces, apply the entry. Can be applied again when the guest resets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// The first CPU's state; `None` starts firmware at the reset vector.
    pub entry: Option<Entry>,
    pieces: Vec<Piece>,
}

impl Image {
    /// What goes to memory, without overlaps.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Firmware at the reset vector.
    pub fn firmware(rom: &Rom) -> Self {
        let piece = Piece {
            name: "firmware".into(),
            address: rom.base,
            data: rom.data.clone(),
            range: 0..rom.data.len(),
            zeroes: 0,
        };
        Self { entry: None, pieces: vec![piece] }
    }

    /// The ROM that firmware lies in: the memory map has only RAM.
    pub fn rom(&self) -> Option<MemoryRegion> {
        let piece = self.pieces.first().filter(|_| self.entry.is_none())?;
        Some(MemoryRegion { base: piece.address, size: piece.bytes().len() as u64, kind: RegionKind::Rom })
    }

    /// Writes all pieces.
    ///
    /// # Errors
    /// Memory that lacks a part of the [`MemoryMap`] that the image was made for.
    pub fn write_to(&self, memory: &GuestMemory) -> Result<(), Unbacked> {
        for piece in &self.pieces {
            memory.load_rom(piece.address, piece.bytes())?;
            let (mut address, mut left) = (piece.address.offset(piece.range.len() as u64), piece.zeroes);
            while left > 0 {
                let chunk = left.min(ZEROES.len() as u64);
                memory.write(address, &ZEROES[..chunk as usize])?;
                (address, left) = (address.offset(chunk), left - chunk);
            }
        }
        Ok(())
    }
}

/// Contents for a [`Piece`]: shared bytes of a file, or bytes made for it.
pub(crate) struct Contents {
    data: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Contents {
    /// A part of a file, cut to what the file has.
    pub(crate) fn part(data: &Arc<Vec<u8>>, range: Range<usize>) -> Self {
        let end = range.end.min(data.len());
        Self { data: data.clone(), range: range.start.min(end)..end }
    }
}

impl Contents {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { data: Arc::new(bytes), range }
    }
}

impl From<&Arc<Vec<u8>>> for Contents {
    fn from(data: &Arc<Vec<u8>>) -> Self {
        Self::part(data, 0..data.len())
    }
}

/// Where made-up structures go when nothing asks for another place: above what real-mode code and the trampolines of
/// other CPUs commonly use, below the EBDA.
pub(crate) const STRUCTURES: Range<u64> = 0x1_0000..1 << 32;

/// Gives pieces their places, in RAM and apart from each other.
pub(crate) struct Placer<'a> {
    map: &'a MemoryMap,
    /// Sorted by nothing: there are few. Each is what, first byte, byte after the last.
    taken: Vec<(String, u64, u64)>,
    pieces: Vec<Piece>,
}

impl<'a> Placer<'a> {
    pub(crate) fn new(map: &'a MemoryMap) -> Self {
        Self { map, taken: Vec::new(), pieces: Vec::new() }
    }

    pub(crate) fn map(&self) -> &'a MemoryMap {
        self.map
    }

    fn ram_mib(&self) -> u64 {
        self.map.ram() >> 20
    }

    /// Puts `contents`, followed by `zeroes` zero bytes, at `address`; `footprint` bytes from there must be RAM and stay
    /// free of anything else.
    pub(crate) fn at(
        &mut self,
        name: impl Into<String>,
        address: u64,
        contents: Contents,
        zeroes: u64,
        footprint: u64,
    ) -> Result<GuestPhys, LoadError> {
        let what = name.into();
        let size = (contents.range.len() as u64).saturating_add(zeroes).max(footprint);
        let outside = |end| LoadError::OutsideRam {
            what: what.clone(),
            start: address,
            end,
            ram: self.map.ram() >> 20,
        };
        let end = address.checked_add(size).ok_or_else(|| outside(u64::MAX))?;
        if size > 0 {
            if !self.map.usable().any(|range| range.start.0 <= address && end <= range.end().0) {
                return Err(outside(end));
            }
            if let Some((other, other_start, other_end)) =
                self.taken.iter().find(|(_, start, stop)| *start < end && address < *stop)
            {
                return Err(LoadError::Overlap {
                    what,
                    start: address,
                    end,
                    other: other.clone(),
                    other_start: *other_start,
                    other_end: *other_end,
                });
            }
            self.taken.push((what.clone(), address, end));
        }
        self.firmware(what, address, contents, zeroes);
        Ok(GuestPhys(address))
    }

    /// Puts a piece of the firmware itself into memory that the operating system does not use.
    pub(crate) fn firmware(
        &mut self,
        name: impl Into<String>,
        address: u64,
        contents: Contents,
        zeroes: u64,
    ) {
        let Contents { data, range } = contents;
        if !range.is_empty() || zeroes > 0 {
            self.pieces.push(Piece { name: name.into(), address: GuestPhys(address), data, range, zeroes });
        }
    }

    /// As [`Self::firmware`], where the guest's own files have not taken the place.
    pub(crate) fn firmware_where_free(&mut self, name: &str, address: u64, contents: Contents) {
        let end = address + contents.len() as u64;
        if !self.taken.iter().any(|(_, start, stop)| *start < end && address < *stop) {
            self.firmware(name, address, contents, 0);
        }
    }

    /// The lowest free place for `size` bytes in `within`, aligned to `align` (a power of two).
    pub(crate) fn lowest(
        &self,
        name: &str,
        size: u64,
        align: u64,
        within: Range<u64>,
    ) -> Result<u64, LoadError> {
        let up = |address: u64| address.checked_next_multiple_of(align);
        // The lowest place starts at the start of a range or at the end of something taken.
        let starts =
            self.map.usable().map(|range| range.start.0).chain(self.taken.iter().map(|taken| taken.2));
        let starts = starts.chain([within.start]).filter_map(up);
        starts
            .filter(|&start| start >= within.start && self.is_free(start, size, within.end))
            .min()
            .ok_or_else(|| self.no_room(name, size, within.end))
    }

    /// The highest free place for `size` bytes in `within`, aligned to `align` (a power of two).
    pub(crate) fn highest(
        &self,
        name: &str,
        size: u64,
        align: u64,
        within: Range<u64>,
    ) -> Result<u64, LoadError> {
        let down = |end: u64| end.checked_sub(size).map(|start| start & !(align - 1));
        let ends = self.map.usable().map(|range| range.end().0).chain(self.taken.iter().map(|taken| taken.1));
        let starts = ends.chain([within.end]).filter_map(down);
        starts
            .filter(|&start| start >= within.start && self.is_free(start, size, within.end))
            .max()
            .ok_or_else(|| self.no_room(name, size, within.end))
    }

    fn no_room(&self, name: &str, size: u64, limit: u64) -> LoadError {
        LoadError::NoRoom { what: name.into(), size, limit, ram: self.ram_mib() }
    }

    fn is_free(&self, start: u64, size: u64, limit: u64) -> bool {
        let Some(end) = start.checked_add(size).filter(|&end| end <= limit) else { return false };
        self.map.usable().any(|range| range.start.0 <= start && end <= range.end().0)
            && !self.taken.iter().any(|(_, taken, stop)| *taken < end && start < *stop)
    }

    /// Puts a structure that may lie anywhere below 4 GiB at a page of its own. `make` gets the place.
    pub(crate) fn structure(
        &mut self,
        name: &'static str,
        size: usize,
        make: impl FnOnce(GuestPhys) -> Vec<u8>,
    ) -> Result<GuestPhys, LoadError> {
        let address = self.lowest(name, size as u64, 4096, STRUCTURES)?;
        self.at(name, address, make(GuestPhys(address)).into(), 0, size as u64)
    }

    /// The image, once everything has its place.
    pub(crate) fn finish(self, entry: Entry) -> Image {
        debug_assert!(self.pieces.iter().all(|piece| piece.end() <= 1 << 48));
        Image { entry: Some(entry), pieces: self.pieces }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Contents {
        vec![1; length].into()
    }

    #[test]
    fn pieces_stay_in_ram_and_apart() {
        let map = MemoryMap::pc(16 << 20).unwrap();
        let mut placer = Placer::new(&map);
        placer.at("a", 0x10_0000, bytes(0x1000), 0x1000, 0).unwrap();
        assert!(matches!(placer.at("b", 0x10_1fff, bytes(1), 0, 0), Err(LoadError::Overlap { .. })));
        placer.at("b", 0x10_2000, bytes(1), 0, 0x1000).unwrap();
        for (address, size) in [(0x9_fc00, 1), (0xf_ffff, 2), (0xff_ffff, 2), (u64::MAX, 2), (1 << 32, 1)] {
            assert!(
                matches!(placer.at("c", address, bytes(size), 0, 0), Err(LoadError::OutsideRam { .. })),
                "{address:#x}"
            );
        }
        assert_eq!(placer.lowest("d", 0x1000, 0x1000, 0x10_0000..1 << 32).unwrap(), 0x10_3000);
        assert_eq!(placer.highest("d", 0x1800, 0x1000, 0..1 << 32).unwrap(), 0xff_e000);
        assert_eq!(placer.highest("d", 0x1000, 0x1000, 0..0x10_3000).unwrap(), 0x9_e000);
        assert!(placer.highest("d", 16 << 20, 1, 0..1 << 32).is_err());
    }
}
