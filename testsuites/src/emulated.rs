//! Runs cases on the emulated processor, in the same surroundings as the host's: CPL 3, Linux's flat segments and control
//! bits, and page tables that map the same window with the same permissions.

use crate::case::{
    CODE, CODE_SIZE, Case, DATA, DATA_SELECTOR, DATA_SIZE, Fault, Mode, Outcome, State, WRITABLE, X87State,
};
use crate::forms::{host_model, host_state};
use anyhow::Result;
use iced_x86::{Decoder, FlowControl, Instruction};
use ringworld_core::{CpuId, GuestPhys, NoDevices};
use ringworld_jit_x86::{JitOptions, JitStats, Translator};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use ringworld_x86::control::{cr0, cr4, efer};
use ringworld_x86::decode::{Decoded, decode};
use ringworld_x86::insn::seg;
use ringworld_x86::interp::{Interpreter, NoObserver};
use ringworld_x86::model::Model;
use ringworld_x86::segment::Segment;
use ringworld_x86::snapshot::CpuState;
use ringworld_x86::state::TableRegister;
use ringworld_x86::{Activity, Cpu, Stop};
use std::sync::Arc;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT_CODE: u64 = 0x4000;
const PT_DATA: u64 = 0x5000;
const PT_SYSTEM: u64 = 0x6000;
const GDT: u64 = 0x7000;
const CODE_PHYS: u64 = 0x1_0000;
const DATA_PHYS: u64 = 0x2_0000;
const RAM: u64 = 0x4_0000;
/// The system page holds, at these offsets, the GDT (0), the TSS, the IDT, the handlers (HLT, 16 bytes each) and the stack
/// that exceptions are delivered on.
const TSS: u64 = 0x200;
const IDT: u64 = 0x400;
const HANDLERS: u64 = 0x800;
const STACK: u64 = 0x1000;
/// Exceptions that have a gate.
const VECTORS: u64 = 32;
/// Linear address of the system page; out of reach of the bit offsets of BT and of indices around the window.
const SYSTEM: u64 = 0x3fe0_0000;

/// Linux's GDT for 64-bit kernels (`arch/x86/kernel/cpu/common.c`), as far as user mode can use it.
const DESCRIPTORS: [u64; 16] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    // The TSS's place; user mode cannot tell what is there.
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

/// After so many sequences decoded code is forgotten, as no sequence comes again.
const FORGET: u64 = 1000;
/// Most re-executions of one REP-prefixed instruction.
const MAX_STEPS: u32 = 4096;

/// Ends a block where a sequence ends: a jump to itself.
const END: [u8; 2] = [0xeb, 0xfe];
/// Code memory of the translator: small, so that it overflows now and then.
const ARENA: usize = 4 << 20;

/// The emulated runner.
pub struct Emulated {
    cpu: Cpu,
    scratch: Instruction,
    interpreter: Interpreter,
    translator: Option<Translator>,
    sequences: u64,
}

