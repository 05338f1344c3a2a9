//! String instructions, in place while they go upwards and stay in one page: they are the host's own on host addresses.

use crate::emit::{Emitter, Unsupported};
use crate::frame::{TLB_BIAS, at};
use crate::islands::CHECK;
use crate::site::Kind;
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, Mnemonic, Register};
use ringworld_mmu::tlb::Translations;
use ringworld_x86::native::offset;

const READ: i32 = offset_of!(Translations, read) as i32 - TLB_BIAS;
const WRITE: i32 = offset_of!(Translations, write) as i32 - TLB_BIAS;
const HOST: i32 = offset_of!(Translations, host) as i32 - TLB_BIAS;

/// Host registers of guest RCX, RSI and RDI.
const RCX: u8 = 10;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// A string instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringOp {
    /// The host's opcode, without the bit for operands of more than a byte.
    opcode: u8,
    /// It reads at RSI.
    source: bool,
    /// It accesses what is at RDI.
    destination: bool,
    /// It writes there.
    write: bool,
    /// Element size as log2.
    size: u8,
}

impl StringOp {
    /// The string instruction of this form, if it moves or compares memory.
    pub fn of(code: iced_x86::Code) -> Option<Self> {
        use Mnemonic::*;
        let (opcode, source, destination, write) = match code.mnemonic() {
            Movsb | Movsw | Movsd | Movsq => (0xa4, true, true, true),
            Cmpsb | Cmpsw | Cmpsd | Cmpsq => (0xa6, true, true, false),
            Stosb | Stosw | Stosd | Stosq => (0xaa, false, true, true),
            Lodsb | Lodsw | Lodsd | Lodsq => (0xac, true, false, false),
            Scasb | Scasw | Scasd | Scasq => (0xae, false, true, false),
            _ => return None,
        };
        let info = code.op_code();
        // MOVSD and CMPSD are names of vector instructions, too.
        (code.is_string_instruction() && info.mode64()).then(|| {
            let size = info.memory_size().size().trailing_zeros() as u8;
            Self { opcode, source, destination, write, size }
        })
    }
}

impl Emitter<'_> {
    pub(crate) fn string(&mut self, i: &Instruction, op: StringOp) -> Result<(), Unsupported> {
        // A prefix for the address size or for a segment with a base.
        let pointer = if op.source { Register::RSI } else { Register::RDI };
        let implied = (0..i.op_count()).any(|n| match i.op_kind(n) {
            iced_x86::OpKind::MemorySegRSI => pointer == Register::RSI,
            iced_x86::OpKind::MemoryESRDI => pointer == Register::RDI,
            _ => false,
        });
        if self.narrow() || !implied || matches!(i.memory_segment(), Register::FS | Register::GS) {
            return Err(Unsupported);
        }
        let repeated = i.has_rep_prefix() || i.has_repne_prefix();
        let mut slow = Vec::with_capacity(4);
        dynasm!(self.s
            ; .arch x64
            ; mov rcx, [rsp + at::CPU]
            ; mov rcx, [rcx + offset::SYSTEM_FLAGS]
            ; pext rcx, rcx, [rsp + at::DF]
        );
        slow.push(self.unless_rcx_zero());
        let mut done = None;
        if repeated {
            // More than one part, or nothing at all.
            dynasm!(self.s ; .arch x64 ; mov ecx, 12 ; shrx rcx, Rq(RCX), rcx);
            slow.push(self.unless_rcx_zero());
            dynasm!(self.s ; .arch x64 ; mov rcx, Rq(RCX));
            done = Some(self.skip_if_rcx_zero());
        }
        if op.destination {
            slow.push(self.element(RDI, op.size, repeated, if op.write { WRITE } else { READ }));
            dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::TARGET as i8)], r14);
        }
        if op.source {
            slow.push(self.element(RSI, op.size, repeated, READ));
            dynasm!(self.s
                ; .arch x64
                ; mov [BYTE rsp + (at::CODE as i8)], r14
                ; lea Rq(RSI), [Rq(RSI) + r14]
            );
        }
        if op.destination {
            dynasm!(self.s
                ; .arch x64
                ; mov r14, [BYTE rsp + (at::TARGET as i8)]
                ; lea Rq(RDI), [Rq(RDI) + r14]
            );
        }
        if repeated {
            dynasm!(self.s ; .arch x64 ; mov rcx, Rq(RCX));
            self.s.extend([if i.has_rep_prefix() { 0xf3 } else { 0xf2 }]);
        }
        match op.size {
            0 => {}
            1 => self.s.extend([0x66]),
            2 => {}
            _ => self.s.extend([0x48]),
        }
        self.s.extend([op.opcode | u8::from(op.size != 0)]);
        if repeated {
            dynasm!(self.s ; .arch x64 ; mov Rq(RCX), rcx);
        }
        if op.destination {
            dynasm!(self.s
                ; .arch x64
                ; mov r14, [BYTE rsp + (at::TARGET as i8)]
                ; not r14
                ; lea Rq(RDI), [Rq(RDI) + r14 + 1]
            );
        }
        if op.source {
            dynasm!(self.s
                ; .arch x64
                ; mov r14, [BYTE rsp + (at::CODE as i8)]
                ; not r14
                ; lea Rq(RSI), [Rq(RSI) + r14 + 1]
            );
        }
        if let Some(done) = done {
            self.s.land(done);
        }
        self.slow(&slow, Kind::Exec);
        Ok(())
    }

    /// Checks that all elements at a host register are in one page that may be accessed, and leaves in R14 what their
    /// addresses lack to the host's. Returns the jump that is taken if not.
    fn element(&mut self, pointer: u8, size: u8, repeated: bool, tags: i32) -> usize {
        self.keep_in_reach(CHECK);
        dynasm!(self.s
            ; .arch x64
            ; pext r14, Rq(pointer), [BYTE rsp + (at::INDEX_MASK as i8)]
            ; mov rcx, [r15 + r14 * 8 + tags]
            ; lea rcx, [rcx + Rq(pointer)]
        );
        if repeated {
            // The last byte: there are at most 4,095 elements, so no other page's tag becomes this one's.
            self.lea(1, true, Some(1), RCX, size, self.tag_to_unit() - 1);
        } else {
            self.lea_base(1, true, 1, self.tag_to_unit() + (1 << size) - 1);
        }
        dynasm!(self.s ; .arch x64 ; shrx rcx, rcx, r15);
        let slow = self.unless_unit();
        dynasm!(self.s ; .arch x64 ; mov r14, [r15 + r14 * 8 + HOST]);
        slow
    }
}
