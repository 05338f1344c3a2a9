//! The interpreter: a cache of decoded blocks, and the loop that runs them.
//!
//! Blocks are keyed by guest-physical address and [`Mode`](crate::mode::Mode). They are never changed while they run: a
//! write to decoded code only bumps the page's generation in [`GuestMemory`](ringworld_mmu::GuestMemory), and the next
//! look-up sees that the block is stale.

use crate::decode::{self, Decoded};
use crate::insn::{Insn, REG_RIP};
use crate::mem::{Kind, Privilege};
use crate::native::{Native, NoNative};
use crate::paging::{CodeStamp, Target};
use crate::state::{Activity, boundary};
use crate::{Cpu, Stop};
use core::ops::Range;
use iced_x86::{Decoder, Instruction};
use ringworld_core::{FastMap, GuestPhys, PAGE_MASK, PAGE_SIZE, hash_by_page, prefetch};

/// Longest block, in instructions.
const MAX_BLOCK: usize = 64;
/// Most bytes of code looked at for one block.
const MAX_BYTES: usize = 512;
/// Entries of the look-up by linear address; a power of two.
const LOOKUP: usize = 1 << 13;
/// Entries of the look-up by guest-physical address; a power of two.
const PHYSICAL: usize = 1 << 16;
/// Decoded instructions kept before everything is forgotten (32 bytes each).
const MAX_INSNS: usize = 4 << 20;
/// Their bytes, those of blocks that have been replaced included.
const MAX_CODE: usize = 4 * MAX_INSNS;
/// Instructions that there is room for from the start.
const INSNS: usize = MAX_INSNS / 16;

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunEnd {
    /// The instruction count reached the limit.
    Limit,
    /// Somebody asked for the machine's loop (platform attention, a changed timer).
    Attention,
    /// The CPU is not active: halted, waiting or shut down.
    Inactive,
    /// [`Observer::breaks`].
    Break,
}

struct Block {
    /// First instruction.
    start: u32,
    len: u16,
    /// Instructions for which there is room.
    room: u16,
    /// Bytes of code, in [`Interpreter::bytes`]; compared when the page's generation has changed.
    bytes: Range<usize>,
    page_index: usize,
    generation: u32,
    /// The guest-physical second page of an instruction that crosses pages (such a block has one instruction).
    second: Option<(GuestPhys, usize, u32)>,
}

impl Block {
    fn byte_len(&self) -> u32 {
        self.bytes.len() as u32
    }
}

/// A block by its linear address and [`CodeStamp`], in half a line of the host's cache.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Lookup {
    linear: u64,
    context: u64,
    generation: u64,
    mode: u32,
    block: u32,
}

impl Lookup {
    fn new(linear: u64, CodeStamp { mode, context, generation }: CodeStamp, block: u32) -> Self {
        Self { linear, context, generation, mode, block }
    }

    #[inline(always)]
    fn is_of(&self, linear: u64, stamp: CodeStamp) -> bool {
        self.linear == linear
            && (self.mode, self.context, self.generation) == (stamp.mode, stamp.context, stamp.generation)
    }
}

/// A block by its guest-physical address and mode, before [`Interpreter::by_address`] is asked.
#[derive(Clone, Copy)]
struct Physical {
    address: u64,
    mode: u32,
    block: u32,
}

impl Physical {
    const NONE: Self = Self { address: u64::MAX, mode: 0, block: 0 };

    fn slot(address: u64) -> usize {
        hash_by_page(address) as usize & (PHYSICAL - 1)
    }
}

/// Per-instruction and per-event observers; compiled out where they say so.
pub trait Observer {
    /// Whether [`Self::instruction`] is called.
    const INSTRUCTIONS: bool;
    /// Before an instruction runs; RIP still points at it.
    fn instruction(&mut self, cpu: &Cpu, insn: &Insn);
    /// Whether [`Self::breaks`] is asked.
    const BREAKS: bool = false;
    /// Whether to stop before the instruction at RIP. May be asked more than once.
    fn breaks(&mut self, _: &Cpu) -> bool {
        false
    }
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    const INSTRUCTIONS: bool = false;
    fn instruction(&mut self, _: &Cpu, _: &Insn) {}
}

/// The decoded code of one CPU.
pub struct Interpreter {
    insns: Vec<Insn>,
    blocks: Vec<Block>,
    bytes: Vec<u8>,
    by_address: FastMap<(u64, u32), u32>,
    by_physical: Box<[Physical]>,
    lookup: Box<[Lookup]>,
    scratch: Instruction,
    code_epoch: u64,
    code_page_epoch: u64,
}

