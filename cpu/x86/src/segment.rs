//! Segment registers with their hidden parts.

use serde::{Deserialize, Serialize};

/// A segment register: selector and descriptor cache (SDM 3A 3.4.3). Also LDTR and TR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// Visible part.
    pub selector: u16,
    /// Access rights as in bits 8–23 of a descriptor's second word: type 0–3, S 4, DPL 5–6, P 7, AVL 12, L 13, D/B 14,
    /// G 15 (limit bits 8–11 are zero).
    pub rights: u16,
    /// Limit in bytes (granularity applied).
    pub limit: u32,
    /// Base.
    pub base: u64,
    /// Holds no segment (a null selector was loaded).
    pub unusable: bool,
}

/// Bits of [`Segment::rights`].
#[allow(missing_docs)]
pub mod rights {
    pub const ACCESSED: u16 = 1;
    /// Data: writable. Code: readable.
    pub const RW: u16 = 2;
    /// Data: expand-down. Code: conforming.
    pub const DC: u16 = 4;
    pub const CODE: u16 = 8;
    /// Not a system segment.
    pub const S: u16 = 16;
    pub const PRESENT: u16 = 1 << 7;
    pub const L: u16 = 1 << 13;
    pub const DB: u16 = 1 << 14;
    pub const G: u16 = 1 << 15;
}

impl Segment {
    /// Type field (4 bits).
    pub const fn kind(&self) -> u8 {
        self.rights as u8 & 15
    }
    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        (self.rights >> 5) as u8 & 3
    }
    /// Requested privilege level of the selector.
    pub const fn rpl(&self) -> u8 {
        self.selector as u8 & 3
    }
    /// Code segment.
    pub const fn is_code(&self) -> bool {
        self.rights & (rights::S | rights::CODE) == rights::S | rights::CODE
    }
    /// May be written.
    pub const fn writable(&self) -> bool {
        self.rights & (rights::S | rights::CODE | rights::RW) == rights::S | rights::RW
    }
    /// May be read.
    pub const fn readable(&self) -> bool {
        !self.is_code() || self.rights & rights::RW != 0
    }
    /// Data segment that grows down.
    pub const fn expand_down(&self) -> bool {
        self.rights & (rights::CODE | rights::DC) == rights::DC
    }
    /// D/B.
    pub const fn big(&self) -> bool {
        self.rights & rights::DB != 0
    }
    /// L (64-bit code).
    pub const fn long(&self) -> bool {
        self.rights & rights::L != 0
    }

    /// The segment that real-address mode makes of a selector, keeping `limit` and rights (SDM 3A 21.1.1).
    pub fn load_real(&mut self, selector: u16) {
        self.selector = selector;
        self.base = u64::from(selector) << 4;
        self.unusable = false;
    }

    /// The cache of virtual-8086 mode: 64 KiB, DPL 3, read-write.
    pub const fn v8086(selector: u16) -> Self {
        Self { selector, rights: 0xf3, limit: 0xffff, base: (selector as u64) << 4, unusable: false }
    }

    /// Real-address-mode segment as after reset.
    pub const fn real(selector: u16) -> Self {
        Self { selector, rights: 0x93, limit: 0xffff, base: (selector as u64) << 4, unusable: false }
    }

    /// Whether the `size` bytes at `offset` lie within the limit.
    pub const fn contains(&self, offset: u64, size: u64) -> bool {
        let last = match offset.checked_add(size - 1) {
            Some(last) => last,
            None => return false,
        };
        if self.limit == u32::MAX && !self.expand_down() {
            // A 4-GiB segment wraps (SDM 3A 5.3 leaves it open; silicon does not fault).
            return true;
        }
        if self.expand_down() {
            let upper = if self.big() { 0xffff_ffff } else { 0xffff };
            offset > self.limit as u64 && last <= upper
        } else {
            last <= self.limit as u64
        }
    }

    /// Builds the cache from a descriptor's low 8 bytes.
    pub const fn from_descriptor(selector: u16, descriptor: u64) -> Self {
        let raw = (descriptor & 0xffff) as u32 | (descriptor >> 32) as u32 & 0xf_0000;
        let granular = descriptor >> 55 & 1 != 0;
        Self {
            selector,
            rights: (descriptor >> 40) as u16 & 0xf0ff,
            limit: if granular { raw << 12 | 0xfff } else { raw },
            base: descriptor >> 16 & 0xff_ffff | descriptor >> 56 << 24,
            unusable: false,
        }
    }
}

/// What the memory fast path knows of a segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentFast {
    /// Added to the offset.
    pub base: u64,
    /// Applied to the sum: 32 bits of linear address outside of 64-bit mode.
    pub mask: u64,
    /// Reads that end (exclusively) at or below this offset need no further check.
    pub read_end: u64,
    /// The same for writes.
    pub write_end: u64,
}

impl SegmentFast {
    /// 64-bit mode.
    pub const fn flat(base: u64) -> Self {
        Self { base, mask: u64::MAX, read_end: u64::MAX, write_end: u64::MAX }
    }

    /// Outside of 64-bit mode.
    pub const fn legacy(segment: &Segment) -> Self {
        let end = if segment.unusable || segment.expand_down() || segment.rights & rights::PRESENT == 0 {
            0
        } else {
            segment.limit as u64 + 1
        };
        Self {
            base: segment.base,
            mask: 0xffff_ffff,
            read_end: if segment.readable() { end } else { 0 },
            write_end: if segment.writable() { end } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_unpack() {
        let flat = Segment::from_descriptor(8, 0x00cf_9b00_0000_ffff);
        assert_eq!((flat.base, flat.limit, flat.rights), (0, 0xffff_ffff, 0xc09b));
        assert!(flat.is_code() && flat.big() && !flat.long() && flat.readable() && !flat.writable());
        let based = Segment::from_descriptor(0x13, 0x1240_f334_5678_9abc);
        assert_eq!((based.base, based.limit, based.dpl()), (0x1234_5678, 0x9abc, 3));
    }

    #[test]
    fn expand_down_limits_are_upside_down() {
        let mut stack = Segment::from_descriptor(0x10, 0x0040_9700_0000_0fff);
        assert!(stack.expand_down());
        assert!(!stack.contains(0xfff, 1) && stack.contains(0x1000, 4) && stack.contains(0xffff_fffc, 4));
        stack.rights &= !rights::DB;
        assert!(stack.contains(0xfffc, 4) && !stack.contains(0xfffd, 4));
    }
}
