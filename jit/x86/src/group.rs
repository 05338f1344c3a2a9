//! Groups of memory accesses off the same registers: one TLB check serves them all.
//!
//! The registers' values are followed ([`crate::values`]); accesses whose distance from each other is therefore known form
//! a group, if they lie close together. The first one checks the whole range. If the range is not in one page, or not to be
//! had without a slow path, the rest of the block is left for a [translation](Grouping) with other groups, or without.
//!
//! What a check finds is kept in the frame as the group's *anchor*: what is missing from it to a member's host address is at
//! most what the block's rounds, or the instruction itself, add to the registers.

use crate::classify::{Emit, System, alignment};
use crate::emit::Guest;
use crate::frame::{Home, home};
use crate::gather;
use crate::rounds::FARTHEST;
use crate::values::{FAR, Form, Registers, Root, Value, Values};
use crate::window;
use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};
use ringworld_core::{PAGE_MASK, PAGE_SHIFT};

/// Most bytes between the first and the last byte of a group off registers: longer ones would straddle pages too often.
const SPAN: i64 = 1024;
/// Slots in the frame for anchors of groups.
pub const SLOTS: usize = 8;

/// The groups that a translation has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Grouping {
    /// As long as they may be: they are in one page more often than not.
    Whole,
    /// They end where pages do, by what the registers are when the block is translated.
    ByPage,
    /// The same, by other registers than those that another translation was made for.
    ByOtherPage,
    /// None.
    None,
}

/// Number of the guest's stack pointer.
const RSP: u8 = 4;

const NO_SLOT: usize = usize::MAX;
/// Groups that may get members at a time.
const OPEN: usize = 12;
/// Groups of a block at most, and of each of the two parts of one that begins before a loop.
pub const GROUPS: usize = 128;
const GROUPS_OF_PART: usize = GROUPS / 2;

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

/// What a group's slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    /// Host addresses minus linear addresses.
    Distance,
    /// That plus the base's value.
    Base,
    /// Or plus the scaled index.
    Index,
    /// The host address of the group's first byte.
    First,
}

/// Where an access stands in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The group's number in the block.
    pub group: usize,
    /// Its linear address.
    pub own: Form,
    /// Distance of the group's first byte from this access: zero or below.
    pub offset: i64,
    /// How far the base, and the scaled index, are from the values that the group's anchor is about.
    pub moved: (i64, i64),
    /// What is missing from the group's anchor to its host address.
    pub rest: Form,
    /// The group's check has seen that it is aligned.
    pub aligned: bool,
    /// The group has room for all that its index register, a byte, can be.
    pub any_index: bool,
}

impl Member {
    /// The linear address of the group's first byte.
    pub fn first(&self) -> Form {
        let displacement = self.own.displacement.wrapping_add(self.offset);
        let index = self.own.index.filter(|_| !self.any_index);
        Form { displacement, index, ..self.own }
    }
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
    /// What its slot holds.
    pub anchor: Anchor,
    /// Pushes and pops are in it, which want its [distance](Anchor::Distance).
    stack: bool,
    /// All its members' addresses are those of pinned registers and a constant.
    direct: bool,
    /// It is accessed in a [window](crate::window), wherever in it.
    pub window: bool,
    /// By number, registers that what it is about moves by.
    pub steps: u16,
}

impl Group {
    /// Bytes from the first to the last.
    pub fn size(&self) -> u32 {
        (self.max - self.min) as u32
    }

    /// Accesses in it.
    pub fn members(&self) -> u32 {
        self.members
    }

    fn is_placed(&self) -> bool {
        self.slot != NO_SLOT || self.window
    }

    /// Whether it is elsewhere in the next round of a loop.
    pub fn moves(&self) -> bool {
        !self.window && self.entry.is_some() && self.stride.is_some_and(|stride| stride != 0)
    }

