//! Accesses in windows (see [`ringworld_mmu::window`]): by the guest's own address, in a segment of the host.
//!
//! The host's GS leads to one chunk of the linear addresses of the running context: a block that has a window sees to that before
//! anything else. An access needs no look-up then: only that its registers point into the chunk is checked, once for all that are at
//! a constant distance, wherever pages end. What is not in the window raises SIGSEGV, whose trap leads to the instruction's function,
//! and the page is shown from then on.
//!
//! Only what takes the time has windows, as the host takes some ten microseconds to show a page.

use crate::classify::Emit;
use crate::cold::ColdKind;
use crate::emit::{Emitter, Guest, Place, Unsupported};
use crate::frame::{Frame, TLB_BIAS, at};
use crate::gather;
use crate::group::Member;
use crate::host;
use crate::islands::{CHECK, PLAIN};
use crate::site::Kind;
use crate::stubs::{jrcxz, land8};
use crate::translator::Translator;
use crate::values::{Form, Registers, Values};
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{InstructionInfoFactory, OpKind};
use ringworld_core::FastMap;
use ringworld_jit_rt::Traps;
use ringworld_mmu::tlb::Translations;
use ringworld_mmu::window::{CHUNK_SHIFT, CHUNKS, GUARD};
use ringworld_x86::Cpu;

/// Instructions that translated code may be entered for at once, if it has windows: a loop that has seen where a register points does
/// not look again before it is left.
pub const LONGEST: u64 = 1 << 18;
/// Longest way of a group from one round to the next.
pub const FARTHEST: u64 = 1 << 13;
/// Log2 of the longest way by a register.
const STEP: u32 = 14;
/// The bits that must be zero of such a register plus the longest way.
pub const STEP_BITS: u64 = !0 << (STEP + 1);
// Base and scaled index, either way; displacements and gathers' indices take the rest of it.
const _: () = assert!(LONGEST * (FARTHEST + (9 << STEP)) < GUARD - (4 << 30) - (16 << 30));

/// Pages that may be shown in a row, and instructions that one more is worth.
const MOST_AT_ONCE: u64 = 128;
const INSTRUCTIONS_FOR_ONE: u64 = 1 << 21;
/// Pages that are shown to a block before it gets on without; what comes to nothing counts as so many.
const MOST_OF_BLOCK: u16 = 4096;
const VAIN: u16 = 64;

/// Number of the guest's stack pointer.
const RSP: u8 = 4;

/// The chunk of a linear address, if it can have windows.
pub fn chunk_of(linear: u64) -> Option<u8> {
    let chunk = linear >> CHUNK_SHIFT;
    (chunk < CHUNKS as u64).then_some(chunk as u8)
}

/// The chunk that most accesses of a block are in, if its registers are these at the start, and it can have a window.
pub fn choose(
    guests: &[Guest],
    traps: bool,
    registers: &[u64],
    info: &mut InstructionInfoFactory,
) -> Option<u8> {
    let (_, but_last) = guests.split_last()?;
    // Functions of other instructions may change the context.
    let plain = |guest: &Guest| !matches!(guest.emit, None | Some(Emit::System(_) | Emit::Segments(_)));
    let x87 = |guest: &Guest| matches!(guest.emit, Some(Emit::X87(_)));
    if !but_last.iter().all(plain) || traps && guests.iter().any(x87) {
        return None;
    }
    let registers: Registers = core::array::from_fn(|n| registers.get(n).copied());
    let mut values = Values::default();
    let mut found: Vec<(u8, usize)> = Vec::new();
    for Guest { decoded: i, emit, .. } in guests {
        let form = match emit {
            Some(Emit::Gather) => gather::base_of(i),
            Some(Emit::Same | Emit::Vector(_) | Emit::Divide) => {
                let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
                memory.then(|| Form::of(i, 8)).flatten()
            }
            _ => None,
        };
        if let Some(Form { base, index, displacement }) = form
            && base.is_none_or(|n| values.of(n).root.is_none_or(|root| root.register != RSP))
            && let Some(base) = base.map_or(Some(0), |n| values.known(n, &registers))
            && (base != 0 || displacement != 0)
        {
            let index = index.and_then(|(n, scale)| Some(values.known(n, &registers)? << scale));
            let address = base.wrapping_add(index.unwrap_or(0)).wrapping_add_signed(displacement);
            if let Some(chunk) = chunk_of(address) {
                match found.iter_mut().find(|(other, _)| *other == chunk) {
                    Some((_, count)) => *count += 1,
                    None => found.push((chunk, 1)),
                }
            }
        }
        values.follow(i, *emit, 8, info);
    }
    found.into_iter().max_by_key(|(_, count)| *count).map(|(chunk, _)| chunk)
}

