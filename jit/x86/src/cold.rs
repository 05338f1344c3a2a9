//! Code out of the way of the block: what its jumps lead to when something is not as usual.

use crate::control::branch_opcode;
use crate::emit::{Emitter, Unsupported};
use crate::frame::at;
use crate::group::Grouping;
use crate::site::{Kind, Need};
use crate::split::Split;
use crate::stubs::{jrcxz, land8, near};
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::Instruction;

/// Code out of the way of the block.
pub struct Cold {
    /// End of the displacement of the jump that leads here.
    from: usize,
    what: ColdKind,
    /// Registers are lent there.
    lent: bool,
    /// Pages that have been come to there.
    known_pages: usize,
}

pub(crate) enum ColdKind {
    /// Leave at a site, and go on at `resume` (an offset) if it comes back.
    Site { site: u32, resume: Option<usize> },
    /// The same for an instruction, at this offset, that raises a floating-point exception. No jump leads here.
    Trap { at: usize, site: u32, resume: usize },
    /// As `Site`, unless the access can be done in two pages.
    Split { split: Split, site: u32, resume: usize },
    /// Look the target in R14 up in both tables of the jump cache, and go on with its code in RCX at `resume`, or leave at `site`.
    Target { site: u32, resume: usize },
    /// Go on with the code of the return address in R14, if the jump cache has it, after the stack pointer has been moved by
    /// so much and the rest of the block given back; or leave at `site`.
    Elsewhere { site: u32, by: i32, refund: u8 },
    /// Call a stub that makes vector state live for the instruction at `rip`, with which `rest` of the block begins, and go on.
    Stub { stub: usize, resume: usize, rip: u64, rest: u8 },
    /// Make the host's GS lead to the present context's window of a chunk, and go on; or leave at `site`.
    Window { chunk: u8, site: u32, resume: usize },
    /// Go on at an offset.
    Back { to: usize },
    /// A branch that leaves in the middle: give back the rest of the block and go on at an address.
    Side { target: u64, refund: u8 },
    /// Give back the rest of the block and go on at a link, of which this is the number among the block's and the site; or at
    /// another one if RCX has this value.
    Ungroup { link: (usize, u32), straddling: Option<(i32, (usize, u32))> },
}

