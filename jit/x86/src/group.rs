//! Groups of memory accesses off the same registers: one TLB check serves them all.
//!
//! A register's value is followed through pushes, pops and additions of constants; accesses whose distance from each
//! other is therefore known form a group, if they lie close together. The first one checks the whole range. If the
//! range is not in one page, or not to be had without a slow path, the rest of the block is left for a translation
//! without groups.

use crate::classify::{Emit, System, alignment, emit_of};
use crate::emit::Guest;
use crate::frame::{Home, home};
use crate::memory::address_is_64;
use iced_x86::{
    Code, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};
use ringworld_core::PAGE_MASK;

/// Most bytes between the first and the last byte of a group: longer ones would straddle pages too often.
const SPAN: i64 = 1024;
/// Slots in the frame for host addresses of groups.
pub const SLOTS: usize = 4;

const NO_SLOT: usize = usize::MAX;
/// Groups that may get members at a time.
const OPEN: usize = 12;

/// A linear address as a sum of guest registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// Base register.
    pub base: Option<usize>,
    /// Index register and log2 of its scale.
    pub index: Option<(usize, u8)>,
    /// What is added; the address, without registers.
    pub displacement: i64,
}

impl Form {
    /// The form of a memory operand, if it is as wide as the mode's (`word` bytes) and not relative to FS or GS.
    pub fn of(i: &Instruction, word: u32) -> Option<Self> {
        if matches!(i.memory_segment(), Register::FS | Register::GS) || address_is_64(i) != (word == 8) {
            return None;
        }
        if i.is_ip_rel_memory_operand() {
            let displacement = i.ip_rel_memory_address() as i64;
            return (i.memory_base() == Register::RIP).then_some(Self {
                base: None,
                index: None,
                displacement,
            });
        }
        let number = |register: Register| register.is_gpr().then(|| register.number());
        let other = |register: Register| register.is_gpr() && register.size() != word as usize;
        if other(i.memory_base()) || other(i.memory_index()) {
            return None;
        }
        let base = number(i.memory_base());
        let index = number(i.memory_index()).map(|n| (n, i.memory_index_scale().trailing_zeros() as u8));
        let displacement = i.memory_displacement64() as i64;
        if word == 4 {
            // What a sum has beyond 32 bits does not count.
            let constant = base.is_none() && index.is_none();
            let displacement =
                if constant { displacement & 0xffff_ffff } else { (displacement as i32).into() };
            return Some(Self { base, index, displacement });
        }
        ((base.is_some() || index.is_some()) && displacement.abs() < 1 << 30).then_some(Self {
            base,
            index,
            displacement,
        })
    }

    /// If only one register takes part, and it lives in a host register: that, and the displacement.
    pub fn direct(&self) -> Option<(u8, i32)> {
        match (self.base.map(home), self.index) {
            (Some(Home::Host(host)), None) if self.displacement.abs() < 1 << 30 => {
                Some((host, self.displacement as i32))
            }
            _ => None,
        }
    }

    /// No register takes part.
    pub fn is_constant(&self) -> bool {
        self.base.is_none() && self.index.is_none()
    }
}

/// How the memory operands of forms are accessed; iced's answer costs time, and is always the same.
#[derive(Default)]
pub struct MemoryAccesses {
    known: Vec<Option<OpAccess>>,
}

impl MemoryAccesses {
    /// The access to the memory operand of an instruction, which is operand `n`.
    pub fn of(&mut self, factory: &mut InstructionInfoFactory, i: &Instruction, n: u32) -> OpAccess {
        let code = i.code() as usize;
        if self.known.len() <= code {
            self.known.resize(code + 1, None);
        }
        *self.known[code].get_or_insert_with(|| factory.info(i).op_access(n))
    }
}

/// Where an access stands in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The group's number in the block.
    pub group: usize,
    /// Distance of the group's first byte from this access: zero or below.
    pub offset: i64,
    /// The group's check has seen that it is aligned.
    pub aligned: bool,
    /// The group has room for all that its index register, a byte, can be.
    pub any_index: bool,
}