impl Emulated {
    /// Builds the processor and its memory.
    pub fn new() -> Result<Self> {
        let region = MemoryRegion { base: GuestPhys(0), size: RAM, kind: RegionKind::Ram };
        let memory = Arc::new(GuestMemory::new(&[region])?);
        let put = |address: u64, value: u64| memory.write(GuestPhys(address), &value.to_le_bytes());
        const PRESENT: u64 = 0x21;
        const TABLE: u64 = 0x27;
        const USER: u64 = 4;
        const DIRTY_WRITE: u64 = 0x42;
        const NX: u64 = 1 << 63;
        put(PML4, PDPT | TABLE)?;
        put(PDPT, PD | TABLE)?;
        for (linear, table) in [(CODE, PT_CODE), (DATA, PT_DATA), (SYSTEM, PT_SYSTEM)] {
            put(PD + (linear >> 21 & 511) * 8, table | TABLE)?;
        }
        for page in 0..CODE_SIZE as u64 / 4096 {
            put(PT_CODE + 8 * page, (CODE_PHYS + (page << 12)) | PRESENT | USER)?;
        }
        for page in 0..DATA_SIZE as u64 / 4096 {
            let write = if (page << 12) < WRITABLE as u64 { DIRTY_WRITE } else { 0 };
            put(PT_DATA + 8 * page, (DATA_PHYS + (page << 12)) | PRESENT | USER | NX | write)?;
        }
        put(PT_SYSTEM, GDT | PRESENT | DIRTY_WRITE)?;
        put(GDT + TSS + 4, SYSTEM + STACK)?;
        for vector in 0..VECTORS {
            let handler = SYSTEM + HANDLERS + 16 * vector;
            let gate = handler & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
            put(GDT + IDT + 16 * vector, gate)?;
            put(GDT + HANDLERS + 16 * vector, 0xf4)?;
        }
        for (n, descriptor) in DESCRIPTORS.iter().enumerate() {
            put(GDT + 8 * n as u64, *descriptor)?;
        }
        let mut cpu = Cpu::new(
            CpuId(0),
            Arc::new(Model::as_if_complete(&host_model())),
            memory.clone(),
            Arc::new(NoDevices::default()),
        );
        cpu.cr3 = PML4;
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        cpu.cr4 = cr4::PAE
            | cr4::MCE
            | cr4::PGE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::UMIP
            | cr4::FSGSBASE
            | cr4::OSXSAVE;
        cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        cpu.xcr0 = host_state();
        cpu.gdtr = TableRegister { base: SYSTEM, limit: 8 * DESCRIPTORS.len() as u16 - 1 };
        cpu.idtr = TableRegister { base: SYSTEM + IDT, limit: (16 * VECTORS - 1) as u16 };
        // A TSS without an I/O permission map: it would begin beyond the limit (SDM 1 19.5.2).
        put(GDT + TSS + 0x60, 0xffff << 48)?;
        let base = SYSTEM + TSS;
        cpu.tr = Segment { selector: 0x40, rights: 0x8b, limit: 0x67, base, unusable: false };
        let scratch = Instruction::default();
        Ok(Self { cpu, scratch, interpreter: Interpreter::default(), translator: None, sequences: 0 })
    }

    /// As [`Self::new`], with a translator that translates code before it runs for the first time.
    pub fn translated() -> Result<Self> {
        let options = JitOptions { arena: ARENA, threshold: 0, ..JitOptions::default() };
        Ok(Self { translator: Some(Translator::with(options)?), ..Self::new()? })
    }

    /// What the translator has done.
    pub fn jit_stats(&self) -> JitStats {
        self.translator.as_ref().map(|translator| translator.stats.clone()).unwrap_or_default()
    }

    /// Runs a case as a machine would, by blocks. If `cut` says so, it stops after so many instructions before it goes on.
    pub fn run_as_machine(&mut self, case: &Case, cut: Option<u64>) -> Outcome {
        self.set_state(case);
        self.cpu.flags.set(case.state.rflags);
        // What the last case left outside of the case's state.
        self.cpu.icount = 0;
        self.cpu.cr2 = 0;
        let stack = self.cpu.memory.write(GuestPhys(GDT + STACK - 64), &[0; 64]);
        debug_assert!(stack.is_ok(), "the stack is in RAM");
        let code = GuestPhys(CODE_PHYS + (case.state.rip - CODE));
        let bytes = [&case.bytes, &END[..]].concat();
        for (address, bytes) in [(GuestPhys(DATA_PHYS), &case.window()), (code, &bytes)] {
            let written = self.cpu.memory.write(address, bytes);
            debug_assert!(written.is_ok(), "the windows are in RAM");
        }
        // With the jump at the end the last block fits the limit.
        let falls = case.instructions().last().is_none_or(|last| last.flow_control() == FlowControl::Next);
        let limit = u64::from(case.steps) + u64::from(falls);
        if let Some(cut) = cut {
            self.run_to(limit.min(cut));
        }
        let fault = match self.cpu.cpl {
            3 => {
                self.run_to(limit);
                self.delivered()
            }
            _ => self.delivered(),
        };
        let cleared = self.cpu.memory.write(code, &vec![0; bytes.len()]);
        debug_assert!(cleared.is_ok(), "the code is in RAM");
        Outcome { state: self.state(case.mode), fault }
    }

