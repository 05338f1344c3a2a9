//! The translator: blocks, their look-up, linking, and the loop between translated code and the rest.

use crate::blocks::Block;
use crate::control::fetch_slot;
use crate::emit::{Drafts, Emitter, Numbers, PageCheck};
use crate::frame::{Frame, TLB_BIAS};
use crate::group::{Grouping, MemoryAccesses};
use crate::host;
use crate::islands::LEAD;
use crate::perf_map::PerfMap;
use crate::segmented::CodeSegment;
use crate::site::{self, Kind, Link, LinkDraft, Need, Run, Site};
use crate::stubs::{self, Start, Stubs};
use crate::system::POPF_OTHERS;
use crate::trace::{Extent, Follow, Trace, bytes_of};
use crate::window::{self, Patience};
use crate::x87::{self, X87Frame};
use iced_x86::{Code, Encoder, InstructionInfoFactory};
use ringworld_core::{FastMap, PAGE_MASK, PAGE_SIZE, hash_by_page, prefetch};
use ringworld_jit_rt::{
    Arena, ArenaError, FAR_JUMPS, JUMP_SHIFT, JUMPS, JumpCache, RETURN_BITS, ReturnCache, Sink, Traps,
};
use ringworld_mmu::tlb::TLB_ENTRIES;
use ringworld_mmu::window::CHUNK_SHIFT;
use ringworld_x86::control::{cr4, mxcsr};
use ringworld_x86::flags::bits;
use ringworld_x86::insn::{REG_RIP, seg};
use ringworld_x86::model::Feature;
use ringworld_x86::native::{CodePage, Native};
use ringworld_x86::{Cpu, Insn};
use smallvec::SmallVec;
use std::sync::Arc;

/// Longest block in instructions.
const MAX_BLOCK: usize = 64;
/// Bytes of the longest instruction, twice: one that reaches into the next page is decoded from a copy.
const BYTES: usize = 32;
/// Entries of the table of execution counts; a power of two.
const HEAT: usize = 1 << 20;
/// After so many counted executions all counts are halved, or code that is hardly ever run would be hot in the end.
const PERIOD: usize = 4 * HEAT;
/// Each time that code is overwritten after its translation doubles the runs before the next one, so often.
pub(crate) const MAX_KILLS: u8 = 2;
/// Runs and links, and blocks, that there is room for from the start; what is not touched costs nothing.
const SITES: usize = 1 << 19;
const BLOCKS: usize = 1 << 16;
/// Entries of [`Translator::refused`]; a power of two.
const REFUSED: usize = 256;
/// Fetch tokens before everything is forgotten.
const MAX_TOKENS: usize = 1 << 20;
/// 32-bit code of the last page stays with the interpreter: what follows it wraps around.
pub(crate) const LAST_PAGE_32: u64 = (1 << 32) - PAGE_SIZE;
/// MXCSR's exception masks: translated vector code without traps needs them all set.
pub(crate) const MASKS: u32 = 0x1f80;

/// Why there is no translator.
#[derive(Debug)]
pub enum JitError {
    /// The host's processor lacks what all translated code needs.
    Host,
    /// No executable memory.
    Memory(ArenaError),
    /// No signal handler for what translated code raises.
    Signal(std::io::Error),
}

impl core::fmt::Display for JitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Host => write!(f, "the translator needs a host with SSE4.2, BMI1 and BMI2"),
            Self::Memory(error) => error.fmt(f),
            Self::Signal(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for JitError {}

/// The sizes of a translator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JitOptions {
    /// Bytes of code memory, a multiple of the host's page size; when it is full all code is forgotten.
    pub arena: usize,
    /// Blocks run so often by the interpreter before they are translated.
    pub threshold: u8,
    /// Longest block in instructions, up to 64; twice that if it is a loop.
    pub max_block: usize,
    /// Times that the budget ends before a block until it is translated again, with windows, and through other pages: those are
    /// copies of what is there, which only what takes a good part of the time is worth (all of a boot's: a third more to translate).
    /// With 0 all is translated so at once, and windows may take any time.
    pub samples: u8,
    /// Checks jump by LOOP and JRCXZ, instead of over a near jump: faster where the host's LOOP is as fast as other branches.
    pub short_jumps: bool,
}

impl Default for JitOptions {
    fn default() -> Self {
        Self {
            arena: 128 << 20,
            threshold: 24,
            max_block: MAX_BLOCK,
            samples: 4,
            short_jumps: host::has_fast_loop(),
        }
    }
}

/// What the translator has done.
#[derive(Clone, Debug, Default)]
pub struct JitStats {
    /// Blocks translated.
    pub blocks: u64,
    /// Guest instructions translated.
    pub instructions: u64,
    /// Guest bytes translated.
    pub guest_bytes: u64,
    /// Host bytes emitted.
    pub host_bytes: u64,
    /// Time spent translating, in nanoseconds.
    pub nanoseconds: u64,
    /// Blocks that were stale.
    pub invalidated: u64,
    /// Times that everything was forgotten.
    pub flushes: u64,
    /// Entries into translated code.
    pub entries: u64,
    /// Blocks that access memory in windows (see ARCHITECTURE.md).
    pub windowed: u64,
    /// Their accesses to pages that were not shown there.
    pub window_faults: u64,
    /// Instructions run by their function from translated code.
    pub executed: u64,
    /// The same by form (`iced_x86::Code` as a number).
    pub by_code: Vec<u64>,
}