impl Default for Interpreter {
    fn default() -> Self {
        Self {
            // Growing copies; what is not touched costs nothing.
            insns: Vec::with_capacity(INSNS),
            blocks: Vec::with_capacity(INSNS / 4),
            bytes: Vec::with_capacity(INSNS),
            by_address: FastMap::default(),
            by_physical: vec![Physical::NONE; PHYSICAL].into_boxed_slice(),
            lookup: vec![Lookup::default(); LOOKUP].into_boxed_slice(),
            scratch: Instruction::default(),
            code_epoch: 0,
            code_page_epoch: 0,
        }
    }
}

impl Interpreter {
    /// Runs `cpu` until its instruction count reaches `limit`, it goes inactive, or attention is asked for.
    pub fn run<O: Observer>(&mut self, cpu: &mut Cpu, limit: u64, observer: &mut O) -> RunEnd {
        self.run_with(cpu, limit, &mut NoNative, observer)
    }

    /// As [`Self::run`]; code that `native` has is run by it.
    pub fn run_with<N: Native, O: Observer>(
        &mut self,
        cpu: &mut Cpu,
        limit: u64,
        native: &mut N,
        observer: &mut O,
    ) -> RunEnd {
        cpu.boundary |= boundary::INTERRUPT;
        loop {
            // First of all: a boundary is looked at once, or the shadow of STI and MOV SS would end here. An inactive
            // processor is in no shadow; whether something wakes it is looked at even so.
            if cpu.icount >= limit && cpu.activity == Activity::Active {
                return RunEnd::Limit;
            }
            if O::BREAKS && cpu.watch_is_hit() {
                return RunEnd::Attention;
            }
            let looked = cpu.boundary != 0;
            if looked && let Some(end) = cpu.at_boundary() {
                return end;
            }
            if cpu.icount >= limit {
                return RunEnd::Limit;
            }
            if O::BREAKS && observer.breaks(cpu) {
                if looked {
                    cpu.look_again();
                }
                return RunEnd::Break;
            }
            if self.sync_code(cpu) {
                native.code_changed(cpu);
            }
            // What is cold is looked up here next, and mostly not in the host's caches.
            prefetch(&self.lookup[cpu.code_linear() as usize & (LOOKUP - 1)]);
            if cpu.boundary == 0 && native.run(cpu, limit) {
                continue;
            }
            let block = match self.find(cpu) {
                Ok(block) => block,
                Err(stop) => {
                    cpu.icount += 1;
                    cpu.stopped(stop);
                    continue;
                }
            };
            let (start, len) = block;
            // While something must be looked at after each instruction, blocks are of one instruction.
            let single = cpu.boundary != 0;
            let longest = if single { 1 } else { limit - cpu.icount };
            let stepping = single && cpu.before_single_step();
            cpu.block_end = (len as u64).min(longest) as usize;
            let insns = &self.insns[start..start + len];
            let first = cpu.rip();
            let mut n = 0;
            while n < cpu.block_end {
                let Some(insn) = insns.get(n) else { break };
                if O::BREAKS && n > 0 && observer.breaks(cpu) {
                    break;
                }
                if O::INSTRUCTIONS {
                    observer.instruction(cpu, insn);
                }
                let rip = cpu.regs[REG_RIP as usize];
                cpu.regs[REG_RIP as usize] = rip.wrapping_add(u64::from(insn.len));
                cpu.icount += 1;
                if let Err(stop) = (insn.exec)(cpu, insn) {
                    cpu.regs[REG_RIP as usize] = rip;
                    cpu.stopped(stop);
                    break;
                }
                n += 1;
            }
            if stepping
                && n == 1
                && let Some(insn) = insns.first()
            {
                cpu.after_single_step(first, insn);
            }
        }
    }

    /// Sees what happened to code since the last block: other CPUs and devices write it too. Says whether code changed.
    #[inline(always)]
    fn sync_code(&mut self, cpu: &mut Cpu) -> bool {
        (self.code_epoch != cpu.memory.code_epoch() || self.code_page_epoch != pages_of_others(cpu))
            && self.code_changed(cpu)
    }

