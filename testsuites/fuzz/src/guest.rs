//! Guests of random code, tables and registers, in each mode: they must neither panic nor hang the emulator, and where
//! their runs are cut must not matter.

use crate::random::Random;
use ringworld_core::{
    CpuId, GuestPhys, InterruptMessage, IoContext, Platform, PlatformAttention, StateHasher,
};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use ringworld_x86::insn::seg;
use ringworld_x86::interp::{Interpreter, NoObserver, RunEnd};
use ringworld_x86::mode::Mode;
use ringworld_x86::model::{Model, models};
use ringworld_x86::segment::Segment;
use ringworld_x86::state::{TableRegister, boundary};
use ringworld_x86::{Activity, Cpu};
use std::sync::{Arc, LazyLock};

/// Small, as making and hashing it takes most of a case's time.
const RAM: u64 = 256 << 10;
const GDT: u64 = 0x1_0000;
const IDT: u64 = 0x1_1000;
const TSS: u64 = 0x1_3000;
const LDT: u64 = 0x1_4000;
const TABLES: u64 = 0x2_0000;
const STACK: u64 = 0x8000;
/// Selectors in the GDT; the rest of it is random.
const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const TSS_SELECTOR: u16 = 0x28;
const LDT_SELECTOR: u16 = 0x38;
/// Instructions of a case. Most end long before, in a shutdown.
const LIMIT: u64 = 4000;

/// All models, with what is implemented of them.
static MODELS: LazyLock<Vec<Arc<Model>>> = LazyLock::new(|| {
    let parsed = models().map(|(name, _)| Model::parse(name).expect("a model of the list"));
    parsed.map(Arc::new).collect()
});

/// What is outside of the CPU: reads give what their address and time say, so that runs can be repeated.
#[derive(Default)]
struct Noise(PlatformAttention);

impl Noise {
    fn fill(ctx: IoContext, address: u64, data: &mut [u8]) {
        let mut random = Random::new(ctx.now.0 ^ address << 32);
        data.iter_mut().for_each(|byte| *byte = random.next() as u8);
    }
}

impl Platform for Noise {
    fn mmio_read(&self, ctx: IoContext, addr: GuestPhys, data: &mut [u8]) {
        Self::fill(ctx, addr.0, data);
    }
    fn mmio_write(&self, _: IoContext, _: GuestPhys, _: &[u8]) {}
    fn port_read(&self, ctx: IoContext, port: u16, data: &mut [u8]) {
        Self::fill(ctx, port.into(), data);
    }
    fn port_write(&self, _: IoContext, _: u16, _: &[u8]) {}
    fn acknowledge(&self, ctx: IoContext) -> u8 {
        ctx.now.0 as u8
    }
    fn send(&self, _: IoContext, _: InterruptMessage) {}
    fn end_of_interrupt(&self, _: IoContext, _: u8) {}
    fn attention(&self) -> &PlatformAttention {
        &self.0
    }
}

/// How a guest starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Real,
    V8086,
    Protected16,
    Protected32,
    Paged,
    Pae,
    Compatibility,
    Long,
}

const STARTS: [Start; 8] = [
    Start::Real,
    Start::V8086,
    Start::Protected16,
    Start::Protected32,
    Start::Paged,
    Start::Pae,
    Start::Compatibility,
    Start::Long,
];

/// A mode, a model and the size of code, for the decoder.
pub fn mode(random: &mut Random) -> (Mode, Arc<Model>, u32) {
    let mut cpu = new_cpu(random, Arc::new(memory()));
    let start = random.pick(&STARTS);
    enter(&mut cpu, start, random);
    (cpu.mode, cpu.model.clone(), cpu.mode.bitness())
}

fn memory() -> GuestMemory {
    let region = MemoryRegion { base: GuestPhys(0), size: RAM, kind: RegionKind::Ram };
    GuestMemory::new(&[region]).expect("memory for the guest")
}

fn new_cpu(random: &mut Random, memory: Arc<GuestMemory>) -> Cpu {
    let model = MODELS[random.below(MODELS.len())].clone();
    Cpu::new(CpuId(0), model, memory, Arc::new(Noise::default()))
}

pub fn run(random: &mut Random) -> &'static str {
    let case = random.next();
    let (whole, end) = execute(case, LIMIT);
    if random.one_in(4) {
        let chunk = 1 + random.below(50) as u64;
        let (cut, _) = execute(case, chunk);
        assert!(whole == cut, "the run in pieces of {chunk} instructions differs: {whole:x?} and {cut:x?}");
    }
    end
}

