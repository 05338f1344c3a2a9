//! What becomes one block: the instructions from an address on, through jumps, calls and returns, and several rounds of a
//! loop that comes back to the start.
//!
//! A block stays in its page, whose fetch token it checks once. Every round of a loop and every inlined call saves the
//! counting, the vector state's check and the TLB checks that the rounds share.

use crate::classify::{Emit, emit_of};
use crate::emit::Guest;
use iced_x86::{Decoder, Instruction, Mnemonic, OpKind, Register};
use ringworld_core::{PAGE_MASK, PAGE_SIZE};
use ringworld_x86::decode::{self, Decoded};
use ringworld_x86::row::row;
use ringworld_x86::{Cpu, Insn};

/// Most rounds of a loop in one block, if they access more than [`ACCESSED`] bytes, and if they do not.
const LEAST_ROUNDS: usize = 2;
const ROUNDS: usize = 8;
/// Bytes that all rounds may access before there are fewer.
const ACCESSED: usize = 400;
/// Most rounds, after the first, of a loop in a block that begins before it, and their instructions.
const MORE_ROUNDS: usize = 3;
const UNROLLED: usize = 32;
/// Calls are followed so deep.
const DEPTH: usize = 4;
/// A block with more instructions follows no further call.
const CALLER: usize = 24;

/// Bytes of code that a block was made of: offset in the page and length.
pub type Extent = (u16, u16);

/// The instructions of a block.
#[derive(Default)]
pub struct Trace {
    /// For the emitter.
    pub guests: Vec<Guest>,
    /// For execution by their functions.
    pub insns: Vec<Insn>,
    /// Where they are.
    pub extents: Vec<Extent>,
}

impl Trace {
    /// Decodes from `rip` on, at most `longest` instructions of the page whose bytes are `page`. Without `follow`, straight on
    /// only.
    pub fn decode(&mut self, cpu: &Cpu, page: &[u8], rip: u64, longest: usize, follow: bool) {
        self.guests.clear();
        self.insns.clear();
        self.extents.clear();
        let mut decoder = Decoder::with_ip(cpu.mode.bitness(), page, rip, cpu.model.decoder_options());
        let mut scratch = Instruction::default();
        let mut begin = (rip & PAGE_MASK) as usize;
        // A page always has a byte at any offset in it.
        if decoder.set_position(begin).is_err() {
            return;
        }
        let mut end = begin;
        // Return addresses, and where the called functions begin in the block.
        let mut returns = [(0, 0); DEPTH];
        let mut depth = 0;
        while self.insns.len() < longest && end < page.len() {
            let Decoded::Instruction(insn, last) =
                decode::decode(&mut decoder, &mut scratch, cpu.mode, &cpu.model)
            else {
                break;
            };
            let barred = last && row(scratch.code()).is_none_or(|row| !row.ends_block);
            self.guests.push(Guest { decoded: scratch, last, barred });
            self.insns.push(insn);
            end = decoder.position();
            if !last {
                continue;
            }
            if barred {
                break;
            }
            let Some(emit) = emit_of(scratch.code()) else { break };
            if emit.goes_on() {
                continue;
            }
            let target = match emit {
                Emit::Branch | Emit::Jump | Emit::Call => scratch.near_branch_target(),
                Emit::Return if depth > 0 && !self.is_redirected(returns[depth - 1].1) => {
                    returns[depth - 1].0
                }
                _ => break,
            };
            // Straight on after branches forward, which are the less taken ones.
            if emit == Emit::Branch && target > scratch.ip() {
                continue;
            }
            if !follow || (target ^ rip) & !PAGE_MASK != 0 {
                break;
            }
            if target == rip && emit != Emit::Call {
                self.repeat(longest);
                break;
            }
            let known = emit != Emit::Return && self.guests.iter().any(|guest| guest.decoded.ip() == target);
            if emit == Emit::Branch {
                self.unroll(target, longest);
                break;
            }
            if known {
                break;
            }
            match emit {
                Emit::Call if depth == DEPTH || self.insns.len() > CALLER => break,
                Emit::Call => {
                    returns[depth] = (scratch.next_ip(), self.insns.len());
                    depth += 1;
                }
                Emit::Return => depth -= 1,
                _ => {}
            }
            self.extent(begin, end);
            begin = (target & PAGE_MASK) as usize;
            end = begin;
            decoder.set_ip(target);
            if decoder.set_position(begin).is_err() {
                break;
            }
        }
        self.extent(begin, end);
    }

    /// Decodes one instruction.
    pub fn decode_one(&mut self, cpu: &Cpu, bytes: &[u8], rip: u64) {
        let mut decoder = Decoder::with_ip(cpu.mode.bitness(), bytes, rip, cpu.model.decoder_options());
        let mut decoded = Instruction::default();
        if let Decoded::Instruction(insn, last) =
            decode::decode(&mut decoder, &mut decoded, cpu.mode, &cpu.model)
        {
            let barred = last && row(decoded.code()).is_none_or(|row| !row.ends_block);
            self.guests.push(Guest { decoded, last, barred });
            self.insns.push(insn);
        }
    }

    /// Adds rounds of a loop that leads back to the start: such a block may be twice as long.
    ///
    /// More rounds spare more of what is done once for all of them. But where one of them reaches into another page, none has
    /// groups of memory accesses, which costs the more the more memory a round accesses.
    fn repeat(&mut self, longest: usize) {
        let len = self.insns.len();
        let accesses = self.guests.iter().map(|guest| &guest.decoded).filter(|i| {
            i.mnemonic() != Mnemonic::Lea && (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
        });
        let bytes: usize = accesses.map(|i| i.memory_size().size()).sum();
        let most = (ACCESSED / bytes.max(1)).clamp(LEAST_ROUNDS, ROUNDS);
        // Arrays often begin at a power of two: then such groups do not reach into other pages.
        let rounds = 1 << (2 * longest / len).clamp(1, most).ilog2();
        for _ in 1..rounds {
            self.guests.extend_from_within(..len);
            self.insns.extend_from_within(..len);
        }
    }

    /// Adds some rounds of a loop that leads back into the block: many loops have few.
    fn unroll(&mut self, target: u64, longest: usize) {
        let len = self.insns.len();
        let Some(begin) = self.guests.iter().position(|guest| guest.decoded.ip() == target) else { return };
        let room = (longest - len).min(UNROLLED);
        for _ in 0..(room / (len - begin)).min(MORE_ROUNDS) {
            self.guests.extend_from_within(begin..len);
            self.insns.extend_from_within(begin..len);
        }
    }

    /// Whether the function that begins at an instruction writes to the top of the stack: a retpoline, which returns
    /// elsewhere.
    fn is_redirected(&self, begin: usize) -> bool {
        self.guests[begin..].iter().any(|guest| {
            let i = &guest.decoded;
            i.op0_kind() == OpKind::Memory
                && i.mnemonic() == Mnemonic::Mov
                && matches!(i.memory_base(), Register::RSP | Register::ESP)
                && i.memory_index() == Register::None
                && i.memory_displacement64() == 0
        })
    }

    fn extent(&mut self, begin: usize, end: usize) {
        if begin < end && end <= PAGE_SIZE as usize {
            self.extents.push((begin as u16, (end - begin) as u16));
        }
    }
}