/// Linear address, guest-physical page, mode, groups of memory accesses, code segment.
pub(crate) type Key = (u64, u64, u32, Grouping, CodeSegment);

/// Translates and runs the code of one CPU.
pub struct Translator {
    pub(crate) options: JitOptions,
    pub(crate) arena: Arena,
    /// For the machine itself, and for guests in it: both often run the same kernel, at addresses that share their low bits.
    jumps: [JumpCache; 2],
    returns: ReturnCache,
    pub(crate) stubs: Stubs,
    /// Code before this is kept when everything else is forgotten.
    stubs_end: usize,
    sink: Sink,
    encoder: Encoder,
    info: InstructionInfoFactory,
    memory_accesses: MemoryAccesses,
    /// Room for the instructions of a block.
    trace: Trace,
    pub(crate) blocks: Vec<Block>,
    /// What blocks were made of.
    pub(crate) bytes: Vec<u8>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) by_key: FastMap<Key, u32>,
    pub(crate) by_page: FastMap<usize, Vec<u32>>,
    /// What [`Site`]s are about.
    pub(crate) runs: Vec<Run>,
    pub(crate) links: Vec<Link>,
    /// Where vector state is made live, by host address.
    needs: Vec<Need>,
    /// Room for what a block's sites are about, and for its cold parts.
    drafts: Drafts,
    pub(crate) heat: Box<[Heat]>,
    /// What has been counted since they were halved.
    counted: usize,
    /// Where blocks begin that go on in other pages.
    pub(crate) hot: FastMap<u64, ()>,
    pub(crate) patience: Patience,
    code_epoch: u64,
    /// Where blocks that need vector state begin and have been left to the interpreter as that could not be made live; some of them.
    refused: Box<[u64; REFUSED]>,
    /// What catches the exceptions of translated instructions.
    traps: Traps,
    /// Some guest has unmasked a floating-point exception: vector and x87 instructions have traps, too.
    has_traps: bool,
    /// They shall have.
    wants_traps: bool,
    /// Linear addresses whose instructions stay with the interpreter, sorted.
    breakpoints: Vec<u64>,
    /// Where `perf` learns the names of blocks.
    perf_map: Option<Arc<PerfMap>>,
    /// Statistics.
    pub stats: JitStats,
}

impl Translator {
    /// Makes a translator, if the host can run its code.
    ///
    /// # Errors
    /// The host lacks BMI2, or gives no executable memory.
    pub fn new() -> Result<Self, JitError> {
        Self::with(JitOptions::default())
    }