/// What two runs of a guest must agree in: instructions, RIP, RFLAGS, general registers, a hash of memory.
type Digest = (u64, u64, u64, Vec<u64>, u128);

fn execute(case: u64, chunk: u64) -> (Digest, &'static str) {
    let mut random = Random::new(case);
    let memory = Arc::new(memory());
    fill(&memory, &mut random);
    let mut cpu = new_cpu(&mut random, memory.clone());
    let start = random.pick(&STARTS);
    enter(&mut cpu, start, &mut random);
    let mut interpreter = Interpreter::default();
    let (mut wakes, mut interrupts) = (0, random.below(4));
    let end = loop {
        if cpu.icount >= LIMIT {
            break "ran to the end";
        }
        let limit = (cpu.icount + chunk).min(LIMIT);
        match interpreter.run(&mut cpu, limit, &mut NoObserver) {
            RunEnd::Limit | RunEnd::Attention | RunEnd::Break => {
                wakes += 1;
                // Attention without progress must not go on for ever.
                assert!(wakes < 10 * LIMIT, "the CPU asks for attention again and again");
            }
            RunEnd::Inactive => match cpu.activity {
                Activity::Halted | Activity::Mwait(_) if interrupts > 0 => {
                    interrupts -= 1;
                    if interrupts % 2 == 0 {
                        cpu.nmi_pending = true
                    } else {
                        cpu.intr = true
                    }
                    cpu.boundary |= boundary::INTERRUPT;
                }
                Activity::Shutdown => break "shut down",
                _ => break "halted",
            },
        }
    };
    let mut hasher = StateHasher::new();
    let mut page = vec![0u8; 4096];
    for address in (0..RAM).step_by(4096) {
        memory.read(GuestPhys(address), &mut page).expect("the page is RAM");
        hasher.add(&page);
    }
    let digest = (cpu.icount, cpu.rip(), cpu.flags.get(), cpu.regs[..16].to_vec(), hasher.digest());
    (digest, end)
}

/// A random segment descriptor or gate that is often plausible.
fn descriptor(random: &mut Random) -> u64 {
    if random.one_in(6) {
        return random.next();
    }
    let kind = random.pick(&[
        0x9a, 0x92, 0xfa, 0xf2, 0x9b, 0x96, 0x9e, 0x89, 0x8b, 0x82, 0x85, 0x8c, 0xec, 0xee, 0xef, 0x84, 0x81,
    ]);
    let (base, limit) = ((random.next() & 0x1f_ffff), random.pick(&[0xf_ffff, 0xffff, 0x67, 0xfff]));
    let attributes = random.pick(&[0x0, 0x4, 0x8, 0xc, 0xa, 0x2, 0xe]);
    let selector = random.pick(&[CODE0, CODE3 & !3, TSS_SELECTOR, DATA0, 0x41, 0]);
    if kind & 0x1f >= 0xc && kind & 0x10 == 0 || kind == 0x85 {
        let offset = random.next() & 0x7fff;
        return offset | u64::from(selector) << 16 | kind << 40;
    }
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | kind << 40
        | (limit >> 16) << 48
        | attributes << 52
        | (base >> 24) << 56
}