    /// Whether what is aligned stays so when it moves by `stride`.
    fn keeps_alignment(&self, stride: i64) -> bool {
        self.alignment.is_none_or(|(alignment, _)| stride & (i64::from(alignment) - 1) == 0)
    }

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

/// The accesses of one instruction: numbers in [`Groups::members`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Accesses {
    /// Its memory operand.
    pub operand: Option<u16>,
    /// What it pushes or pops.
    pub stack: Option<u16>,
}

/// The groups of a block, and where each instruction stands.
#[derive(Default, Debug)]
pub struct Groups {
    /// By number.
    pub groups: Vec<Group>,
    /// By instruction.
    pub accesses: Vec<Accesses>,
    /// By number.
    pub members: Vec<Member>,
    /// If the block leads to its start: another round has only to see that its groups stay in their pages.
    pub easy: bool,
}

impl Groups {
    /// The member of this number, if it is in a group.
    pub fn member(&self, number: Option<u16>) -> Option<Member> {
        self.members.get(usize::from(number?)).copied().filter(|member| self.groups[member.group].is_placed())
    }

    /// The first instruction from `n` on that accesses a group.
    pub fn next_use(&self, group: usize, n: usize) -> usize {
        let uses = |number: Option<u16>| {
            number.and_then(|number| self.members.get(usize::from(number))).is_some_and(|m| m.group == group)
        };
        let mut next = self.accesses.iter().skip(n);
        next.position(|accesses| uses(accesses.operand) || uses(accesses.stack))
            .map_or(usize::MAX, |at| n + at)
    }
}

/// What accesses of a group have in common: the registers' values that are added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    base: Option<Root>,
    index: Option<(Root, u8)>,
    /// Of an address without registers: its page. So it is for all [by page](Grouping::ByPage), as far as it is known.
    page: Option<i64>,
    /// Of an address without registers: whether it is pushed or popped, by way of a register that holds it. Others are at a
    /// displacement from the group's first byte, as the whole address is more than one can hold; so the two share no group.
    stack: bool,
    /// See [`Group::window`].
    window: bool,
}

/// The state of the search.
#[derive(Default)]
struct Search {
    values: Values,
    /// If groups are to end [where pages do](Grouping::ByPage): what registers are at the start, and the bits of a sum that an
    /// address has.
    by_page: Option<(Registers, u64)>,
    /// If the block has a window: its chunk, and what registers are at the start.
    window: Option<(u8, Registers)>,
    /// The part's end leads to its start.
    looping: bool,
    /// The groups that may still get members.
    open: [Option<(Key, usize)>; OPEN],
    groups: Vec<Group>,
    members: Vec<Member>,
    /// The present instruction.
    now: usize,
}

