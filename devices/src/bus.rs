//! The port bus and the MMIO bus: which region answers where, and how wide it answers.

/// Two regions would answer at the same place, or a region leaves its space.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BusError {
    /// Another region is registered there.
    #[error("{name} at {base:#x}+{len:#x} overlaps {other}")]
    Overlap {
        /// The new region.
        name: &'static str,
        /// Its first address.
        base: u64,
        /// Its length.
        len: u64,
        /// The region that is there.
        other: &'static str,
    },
    /// The region is empty or leaves the address space.
    #[error("{name} at {base:#x}+{len:#x} is not inside the address space")]
    OutOfSpace {
        /// The new region.
        name: &'static str,
        /// Its first address.
        base: u64,
        /// Its length.
        len: u64,
    },
    /// There are more devices than the interrupt fabric can tell apart.
    #[error("too many devices")]
    TooManyDevices,
}

/// Accesses seen by one region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionCounters {
    /// The region's name.
    pub name: &'static str,
    /// Its first address or port.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Reads, in pieces as the device sees them.
    pub reads: u64,
    /// Writes, likewise.
    pub writes: u64,
}

/// A range of addresses that one device answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// For statistics and messages.
    pub name: &'static str,
    /// First address or port.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
    /// The offset under which the device sees `base`.
    pub offset: u64,
    /// The widest access that the device takes in one piece: 1, 2, 4 or 8 bytes. Wider ones are split.
    pub width: u8,
}

impl Region {
    /// A region whose device sees offsets from 0.
    pub const fn new(name: &'static str, base: u64, len: u64, width: u8) -> Self {
        Self { name, base, len, offset: 0, width }
    }

    /// The same region, seen by the device from `offset` on.
    pub const fn at_offset(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    const fn last(&self) -> u64 {
        self.base.wrapping_add(self.len).wrapping_sub(1)
    }
}

#[derive(Clone, Debug)]
struct Entry<T> {
    region: Region,
    target: T,
    reads: u64,
    writes: u64,
}

/// One naturally aligned piece of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece<T> {
    /// Who answers, and at which of its offsets; `None` where nothing is.
    pub target: Option<(T, u64)>,
    /// Bytes of this piece.
    pub len: usize,
}

/// Sorted, disjoint regions of one address space.
#[derive(Clone, Debug)]
pub(crate) struct Bus<T> {
    entries: Vec<Entry<T>>,
    /// Bytes of accesses that nothing answered, as the bus's owner counts them.
    pub unclaimed: u64,
    /// The last address of the space.
    limit: u64,
    /// Index of the region of each port, plus one; empty for a space too large for a table.
    table: Vec<u16>,
}

impl<T: Copy> Bus<T> {
    /// The 64 Ki I/O ports.
    pub(crate) fn ports() -> Self {
        Self { entries: Vec::new(), unclaimed: 0, limit: 0xffff, table: vec![0; 0x1_0000] }
    }

    /// Guest-physical memory.
    pub(crate) fn memory() -> Self {
        Self { entries: Vec::new(), unclaimed: 0, limit: u64::MAX, table: Vec::new() }
    }

    pub(crate) fn register(&mut self, region: Region, target: T) -> Result<(), BusError> {
        let Region { name, base, len, .. } = region;
        if len == 0 || base > self.limit || len - 1 > self.limit - base {
            return Err(BusError::OutOfSpace { name, base, len });
        }
        let at = self.entries.partition_point(|entry| entry.region.last() < base);
        if let Some(entry) = self.entries.get(at)
            && entry.region.base <= region.last()
        {
            return Err(BusError::Overlap { name, base, len, other: entry.region.name });
        }
        self.entries.insert(at, Entry { region, target, reads: 0, writes: 0 });
        if !self.table.is_empty() {
            for (i, entry) in self.entries.iter().enumerate() {
                let range = entry.region.base as usize..=entry.region.last() as usize;
                self.table[range].fill(i as u16 + 1);
            }
        }
        Ok(())
    }

    fn find(&self, addr: u64) -> Option<usize> {
        if self.table.is_empty() {
            let at = self.entries.partition_point(|entry| entry.region.last() < addr);
            (self.entries.get(at)?.region.base <= addr).then_some(at)
        } else {
            usize::from(*self.table.get(addr as usize)?).checked_sub(1)
        }
    }