impl Emitter<'_> {
    pub(crate) fn push_cold(&mut self, from: usize, what: ColdKind) {
        let (lent, known_pages) = (self.lent.now, self.known_pages);
        self.drafts.cold.push(Cold { from, what, lent, known_pages });
    }

    pub(crate) fn finish(&mut self) {
        self.lent.now = false;
        self.islands();
        // Links of side exits have cold parts of their own.
        while !self.drafts.cold.is_empty() {
            let mut now = core::mem::take(&mut self.drafts.cold);
            for cold in now.drain(..) {
                self.cold(&cold);
                self.islands();
            }
            if self.drafts.cold.is_empty() {
                self.drafts.cold = now;
            }
        }
    }

    fn give_back(&mut self, refund: u8) {
        dynasm!(self.s ; .arch x64 ; mov rcx, [BYTE rsp + (at::TAKEN as i8)]);
        // LEA RCX, [RCX + disp32], and what REFUND says.
        self.s.extend([0x48, 0x8d, 0x89]);
        self.s.extend((-i32::from(refund)).to_le_bytes());
        dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::TAKEN as i8)], rcx);
    }

    /// A branch in the middle of a block.
    pub(crate) fn side_exit(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        let taken = self.near_target(i)?;
        let opcode = branch_opcode(i)?;
        // The lowest bit of a condition negates it.
        let (opcode, target) =
            if self.next == Some(i.next_ip()) { (opcode, taken) } else { (opcode ^ 1, i.next_ip()) };
        let from = near(self.s, opcode);
        self.cold_side(from, target, (self.count - self.n) as u8);
        Ok(())
    }

    fn cold(&mut self, cold: &Cold) {
        self.land(cold.from);
        if let ColdKind::Trap { at, .. } = cold.what {
            self.drafts.traps.push((at as u32, self.s.len() as u32));
        }
        self.known_pages = cold.known_pages;
        if let ColdKind::Split { split, resume, .. } = &cold.what {
            self.split(split, *resume);
        }
        let stays = matches!(cold.what, ColdKind::Back { .. } | ColdKind::Stub { .. });
        if cold.lent && !stays {
            self.give_back_lent();
        }
        match cold.what {
            ColdKind::Back { to } => self.jump_back(to),
            ColdKind::Side { target, refund } => {
                self.give_back(refund);
                self.link_after(target, refund);
            }
            ColdKind::Site { site, resume: None } => self.leave(site),
            ColdKind::Site { site, resume: Some(resume) }
            | ColdKind::Split { site, resume, .. }
            | ColdKind::Trap { site, resume, .. } => {
                self.leave(site);
                if cold.lent {
                    self.lend_again();
                }
                self.jump_back(resume);
            }
            ColdKind::Ungroup { link, straddling } => {
                let Some((straddles, by_page)) = straddling else { return self.link_cold(link) };
                self.lea_base(1, true, 1, -straddles);
                let one_page = jrcxz(self.s);
                self.link_cold(link);
                land8(self.s, one_page);
                self.link_cold(by_page);
            }
            ColdKind::Target { site, resume } => {
                self.call_stub(self.stubs.look_up[usize::from(self.mode.guest())]);
                let miss = jrcxz(self.s);
                self.jump_back(resume);
                land8(self.s, miss);
                self.leave(site);
            }
            ColdKind::Elsewhere { site, by, refund } => {
                self.call_stub(self.stubs.look_up[usize::from(self.mode.guest())]);
                let miss = jrcxz(self.s);
                dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at::CODE as i8)], rcx);
                self.give_back(refund);
                self.move_stack(by);
                dynasm!(self.s ; .arch x64 ; jmp QWORD [BYTE rsp + (at::CODE as i8)]);
                land8(self.s, miss);
                self.leave(site);
            }
            ColdKind::Window { chunk, site, resume } => self.enter_window(chunk, site, resume),
            ColdKind::Stub { stub, resume, rip, rest } => {
                self.call_stub(stub);
                self.drafts.needs.push(Need { at: self.s.len() as u32, rip, rest });
                self.jump_back(resume);
            }
        }
    }

    /// The way to a link's block from the middle of this one.
    fn link_cold(&mut self, (link, site): (usize, u32)) {
        self.give_back(self.drafts.links[link].refund);
        // Linked later; until then it leads to the next instruction.
        let end = near(self.s, 0);
        self.drafts.links[link].patch = end as u32;
        self.leave(site);
    }

    /// Emits where callers of a stale block leave, and those who have taken its length from the budget; returns the offsets.
    pub fn stale_exits(&mut self) -> [usize; 2] {
        [Kind::Stale, Kind::Budget].map(|kind| {
            let at = self.s.len();
            let site = self.site(kind);
            self.leave(site);
            at
        })
    }

    pub(crate) fn jump_back(&mut self, to: usize) {
        let end = near(self.s, 0);
        self.s.patch_i32(end - 4, to as i32 - end as i32);
    }

    /// Sends the jump of a group's check, whose displacement ends at `from`, out of the way, to a translation of this
    /// instruction and the rest of the block: if the group reaches into the next page, to one whose groups end where pages
    /// do, else, and from there, to one without groups.
    pub(crate) fn ungroup(&mut self, from: usize, alignment: Option<u32>) {
        let Some(link) = self.link_ungrouped(from, Kind::LinkUngrouped) else { return };
        let refund = self.drafts.links[link.0].refund;
        let by_page = match self.grouping {
            Grouping::Whole => Some(Kind::LinkByPage),
            Grouping::ByPage => Some(Kind::LinkByOtherPage),
            _ => None,
        };
        let straddling = by_page.map(|kind| {
            // The check finds one page more than it wants; LOOP has taken one, or nothing was wanted.
            let straddles = alignment.unwrap_or(1) as i32;
            (straddles, self.link_site(kind, self.rip, refund))
        });
        self.push_cold(from, ColdKind::Ungroup { link, straddling });
    }

    /// Sends a jump, whose displacement ends at `from`, of an indirect jump or call that does not lead to where the block goes on
    /// to a translation that goes on nowhere.
    pub(crate) fn cold_elsewhere_indirect(&mut self, from: usize) {
        if let Some(link) = self.link_ungrouped(from, Kind::LinkUngrouped) {
            self.push_cold(from, ColdKind::Ungroup { link, straddling: None });
        }
    }

    /// Sends the jump of a window's check, whose displacement ends at `from`, to a translation without windows of this instruction and
    /// the rest of the block.
    pub(crate) fn cold_elsewhere_in_memory(&mut self, from: usize) {
        if let Some(link) = self.link_ungrouped(from, Kind::LinkByPage) {
            self.push_cold(from, ColdKind::Ungroup { link, straddling: None });
        }
    }

    /// A link to another translation of this instruction and the rest of the block. In a shadow, of which that would not know, the
    /// jump leads to the instruction's function instead.
    fn link_ungrouped(&mut self, from: usize, kind: Kind) -> Option<(usize, u32)> {
        if self.in_shadow {
            let site = self.exec_site(Kind::ExecLast);
            self.cold_site(from, site);
            return None;
        }
        let refund = (self.count - self.n + 1) as u8;
        Some(self.link_site(kind, self.rip, refund))
    }

    /// Sends the jump whose displacement ends at `from` to the block at `target`, giving back what has been taken for the rest
    /// of this one.
    pub(crate) fn cold_side(&mut self, from: usize, target: u64, refund: u8) {
        self.push_cold(from, ColdKind::Side { target, refund });
    }

    /// Sends the jump whose displacement ends at `from` back to an offset.
    pub(crate) fn cold_back(&mut self, from: usize, to: usize) {
        self.push_cold(from, ColdKind::Back { to });
    }

    /// Sends a jump whose displacement ends at `from`, of a return or an indirect branch with its target in R14, to the stub that looks in
    /// both tables of the jump cache.
    pub(crate) fn cold_target(&mut self, from: usize, resume: usize) {
        let site = self.exec_site(Kind::ExecLast);
        self.push_cold(from, ColdKind::Target { site, resume });
    }

    /// Sends a return that does not lead to where the block goes on, with its address in R14, to where it leads.
    pub(crate) fn cold_elsewhere(&mut self, from: usize, by: i32) {
        let site = self.exec_site(Kind::ExecLast);
        let refund = (self.count - self.n) as u8;
        self.push_cold(from, ColdKind::Elsewhere { site, by, refund });
    }

    /// Notes where the present instruction, which is complete with the code so far, goes on if its host's instruction raises a
    /// floating-point exception: its function does all of it.
    pub(crate) fn trap(&mut self) {
        let kind = self.slow_kind(Kind::Exec);
        self.trap_to(kind);
    }

    /// The same, as a site of this kind.
    pub(crate) fn trap_to(&mut self, kind: Kind) {
        let (at, site, resume) = (self.encoded_at, self.exec_site(kind), self.s.len());
        self.push_cold(0, ColdKind::Trap { at, site, resume });
        // After the function nothing is in RCX and R14.
        self.let_go();
    }

    /// Sends the jump whose displacement ends at `from` out of the way, to leave at a site.
    pub(crate) fn cold_site(&mut self, from: usize, site: u32) {
        self.push_cold(from, ColdKind::Site { site, resume: None });
    }
}