impl Search {
    /// The group for an access.
    fn member(
        &mut self,
        own: Form,
        size: i64,
        write: bool,
        aligned: Option<u32>,
        stack: bool,
    ) -> Option<u16> {
        let base = own.base.map(|n| self.values.of(n));
        let index = own.index.map(|(n, scale)| (self.values.of(n), scale));
        let moved =
            (base.map_or(0, |value| value.delta), index.map_or(0, |(value, scale)| value.delta << scale));
        let from = own.displacement.wrapping_add(moved.0).wrapping_add(moved.1);
        let to = from.checked_add(size)?;
        let far = |value: Option<Value>, moved: i64| {
            value.is_some_and(|value| value.root.is_some()) && moved.unsigned_abs() >= FAR as u64 / 2
        };
        // What is missing from an anchor has to fit a displacement.
        if far(base, moved.0) || far(index.map(|(value, _)| value), moved.1) {
            return None;
        }
        let base = base.and_then(|value| value.root);
        let index = index.and_then(|(value, scale)| Some((value.root?, scale)));
        let (mut base, mut index, mut steps) = (base, index, 0);
        let window = !stack && self.is_shown(own);
        if self.looping && window {
            // The window is wide enough for all rounds.
            for root in base.iter_mut().chain(index.iter_mut().map(|(root, _)| root)) {
                if let Some(walk) = self.values.walk(*root) {
                    *root = walk.from;
                    steps |= 1 << walk.by;
                }
            }
        }
        let fixed = base.is_none() && index.is_none();
        let at = if fixed { Some(from) } else { self.likely(own) }.filter(|_| !window);
        let page = at.map(|at| at >> PAGE_SHIFT);
        let key = Key { base, index, page, stack: stack && fixed, window };
        if at.is_some_and(|at| (at ^ at.wrapping_add(size - 1)) >> PAGE_SHIFT != 0) {
            return None;
        }
        let pinned = own.base.is_some_and(|n| matches!(home(n.into()), Home::Host(_)));
        let direct = pinned && own.index.is_none();
        let known = self.open.iter().position(|open| open.is_some_and(|(other, _)| other == key));
        let mut place = None;
        if let Some(slot) = known
            && let Some((_, number)) = self.open[slot]
        {
            let group = &mut self.groups[number];
            let (min, max) = (group.min.min(from), group.max.max(to));
            if fixed || window || max.checked_sub(min).is_some_and(|span| span <= SPAN) {
                (group.min, group.max) = (min, max);
                group.write |= write;
                group.steps |= steps;
                group.members += 1;
                group.last = self.now;
                group.direct &= direct;
                group.align(aligned, from);
                return self.add(number, own, from, moved);
            }
            place = Some(slot);
        }
        if self.groups.len() == GROUPS_OF_PART {
            return None;
        }
        // Without a free place, the one that has waited longest for a member gives way.
        let waited = |open: &Option<(Key, usize)>| open.map_or(0, |(_, number)| self.groups[number].last + 1);
        let place = place.or_else(|| (0..OPEN).min_by_key(|&n| waited(&self.open[n])))?;
        let number = self.groups.len();
        self.open[place] = Some((key, number));
        let initial = |root: Root| root.version == 0;
        let known = key.base.is_none_or(initial) && key.index.is_none_or(|(root, _)| initial(root));
        let entry = known.then_some(Form {
            base: key.base.map(|root| root.register),
            index: key.index.map(|(root, scale)| (root.register, scale)),
            displacement: 0,
        });
        self.groups.push(Group {
            key,
            min: from,
            max: to,
            members: 1,
            write,
            slot: NO_SLOT,
            first: self.now,
            last: self.now,
            alignment: aligned.map(|aligned| (aligned, from)),
            entry,
            stride: None,
            anchor: Anchor::Distance,
            stack: false,
            direct,
            window,
            steps,
        });
        self.add(number, own, from, moved)
    }

    /// Whether an access is likely to be in the block's window.
    fn is_shown(&self, own: Form) -> bool {
        let Some((chunk, registers)) = &self.window else { return false };
        let known = |n: u8| self.values.known(n, registers);
        match (own.base, own.index) {
            (None, None) => window::chunk_of(own.displacement as u64) == Some(*chunk),
            (None, Some(_)) => *chunk == 0,
            (Some(base), _) if self.values.of(base).root.is_some_and(|root| root.register == RSP) => false,
            (Some(base), index) => {
                let index = index.and_then(|(n, scale)| Some(known(n)? << scale)).unwrap_or(0);
                let address = |base: u64| base.wrapping_add(index).wrapping_add_signed(own.displacement);
                known(base)
                    .is_none_or(|base| [base, address(base)].map(window::chunk_of).contains(&Some(*chunk)))
            }
        }
    }

    /// The address of an access, if groups are to end where pages do and it is likely to be this one.
    fn likely(&self, own: Form) -> Option<i64> {
        let (registers, mask) = self.by_page.as_ref()?;
        let base = own.base.map_or(Some(0), |n| self.values.known(n, registers))?;
        let index =
            own.index.map_or(Some(0), |(n, scale)| Some(self.values.known(n, registers)? << scale))?;
        Some((base.wrapping_add(index).wrapping_add_signed(own.displacement) & mask) as i64)
    }

