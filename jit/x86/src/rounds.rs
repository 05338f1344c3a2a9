//! Loops: a block whose end leads to its start goes on there without being entered again.
//!
//! What its groups of memory accesses need is checked before the first round. A later round only asks whether each group is
//! still in the page that it was in.

use crate::classify::{Emit, Live, System, emit_of};
use crate::emit::{Emitter, Guest};
use crate::frame::{Home, at, home};
use crate::group::Group;
use crate::islands::CHECK;
use crate::site::Kind;
use dynasmrt::{DynasmApi, dynasm};

/// Offsets of a loop's code.
#[derive(Clone, Copy)]
pub struct Round {
    /// The check of all groups.
    check: usize,
    /// The first instruction.
    body: usize,
}

/// Displacement from RSP of the tag of a group.
fn tag(group: &Group) -> i32 {
    at::TAGS + 8 * group.slot as i32
}

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
        for n in 0..self.groups.groups.len() {
            let group = self.groups.groups[n];
            if let Some(first) = group.entry {
                self.established |= 1 << n;
                self.establish(first, group, (0, 0), Some(tag(&group)));
            }
        }
        self.n = 0;
        self.let_go();
        self.round = Some(Round { check, body: self.s.len() });
    }

    /// After a round: the next one.
    pub(crate) fn next_round(&mut self, Round { check, body }: Round) {
        self.let_go();
        self.take_from_budget();
        let groups = core::mem::take(&mut self.groups.groups);
        if self.groups.easy {
            for group in groups.iter().filter(|group| group.entry.is_some()) {
                self.still_there(group, group.stride.unwrap_or(0), check);
            }
            self.jump_back(body);
        } else {
            self.jump_back(check);
        }
        self.groups.groups = groups;
        self.islands();
    }

    /// Goes on at the check of all groups unless a group, which has moved by `stride`, is in the page that it was in.
    fn still_there(&mut self, group: &Group, stride: i64, check: usize) {
        let Some(form) = group.entry else { return };
        // The byte that leaves the page first.
        let far = match stride {
            0 => return,
            1.. => form.displacement as i32 + group.size() as i32 - 1 + self.tag_to_unit(),
            _ => form.displacement as i32 + self.tag_to_unit(),
        };
        self.keep_in_reach(CHECK);
        dynasm!(self.s ; .arch x64 ; mov rcx, [rsp + tag(group)]);
        let register = |emitter: &mut Self, guest: u8| match home(guest.into()) {
            Home::Host(host) => host,
            Home::Frame(_) => emitter.value(guest.into(), 14),
        };
        match (form.base, form.index) {
            (Some(base), None) => {
                let base = register(self, base);
                self.lea(1, true, Some(1), base, 0, far);
            }
            (base, Some((index, scale))) => {
                if let Some(base) = base {
                    let base = register(self, base);
                    self.lea(1, true, Some(1), base, 0, 0);
                }
                let index = register(self, index);
                self.lea(1, true, Some(1), index, scale, far);
            }
            // A constant does not move.
            (None, None) => return,
        }
        dynasm!(self.s ; .arch x64 ; shrx rcx, rcx, r15);
        let from = self.unless_unit();
        self.cold_back(from, check);
    }
}
