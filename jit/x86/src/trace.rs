//! What becomes one block: the instructions from an address on, through jumps, calls and returns, and several rounds of a
//! loop that comes back to the start.
//!
//! A block checks the fetch token of each page that it comes to once. Every round of a loop and every inlined call saves the
//! counting, the vector state's check and the TLB checks that the rounds share.

use crate::classify::{Emit, emit_in};
use crate::emit::Guest;
use crate::segmented::CodeSegment;
use crate::translator::LAST_PAGE_32;
use crate::values::Values;
use iced_x86::{Code, Decoder, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};
use ringworld_core::{PAGE_MASK, PAGE_SIZE};
use ringworld_x86::decode::{self, Decoded};
use ringworld_x86::mode::Mode;
use ringworld_x86::native::CodePage;
use ringworld_x86::{Cpu, Insn};
use smallvec::SmallVec;

/// Most rounds of a loop in one block, if they access more than [`ACCESSED`] bytes, and if they do not.
const LEAST_ROUNDS: usize = 2;
const ROUNDS: usize = 8;
/// Most rounds, after the first, of a loop that a block does not begin with, and their instructions.
const MORE_ROUNDS: usize = 3;
const UNROLLED: usize = 32;
/// Bytes that all rounds may access before there are fewer.
const ACCESSED: usize = 400;
/// Calls are followed so deep.
const DEPTH: usize = 4;
/// A block with more instructions follows no further call.
const CALLER: usize = 24;

/// Most pages of a block.
const PAGES: usize = 4;

/// Bytes of code that a block was made of: the page, by its number among the block's, the offset in it, and the length.
pub type Extent = (u8, u16, u16);

/// A call that a block goes on with.
struct Followed {
    /// Its return address.
    next: u64,
    /// How many instructions, extents and pages the block had with it.
    until: (usize, usize, usize),
    /// The function is in another page.
    is_far: bool,
}

/// What a block goes on after, beside branches forward.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Rounds of one loop.
    Nothing,
    /// Jumps, calls and returns that stay in its page.
    Page,
    /// The same in other pages.
    Pages,
}

/// The bytes of a page.
///
/// # Safety
/// The pointer is the one that [`Cpu::code_page`] gave for the page's first byte, and nobody writes the page, or unmaps the guest's
/// memory, as long as the slice is used.
pub unsafe fn bytes_of<'a>(page: &CodePage) -> &'a [u8] {
    // SAFETY: the page is mapped, says the caller.
    unsafe { core::slice::from_raw_parts(page.pointer, PAGE_SIZE as usize) }
}

fn decoder<'a>(cpu: &Cpu, bytes: &'a [u8], rip: u64) -> Decoder<'a> {
    Decoder::with_ip(cpu.mode.bitness(), bytes, rip, cpu.model.decoder_options())
}

/// The instructions of a block.
#[derive(Default)]
pub struct Trace {
    /// For the emitter.
    pub guests: Vec<Guest>,
    /// For execution by their functions.
    pub insns: Vec<Insn>,
    /// The pages that they are in, in the order in which they are come to: linear address, and the first byte.
    pub pages: Vec<(u64, CodePage)>,
    /// Where they are.
    pub extents: Vec<Extent>,
    /// The instruction that the last one leads back to, if the block goes on there.
    pub head: Option<usize>,
    /// [`Follow::Pages`] might make more of it.
    pub more: bool,
}