    #[cold]
    fn code_changed(&mut self, cpu: &mut Cpu) -> bool {
        let epoch = cpu.memory.code_epoch();
        let changed = self.code_epoch != epoch;
        if changed {
            self.code_epoch = epoch;
            cpu.counters.blocks_invalidated += 1;
            cpu.drop_code_lookups();
        }
        let pages = pages_of_others(cpu);
        if self.code_page_epoch != pages {
            // Somebody else decoded code on a page that this CPU may be writing without looking.
            self.code_page_epoch = pages;
            cpu.tlb.drop_all_writes();
        }
        changed
    }

    /// The block at the CPU's RIP: first instruction and length.
    #[inline(always)]
    fn find(&mut self, cpu: &mut Cpu) -> Result<(usize, usize), Stop> {
        let linear = cpu.code_linear();
        let stamp = cpu.code_stamp();
        let entry = &self.lookup[linear as usize & (LOOKUP - 1)];
        if entry.is_of(linear, stamp) {
            let block = &self.blocks[entry.block as usize];
            // A segment that ends earlier may have the same base.
            if !cpu.mode.segmented() || u64::from(block.byte_len()) <= cpu.code_bytes_left() {
                return Ok((block.start as usize, usize::from(block.len)));
            }
        }
        self.find_slow(cpu, linear)
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, cpu: &mut Cpu, linear: u64) -> Result<(usize, usize), Stop> {
        if self.insns.len() > MAX_INSNS || self.bytes.len() > MAX_CODE {
            self.forget(cpu);
        }
        if self.insns.is_empty() {
            // The place of instructions that are not kept.
            self.insns.push(decode::invalid());
        }
        let room = cpu.code_room()?;
        let target = cpu.translate(linear, Kind::Fetch, Privilege::Current)?;
        let (Target::Host { pointer, index, .. }, 15..) = (target, room) else {
            return self.decode_once(cpu, linear, room);
        };
        let physical = cpu.tlb.fetched_page(linear) | linear & PAGE_MASK;
        let key = (physical, cpu.mode.0);
        let slot = Physical::slot(physical);
        let known = self.by_physical[slot];
        let old = if (known.address, known.mode) == key {
            Some(known.block)
        } else {
            self.by_address.get(&key).copied()
        };
        if let Some(id) = old
            && u64::from(self.blocks[id as usize].byte_len()) <= room
            && self.revalidate(cpu, id, linear, pointer)?
        {
            self.by_physical[slot] = Physical { address: physical, mode: cpu.mode.0, block: id };
            return Ok(self.remember(cpu, linear, id));
        }
        // If the page's generation has changed, no look-up leads to the old one any more.
        let generation = cpu.memory.code_generation(index);
        let old = old.filter(|&id| {
            let block = &self.blocks[id as usize];
            block.second.is_none() && block.generation != generation
        });
        let Some(mut block) = self.build(cpu, linear, room, pointer, index, old)? else {
            return self.decode_once(cpu, linear, room);
        };
        let id = match old {
            Some(id) => {
                let old = &mut self.blocks[id as usize];
                if block.len <= old.room {
                    let new = block.start as usize..block.start as usize + usize::from(block.len);
                    self.insns.copy_within(new, old.start as usize);
                    self.insns.truncate(block.start as usize);
                    (block.start, block.room) = (old.start, old.room);
                }
                *old = block;
                id
            }
            None => {
                self.blocks.push(block);
                self.blocks.len() as u32 - 1
            }
        };
        self.by_address.insert(key, id);
        self.by_physical[slot] = Physical { address: physical, mode: cpu.mode.0, block: id };
        Ok(self.remember(cpu, linear, id))
    }

    /// Notes a block in the look-up by linear address.
    fn remember(&mut self, cpu: &mut Cpu, linear: u64, id: u32) -> (usize, usize) {
        self.lookup[linear as usize & (LOOKUP - 1)] = Lookup::new(linear, cpu.code_stamp(), id);
        let block = &self.blocks[id as usize];
        (block.start as usize, usize::from(block.len))
    }