    /// As [`Self::new`], with other sizes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(options: JitOptions) -> Result<Self, JitError> {
        if !host::is_enough() {
            return Err(JitError::Host);
        }
        let mut arena = Arena::new(options.arena).map_err(JitError::Memory)?;
        let mut sink = Sink::default();
        let jumps =
            [JumpCache::new().map_err(JitError::Memory)?, JumpCache::new().map_err(JitError::Memory)?];
        let bases = [0, 1].map(|n: usize| (jumps[n].base(), jumps[n].far_address()));
        let stubs = stubs::emit(&mut sink, host::vector_bytes(), dispatch as *const () as usize, bases);
        let start = arena.next();
        arena.push(sink.bytes());
        let returns = ReturnCache::new(start + stubs.null).map_err(JitError::Memory)?;
        let traps = Traps::new(start).map_err(JitError::Signal)?;
        Ok(Self {
            options,
            stubs_end: arena.used(),
            arena,
            jumps,
            returns,
            stubs,
            sink,
            encoder: Encoder::new(64),
            info: InstructionInfoFactory::new(),
            memory_accesses: MemoryAccesses::default(),
            trace: Trace::default(),
            blocks: Vec::with_capacity(BLOCKS),
            bytes: Vec::with_capacity(BLOCKS),
            extents: Vec::with_capacity(BLOCKS),
            by_key: FastMap::default(),
            by_page: FastMap::default(),
            // Growing copies.
            runs: Vec::with_capacity(SITES),
            links: Vec::with_capacity(SITES),
            needs: Vec::new(),
            drafts: Drafts::default(),
            heat: vec![Heat::default(); HEAT].into_boxed_slice(),
            counted: 0,
            hot: FastMap::default(),
            patience: Patience::new(options.samples == 0),
            code_epoch: 0,
            refused: Box::new([0; REFUSED]),
            traps,
            has_traps: false,
            wants_traps: false,
            breakpoints: Vec::new(),
            perf_map: None,
            stats: JitStats { by_code: vec![0; Code::values().len()], ..JitStats::default() },
        })
    }

    /// Names all blocks to `perf` from now on.
    pub fn set_perf_map(&mut self, map: Arc<PerfMap>) {
        self.perf_map = Some(map);
    }

    pub(crate) fn arena_start(&self) -> usize {
        self.arena.next() - self.arena.used()
    }

    /// How checks jump in what is translated from now on, see [`JitOptions::short_jumps`].
    pub fn set_short_jumps(&mut self, short: bool) {
        self.options.short_jumps = short;
    }

    /// How much is translated at once as if it took the time, see [`JitOptions::samples`].
    pub fn set_samples(&mut self, samples: u8) {
        self.options.samples = samples;
        self.patience.is_endless = samples == 0;
    }

    /// Whether a block at an address is known to take a good part of the time.
    fn takes_time(&self, rip: u64) -> bool {
        self.options.samples == 0 || self.hot.contains_key(&rip)
    }

    /// Forgets all translated code. None of it may be running.
    pub fn forget(&mut self, cpu: &mut Cpu) {
        self.stats.flushes += 1;
        self.arena.truncate(self.stubs_end);
        self.blocks.clear();
        self.bytes.clear();
        self.extents.clear();
        self.by_key.clear();
        self.by_page.clear();
        self.runs.clear();
        self.links.clear();
        self.needs.clear();
        self.hot.clear();
        self.patience.forget();
        self.refused.fill(0);
        self.traps.clear();
        self.jumps.iter_mut().for_each(JumpCache::clear);
        self.returns.clear();
        if cpu.tlb.tokens() > MAX_TOKENS {
            cpu.tlb.forget_tokens();
        }
    }

    /// From now on, no translated code runs an instruction at one of these linear addresses: who stops there leaves it to the
    /// interpreter. Fewer addresses than before change nothing, as they come and go with each step of a debugger.
    pub fn set_breakpoints(&mut self, cpu: &mut Cpu, addresses: &[u64]) {
        if addresses.iter().all(|address| self.breakpoints.binary_search(address).is_ok()) {
            return;
        }
        self.breakpoints = addresses.into();
        self.breakpoints.sort_unstable();
        self.forget(cpu);
    }

    /// Whether one of the breakpoints is in the code of a block at `rip`.
    fn has_breakpoint(&self, rip: u64, trace: &Trace) -> bool {
        // Without pieces, one instruction reaches into the next page.
        trace.extents.is_empty() && self.breakpoints.binary_search(&rip).is_ok()
            || trace.extents.iter().any(|&(page, at, len)| {
                let start = trace.pages[usize::from(page)].0 | u64::from(at);
                let next = self.breakpoints.partition_point(|address| *address < start);
                self.breakpoints.get(next).is_some_and(|address| address - start < u64::from(len))
            })
    }

    /// The code at the CPU's RIP, translated now if it is hot. Without whole groups of memory accesses it is in place of code
    /// that is hot already.
    fn find(&mut self, cpu: &mut Cpu, grouping: Grouping) -> Option<u32> {
        let segment = CodeSegment::of(cpu);
        let rip = segment.linear(cpu.rip());
        if !cpu.mode.long64() && (rip >= LAST_PAGE_32 || !segment.contains(cpu.rip())) {
            return None;
        }
        if grouping == Grouping::Whole && !self.is_hot(rip) {
            return None;
        }
        let page = cpu.code_page(rip)?;
        let key = (rip, page.physical, cpu.mode.0, grouping, segment);
        let id = match self.by_key.get(&key).copied() {
            Some(id) if self.second_page_holds(cpu, id) => {
                if self.blocks[id as usize].suspended.is_some() && !self.settle(cpu, id) {
                    return None;
                }
                id
            }
            _ => self.translate(cpu, key, &page)?,
        };
        if grouping == Grouping::Whole {
            self.jumps[usize::from(cpu.mode.guest())].insert(rip, self.blocks[id as usize].checked);
        }
        Some(id)
    }

    /// Whether the code at an address has been run often enough; if not, counts.
    fn is_hot(&mut self, rip: u64) -> bool {
        let Heat { hits, kills } = &mut self.heat[heat_slot(rip)];
        if *hits >= self.options.threshold.saturating_mul(1 << *kills) {
            return true;
        }
        *hits += 1;
        self.counted += 1;
        if self.counted == PERIOD {
            self.counted = 0;
            self.heat.iter_mut().for_each(|heat| heat.hits /= 2);
        }
        false
    }

    /// Whether the second page that a block reaches into is still the same.
    fn second_page_holds(&mut self, cpu: &mut Cpu, id: u32) -> bool {
        match self.blocks[id as usize].second {
            None => true,
            Some(physical) => {
                let next = (self.blocks[id as usize].key.0 & !PAGE_MASK).wrapping_add(PAGE_SIZE);
                cpu.code_page(next).is_some_and(|page| page.physical == physical)
            }
        }
    }

    fn translate(&mut self, cpu: &mut Cpu, key: Key, page: &CodePage) -> Option<u32> {
        let begin = std::time::Instant::now();
        if self.runs.len().max(self.links.len()) > site::MOST / 2 || cpu.tlb.tokens() > MAX_TOKENS {
            self.forget(cpu);
        }
        let (rip, segment) = (key.0, key.4);
        let offset = (rip & PAGE_MASK) as usize;
        let in_page = PAGE_SIZE as usize - offset;
        let grouping = key.3;
        let mut trace = core::mem::take(&mut self.trace);
        let longest = self.options.max_block.clamp(1, MAX_BLOCK);
        let follow = match grouping {
            Grouping::None => Follow::Nothing,
            _ if self.takes_time(rip) => Follow::Pages,
            _ => Follow::Page,
        };
        trace.decode(cpu, page, (rip, segment), longest, follow, &mut self.info);
        if !self.breakpoints.is_empty() && self.has_breakpoint(rip, &trace) {
            self.trace = trace;
            return None;
        }
        // What a translation leaves here that comes to nothing belongs to no block.
        let bytes = self.bytes.len();
        for &(page, at, len) in &trace.extents {
            let page = &trace.pages[usize::from(page)].1;
            cpu.mark_code(page, at.into(), len.into());
            // SAFETY: a page of a block's, and nobody writes guest memory here: one host thread runs the CPUs and the devices.
            let code = unsafe { bytes_of(page) };
            self.bytes.extend_from_slice(&code[usize::from(at)..][..usize::from(len)]);
        }
        let mut second = None;
        if trace.insns.is_empty() {
            // The first instruction reaches into the next page.
            let next = (rip & !PAGE_MASK).wrapping_add(PAGE_SIZE);
            if !segment.has_instruction(rip) {
                self.trace = trace;
                return None;
            }
            let following = cpu.code_page(next)?;
            let in_page = in_page.min(15);
            let want = 15 - in_page;
            cpu.mark_code(page, offset as u32, in_page as u32);
            cpu.mark_code(&following, 0, want.max(1) as u32);
            let mut copy = [0; BYTES];
            // SAFETY: as above: `in_page` bytes are left in the first page, and the second page is longer than `want`.
            unsafe {
                core::ptr::copy_nonoverlapping(page.pointer, copy.as_mut_ptr(), in_page);
                core::ptr::copy_nonoverlapping(following.pointer, copy[in_page..].as_mut_ptr(), want);
            }
            trace.decode_one(cpu, &copy[..in_page + want], (rip, segment));
            let len = usize::from(trace.insns.first()?.len);
            self.bytes.extend_from_slice(&copy[..len]);
            trace.extents.push((0, offset as u16, in_page.min(len) as u16));
            trace.extents.push((1, 0, len.saturating_sub(in_page) as u16));
            second = Some((next, following));
        }
        let mut check = |&(linear, page): &(u64, CodePage)| {
            let token = cpu.tlb.fetch_token(linear, page.physical, cpu.mode.0) as i32;
            PageCheck { linear, slot: fetch_slot(linear), token }
        };
        let checks: SmallVec<[PageCheck; 4]> = trace.pages.iter().map(&mut check).collect();
        let second_check = second.as_ref().map(check);
        let id = self.blocks.len() as u32;
        let count = trace.insns.len() as u32;
        let arena_start = self.arena_start();
        let base = self.arena.next();
        let jumps = &self.jumps[usize::from(cpu.mode.guest())];
        let may_show = grouping == Grouping::Whole && cpu.mode.long64() && self.patience.has_windows(rip);
        let takes_time = self.takes_time(rip);
        let window = if may_show && takes_time {
            window::choose(&trace.guests, self.has_traps, &cpu.regs, &mut self.info)
                .filter(|&chunk| cpu.tlb.current().may_open(chunk.into()))
        } else {
            None
        };
        let fdp = !cpu.model.has(Feature::FdpExceptionOnly);
        let mut emit = |short| {
            let mut emitter = Emitter::new(
                &mut self.sink,
                &mut self.drafts,
                &mut self.encoder,
                &mut self.info,
                &mut self.memory_accesses,
                Numbers { run: self.runs.len() as u32, link: self.links.len() as u32, block: id },
                (base, arena_start),
                self.stubs,
                (rip, count, cpu.mode, segment),
                (jumps.base(), (self.returns.linear_base(), self.returns.code_base())),
                (short, fdp, self.has_traps, cpu.model.is_amd()),
            );
            emitter.window = window;
            let entries =
                emitter.block(&trace.guests, &checks, second_check, (grouping, trace.head), &cpu.regs);
            let stale_exits = emitter.stale_exits();
            (!emitter.drafts.islands.lost).then_some((entries, stale_exits))
        };
        let mut short = self.options.short_jumps;
        let ((entry, taken), stale_exits) = match emit(short) {
            Some(offsets) => offsets,
            None => {
                short = false;
                // Near jumps reach everything.
                emit(short)?
            }
        };
        let Some(start) = self.arena.push(self.sink.bytes()) else {
            self.forget(cpu);
            // There is room for any block in an empty arena.
            return self.translate(cpu, key, page);
        };
        if let Some(map) = &self.perf_map {
            map.add(start, self.sink.len(), rip);
        }
        self.keep(id, &trace.insns, ((start - arena_start) as u32, segment), short);
        let pages: SmallVec<[usize; 2]> =
            trace.pages.iter().chain(&second).map(|(_, page)| page.index).collect();
        pages.iter().for_each(|&page| self.by_page.entry(page).or_default().push(id));
        let extents = self.extents.len();
        self.extents.extend_from_slice(&trace.extents);
        self.stats.guest_bytes += (self.bytes.len() - bytes) as u64;
        self.blocks.push(Block {
            key,
            entry: start + entry,
            taken: start + taken,
            checked: start + if short { LEAD } else { 0 },
            start,
            host_len: self.sink.len(),
            count: count as u8,
            vectors: !self.drafts.needs.is_empty(),
            // Kernels live in the upper half, where no windows are.
            asked: trace.more || may_show && rip >> 47 == 0 && !takes_time,
            samples: 0,
            bytes: bytes..self.bytes.len(),
            extents: extents..self.extents.len(),
            pages,
            second: second.map(|(_, following)| following.physical),
            incoming: SmallVec::new(),
            stale: false,
            window,
            faults: 0,
            suspended: None,
            stale_exits: stale_exits.map(|exit| start + exit),
        });
        self.by_key.insert(key, id);
        self.trace = trace;
        self.stats.blocks += 1;
        self.stats.windowed += u64::from(window.is_some());
        self.stats.instructions += u64::from(count);
        self.stats.host_bytes += self.sink.len() as u64;
        self.stats.nanoseconds += begin.elapsed().as_nanos() as u64;
        Some(id)
    }

    /// Keeps what the sites of a block are about, whose host code is at this offset in the arena.
    fn keep(&mut self, block: u32, insns: &[Insn], (at, segment): (u32, CodeSegment), short: bool) {
        self.runs.extend(self.drafts.runs.iter().filter_map(|run| {
            Some(Run { insn: *insns.get(run.n as usize)?, rip: segment.offset(run.rip), refund: run.refund })
        }));
        let needs = self.drafts.needs.iter();
        self.needs.extend(needs.map(|need| Need {
            at: at + need.at,
            rip: segment.offset(need.rip),
            ..*need
        }));
        self.drafts.traps.sort_unstable();
        self.traps.extend(self.drafts.traps.iter().map(|(from, to)| (at + from, at + to)));
        self.links.extend(self.drafts.links.iter().map(|link| {
            let token = if link.token == 0 { 0 } else { at + link.token };
            let LinkDraft { rip, refund, checked, .. } = *link;
            let patch = at + link.patch;
            Link { rip, block, refund, patch, target: u32::MAX, token, unlinked: 0, checked, short }
        }));
    }

    /// The block that a link leads to, if the jump has only to see that its page is still the same one, and it is.
    fn linked(&self, cpu: &mut Cpu, link: Link, grouping: Grouping) -> Option<u32> {
        let block = self.blocks.get(link.target as usize)?;
        let same = block.key == (link.rip, block.key.1, cpu.mode.0, grouping, CodeSegment::of(cpu))
            && !block.stale
            && block.suspended.is_none()
            && block.second.is_none();
        (same && cpu.code_page(link.rip)?.physical == block.key.1).then_some(link.target)
    }

    /// Looks at a site that translated code has left at: the address to go on at, or 0.
    fn at_site(&mut self, frame: &mut Frame, cpu: &mut Cpu, number: u32) -> usize {
        let Site { kind, index } = Site::of(number);
        if core::mem::take(&mut frame.moved) != 0 {
            cpu.arrays_changed();
        }
        cpu.flags.set_status(frame.flags >> 8 & 0xff & !bits::OF | (frame.flags & 1) * bits::OF);
        let reload = core::mem::take(&mut frame.reload);
        let x87 = core::mem::take(&mut frame.x87.reload) != 0;
        if x87 {
            frame.x87.store(cpu);
        }
        match kind {
            Kind::Exec | Kind::ExecLast | Kind::ExecX87 | Kind::ExecWindow => {
                let Run { insn, rip, refund } = &self.runs[index as usize];
                let (rip, refund) = (*rip, i64::from(*refund));
                self.stats.executed += 1;
                if let Some(count) = self.stats.by_code.get_mut(usize::from(insn.code)) {
                    *count += 1;
                }
                cpu.regs[REG_RIP as usize] = rip.wrapping_add(u64::from(insn.len));
                cpu.icount = frame.icount().wrapping_sub(refund as u64);
                cpu.block_end = usize::MAX;
                if let Err(stop) = (insn.exec)(cpu, insn) {
                    if kind == Kind::ExecWindow {
                        self.show_page(frame, cpu, true);
                    }
                    cpu.regs[REG_RIP as usize] = rip;
                    cpu.stopped(stop);
                    cpu.end_shadow();
                    cpu.end_block();
                    frame.taken -= refund;
                    return self.go_on(frame, cpu);
                }
                cpu.end_shadow();
                let goes_on = match kind {
                    Kind::ExecLast => false,
                    Kind::ExecWindow if !self.show_page(frame, cpu, false) => false,
                    _ if cpu.block_end == 0 || !self.stays_live(frame, cpu, reload) => false,
                    Kind::ExecX87 => {
                        self.wants_traps |= !self.has_traps && x87::is_unmasked(cpu);
                        frame.x87.load(cpu, self.has_traps)
                    }
                    Kind::Exec | Kind::ExecWindow if x87 => {
                        // If it cannot be live any more, the block asks again.
                        frame.x87.load(cpu, self.has_traps);
                        true
                    }
                    _ => true,
                };
                if goes_on {
                    frame.reload = reload;
                    refresh(frame, cpu);
                    return frame.resume as usize;
                }
                frame.taken -= refund;
                self.go_on(frame, cpu)
            }
            Kind::Link | Kind::LinkByPage | Kind::LinkByOtherPage | Kind::LinkUngrouped => {
                let link = self.links[index as usize];
                cpu.regs[REG_RIP as usize] = CodeSegment::of(cpu).offset(link.rip);
                cpu.icount = frame.icount();
                if frame.budget() == 0 || cpu.memory.code_epoch() != self.code_epoch {
                    return 0;
                }
                let grouping = match kind {
                    Kind::LinkByPage => Grouping::ByPage,
                    Kind::LinkByOtherPage => Grouping::ByOtherPage,
                    Kind::LinkUngrouped => Grouping::None,
                    _ => Grouping::Whole,
                };
                let id = self.linked(cpu, link, grouping).or_else(|| {
                    let forgotten = self.stats.flushes;
                    let id = self.find(cpu, grouping)?;
                    if self.stats.flushes == forgotten {
                        self.link(cpu, index, id);
                    }
                    Some(id)
                });
                self.enter_block(frame, cpu, id, (reload, x87))
            }
            Kind::Page => {
                let block = self.blocks.get(index as usize);
                let Some(&Block { key: (rip, _, _, grouping, _), .. }) = block else { return 0 };
                cpu.regs[REG_RIP as usize] = CodeSegment::of(cpu).offset(rip);
                cpu.icount = frame.icount();
                if frame.budget() == 0 || cpu.memory.code_epoch() != self.code_epoch {
                    return 0;
                }
                // One without whole groups is there because the other cannot go on.
                let id = self.find(cpu, grouping);
                self.enter_block(frame, cpu, id, (reload, x87))
            }
            Kind::Window => {
                let Some(block) = self.blocks.get(index as usize) else { return 0 };
                let (rip, taken) = (block.key.0, i64::from(block.count));
                cpu.regs[REG_RIP as usize] = CodeSegment::of(cpu).offset(rip);
                frame.taken -= taken;
                cpu.icount = frame.icount();
                // Without one, it is translated again.
                let id = self.has_window(cpu, index).then_some(index);
                self.enter_block(frame, cpu, id, (reload, x87))
            }
            Kind::Unfit => {
                let at = (frame.scratch[0] as usize).wrapping_sub(self.arena_start()) as u32;
                let found = self.needs.binary_search_by_key(&at, |need| need.at);
                let Some(need) = found.ok().and_then(|n| self.needs.get(n)) else {
                    debug_assert!(false, "a stub is called where that was not noted");
                    return 0;
                };
                cpu.regs[REG_RIP as usize] = need.rip;
                frame.taken -= i64::from(need.rest);
                cpu.icount = frame.icount();
                // The interpreter runs it.
                0
            }
            Kind::Null => {
                cpu.regs[REG_RIP as usize] = CodeSegment::of(cpu).offset(0);
                cpu.icount = frame.icount();
                0
            }
            Kind::Stale | Kind::Budget => {
                let Some(block) = self.blocks.get(index as usize) else { return 0 };
                let rip = block.key.0;
                cpu.regs[REG_RIP as usize] = CodeSegment::of(cpu).offset(rip);
                let is_suspended = block.suspended.is_some() && !block.stale;
                if kind == Kind::Budget {
                    frame.taken -= i64::from(block.count);
                }
                if is_suspended {
                    // Links lead here: nobody would look for one without whole groups.
                    self.settle(cpu, index);
                } else if kind == Kind::Budget {
                    self.sample(index);
                } else {
                    // The interpreter takes at least one step: what is found here might leave at once, too.
                    self.jumps[usize::from(cpu.mode.guest())].remove(rip);
                }
                cpu.icount = frame.icount();
                0
            }
        }
    }

    /// Where to go on, in a block that has been found or not.
    fn enter_block(
        &self,
        frame: &mut Frame,
        cpu: &Cpu,
        id: Option<u32>,
        (reload, x87): (u64, bool),
    ) -> usize {
        let Some(id) = id else { return 0 };
        refresh(frame, cpu);
        frame.reload = reload;
        // The image is still that of the CPU.
        frame.x87.reload = x87.into();
        self.blocks[id as usize].entry
    }

    /// After the last instruction of a block has been run by its function: straight on, if nothing is to be looked at.
    fn go_on(&mut self, frame: &mut Frame, cpu: &mut Cpu) -> usize {
        if frame.budget() <= 0
            || !cpu.look_for_interrupts()
            || cpu.memory.code_epoch() != self.code_epoch
            || cpu.watch_is_hit()
        {
            return 0;
        }
        let rip = linear_rip(cpu);
        let code = match self.jumps[usize::from(cpu.mode.guest())].get(rip) {
            Some(code) => code,
            None => match self.find(cpu, Grouping::Whole) {
                Some(id) => self.blocks[id as usize].entry,
                None => return 0,
            },
        };
        refresh_all(frame, cpu);
        frame.unfit = u64::from(!self.vectors_fit(cpu));
        code
    }

    /// Whether the host's vector unit can run as the guest's: all exceptions are masked, or caught, and no register has a part beyond
    /// the host's, which AVX instructions would have to clear.
    fn vectors_fit(&self, cpu: &Cpu) -> bool {
        (self.has_traps || cpu.mxcsr & MASKS == MASKS) && has_hosts_vectors(cpu)
    }

    /// Whether the block that an instruction has been run for by its function finds the vector state as it was: live, if it was to be
    /// loaded again, or not.
    fn stays_live(&self, frame: &mut Frame, cpu: &Cpu, reload: u64) -> bool {
        frame.unfit = u64::from(!self.vectors_fit(cpu));
        frame.unfit == 0 || reload == 0
    }

    /// Translates from now on for guests with unmasked exceptions, too: all vector and x87 instructions know where to go on if
    /// one is raised. None is running.
    fn catch_exceptions(&mut self, cpu: &mut Cpu) {
        (self.has_traps, self.wants_traps) = (true, false);
        self.forget(cpu);
    }
}