impl Trace {
    /// Decodes from the linear address `rip` on, which is in this page and segment, at most `longest` instructions.
    pub fn decode(
        &mut self,
        cpu: &mut Cpu,
        first: &CodePage,
        (rip, segment): (u64, CodeSegment),
        longest: usize,
        follow: Follow,
        factory: &mut InstructionInfoFactory,
    ) {
        self.guests.clear();
        self.insns.clear();
        self.extents.clear();
        self.pages.clear();
        let start = rip & !PAGE_MASK;
        let pointer = first.pointer.wrapping_sub((rip - start) as usize);
        self.pages.push((start, CodePage { pointer, ..*first }));
        (self.head, self.more) = (None, false);
        // SAFETY: that is such a pointer, and nobody writes guest memory here: one host thread runs the CPUs and the devices.
        let mut page = &unsafe { bytes_of(&self.pages[0].1) }[..segment.end_in_page(rip)];
        let mut decoder = decoder(cpu, page, segment.offset(rip));
        let mut scratch = Instruction::default();
        let (mut here, mut begin) = (0, (rip & PAGE_MASK) as usize);
        if decoder.set_position(begin).is_err() {
            return;
        }
        let mut end = begin;
        let mut calls = SmallVec::<[Followed; DEPTH]>::new();
        let shortest = longest;
        let mut longest = longest;
        while self.insns.len() < longest && end < page.len() {
            let Decoded::Instruction(insn, last) =
                decode::decode(&mut decoder, &mut scratch, cpu.mode, &cpu.model)
            else {
                break;
            };
            self.push(&scratch, insn, last, (cpu.mode, segment));
            end = decoder.position();
            if !last {
                continue;
            }
            let Some(&Guest { decoded, emit: Some(emit), .. }) = self.guests.last() else { break };
            if emit.goes_on() {
                continue;
            }
            let target = match emit {
                Emit::Branch | Emit::Jump | Emit::Call => decoded.near_branch_target(),
                Emit::JumpIndirect | Emit::CallIndirect if follow != Follow::Nothing => {
                    match known_target(cpu, &decoded) {
                        Some(target) => target,
                        None => break,
                    }
                }
                Emit::Return => match calls.last() {
                    Some(call) if !self.is_redirected(call.until.0) => call.next,
                    _ => break,
                },
                _ => break,
            };
            // Straight on after branches forward, which are the less taken ones.
            if emit == Emit::Branch && target > decoded.ip() {
                continue;
            }
            let is_far = (target ^ decoded.ip()) & !PAGE_MASK != 0;
            if is_far && emit == Emit::Branch {
                break;
            }
            let known = self.guests.iter().position(|guest| guest.decoded.ip() == target);
            if follow == Follow::Nothing {
                // As many rounds of a loop as its other translations check at once: each would lead here again before its groups
                // have passed the page's end.
                match (emit, known) {
                    (Emit::Branch, Some(begin)) => {
                        let len = self.insns.len();
                        let room = (2 * longest).saturating_sub(len) / (len - begin);
                        self.add_rounds(begin, room.min(ROUNDS - 1));
                        break;
                    }
                    (Emit::Branch, None) if self.extents.is_empty() => {}
                    _ => break,
                }
            }
            match (emit, known) {
                (Emit::Branch, _) if follow == Follow::Nothing => {}
                (Emit::Branch, Some(begin))
                    if begin != 0
                        && cpu.mode.long64()
                        && self.unroll_all(begin, &cpu.regs, 2 * shortest, factory) =>
                {
                    longest = 2 * shortest;
                    continue;
                }
                (Emit::Branch | Emit::Jump, Some(begin)) => {
                    let round = self.insns.len() - begin;
                    // Short loops that a block does not begin with mostly have few rounds.
                    if begin == 0 || round > UNROLLED {
                        self.repeat(begin, shortest);
                    } else if emit == Emit::Branch {
                        let room = shortest.saturating_sub(begin + round).min(UNROLLED);
                        self.add_rounds(begin, (room / round).min(MORE_ROUNDS));
                    }
                    break;
                }
                (Emit::Branch, None) | (Emit::Call | Emit::JumpIndirect | Emit::CallIndirect, Some(_)) => {
                    break;
                }
                _ => {}
            }
            let is_call = matches!(emit, Emit::Call | Emit::CallIndirect);
            if is_call && (calls.len() == DEPTH || self.insns.len() > CALLER) {
                break;
            }
            if is_far && follow == Follow::Page {
                self.more = true;
                break;
            }
            let pages = self.pages.len();
            let there = if is_far { self.page(cpu, target) } else { Some(here) };
            let Some(there) = there else { break };
            self.extent(here, begin, end);
            begin = (target & PAGE_MASK) as usize;
            end = begin;
            if is_call {
                let until = (self.insns.len(), self.extents.len(), pages);
                calls.push(Followed { next: decoded.next_ip(), until, is_far });
            } else if emit == Emit::Return {
                calls.pop();
            }
            if is_far {
                here = there;
                // SAFETY: as above.
                page = unsafe { bytes_of(&self.pages[here].1) };
                decoder = self::decoder(cpu, page, segment.offset(target));
            }
            decoder.set_ip(segment.offset(target));
            if decoder.set_position(begin).is_err() {
                break;
            }
        }
        self.extent(here, begin, end);
        // Of functions in other pages, only whole ones are worth a copy.
        if let Some(Followed { until: (insns, extents, pages), .. }) = calls.iter().find(|call| call.is_far) {
            self.guests.truncate(*insns);
            self.insns.truncate(*insns);
            self.extents.truncate(*extents);
            self.pages.truncate(*pages);
            self.head = None;
        }
    }

