//! Shadow RAM: the RAM between 768 KiB and 1 MiB, in whose place reads, writes or both can go to the chipset, where the end of
//! firmware's ROM answers (PAM registers; Intel 82Q35 data sheet, 317607, 5.1.16).

use crate::memory::{GuestMemory, HostPage};
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use ringworld_core::{GuestPhys, PAGE_SHIFT, PAGE_SIZE};

/// The area.
pub const SHADOW: Range<u64> = 0xc_0000..0x10_0000;
const PAGES: usize = ((SHADOW.end - SHADOW.start) >> PAGE_SHIFT) as usize;
/// The last 128 KiB below 1 MiB show those below 4 GiB.
const ROM_SHOWN: u64 = 0xe_0000;
const TO_ROM: u64 = (1 << 32) - SHADOW.end;

/// A page's bits; RAM is all clear, as it is where no chipset says otherwise.
const READS_ELSEWHERE: u8 = 1;
const WRITES_ELSEWHERE: u8 = 2;

/// What the chipset has decided.
#[derive(Debug)]
pub(crate) struct Shadow {
    pages: [AtomicU8; PAGES],
    epoch: AtomicU64,
}

impl Default for Shadow {
    fn default() -> Self {
        Self { pages: [const { AtomicU8::new(0) }; PAGES], epoch: AtomicU64::new(0) }
    }
}

impl Shadow {
    /// The bits of a page; none outside of the area.
    #[inline]
    fn bits(&self, addr: GuestPhys) -> u8 {
        let offset = addr.0.wrapping_sub(SHADOW.start);
        self.pages.get((offset >> PAGE_SHIFT) as usize).map_or(0, |bits| bits.load(Ordering::Relaxed))
    }
}

impl GuestMemory {
    /// Where reads of `range` and writes to it go: to RAM, or elsewhere. True if that changes something; whoever holds
    /// pointers, translations or decoded code must then forget them (see [`Self::shadow_epoch`]).
    pub fn set_shadow(&self, range: Range<u64>, reads_ram: bool, writes_ram: bool) -> bool {
        let bits =
            if reads_ram { 0 } else { READS_ELSEWHERE } | if writes_ram { 0 } else { WRITES_ELSEWHERE };
        let mut changed = false;
        for (page, start) in self.shadow.pages.iter().zip(SHADOW.step_by(PAGE_SIZE as usize)) {
            changed |= range.contains(&start) && page.swap(bits, Ordering::SeqCst) != bits;
        }
        if changed {
            self.shadow.epoch.fetch_add(1, Ordering::SeqCst);
        }
        changed
    }

    /// Changes whenever [`Self::set_shadow`] changes something.
    pub fn shadow_epoch(&self) -> u64 {
        self.shadow.epoch.load(Ordering::Acquire)
    }

    /// Whether writes to the page at `addr` go to RAM, and reads do not: one pointer does not serve both.
    #[inline]
    pub fn is_split(&self, addr: GuestPhys) -> bool {
        self.shadow.bits(addr) == READS_ELSEWHERE
    }

    /// The host page that reads of `addr` see; `None` where no memory is.
    #[inline]
    pub fn page(&self, addr: GuestPhys) -> Option<HostPage> {
        match self.shadow.bits(addr) {
            0 => self.backing(addr),
            bits => self.shadowed(addr, bits),
        }
    }

    /// The host page that writes to `addr` reach (which loses them if it is a ROM); `None` where no memory is.
    #[inline]
    pub fn page_to_write(&self, addr: GuestPhys) -> Option<HostPage> {
        match self.shadow.bits(addr) {
            0 | READS_ELSEWHERE => self.backing(addr),
            bits => self.shadowed(addr, bits),
        }
    }

    #[cold]
    fn shadowed(&self, addr: GuestPhys, bits: u8) -> Option<HostPage> {
        if bits & READS_ELSEWHERE == 0 {
            return self.backing(addr).map(|page| HostPage { rom: true, ..page });
        }
        let rom = GuestPhys((addr.0 >= ROM_SHOWN).then_some(addr.0 + TO_ROM)?);
        self.backing(rom).filter(|page| page.rom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryRegion, RegionKind};

    #[test]
    fn reads_and_writes_go_where_the_registers_say() {
        let ram = MemoryRegion { base: GuestPhys(SHADOW.start), size: 0x4_0000, kind: RegionKind::Ram };
        // Half of what could be shown.
        let rom = MemoryRegion { base: GuestPhys(0xffff_0000), size: 0x1_0000, kind: RegionKind::Rom };
        let memory = GuestMemory::new(&[ram, rom]).unwrap();
        memory.load_rom(GuestPhys(0xffff_2000), &[1]).unwrap();
        let at = GuestPhys(0xf_2000);
        memory.write_u8(at, 2).unwrap();
        let epoch = memory.shadow_epoch();
        assert!(!memory.set_shadow(SHADOW, true, true), "as it was");
        for (reads, writes, sees) in [(false, false, 1), (false, true, 1), (true, false, 2), (true, true, 2)]
        {
            assert!(memory.set_shadow(0xf_0000..0x10_0000, reads, writes));
            assert_eq!(memory.is_split(at), !reads && writes);
            assert_eq!(memory.read_u8(at), Ok(sees), "{reads} {writes}");
            for (n, write) in (3..).zip([
                &(|value| memory.write_u8(at, value).unwrap()) as &dyn Fn(u8),
                &|value| memory.write(at, &[value]).unwrap(),
                &|value| {
                    let old = memory.read_u32(at).unwrap();
                    assert!(memory.compare_exchange_u32(at, old, value.into()).unwrap().is_ok());
                },
            ]) {
                write(n);
                memory.set_shadow(0xf_0000..0x10_0000, true, true);
                assert_eq!(memory.read_u8(at), Ok(if writes { n } else { 2 }), "{reads} {writes}");
                memory.write_u8(at, 2).unwrap();
                memory.set_shadow(0xf_0000..0x10_0000, reads, writes);
            }
            assert_eq!(memory.read_u8(GuestPhys(0xffff_2000)), Ok(1));
            // What a snapshot sees is the RAM, in any case.
            assert_eq!(memory.page_bytes(at).unwrap()[0], 2);
        }
        assert!(memory.shadow_epoch() > epoch);
        // Neither RAM nor ROM.
        memory.set_shadow(SHADOW, false, false);
        assert!(
            memory.read_u8(GuestPhys(0xe_0000)).is_err() && memory.write_u8(GuestPhys(0xc_0000), 1).is_err()
        );
        assert_eq!(memory.read_u8(at), Ok(1));
        // Reads go nowhere, writes to RAM.
        memory.set_shadow(SHADOW, false, true);
        assert!(memory.read_u8(GuestPhys(0xc_0000)).is_err());
        memory.write_u8(GuestPhys(0xc_0000), 7).unwrap();
        memory.set_shadow(SHADOW, true, true);
        assert_eq!(memory.read_u8(GuestPhys(0xc_0000)), Ok(7));
    }
}