impl Native for Translator {
    fn run(&mut self, cpu: &mut Cpu, limit: u64) -> bool {
        if cpu.icount >= limit {
            return false;
        }
        let limit = limit.min(cpu.icount.saturating_add(window::LONGEST));
        if self.wants_traps {
            self.catch_exceptions(cpu);
        }
        let rip = cpu.rip();
        let linear = linear_rip(cpu);
        prefetch(&self.heat[heat_slot(linear)]);
        let fit = self.vectors_fit(cpu);
        let code = match self.jumps[usize::from(cpu.mode.guest())].get(linear) {
            Some(code) if fit => code,
            _ if !fit && self.refused[refusal(linear)] == linear => return false,
            _ => match self.find(cpu, Grouping::Whole) {
                Some(id) if fit || !self.blocks[id as usize].vectors => self.blocks[id as usize].entry,
                Some(_) => {
                    self.refused[refusal(linear)] = linear;
                    self.wants_traps |= !self.has_traps && has_hosts_vectors(cpu);
                    return false;
                }
                None => return false,
            },
        };
        self.stats.entries += 1;
        let before = cpu.icount;
        let mut start = Start { prepare, code, cpu, translator: self, limit, unfit: u64::from(!fit) };
        let enter = self.arena_start() + self.stubs.enter;
        // SAFETY: `enter` is the stub of that signature. Translated code touches the frame, the CPU, and guest memory that
        // the TLB allows; `dispatch` is the only way back into Rust, and uses the pointers in the frame alone.
        let enter: extern "sysv64" fn(*mut Start) = unsafe { core::mem::transmute(enter) };
        let traps = &raw const self.traps;
        // SAFETY: they live as long as `self`, and are changed by `dispatch` alone.
        unsafe { Traps::during(traps, || enter(&mut start)) }
        cpu.icount != before || cpu.boundary != 0 || cpu.rip() != rip
    }