    /// The number of the page of a linear address to go on at, if it is known.
    fn page(&mut self, cpu: &mut Cpu, linear: u64) -> Option<usize> {
        let start = linear & !PAGE_MASK;
        if let Some(n) = self.pages.iter().position(|(page, _)| *page == start) {
            return Some(n);
        }
        let wraps = !cpu.mode.long64() && start >= LAST_PAGE_32;
        if cpu.mode.segmented() || wraps || self.pages.len() == PAGES {
            return None;
        }
        let page = cpu.known_code_page(start)?;
        self.pages.push((start, page));
        Some(self.pages.len() - 1)
    }

    /// Decodes one instruction.
    pub fn decode_one(&mut self, cpu: &Cpu, bytes: &[u8], (rip, segment): (u64, CodeSegment)) {
        let mut decoder = decoder(cpu, bytes, segment.offset(rip));
        let mut decoded = Instruction::default();
        if let Decoded::Instruction(insn, last) =
            decode::decode(&mut decoder, &mut decoded, cpu.mode, &cpu.model)
        {
            self.push(&decoded, insn, last, (cpu.mode, segment));
        }
    }

    /// Adds an instruction of code in a segment. From here on its address and the one that it leads to are linear.
    fn push(&mut self, decoded: &Instruction, insn: Insn, last: bool, (mode, segment): (Mode, CodeSegment)) {
        // What the decoder made of others does not run: it raises an exception.
        let runs = insn.code != Code::INVALID as u16;
        let emit = if runs { emit_in(decoded.code(), mode) } else { None };
        let mut decoded = *decoded;
        if mode.segmented() {
            decoded.set_next_ip(segment.linear(decoded.next_ip()));
            if matches!(decoded.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32) {
                decoded.set_near_branch32(segment.linear(decoded.near_branch_target()) as u32);
                decoded.set_op0_kind(OpKind::NearBranch32);
            }
        }
        self.guests.push(Guest { decoded, last, emit });
        self.insns.push(insn);
    }