    fn add(&mut self, group: usize, own: Form, from: i64, moved: (i64, i64)) -> Option<u16> {
        let number = u16::try_from(self.members.len()).ok()?;
        // The offset and the rest are completed when all of the group is known.
        let (aligned, any_index) = (false, false);
        self.members.push(Member { group, own, offset: from, moved, rest: own, aligned, any_index });
        Some(number)
    }

    /// The group for an access to a table by an index that is no more than a byte: it has room for the whole table, if that lies
    /// in a page now (`registers` is what they are at the start of the block).
    fn table(&mut self, own: Form, size: i64, write: bool, registers: &Registers) -> Option<u16> {
        let (base, (index, scale)) = (own.base?, own.index?);
        if !self.values.is_byte(index) || self.is_shown(own) {
            return None;
        }
        let size = size + (0xff << scale);
        let first = self.values.known(base, registers)?.wrapping_add_signed(own.displacement);
        if (first ^ first.wrapping_add_signed(size - 1)) & !PAGE_MASK != 0 {
            return None;
        }
        let number = self.member(Form { index: None, ..own }, size, write, None, false)?;
        let member = self.members.last_mut()?;
        (member.own, member.any_index) = (own, true);
        self.groups[member.group].direct = false;
        Some(number)
    }

    /// The group for what is pushed or popped, at a distance from RSP or RBP.
    fn stack(&mut self, base: u8, displacement: i64, size: i64, write: bool) -> Option<u16> {
        let number =
            self.member(Form { base: Some(base), index: None, displacement }, size, write, None, true)?;
        let group = self.members.last()?.group;
        self.groups[group].stack = true;
        Some(number)
    }

    /// At the end of a block that leads to its start: completes what is known of groups at the start.
    fn close(&mut self) {
        let values = &self.values;
        let keys: Vec<Key> = self.groups.iter().map(|group| group.key).collect();
        for group in &mut self.groups {
            // One of several off the same registers is too far from the others: they all move on.
            let own = keys.iter().filter(|key| **key == group.key).count() == 1;
            let near = group.min.unsigned_abs() < FAR as u64;
            group.entry =
                group.entry.filter(|_| own && near).map(|form| Form { displacement: group.min, ..form });
            group.stride = group.entry.and_then(|form| {
                let (base, index) = strides(values, form, group.window.then_some(&mut group.steps))?;
                let farthest = if group.window { window::FARTHEST } else { FARTHEST };
                Some(base.wrapping_add(index)).filter(|stride| stride.unsigned_abs() <= farthest)
            });
            let worth = group.members > 1 && !group.window;
            let fixed = (0..16).all(|n| group.steps >> n & 1 == 0 || values.is_unchanged(n));
            group.entry = group.entry.filter(|_| (worth || group.stride.is_some()) && fixed);
            // Without a check before the loop, where that leads is not known: it is no group.
            if group.steps != 0 && group.entry.is_none() {
                (group.window, group.members, group.steps) = (false, 0, 0);
            }
        }
    }