    fn code_changed(&mut self, cpu: &mut Cpu) {
        let last = core::mem::replace(&mut self.code_epoch, cpu.memory.code_epoch());
        let changed: Vec<(usize, u64)> = match cpu.memory.code_changes_since(last) {
            Some(pages) => pages,
            None => self.by_page.keys().map(|&index| (index, u64::MAX)).collect(),
        };
        for (index, changed) in changed {
            let Some(blocks) = self.by_page.remove(&index) else { continue };
            // All marks are gone: code is being generated there, and what is still the same is seen when it runs.
            let given_up = !cpu.memory.is_code(index);
            let mut kept = Vec::with_capacity(blocks.len());
            for id in blocks {
                let block = &self.blocks[id as usize];
                if block.stale {
                    continue;
                }
                if given_up {
                    self.suspend(id);
                }
                let holds = given_up
                    || self.blocks[id as usize].suspended.is_some()
                    || !self.touches(id, index, changed)
                    || self.bytes_hold(cpu, id);
                if holds {
                    kept.push(id);
                } else {
                    cpu.memory.code_replaced(index);
                    self.kill(id);
                }
            }
            if !kept.is_empty() {
                self.by_page.insert(index, kept);
            }
        }
    }
}

/// Whether the host's vector registers hold all of the guest's, and misaligned operands are for both what they are.
fn has_hosts_vectors(cpu: &Cpu) -> bool {
    let beyond = || cpu.zmm[..16].iter().flat_map(|register| &register[4..]).fold(0, |any, quad| any | quad);
    cpu.mxcsr & mxcsr::MM == 0 && (host::has_avx512() || !cpu.model.has(Feature::Avx512f) || beyond() == 0)
}