    /// Whether a block found by its physical address still stands for the bytes there.
    fn revalidate(&mut self, cpu: &mut Cpu, id: u32, linear: u64, pointer: *const u8) -> Result<bool, Stop> {
        let block = &self.blocks[id as usize];
        let before = &self.bytes[block.bytes.clone()];
        let offset = (linear & PAGE_MASK) as usize;
        let (first, rest) = before.split_at(before.len().min(PAGE_SIZE as usize - offset));
        let holds = |cpu: &mut Cpu, page: usize, offset: usize, pointer: *const u8, before: &[u8]| {
            let mut now = [0; MAX_BYTES];
            let now = &mut now[..before.len()];
            mark(cpu, page, offset as u32, before.len() as u32);
            copy(pointer, now);
            now == before
        };
        let generation = cpu.memory.code_generation(block.page_index);
        // If this is other code, it may not reach into the second page, which need not be there.
        if generation != block.generation && !holds(cpu, block.page_index, offset, pointer, first) {
            cpu.memory.code_replaced(block.page_index);
            return Ok(false);
        }
        let mut second_now = None;
        if let Some((page, index, old)) = block.second {
            let Some((page_now, index_now, pointer)) = second_page(cpu, linear)? else { return Ok(false) };
            if (page_now, index_now) != (page, index) {
                return Ok(false);
            }
            let generation = cpu.memory.code_generation(index);
            if generation != old && !holds(cpu, index, 0, pointer, rest) {
                cpu.memory.code_replaced(block.page_index);
                return Ok(false);
            }
            second_now = Some((page, index, generation));
        }
        let block = &mut self.blocks[id as usize];
        block.generation = generation;
        block.second = second_now;
        Ok(true)
    }

    /// Decodes the block at `linear`, whose first page is at `pointer`; `None` if its first instruction reaches into a device.
    /// Instructions whose bytes are as they were in the `old` block there are taken from it.
    fn build(
        &mut self,
        cpu: &mut Cpu,
        linear: u64,
        room: u64,
        pointer: *const u8,
        page_index: usize,
        old: Option<u32>,
    ) -> Result<Option<Block>, Stop> {
        let offset = (linear & PAGE_MASK) as usize;
        let in_page = (PAGE_SIZE as usize - offset).min(MAX_BYTES - 16).min(room as usize);
        let generation = cpu.memory.code_generation(page_index);
        mark(cpu, page_index, offset as u32, in_page as u32);
        let mut bytes = [0; MAX_BYTES];
        copy(pointer, &mut bytes[..in_page]);
        let start = self.insns.len();
        let options = cpu.model.decoder_options();
        let mut decoder =
            Decoder::with_ip(cpu.mode.bitness(), &bytes[..in_page], cpu.regs[REG_RIP as usize], options);
        let mut end = 0;
        let (mut known, last) = match old.map(|id| &self.blocks[id as usize]) {
            Some(old) if old.len > 0 => (old.start as usize, old.start as usize + usize::from(old.len) - 1),
            _ => (0, 0),
        };
        let mut known_at = 0;
        while self.insns.len() - start < MAX_BLOCK && end < in_page {
            // The last one ended the block for a reason that its bytes do not tell.
            while known < last && known_at < end {
                known_at += usize::from(self.insns[known].len);
                known += 1;
            }
            if known < last
                && known_at == end
                && let Some(old) = old
            {
                let after = end + usize::from(self.insns[known].len);
                let same = bytes[..in_page].get(end..after);
                if same.is_some()
                    && same == self.bytes[self.blocks[old as usize].bytes.clone()].get(end..after)
                {
                    self.insns.push(self.insns[known]);
                    end = after;
                    continue;
                }
            }
            if decoder.position() != end {
                decoder.set_ip(cpu.regs[REG_RIP as usize].wrapping_add(end as u64));
                // It is within the bytes, as was just asked.
                if decoder.set_position(end).is_err() {
                    break;
                }
            }
            match decode::decode(&mut decoder, &mut self.scratch, cpu.mode, &cpu.model) {
                Decoded::Instruction(insn, last) => {
                    self.insns.push(insn);
                    end = decoder.position();
                    if last {
                        break;
                    }
                }
                Decoded::NeedMore => break,
            }
        }
        cpu.counters.blocks_decoded += 1;
        if self.insns.len() > start {
            return Ok(Some(Block {
                start: start as u32,
                len: (self.insns.len() - start) as u16,
                room: (self.insns.len() - start) as u16,
                bytes: self.keep(old, &bytes[..end]),
                page_index,
                generation,
                second: None,
            }));
        }
        // The first instruction crosses into the next page.
        let Some((page, second_index, second_pointer)) = second_page(cpu, linear)? else { return Ok(None) };
        let second_generation = cpu.memory.code_generation(second_index);
        let want = 15.min(room as usize);
        mark(cpu, second_index, 0, (want - in_page) as u32);
        copy(second_pointer, &mut bytes[in_page..want]);
        let mut decoder =
            Decoder::with_ip(cpu.mode.bitness(), &bytes[..want], cpu.regs[REG_RIP as usize], options);
        match decode::decode(&mut decoder, &mut self.scratch, cpu.mode, &cpu.model) {
            Decoded::Instruction(insn, _) => self.insns.push(insn),
            // `want` is 15: the decoder never asks for more than that.
            Decoded::NeedMore => return Err(cpu.gp0()),
        }
        Ok(Some(Block {
            start: start as u32,
            len: 1,
            room: 1,
            bytes: self.keep(None, &bytes[..decoder.position().max(in_page + 1)]),
            page_index,
            generation,
            second: Some((page, second_index, second_generation)),
        }))
    }

