//! What becomes of blocks once they are there: they are linked, sampled, suspended while their bytes are not known to be the same,
//! resumed, and given up.

use crate::site::{self, Link};
use crate::translator::{Heat, Key, MAX_KILLS, Translator, heat_slot};
use core::ops::Range;
use ringworld_core::PAGE_MASK;
use ringworld_jit_rt::Arena;
use ringworld_mmu::sub_blocks;
use ringworld_x86::Cpu;
use ringworld_x86::native::CodePage;
use smallvec::SmallVec;

/// A translation.
pub(crate) struct Block {
    pub(crate) key: Key,
    pub(crate) entry: usize,
    /// Where it is entered by those who have taken its length from the budget, too.
    pub(crate) taken: usize,
    /// Where it is entered by those who do not know whether its page is still the same.
    pub(crate) checked: usize,
    /// Where the host code begins, and its bytes.
    pub(crate) start: usize,
    /// See [`Block::start`].
    pub(crate) host_len: usize,
    /// Instructions.
    pub(crate) count: u8,
    /// It needs vector state.
    pub(crate) vectors: bool,
    /// How often the budget has ended before it, if that is counted.
    pub(crate) samples: u8,
    /// It is: the block would become another one, see [`crate::JitOptions::samples`].
    pub(crate) asked: bool,
    /// The bytes that it was made of, and where in its pages they are: in [`Translator::bytes`] and [`Translator::extents`].
    pub(crate) bytes: Range<usize>,
    pub(crate) extents: Range<usize>,
    /// The tracking indexes of its pages.
    pub(crate) pages: SmallVec<[usize; 2]>,
    /// The guest-physical page that its only instruction reaches into.
    pub(crate) second: Option<u64>,
    /// The [`Link`]s that lead here.
    pub(crate) incoming: SmallVec<[u32; 4]>,
    pub(crate) stale: bool,
    /// The chunk that it has a window of.
    pub(crate) window: Option<u8>,
    /// Accesses that were not to be had there.
    pub(crate) faults: u16,
    /// What is overwritten at its entries while its bytes are not known to be the same: see [`Translator::suspend`].
    pub(crate) suspended: Option<[[u8; 5]; 2]>,
    /// Where the jumps there lead meanwhile.
    pub(crate) stale_exits: [usize; 2],
}

impl Block {
    /// Where code runs from that knows that the page is this one.
    fn entries(&self) -> [usize; 2] {
        [self.entry, self.taken]
    }
}

impl Translator {
    /// Lets whoever comes to a block leave, until it is found and its bytes are seen to be the same.
    pub(crate) fn suspend(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        if block.stale || block.suspended.is_some() {
            return;
        }
        let mut codes = [[0; 5]; 2];
        for ((entry, exit), code) in block.entries().into_iter().zip(block.stale_exits).zip(&mut codes) {
            let mut jump = [0xe9, 0, 0, 0, 0];
            jump[1..].copy_from_slice(&(exit.wrapping_sub(entry + 5) as i32).to_le_bytes());
            self.arena.read(entry, code);
            self.arena.patch(entry, &jump);
        }
        block.suspended = Some(codes);
    }

    /// Undoes [`Self::suspend`].
    pub(crate) fn resume(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        if let Some(codes) = block.suspended.take() {
            for (entry, code) in block.entries().into_iter().zip(codes) {
                self.arena.patch(entry, &code);
            }
        }
    }

    /// Resumes a suspended block whose bytes are the same, or kills it; says if it holds.
    pub(crate) fn settle(&mut self, cpu: &mut Cpu, id: u32) -> bool {
        let holds = self.bytes_hold(cpu, id);
        for &page in &self.blocks[id as usize].pages {
            if holds { cpu.memory.code_held(page) } else { cpu.memory.code_replaced(page) }
        }
        if holds {
            self.resume(id)
        } else {
            self.kill(id)
        }
        holds
    }

    /// Kills a block whose bytes have changed.
    pub(crate) fn kill(&mut self, id: u32) {
        self.stats.invalidated += 1;
        self.discard(id);
        let heat = &mut self.heat[heat_slot(self.blocks[id as usize].key.0)];
        *heat = Heat { hits: 0, kills: (heat.kills + 1).min(MAX_KILLS) };
    }