    /// The first piece of an access of `len` bytes at `addr`: no wider than its region answers, naturally aligned
    /// (as a CPU splits what a bus cannot carry), within one region. Counts it for the region.
    pub(crate) fn piece(&mut self, addr: u64, len: usize, write: bool) -> Piece<T> {
        let Some(index) = self.find(addr) else { return Piece { target: None, len: 1 } };
        let entry = &mut self.entries[index];
        let inside = entry.region.last() - addr;
        let mut size = usize::from(entry.region.width.max(1));
        while size > len || addr & (size as u64 - 1) != 0 || size as u64 - 1 > inside {
            size /= 2;
        }
        *(if write { &mut entry.writes } else { &mut entry.reads }) += 1;
        let offset = entry.region.offset + (addr - entry.region.base);
        Piece { target: Some((entry.target, offset)), len: size.max(1) }
    }

    pub(crate) fn counters(&self) -> impl Iterator<Item = RegionCounters> + '_ {
        self.entries.iter().map(|entry| RegionCounters {
            name: entry.region.name,
            base: entry.region.base,
            len: entry.region.len,
            reads: entry.reads,
            writes: entry.writes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus<char> {
        let mut bus = Bus::ports();
        bus.register(Region::new("bytes", 0x20, 2, 1), 'b').unwrap();
        bus.register(Region::new("words", 0x40, 6, 4).at_offset(0x100), 'w').unwrap();
        bus.register(Region::new("end", 0xffff, 1, 4), 'e').unwrap();
        bus
    }

    fn pieces(bus: &mut Bus<char>, mut addr: u64, mut len: usize) -> Vec<(Option<(char, u64)>, usize)> {
        let mut pieces = Vec::new();
        while len > 0 {
            let piece = bus.piece(addr, len, false);
            pieces.push((piece.target, piece.len));
            addr += piece.len as u64;
            len -= piece.len;
        }
        pieces
    }

    #[test]
    fn accesses_are_split_to_what_a_region_answers() {
        let mut bus = bus();
        assert_eq!(pieces(&mut bus, 0x20, 2), [(Some(('b', 0)), 1), (Some(('b', 1)), 1)]);
        assert_eq!(pieces(&mut bus, 0x40, 4), [(Some(('w', 0x100)), 4)]);
        assert_eq!(pieces(&mut bus, 0x41, 2), [(Some(('w', 0x101)), 1), (Some(('w', 0x102)), 1)]);
        assert_eq!(
            pieces(&mut bus, 0x44, 4),
            [(Some(('w', 0x104)), 2), (None, 1), (None, 1)],
            "past the end nothing answers"
        );
        assert_eq!(pieces(&mut bus, 0xffff, 1), [(Some(('e', 0)), 1)]);
        let words = bus.counters().find(|counters| counters.name == "words").unwrap();
        assert_eq!((words.reads, words.writes), (4, 0));
    }

    #[test]
    fn regions_must_not_overlap_or_leave_the_space() {
        let mut bus = bus();
        for (base, len) in [(0x1f, 2), (0x21, 1), (0x3f, 0x10), (0x45, 1)] {
            assert!(matches!(
                bus.register(Region::new("new", base, len, 1), 'n'),
                Err(BusError::Overlap { .. })
            ));
        }
        for (base, len) in [(0x100, 0), (0xfff0, 0x11), (0x1_0000, 1)] {
            assert!(matches!(
                bus.register(Region::new("new", base, len, 1), 'n'),
                Err(BusError::OutOfSpace { .. })
            ));
        }
        let mut memory = Bus::memory();
        memory.register(Region::new("top", u64::MAX, 1, 1), 't').unwrap();
        memory.register(Region::new("low", 0x1000, 0x1000, 8), 'l').unwrap();
        assert_eq!(memory.piece(u64::MAX, 1, true).target, Some(('t', 0)));
        assert_eq!(memory.piece(0x1ff8, 64, true), Piece { target: Some(('l', 0xff8)), len: 8 });
        assert_eq!(memory.piece(0x2000, 4, true).target, None);
    }
}
