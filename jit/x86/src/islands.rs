//! Short jumps out of the block, which fall through as long as all is well.
//!
//! Jumps that leave the flags alone (JRCXZ, LOOP) reach 127 bytes, and the cold code is farther away: they lead to *islands*,
//! near jumps that nobody falls into. Some room for islands is before the block's start, the others follow its end, or
//! lie in a gap that a jump leads over where the end is too far. The alternative, skipping a near jump whenever all is
//! well, costs a taken branch for each check: in a boot, a twelfth of the time for each of the three or four of a block.
//!
//! LOOP jumps unless RCX is 1. Where it is slow, all jumps are near ones, skipped by JRCXZ, and RCX has to be 0.

use crate::emit::Emitter;
use crate::stubs::{jrcxz, land8, near};
use dynasmrt::{DynasmApi, dynasm};
use ringworld_core::PAGE_SIZE;

/// Bytes of an island.
const ISLAND: usize = 5;
/// Islands before the block's start: for its page, its budget, and a check.
const RESERVED: usize = 3;
/// Bytes before the block's start, if jumps are short; a multiple of what code is aligned to.
pub const LEAD: usize = (RESERVED * ISLAND).next_multiple_of(16);
/// Bytes of a check of a memory access, at most.
pub const CHECK: usize = 60;
/// Bytes of an instruction without a check, as a rule.
pub const PLAIN: usize = 48;
/// How far a short jump reaches forward, and backward.
const FORWARD: usize = 127;
const BACKWARD: usize = 128;
/// Added to the number of an island: what stands for its displacement's end until that is known.
const UNKNOWN: usize = 1 << 40;

/// The islands of a block.
#[derive(Default)]
pub struct Islands {
    /// Jumps are short.
    pub short: bool,
    /// Ends of short jumps' displacements, and the numbers of the islands that they wait for.
    pending: Vec<(usize, usize)>,
    /// By number: the end of the displacement of the island's jump.
    ends: Vec<usize>,
    /// Used ones of those before the start.
    reserved: usize,
    /// Counts gaps.
    gaps: u32,
    /// A jump does not reach its island: the block has to be emitted with near ones.
    pub lost: bool,
}

/// What is undone if an instruction cannot be emitted after all.
#[derive(Clone, Copy)]
pub struct Mark {
    pending: usize,
    ends: usize,
    reserved: usize,
    gaps: u32,
}

impl Islands {
    /// Starts a block.
    pub fn clear(&mut self, short: bool) {
        self.pending.clear();
        self.ends.clear();
        (self.short, self.reserved, self.gaps, self.lost) = (short, 0, 0, false);
    }

    /// The state now.
    pub fn mark(&self) -> Mark {
        Mark { pending: self.pending.len(), ends: self.ends.len(), reserved: self.reserved, gaps: self.gaps }
    }

    /// Back to a state.
    pub fn undo(&mut self, mark: Mark) {
        // Islands that earlier jumps wait for are gone.
        self.lost |= self.gaps != mark.gaps;
        self.pending.truncate(mark.pending);
        self.ends.truncate(mark.ends);
        self.reserved = mark.reserved;
    }

    /// Whether all would be reached if the islands began at `start`.
    fn reach(&self, start: usize) -> bool {
        self.pending.iter().enumerate().all(|(n, (end, _))| start + n * ISLAND - end <= FORWARD)
    }
}

impl Emitter<'_> {
    /// What RCX has to be so that all is well, see [`Self::unless_unit`].
    pub(crate) fn unit(&self) -> i32 {
        self.drafts.islands.short.into()
    }

    /// What a matching tag of the TLB, whose quotient by 4096 is one, lacks to the [unit](Self::unit).
    pub(crate) fn tag_to_unit(&self) -> i32 {
        (self.unit() - 1) << 12
    }

    /// What a matching tag lacks to that and, in the lowest bits, the [unit](Self::unit).
    pub(crate) fn tag_to_aligned_unit(&self) -> i32 {
        self.unit() - PAGE_SIZE as i32
    }

    /// Adds the [unit](Self::unit) to RCX.
    pub(crate) fn add_unit(&mut self) {
        self.lea_base(1, true, 1, self.unit());
    }

    /// A jump that is taken unless RCX is the [unit](Self::unit); what it leads to is landed by [`Self::land`].
    pub(crate) fn unless_unit(&mut self) -> usize {
        if self.drafts.islands.short {
            return self.short(0xe2);
        }
        let fits = jrcxz(self.s);
        let from = near(self.s, 0);
        land8(self.s, fits);
        from
    }

    /// The same unless RCX is zero.
    pub(crate) fn unless_rcx_zero(&mut self) -> usize {
        self.add_unit();
        self.unless_unit()
    }

    /// The same if RCX is zero.
    pub(crate) fn if_rcx_zero(&mut self) -> usize {
        if self.drafts.islands.short {
            return self.short(0xe3);
        }
        self.skip_if_rcx_zero()
    }

    /// The same by a near jump, for a place that is not out of the way.
    pub(crate) fn skip_if_rcx_zero(&mut self) -> usize {
        let zero = jrcxz(self.s);
        dynasm!(self.s ; .arch x64 ; jmp BYTE ISLAND as i8);
        land8(self.s, zero);
        near(self.s, 0)
    }

    /// A short jump of this opcode.
    fn short(&mut self, opcode: u8) -> usize {
        self.s.extend([opcode, 0]);
        let end = self.s.len();
        let Islands { pending, ends, reserved, .. } = &mut self.drafts.islands;
        let number = ends.len();
        let back = end - *reserved * ISLAND;
        if *reserved < RESERVED && back <= BACKWARD {
            *reserved += 1;
            ends.push(*reserved * ISLAND);
            if let Some(place) = self.s.buffer().get_mut(end - 1) {
                *place = back.wrapping_neg() as u8;
            }
        } else {
            ends.push(0);
            pending.push((end, number));
        }
        UNKNOWN + number
    }

    /// Room for the islands before the start.
    pub(crate) fn reserve_islands(&mut self) {
        if self.drafts.islands.short {
            for _ in 0..RESERVED {
                near(self.s, 0);
            }
            while self.s.len() < LEAD {
                self.s.extend([0xcc]);
            }
        }
    }

    /// Makes sure that so many bytes can follow before the next call, and jumps from before reach islands after them.
    pub(crate) fn keep_in_reach(&mut self, bytes: usize) {
        if self.drafts.islands.pending.is_empty() || self.drafts.islands.reach(self.s.len() + bytes + 2) {
            return;
        }
        self.drafts.islands.gaps += 1;
        let over = ISLAND * self.drafts.islands.pending.len();
        dynasm!(self.s ; .arch x64 ; jmp BYTE over as i8);
        self.islands();
    }

    /// Puts the islands that are waited for here, where nobody falls into them.
    pub(crate) fn islands(&mut self) {
        let islands = &mut self.drafts.islands;
        islands.lost |= !islands.reach(self.s.len());
        if islands.lost {
            islands.pending.clear();
        }
        for (end, number) in islands.pending.drain(..) {
            land8(self.s, end);
            islands.ends[number] = near(self.s, 0);
        }
    }

    /// Makes a jump that [`Self::unless_unit`] and its kin have returned, or a near one, lead here.
    pub(crate) fn land(&mut self, from: usize) {
        let end = match from.checked_sub(UNKNOWN) {
            Some(number) => self.drafts.islands.ends.get(number).copied().unwrap_or(0),
            None => from,
        };
        // One that is lost waits for nothing.
        if end != 0 {
            self.s.land(end);
        }
    }
}
