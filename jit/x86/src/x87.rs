//! x87 and MMX instructions, as the same instructions on the host's x87 unit.
//!
//! While translated code uses it, the host's unit holds the guest's state: an instruction then leaves there what it would leave
//! on the guest's processor, but for the pointers to itself and its operand, which are the host's and never shown. The frame
//! keeps the guest's. An unmasked exception is reported by the next instruction that waits, on both; that has a trap once a guest
//! has been seen to unmask any, and until then such a state stays with the functions.

use crate::classify::{Live, X87 as What};
use crate::emit::{Emitter, Unsupported, access_of};
use crate::frame::at;
use crate::site::Kind;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};
use ringworld_x86::Cpu;
use ringworld_x86::insn::seg;
use ringworld_x86::model::Feature;
use ringworld_x86::x87::fsw;

/// The control word's exception masks.
pub const MASKS: u16 = fsw::EXCEPTIONS;
/// Bytes of FNSAVE's image: the environment, and eight registers of ten bytes.
const IMAGE: usize = REGISTERS + 80;
const REGISTERS: usize = 28;
/// No instruction has had an operand in memory.
const NO_SEGMENT: u64 = u64::MAX;

/// What the frame keeps of the x87 unit.
#[repr(C)]
pub struct X87Frame {
    /// Not zero while the host's unit holds the guest's state.
    pub live: u64,
    /// Not zero if it did when translated code was left, or shall when that goes on.
    pub reload: u64,
    /// The state as FNSAVE writes it.
    pub image: [u8; IMAGE],
    /// Address of the last instruction that is not a control instruction.
    pub fip: u64,
    /// Not zero if one has run since the state was loaded.
    pub ran: u64,
    /// Address of the last operand in memory, and its segment's number.
    pub fdp: u64,
    /// See [`X87Frame::fdp`].
    pub fds: u64,
    /// [`MASKS`].
    pub masks: u64,
    /// An unmasked exception was pending when the state was loaded.
    pub pending: bool,
}

impl X87Frame {
    /// Nothing is live.
    pub const EMPTY: Self = Self {
        live: 0,
        reload: 0,
        image: [0; IMAGE],
        fip: 0,
        ran: 0,
        fdp: 0,
        fds: 0,
        masks: MASKS as u64,
        pending: false,
    };

    /// Writes the state that was live to the CPU.
    pub fn store(&mut self, cpu: &mut Cpu) {
        // The environment's words are the lower halves of doublewords.
        let word = |n: usize| u16::from_le_bytes([self.image[4 * n], self.image[4 * n + 1]]);
        let x87 = &mut cpu.x87;
        x87.set_control(word(0));
        x87.status = word(1);
        let tags = word(2);
        x87.valid = (0..8).filter(|r| tags >> (2 * r) & 3 != 3).fold(0, |valid, r| valid | 1 << r);
        let top = usize::from(x87.top());
        for (n, register) in self.image[REGISTERS..].chunks_exact(10).enumerate() {
            let (Some(low), Some(high)) = (register.first_chunk(), register.last_chunk()) else { continue };
            let r = (top + n) & 7;
            x87.significand[r] = u64::from_le_bytes(*low);
            x87.exponent[r] = u16::from_le_bytes(*high);
        }
        let selectors = !cpu.model.has(Feature::ZeroFcsFds);
        cpu.x87.fip = self.fip;
        // After an instruction that a function has run, the selector is there already.
        if self.ran != 0 && selectors {
            cpu.x87.fcs = cpu.seg[usize::from(seg::CS)].selector;
        }
        // Else one was pending all the time, or none is: what clears or unmasks it is run by its function.
        let raised = cpu.x87.status & fsw::ES != 0 && !self.pending;
        if raised {
            self.pending = true;
            cpu.x87_unmasked();
        }
        if self.fds != NO_SEGMENT && (raised || !cpu.model.has(Feature::FdpExceptionOnly)) {
            cpu.x87.fdp = self.fdp;
            if selectors {
                cpu.x87.fds = cpu.seg[self.fds as usize & 7].selector;
            }
        }
    }

    /// Makes the CPU's state live when translated code goes on, if it can be: no exception may be unmasked, unless there are traps.
    pub fn load(&mut self, cpu: &Cpu, traps: bool) -> bool {
        let x87 = &cpu.x87;
        if x87.ferr || !traps && is_unmasked(cpu) {
            return false;
        }
        self.pending = x87.status & fsw::ES != 0;
        // All that counts of a tag is whether it says that the register is empty.
        let tags = (0..8).filter(|r| x87.valid >> r & 1 == 0).fold(0, |tags, r| tags | 3_u16 << (2 * r));
        for (n, value) in [x87.control, x87.status, tags].into_iter().enumerate() {
            self.image[4 * n..][..2].copy_from_slice(&value.to_le_bytes());
        }
        let top = usize::from(x87.top());
        for (n, register) in self.image[REGISTERS..].chunks_exact_mut(10).enumerate() {
            let r = (top + n) & 7;
            register[..8].copy_from_slice(&x87.significand[r].to_le_bytes());
            register[8..].copy_from_slice(&x87.exponent[r].to_le_bytes());
        }
        (self.fip, self.ran, self.fds, self.reload) = (x87.fip, 0, NO_SEGMENT, 1);
        true
    }
}

