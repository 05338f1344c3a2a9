//! A processor with memory and nothing around it, and an assembler for its code.
#![allow(dead_code)]

use iced_x86::code_asm::CodeAssembler;
use ringworld_core::{CpuId, GuestPhys, NoDevices};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use ringworld_x86::control::{cr0, cr4, efer};
use ringworld_x86::interp::{Interpreter, NoObserver, RunEnd};
use ringworld_x86::model::Model;
use ringworld_x86::segment::Segment;
use ringworld_x86::state::TableRegister;
use ringworld_x86::{Activity, Cpu};
use std::sync::{Arc, LazyLock};

/// Where code is put.
pub const CODE: u64 = 0x1_0000;
/// Top of the kernel stack.
pub const STACK: u64 = 0x8_0000;
/// The GDT.
pub const GDT: u64 = 0x2000;
/// The IDT.
pub const IDT: u64 = 0x3000;
/// The TSS.
pub const TSS: u64 = 0x4000;
/// Page tables: PML4 here, then PDPT, then page directories.
pub const TABLES: u64 = 0x10_0000;
/// Free memory for data.
pub const DATA: u64 = 0x20_0000;

/// Selectors of the flat GDT.
pub mod sel {
    pub const CODE64: u16 = 0x08;
    pub const DATA0: u16 = 0x10;
    pub const CODE32: u16 = 0x18;
    pub const CODE64_3: u16 = 0x20 | 3;
    pub const DATA3: u16 = 0x28 | 3;
    pub const CODE32_3: u16 = 0x30 | 3;
    pub const TSS: u16 = 0x38;
    /// First free descriptor.
    pub const FREE: u16 = 0x48;
}

/// A linear congruential generator; the upper half is the better one.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut new = Self(seed);
        new.below(1);
        new
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// One of several values.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// The machine.
pub struct Rig {
    pub cpu: Cpu,
    pub interpreter: Interpreter,
    /// What runs translated code: nothing, or (where the translator runs the same tests) the translator.
    pub native: crate::Native,
}