    /// Adds rounds of a loop that leads back to instruction `begin`.
    ///
    /// More rounds spare more of what is done once for all of them. But where one of them reaches into another page, none has
    /// groups of memory accesses, which costs the more the more memory a round accesses.
    fn repeat(&mut self, begin: usize, longest: usize) {
        let len = self.insns.len();
        let accesses = self.guests[begin..].iter().map(|guest| &guest.decoded).filter(|i| {
            i.mnemonic() != Mnemonic::Lea && (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
        });
        let bytes: usize = accesses.map(|i| i.memory_size().size()).sum();
        let most = (ACCESSED / bytes.max(1)).clamp(LEAST_ROUNDS, ROUNDS);
        // Arrays often begin at a power of two: then such groups do not reach into other pages.
        let rounds = 1 << ((2 * longest).saturating_sub(begin) / (len - begin)).clamp(1, most).ilog2();
        self.add_rounds(begin, rounds - 1);
        self.head = Some(begin);
    }

    /// Adds so many copies of the instructions from `begin` on.
    fn add_rounds(&mut self, begin: usize, rounds: usize) {
        let len = self.insns.len();
        for _ in 0..rounds {
            self.guests.extend_from_within(begin..len);
            self.insns.extend_from_within(begin..len);
        }
    }

    /// Adds all further rounds of a loop that leads back into the block, if they are few and the registers say how many; says
    /// whether the block is to go on after them.
    fn unroll_all(
        &mut self,
        begin: usize,
        registers: &[u64],
        longest: usize,
        factory: &mut InstructionInfoFactory,
    ) -> bool {
        let len = self.insns.len();
        let registers = core::array::from_fn(|n| registers.get(n).copied());
        let mut values = Values::default();
        let (mut from, round) = (0, len - begin);
        // The first round is there.
        for _ in 0..ROUNDS {
            let [others @ .., compared, branch] = &self.guests[from..] else { break };
            for guest in others {
                let emit = guest.emit;
                values.follow(&guest.decoded, emit, 8, factory);
            }
            let emit = compared.emit;
            match values.predict(&compared.decoded, emit, &branch.decoded, &registers, factory) {
                // One round alone says little: it may be the last one of an outer loop.
                Some(false) if from > 0 => return true,
                Some(true) if self.insns.len() + round < longest => {}
                _ => break,
            }
            from = self.insns.len();
            self.guests.extend_from_within(begin..len);
            self.insns.extend_from_within(begin..len);
        }
        self.guests.truncate(len);
        self.insns.truncate(len);
        false
    }

    /// Whether the function that begins at an instruction returns elsewhere: it writes to the top of the stack, as retpolines
    /// do, or takes another stack (its own it may take back from RBP).
    fn is_redirected(&self, begin: usize) -> bool {
        const STACK: [Register; 3] = [Register::RSP, Register::ESP, Register::SP];
        const FRAME: [Register; 3] = [Register::RBP, Register::EBP, Register::BP];
        self.guests[begin..].iter().any(|guest| {
            let i = &guest.decoded;
            let register = |n: u32, of: [Register; 3]| {
                i.op_kind(n) == OpKind::Register && of.contains(&i.op_register(n))
            };
            match i.mnemonic() {
                Mnemonic::Mov if i.op0_kind() == OpKind::Memory => {
                    STACK.contains(&i.memory_base())
                        && i.memory_index() == Register::None
                        && i.memory_displacement64() == 0
                }
                Mnemonic::Mov => register(0, STACK) && !register(1, FRAME),
                Mnemonic::Xchg => register(0, STACK) || register(1, STACK),
                _ => false,
            }
        })
    }

    fn extent(&mut self, page: usize, begin: usize, end: usize) {
        if begin < end && end <= PAGE_SIZE as usize {
            self.extents.push((page as u8, begin as u16, (end - begin) as u16));
        }
    }
}

/// Where an indirect jump or call leads now, if it reads that from a constant address, as those through tables of other
/// modules' functions do.
fn known_target(cpu: &Cpu, i: &Instruction) -> Option<u64> {
    let is_constant = i.op0_kind() == OpKind::Memory
        && matches!(i.memory_base(), Register::None | Register::RIP)
        && i.memory_index() == Register::None
        && !matches!(i.memory_segment(), Register::FS | Register::GS)
        && i.memory_size().size() == 8;
    is_constant.then(|| cpu.known_quad(i.memory_displacement64()))?
}