/// Fills memory with code and tables.
fn fill(memory: &GuestMemory, random: &mut Random) {
    let write = |address: u64, bytes: &[u8]| memory.write(GuestPhys(address), bytes).expect("within RAM");
    let mut code = Vec::new();
    while code.len() < 0x1_0000 {
        instruction(random, &mut code);
    }
    write(0, &code[..0x1_0000]);
    // The interrupt vectors of real mode lead into the code.
    if random.one_in(2) {
        for vector in 0..256 {
            write(vector * 4, &(0x1000 + (random.next() as u32 & 0x6fff)).to_le_bytes());
        }
    }
    let tables: Vec<u8> = (0..0x1000).flat_map(|_| descriptor(random).to_le_bytes()).collect();
    write(GDT, &tables);
    let flat = [0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_fb00_0000_ffff, 0x00cf_f300_0000_ffff];
    for (index, entry) in flat.into_iter().enumerate() {
        write(GDT + 8 + 8 * index as u64, &u64::to_le_bytes(entry));
    }
    let system = |base: u64, kind: u64| 0x1000 | base << 16 | kind << 40;
    for (selector, entry) in [(TSS_SELECTOR, system(TSS, 0x8b)), (LDT_SELECTOR, system(LDT, 0x82))] {
        write(GDT + u64::from(selector), &entry.to_le_bytes());
        write(GDT + u64::from(selector) + 8, &[0; 8]);
    }
    // Gates of 16 bytes (64-bit mode) or 8; half of them plausible.
    for slot in 0..512u64 {
        let gate = (0x1000 + (random.next() & 0x6fff))
            | u64::from(CODE0) << 16
            | random.pick(&[0x8e, 0x8f, 0xee, 0x85]) << 40;
        if random.one_in(2) {
            write(IDT + slot * 8, &gate.to_le_bytes());
            if random.one_in(2) {
                write(IDT + slot / 2 * 16 + 8, &[0; 8]);
            }
        }
    }
    for stack in [4u64, 12, 20, 28, 36] {
        write(TSS + stack, &(0x9000 + stack as u32 * 0x100).to_le_bytes());
        write(TSS + stack + 4, &u32::from(DATA0).to_le_bytes());
    }
    page_tables(memory, random);
}

/// Page tables of all formats, one after the other: 4-level at TABLES, PAE at +0x4000, 32-bit at +0x8000. The first
/// 2 MiB map to themselves; what lies elsewhere is random.
fn page_tables(memory: &GuestMemory, random: &mut Random) {
    let mut wide = |table: u64, first: u64| {
        let mut entry = |index: u64| match index {
            0 => first,
            _ if random.one_in(2) => 0,
            _ if random.one_in(4) => random.next(),
            _ => (random.next() & 0x1f_f000) | random.next() & 0xe7,
        };
        let bytes: Vec<u8> = (0..512).flat_map(|index| entry(index).to_le_bytes()).collect();
        memory.write(GuestPhys(TABLES + table), &bytes).expect("within RAM");
    };
    wide(0, (TABLES + 0x1000) | 7);
    wide(0x1000, (TABLES + 0x2000) | 7);
    wide(0x2000, 0x87);
    wide(0x4000, (TABLES + 0x5000) | 1);
    wide(0x5000, 0x87);
    wide(0x8000, 0x87 | 0x60_0087 << 32);
}

/// Appends an instruction, or something like it.
fn instruction(random: &mut Random, code: &mut Vec<u8>) {
    for _ in 0..random.pick(&[0, 0, 0, 0, 1, 1, 2]) {
        code.push(random.pick(&[0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x64, 0x65, 0x48, 0x4c, 0x41]));
    }
    let length = random.below(8);
    let tail = random.bytes(length);
    match random.below(12) {
        0..=4 => code.extend(tail),
        5..=7 => {
            code.push(0x0f);
            code.extend(tail);
        }
        8 => {
            // MOV to and from control and debug registers, LMSW, LGDT, LIDT, INVLPG, XSETBV, MSRs, CPUID, XSAVE.
            let system: [&[u8]; 16] = [
                &[0x0f, 0x20],
                &[0x0f, 0x22],
                &[0x0f, 0x21],
                &[0x0f, 0x23],
                &[0x0f, 0x01],
                &[0x0f, 0x00],
                &[0x0f, 0x30],
                &[0x0f, 0x32],
                &[0x0f, 0xa2],
                &[0x0f, 0xae],
                &[0x0f, 0xc7],
                &[0x0f, 0x05],
                &[0x0f, 0x07],
                &[0x0f, 0x34],
                &[0x0f, 0x35],
                &[0x0f, 0xaa],
            ];
            code.extend(random.pick(&system));
            code.extend(tail);
        }
        9 => {
            // Stack and transfers: INT, IRET, far calls and returns, ENTER, POPF, STI, HLT, MOV SS.
            code.push(random.pick(&[
                0xcd, 0xcf, 0x9a, 0xea, 0xca, 0xcb, 0xc8, 0x9d, 0xfb, 0xf4, 0x8e, 0x17, 0x1f, 0xff, 0xcc,
                0xf1,
            ]));
            code.extend(tail);
        }
        10 => {
            // Vector instructions.
            code.push(random.pick(&[0xc4, 0xc5, 0x62]));
            code.extend(tail);
        }
        _ => {
            // String instructions, port I/O, and the x87.
            code.push(random.pick(&[
                0xa4, 0xa5, 0xa6, 0xab, 0xac, 0xaf, 0x6c, 0x6f, 0xe4, 0xee, 0xd8, 0xd9, 0xdb, 0xdd, 0xdf,
            ]));
            code.extend(tail);
        }
    }
}

