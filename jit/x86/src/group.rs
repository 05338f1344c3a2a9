//! Groups of memory accesses off one base register: one TLB check serves them all.
//!
//! A register's value is followed through pushes, pops and additions of constants; accesses whose distance from each
//! other is therefore known form a group, if they lie close together. The first one checks the whole range. If the
//! range is not in one page, or not to be had without a slow path, the rest of the block is left for a translation
//! without groups.

use crate::classify::{Emit, emit_of};
use crate::emit::Guest;
use crate::memory::address_is_64;
use iced_x86::{
    Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};

/// Most bytes between the first and the last byte of a group: longer ones would straddle pages too often.
const SPAN: i64 = 512;
/// Slots in the frame for host addresses of groups.
pub const SLOTS: usize = 4;
/// In the place of a register: constant addresses.
const ABSOLUTE: usize = 16;

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
}

/// A group.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    min: i64,
    max: i64,
    members: u32,
    /// Something in it is written.
    pub write: bool,
    /// Slot in the frame.
    pub slot: usize,
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

#[derive(Clone, Copy, Default)]
struct Tracked {
    delta: i64,
    open: Option<usize>,
}

/// Finds the groups of a block.
pub fn find(guests: &[Guest], factory: &mut InstructionInfoFactory, accesses: &mut MemoryAccesses) -> Groups {
    // Most blocks have none; the look at each instruction costs more than this one.
    let candidates = guests.iter().filter(|guest| {
        matches!(emit_of(guest.decoded.code()), Some(Emit::Push | Emit::Call | Emit::Pop | Emit::Return))
            || plain(&guest.decoded).is_some()
    });
    if candidates.take(2).count() < 2 {
        return Groups::default();
    }
    let mut found = Groups::default();
    let mut registers = [Tracked::default(); 17];
    // Which group has each slot, and until when it may be needed is not known before the end: slots are not taken away
    // from groups that are still open.
    let mut slots: [Option<usize>; SLOTS] = [None; SLOTS];
    for guest in guests {
        let i = &guest.decoded;
        let emit = emit_of(i.code()).filter(|_| !guest.barred);
        let mut raw = [None, None];
        if let Some(Emit::Same | Emit::Vector(_)) = emit
            && let Some(n) = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory)
            && let Some((base, displacement)) = plain(i)
        {
            let access = accesses.of(factory, i, n);
            let write = !matches!(access, OpAccess::Read | OpAccess::CondRead);
            raw[0] = Some((base, displacement, i.memory_size().size() as i64, write));
        }
        raw[1] = match emit {
            Some(Emit::Push | Emit::Call) => Some((4, -8, 8, true)),
            Some(Emit::Pop | Emit::Return) => Some((4, 0, 8, false)),
            _ => None,
        };
        let mut members = [None, None];
        for (raw, member) in raw.into_iter().zip(&mut members) {
            let Some((base, displacement, size, write)) = raw else { continue };
            if !(1..=64).contains(&size) {
                continue;
            }
            let tracked = &mut registers[base];
            let from = tracked.delta.wrapping_add(displacement);
            let to = from + size;
            let fits = tracked.open.filter(|&n| {
                let group: &Group = &found.groups[n];
                group.max.max(to) - group.min.min(from) <= SPAN
            });
            let number = match fits {
                Some(number) => number,
                None => {
                    if let Some(old) = tracked.open.take() {
                        slots.iter_mut().filter(|slot| **slot == Some(old)).for_each(|slot| *slot = None);
                    }
                    let Some(slot) = slots.iter().position(Option::is_none) else { continue };
                    let number = found.groups.len();
                    slots[slot] = Some(number);
                    tracked.open = Some(number);
                    found.groups.push(Group { min: from, max: to, members: 0, write: false, slot });
                    number
                }
            };
            let group = &mut found.groups[number];
            group.min = group.min.min(from);
            group.max = group.max.max(to);
            group.write |= write;
            group.members += 1;
            // The offset is completed below, when the group's minimum is known.
            *member = Some(Member { group: number, offset: from });
        }
        found.accesses.push(Accesses { operand: members[0], stack: members[1] });
        follow(i, emit, factory, &mut registers, &mut slots);
    }
    for accesses in &mut found.accesses {
        for member in [&mut accesses.operand, &mut accesses.stack] {
            *member = member
                .filter(|member| found.groups[member.group].members > 1)
                .map(|member| Member { offset: found.groups[member.group].min - member.offset, ..member });
        }
    }
    found
}

/// Base and displacement of a memory operand that has nothing else.
fn plain(i: &Instruction) -> Option<(usize, i64)> {
    if matches!(i.memory_segment(), Register::FS | Register::GS) || !address_is_64(i) {
        return None;
    }
    if i.is_ip_rel_memory_operand() {
        return (i.memory_base() == Register::RIP).then(|| (ABSOLUTE, i.ip_rel_memory_address() as i64));
    }
    if i.memory_index() != Register::None || !i.memory_base().is_gpr64() {
        return None;
    }
    let displacement = i.memory_displacement64() as i64;
    (displacement.abs() < 1 << 30).then(|| (i.memory_base().number(), displacement))
}

/// Follows what an instruction does to the registers.
fn follow(
    i: &Instruction,
    emit: Option<Emit>,
    factory: &mut InstructionInfoFactory,
    registers: &mut [Tracked; 17],
    slots: &mut [Option<usize>; SLOTS],
) {
    let immediate = |i: &Instruction| match i.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(i.immediate(1) as i64),
        _ => None,
    };
    let register = i.op0_register();
    let constant = match (emit, i.mnemonic()) {
        (Some(Emit::Push), _) => Some((4, -8)),
        (Some(Emit::Pop), _) if i.op0_kind() == OpKind::Register && register != Register::RSP => {
            forget(registers, slots, register.number());
            Some((4, 8))
        }
        (Some(Emit::Same), Mnemonic::Add) if register.is_gpr64() => {
            immediate(i).map(|by| (register.number(), by))
        }
        (Some(Emit::Same), Mnemonic::Sub) if register.is_gpr64() => {
            immediate(i).map(|by| (register.number(), by.wrapping_neg()))
        }
        (Some(Emit::Same), Mnemonic::Inc) if register.is_gpr64() => Some((register.number(), 1)),
        (Some(Emit::Same), Mnemonic::Dec) if register.is_gpr64() => Some((register.number(), -1)),
        (Some(Emit::Lea), _) if register.is_gpr64() => {
            plain(i).filter(|(base, _)| *base == register.number())
        }
        _ => None,
    };
    match constant {
        // Far jumps of a pointer would overflow the spans.
        Some((n, by)) if registers[n].delta.checked_add(by).is_some_and(|sum| sum.abs() < 1 << 40) => {
            registers[n].delta += by;
        }
        _ => {
            if let Some(written) = only_operand_0(i, emit) {
                if let Some(n) = written {
                    forget(registers, slots, n);
                }
                return;
            }
            let info = factory.info_options(i, InstructionInfoOptions::NO_MEMORY_USAGE);
            for used in info.used_registers() {
                let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
                if writes && used.register().is_gpr() {
                    forget(registers, slots, used.register().full_register().number());
                }
            }
        }
    }
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

fn forget(registers: &mut [Tracked; 17], slots: &mut [Option<usize>; SLOTS], n: usize) {
    if let Some(open) = registers[n].open {
        slots.iter_mut().filter(|slot| **slot == Some(open)).for_each(|slot| *slot = None);
    }
    registers[n] = Tracked::default();
}