/// A group.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    key: Key,
    min: i64,
    max: i64,
    members: u32,
    /// Something in it is written.
    pub write: bool,
    /// Slot in the frame; [`NO_SLOT`] if it did not get one: then it is none.
    pub slot: usize,
    /// The first and the last instruction in it.
    first: usize,
    last: usize,
    /// An alignment that is checked, in bytes, and the distance of the place that has it from the first byte.
    pub alignment: Option<(u32, i64)>,
    /// Its first byte by the registers' values at the start of the block, if that is known.
    pub entry: Option<Form>,
    /// How far it moves from the start of the block to its end, if that is known.
    pub stride: Option<i64>,
}

impl Group {
    /// Bytes from the first to the last.
    pub fn size(&self) -> u32 {
        (self.max - self.min) as u32
    }
}

/// The accesses of one instruction.
#[derive(Clone, Copy, Default, Debug)]
pub struct Accesses {
    /// Its memory operand.
    pub operand: Option<Member>,
    /// What it pushes or pops.
    pub stack: Option<Member>,
}

/// The groups of a block, and where each instruction stands.
#[derive(Default, Debug)]
pub struct Groups {
    /// By number.
    pub groups: Vec<Group>,
    /// By instruction.
    pub accesses: Vec<Accesses>,
}

/// What is known of a register: its distance from the value that it had when it was last written otherwise.
#[derive(Clone, Copy, Default)]
struct Tracked {
    delta: i64,
    /// Counts these values.
    version: u32,
}

/// What accesses of a group have in common: the registers, with the versions of their values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    base: Option<(usize, u32)>,
    index: Option<(usize, u32, u8)>,
}

impl Group {
    fn is_placed(&self) -> bool {
        self.slot != NO_SLOT
    }
}

/// The state of the search.
#[derive(Default)]
struct Search {
    registers: [Tracked; 16],
    /// The groups that may still get members.
    open: [Option<(Key, usize)>; OPEN],
    groups: Vec<Group>,
    /// The present instruction.
    now: usize,
    /// Registers that are known to hold no more than a byte.
    bytes: u16,
}

impl Search {
    /// The group for an access.
    fn member(&mut self, form: Form, size: i64, write: bool, aligned: Option<u32>) -> Option<Member> {
        let delta = |n: usize| self.registers[n].delta;
        let from = form
            .displacement
            .wrapping_add(form.base.map_or(0, delta))
            .wrapping_add(form.index.map_or(0, |(n, scale)| delta(n) << scale));
        let version = |n: usize| self.registers[n].version;
        let key = Key {
            base: form.base.map(|n| (n, version(n))),
            index: form.index.map(|(n, scale)| (n, version(n), scale)),
        };
        let to = from.checked_add(size)?;
        let known = self.open.iter().position(|open| open.is_some_and(|(other, _)| other == key));
        if let Some(slot) = known
            && let Some((_, number)) = self.open[slot]
        {
            let group = &mut self.groups[number];
            let (min, max) = (group.min.min(from), group.max.max(to));
            // Addresses without registers may be anywhere.
            let inside = (min, max) == (group.min, group.max);
            if inside || max.checked_sub(min).is_some_and(|span| span <= SPAN) {
                (group.min, group.max) = (min, max);
                group.write |= write;
                group.members += 1;
                group.last = self.now;
                group.align(aligned, from);
                return Some(Member { group: number, offset: from, aligned: false, any_index: false });
            }
            self.open[slot] = None;
        }
        // Without a free place, the one that has waited longest for a member gives way.
        let waited = |open: &Option<(Key, usize)>| open.map_or(0, |(_, number)| self.groups[number].last + 1);
        let place = (0..OPEN).min_by_key(|&n| waited(&self.open[n]))?;
        let number = self.groups.len();
        self.open[place] = Some((key, number));
        let alignment = aligned.map(|aligned| (aligned, from));
        let initial = |version: u32| version == 0;
        let entry = (form.base.is_none_or(|n| initial(version(n)))
            && form.index.is_none_or(|(n, _)| initial(version(n))))
        .then_some(form);
        let (members, stride) = (1, None);
        let (slot, first, last) = (NO_SLOT, self.now, self.now);
        let group =
            Group { key, min: from, max: to, members, write, slot, first, last, alignment, entry, stride };
        self.groups.push(group);
        // The offset is completed when the group's minimum is known.
        Some(Member { group: number, offset: from, aligned: false, any_index: false })
    }

