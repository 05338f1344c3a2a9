//! The way back from a suspension to memory (S3) where this crate has been the firmware: through the waking vector that the
//! operating system has left in the FACS (ACPI 5.2.10, 16.3.2).

use super::AFTER_RSDP;
use crate::memory_map::BIOS_AREA;
use crate::{Entry, Registers};
use ringworld_core::GuestPhys;
use ringworld_mmu::GuestMemory;

/// The FACS is the first of the tables.
pub(super) const FACS: u64 = BIOS_AREA + AFTER_RSDP;
/// Fields of it: signature, firmware waking vector, and the same in 64 bits.
const SIGNATURE: &[u8; 4] = b"FACS";
const WAKING_VECTOR: u64 = 12;
const X_WAKING_VECTOR: u64 = 24;

/// The first CPU's state when it wakes; `None` if no operating system has left a vector.
///
/// The 32-bit vector is entered in real mode. The other one would be entered in protected mode; 64-bit mode is not offered
/// (the FACS's flags are 0), and no operating system in use wants it without that: it is left alone, and zero with them.
pub fn waking_vector(memory: &GuestMemory) -> Option<Entry> {
    let mut signature = [0; 4];
    memory.read(GuestPhys(FACS), &mut signature).ok()?;
    let vector = memory.read_u32(GuestPhys(FACS + WAKING_VECTOR)).ok()?;
    let wide = memory.read_u64(GuestPhys(FACS + X_WAKING_VECTOR)).ok()?;
    // Real mode reaches the first MiB: CS is the address divided by 16.
    let usable = signature == *SIGNATURE && vector != 0 && vector < 1 << 20 && wide == 0;
    usable.then(|| Entry::real((vector >> 4) as u16, (vector & 15) as u16, Registers::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringworld_mmu::{MemoryRegion, RegionKind};

    #[test]
    fn the_vector_is_entered_in_real_mode() {
        let region = MemoryRegion { base: GuestPhys(0), size: 1 << 20, kind: RegionKind::Ram };
        let memory = GuestMemory::new(&[region]).unwrap();
        assert!(waking_vector(&memory).is_none());
        memory.write(GuestPhys(FACS), SIGNATURE).unwrap();
        assert!(waking_vector(&memory).is_none(), "no vector");
        memory.write_u32(GuestPhys(FACS + WAKING_VECTOR), 0x9_a01c).unwrap();
        let entry = waking_vector(&memory).unwrap();
        assert_eq!((entry.segments.cs.selector, entry.segments.cs.base, entry.rip), (0x9a01, 0x9_a010, 0xc));
        assert_eq!(entry.cr0() & 1, 0);
        for vector in [0x10_0000, u32::MAX] {
            memory.write_u32(GuestPhys(FACS + WAKING_VECTOR), vector).unwrap();
            assert!(waking_vector(&memory).is_none(), "{vector:#x}");
        }
    }
}