/// Puts the CPU into a state that software could have reached.
fn enter(cpu: &mut Cpu, start: Start, random: &mut Random) {
    const PE: u64 = 1;
    const ET: u64 = 1 << 4;
    const PG: u64 = 1 << 31;
    const VM: u64 = 1 << 17;
    for register in cpu.regs[..16].iter_mut() {
        *register = match random.below(3) {
            0 => random.next() & 0x1f_ffff,
            1 => random.pick(&[
                0xc000_0080,
                0xc000_0100,
                0x1b,
                0x277,
                0x10,
                0x174,
                0x6e0,
                0x830,
                0x38f,
                0x1d9,
                0xda0,
            ]),
            _ => random.edgy(),
        };
    }
    cpu.regs[4] = STACK;
    let paging = matches!(start, Start::Paged | Start::Pae | Start::Compatibility | Start::Long);
    cpu.cr0 = ET | random.next() & 0x5_0022;
    if start != Start::Real {
        cpu.cr0 |= PE;
    }
    if paging {
        cpu.cr0 |= PG;
    }
    let wide = matches!(start, Start::Compatibility | Start::Long);
    // PSE or PAE; OSFXSR and OSXMMEXCPT as the guest likes.
    cpu.cr4 = random.pick(&[0, 0x600]) | if wide || start == Start::Pae { 0x20 } else { 0x10 };
    cpu.efer = if wide { 0x501 } else { 0 };
    cpu.cr3 = TABLES
        + match start {
            Start::Pae => 0x4000,
            Start::Paged => 0x8000,
            _ => 0,
        };
    if start == Start::Pae {
        cpu.pdptes = [(TABLES + 0x5000) | 1, 0, 0, 0];
    }
    let user = start == Start::V8086 || start != Start::Real && random.one_in(3);
    cpu.cpl = if user { 3 } else { 0 };
    let dpl = if user { 0x60 } else { 0 };
    let protected = |selector, rights: u16| Segment {
        selector,
        rights: rights | dpl,
        limit: u32::MAX,
        base: 0,
        unusable: false,
    };
    let real = |selector: u16, rights: u16| Segment {
        selector,
        rights: rights | dpl,
        limit: 0xffff,
        base: u64::from(selector) << 4,
        unusable: false,
    };
    let (code, data) = match start {
        Start::Real | Start::V8086 => (real(0, if user { 0x93 } else { 0x9b }), real(0, 0x93)),
        Start::Protected16 => (
            Segment { limit: 0xffff, ..protected(if user { CODE3 } else { CODE0 }, 0x9b) },
            Segment { limit: 0xffff, ..protected(if user { DATA3 } else { DATA0 }, 0x93) },
        ),
        Start::Long => (
            protected(if user { CODE3 } else { CODE0 }, 0xa09b),
            protected(if user { DATA3 } else { DATA0 }, 0xc093),
        ),
        _ => (
            protected(if user { CODE3 } else { CODE0 }, 0xc09b),
            protected(if user { DATA3 } else { DATA0 }, 0xc093),
        ),
    };
    for n in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
        cpu.seg[usize::from(n)] = data;
    }
    cpu.seg[usize::from(seg::CS)] = code;
    cpu.tr = Segment { selector: TSS_SELECTOR, rights: 0x8b, limit: 0x1000, base: TSS, unusable: false };
    cpu.ldtr = Segment { selector: LDT_SELECTOR, rights: 0x82, limit: 0x1000, base: LDT, unusable: false };
    let real_idt = TableRegister { base: 0, limit: 0x3ff };
    cpu.gdtr = TableRegister { base: GDT, limit: 0xfff };
    cpu.idtr = if start == Start::Real { real_idt } else { TableRegister { base: IDT, limit: 0xfff } };
    let mut flags = 2 | random.next() & 0x4_0ed5;
    if random.one_in(16) {
        flags |= 0x100;
    }
    if start == Start::V8086 {
        flags |= VM | random.pick(&[0, 0x3000]);
    }
    cpu.flags.set(flags);
    cpu.set_rip(0x1000 + (random.next() & 0x6fff));
    cpu.flush_all();
    cpu.update_mode();
}