    /// The group for an access to a table by an index that is no more than a byte: it has room for the whole table, if that lies
    /// in a page now (`registers` is what they are at the start of the block).
    fn table(&mut self, form: Form, size: i64, write: bool, registers: &[u64]) -> Option<Member> {
        let (base, (index, scale)) = (form.base?, form.index?);
        let size = size + (0xff << scale);
        let Tracked { delta, version } = self.registers[base];
        let first = registers.get(base)?.wrapping_add_signed(form.displacement).wrapping_add_signed(delta);
        let in_a_page = (first ^ first.wrapping_add_signed(size - 1)) & !PAGE_MASK == 0;
        if self.bytes >> index & 1 == 0 || version != 0 || !in_a_page {
            return None;
        }
        let member = self.member(Form { index: None, ..form }, size, write, None)?;
        Some(Member { any_index: true, ..member })
    }

    /// At the end of a block that leads to its start: completes what is known of groups at the start.
    fn close(&mut self) {
        let registers = &self.registers;
        let keys: Vec<Key> = self.groups.iter().map(|group| group.key).collect();
        for group in &mut self.groups {
            // One of several off the same registers is too far from the others: they all move on.
            let own = keys.iter().filter(|key| **key == group.key).count() == 1;
            let near = group.min.abs() < 1 << 30;
            group.entry =
                group.entry.filter(|_| own && near).map(|form| Form { displacement: group.min, ..form });
            let moved = |n: usize| (registers[n].version == 0).then_some(registers[n].delta);
            group.stride = group.entry.and_then(|form| {
                let base = form.base.map_or(Some(0), moved)?;
                let index = form.index.map_or(Some(0), |(n, scale)| Some(moved(n)? << scale))?;
                Some(base.wrapping_add(index))
            });
            group.entry = group.entry.filter(|_| group.members > 1 || group.stride.is_some());
        }
    }

    /// Gives the groups that are worth it their slots: those that are known at the start of a loop for all of it, others from their
    /// first to their last member.
    fn place(&mut self, looping: bool) {
        // By slot: the last instruction that wants it, plus one.
        let mut taken = [0; SLOTS];
        if looping {
            let mut known: Vec<&mut Group> =
                self.groups.iter_mut().filter(|group| group.entry.is_some()).collect();
            known.sort_by_key(|group| core::cmp::Reverse(group.members));
            for group in known {
                match taken.iter().position(|&last| last == 0) {
                    Some(slot) => (group.slot, taken[slot]) = (slot, usize::MAX),
                    None => (group.entry, group.stride) = (None, None),
                }
            }
        }
        for group in self.groups.iter_mut().filter(|group| !group.is_placed() && group.members > 1) {
            if let Some(slot) = taken.iter().position(|&last| last <= group.first) {
                (group.slot, taken[slot]) = (slot, group.last + 1);
            }
        }
    }

    /// A register gets a new value.
    fn forget(&mut self, n: usize) {
        self.bytes &= !(1 << (n & 15));
        let tracked = &mut self.registers[n & 15];
        *tracked = Tracked { delta: 0, version: tracked.version + 1 };
        for open in &mut self.open {
            let uses = open.is_some_and(|(key, _)| {
                key.base.is_some_and(|(base, _)| base == n) || key.index.is_some_and(|(index, ..)| index == n)
            });
            if uses {
                *open = None;
            }
        }
    }
}

