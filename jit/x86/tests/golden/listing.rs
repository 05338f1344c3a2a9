//! Translates one sample and tells its host code as text.

use crate::families::START;
use iced_x86::{Decoder, DecoderOptions, FastFormatter, FlowControl, Instruction, Register};
use ringworld_core::{CpuId, GuestPhys, NoDevices};
use ringworld_jit_x86::{HostCode, JitOptions, Translator};
use ringworld_mmu::{GuestMemory, MemoryRegion, RegionKind};
use ringworld_x86::Cpu;
use ringworld_x86::control::{cr0, cr4, efer};
use ringworld_x86::interp::{Interpreter, NoObserver};
use ringworld_x86::model::Model;
use ringworld_x86::native::offset;
use ringworld_x86::segment::Segment;
use std::sync::Arc;

/// The host code of a sample.
pub struct Listing {
    /// The guest's instructions.
    pub title: String,
    /// How many.
    pub guest: usize,
    /// Host instructions on the straight path.
    pub instructions: usize,
    /// The host's code.
    pub lines: Vec<String>,
}

/// One item of host code.
enum Item {
    Instruction(Instruction),
    /// A call that leaves: what for, and where in the guest.
    Leave(&'static str, u64),
}

/// How far an address, or an offset in 16-bit code, is from the start.
fn from_start(at: u64) -> u64 {
    (at | START) - START
}

/// Translates samples.
pub struct Lister {
    model: Arc<Model>,
    memory: Arc<GuestMemory>,
    /// Items that every block begins with.
    prologue: usize,
}

impl Lister {
    pub fn new() -> Self {
        let region = MemoryRegion { base: GuestPhys(0), size: 1 << 20, kind: RegionKind::Ram };
        let memory = Arc::new(GuestMemory::new(&[region]).expect("a MiB"));
        let poke =
            |at: u64, value: u64| memory.write(GuestPhys(at), &value.to_le_bytes()).expect("in memory");
        poke(0x1000, 0x2007);
        poke(0x2000, 0x3007);
        poke(0x3000, 0x87);
        let mut lister = Self { model: Arc::new(Model::as_if_complete("max")), memory, prologue: 0 };
        // A NOP is nothing but what every block has: up to its jump to the next block.
        let (items, _) = lister.translate(&[0x90], 64);
        lister.prologue = items
            .iter()
            .take_while(|(_, item)| !matches!(item, Item::Instruction(i) if is_jump(i) && leaves(&items, i).is_some_and(|(what, _)| what == "link")))
            .count();
        lister
    }

