//! A processor for unit tests: a little memory, and nothing else.

use crate::Cpu;
use crate::decode::{Decoded, decode};
use crate::model::Model;
use iced_x86::{Decoder, Instruction};
use ringworld_core::{CpuId, GuestPhys, NoDevices};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use std::sync::Arc;

/// A processor after reset, with 2 MiB of memory and all features of its model.
pub fn cpu(model: &str) -> Cpu {
    let region = MemoryRegion { base: GuestPhys(0), size: 2 << 20, kind: RegionKind::Ram };
    let memory = Arc::new(GuestMemory::new(&[region]).unwrap());
    Cpu::new(CpuId(0), Arc::new(Model::as_if_complete(model)), memory, Arc::new(NoDevices::default()))
}

/// Puts the processor into flat 64-bit code at CPL 0, without paging: enough for instructions run by [`run`].
pub fn long_mode(cpu: &mut Cpu) {
    use crate::control::{cr0, cr4, efer};
    cpu.cr0 |= cr0::PE;
    cpu.cr4 |= cr4::OSFXSR;
    cpu.efer = efer::LME | efer::LMA;
    cpu.seg[crate::insn::seg::CS as usize].rights |= crate::segment::rights::L;
    cpu.update_mode();
}

/// Decodes one instruction and runs it; the vector of its exception if it raises one.
pub fn run(cpu: &mut Cpu, bytes: &[u8]) -> Result<(), u8> {
    let model = cpu.model.clone();
    let bits = cpu.mode.bitness();
    let mut decoder = Decoder::with_ip(bits, bytes, cpu.rip(), model.decoder_options());
    let Decoded::Instruction(insn, _) = decode(&mut decoder, &mut Instruction::default(), cpu.mode, &model)
    else {
        panic!("{bytes:x?} is no whole instruction");
    };
    (insn.exec)(cpu, &insn).map_err(|_| cpu.pending.vector)
}

/// A generator (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// Once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len() as u64) as usize]
    }

    /// The address of a structure: in memory, at its edge, beyond it.
    pub fn address(&mut self) -> u64 {
        const END: u64 = 2 << 20;
        match self.below(6) {
            0 => END - 0x1000,
            1 => END - self.below(0x40) * 8,
            2 => END + self.below(4) * 0x1000,
            3 => self.bits() & 0xf_ffff_ffff_f000,
            _ => self.below(END) & !0xfff,
        }
    }

    /// A page-table entry of any format, which may lead back to one of the tables.
    pub fn table_entry(&mut self, tables: &[u64]) -> u64 {
        let flags = self.bits() & if self.once_in(4) { 0xfff0_0000_0000_0fff } else { 0xf7 };
        let page = if self.once_in(3) { self.address() & !0xfff } else { self.of(tables) };
        match self.below(8) {
            0 => self.bits(),
            1 => 0,
            2 => page | 7 | 1 << 7,
            _ => page | flags | 3,
        }
    }

    /// Code of a guest: noise, and instructions that ask hooks, with random operands.
    pub fn code(&mut self) -> Vec<u8> {
        const INTERESTING: &[&[u8]] = &[
            &[0x0f, 0xa2],
            &[0xf4],
            &[0xf3, 0x90],
            &[0xe6, 0x80],
            &[0xed],
            &[0xf3, 0x6c],
            &[0x6f],
            &[0x0f, 0x32],
            &[0x0f, 0x30],
            &[0x0f, 0x31],
            &[0x0f, 0x01, 0xf9],
            &[0x0f, 0x20, 0xc0],
            &[0x0f, 0x22, 0xc0],
            &[0x0f, 0x22, 0xd9],
            &[0x0f, 0x22, 0xe0],
            &[0x44, 0x0f, 0x22, 0xc0],
            &[0x0f, 0x23, 0xf8],
            &[0x0f, 0x01, 0x3b],
            &[0x0f, 0x01, 0xd4],
            &[0x0f, 0x01, 0xc1],
            &[0x0f, 0x01, 0xd9],
            &[0x0f, 0x01, 0xd8],
            &[0x0f, 0x01, 0xda],
            &[0x0f, 0x01, 0xdc],
            &[0x0f, 0x01, 0xdf],
            &[0x0f, 0x78, 0xc8],
            &[0x0f, 0x79, 0xc8],
            &[0x66, 0x0f, 0x38, 0x80, 0x03],
            &[0x66, 0x0f, 0x38, 0x82, 0x03],
            &[0x0f, 0xc7, 0x2b],
            &[0x0f, 0xc7, 0x1b],
            &[0xcd, 0x20],
            &[0x0f, 0x0b],
            &[0x48, 0xcf],
            &[0x9d],
            &[0xfb],
            &[0xf3, 0xa4],
            &[0x48, 0x89, 0x03],
            &[0x48, 0x8b, 0x03],
            &[0xf0, 0x48, 0x0f, 0xb1, 0x0b],
        ];
        let mut code = Vec::new();
        while code.len() < 64 {
            if self.once_in(3) {
                // MOV of 64 bits to RAX, RCX, RDX, RBX, RSP, RSI or RDI.
                code.extend([0x48, 0xb8 + self.of(&[0_u8, 1, 2, 3, 3, 4, 6, 7])]);
                let value = match self.below(5) {
                    0 => self.bits(),
                    1 => 0xfee0_0000 + self.below(0x1000),
                    2 => self.of(&[0x10, 0x38f, 0x480, 0x48d, 0x808, 0x830, 0xc000_0080, 0xc001_0117]),
                    _ => self.address(),
                };
                code.extend(value.to_le_bytes());
            } else if self.once_in(4) {
                code.extend(self.bits().to_le_bytes());
            } else {
                code.extend(self.of(INTERESTING));
            }
        }
        code
    }
}

/// How many states a random test tries: few, unless the environment's RINGWORLD_STATES says otherwise.
pub fn states(few: u64) -> u64 {
    std::env::var("RINGWORLD_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}