impl Group {
    /// Notes that the access at `at` has to be aligned.
    fn align(&mut self, aligned: Option<u32>, at: i64) {
        let Some(aligned) = aligned else { return };
        self.alignment = Some(match self.alignment {
            Some((old, place)) if old >= aligned || at.wrapping_sub(place) & (i64::from(old) - 1) != 0 => {
                (old, place)
            }
            _ => (aligned, at),
        });
    }
}

/// Finds the groups of a block of 64-bit code (`word` 8) or 32-bit code (4). If it is `looping`, its end leads to its start.
/// `registers` are the general ones, where it is likely to begin.
pub fn find(
    guests: &[Guest],
    word: u32,
    looping: bool,
    registers: &[u64],
    factory: &mut InstructionInfoFactory,
    accesses: &mut MemoryAccesses,
) -> Groups {
    let bytes = i64::from(word);
    // Most blocks have none; the look at each instruction costs more than this one.
    let candidates = guests.iter().filter(|guest| {
        matches!(emit_of(guest.decoded.code()), Some(Emit::Push | Emit::Call | Emit::Pop | Emit::Return))
            || guest.decoded.memory_base() != Register::None
            || guest.decoded.memory_index() != Register::None
            || word == 4 && guest.decoded.memory_displ_size() == 4
    });
    let least = if looping { 1 } else { 2 };
    if candidates.take(least).count() < least {
        return Groups::default();
    }
    let mut found = Vec::with_capacity(guests.len());
    let mut search = Search::default();
    const SP: Form = Form { base: Some(4), index: None, displacement: 0 };
    for (n, guest) in guests.iter().enumerate() {
        search.now = n;
        let i = &guest.decoded;
        let emit = emit_of(i.code()).filter(|_| !guest.barred);
        let mut now = Accesses::default();
        if let Some(Emit::Same | Emit::Vector(_)) = emit
            && let Some(n) = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory)
            && let Some(form) = Form::of(i, word)
        {
            let access = accesses.of(factory, i, n);
            let write = !matches!(access, OpAccess::Read | OpAccess::CondRead);
            let size = i.memory_size().size() as i64;
            if (1..=64).contains(&size) {
                let aligned = alignment(i);
                let table = if word == 8 && aligned.is_none() {
                    search.table(form, size, write, registers)
                } else {
                    None
                };
                now.operand = table.or_else(|| search.member(form, size, write, aligned));
            }
        }
        now.stack = match emit {
            Some(Emit::Push | Emit::System(System::Pushf) | Emit::Call) => {
                search.member(Form { displacement: -bytes, ..SP }, bytes, true, None)
            }
            Some(Emit::Pop | Emit::System(System::Popf) | Emit::Return) => {
                search.member(SP, bytes, false, None)
            }
            _ => None,
        };
        found.push(now);
        follow(i, emit, word, factory, &mut search);
    }
    if looping {
        search.close();
    }
    search.place(looping);
    let groups = &search.groups;
    for (accesses, guest) in found.iter_mut().zip(guests) {
        let aligned = alignment(&guest.decoded);
        for member in [&mut accesses.operand, &mut accesses.stack] {
            *member = member.filter(|member| groups[member.group].is_placed()).map(|member| {
                let group = &groups[member.group];
                let known = |aligned| {
                    group.alignment.is_some_and(|(of, at)| {
                        aligned <= of && at.wrapping_sub(member.offset) & (i64::from(aligned) - 1) == 0
                    })
                };
                let aligned = aligned.is_some_and(known);
                Member { offset: group.min - member.offset, aligned, ..member }
            });
        }
    }
    for group in &mut search.groups {
        group.alignment = group.alignment.map(|(aligned, at)| (aligned, at - group.min));
    }
    Groups { groups: search.groups, accesses: found }
}