/// Whether the x87 unit's state unmasks an exception.
pub fn is_unmasked(cpu: &Cpu) -> bool {
    cpu.x87.control & MASKS != MASKS
}

impl Emitter<'_> {
    pub(crate) fn x87(&mut self, i: &Instruction, what: What) -> Result<(), Unsupported> {
        let points = what == What::Points;
        let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        if what == What::MmxAndSse {
            // An operand in memory may leave the unit as it is.
            if memory {
                return Err(Unsupported);
            }
            self.need(Live::Sse);
        }
        // What unmasks or clears an exception, or raises others on other processors.
        if self.traps
            && matches!(
                i.mnemonic(),
                Mnemonic::Fnclex | Mnemonic::Fprem | Mnemonic::Fprem1 | Mnemonic::Fscale
            )
        {
            return Err(Unsupported);
        }
        // An override that 64-bit mode ignores.
        let notes_operand = memory && (self.x87_fdp || self.traps);
        if points && notes_operand && i.segment_prefix() != Register::None {
            return Err(Unsupported);
        }
        // Who finds the state dead goes on after the whole instruction, past a check of its operand's group in it.
        if !self.x87_live
            && let Some(member) = self.groups.member(self.accesses().operand)
            && !self.is_established(member.group)
        {
            self.reach(member);
        }
        let dead = self.need_x87();
        match what {
            What::Wait if self.traps => self.encode(i)?,
            What::Wait => {}
            What::LoadControl => self.load_x87_control(i)?,
            What::Points | What::Control | What::Mmx | What::MmxAndSse => self.same(i)?,
        }
        if points {
            self.x87_pointers(i, notes_operand);
        }
        if self.traps && what != What::Control {
            self.trap();
        }
        if let Some(dead) = dead {
            self.let_go();
            self.slow(&[dead], Kind::ExecX87);
        }
        Ok(())
    }

    /// Makes sure that the host's unit holds the guest's state; the jump that is taken if it does not. After that instruction
    /// it does.
    fn need_x87(&mut self) -> Option<usize> {
        if core::mem::replace(&mut self.x87_live, true) {
            return None;
        }
        self.let_go();
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + at::X87_LIVE]);
        Some(self.if_rcx_zero())
    }

    /// Notes where the instruction and its operand are.
    fn x87_pointers(&mut self, i: &Instruction, notes_operand: bool) {
        if notes_operand {
            self.let_go();
            let offset =
                if self.segmented() { self.segment_offset(i) } else { self.offset(i, !self.narrow(), 14) };
            if let Some(value) = offset {
                self.constant(14, value);
            }
            let segment = if i.memory_segment() == Register::SS { seg::SS } else { seg::DS };
            dynasm!(self.s
                ; .arch x64
                ; mov [rsp + at::X87_FDP], r14
                ; mov DWORD [rsp + at::X87_FDS], i32::from(segment)
                ; mov DWORD [rsp + at::X87_FDS + 4], 0
            );
        } else if self.traps && !self.x87_fdp {
            // Its exception leaves the pointer to the operand as it is.
            dynasm!(self.s ; .arch x64 ; mov QWORD [rsp + at::X87_FDS], NO_SEGMENT as i32);
        }
        let offset = self.code_segment.offset(self.rip);
        if !core::mem::replace(&mut self.x87_ran, true) {
            dynasm!(self.s ; .arch x64 ; mov DWORD [rsp + at::X87_FIP + 4], (offset >> 32) as i32 ; mov BYTE [rsp + at::X87_RAN], 1);
        } else if self.next_x87_points {
            // The next one overwrites it before anybody can see it.
            return;
        }
        dynasm!(self.s ; .arch x64 ; mov DWORD [rsp + at::X87_FIP], offset as i32);
    }

    /// FLDCW of a value that leaves all exceptions masked; with traps, those that have been raised.
    fn load_x87_control(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let fixed = self.address(i);
        let slow = self.check(access_of(i, OpAccess::Read, fixed)?);
        dynasm!(self.s
            ; .arch x64
            ; movzx r14d, WORD [rcx + r14]
            ; mov [BYTE rsp + (at::TARGET as i8)], r14d
            ; not r14
            ; pext rcx, r14, [rsp + at::X87_MASKS]
        );
        if self.traps {
            dynasm!(self.s
                ; .arch x64
                ; fnstsw [BYTE rsp + (at::CODE as i8)]
                ; movzx r14d, WORD [BYTE rsp + (at::CODE as i8)]
                ; pext rcx, r14, rcx
            );
        }
        let unmasked = self.unless_rcx_zero();
        self.encoded_at = self.s.len();
        dynasm!(self.s ; .arch x64 ; fldcw [rsp + at::TARGET]);
        self.let_go();
        // After another value, the state is not live.
        self.slow(&[slow, unmasked], Kind::ExecLast);
        Ok(())
    }
}