/// The linear address of the next instruction.
fn linear_rip(cpu: &Cpu) -> u64 {
    CodeSegment::of(cpu).linear(cpu.rip())
}

/// How often code at an address has been run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Heat {
    /// By the interpreter.
    pub(crate) hits: u8,
    /// How often it was overwritten after its translation, which makes translations dearer.
    pub(crate) kills: u8,
}

/// Where an address stands in [`Translator::heat`].
pub(crate) fn heat_slot(rip: u64) -> usize {
    hash_by_page(rip) as usize & (HEAT - 1)
}

/// Where in [`Translator::refused`] an address stands.
fn refusal(rip: u64) -> usize {
    heat_slot(rip) & (REFUSED - 1)
}

/// Brings the frame up to date with what may have changed in the CPU.
fn refresh(frame: &mut Frame, cpu: &Cpu) {
    let status = cpu.flags.status();
    frame.flags = (status & 0xff) << 8 | u64::from(status & bits::OF != 0);
    frame.tlb = cpu.tlb.current_pointer() as u64 + TLB_BIAS as u64;
    for (to, arrays) in frame.arrays.iter_mut().zip(cpu.supervisor_arrays()) {
        *to = if arrays == 0 { 0 } else { arrays + TLB_BIAS as u64 };
    }
    frame.bases = [cpu.address_base(seg::FS), cpu.address_base(seg::GS)];
    if cpu.mode.segmented() {
        frame.code_segment = CodeSegment::of(cpu).0;
        for (n, (base, lacks)) in frame.segments.iter_mut().zip(&mut frame.lacks).enumerate() {
            (*base, *lacks) = (cpu.address_base(n as u8), cpu.lacks(n as u8).map(|lacks| lacks + (1 << 32)));
        }
    }
}

