//! Control flow and the stack.

use crate::classify::Emit;
use crate::emit::{Emitter, Guest, Unsupported, access_of};
use crate::frame::{GUEST_RCX, Home, TLB_BIAS, at, home};
use crate::islands::{CHECK, PLAIN};
use crate::memory::Access;
use crate::site::Kind;
use crate::stubs::near;
use crate::values::Form;
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, Instruction, Mnemonic, OpAccess, OpKind, Register};
use ringworld_mmu::tlb::{TLB_ENTRIES, Translations};

const FETCH: i32 = offset_of!(Translations, fetch) as i32 - TLB_BIAS;
/// Host register of guest RSP.
pub(crate) const SP: u8 = match home(4) {
    Home::Host(host) => host,
    Home::Frame(_) => panic!("RSP is pinned"),
};

/// The same of guest RBP.
const BP: u8 = match home(5) {
    Home::Host(host) => host,
    Home::Frame(_) => panic!("RBP is pinned"),
};
/// Most bytes that ENTER makes room for here: larger frames are in one page too rarely.
const LARGEST_FRAME: i32 = 1024;

/// Displacement from R15 of the fetch token of a page.
pub fn fetch_slot(linear: u64) -> i32 {
    FETCH + 4 * ((linear >> 12) as usize & (TLB_ENTRIES - 1)) as i32
}