    /// The budget has ended before a block.
    pub(crate) fn sample(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        if block.asked && !block.stale {
            block.samples += 1;
            if block.samples >= self.options.samples {
                self.hot.insert(block.key.0, ());
                self.discard(id);
            }
        }
    }

    /// Whoever comes by a block leaves from now on.
    pub(crate) fn discard(&mut self, id: u32) {
        self.suspend(id);
        let block = &mut self.blocks[id as usize];
        block.stale = true;
        let key = block.key;
        let incoming = core::mem::take(&mut block.incoming);
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
        let start = self.arena_start();
        for number in incoming {
            let link = &mut self.links[number as usize];
            // It may lead somewhere else by now.
            if link.target == id {
                link.target = u32::MAX;
                let unlinked = start + link.unlinked as usize;
                patch_link(&mut self.arena, link, start, unlinked, 0);
            }
        }
    }

    /// Links a jump to a block.
    pub(crate) fn link(&mut self, cpu: &mut Cpu, number: u32, id: u32) {
        let link = &self.links[number as usize];
        if self.blocks.get(link.block as usize).is_none_or(|from| from.stale) {
            return;
        }
        let start = self.arena_start();
        let target = &mut self.blocks[id as usize];
        let link = &mut self.links[number as usize];
        let patch = start + link.patch as usize;
        if link.unlinked == 0 {
            // Its jump still leads to where it leaves.
            let mut displacement = [0; 4];
            self.arena.read(patch - 4, &mut displacement);
            link.unlinked = link.patch.wrapping_add_signed(i32::from_le_bytes(displacement));
        }
        if link.target == id {
            return;
        }
        target.incoming.push(number);
        link.target = id;
        let (to, taken) = if link.checked {
            (target.checked, 0)
        } else if link.refund != 0 && target.second.is_none() {
            (target.taken, target.count)
        } else {
            (target.entry, 0)
        };
        patch_link(&mut self.arena, link, start, to, taken);
        if link.token != 0 {
            let token = cpu.tlb.fetch_token(target.key.0 & !PAGE_MASK, target.key.1, cpu.mode.0);
            let at = start + link.token as usize - 4;
            let unit = i32::from(link.short);
            self.arena.patch(at, &unit.wrapping_sub(token as i32).to_le_bytes());
        }
    }

    /// Whether a block was made of any of these parts of a page.
    pub(crate) fn touches(&self, id: u32, index: usize, parts: u64) -> bool {
        let block = &self.blocks[id as usize];
        let extents = &self.extents[block.extents.clone()];
        let mut here = extents.iter().filter(|(page, ..)| block.pages[usize::from(*page)] == index);
        here.any(|&(_, offset, len)| sub_blocks(offset.into(), len.into()) & parts != 0)
    }

    /// Whether a block's bytes are in memory as they were; marks them again.
    pub(crate) fn bytes_hold(&mut self, cpu: &mut Cpu, id: u32) -> bool {
        let block = &self.blocks[id as usize];
        let mut rest = &self.bytes[block.bytes.clone()];
        for &(page, offset, len) in &self.extents[block.extents.clone()] {
            let (bytes, after) = rest.split_at(usize::from(len).min(rest.len()));
            rest = after;
            let (index, offset) = (block.pages[usize::from(page)], u32::from(offset));
            let Some(address) = cpu.memory.address_of(index) else { return false };
            let Some(page) = cpu.memory.page(address) else { return false };
            let page = CodePage { physical: address.0, index, pointer: page.ptr };
            cpu.mark_code(&page, offset, bytes.len() as u32);
            // SAFETY: the page is mapped and the block's bytes lie in it; nobody writes guest memory meanwhile (one host
            // thread runs CPUs and devices).
            let now = unsafe { core::slice::from_raw_parts(page.pointer.add(offset as usize), bytes.len()) };
            if now != bytes {
                return false;
            }
        }
        true
    }
}

/// Makes a link, whose offsets are from the arena's start, lead to `to`, where so much has been taken from the budget.
fn patch_link(arena: &mut Arena, link: &Link, start: usize, to: usize, taken: u8) {
    let patch = start + link.patch as usize;
    arena.patch_jump(patch, to);
    if link.refund != 0 {
        let taken = i32::from(taken) - i32::from(link.refund);
        arena.patch(patch - site::REFUND - 4, &taken.to_le_bytes());
    }
}