/// The same for what changes at the end of a block only.
fn refresh_all(frame: &mut Frame, cpu: &Cpu) {
    refresh(frame, cpu);
    let distance = cpu.tsc_distance();
    frame.tsc = frame.limit.wrapping_add(distance.unwrap_or(0));
    frame.tsc_known = distance.is_some().into();
    frame.no_pku = u64::from(cpu.cr4 & cr4::PKE == 0) << 32;
}

extern "sysv64" fn prepare(frame: *mut Frame, start: *mut Start) {
    // SAFETY: `run` passes its own `Start`, which outlives the call, and its CPU.
    let (start, cpu) = unsafe { (&*start, &*(*start).cpu) };
    let mut new = Frame {
        cpu: start.cpu,
        taken: !(start.limit.wrapping_sub(cpu.icount) as i64),
        homes: [0; 4],
        index_mask: ((TLB_ENTRIES - 1) as u64) << 12,
        jump_mask: (JUMPS as u64 - 1) << JUMP_SHIFT,
        sse_live: 0,
        full_live: 0,
        bases: [0; 2],
        scratch: [0; 2],
        align_masks: [15, 31, 63].map(|low| !PAGE_MASK | low),
        groups: [0; crate::group::SLOTS],
        split: [0; 3],
        split_rax: [0; 2],
        split_copy: [0; 16],
        lent: [0; crate::frame::LENT],
        rounds: 0,
        but_lowest: !1,
        page_units: core::array::from_fn(|n| !0 >> (64 - (64 >> n))),
        page_masks: core::array::from_fn(|n| PAGE_MASK & !0 << (crate::rounds::FINEST as usize + n)),
        low_masks: [15, 31, 63],
        flags: 0,
        tlb: 0,
        resume: 0,
        reload: 0,
        limit: start.limit,
        translator: start.translator,
        host_mxcsr: MASKS.into(),
        flag_masks: [
            !bits::IF,
            !bits::AC,
            POPF_OTHERS,
            bits::DF,
            bits::IF,
            !bits::DF,
            POPF_OTHERS | bits::IF,
            cr4::FSGSBASE,
        ],
        arrays: [0; 2],
        moved: 0,
        tsc: 0,
        tsc_known: 0,
        no_pku: 0,
        return_bits: RETURN_BITS,
        code_segment: 0,
        segments: [0; 6],
        lacks: [[0; 2]; 6],
        beyond: 3 << 32,
        beyond_word: !0xffff,
        x87: X87Frame::EMPTY,
        unfit: start.unfit,
        far_jump_mask: (FAR_JUMPS as u64 - 1) << JUMP_SHIFT,
        chunk_bits: !0 << CHUNK_SHIFT,
        step_bits: window::STEP_BITS,
        minus_gs: 1,
    };
    refresh_all(&mut new, cpu);
    // SAFETY: `frame` is the space that the entry stub has made on the stack.
    unsafe { frame.write(new) };
}

/// What translated code calls to leave.
extern "sysv64" fn dispatch(frame: *mut Frame, site: u32) -> usize {
    // SAFETY: the frame is the one that `prepare` filled in; `run`, which holds the only references to the CPU and the
    // translator, waits until translated code is left, and lent them through `Start`.
    unsafe {
        let (cpu, translator) = ((*frame).cpu, (*frame).translator);
        (*translator).at_site(&mut *frame, &mut *cpu, site)
    }
}