/// How many pages may be shown: the host takes long for each.
pub struct Patience {
    /// The host lets us.
    has_windows: bool,
    /// So many now; more as instructions are run.
    left: u64,
    /// Instructions that had been run when that was counted last.
    at: u64,
    /// Blocks that are to have no windows.
    without: FastMap<u64, ()>,
    /// As many as there are.
    pub is_endless: bool,
}

impl Patience {
    pub fn new(is_endless: bool) -> Self {
        Self {
            has_windows: host::has_fsgsbase(),
            left: MOST_AT_ONCE,
            at: 0,
            without: FastMap::default(),
            is_endless,
        }
    }

    /// Whether a block may have one.
    pub fn has_windows(&self, rip: u64) -> bool {
        self.has_windows && !self.without.contains_key(&rip)
    }

    /// Every block may have one again.
    pub fn forget(&mut self) {
        self.without.clear();
    }

    /// One more page; false if that is too much.
    fn take(&mut self, icount: u64) -> bool {
        let more = icount.saturating_sub(self.at) / INSTRUCTIONS_FOR_ONE;
        if more != 0 || icount < self.at {
            self.at = icount;
        }
        self.left = (self.left + more).min(MOST_AT_ONCE).saturating_sub(1);
        self.left != 0 || self.is_endless
    }
}

impl Translator {
    /// After an instruction whose access was not to be had in a window has been run by its function, or has come to `nothing`: puts
    /// the page there. False if the block is to have windows no longer, and left.
    pub(crate) fn show_page(&mut self, frame: &Frame, cpu: &mut Cpu, nothing: bool) -> bool {
        let Some(host) = Traps::take_fault() else { return true };
        self.stats.window_faults += 1;
        let shown = nothing || cpu.tlb.show_page(host, &cpu.memory);
        let goes_on = frame.resume as usize;
        let id = self.blocks.partition_point(|block| block.start <= goes_on).saturating_sub(1);
        let Some(block) = self.blocks.get_mut(id) else { return false };
        block.faults = block.faults.saturating_add(if shown { 1 } else { VAIN });
        let bears = self.patience.take(cpu.icount) && block.faults < MOST_OF_BLOCK;
        if !bears {
            self.close(id as u32);
        }
        bears
    }

    /// Whether there is a window for a block that has come to its start without.
    pub(crate) fn has_window(&mut self, cpu: &mut Cpu, id: u32) -> bool {
        let Some(block) = self.blocks.get_mut(id as usize) else { return false };
        block.faults = block.faults.saturating_add(VAIN);
        let bears = block.faults < MOST_OF_BLOCK;
        let opened = bears && block.window.is_some_and(|chunk| cpu.tlb.open_window(chunk.into()));
        if !opened {
            self.close(id);
        }
        opened
    }

    /// The block is to be translated again, without windows.
    fn close(&mut self, id: u32) {
        self.patience.without.insert(self.blocks[id as usize].key.0, ());
        self.discard(id);
    }
}

