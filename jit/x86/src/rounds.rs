//! Loops: a block whose end leads back into it goes on there without being entered again.
//!
//! What its groups of memory accesses need is checked before the first round. How many rounds all groups stay in the pages
//! that they are in is known from then on: a later round only counts. Numbers of rounds are unary (so many of the lowest
//! bits are set), so that they can be compared and counted by PEXT, which leaves the flags alone.

use crate::classify::{Emit, Live, System, X87};
use crate::emit::{Emitter, Guest};
use crate::frame::at;
use crate::group::Group;
use crate::islands::CHECK;
use crate::site::Kind;
use crate::values::Form;
use dynasmrt::{DynasmApi, dynasm};

/// A loop, from its first instruction to the end of the block.
#[derive(Clone, Copy)]
pub struct Round {
    /// The offset of the check of all groups.
    check: usize,
    /// The offset of the first instruction.
    body: usize,
    /// The first instruction's address.
    rip: u64,
    /// Instructions of all rounds that the block has.
    count: u32,
}

/// Log2 of the bytes by which the way to the end of a page is measured, at least: then it is less than 64 of these.
pub const FINEST: u32 = 6;
/// Longest way of a group from one round to the next.
pub const FARTHEST: u64 = 1 << (FINEST + 5);

impl Emitter<'_> {
    /// Whether nothing from instruction `head` on makes checks void.
    pub(crate) fn may_loop(guests: &[Guest], head: usize) -> bool {
        let voids = |guest: &Guest| matches!(guest.emit, Some(Emit::System(System::Clac | System::Stac)));
        // The shadow after STI is there in the first round only.
        let shadow = head > 0 && matches!(guests[head - 1].emit, Some(Emit::System(_)));
        !shadow && !guests[head..].iter().any(voids)
    }

    /// The loop's start, if a jump to `target` leads there.
    pub(crate) fn round_to(&self, target: u64) -> Option<Round> {
        self.round.filter(|round| target == round.rip)
    }

    /// Takes instructions from those that are left; where that is done, and the jump that is taken if it was too many.
    fn take(&mut self, count: u32) -> (usize, usize) {
        dynasm!(self.s ; .arch x64 ; mov rcx, [BYTE rsp + (at::TAKEN as i8)]);
        self.lea_base(1, true, 1, count as i32);
        dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::TAKEN as i8)], rcx);
        let taken = self.s.len();
        // The upper half is not zero as long as all is negative.
        dynasm!(self.s ; .arch x64 ; mov ecx, [BYTE rsp + (at::TAKEN as i8 + 4)]);
        (taken, self.if_rcx_zero())
    }

    /// Takes the block's length from the instructions left, and leaves if that is not enough. Says where it has been taken.
    pub(crate) fn take_from_budget(&mut self) -> usize {
        let site = self.site(Kind::Budget);
        let (taken, from) = self.take(self.count);
        self.cold_site(from, site);
        taken
    }

    /// Before the first round of a loop that begins at instruction `head`: vector state, and the checks of groups that are known
    /// there.
    pub(crate) fn begin_rounds(&mut self, guests: &[Guest], head: usize) {
        let live = guests[head..].iter().filter_map(|guest| match guest.emit {
            Some(Emit::Vector(live)) => Some(live),
            Some(Emit::Gather) => Some(Live::Full),
            Some(Emit::System(System::LoadMxcsr) | Emit::X87(X87::MmxAndSse)) => Some(Live::Sse),
            _ => None,
        });
        let live: Option<Live> = live.max();
        let rip = guests[head].decoded.ip();
        self.rip = rip;
        // Whoever leaves here has done nothing of the loop.
        self.n = head as u32 + 1;
        if let Some(live) = live {
            self.need(live);
        }
        self.lend(&guests[head..]);
        let check = self.s.len();
        if self.groups.easy {
            self.measure_all();
        }
        let steps = self.groups.groups.iter().fold(0, |all, group| all | group.steps);
        (0..16).filter(|n| steps >> n & 1 != 0).for_each(|n| self.check_step(n));
        for n in 0..self.groups.groups.len() {
            let group = self.groups.groups[n];
            let Some(entry) = group.entry else { continue };
            self.established |= 1 << n;
            if group.window {
                self.check_window(entry);
                continue;
            }
            self.establish(entry, group, (0, 0), self.lent_to(n).unwrap_or(1));
        }
        self.n = head as u32;
        self.let_go();
        // Not known at the end of a round.
        (self.x87_live, self.x87_ran) = (false, false);
        self.round = Some(Round { check, body: self.s.len(), rip, count: self.count - self.n });
    }

    /// Notes how many rounds all groups stay in their pages.
    fn measure_all(&mut self) {
        // A lent register is free before the checks.
        let so_far = (0..self.groups.groups.len()).find_map(|n| self.lent_to(n));
        let mut first = true;
        for n in 0..self.groups.groups.len() {
            let group = self.groups.groups[n];
            if let Some(entry) = group.entry.filter(|_| group.moves()) {
                self.measure(entry, group, first, so_far);
                first = false;
            }
        }
        if let Some(so_far) = so_far.filter(|_| !first) {
            dynasm!(self.s ; .arch x64 ; mov [rsp + at::ROUNDS], Rq(so_far));
        }
    }

    /// Notes how many rounds a group, whose first byte is at `entry`, stays in its page, if that is fewer than it is for others:
    /// in a host register, or in the frame.
    fn measure(&mut self, entry: Form, group: Group, first: bool, so_far: Option<u8>) {
        let stride = group.stride.unwrap_or(0);
        let fine = stride.unsigned_abs().next_power_of_two().trailing_zeros().max(FINEST) - FINEST;
        self.keep_in_reach(CHECK);
        // The byte that leaves the page first, and how far it is from there.
        let far = if stride > 0 { group.size() as i32 - 1 } else { 0 };
        match self.direct(entry) {
            Some((base, displacement)) => self.lea_base(1, true, base, displacement + far),
            None => {
                let displacement = entry.displacement + i64::from(far);
                self.linear(Form { displacement, ..entry }, 1);
            }
        }
        dynasm!(self.s ; .arch x64 ; pext rcx, rcx, [rsp + at::PAGE_MASKS + 8 * fine as i32]);
        // One more than the rounds to come, as this one counts, too.
        let all = if stride > 0 {
            at::PAGE_UNITS + 8 * fine as i32
        } else {
            dynasm!(self.s ; .arch x64 ; not rcx);
            at::PAGE_UNITS
        };
        // Of two numbers in unary, PEXT gives the smaller one.
        match so_far {
            Some(so_far) if first => dynasm!(self.s ; .arch x64 ; shrx Rq(so_far), [rsp + all], rcx),
            Some(so_far) => dynasm!(self.s
                ; .arch x64
                ; shrx rcx, [rsp + all], rcx
                ; pext Rq(so_far), Rq(so_far), rcx
            ),
            None => {
                dynasm!(self.s ; .arch x64 ; shrx rcx, [rsp + all], rcx);
                if !first {
                    dynasm!(self.s ; .arch x64 ; pext rcx, rcx, [rsp + at::ROUNDS]);
                }
                dynasm!(self.s ; .arch x64 ; mov [rsp + at::ROUNDS], rcx);
            }
        }
    }

    /// After a round: the next one.
    pub(crate) fn next_round(&mut self, Round { check, body, rip, count }: Round) {
        self.let_go();
        if count == self.count {
            self.take_from_budget();
        } else {
            // The block that begins there leaves.
            let (_, from) = self.take(count);
            self.cold_side(from, rip, count as u8);
        }
        if !self.groups.easy {
            self.jump_back(check);
        } else {
            if self.groups.groups.iter().any(Group::moves) {
                dynasm!(self.s
                    ; .arch x64
                    ; mov rcx, [rsp + at::ROUNDS]
                    ; pext rcx, rcx, [rsp + at::BUT_LOWEST]
                    ; mov [rsp + at::ROUNDS], rcx
                );
                let from = self.if_rcx_zero();
                self.cold_back(from, check);
            }
            self.jump_back(body);
        }
        self.islands();
    }
}