    /// Keeps the bytes of a block, where those of the `old` one are if they fit there.
    fn keep(&mut self, old: Option<u32>, bytes: &[u8]) -> Range<usize> {
        let place = old.map_or(0..0, |id| self.blocks[id as usize].bytes.clone());
        if bytes.len() <= place.len() {
            let place = place.start..place.start + bytes.len();
            self.bytes[place.clone()].copy_from_slice(bytes);
            return place;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Decodes one instruction and does not keep it: code in device memory, or near the code segment's limit.
    fn decode_once(&mut self, cpu: &mut Cpu, linear: u64, room: u64) -> Result<(usize, usize), Stop> {
        let mut bytes = [0; 15];
        let room = room.min(15) as usize;
        let mut have = 0;
        loop {
            let in_page = (PAGE_SIZE - (linear.wrapping_add(have as u64) & PAGE_MASK)) as usize;
            let end = (have + in_page).min(room);
            cpu.fetch_bytes(linear.wrapping_add(have as u64), &mut bytes[have..end])?;
            have = end;
            let mut decoder = Decoder::with_ip(
                cpu.mode.bitness(),
                &bytes[..have],
                cpu.regs[REG_RIP as usize],
                cpu.model.decoder_options(),
            );
            match decode::decode(&mut decoder, &mut self.scratch, cpu.mode, &cpu.model) {
                Decoded::Instruction(insn, _) => {
                    self.insns[0] = insn;
                    return Ok((0, 1));
                }
                // Past the limit of the code segment.
                Decoded::NeedMore if have == room => return Err(cpu.gp0()),
                Decoded::NeedMore => {}
            }
        }
    }

    /// Forgets all decoded code.
    pub fn forget(&mut self, cpu: &mut Cpu) {
        self.insns.clear();
        self.blocks.clear();
        self.bytes.clear();
        self.by_address.clear();
        self.by_physical.fill(Physical::NONE);
        cpu.drop_code_lookups();
    }
}

/// Marks bytes as code before they are read; the page's writes then take the slow path.
pub(crate) fn mark(cpu: &mut Cpu, index: usize, offset: u32, len: u32) {
    if cpu.memory.mark_code(index, offset, len) {
        cpu.code_pages_marked += 1;
        if let Some(page) = cpu.memory.address_of(index) {
            cpu.tlb.drop_writes(page.0);
        }
    }
}

/// Changes whenever another CPU marks code on a page that held none; this one has dropped its own writes then.
#[inline(always)]
fn pages_of_others(cpu: &Cpu) -> u64 {
    cpu.memory.code_page_epoch().wrapping_sub(cpu.code_pages_marked)
}

/// The page after that of `linear`: guest-physical address, tracking index, host address.
/// `None` if a device is there: an instruction that runs from memory into a device is not kept.
fn second_page(cpu: &mut Cpu, linear: u64) -> Result<Option<(GuestPhys, usize, *const u8)>, Stop> {
    let mask = cpu.fast[usize::from(crate::insn::seg::CS)].mask;
    let next = (linear & !PAGE_MASK).wrapping_add(PAGE_SIZE) & mask;
    Ok(match cpu.translate(next, Kind::Fetch, Privilege::Current)? {
        Target::Host { pointer, index, .. } => {
            Some((GuestPhys(cpu.tlb.fetched_page(next)), index, pointer.cast_const()))
        }
        Target::Device(_) => None,
    })
}

fn copy(from: *const u8, to: &mut [u8]) {
    // SAFETY: callers pass a pointer into a mapped guest page that has at least `to.len()` bytes left.
    unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
}