    /// Gives the groups that are worth it their slots: those that are known at the start of a loop for all of it, others from their
    /// first to their last member.
    fn place(&mut self, looping: bool) {
        // By slot: the last instruction that wants it, plus one.
        let mut taken = [0; SLOTS];
        if looping {
            let mut known: Vec<&mut Group> =
                self.groups.iter_mut().filter(|group| group.entry.is_some() && !group.window).collect();
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

    /// Decides what the groups' slots hold; says whether rounds are [easy](Groups::easy).
    fn anchor(&mut self, looping: bool, word: u32) -> bool {
        let known = || self.groups.iter().filter(|group| group.entry.is_some());
        let easy = looping
            && word == 8
            && known().all(|group| group.stride.is_some_and(|stride| group.keeps_alignment(stride)));
        for group in &mut self.groups {
            let strides = group.entry.filter(|_| easy).and_then(|form| strides(&self.values, form, None));
            let (base, index) = strides.map_or((false, false), |(base, index)| (base != 0, index != 0));
            group.anchor = match (base, index) {
                _ if group.stack || group.window => Anchor::Distance,
                (true, false) if group.key.index.is_some() => Anchor::Index,
                (false, true) if group.key.base.is_some() => Anchor::Base,
                // All its members' registers are at hand.
                (false, false) if !group.direct || word == 4 => Anchor::First,
                _ => Anchor::Distance,
            };
        }
        easy
    }

    /// Completes the members.
    fn complete(&mut self) {
        for member in &mut self.members {
            let group = &self.groups[member.group];
            let from = member.offset;
            let Form { base, index, displacement } = member.own;
            member.rest = match group.anchor {
                Anchor::Distance => member.own,
                Anchor::Base => {
                    Form { base: None, index, displacement: displacement.wrapping_add(member.moved.0) }
                }
                Anchor::Index => {
                    Form { base, index: None, displacement: displacement.wrapping_add(member.moved.1) }
                }
                Anchor::First => {
                    let index = index.filter(|_| member.any_index);
                    Form { base: None, index, displacement: from.wrapping_sub(group.min) }
                }
            };
            member.offset = group.min.wrapping_sub(from);
        }
        for group in &mut self.groups {
            group.alignment = group.alignment.map(|(aligned, at)| (aligned, at - group.min));
        }
    }
}

/// How far base and scaled index move from the start of a block to its end, where `values` are what is known; beside the registers that
/// are noted in `steps`.
fn strides(values: &Values, form: Form, mut steps: Option<&mut u16>) -> Option<(i64, i64)> {
    let mut moved = |n: u8| {
        let start = Root { register: n, version: 0 };
        let Value { root, delta } = values.of(n);
        if root == Some(start) {
            return Some(delta);
        }
        let walk = values.walk(root?).filter(|walk| walk.from == start)?;
        **steps.as_mut()? |= 1 << walk.by;
        Some(delta)
    };
    let base = form.base.map_or(Some(0), &mut moved)?;
    let index = form.index.map_or(Some(0), |(n, scale)| Some(moved(n)? << scale))?;
    Some((base, index))
}

/// Finds the groups of a block, whose end leads back to its instruction `head` if that is known.
/// `registers` are the general ones, where the block is likely to begin, and whether groups are to end where pages do by them; and the
/// chunk that the block has a window of.
pub fn find_all(
    guests: &[Guest],
    word: u32,
    head: Option<usize>,
    (registers, by_page, window): (&[u64], bool, Option<u8>),
    factory: &mut InstructionInfoFactory,
    accesses: &mut MemoryAccesses,
) -> Groups {
    let mut registers: Registers = core::array::from_fn(|n| registers.get(n).copied());
    let Some(head) = head.filter(|&head| head > 0) else {
        return find(guests, word, head.is_some(), (&registers, by_page, window), factory, accesses);
    };
    let mut all = find(&guests[..head], word, false, (&registers, by_page, window), factory, accesses);
    let mut values = Values::default();
    for guest in &guests[..head] {
        values.follow(&guest.decoded, guest.emit, word, factory);
    }
    registers = core::array::from_fn(|n| values.known(n as u8, &registers));
    let inner = find(&guests[head..], word, true, (&registers, by_page, window), factory, accesses);
    all.accesses.resize(head, Accesses::default());
    let (groups, members) = (all.groups.len(), all.members.len());
    let number = |number: Option<u16>| number.map(|number| number + members as u16);
    all.accesses.extend(
        inner
            .accesses
            .iter()
            .map(|accesses| Accesses { operand: number(accesses.operand), stack: number(accesses.stack) }),
    );
    all.members.extend(inner.members.iter().map(|member| Member { group: member.group + groups, ..*member }));
    all.groups.extend(inner.groups);
    all.easy = inner.easy;
    all
}

/// Finds the groups of a part of a block of 64-bit code (`word` 8) or 32-bit code (4). If it is `looping`, its end leads to its start.
/// `registers` are the general ones, where it is likely to begin, and whether groups are to end where pages do by them.
fn find(
    guests: &[Guest],
    word: u32,
    looping: bool,
    (registers, by_page, window): (&Registers, bool, Option<u8>),
    factory: &mut InstructionInfoFactory,
    accesses: &mut MemoryAccesses,
) -> Groups {
    let bytes = i64::from(word);
    // Most blocks have none; the look at each instruction costs more than this one.
    let candidates = guests.iter().filter(|guest| {
        matches!(guest.emit, Some(Emit::Push | Emit::Call | Emit::Pop | Emit::Leave | Emit::Return))
            || guest.decoded.memory_base() != Register::None
            || guest.decoded.memory_index() != Register::None
            || word == 4 && guest.decoded.memory_displ_size() == 4
    });
    let least = if looping { 1 } else { 2 };
    if candidates.take(least).count() < least {
        return Groups::default();
    }
    let mut found = Vec::with_capacity(guests.len());
    let mask = if word == 8 { u64::MAX } else { 0xffff_ffff };
    let mut search = Search {
        by_page: by_page.then_some((*registers, mask)),
        window: window.map(|chunk| (chunk, *registers)),
        looping,
        ..Search::default()
    };
    for (n, guest) in guests.iter().enumerate() {
        search.now = n;
        let i = &guest.decoded;
        let emit = guest.emit;
        let mut now = Accesses::default();
        if let Some(Emit::Same | Emit::Vector(_) | Emit::X87(_) | Emit::Divide) = emit
            && let Some(n) = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory)
            && let Some(form) = Form::of(i, word)
        {
            let form = search.values.reduced(form, word);
            let access = accesses.of(factory, i, n);
            let write = !matches!(access, OpAccess::Read | OpAccess::CondRead);
            let size = i.memory_size().size() as i64;
            let window = search.window.take_if(|_| matches!(emit, Some(Emit::X87(_))));
            if (1..=64).contains(&size) {
                let aligned = alignment(i);
                let table = if word == 8 && aligned.is_none() {
                    search.table(form, size, write, registers)
                } else {
                    None
                };
                now.operand = table.or_else(|| search.member(form, size, write, aligned, false));
            }
            search.window = search.window.take().or(window);
        }
        if emit == Some(Emit::Gather)
            && let Some(form) = gather::base_of(i).filter(|form| search.is_shown(*form))
        {
            now.operand = search.member(form, 4, false, None, false);
        }
        now.stack = match emit {
            Some(Emit::Push | Emit::System(System::Pushf) | Emit::Call) => {
                search.stack(4, -bytes, bytes, true)
            }
            Some(Emit::Pop | Emit::System(System::Popf) | Emit::Return) => search.stack(4, 0, bytes, false),
            Some(Emit::Leave) if word == 8 => search.stack(5, 0, bytes, false),
            _ => None,
        };
        found.push(now);
        search.values.follow(i, emit, word, factory);
    }
    if looping {
        search.close();
    } else {
        search.groups.iter_mut().for_each(|group| group.entry = None);
    }
    search.place(looping);
    let easy = search.anchor(looping, word);
    // By member, whether what it wants aligned is so if its group is.
    for (accesses, guest) in found.iter().zip(guests) {
        let Some(number) = accesses.operand else { continue };
        let member = &mut search.members[usize::from(number)];
        let of_group = search.groups[member.group].alignment;
        let known = |aligned| {
            of_group.is_some_and(|(of, at)| {
                aligned <= of && at.wrapping_sub(member.offset) & (i64::from(aligned) - 1) == 0
            })
        };
        member.aligned = alignment(&guest.decoded).is_some_and(known);
    }
    search.complete();
    Groups { groups: search.groups, accesses: found, members: search.members, easy }
}
