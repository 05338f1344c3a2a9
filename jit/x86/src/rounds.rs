//! Loops: a block whose end leads to its start goes on there without being entered again.
//!
//! What its groups of memory accesses need is checked before the first round. How many rounds all groups stay in the pages
//! that they are in is known from then on: a later round only counts. Numbers of rounds are unary (so many of the lowest
//! bits are set), so that they can be compared and counted by PEXT, which leaves the flags alone.

use crate::classify::{Emit, Live, System, emit_of};
use crate::emit::{Emitter, Guest};
use crate::frame::at;
use crate::group::Group;
use crate::islands::CHECK;
use crate::site::Kind;
use crate::values::Form;
use dynasmrt::{DynasmApi, dynasm};

/// Offsets of a loop's code.
#[derive(Clone, Copy)]
pub struct Round {
    /// The check of all groups.
    check: usize,
    /// The first instruction.
    body: usize,
}

/// Log2 of the bytes by which the way to the end of a page is measured, at least: then it is less than 64 of these.
pub const FINEST: u32 = 6;
/// Longest way of a group from one round to the next.
pub const FARTHEST: u64 = 1 << (FINEST + 5);

impl Emitter<'_> {
    /// Whether the last instruction of a block leads to the first, and nothing in it makes checks void.
    pub(crate) fn is_loop(&self, guests: &[Guest]) -> bool {
        let leads_back = guests.last().is_some_and(|guest| {
            let emit = emit_of(guest.decoded.code()).filter(|_| !guest.barred);
            matches!(emit, Some(Emit::Branch | Emit::Jump))
                && guest.decoded.near_branch_target() == self.start
        });
        let voids = |guest: &Guest| {
            matches!(emit_of(guest.decoded.code()), Some(Emit::System(System::Clac | System::Stac)))
        };
        leads_back && !guests.iter().any(voids)
    }

    /// The loop's start, if a jump to `target` leads there.
    pub(crate) fn round_to(&self, target: u64) -> Option<Round> {
        self.round.filter(|_| target == self.start)
    }

    /// Takes the block's length from the instructions left, and leaves if that is not enough.
    pub(crate) fn take_from_budget(&mut self) {
        let site = self.site(Kind::Budget);
        dynasm!(self.s ; .arch x64 ; mov rcx, [BYTE rsp + (at::TAKEN as i8)]);
        self.lea_base(1, true, 1, self.count as i32);
        // The upper half is not zero as long as all is negative.
        dynasm!(self.s
            ; .arch x64
            ; mov [BYTE rsp + (at::TAKEN as i8)], rcx
            ; mov ecx, [BYTE rsp + (at::TAKEN as i8 + 4)]
        );
        let from = self.if_rcx_zero();
        self.cold_site(from, site);
    }

    /// Before the first round: vector state, and the checks of groups that are known at the start.
    pub(crate) fn begin_rounds(&mut self, guests: &[Guest]) {
        let live = guests.iter().filter_map(|guest| match emit_of(guest.decoded.code()) {
            Some(Emit::Vector(live)) if !guest.barred => Some(live),
            _ => None,
        });
        let live: Option<Live> = live.max();
        if let Some(live) = live {
            self.need(live);
        }
        // Whoever leaves here has done nothing of the block.
        self.n = 1;
        let check = self.s.len();
        let mut first = true;
        for n in 0..self.groups.groups.len() {
            let group = self.groups.groups[n];
            let Some(entry) = group.entry else { continue };
            self.established |= 1 << n;
            if self.groups.easy && group.moves() {
                self.measure(entry, group, first);
                first = false;
            }
            self.establish(entry, group, (0, 0));
        }
        self.n = 0;
        self.let_go();
        self.round = Some(Round { check, body: self.s.len() });
    }

    /// Notes how many rounds a group, whose first byte is at `entry`, stays in its page, if that is fewer than it is for others.
    fn measure(&mut self, entry: Form, group: Group, first: bool) {
        let stride = group.stride.unwrap_or(0);
        let fine = stride.unsigned_abs().next_power_of_two().trailing_zeros().max(FINEST) - FINEST;
        self.keep_in_reach(CHECK);
        self.linear(entry, 14);
        // The byte that leaves the page first, and how far it is from there.
        self.lea_base(1, true, 14, if stride > 0 { group.size() as i32 - 1 } else { 0 });
        if stride > 0 {
            dynasm!(self.s ; .arch x64 ; not rcx);
        }
        dynasm!(self.s
            ; .arch x64
            ; pext rcx, rcx, [rsp + at::PAGE_MASKS + 8 * fine as i32]
            ; shlx rcx, [rsp + at::ONES], rcx
            ; not rcx
        );
        if !first {
            // Of two numbers in unary, the smaller one.
            dynasm!(self.s ; .arch x64 ; pext rcx, rcx, [rsp + at::ROUNDS]);
        }
        dynasm!(self.s ; .arch x64 ; mov [rsp + at::ROUNDS], rcx);
    }

    /// After a round: the next one.
    pub(crate) fn next_round(&mut self, Round { check, body }: Round) {
        self.let_go();
        self.take_from_budget();
        if !self.groups.easy {
            self.jump_back(check);
        } else {
            if self.groups.groups.iter().any(Group::moves) {
                dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + at::ROUNDS]);
                let from = self.if_rcx_zero();
                self.cold_back(from, check);
                dynasm!(self.s
                    ; .arch x64
                    ; pext rcx, rcx, [rsp + at::BUT_LOWEST]
                    ; mov [rsp + at::ROUNDS], rcx
                );
            }
            self.jump_back(body);
        }
        self.islands();
    }
}
