//! The CPU's state at the guest's first instruction, as data.

use ringworld_core::GuestPhys;
use serde::{Deserialize, Serialize};

/// The operating mode that a boot protocol enters the guest in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// Real mode.
    Real16,
    /// Protected mode without paging.
    Protected32,
    /// 64-bit mode; page tables map the first 4 GiB one to one.
    Long64 {
        /// The page-table root.
        cr3: GuestPhys,
    },
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// The base address.
    pub base: u64,
    /// The limit in bytes (granularity applied).
    pub limit: u32,
    /// The access rights in the format of SDM 3C 25.4.1: type in bits 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14,
    /// G 15.
    pub rights: u16,
}

/// All segment registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segments {
    /// Code.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS, which every protocol sets alike.
    pub data: Segment,
    /// The task register: a busy TSS at address 0.
    pub tr: Segment,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// The base address.
    pub base: u64,
    /// The offset of the last byte.
    pub limit: u16,
}

/// The general registers that boot protocols use; all others are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the registers' own names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rsi: u64,
    pub rsp: u64,
}

/// The CPU state at the guest's first instruction. What is not named is as after INIT, with interrupts off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The operating mode, with the page-table root.
    pub mode: Mode,
    /// The instruction pointer: an offset in CS.
    pub rip: u64,
    /// General registers.
    pub registers: Registers,
    /// Segment registers.
    pub segments: Segments,
    /// GDTR.
    pub gdt: DescriptorTable,
    /// IDTR.
    pub idt: DescriptorTable,
}

/// Linux asks for this code selector (`__BOOT_CS`); the other protocols leave the choice.
const CODE: u16 = 0x10;
/// `__BOOT_DS`.
const DATA: u16 = 0x18;
const TSS: u16 = 0x20;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Execute/read code, accessed; read/write data, accessed; busy 32-bit (in 64-bit mode: 64-bit) TSS (SDM 3A 3.4.5.1).
const RIGHTS_CODE32: u16 = 0xc09b;
const RIGHTS_CODE64: u16 = 0xa09b;
const RIGHTS_DATA: u16 = 0xc093;
const RIGHTS_TSS: u16 = 0x008b;
/// What segments have in real mode after INIT (SDM 3A table 11-1).
const RIGHTS_REAL_CODE: u16 = 0x009b;
const RIGHTS_REAL_DATA: u16 = 0x0093;
/// A TSS's smallest limit (SDM 3A 9.2.2).
const TSS_LIMIT: u32 = 0x67;

impl Entry {
    /// CR0.
    pub fn cr0(&self) -> u64 {
        match self.mode {
            Mode::Real16 => CR0_ET,
            Mode::Protected32 => CR0_ET | CR0_PE,
            Mode::Long64 { .. } => CR0_ET | CR0_PE | CR0_PG,
        }
    }

    /// CR3.
    pub fn cr3(&self) -> u64 {
        if let Mode::Long64 { cr3 } = self.mode { cr3.0 } else { 0 }
    }

    /// CR4.
    pub fn cr4(&self) -> u64 {
        if matches!(self.mode, Mode::Long64 { .. }) { CR4_PAE } else { 0 }
    }

    /// IA32_EFER.
    pub fn efer(&self) -> u64 {
        if matches!(self.mode, Mode::Long64 { .. }) { EFER_LME | EFER_LMA } else { 0 }
    }

    /// RFLAGS: only the bit that always reads as one.
    pub fn rflags(&self) -> u64 {
        2
    }

    /// Flat 4-GiB segments in protected or 64-bit mode, from the GDT at `gdt` that [`flat_gdt`] makes.
    pub(crate) fn flat(mode: Mode, gdt: GuestPhys, rip: u64, registers: Registers) -> Self {
        let code = if mode == Mode::Protected32 { RIGHTS_CODE32 } else { RIGHTS_CODE64 };
        let segment = |selector, rights, limit| Segment { selector, base: 0, limit, rights };
        Self {
            mode,
            rip,
            registers,
            segments: Segments {
                cs: segment(CODE, code, u32::MAX),
                data: segment(DATA, RIGHTS_DATA, u32::MAX),
                tr: segment(TSS, RIGHTS_TSS, TSS_LIMIT),
            },
            gdt: DescriptorTable { base: gdt.0, limit: GDT_SIZE as u16 - 1 },
            idt: DescriptorTable::default(),
        }
    }

    /// Real mode at `segment:offset`, all data segments zero, the stack below the boot sector's usual place.
    pub(crate) fn real(segment: u16, offset: u16, registers: Registers) -> Self {
        let real = |selector: u16, rights| Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            rights,
        };
        Self {
            mode: Mode::Real16,
            rip: offset.into(),
            registers,
            segments: Segments {
                cs: real(segment, RIGHTS_REAL_CODE),
                data: real(0, RIGHTS_REAL_DATA),
                tr: Segment { selector: 0, base: 0, limit: 0xffff, rights: RIGHTS_TSS },
            },
            gdt: DescriptorTable { base: 0, limit: 0xffff },
            idt: DescriptorTable { base: 0, limit: 0x3ff },
        }
    }
}

/// The size of [`flat_gdt`], in bytes: three null and two flat descriptors, and a TSS of two slots for 64-bit mode.
const GDT_SIZE: usize = 6 * 8;

/// The GDT of [`Entry::flat`].
pub(crate) fn flat_gdt(mode: Mode) -> Vec<u8> {
    let code = if mode == Mode::Protected32 { RIGHTS_CODE32 } else { RIGHTS_CODE64 };
    // SDM 3A figure 3-8: base 0; limit 15:0 in bits 15:0 and 19:16 in bits 51:48, rights in bits 55:40.
    let descriptor = |limit: u64, rights: u16| {
        let rights = u64::from(rights);
        (limit & 0xffff) | (limit >> 16 & 0xf) << 48 | (rights & 0xff) << 40 | (rights >> 12) << 52
    };
    let mut gdt = [0u64; GDT_SIZE / 8];
    gdt[usize::from(CODE / 8)] = descriptor(0xf_ffff, code);
    gdt[usize::from(DATA / 8)] = descriptor(0xf_ffff, RIGHTS_DATA);
    gdt[usize::from(TSS / 8)] = descriptor(TSS_LIMIT.into(), RIGHTS_TSS);
    gdt.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The boot descriptors that Linux's documentation and SDM 3A figure 3-8 lead to.
    #[test]
    fn descriptors_are_flat() {
        let gdt = flat_gdt(Mode::Protected32);
        let entry = |index: usize| u64::from_le_bytes(gdt[index * 8..][..8].try_into().unwrap());
        assert_eq!(entry(2), 0x00cf_9b00_0000_ffff);
        assert_eq!(entry(3), 0x00cf_9300_0000_ffff);
        assert_eq!(entry(4), 0x0000_8b00_0000_0067);
        let long = flat_gdt(Mode::Long64 { cr3: GuestPhys(0) });
        assert_eq!(u64::from_le_bytes(long[16..24].try_into().unwrap()), 0x00af_9b00_0000_ffff);
        assert_eq!(long.len(), GDT_SIZE);
    }
}