impl Rig {
    fn bare() -> Self {
        let memory =
            GuestMemory::new(&[MemoryRegion { base: GuestPhys(0), size: 64 << 20, kind: RegionKind::Ram }])
                .expect("64 MiB of guest memory");
        static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| Arc::new(Model::as_if_complete("max")));
        let cpu = Cpu::new(CpuId(0), MODEL.clone(), Arc::new(memory), Arc::new(NoDevices::default()));
        Self { cpu, interpreter: Interpreter::default(), native: Default::default() }
    }

    /// Real-address mode, all segments 0, at [`CODE`] minus nothing: CS base is 0x10000.
    pub fn real() -> Self {
        let mut rig = Self::bare();
        for segment in &mut rig.cpu.seg {
            *segment = Segment::real(0);
        }
        rig.cpu.seg[1] = Segment { rights: 0x9b, ..Segment::real((CODE >> 4) as u16) };
        rig.cpu.set_rip(0);
        rig.cpu.regs[4] = 0x8000;
        rig.cpu.update_mode();
        rig
    }

    fn tables(&mut self) {
        let descriptors: [u64; 9] = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x0000_8900_0000_0067 | TSS << 16,
            0,
        ];
        for (n, descriptor) in descriptors.into_iter().enumerate() {
            self.poke(GDT + 8 * n as u64, descriptor);
        }
        self.cpu.gdtr = TableRegister { base: GDT, limit: 0xfff };
        self.cpu.idtr = TableRegister { base: IDT, limit: 0xfff };
        self.cpu.tr = Segment::from_descriptor(sel::TSS, descriptors[7] | 2 << 40);
        let stack = self.cpu.long_mode();
        if stack {
            self.poke(TSS + 4, STACK);
        } else {
            self.poke(TSS + 4, STACK | u64::from(sel::DATA0) << 32);
        }
        self.poke(TSS + 0x64, 0x0068_0000_u64);
        self.cpu.seg = [Segment::from_descriptor(sel::DATA0, descriptors[2]); 6];
    }

    /// 64-bit mode at CPL 0, the first GiB mapped identically with 2-MiB pages, for supervisor and user alike.
    pub fn long() -> Self {
        let mut rig = Self::bare();
        rig.poke(TABLES, (TABLES + 0x1000) | 7);
        rig.poke(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        for n in 0..512 {
            rig.poke(TABLES + 0x2000 + 8 * n, (n << 21) | 0x87);
        }
        rig.cpu.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP;
        rig.cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        rig.cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        rig.cpu.cr3 = TABLES;
        rig.tables();
        rig.cpu.seg[1] = Segment::from_descriptor(sel::CODE64, 0x00af_9b00_0000_ffff);
        rig.cpu.regs[4] = STACK;
        rig.cpu.set_rip(CODE);
        rig.cpu.flush_all();
        rig.cpu.update_mode();
        rig
    }

    /// 32-bit protected mode at CPL 0, flat, without paging.
    pub fn protected() -> Self {
        let mut rig = Self::bare();
        rig.cpu.cr0 = cr0::PE | cr0::NE | cr0::ET;
        rig.cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
        rig.tables();
        rig.cpu.seg[1] = Segment::from_descriptor(sel::CODE32, 0x00cf_9b00_0000_ffff);
        rig.cpu.regs[4] = STACK;
        rig.cpu.set_rip(CODE);
        rig.cpu.flush_all();
        rig.cpu.update_mode();
        rig
    }

    /// Goes to CPL 3 of the same width.
    pub fn user(mut self) -> Self {
        let (code, descriptor) = if self.cpu.long_mode() {
            (sel::CODE64_3, 0x00af_fb00_0000_ffff)
        } else {
            (sel::CODE32_3, 0x00cf_fb00_0000_ffff)
        };
        self.cpu.seg = [Segment::from_descriptor(sel::DATA3, 0x00cf_f300_0000_ffff); 6];
        self.cpu.seg[1] = Segment::from_descriptor(code, descriptor);
        self.cpu.cpl = 3;
        self.cpu.regs[4] = STACK - 0x1_0000;
        self.cpu.update_mode();
        self
    }

    /// Writes 8 bytes of physical memory.
    pub fn poke(&mut self, at: u64, value: u64) {
        self.cpu.memory.write(GuestPhys(at), &value.to_le_bytes()).expect("in memory");
    }

    /// Reads 8 bytes of physical memory.
    pub fn peek(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.cpu.memory.read(GuestPhys(at), &mut bytes).expect("in memory");
        u64::from_le_bytes(bytes)
    }

    /// Puts bytes at an address.
    pub fn load(&mut self, at: u64, bytes: &[u8]) {
        self.cpu.memory.write(GuestPhys(at), bytes).expect("in memory");
    }

    /// Assembles code for the present mode at `at`.
    pub fn assemble(&mut self, at: u64, f: impl FnOnce(&mut CodeAssembler)) {
        let mut assembler = CodeAssembler::new(self.cpu.mode.bitness()).expect("a valid width");
        f(&mut assembler);
        let bytes = assembler.assemble(at - self.cpu.seg[1].base).expect("encodable");
        self.load(at, &bytes);
    }

    /// An interrupt gate (or another type) for `vector` to `handler` in the kernel's code segment; the handler halts.
    pub fn gate(&mut self, vector: u8, handler: u64, kind: u64, dpl: u64) {
        let long = self.cpu.long_mode();
        let selector = u64::from(if long { sel::CODE64 } else { sel::CODE32 });
        let low = handler & 0xffff
            | selector << 16
            | (0x80 | dpl << 5 | kind) << 40
            | (handler >> 16 & 0xffff) << 48;
        if long {
            self.poke(IDT + 16 * u64::from(vector), low);
            self.poke(IDT + 16 * u64::from(vector) + 8, handler >> 32);
        } else {
            self.poke(IDT + 8 * u64::from(vector), low);
        }
    }

    /// Interrupt gates for all exception vectors, each to its own `hlt` at 0x9000 + vector.
    pub fn gates(&mut self) {
        for vector in 0..32 {
            self.gate(vector, 0x9000 + u64::from(vector), 14, if vector == 3 || vector == 4 { 3 } else { 0 });
        }
        self.load(0x9000, &[0xf4; 32]);
    }

    /// Runs up to `count` instructions.
    pub fn run(&mut self, count: u64) -> RunEnd {
        let limit = self.cpu.icount + count;
        loop {
            // There is no machine around that could want attention.
            let end = self.interpreter.run_with(&mut self.cpu, limit, &mut self.native, &mut NoObserver);
            if end != RunEnd::Attention {
                return end;
            }
        }
    }

    /// Runs until the processor halts in one of [`Self::gates`]' handlers; returns the vector.
    pub fn fault(&mut self) -> Option<u8> {
        self.run(10_000);
        let rip = self.cpu.rip();
        (self.cpu.activity == Activity::Halted && (0x9001..0x9021).contains(&rip))
            .then(|| (rip - 0x9001) as u8)
    }
}