impl Emitter<'_> {
    /// 32-bit or 16-bit code: addresses and the stack pointer wrap at 4 GiB or earlier. Then no register beyond the first eight
    /// is used, and none lives in the frame.
    pub(crate) fn narrow(&self) -> bool {
        !self.mode.long64()
    }

    /// Bytes of addresses, and of what is pushed but in segmented code.
    pub(crate) fn word(&self) -> u32 {
        self.mode.bitness() / 8
    }

    /// Bytes that the present instruction pushes or pops, as a distance.
    pub(crate) fn step(&self) -> i32 {
        self.step
    }

    /// What the present instruction pushes or pops is a word.
    fn is_word(&self) -> bool {
        self.step == 2
    }

    /// Adds to the stack pointer. If that is SP, R14 is scratch.
    pub(crate) fn move_stack(&mut self, by: i32) {
        if self.small_stack() {
            self.lea_base(14, false, SP, by);
            dynasm!(self.s ; .arch x64 ; mov Rw(SP), r14w);
            return;
        }
        self.lea_base(SP, !self.narrow(), SP, by);
    }

    /// Moves the stack pointer's home to where the guest's is.
    pub(crate) fn settle_stack(&mut self) {
        let by = core::mem::take(&mut self.stack_moved);
        if by != 0 {
            self.move_stack(by);
        }
    }

    /// Whether an instruction takes the stack pointer's home as it is, or does not use it, and cannot leave the block.
    pub(crate) fn leaves_stack_moved(&self, guest: &Guest) -> bool {
        let i = &guest.decoded;
        let Some(emit) = guest.emit.filter(|_| !self.narrow()) else { return false };
        let is_memory = |n| i.op_kind(n) == OpKind::Memory;
        let registers =
            (0..i.op_count()).map(|n| i.op_register(n)).chain([i.memory_base(), i.memory_index()]);
        if registers.into_iter().any(|register| register.full_register() == Register::RSP) {
            return false;
        }
        match emit {
            Emit::Same | Emit::Nothing => !(0..i.op_count()).any(is_memory),
            Emit::Lea => true,
            Emit::Push | Emit::Pop if is_memory(0) => false,
            Emit::Push | Emit::Pop => self.has_stack_in_reach(),
            Emit::Call => self.returns_here && self.has_stack_in_reach(),
            _ => false,
        }
    }

    /// Whether what the present instruction pushes or pops is in a group that has been checked.
    fn has_stack_in_reach(&self) -> bool {
        let member = self.groups.member(self.accesses().stack);
        member.is_some_and(|member| self.is_established(member.group))
    }

    /// Moves the guest's stack pointer after a push or a pop, and its home later if nothing wants that now.
    fn moved_stack(&mut self, by: i32, slow: bool) {
        if slow || self.narrow() {
            self.move_stack(by);
        } else {
            self.stack_moved += by;
        }
    }

    /// An instruction (opcode, register) on the word at a distance from the guest's stack pointer, which is in reach.
    fn on_stack(&mut self, opcode: u8, register: u8, at: i32) {
        self.indexed((opcode, register, true), Some(1), SP, 0, self.stack_moved + at);
    }

    /// Loads what [`Self::stack`] has found at the stack pointer into R14.
    pub(crate) fn load_top(&mut self) {
        if self.is_word() {
            dynasm!(self.s ; .arch x64 ; movzx r14d, WORD [rcx + r14]);
        } else if self.narrow() {
            dynasm!(self.s ; .arch x64 ; mov r14d, [rcx + r14]);
        } else {
            dynasm!(self.s ; .arch x64 ; mov r14, [rcx + Rq(SP)]);
        }
    }

    /// Stores what is in the frame's scratch to where [`Self::stack`] has found room for a push.
    pub(crate) fn push_target(&mut self) {
        if self.narrow() {
            self.held = None;
            dynasm!(self.s
                ; .arch x64
                ; lea rcx, [rcx + r14]
                ; mov r14d, [BYTE rsp + (at::TARGET as i8)]
            );
            if self.is_word() {
                dynasm!(self.s ; .arch x64 ; mov [rcx], r14w);
            } else {
                dynasm!(self.s ; .arch x64 ; mov [rcx], r14d);
            }
        } else {
            dynasm!(self.s
                ; .arch x64
                ; mov r14, [BYTE rsp + (at::TARGET as i8)]
                ; mov [rcx + Rq(SP) - 8], r14
            );
        }
    }

    /// Stores a constant there.
    fn push_constant(&mut self, value: i32) {
        if self.is_word() {
            dynasm!(self.s ; .arch x64 ; mov WORD [rcx + r14], value as i16);
        } else if self.narrow() {
            dynasm!(self.s ; .arch x64 ; mov DWORD [rcx + r14], value);
        } else {
            self.on_stack(0xc7, 0, -8);
            self.s.extend(value.to_le_bytes());
        }
    }

    /// A jump to a known address, which is linked when it is first taken. To a page that has not been checked, it asks whether
    /// that is still the one that it was linked to.
    pub(crate) fn link(&mut self, target: u64) {
        self.link_after(target, 0);
    }

    /// The same after so much has been given back to the budget.
    pub(crate) fn link_after(&mut self, target: u64, refund: u8) {
        let near_by = self.is_known_page(target);
        let (index, site) = self.link_site(Kind::Link, target, if near_by { refund } else { 0 });
        if near_by {
            let end = near(self.s, 0);
            self.drafts.links[index].patch = end as u32;
            self.cold_site(end, site);
            return;
        }
        self.keep_in_reach(PLAIN);
        dynasm!(self.s
            ; .arch x64
            ; mov ecx, [r15 + fetch_slot(target)]
            // No token: never the unit.
            ; lea rcx, [DWORD rcx + i32::MIN]
        );
        self.drafts.links[index].token = self.s.len() as u32;
        let other = self.unless_unit();
        self.cold_site(other, site);
        let end = near(self.s, 0);
        self.drafts.links[index].patch = end as u32;
        self.cold_site(end, site);
    }

    pub(crate) fn near_target(&self, i: &Instruction) -> Result<u64, Unsupported> {
        let target = i.near_branch_target();
        // Whether others are canonical depends on the paging mode.
        let canonical = (target as i64) << 16 >> 16 == target as i64;
        let allowed = canonical && self.code_segment.contains(self.code_segment.offset(target));
        if allowed { Ok(target) } else { Err(Unsupported) }
    }

    pub(crate) fn jump(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let target = self.near_target(i)?;
        if let Some(round) = self.round_to(target) {
            self.next_round(round);
        } else {
            self.link(target);
        }
        Ok(())
    }

    pub(crate) fn branch(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let target = self.near_target(i)?;
        let opcode = branch_opcode(i)?;
        if let Some(round) = self.round_to(target) {
            // The lowest bit of a condition negates it.
            let done = near(self.s, opcode ^ 1);
            self.next_round(round);
            self.s.land(done);
            if core::mem::take(&mut self.lent.now) {
                self.give_back_lent();
            }
            self.link(i.next_ip());
            return Ok(());
        }
        if self.is_known_page(target) {
            let (index, site) = self.link_site(Kind::Link, target, 0);
            let end = near(self.s, opcode);
            self.drafts.links[index].patch = end as u32;
            self.cold_site(end, site);
            self.link(i.next_ip());
            return Ok(());
        }
        let taken = near(self.s, opcode);
        self.link(i.next_ip());
        self.s.land(taken);
        self.link(target);
        Ok(())
    }

    /// LOOP, LOOPE, LOOPNE and JRCXZ.
    pub(crate) fn counted_branch(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let target = self.near_target(i)?;
        let (wide, small) = (!self.narrow() && i.code() != Code::Jecxz_rel8_64, self.mode.bitness() == 16);
        self.end_shadow();
        let (zero, counted) = if i.is_jcx_short() { (target, i.next_ip()) } else { (i.next_ip(), target) };
        if !i.is_jcx_short() && small {
            self.lea_base(1, false, GUEST_RCX, -1);
            dynasm!(self.s ; .arch x64 ; mov Rw(GUEST_RCX), cx);
        } else if !i.is_jcx_short() {
            self.lea_base(GUEST_RCX, wide, GUEST_RCX, -1);
        }
        if small {
            dynasm!(self.s ; .arch x64 ; movzx ecx, Rw(GUEST_RCX));
        } else if wide {
            dynasm!(self.s ; .arch x64 ; mov rcx, Rq(GUEST_RCX));
        } else {
            dynasm!(self.s ; .arch x64 ; mov ecx, Rd(GUEST_RCX));
        }
        let is_zero = self.skip_if_rcx_zero();
        let other = match i.mnemonic() {
            Mnemonic::Loope => Some(near(self.s, 0x85)),
            Mnemonic::Loopne => Some(near(self.s, 0x84)),
            _ => None,
        };
        self.link(counted);
        self.s.land(is_zero);
        if let Some(other) = other {
            self.s.land(other);
        }
        self.link(zero);
        Ok(())
    }

    /// Looks R14 up in the jump cache and leaves the code's address in RCX; what is not there is up to the instruction's function.
    pub(crate) fn jump_cache(&mut self) {
        self.keep_in_reach(PLAIN);
        self.let_go();
        dynasm!(self.s
            ; .arch x64
            ; pdep rcx, r14, [BYTE rsp + (at::JUMP_MASK as i8)]
            ; mov rcx, [rcx + self.jumps]
            ; lea rcx, [BYTE rcx + r14 + (self.unit() as i8)]
        );
        let miss = self.unless_unit();
        dynasm!(self.s
            ; .arch x64
            ; pdep rcx, r14, [BYTE rsp + (at::JUMP_MASK as i8)]
            ; mov rcx, [rcx + self.jumps + 8]
        );
        self.cold_target(miss, self.s.len());
    }

    /// Makes the stack's host address [`SP`] + RCX, for an access of a word at `displacement` from the stack pointer. In
    /// 32-bit code, the access's own host address is R14 + RCX. Returns the jump that is taken if it is not to be had.
    pub(crate) fn stack(&mut self, displacement: i32, write: bool) -> Option<usize> {
        let form = Form { base: Some(4), index: None, displacement: displacement.into() };
        if self.segmented() {
            self.let_go();
            self.stack_address(SP, displacement, write);
            let size = self.step() as u32;
            return Some(self.check(Access { size, write, alignment: None, fixed: None }));
        }
        if let Some(member) = self.groups.member(self.accesses().stack) {
            self.reach(member);
            if self.narrow() {
                self.linear(form, 14);
            }
            return None;
        }
        let access = Access { size: self.word(), write, alignment: None, fixed: None };
        if !self.narrow() {
            return Some(self.check_direct(SP, displacement, access, 1));
        }
        self.linear(form, 14);
        Some(self.check(access))
    }

    pub(crate) fn ret(&mut self, i: &Instruction) {
        let drop = if i.op_count() == 1 { i.immediate16() } else { 0 };
        let slow = self.stack(0, false);
        self.keep_in_reach(CHECK);
        self.load_top();
        self.code_address();
        self.let_go();
        let (linear, code) = self.returns;
        dynasm!(self.s
            ; .arch x64
            ; pext rcx, Rq(SP), [rsp + at::RETURN_BITS]
            ; mov rcx, [rcx * 8 + linear]
            ; lea rcx, [BYTE rcx + r14 + (self.unit() as i8)]
        );
        let miss = self.unless_unit();
        dynasm!(self.s
            ; .arch x64
            ; pext rcx, Rq(SP), [rsp + at::RETURN_BITS]
            ; mov rcx, [rcx * 8 + code]
        );
        self.cold_target(miss, self.s.len());
        self.end_shadow();
        self.move_stack(self.step() + i32::from(drop));
        dynasm!(self.s ; .arch x64 ; jmp rcx);
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::ExecLast);
    }

    /// Enters the return address that has just been pushed into the return cache.
    fn remember_return(&mut self, next: u64) {
        self.settle_stack();
        // Behind the last instruction of the lower half, with four or five levels of tables: the return raises an exception.
        if !self.narrow() && [47, 56].iter().any(|bit| next == 1 << bit) {
            return;
        }
        self.keep_in_reach(CHECK);
        self.let_go();
        let (linear, code) = self.returns;
        dynasm!(self.s ; .arch x64 ; pext rcx, Rq(SP), [rsp + at::RETURN_BITS]);
        let negated = next.wrapping_neg();
        if let Ok(short) = i32::try_from(negated as i64) {
            dynasm!(self.s ; .arch x64 ; mov QWORD [rcx * 8 + linear], short);
        } else {
            self.constant(14, negated);
            dynasm!(self.s ; .arch x64 ; mov [rcx * 8 + linear], r14);
        }
        let (index, site) = self.link_site(Kind::Link, next, 0);
        // LEA R14, [RIP + disp32], which is linked like a jump.
        self.s.extend([0x4c, 0x8d, 0x35, 0, 0, 0, 0]);
        let end = self.s.len();
        let draft = &mut self.drafts.links[index];
        (draft.patch, draft.checked) = (end as u32, true);
        self.cold_site(end, site);
        dynasm!(self.s ; .arch x64 ; mov [rcx * 8 + code], r14);
    }

    /// Pushes the return address; the jump that is taken if that is not plain.
    fn push_return(&mut self, next: u64) -> Option<usize> {
        let slow = self.stack(-self.step(), true);
        if self.narrow() {
            self.push_constant(self.pushed_address(next) as i32);
        } else if let Ok(short) = i32::try_from(next as i64) {
            self.push_constant(short);
        } else {
            self.constant(14, next);
            self.on_stack(0x89, 14, -8);
        }
        self.moved_stack(-self.step(), slow.is_some());
        slow
    }

    pub(crate) fn call(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let target = self.near_target(i)?;
        let slow = self.push_return(i.next_ip());
        self.end_shadow();
        self.remember_return(i.next_ip());
        self.link(target);
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::ExecLast);
        Ok(())
    }

    /// A call whose target the block goes on with.
    pub(crate) fn call_within(&mut self, i: &Instruction) {
        let slow = self.push_return(i.next_ip());
        if !self.returns_here {
            self.remember_return(i.next_ip());
        }
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::Exec);
    }

    /// A return, with which the block goes on at `next` if it leads there.
    pub(crate) fn ret_within(&mut self, i: &Instruction, next: u64) {
        let drop = if i.op_count() == 1 { i.immediate16() } else { 0 };
        let slow = self.stack(0, false);
        self.load_top();
        self.code_address();
        let other = self.unless_leads_to(next);
        let by = self.step() + i32::from(drop);
        let mut froms: Vec<usize> = slow.into_iter().collect();
        if self.in_shadow {
            froms.push(other);
        } else {
            self.cold_elsewhere(other, by);
        }
        self.move_stack(by);
        self.slow(&froms, Kind::ExecLast);
    }

    /// Compares R14 with the address that the block goes on at; the jump that is taken if it is another one.
    fn unless_leads_to(&mut self, next: u64) -> usize {
        let negated = i64::from(self.unit()).wrapping_sub(next as i64);
        match i32::try_from(negated) {
            Ok(negated) => dynasm!(self.s ; .arch x64 ; lea rcx, [r14 + negated]),
            Err(_) => {
                self.constant(1, negated as u64);
                dynasm!(self.s ; .arch x64 ; lea rcx, [rcx + r14]);
            }
        }
        self.let_go();
        self.unless_unit()
    }

    /// Loads the operand of an indirect branch or a push into R14; the jump that is taken if that is not plain.
    fn operand(&mut self, i: &Instruction) -> Result<Option<usize>, Unsupported> {
        if i.op0_kind() == OpKind::Memory {
            let place = self.place(i, OpAccess::Read)?;
            if self.is_word() {
                dynasm!(self.s ; .arch x64 ; movzx r14d, WORD [rcx + r14]);
                return Ok(place.slow);
            }
            let load = (0x8b, 14, !self.narrow());
            match (place.base, place.index) {
                (base, Some((index, scale))) => self.indexed(load, base, index, scale, place.displacement),
                (Some(base), None) => self.based(load, base, place.displacement),
                (None, None) => return Err(Unsupported),
            }
            return Ok(place.slow);
        }
        let from = self.value(i.op0_register().full_register().number(), 14);
        if self.is_word() {
            dynasm!(self.s ; .arch x64 ; movzx r14d, Rw(from));
        } else if self.narrow() {
            dynasm!(self.s ; .arch x64 ; mov r14d, Rd(from));
        } else if from != 14 {
            dynasm!(self.s ; .arch x64 ; mov r14, Rq(from));
        }
        Ok(None)
    }

    /// The same of an indirect branch: the linear address.
    fn target(&mut self, i: &Instruction) -> Result<Option<usize>, Unsupported> {
        let slow = self.operand(i)?;
        self.code_address();
        Ok(slow)
    }

    pub(crate) fn jump_indirect(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let slow = self.target(i)?;
        self.jump_cache();
        self.end_shadow();
        dynasm!(self.s ; .arch x64 ; jmp rcx);
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::ExecLast);
        Ok(())
    }

    pub(crate) fn call_indirect(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let slow = self.target(i)?;
        self.jump_cache();
        // The target is known before the return address is written, which may be where it was read from.
        dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::CODE as i8)], rcx);
        let push = self.push_return(i.next_ip());
        self.end_shadow();
        self.remember_return(i.next_ip());
        dynasm!(self.s ; .arch x64 ; jmp QWORD [BYTE rsp + (at::CODE as i8)]);
        self.slow(&slow.into_iter().chain(push).collect::<Vec<_>>(), Kind::ExecLast);
        Ok(())
    }

    /// An indirect jump, with which the block goes on at `next` if it leads there.
    pub(crate) fn jump_indirect_within(&mut self, i: &Instruction, next: u64) -> Result<(), Unsupported> {
        let slow = self.target(i)?;
        let other = self.unless_leads_to(next);
        self.cold_elsewhere_indirect(other);
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::ExecLast);
        Ok(())
    }

    /// The same of an indirect call.
    pub(crate) fn call_indirect_within(&mut self, i: &Instruction, next: u64) -> Result<(), Unsupported> {
        let slow = self.target(i)?;
        let other = self.unless_leads_to(next);
        self.cold_elsewhere_indirect(other);
        let push = self.push_return(i.next_ip());
        if !self.returns_here {
            self.remember_return(i.next_ip());
        }
        self.slow(&slow.into_iter().chain(push).collect::<Vec<_>>(), Kind::ExecLast);
        Ok(())
    }

    pub(crate) fn push(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let below = -self.step();
        let mut froms = Vec::new();
        match i.op0_kind() {
            OpKind::Memory => {
                // The operand's slow path goes on after the whole instruction, past a check of the stack's group in it.
                if let Some(member) = self.groups.member(self.accesses().stack)
                    && !self.is_established(member.group)
                {
                    self.reach(member);
                }
                froms.extend(self.operand(i)?);
                dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::TARGET as i8)], r14);
                froms.extend(self.stack(below, true));
                self.push_target();
            }
            OpKind::Register => {
                froms.extend(self.stack(below, true));
                let from = self.value(i.op0_register().full_register().number(), 14);
                if self.is_word() {
                    dynasm!(self.s ; .arch x64 ; mov [rcx + r14], Rw(from));
                } else if self.narrow() {
                    dynasm!(self.s ; .arch x64 ; mov [rcx + r14], Rd(from));
                } else {
                    self.on_stack(0x89, from, -8);
                }
            }
            _ => {
                let value = i.immediate(0) as i64;
                froms.extend(self.stack(below, true));
                self.push_constant(value as i32);
            }
        }
        self.moved_stack(below, !froms.is_empty());
        if !froms.is_empty() {
            self.let_go();
        }
        self.slow(&froms, Kind::Exec);
        Ok(())
    }

    pub(crate) fn pop(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        if i.op0_kind() != OpKind::Register {
            return self.pop_to_memory(i);
        }
        let guest = i.op0_register().full_register().number();
        let slow = self.stack(0, false);
        match home(guest) {
            Home::Host(host) if self.is_word() => {
                dynasm!(self.s ; .arch x64 ; movzx ecx, WORD [rcx + r14]);
                self.move_stack(2);
                dynasm!(self.s ; .arch x64 ; mov Rw(host), cx);
            }
            Home::Host(host) if self.small_stack() => {
                dynasm!(self.s ; .arch x64 ; mov ecx, [rcx + r14]);
                self.move_stack(4);
                dynasm!(self.s ; .arch x64 ; mov Rd(host), ecx);
            }
            Home::Host(host) if self.narrow() => {
                self.move_stack(4);
                dynasm!(self.s ; .arch x64 ; mov Rd(host), [rcx + r14]);
            }
            Home::Host(SP) => dynasm!(self.s ; .arch x64 ; mov Rq(SP), [rcx + Rq(SP)]),
            Home::Host(host) => {
                self.on_stack(0x8b, host, 0);
                self.moved_stack(8, slow.is_some());
            }
            Home::Frame(home) => {
                self.on_stack(0x8b, 14, 0);
                dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (home as i8)], r14);
                self.moved_stack(8, slow.is_some());
            }
        }
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::Exec);
        Ok(())
    }

    /// POP to memory in 64-bit code. An address off the stack pointer would be one off the pointer after the pop.
    fn pop_to_memory(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let off_stack = i.memory_base().full_register() == Register::RSP;
        if self.narrow() || off_stack || i.memory_size().size() != 8 {
            return Err(Unsupported);
        }
        let mut froms: Vec<usize> = self.stack(0, false).into_iter().collect();
        self.load_top();
        dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::TARGET as i8)], r14);
        self.let_go();
        let fixed = self.address(i);
        froms.push(self.check(access_of(i, OpAccess::Write, fixed)?));
        dynasm!(self.s
            ; .arch x64
            ; lea rcx, [rcx + r14]
            ; mov r14, [BYTE rsp + (at::TARGET as i8)]
            ; mov [rcx], r14
        );
        self.move_stack(8);
        self.let_go();
        self.slow(&froms, Kind::Exec);
        Ok(())
    }

    /// ENTER of a function that is in no other one: all of its frame is looked at as one access, which is more than its ends.
    pub(crate) fn enter_frame(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let step = i.code().op_code().operand_size() as i32 / 8;
        let size = i32::from(i.immediate16());
        if i.immediate8_2nd() & 31 != 0 || size > LARGEST_FRAME {
            return Err(Unsupported);
        }
        let slow = self.block_on_stack(-step - size, (step + size) as u32, true);
        match step {
            2 => dynasm!(self.s ; .arch x64 ; mov [r14 + size], Rw(BP)),
            4 => dynasm!(self.s ; .arch x64 ; mov [r14 + size], Rd(BP)),
            _ => dynasm!(self.s ; .arch x64 ; mov [r14 + size], Rq(BP)),
        }
        self.move_stack(-step);
        match step {
            2 => dynasm!(self.s ; .arch x64 ; mov Rw(BP), Rw(SP)),
            4 => dynasm!(self.s ; .arch x64 ; mov Rd(BP), Rd(SP)),
            _ => dynasm!(self.s ; .arch x64 ; mov Rq(BP), Rq(SP)),
        }
        self.move_stack(-size);
        self.slow(&[slow], Kind::Exec);
        Ok(())
    }

    pub(crate) fn leave_frame(&mut self) {
        let access = Access { size: self.step as u32, write: false, alignment: None, fixed: None };
        let slow = if self.segmented() {
            self.stack_address(BP, 0, false);
            let slow = self.check(access);
            if self.is_word() {
                dynasm!(self.s ; .arch x64 ; movzx ecx, WORD [rcx + r14]);
            } else {
                dynasm!(self.s ; .arch x64 ; mov ecx, [rcx + r14]);
            }
            dynasm!(self.s ; .arch x64 ; lea r14d, [Rq(BP) + self.step]);
            if self.small_stack() {
                dynasm!(self.s ; .arch x64 ; mov Rw(SP), r14w);
            } else {
                dynasm!(self.s ; .arch x64 ; mov Rd(SP), r14d);
            }
            if self.is_word() {
                dynasm!(self.s ; .arch x64 ; mov Rw(BP), cx);
            } else {
                dynasm!(self.s ; .arch x64 ; mov ebp, ecx);
            }
            Some(slow)
        } else if self.narrow() {
            dynasm!(self.s ; .arch x64 ; mov r14d, ebp);
            let slow = self.check(access);
            dynasm!(self.s ; .arch x64 ; lea Rd(SP), [r14 + 4] ; mov ebp, [rcx + r14]);
            Some(slow)
        } else {
            let slow = match self.groups.member(self.accesses().stack) {
                Some(member) => {
                    self.reach(member);
                    None
                }
                None => Some(self.check_direct(BP, 0, access, 1)),
            };
            dynasm!(self.s ; .arch x64 ; lea Rq(SP), [Rq(BP) + 8] ; mov Rq(BP), [rcx + Rq(BP)]);
            slow
        };
        self.slow(&slow.into_iter().collect::<Vec<_>>(), Kind::Exec);
    }
}

/// Second opcode byte of a conditional branch's near form.
pub(crate) fn branch_opcode(i: &Instruction) -> Result<u8, Unsupported> {
    use iced_x86::ConditionCode::*;
    // In the order of the opcodes, which is not iced's.
    const ORDER: [iced_x86::ConditionCode; 16] = [o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g];
    let condition = i.condition_code();
    ORDER.iter().position(|&one| one == condition).map(|n| 0x80 + n as u8).ok_or(Unsupported)
}
