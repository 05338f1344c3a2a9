//! Memory operands: the address, and the TLB check that leaves the flags alone.

use crate::classify::Emit;
use crate::emit::{Emitter, Unsupported};
use crate::frame::{Home, TLB_BIAS, at, home};
use crate::group::{Anchor, Group, Member};
use crate::islands::{CHECK, PLAIN};
use crate::values::{FAR, Form};
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Instruction, OpKind, Register};
use ringworld_core::PAGE_SIZE;
use ringworld_mmu::tlb::{TLB_ENTRIES, Translations};
use ringworld_x86::insn::seg;

pub(crate) const READ: i32 = offset_of!(Translations, read) as i32 - TLB_BIAS;
pub(crate) const WRITE: i32 = offset_of!(Translations, write) as i32 - TLB_BIAS;
pub(crate) const HOST: i32 = offset_of!(Translations, host) as i32 - TLB_BIAS;

/// Number of the host's RSP.
const RSP: u8 = 4;

/// See [`short`].
const SPARE: i32 = 2 * PAGE_SIZE as i32;

/// Displacement from RSP of a group's anchor.
fn slot(n: usize) -> i32 {
    at::GROUPS + 8 * n as i32
}

/// What a check asks for.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Bytes.
    pub size: u32,
    /// Writes (also what reads first).
    pub write: bool,
    /// Alignment in bytes that is checked, and the distance of the last place that has it from the first byte.
    pub alignment: Option<(u32, i32)>,
    /// The linear address, if it is known.
    pub fixed: Option<u64>,
}

