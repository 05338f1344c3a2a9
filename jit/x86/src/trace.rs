//! What becomes one block: the instructions from an address on, through jumps, calls and returns, and several rounds of a
//! loop that comes back to the start.
//!
//! A block stays in its page, whose fetch token it checks once. Every round of a loop and every inlined call saves the
//! counting, the vector state's check and the TLB checks that the rounds share.

use crate::classify::{Emit, emit_in};
use crate::emit::Guest;
use crate::segmented::CodeSegment;
use crate::values::Values;
use iced_x86::{Decoder, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};
use ringworld_core::{PAGE_MASK, PAGE_SIZE};
use ringworld_x86::decode::{self, Decoded};
use ringworld_x86::mode::Mode;
use ringworld_x86::row::row;
use ringworld_x86::{Cpu, Insn};

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

/// Bytes of code that a block was made of: offset in the page and length.
pub type Extent = (u16, u16);

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
    /// Where they are.
    pub extents: Vec<Extent>,
    /// The instruction that the last one leads back to, if the block goes on there.
    pub head: Option<usize>,
}

impl Trace {
    /// Decodes from the linear address `rip` on, in this segment, at most `longest` instructions of the page whose
    /// bytes, up to the segment's end, are `page`. Without `follow`, straight on only.
    pub fn decode(
        &mut self,
        cpu: &Cpu,
        page: &[u8],
        (rip, segment): (u64, CodeSegment),
        longest: usize,
        follow: bool,
        factory: &mut InstructionInfoFactory,
    ) {
        self.guests.clear();
        self.insns.clear();
        self.extents.clear();
        self.head = None;
        let mut decoder = decoder(cpu, page, segment.offset(rip));
        let mut scratch = Instruction::default();
        let mut begin = (rip & PAGE_MASK) as usize;
        if decoder.set_position(begin).is_err() {
            return;
        }
        let mut end = begin;
        // Return addresses, and where the called functions begin in the block.
        let mut returns = [(0, 0); DEPTH];
        let mut depth = 0;
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
                Emit::Return if depth > 0 && !self.is_redirected(returns[depth - 1].1) => {
                    returns[depth - 1].0
                }
                _ => break,
            };
            // Straight on after branches forward, which are the less taken ones.
            if emit == Emit::Branch && target > decoded.ip() {
                continue;
            }
            if !follow || (target ^ rip) & !PAGE_MASK != 0 {
                break;
            }
            let known = self.guests.iter().position(|guest| guest.decoded.ip() == target);
            match (emit, known) {
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
                (Emit::Branch, None) | (Emit::Call, Some(_)) => break,
                _ => {}
            }
            match emit {
                Emit::Call if depth == DEPTH || self.insns.len() > CALLER => break,
                Emit::Call => {
                    returns[depth] = (decoded.next_ip(), self.insns.len());
                    depth += 1;
                }
                Emit::Return => depth -= 1,
                _ => {}
            }
            self.extent(begin, end);
            begin = (target & PAGE_MASK) as usize;
            end = begin;
            decoder.set_ip(segment.offset(target));
            if decoder.set_position(begin).is_err() {
                break;
            }
        }
        self.extent(begin, end);
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
        let runs = !last || row(decoded.code()).is_some_and(|row| row.ends_block);
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

    fn extent(&mut self, begin: usize, end: usize) {
        if begin < end && end <= PAGE_SIZE as usize {
            self.extents.push((begin as u16, (end - begin) as u16));
        }
    }
}
