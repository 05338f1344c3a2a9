//! String instructions, in place while they go upwards and stay in one page: they are the host's own on host addresses.

use crate::emit::{Emitter, Unsupported};
use crate::frame::{TLB_BIAS, at};
use crate::islands::CHECK;
use crate::segmented::{base_of, lacks_of, number};
use crate::site::Kind;
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, Mnemonic, Register};
use ringworld_mmu::tlb::Translations;
use ringworld_x86::insn::seg;
use ringworld_x86::native::offset;
use smallvec::SmallVec;

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

/// Elements of strings.
#[derive(Clone, Copy)]
struct Elements {
    /// Of one, as log2.
    size: u8,
    /// As many as the count says.
    repeated: bool,
    /// The pointers and the count are words.
    small: bool,
}

/// Bytes of the pointers.
fn address_size(i: &Instruction) -> Option<u8> {
    use iced_x86::OpKind::*;
    (0..i.op_count()).find_map(|n| match i.op_kind(n) {
        MemorySegRSI | MemoryESRDI => Some(8),
        MemorySegESI | MemoryESEDI => Some(4),
        MemorySegSI | MemoryESDI => Some(2),
        _ => None,
    })
}

impl Emitter<'_> {
    pub(crate) fn string(&mut self, i: &Instruction, op: StringOp) -> Result<(), Unsupported> {
        let narrow = self.narrow();
        let small = match address_size(i) {
            Some(8) if !narrow => false,
            Some(4) if narrow => false,
            Some(2) if self.segmented() => true,
            // A prefix for the address size.
            _ => return Err(Unsupported),
        };
        let flat = match i.memory_segment() {
            Register::FS | Register::GS => false,
            Register::CS => !narrow,
            _ => true,
        };
        if !(flat || self.segmented()) {
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
            let mut count = RCX;
            if narrow {
                count = 14;
                self.count(count, small);
            }
            dynasm!(self.s ; .arch x64 ; mov ecx, 12 ; shrx rcx, Rq(count), rcx);
            slow.push(self.unless_rcx_zero());
            self.count(1, small);
            if narrow && !small {
                // Some processors truncate the registers all the same.
                slow.push(self.if_rcx_zero());
            } else {
                done = Some(self.skip_if_rcx_zero());
            }
        }
        let elements = Elements { size: op.size, repeated, small };
        if op.destination {
            slow.extend(self.elements(RDI, seg::ES, elements, op.write));
            dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::TARGET as i8)], r14);
        }
        if op.source {
            slow.extend(self.elements(RSI, number(i.memory_segment()), elements, false));
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
            self.count(1, small);
            self.s.extend([if i.has_rep_prefix() { 0xf3 } else { 0xf2 }]);
        }
        match op.size {
            0 => {}
            1 => self.s.extend([0x66]),
            2 => {}
            _ => self.s.extend([0x48]),
        }
        self.s.extend([op.opcode | u8::from(op.size != 0)]);
        match (repeated, small) {
            (true, true) => dynasm!(self.s ; .arch x64 ; mov Rw(RCX), cx),
            (true, false) => dynasm!(self.s ; .arch x64 ; mov Rq(RCX), rcx),
            (false, _) => {}
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
        if narrow && !small {
            for (pointer, used) in [(RSI, op.source), (RDI, op.destination)] {
                if used {
                    dynasm!(self.s ; .arch x64 ; mov Rd(pointer), Rd(pointer));
                }
            }
        }
        if let Some(done) = done {
            self.s.land(done);
        }
        self.slow(&slow, Kind::Exec);
        Ok(())
    }

    /// The count, in a register.
    fn count(&mut self, into: u8, small: bool) {
        if small {
            dynasm!(self.s ; .arch x64 ; movzx Rd(into), Rw(RCX));
        } else if self.narrow() {
            dynasm!(self.s ; .arch x64 ; mov Rd(into), Rd(RCX));
        } else {
            dynasm!(self.s ; .arch x64 ; mov Rq(into), Rq(RCX));
        }
    }

    /// Checks that all elements at a host register, in a segment, are in one page that may be accessed, and leaves in R14 what the
    /// register lacks to their host address. Returns the jumps that are taken if not.
    fn elements(&mut self, pointer: u8, segment: u8, of: Elements, write: bool) -> SmallVec<[usize; 3]> {
        let tags = if write { WRITE } else { READ };
        let mut slow = SmallVec::new();
        if !self.narrow() {
            slow.push(self.element(pointer, of.size, of.repeated, tags));
            return slow;
        }
        if of.small {
            dynasm!(self.s ; .arch x64 ; movzx r14d, Rw(pointer));
            // Whether the pointer wraps.
            self.keep_in_reach(CHECK);
            self.end_of_elements(of, 1);
            dynasm!(self.s ; .arch x64 ; pext rcx, rcx, [rsp + at::BEYOND_WORD]);
            slow.push(self.unless_rcx_zero());
        } else {
            dynasm!(self.s ; .arch x64 ; mov r14d, Rd(pointer));
        }
        if self.segmented() {
            self.keep_in_reach(CHECK);
            dynasm!(self.s ; .arch x64 ; mov [rsp + at::SPLIT_LINEAR], r14);
            self.end_of_elements(of, 0);
            dynasm!(self.s
                ; .arch x64
                ; mov r14, [rsp + lacks_of(segment, write)]
                ; lea rcx, [rcx + r14]
            );
            slow.push(self.unless_within());
            dynasm!(self.s
                ; .arch x64
                ; mov r14, [rsp + at::SPLIT_LINEAR]
                ; mov ecx, [rsp + base_of(segment)]
                ; lea r14d, [r14 + rcx]
            );
        }
        self.keep_in_reach(CHECK);
        dynasm!(self.s ; .arch x64 ; mov [rsp + at::SPLIT_LINEAR], r14);
        self.end_of_elements(of, 0);
        dynasm!(self.s
            ; .arch x64
            ; pext r14, r14, [BYTE rsp + (at::INDEX_MASK as i8)]
            ; mov r14, [r15 + r14 * 8 + tags]
            ; lea rcx, [rcx + r14 + self.tag_to_unit()]
            ; shrx rcx, rcx, r15
        );
        slow.push(self.unless_unit());
        dynasm!(self.s
            ; .arch x64
            ; mov r14, [rsp + at::SPLIT_LINEAR]
            ; pext rcx, r14, [BYTE rsp + (at::INDEX_MASK as i8)]
            ; mov rcx, [r15 + rcx * 8 + HOST]
            ; lea r14, [r14 + rcx + 1]
            ; mov rcx, Rq(pointer)
            ; not rcx
            ; lea r14, [r14 + rcx]
        );
        slow
    }

    /// Puts the address of the elements' last byte, whose first one is at R14, and a distance into RCX.
    fn end_of_elements(&mut self, of: Elements, distance: i32) {
        if of.repeated {
            self.count(1, of.small);
            self.lea(1, true, Some(14), 1, of.size, distance - 1);
        } else {
            self.lea_base(1, true, 14, (1 << of.size) - 1 + distance);
        }
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