/// Follows what an instruction does to the registers.
fn follow(
    i: &Instruction,
    emit: Option<Emit>,
    word: u32,
    factory: &mut InstructionInfoFactory,
    search: &mut Search,
) {
    let bytes = i64::from(word);
    // Of registers of the mode's width.
    let immediate = |i: &Instruction| match i.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(i.immediate(1) as i64),
        OpKind::Immediate8to32 | OpKind::Immediate32 => Some((i.immediate(1) as i32).into()),
        _ => None,
    };
    let register = i.op0_register();
    let whole = register.is_gpr() && register.size() == word as usize;
    let constant = match (emit, i.mnemonic()) {
        (Some(Emit::Push | Emit::System(System::Pushf) | Emit::Call), _) => Some((4, -bytes)),
        (Some(Emit::System(System::Popf)), _) => Some((4, bytes)),
        (Some(Emit::Return), _) if i.op_count() == 0 => Some((4, bytes)),
        (Some(Emit::Pop), _) if i.op0_kind() == OpKind::Register && register.number() != 4 => {
            search.forget(register.number());
            Some((4, bytes))
        }
        (Some(Emit::Same), Mnemonic::Add) if whole => immediate(i).map(|by| (register.number(), by)),
        (Some(Emit::Same), Mnemonic::Sub) if whole => {
            immediate(i).map(|by| (register.number(), by.wrapping_neg()))
        }
        (Some(Emit::Same), Mnemonic::Inc) if whole => Some((register.number(), 1)),
        (Some(Emit::Same), Mnemonic::Dec) if whole => Some((register.number(), -1)),
        (Some(Emit::Lea), _) if whole => Form::of(i, word)
            .filter(|form| form.base == Some(register.number()) && form.index.is_none())
            .map(|form| (register.number(), form.displacement)),
        _ => None,
    };
    match constant {
        // Far jumps of a pointer would overflow the spans.
        Some((n, by)) if search.registers[n].delta.checked_add(by).is_some_and(|sum| sum.abs() < 1 << 40) => {
            search.registers[n].delta += by;
            search.bytes &= !(1 << n);
        }
        _ => {
            if let Some(written) = only_operand_0(i, emit) {
                if let Some(n) = written {
                    search.forget(n);
                    if is_byte(i) {
                        search.bytes |= 1 << n;
                    }
                }
                return;
            }
            let info = factory.info_options(i, InstructionInfoOptions::NO_MEMORY_USAGE);
            for used in info.used_registers() {
                let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
                if writes && used.register().is_gpr() {
                    search.forget(used.register().full_register().number());
                }
            }
        }
    }
}

/// Whether the instruction, one of those that write no other general register, leaves no more than a byte in its destination.
fn is_byte(i: &Instruction) -> bool {
    let masked = || {
        let immediate = !matches!(i.op1_kind(), OpKind::Register | OpKind::Memory);
        i.mnemonic() == Mnemonic::And && immediate && i.immediate(1) <= 0xff && i.op0_register().size() >= 4
    };
    matches!(i.code(), Code::Movzx_r32_rm8 | Code::Movzx_r64_rm8) || masked()
}

/// For frequent instructions that write at most one general register, their first operand: which one, if any. `None` for
/// all other instructions.
fn only_operand_0(i: &Instruction, emit: Option<Emit>) -> Option<Option<usize>> {
    use Mnemonic::*;
    let operand = || {
        let register = i.op0_register();
        (i.op0_kind() == OpKind::Register && register.is_gpr()).then(|| register.full_register().number())
    };
    match (emit?, i.mnemonic()) {
        (Emit::Nothing | Emit::Jump | Emit::Branch, _) | (Emit::Same, Cmp | Test | Bt) => Some(None),
        (Emit::Vector(_) | Emit::Lea, _) => Some(operand()),
        (
            Emit::Same,
            Mov | Movzx | Movsx | Movsxd | Add | Or | Adc | Sbb | And | Sub | Xor | Inc | Dec | Neg | Not
            | Shl | Shr | Sar,
        ) => Some(operand()),
        _ => None,
    }
}