/// Displacement from R15 of a chunk's place among the windows.
fn place_of(chunk: u8) -> i32 {
    offset_of!(Translations, windows) as i32 - TLB_BIAS + 8 * i32::from(chunk)
}

impl Emitter<'_> {
    /// At the start of a block that has a window: makes the host's GS lead to it.
    pub(crate) fn open_window(&mut self) {
        let Some(chunk) = self.window else { return };
        self.keep_in_reach(CHECK);
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [r15 + place_of(chunk)]
            ; mov r14, [rsp + at::MINUS_GS]
            ; lea rcx, [rcx + r14 + self.unit()]
        );
        let from = self.unless_unit();
        let site = self.site(Kind::Window);
        self.push_cold(from, ColdKind::Window { chunk, site, resume: self.s.len() });
        self.keep_in_reach(PLAIN);
    }

    /// Out of the way: the same, if the window is open; otherwise leaves.
    pub(crate) fn enter_window(&mut self, chunk: u8, site: u32, resume: usize) {
        dynasm!(self.s ; .arch x64 ; mov rcx, [r15 + place_of(chunk)]);
        let closed = jrcxz(self.s);
        // WRGSBASE RCX.
        self.s.extend([0xf3, 0x48, 0x0f, 0xae, 0xd9]);
        dynasm!(self.s ; .arch x64 ; not rcx ; lea rcx, [rcx + 1] ; mov [rsp + at::MINUS_GS], rcx);
        self.jump_back(resume);
        land8(self.s, closed);
        self.leave(site);
    }

    /// Leaves for a translation without windows unless the registers of `form` point into the block's chunk. RCX and R14 are scratch.
    pub(crate) fn check_window(&mut self, form: Form) {
        if form.is_constant() {
            return;
        }
        let Some(chunk) = self.window else { return };
        self.keep_in_reach(CHECK);
        self.let_go();
        let from = match form {
            Form { base: Some(base), index: None, .. } => self.value(base.into(), 14),
            _ => {
                self.linear(Form { displacement: 0, ..form }, 14);
                14
            }
        };
        dynasm!(self.s ; .arch x64 ; pext rcx, Rq(from), [rsp + at::CHUNK_BITS]);
        self.lea_base(1, true, 1, self.unit() - i32::from(chunk));
        let from = self.unless_unit();
        self.cold_elsewhere_in_memory(from);
        self.keep_in_reach(PLAIN);
    }

    /// As [`Self::check_window`], unless a register that others move by in a loop is small enough.
    pub(crate) fn check_step(&mut self, by: usize) {
        self.keep_in_reach(CHECK);
        self.let_go();
        let by = self.value(by, 14);
        self.lea_base(14, true, by, 1 << STEP);
        dynasm!(self.s ; .arch x64 ; pext rcx, r14, [rsp + at::STEP_BITS]);
        let from = self.unless_rcx_zero();
        self.cold_elsewhere_in_memory(from);
        self.keep_in_reach(PLAIN);
    }

    /// Where an access is in the window, whose group is checked if this is its first one.
    pub(crate) fn window_place(&mut self, member: Member) -> Result<Place, Unsupported> {
        if !self.is_established(member.group) {
            self.established |= 1 << member.group;
            self.check_window(member.own);
        }
        let Form { base, index, displacement } = member.own;
        let place = |base, index, displacement| Place { base, index, displacement, slow: None, window: true };
        let short = i32::try_from(displacement).map_err(|_| Unsupported);
        Ok(match (base, index) {
            (None, None) if short.is_err() => {
                self.constant(14, displacement as u64);
                place(Some(14), None, 0)
            }
            (base, index) => {
                let base = base.map(|base| self.value(base.into(), 14));
                let index = index.map(|(index, scale)| (self.value(index.into(), 1), scale));
                if index.is_some_and(|(index, _)| index == 1) {
                    self.held = None;
                }
                place(base, index, short?)
            }
        })
    }
}