    fn cpu(&self, bits: u32) -> Cpu {
        let mut cpu =
            Cpu::new(CpuId(0), self.model.clone(), self.memory.clone(), Arc::new(NoDevices::default()));
        if bits == 16 {
            cpu.seg = [Segment::real(0x2000); 6];
            cpu.seg[1] = Segment { rights: 0x9b, ..Segment::real((START >> 4) as u16) };
            cpu.set_rip(0);
            cpu.update_mode();
            return cpu;
        }
        cpu.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::WP;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        cpu.xcr0 = 0xe7;
        cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        cpu.cr3 = 0x1000;
        cpu.seg = [Segment::from_descriptor(0x10, 0x00cf_9300_0000_ffff); 6];
        let code = if bits == 64 { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
        cpu.seg[1] = Segment::from_descriptor(8, code);
        cpu.set_rip(START);
        cpu.flush_all();
        cpu.update_mode();
        cpu
    }

    /// The host code of the block, by address.
    fn translate(&self, code: &[u8], bits: u32) -> (Vec<(u64, Item)>, usize) {
        self.memory.write(GuestPhys(START), code).expect("in memory");
        let mut decoder = Decoder::with_ip(bits, code, START, DecoderOptions::NONE);
        let guest = (&mut decoder).into_iter().count();
        let options =
            JitOptions { arena: 64 << 10, threshold: 0, max_block: guest, samples: 4, short_jumps: true };
        let mut translator = Translator::with(options).expect("a host that can run translated code");
        let mut cpu = self.cpu(bits);
        // Blocks are translated where they are first run; with one instruction left nothing follows.
        let limit = cpu.icount + 1;
        cpu.boundary = 0;
        Interpreter::default().run_with(&mut cpu, limit, &mut translator, &mut NoObserver);
        let block = translator.host_code().find(|block| block.rip == START).expect("a block at the start");
        (items(&translator, &block), guest)
    }

    /// Lists a sample.
    pub fn list(&self, code: &[u8], bits: u32) -> Listing {
        let (items, guest) = self.translate(code, bits);
        let mut decoder = Decoder::with_ip(bits, code, START, DecoderOptions::NONE);
        let title = (&mut decoder).into_iter().map(|i| text(&i)).collect::<Vec<_>>().join("; ");
        // Labels in the order of their places, for jumps that stay within the block.
        let mut targets: Vec<u64> = items
            .iter()
            .filter_map(|(_, item)| match item {
                Item::Instruction(i) if is_jump(i) && leaves(&items, i).is_none() => {
                    Some(destination(&items, i))
                }
                _ => None,
            })
            .collect();
        targets.sort_unstable();
        targets.dedup();
        let mut lines = Vec::new();
        let (mut instructions, mut straight) = (0, true);
        for (address, item) in items.iter().skip(self.prologue) {
            if let Ok(label) = targets.binary_search(address) {
                lines.push(format!("L{label}:"));
            }
            match item {
                Item::Leave("link" | "budget" | "stale" | "page", _) => straight = false,
                Item::Leave(what, at) => {
                    // A function call in the line of the code is part of it.
                    lines.push(format!("{what} +{}", from_start(*at)));
                    instructions += usize::from(straight);
                }
                Item::Instruction(i) if is_jump(i) => {
                    let mnemonic = text(i).split(' ').next().unwrap_or_default().to_owned();
                    let line = match leaves(&items, i) {
                        Some((what, at)) => format!("{mnemonic} {what} +{}", from_start(at)),
                        None => {
                            let label = targets.binary_search(&destination(&items, i)).unwrap_or_default();
                            format!("{mnemonic} L{label}")
                        }
                    };
                    instructions += usize::from(straight);
                    let out = i.flow_control() == FlowControl::UnconditionalBranch && line.contains("link");
                    straight &= !out;
                    lines.push(line);
                }
                Item::Instruction(i) => {
                    lines.push(text(i));
                    instructions += usize::from(straight);
                    straight &= i.flow_control() != FlowControl::IndirectBranch;
                }
            }
        }
        Listing { title, guest, instructions, lines }
    }
}

fn is_jump(i: &Instruction) -> bool {
    matches!(i.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch)
}

/// Where a jump leads, perhaps by way of an island.
fn destination(items: &[(u64, Item)], jump: &Instruction) -> u64 {
    let target = jump.near_branch_target();
    match items.iter().find(|(address, _)| *address == target) {
        Some((_, Item::Instruction(i))) if i.flow_control() == FlowControl::UnconditionalBranch => {
            destination(items, i)
        }
        _ => target,
    }
}

/// What a jump leaves for, if it leads to where the block is left for good.
fn leaves(items: &[(u64, Item)], jump: &Instruction) -> Option<(&'static str, u64)> {
    let target = destination(items, jump);
    items.iter().find_map(|(address, item)| match item {
        Item::Leave(what, at) if *address == target => Some((*what, *at)),
        _ => None,
    })
}

fn items(translator: &Translator, block: &HostCode) -> Vec<(u64, Item)> {
    let mut decoder = Decoder::with_ip(64, &block.code, block.address, DecoderOptions::NONE);
    let mut items = Vec::new();
    while decoder.can_decode() {
        let i = decoder.decode();
        let call = if i.is_call_near() { i.near_branch_target() } else { 0 };
        let item = match translator.stub(call) {
            Some("at-site") => {
                let at = decoder.position();
                let number = block
                    .code
                    .get(at..at + 4)
                    .map_or([0; 4], |bytes| [bytes[0], bytes[1], bytes[2], bytes[3]]);
                decoder.set_position(at + 4).expect("within the code");
                decoder.set_ip(i.next_ip() + 4);
                let (what, rip) = translator.site(u32::from_le_bytes(number)).expect("a site of the block");
                Item::Leave(what, rip)
            }
            Some(stub) => Item::Leave(stub, START),
            None => Item::Instruction(i),
        };
        items.push((i.ip(), item));
    }
    items
}

fn text(i: &Instruction) -> String {
    let mut text = String::new();
    FastFormatter::new().format(i, &mut text);
    // The caches are wherever the host has put them: in the lowest 2 GiB, beyond all structures.
    let far = i.memory_displacement64() as i64 >= 1 << 24;
    for (start, name) in [("[rcx*8+", "returns"), ("[rcx+", "jumps")] {
        if far && let Some((before, after)) = text.split_once(start) {
            let after = after.split_once(']').map_or("", |(_, after)| after);
            text = format!("{before}{start}{name}]{after}");
        }
    }
    if i.is_ip_rel_memory_operand() && i.memory_displacement64() > u64::from(u32::MAX) {
        text = "lea r14,[return]".into();
    }
    // Where the processor's fields are is the compiler's choice.
    for (name, at) in [
        ("system-flags", offset::SYSTEM_FLAGS),
        ("held", offset::HELD),
        ("kernel-gs-base", offset::KERNEL_GS_BASE),
        ("gs-base", offset::base(5)[0]),
        ("gs-base-fast", offset::base(5)[1]),
        ("tsc-aux", offset::TSC_AUX),
        ("company", offset::COMPANY),
        ("es-selector", offset::segment(0).selector),
        ("cs-selector", offset::segment(1).selector),
        ("ss-selector", offset::segment(2).selector),
        ("ds-selector", offset::segment(3).selector),
        ("fs-selector", offset::segment(4).selector),
        ("gs-selector", offset::segment(5).selector),
    ] {
        if matches!(i.memory_base(), Register::RCX | Register::R14) && i.memory_displacement64() == at as u64
        {
            let mut hexadecimal = format!("{at:X}h");
            if !hexadecimal.starts_with(|c: char| c.is_ascii_digit()) {
                hexadecimal.insert(0, '0');
            }
            text = text.replace(&format!("+{hexadecimal}]"), &format!("+{name}]"));
        }
    }
    text
}