    fn run_to(&mut self, limit: u64) {
        self.sequences += 1;
        if self.sequences.is_multiple_of(FORGET) {
            self.interpreter.forget(&mut self.cpu);
        }
        match &mut self.translator {
            Some(translator) => {
                // All ways, whatever the host prefers.
                let way = self.sequences / FORGET;
                translator.set_short_jumps(way.is_multiple_of(2));
                translator.set_samples(if way & 2 == 0 { 4 } else { 0 });
                self.interpreter.run_with(&mut self.cpu, limit, translator, &mut NoObserver);
            }
            None => {
                self.interpreter.run(&mut self.cpu, limit, &mut NoObserver);
            }
        }
    }

    /// Everything that could differ between engines: the processor, and all memory.
    pub fn whole(&self) -> (CpuState, Vec<u8>) {
        let mut memory = vec![0; RAM as usize];
        let read = self.cpu.memory.read(GuestPhys(0), &mut memory);
        debug_assert!(read.is_ok(), "all of RAM");
        (self.cpu.state(), memory)
    }

    fn set_state(&mut self, case: &Case) {
        let cpu = &mut self.cpu;
        let state = &case.state;
        cpu.regs[..16].copy_from_slice(&state.gpr);
        cpu.set_rip(state.rip);
        // As natively: the instruction can see TF.
        cpu.flags.set(state.rflags | ringworld_x86::flags::bits::TF);
        cpu.zmm = state.zmm;
        cpu.k = state.k;
        cpu.mxcsr = state.mxcsr;
        let x87 = &state.x87;
        let top = usize::from(x87.status >> 11 & 7);
        cpu.x87.control = x87.control;
        cpu.x87.status = x87.status;
        cpu.x87.valid = x87.valid;
        cpu.x87.fop = x87.fop;
        cpu.x87.fip = x87.fip;
        cpu.x87.fdp = x87.fdp;
        for (n, (significand, exponent)) in x87.st.iter().enumerate() {
            cpu.x87.significand[(top + n) & 7] = *significand;
            cpu.x87.exponent[(top + n) & 7] = *exponent;
        }
        let descriptor =
            |selector: u16| Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]);
        let data = descriptor(DATA_SELECTOR);
        let null = Segment { unusable: true, ..Segment::default() };
        let [_, cs, ..] = state.selectors;
        cpu.seg = [data, descriptor(cs), data, data, null, null];
        cpu.seg[seg::FS as usize].base = state.fs_base;
        cpu.seg[seg::GS as usize].base = state.gs_base;
        cpu.cpl = 3;
        cpu.activity = Activity::Active;
        cpu.pending = Default::default();
        cpu.shadow = Default::default();
        cpu.boundary = 0;
        cpu.update_mode();
    }

    fn state(&self, mode: Mode) -> State {
        let cpu = &self.cpu;
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&cpu.regs[..16]);
        let top = usize::from(cpu.x87.status >> 11 & 7);
        State {
            gpr,
            rip: if mode == Mode::Long64 { cpu.rip() } else { cpu.rip() & 0xffff_ffff },
            rflags: cpu.flags.get() & !ringworld_x86::flags::bits::TF,
            selectors: cpu.seg.map(|segment| segment.selector),
            fs_base: cpu.seg[seg::FS as usize].base,
            gs_base: cpu.seg[seg::GS as usize].base,
            zmm: cpu.zmm,
            k: cpu.k,
            mxcsr: cpu.mxcsr,
            x87: X87State {
                control: cpu.x87.control,
                status: cpu.x87.status,
                valid: cpu.x87.valid,
                fop: cpu.x87.fop,
                fip: cpu.x87.fip,
                fdp: cpu.x87.fdp,
                st: core::array::from_fn(|n| {
                    let r = (top + n) & 7;
                    (cpu.x87.significand[r], cpu.x87.exponent[r])
                }),
            },
        }
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Outcome {
        self.set_state(case);
        let written = self.cpu.memory.write(GuestPhys(DATA_PHYS), &case.window());
        debug_assert!(written.is_ok(), "the window is in RAM");
        let code = GuestPhys(CODE_PHYS + (case.state.rip - CODE));
        let written = self.cpu.memory.write(code, &case.bytes);
        debug_assert!(written.is_ok(), "the code is in RAM");
        if case.steps > 1 {
            let fault = self.run_sequence(case);
            let cleared = self.cpu.memory.write(code, &vec![0; case.bytes.len()]);
            debug_assert!(cleared.is_ok(), "the code is in RAM");
            return Outcome { state: self.state(case.mode), fault };
        }
        let mut steps = 1;
        let fault = loop {
            if let Err(fault) = self.step(case) {
                break Some(fault);
            }
            let unfinished = case.repeats() && self.cpu.rip() == case.state.rip;
            if !unfinished || steps == MAX_STEPS {
                break None;
            }
            steps += 1;
        };
        let cleared = self.cpu.memory.write(code, &vec![0; case.bytes.len()]);
        debug_assert!(cleared.is_ok(), "the code is in RAM");
        Outcome { state: self.state(case.mode), fault }
    }

    /// Runs a sequence as a machine would: by the interpreter's blocks, exceptions delivered through the IDT.
    fn run_sequence(&mut self, case: &Case) -> Option<Fault> {
        let cpu = &mut self.cpu;
        cpu.flags.set(case.state.rflags);
        cpu.activity = Activity::Active;
        self.sequences += 1;
        if self.sequences.is_multiple_of(FORGET) {
            self.interpreter.forget(cpu);
        }
        self.interpreter.run(cpu, cpu.icount + u64::from(case.steps), &mut NoObserver);
        self.delivered()
    }

    /// The exception that was delivered through the IDT, if one was; undoes its delivery.
    fn delivered(&mut self) -> Option<Fault> {
        let cpu = &mut self.cpu;
        cpu.activity = Activity::Active;
        if cpu.cpl == 3 {
            return None;
        }
        // An exception was delivered: take the state from its frame.
        let vector = (cpu.rip().wrapping_sub(SYSTEM + HANDLERS) / 16) as u8;
        let mut frame = [0; 6];
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21);
        let start = STACK - if has_error { 48 } else { 40 };
        for (n, slot) in frame.iter_mut().enumerate().skip(usize::from(!has_error)) {
            let at = GDT + start + 8 * (n as u64 - u64::from(!has_error));
            *slot = cpu.memory.read_u64(GuestPhys(at)).unwrap_or_default();
        }
        let [error, rip, cs, flags, rsp, ss] = frame;
        cpu.set_rip(rip);
        cpu.flags.set(flags);
        cpu.regs[4] = rsp;
        cpu.seg[seg::CS as usize].selector = cs as u16;
        cpu.seg[seg::SS as usize].selector = ss as u16;
        cpu.cpl = 3;
        Some(Fault { vector, error: error as u32, address: if vector == 14 { cpu.cr2 } else { 0 } })
    }

    /// Decodes and runs the instruction at RIP.
    fn step(&mut self, case: &Case) -> Result<(), Fault> {
        let cpu = &mut self.cpu;
        let rip = cpu.rip();
        let offset = (rip.wrapping_sub(case.state.rip) as usize).min(case.bytes.len());
        let bytes = &case.bytes[offset..];
        let mut decoder = Decoder::with_ip(case.mode.bits(), bytes, rip, cpu.model.decoder_options());
        let insn = match decode(&mut decoder, &mut self.scratch, cpu.mode, &cpu.model) {
            Decoded::Instruction(insn, _) => insn,
            // There is always a whole instruction.
            Decoded::NeedMore => return Err(Fault { vector: 14, error: 0x14, address: rip }),
        };
        cpu.set_rip(rip.wrapping_add(u64::from(insn.len)));
        cpu.icount += 1;
        cpu.block_end = 1;
        cpu.boundary = 0;
        match (insn.exec)(cpu, &insn) {
            Ok(()) => Ok(()),
            // User mode under Linux has CR0.NE set, so that nothing waits, and is nobody's guest: let the comparison fail.
            Err(Stop::Wait | Stop::Exit) => Err(Fault { vector: u8::MAX, error: 0, address: 0 }),
            Err(Stop::Exception) => {
                cpu.set_rip(rip);
                let e = cpu.pending;
                let address = if e.vector == 14 { e.payload } else { 0 };
                Err(Fault { vector: e.vector, error: e.error.unwrap_or(0), address })
            }
        }
    }

    /// The data window after the last case.
    pub fn window(&self) -> Vec<u8> {
        let mut bytes = vec![0; DATA_SIZE];
        let read = self.cpu.memory.read(GuestPhys(DATA_PHYS), &mut bytes);
        debug_assert!(read.is_ok(), "the window is in RAM");
        bytes
    }
}