impl Emitter<'_> {
    /// Puts a 64-bit constant into a register, without touching the flags.
    pub fn constant(&mut self, register: u8, value: u64) {
        if register == 14 {
            self.held_r14 = None;
        }
        if let Ok(short) = i32::try_from(value as i64) {
            dynasm!(self.s ; .arch x64 ; mov Rq(register), DWORD short);
        } else if let Ok(low) = u32::try_from(value) {
            dynasm!(self.s ; .arch x64 ; mov Rd(register), DWORD low as i32);
        } else {
            dynasm!(self.s ; .arch x64 ; mov Rq(register), QWORD value as i64);
        }
    }

    /// The host register that holds a guest register, loaded into `scratch` if it lives in the frame.
    pub fn value(&mut self, guest: usize, scratch: u8) -> u8 {
        match home(guest) {
            Home::Host(host) => host,
            Home::Frame(at) => {
                if scratch == 14 {
                    self.held_r14 = None;
                }
                dynasm!(self.s ; .arch x64 ; mov Rq(scratch), [BYTE rsp + (at as i8)]);
                scratch
            }
        }
    }

    /// Whether what is emitted for memory operands holds for this one: in 32-bit code, 32-bit addresses in segments that
    /// allow everything.
    pub(crate) fn is_addressable(&self, i: &Instruction, emit: Emit) -> Result<(), Unsupported> {
        let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        if !memory || !self.narrow() {
            return Ok(());
        }
        if self.segmented() {
            // It adds to the address.
            return if emit == Emit::BitString { Err(Unsupported) } else { Ok(()) };
        }
        let segment = match i.memory_segment() {
            Register::CS => false,
            Register::FS => self.mode.flat_but_for_base(seg::FS),
            Register::GS => self.mode.flat_but_for_base(seg::GS),
            _ => true,
        };
        let (base, index) = (i.memory_base(), i.memory_index());
        let wide = match (base, index) {
            (Register::None, Register::None) => i.memory_displ_size() == 4,
            // XLAT's index is AL.
            _ => [base, index]
                .into_iter()
                .all(|one| matches!(one, Register::None | Register::AL) || one.is_gpr32()),
        };
        if segment && wide { Ok(()) } else { Err(Unsupported) }
    }

    /// Puts the linear address of the memory operand into R14; says which one if it is known.
    pub fn address(&mut self, i: &Instruction) -> Option<u64> {
        self.let_go();
        if self.segmented() {
            self.segment_address(i);
            return None;
        }
        let (wide, narrow) = (address_is_64(i), self.narrow());
        let segment = match i.memory_segment() {
            Register::FS => Some(0),
            Register::GS => Some(1),
            _ => None,
        };
        let fixed = self.offset(i, wide, 14);
        let Some(n) = segment else {
            if let Some(fixed) = fixed {
                self.constant(14, fixed);
            }
            return fixed;
        };
        let is_short = fixed.is_some_and(|fixed| i32::try_from(fixed as i64).is_ok());
        if self.checks_offsets && wide && !is_short {
            if let Some(fixed) = fixed {
                self.constant(14, fixed);
            }
            self.unless_canonical(i.memory_size().size().max(1) as i32);
        }
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + at::BASES + 8 * n]);
        match fixed.map(|fixed| i32::try_from(fixed as i64)) {
            Some(Ok(short)) if narrow => dynasm!(self.s ; .arch x64 ; lea r14d, [rcx + short]),
            Some(Ok(short)) => dynasm!(self.s ; .arch x64 ; lea r14, [rcx + short]),
            other => {
                if other.is_some() {
                    self.constant(14, fixed.unwrap_or(0));
                }
                if narrow {
                    dynasm!(self.s ; .arch x64 ; lea r14d, [r14 + rcx]);
                } else {
                    dynasm!(self.s ; .arch x64 ; lea r14, [r14 + rcx]);
                }
            }
        }
        None
    }

    /// Calls the instruction's function unless so many bytes at R14 are canonical with 4-level paging.
    fn unless_canonical(&mut self, size: i32) {
        for last in if size == 1 { 0..1 } else { 0..2 } {
            self.keep_in_reach(CHECK);
            // The upper bits are all zeros, or all ones.
            dynasm!(self.s ; .arch x64 ; lea rcx, [r14 + last * (size - 1)] ; mov [rsp + at::SPLIT_LINEAR], r14);
            dynasm!(self.s ; .arch x64 ; mov r14d, 47 ; sarx rcx, rcx, r14 ; mov r14, [rsp + at::SPLIT_LINEAR]);
            dynasm!(self.s ; .arch x64 ; lea rcx, [rcx + 1] ; pext rcx, rcx, [rsp + at::BUT_LOWEST]);
            let other = self.unless_rcx_zero();
            self.beyond.push(other);
        }
    }

    /// Computes the memory operand's offset into a host register, unless it is constant: then returns it. R14 and RCX are
    /// scratch.
    pub fn offset(&mut self, i: &Instruction, wide: bool, into: u8) -> Option<u64> {
        let mask = if wide { u64::MAX } else { 0xffff_ffff };
        if i.is_ip_rel_memory_operand() {
            return Some(i.ip_rel_memory_address() & mask);
        }
        let displacement = i.memory_displacement64();
        let number = |register: Register| (register != Register::None).then(|| register.number());
        let base = number(i.memory_base()).map(|guest| self.value(guest, 14));
        let index = number(i.memory_index()).map(|guest| self.value(guest, 1));
        // Sign-extended 32 bits, or a 32-bit address.
        let short = displacement as i32;
        match (base, index) {
            (None, None) => return Some(displacement & mask),
            (Some(base), None) => self.lea_base(into, wide, base, short),
            (base, Some(index)) => {
                // dynasm takes scales as literals.
                let scale = i.memory_index_scale().trailing_zeros() as u8;
                self.lea(into, wide, base, index, scale, short);
            }
        }
        None
    }

    /// LEA itself.
    pub(crate) fn lea_instruction(&mut self, i: &Instruction) {
        let register = i.op0_register();
        let guest = register.full_register().number();
        let wide = address_is_64(i);
        let (target, frame) = match home(guest) {
            Home::Host(host) => (host, None),
            Home::Frame(at) => (14, Some(at)),
        };
        // A 16-bit result goes through a scratch register, and so does a 32-bit one of a wider address.
        let exact = register.is_gpr64() || (register.is_gpr32() && !wide);
        if exact || frame.is_some() && register.is_gpr32() {
            let computed = self.offset(i, wide && register.is_gpr64(), target);
            if let Some(value) = computed {
                self.constant(target, if register.is_gpr64() { value } else { value & 0xffff_ffff });
            }
            if let Some(at) = frame {
                dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at as i8)], Rq(target));
            }
            return;
        }
        if register.is_gpr32() {
            // Truncation is all the same to an addition.
            if let Some(value) = self.offset(i, false, target) {
                self.constant(target, value & 0xffff_ffff);
            }
            return;
        }
        if let Some(value) = self.offset(i, wide, 14) {
            self.constant(14, value);
        }
        match frame {
            None => dynasm!(self.s ; .arch x64 ; mov Rw(target), r14w),
            Some(at) => dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at as i8)], r14w),
        }
    }

    /// LEA with base, scaled index and 32-bit displacement.
    pub(crate) fn lea(
        &mut self,
        into: u8,
        wide: bool,
        base: Option<u8>,
        index: u8,
        scale: u8,
        displacement: i32,
    ) {
        self.indexed((0x8d, into, wide), base, index, scale, displacement);
    }

    /// An instruction (opcode, register, whether it is 64 bits wide) on memory at base, scaled index and 32-bit displacement.
    pub(crate) fn indexed(
        &mut self,
        (opcode, register, wide): (u8, u8, bool),
        base: Option<u8>,
        index: u8,
        scale: u8,
        displacement: i32,
    ) {
        let rex = 0x40
            | u8::from(wide) << 3
            | (register >> 3) << 2
            | (index >> 3) << 1
            | base.map_or(0, |base| base >> 3);
        let sib = scale << 6 | (index & 7) << 3 | base.map_or(5, |base| base & 7);
        let mode = base.map_or(0, |base| displacement_mode(base, displacement));
        self.s.extend([rex, opcode, mode | (register & 7) << 3 | 4, sib]);
        self.displacement(if base.is_some() { mode } else { 0x80 }, displacement);
    }

    /// LEA with base and displacement; nothing if that changes nothing.
    pub(crate) fn lea_base(&mut self, into: u8, wide: bool, base: u8, displacement: i32) {
        if wide && into == base && displacement == 0 {
            return;
        }
        self.based((0x8d, into, wide), base, displacement);
    }

    /// An instruction (opcode, register, whether it is 64 bits wide) on memory at base and displacement.
    pub(crate) fn based(&mut self, (opcode, register, wide): (u8, u8, bool), base: u8, displacement: i32) {
        let mode = displacement_mode(base, displacement);
        let rex = 0x40 | u8::from(wide) << 3 | (register >> 3) << 2 | base >> 3;
        self.s.extend([rex, opcode, mode | (register & 7) << 3 | base & 7]);
        // RSP's and R12's number stands for an SIB byte.
        if base & 7 == 4 {
            self.s.extend([0x24]);
        }
        self.displacement(mode, displacement);
    }

    fn displacement(&mut self, mode: u8, displacement: i32) {
        match mode {
            0 => {}
            0x40 => self.s.extend([displacement as u8]),
            _ => self.s.extend(displacement.to_le_bytes()),
        }
    }

    /// Puts a group's anchor into RCX, checking the group's whole range if this is its first access. R14 is scratch.
    pub fn reach(&mut self, member: Member) {
        if self.held == Some(member.group) {
            return;
        }
        if self.is_established(member.group) {
            self.anchor(member.group, 1);
        } else {
            self.established |= 1 << member.group;
            let group = self.groups.groups[member.group];
            self.establish(member.first(), group, member.moved, 1);
        }
        self.held = Some(member.group);
    }

    /// The same, but says which register the anchor is in, RCX (1) or R14 (14) if it has not been lent one: it displaces
    /// what is needed later.
    pub fn reach_by_any(&mut self, member: Member) -> u8 {
        let group = member.group;
        if let Some(host) = self.lent_to(group) {
            return host;
        }
        if self.held_r14 == Some(group) {
            return 14;
        }
        let next = |emitter: &Self, group: usize| emitter.groups.next_use(group, emitter.n as usize);
        if !self.is_established(group)
            || match (self.held, self.held_r14) {
                (None, _) => true,
                (Some(held), _) if held == group => true,
                (_, None) => false,
                (Some(one), Some(other)) => next(self, one) > next(self, other),
            }
        {
            self.reach(member);
            return 1;
        }
        self.anchor(group, 14);
        self.held_r14 = Some(group);
        14
    }

    /// Whether the check of a group has been emitted.
    pub fn is_established(&self, group: usize) -> bool {
        self.established >> group & 1 != 0
    }

    /// Checks a group's whole range, whose first byte is at `first`, and notes its anchor, which is in the host register
    /// `into`, too; base and scaled index of `first` have moved so far from what the anchor is about. RCX and R14 are scratch.
    pub(crate) fn establish(&mut self, first: Form, group: Group, moved: (i64, i64), into: u8) {
        let alignment = group.alignment.map(|(alignment, at)| {
            // The last aligned place whose bytes are in the group: if it is in the page, so is all.
            let last = at + (i64::from(group.size()) - 1 - at & -i64::from(alignment));
            (alignment, last as i32)
        });
        let access = Access { size: group.size(), write: group.write, alignment, fixed: None };
        let direct = self.direct(first);
        let fixed = first.is_constant().then_some(first.displacement as u64);
        let short = fixed.and_then(short);
        let from = match direct {
            Some((base, displacement)) => self.check_direct(base, displacement, access, into),
            None => {
                if short.is_none() {
                    self.linear(first, 14);
                }
                self.check_into(Access { fixed, ..access }, into)
            }
        };
        self.ungroup(from, group.alignment.map(|(alignment, _)| alignment));
        self.keep_in_reach(PLAIN);
        match group.anchor {
            Anchor::Distance => {}
            Anchor::Base => {
                if let Some(base) = first.base {
                    let base = self.value(base.into(), 14);
                    self.lea(into, true, Some(into), base, 0, moved.0.wrapping_neg() as i32);
                }
            }
            Anchor::Index => {
                if let Some((index, scale)) = first.index {
                    let index = self.value(index.into(), 14);
                    self.lea(into, true, Some(into), index, scale, moved.1.wrapping_neg() as i32);
                }
            }
            Anchor::First => match short {
                Some(short) => self.lea_base(into, true, into, short),
                None => {
                    let (base, displacement) = direct.unwrap_or((14, 0));
                    self.lea(into, true, Some(into), base, 0, displacement);
                }
            },
        }
        let at = self.s.len();
        self.frame(0x89, into, slot(group.slot));
        self.drafts.anchors.push((group.slot, at..self.s.len()));
    }

    /// Loads a group's anchor.
    pub fn anchor(&mut self, group: usize, into: u8) {
        let n = self.groups.groups[group].slot;
        self.slots_read |= 1 << n;
        self.frame(0x8b, into, slot(n));
    }

    /// Makes nothing of the stores to slots that nobody reads.
    pub(crate) fn drop_anchors(&mut self) {
        for (slot, at) in self.drafts.anchors.drain(..) {
            if self.slots_read >> slot & 1 == 0
                && let Some(store) = self.s.buffer().get_mut(at)
            {
                store.fill(0);
                // A NOP with a displacement of one byte, or of four.
                let nop: &[u8] =
                    if store.len() == 5 { &[0x0f, 0x1f, 0x44, 0x00] } else { &[0x0f, 0x1f, 0x84, 0x00] };
                if let Some(start) = store.get_mut(..nop.len()) {
                    start.copy_from_slice(nop);
                }
            }
        }
    }

    /// An instruction with this opcode on a 64-bit register and memory of the frame.
    fn frame(&mut self, opcode: u8, register: u8, at: i32) {
        self.based((opcode, register, true), RSP, at);
    }

    /// Computes an address; RCX is scratch, unless the mode is [narrow](Self::narrow).
    pub fn linear(&mut self, form: Form, into: u8) {
        let wide = !self.narrow();
        if into == 14 {
            self.held_r14 = None;
        }
        let base = form.base.map(|base| self.value(base.into(), 14));
        match (base, form.index) {
            (None, None) => self.constant(into, form.displacement as u64),
            (Some(base), None) => self.lea_base(into, wide, base, form.displacement as i32),
            (base, Some((index, scale))) => {
                let index = self.value(index.into(), 1);
                self.lea(into, wide, base, index, scale, form.displacement as i32);
            }
        }
    }

    /// If only one register takes part, and it lives in a host register: that, and the displacement. In 64-bit code only:
    /// the sum of a narrow register and a displacement has to be truncated first.
    pub(crate) fn direct(&self, form: Form) -> Option<(u8, i32)> {
        match (form.base.map(|base| home(base.into())), form.index) {
            (Some(Home::Host(host)), None)
                if !self.narrow() && form.displacement.unsigned_abs() < FAR as u64 =>
            {
                Some((host, form.displacement as i32))
            }
            _ => None,
        }
    }

    /// As [`Self::check`] for an access at a host register plus a displacement, which stays what is added to `into`. R14 is
    /// scratch.
    pub(crate) fn check_direct(&mut self, base: u8, displacement: i32, access: Access, into: u8) -> usize {
        self.keep_in_reach(CHECK);
        self.let_go();
        let tags = if access.write { WRITE } else { READ };
        // R14, unless its room is elsewhere, has room for the slot, which is computed once.
        let slot = if into == 1 { 14 } else { into };
        let mut from = base;
        if displacement != 0 {
            self.lea_base(14, true, base, displacement);
            from = 14;
        }
        dynasm!(self.s
            ; .arch x64
            ; pext Rq(slot), Rq(from), [BYTE rsp + (at::INDEX_MASK as i8)]
            ; mov rcx, [r15 + Rq(slot) * 8 + tags]
        );
        match access.alignment {
            // No byte of what is aligned leaves the page if its first one does not.
            Some((alignment, last)) => {
                self.lea(1, true, Some(1), base, 0, displacement + last + self.tag_to_aligned_unit());
                dynasm!(self.s
                    ; .arch x64
                    ; pext rcx, rcx, [rsp + at::ALIGN + 8 * (alignment.trailing_zeros() as i32 - 4)]
                );
            }
            None => {
                let last = displacement + (access.size as i32 - 1);
                self.lea(1, true, Some(1), base, 0, last + self.tag_to_unit());
                dynasm!(self.s ; .arch x64 ; shrx rcx, rcx, r15);
            }
        }
        let slow = self.unless_unit();
        dynasm!(self.s ; .arch x64 ; mov Rq(into), [r15 + Rq(slot) * 8 + HOST]);
        slow
    }

    /// The memory operand's linear address, if it is known and [`short`].
    pub(crate) fn short_address(&self, i: &Instruction) -> Option<i32> {
        let segment = matches!(i.memory_segment(), Register::FS | Register::GS);
        let known = i.is_ip_rel_memory_operand() && i.memory_base() == Register::RIP
            || i.memory_base() == Register::None && i.memory_index() == Register::None;
        let mask = if address_is_64(i) { u64::MAX } else { 0xffff_ffff };
        (known && !segment && !self.segmented()).then(|| i.memory_displacement64() & mask).and_then(short)
    }

    /// Checks that an access at R14, or at a known address, may go to the host's memory, and leaves the host address minus the
    /// linear one in RCX. Returns the end of the displacement of the jump that is taken if not.
    pub fn check(&mut self, access: Access) -> usize {
        self.check_into(access, 1)
    }

    /// The same with another host register that is free, or RCX.
    fn check_into(&mut self, access: Access, into: u8) -> usize {
        let Access { size, write, alignment, fixed, .. } = access;
        self.keep_in_reach(CHECK);
        self.let_go();
        let tags = if write { WRITE } else { READ };
        let last = size as i32 - 1;
        let entry = |address: u64| ((address >> 12) as usize & (TLB_ENTRIES - 1)) as i32 * 8;
        match fixed {
            Some(fixed) => dynasm!(self.s ; .arch x64 ; mov rcx, [r15 + tags + entry(fixed)]),
            None => dynasm!(self.s
                ; .arch x64
                ; pext Rq(into), r14, [BYTE rsp + (at::INDEX_MASK as i8)]
                ; mov rcx, [r15 + Rq(into) * 8 + tags]
            ),
        }
        match alignment {
            // No byte of what is aligned leaves the page if its first one does not.
            Some((alignment, last)) => {
                self.add_address(fixed, last + self.tag_to_aligned_unit());
                dynasm!(self.s
                    ; .arch x64
                    ; pext rcx, rcx, [rsp + at::ALIGN + 8 * (alignment.trailing_zeros() as i32 - 4)]
                );
            }
            None => {
                self.add_address(fixed, last + self.tag_to_unit());
                dynasm!(self.s ; .arch x64 ; shrx rcx, rcx, r15);
            }
        }
        let slow = self.unless_unit();
        match fixed {
            Some(fixed) => dynasm!(self.s ; .arch x64 ; mov Rq(into), [r15 + HOST + entry(fixed)]),
            None => {
                if into == 1 {
                    // Its slot has been overwritten.
                    dynasm!(self.s ; .arch x64 ; pext rcx, r14, [BYTE rsp + (at::INDEX_MASK as i8)]);
                }
                dynasm!(self.s ; .arch x64 ; mov Rq(into), [r15 + Rq(into) * 8 + HOST]);
            }
        }
        slow
    }

    /// Adds an address, R14 or a known one, and a distance to RCX.
    fn add_address(&mut self, fixed: Option<u64>, distance: i32) {
        match fixed.and_then(short) {
            Some(short) => self.lea_base(1, true, 1, short + distance),
            None => self.lea(1, true, Some(1), 14, 0, distance),
        }
    }
}

/// An address that a displacement has room for, with more than a page to spare on both sides.
fn short(address: u64) -> Option<i32> {
    let short = i32::try_from(address as i64).ok()?;
    (short.checked_add(SPARE).is_some() && short.checked_sub(SPARE).is_some()).then_some(short)
}

/// The upper bits of ModRM for the shortest displacement from a base register; RBP's and R13's number without one stands for
/// something else.
fn displacement_mode(base: u8, displacement: i32) -> u8 {
    match i8::try_from(displacement) {
        Ok(0) if base & 7 != 5 => 0,
        Ok(_) => 0x40,
        Err(_) => 0x80,
    }
}

/// Whether the memory operand of an instruction of 64-bit code has 64-bit addresses. In 32-bit code none has.
pub fn address_is_64(i: &Instruction) -> bool {
    let register = if i.memory_base() != Register::None { i.memory_base() } else { i.memory_index() };
    match register {
        Register::None => i.memory_displ_size() != 4,
        Register::RIP => true,
        register => register.is_gpr64(),
    }
}
