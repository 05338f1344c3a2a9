//! Emission of one block.

use crate::classify::{Emit, Live, X87, alignment, host_form, may_raise, writes_ecx};
use crate::cold::{Cold, ColdKind};
use crate::frame::{GUEST_RCX, Home, at, home, is_high_byte, sized};
use crate::framed::{is_overwritten, take_from_memory};
use crate::group::{self, Accesses, Grouping, Groups, Member, MemoryAccesses};
use crate::islands::{Islands, PLAIN};
use crate::lent::Lent;
use crate::memory::Access;
use crate::rounds::Round;
use crate::segmented::CodeSegment;
use crate::site::{Kind, LinkDraft, Need, RunDraft, Site};
use crate::split::Split;
use crate::stubs::Stubs;
use crate::values::Form;
use core::ops::Range;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{
    Code, Encoder, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use ringworld_core::PAGE_MASK;
use ringworld_jit_rt::Sink;
use ringworld_x86::mode::Mode;
use smallvec::SmallVec;

/// An instruction as both decoders see it.
#[derive(Clone, Copy)]
pub struct Guest {
    /// iced's view.
    pub decoded: Instruction,
    /// Its last in the block (by its row, or because it raises an exception).
    pub last: bool,
    /// How it is emitted.
    pub emit: Option<Emit>,
}

/// Kept to keep the buffers.
#[derive(Default)]
pub struct Drafts {
    /// The instructions that run by their functions.
    pub runs: Vec<RunDraft>,
    /// The jumps to known addresses.
    pub links: Vec<LinkDraft>,
    /// Where vector state is made live.
    pub needs: Vec<Need>,
    /// The host's instructions that may raise floating-point exceptions, and where to go on if they do.
    pub traps: Vec<(u32, u32)>,
    pub(crate) cold: Vec<Cold>,
    /// The stores of groups' anchors: the slot, and where they are.
    pub(crate) anchors: Vec<(usize, Range<usize>)>,
    pub(crate) islands: Islands,
}

/// A page of a block, linear, and slot and number of its fetch token.
#[derive(Clone, Copy)]
pub struct PageCheck {
    pub linear: u64,
    pub slot: i32,
    pub token: i32,
}

/// Numbers that a block's first ones get.
#[derive(Clone, Copy)]
pub struct Numbers {
    /// Of [`Drafts::runs`].
    pub run: u32,
    /// Of [`Drafts::links`].
    pub link: u32,
    /// Of the block.
    pub block: u32,
}

/// Emits blocks.
pub struct Emitter<'a> {
    /// The code.
    pub s: &'a mut Sink,
    /// What sites are about.
    pub drafts: &'a mut Drafts,
    pub(crate) encoder: &'a mut Encoder,
    pub(crate) info: &'a mut InstructionInfoFactory,
    pub(crate) memory_accesses: &'a mut MemoryAccesses,
    /// Numbers of the first run and the first link, and of the block.
    pub first: Numbers,
    /// Address of the code, and of the arena's start.
    pub base: usize,
    /// See [`Emitter::base`].
    pub arena: usize,
    pub(crate) stubs: Stubs,
    live: Option<Live>,
    /// The guest may have unmasked floating-point exceptions.
    pub(crate) traps: bool,
    /// Where the last encoded instruction begins.
    pub(crate) encoded_at: usize,
    /// The host's x87 unit holds the guest's state.
    pub(crate) x87_live: bool,
    /// The upper half of the x87 unit's pointer to instructions has been noted.
    pub(crate) x87_ran: bool,
    /// The next instruction uses the unit and no memory, and the unit's pointers lead to it.
    pub(crate) next_x87_points: bool,
    /// The unit's pointer to data is kept.
    pub(crate) x87_fdp: bool,
    /// What 64-bit code adds to the base of FS or GS has to be canonical.
    pub(crate) checks_offsets: bool,
    /// The block's pages, in the order in which they are come to.
    pub(crate) pages: &'a [PageCheck],
    /// How many of them have been come to.
    pub(crate) known_pages: usize,
    /// Instructions of the block.
    pub(crate) count: u32,
    /// The present instruction: number, RIP.
    pub(crate) n: u32,
    pub(crate) rip: u64,
    /// Where the block goes on after it.
    pub(crate) next: Option<u64>,
    /// The code segment.
    pub(crate) code_segment: CodeSegment,
    /// Bytes that the present instruction pushes or pops.
    pub(crate) step: i32,
    /// Jumps of the present instruction that are taken if an access reaches beyond its segment.
    pub(crate) beyond: SmallVec<[usize; 2]>,
    /// The group whose distance is in RCX.
    pub(crate) held: Option<usize>,
    /// The mode that the block is for.
    pub(crate) mode: Mode,
    /// The next instruction is in the block, and is none that looks at the shadow of STI.
    pub(crate) next_is_plain: bool,
    /// The next instruction is in the block and may exit from a guest; [`Emitter::end_shadow`] follows it.
    pub(crate) next_may_exit: bool,
    /// The present instruction comes after STI and may exit.
    pub(crate) in_shadow: bool,
    /// The group whose distance is in R14.
    pub(crate) held_r14: Option<usize>,
    /// Address of the jump cache.
    pub(crate) jumps: i32,
    /// Addresses of the return cache: of guest and of host addresses.
    pub(crate) returns: (i32, i32),
    /// The present instruction is a call, and the block goes on after its return.
    pub(crate) returns_here: bool,
    /// Which groups the translation has.
    pub(crate) grouping: Grouping,
    /// Memory accesses that share a check.
    pub(crate) groups: Groups,
    /// The groups whose checks have been emitted, by number; there are no more than [`group::GROUPS`].
    pub(crate) established: u128,
    /// Slots of groups that are read.
    pub(crate) slots_read: u32,
    /// Segment registers, by number, that the block has loaded in real-address or virtual-8086 mode.
    pub(crate) only_base: u8,
    /// What the stack pointer's home lacks to the guest's.
    pub(crate) stack_moved: i32,
    /// Registers that a loop has been lent.
    pub(crate) lent: Lent,
    /// If the block leads back into it: where it is entered again.
    pub(crate) round: Option<Round>,
    /// The chunk that the block has a window of.
    pub(crate) window: Option<u8>,
    /// The present instruction accesses that, and has a trap.
    pub(crate) in_window: bool,
}

/// Where a checked memory operand is in host memory.
pub(crate) struct Place {
    /// None only in a window.
    pub(crate) base: Option<u8>,
    /// Register and log2 of the scale.
    pub(crate) index: Option<(u8, u8)>,
    pub(crate) displacement: i32,
    /// The jump that is taken if it is not to be had.
    pub(crate) slow: Option<usize>,
    /// By the host's GS.
    pub(crate) window: bool,
}

impl Place {
    fn by(base: u8, index: Option<(u8, u8)>, displacement: i32, slow: Option<usize>) -> Self {
        Self { base: Some(base), index, displacement, slow, window: false }
    }

    fn uses(&self, register: u8) -> bool {
        self.base == Some(register) || self.index.is_some_and(|(index, _)| index == register)
    }
}

/// Of some frequent instructions, those that do nothing that a guest could exit for: an exit shows the shadow of STI.
fn cannot_exit(i: &Instruction) -> bool {
    use Mnemonic::{Add, And, Cmp, Lea, Mov, Nop, Or, Sub, Test, Xor};
    if i.mnemonic() == Lea || i.is_jcc_short_or_near() || i.is_jmp_short_or_near() {
        return true;
    }
    matches!(i.mnemonic(), Mov | Nop | Test | Cmp | Xor | And | Or | Add | Sub)
        && (0..i.op_count()).all(|n| match i.op_kind(n) {
            OpKind::Register => i.op_register(n).is_gpr(),
            kind => kind != OpKind::Memory,
        })
}

/// The guest cannot be expressed: its function is called.
pub struct Unsupported;

impl<'a> Emitter<'a> {
    /// Starts a block.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        s: &'a mut Sink,
        drafts: &'a mut Drafts,
        encoder: &'a mut Encoder,
        info: &'a mut InstructionInfoFactory,
        memory_accesses: &'a mut MemoryAccesses,
        first: Numbers,
        (base, arena): (usize, usize),
        stubs: Stubs,
        (start, count, mode, code_segment): (u64, u32, Mode, CodeSegment),
        (jumps, returns): (i32, (i32, i32)),
        (short, x87_fdp, traps, checks_offsets): (bool, bool, bool, bool),
    ) -> Self {
        s.clear();
        drafts.runs.clear();
        drafts.links.clear();
        drafts.needs.clear();
        drafts.traps.clear();
        drafts.cold.clear();
        drafts.anchors.clear();
        drafts.islands.clear(short);
        Self {
            s,
            drafts,
            encoder,
            info,
            memory_accesses,
            first,
            base,
            arena,
            stubs,
            live: None,
            traps,
            encoded_at: 0,
            x87_live: false,
            x87_ran: false,
            next_x87_points: false,
            x87_fdp,
            checks_offsets,
            pages: &[],
            known_pages: 0,
            count,
            n: 0,
            rip: start,
            code_segment,
            step: 0,
            beyond: SmallVec::new(),
            next: None,
            held: None,
            mode,
            next_is_plain: false,
            next_may_exit: false,
            in_shadow: false,
            held_r14: None,
            jumps,
            returns,
            returns_here: false,
            grouping: Grouping::None,
            groups: Groups::default(),
            established: 0,
            slots_read: 0,
            only_base: 0,
            stack_moved: 0,
            lent: Lent::default(),
            round: None,
            window: None,
            in_window: false,
        }
    }

    /// Emits the whole block, and returns the offsets of its entry for those who know that the page is this one, and for those
    /// who have taken its length from the budget, too; at the start the first page is checked. `second` is the page that an only
    /// instruction reaches into.
    pub fn block(
        &mut self,
        guests: &[Guest],
        pages: &'a [PageCheck],
        second: Option<PageCheck>,
        (grouping, head): (Grouping, Option<usize>),
        registers: &[u64],
    ) -> (usize, usize) {
        let head = head.filter(|&head| Self::may_loop(guests, head));
        let word = self.word();
        self.grouping = grouping;
        self.groups = match grouping {
            Grouping::None => Groups::default(),
            _ if self.segmented() => Groups::default(),
            _ => {
                let by_page = grouping != Grouping::Whole;
                let registers = (registers, by_page, self.window);
                group::find_all(guests, word, head, registers, self.info, self.memory_accesses)
            }
        };
        self.reserve_islands();
        self.pages = pages;
        self.known_pages = 1;
        self.leave_off_page(pages[0], Kind::Page);
        if self.segmented() {
            self.check_code_segment();
        }
        let entry = self.s.len();
        if let Some(second) = second {
            self.leave_off_page(second, Kind::Stale);
        }
        let taken = self.take_from_budget();
        self.open_window();
        let mut open = true;
        for (n, guest) in guests.iter().enumerate() {
            if head == Some(n) {
                self.settle_stack();
                self.begin_rounds(guests, n);
            }
            self.n += 1;
            self.rip = guest.decoded.ip();
            self.next = guests.get(n + 1).map(|next| next.decoded.ip());
            self.returns_here = matches!(guest.emit, Some(Emit::Call | Emit::CallIndirect))
                && guests[n + 1..].iter().any(|other| other.decoded.ip() == guest.decoded.next_ip());
            let next = guests.get(self.n as usize);
            let emit = next.and_then(|next| next.emit);
            let next = next.map(|next| &next.decoded);
            self.next_is_plain = emit.is_some() && (!self.mode.guest() || next.is_some_and(cannot_exit));
            self.next_may_exit =
                emit.is_some_and(|emit| !matches!(emit, Emit::System(_) | Emit::String(_) | Emit::Divide));
            // With traps, it may be the one that reports what this one has raised.
            self.next_x87_points = !self.traps
                && emit == Some(Emit::X87(X87::Points))
                && next.is_some_and(|next| (0..next.op_count()).all(|n| next.op_kind(n) == OpKind::Register));
            open = self.instruction(guest);
            self.rip = guest.decoded.next_ip();
            if !open {
                break;
            }
            if let Some(next) = self.next
                && !self.is_known_page(next)
            {
                self.come_to_page(next);
            }
        }
        self.settle_stack();
        if open {
            self.link(self.rip);
        }
        self.finish();
        self.drop_anchors();
        (entry, taken)
    }

    /// Compares the token in a page's slot; the jump that is taken if it is another one.
    fn page_check(&mut self, PageCheck { slot, token, .. }: PageCheck) -> usize {
        let unit = self.unit();
        dynasm!(self.s ; .arch x64 ; mov ecx, [r15 + slot] ; lea rcx, [rcx + unit - token]);
        self.unless_unit()
    }

    /// Leaves if it is another one.
    fn leave_off_page(&mut self, page: PageCheck, kind: Kind) {
        let other = self.page_check(page);
        let site = self.site(kind);
        self.cold_site(other, site);
    }

    /// Whether what is at a linear address is in a page that has been checked.
    pub(crate) fn is_known_page(&self, linear: u64) -> bool {
        self.pages[..self.known_pages].iter().any(|page| page.linear == linear & !PAGE_MASK)
    }

    /// The block goes on at `next`, in its next page.
    fn come_to_page(&mut self, next: u64) {
        self.settle_stack();
        self.keep_in_reach(PLAIN);
        self.held = None;
        let other = self.page_check(self.pages[self.known_pages]);
        self.cold_side(other, next, (self.count - self.n) as u8);
        self.known_pages += 1;
    }

    /// A site that is about the block.
    pub(crate) fn site(&self, kind: Kind) -> u32 {
        Site { kind, index: self.first.block }.number()
    }

    /// A new link; its number among the block's, and its site.
    pub(crate) fn link_site(&mut self, kind: Kind, rip: u64, refund: u8) -> (usize, u32) {
        let n = self.drafts.links.len();
        self.drafts.links.push(LinkDraft { rip, refund, patch: 0, token: 0, checked: false });
        (n, Site { kind, index: self.first.link + n as u32 }.number())
    }

    pub(crate) fn exec_site(&mut self, kind: Kind) -> u32 {
        let n = self.n.wrapping_sub(1);
        let runs = &mut self.drafts.runs;
        // Several sites may lead to one instruction's function.
        if runs.last().is_none_or(|last| last.n != n) {
            runs.push(RunDraft { n, rip: self.rip, refund: (self.count - self.n) as u8 });
        }
        Site { kind, index: self.first.run + runs.len() as u32 - 1 }.number()
    }

    /// Calls the leaving stub for `site`.
    pub(crate) fn leave(&mut self, site: u32) {
        self.call_stub(self.stubs.leave_at_site);
        self.s.extend(site.to_le_bytes());
    }

    pub(crate) fn call_stub(&mut self, stub: usize) {
        let end = self.base + self.s.len() + 5;
        let distance = (self.arena + stub).wrapping_sub(end) as i32;
        self.s.extend([0xe8]);
        self.s.extend(distance.to_le_bytes());
    }

    /// With traps, the x87 state may not be what can be live any more, after a call of this kind.
    pub(crate) fn slow_kind(&self, kind: Kind) -> Kind {
        if kind == Kind::Exec && self.x87_live && self.traps { Kind::ExecX87 } else { kind }
    }

    /// Slow paths of the present instruction, which is complete with the code so far: its function does all of it.
    pub(crate) fn slow(&mut self, froms: &[usize], kind: Kind) {
        if froms.is_empty() && self.beyond.is_empty() {
            return;
        }
        let kind = self.slow_kind(kind);
        let site = self.exec_site(kind);
        let resume = matches!(kind, Kind::Exec | Kind::ExecX87).then_some(self.s.len());
        let beyond = core::mem::take(&mut self.beyond);
        for &from in froms.iter().chain(&beyond) {
            self.push_cold(from, ColdKind::Site { site, resume });
        }
    }

    /// Emits one instruction; false if it was the end of the block.
    fn instruction(&mut self, guest: &Guest) -> bool {
        self.keep_in_reach(PLAIN);
        if !self.leaves_stack_moved(guest) {
            self.settle_stack();
        }
        let after_sti = self.in_shadow;
        let start = self.s.len();
        let Drafts { runs, links, cold, islands, .. } = &*self.drafts;
        let (runs, links, cold, mark, live) =
            (runs.len(), links.len(), cold.len(), islands.mark(), self.live);
        let (established, held) = (self.established, (self.held, self.held_r14));
        let x87 = (self.x87_live, self.x87_ran);
        let (anchors, stack_moved) = (self.drafts.anchors.len(), self.stack_moved);
        if let Some(emit) = guest.emit {
            match self.emitted(guest, emit) {
                Ok(open) => {
                    if after_sti {
                        self.end_shadow();
                    }
                    return open;
                }
                Err(Unsupported) => {
                    self.s.buffer().truncate(start);
                    self.drafts.runs.truncate(runs);
                    self.drafts.links.truncate(links);
                    self.drafts.cold.truncate(cold);
                    self.drafts.islands.undo(mark);
                    self.drafts.anchors.truncate(anchors);
                    self.stack_moved = stack_moved;
                    self.beyond.clear();
                    self.live = live;
                    (self.x87_live, self.x87_ran) = x87;
                    self.established = established;
                    (self.held, self.held_r14) = held;
                }
            }
        }
        // Whoever runs the function ends the shadow.
        self.in_shadow = false;
        // It may unmask exceptions.
        (self.x87_live, self.x87_ran) = (false, false);
        let last = guest.last;
        let site = self.exec_site(if last { Kind::ExecLast } else { Kind::Exec });
        self.settle_stack();
        self.let_go();
        if self.lent.now {
            self.give_back_lent();
        }
        self.leave(site);
        if self.lent.now && !last {
            self.lend_again();
        }
        !last
    }

    /// RCX and R14 hold something else from now on.
    pub(crate) fn let_go(&mut self) {
        (self.held, self.held_r14) = (None, None);
    }

    fn emitted(&mut self, guest: &Guest, emit: Emit) -> Result<bool, Unsupported> {
        let i = &guest.decoded;
        self.is_addressable(i, emit)?;
        self.step = if self.segmented() { i.code().op_code().operand_size() / 8 } else { self.word() } as i32;
        match emit {
            // These say what they hold.
            Emit::Nothing
            | Emit::Same
            | Emit::Vector(_)
            | Emit::X87(_)
            | Emit::Divide
            | Emit::Jump
            | Emit::Branch => {}
            Emit::Push | Emit::Pop | Emit::Leave | Emit::Call | Emit::Return => self.held_r14 = None,
            _ => self.let_go(),
        }
        match emit {
            Emit::Nothing => {}
            Emit::Vector(live)
                if self.narrow() && matches!(i.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall) =>
            {
                self.need(live);
                // It reaches eight registers.
                for n in 0..8 {
                    if i.mnemonic() == Mnemonic::Vzeroall {
                        dynasm!(self.s ; .arch x64 ; vpxor Rx(n), Rx(n), Rx(n));
                    } else {
                        dynasm!(self.s ; .arch x64 ; vmovaps Rx(n), Rx(n));
                    }
                }
            }
            // Processors differ then.
            Emit::Same
                if matches!(i.code(), Code::Shld_rm16_r16_imm8 | Code::Shrd_rm16_r16_imm8)
                    && i.immediate8() & 31 > 15 =>
            {
                return Err(Unsupported);
            }
            Emit::Same => self.same(i)?,
            Emit::Vector(live) => {
                self.need(live);
                self.same(i)?;
                if self.traps && may_raise(i.mnemonic()) && !self.in_window {
                    self.trap();
                }
            }
            Emit::Flush => {
                let fixed = self.address(i);
                let access = Access { size: 1, write: false, alignment: None, fixed };
                let slow = self.check(access);
                self.let_go();
                self.slow(&[slow], Kind::Exec);
            }
            Emit::Gather => self.gather(i)?,
            Emit::X87(what) => self.x87(i, what)?,
            Emit::Lea if self.segmented() => self.segment_lea(i)?,
            Emit::Lea => self.lea_instruction(i),
            Emit::System(what) => self.system(i, what)?,
            Emit::String(op) => self.string(i, op)?,
            Emit::BitString if i.op0_kind() == OpKind::Register => self.same(i)?,
            Emit::BitString => self.bit_string(i)?,
            Emit::Divide => {
                self.same(i)?;
                if !self.in_window {
                    self.trap();
                }
            }
            Emit::Table => self.table(i)?,
            Emit::PushAll => self.push_all(i.code() == Code::Pushaw),
            Emit::PopAll => self.pop_all(i.code() == Code::Popaw),
            Emit::Segments(what) => return self.segments(i, what),
            Emit::Push => self.push(i)?,
            Emit::Pop => self.pop(i)?,
            Emit::Enter => self.enter_frame(i)?,
            Emit::Leave => self.leave_frame(),
            Emit::Jump if self.next.is_some() => {}
            Emit::Jump => {
                self.jump(i)?;
                return Ok(false);
            }
            Emit::Branch if self.next.is_some() => self.side_exit(i)?,
            Emit::Branch => {
                self.branch(i)?;
                return Ok(false);
            }
            Emit::CountedBranch => {
                self.counted_branch(i)?;
                return Ok(false);
            }
            Emit::Call if self.next.is_some() => self.call_within(i),
            Emit::Call => {
                self.call(i)?;
                return Ok(false);
            }
            Emit::JumpIndirect if let Some(next) = self.next => self.jump_indirect_within(i, next)?,
            Emit::JumpIndirect => {
                self.jump_indirect(i)?;
                return Ok(false);
            }
            Emit::CallIndirect if let Some(next) = self.next => self.call_indirect_within(i, next)?,
            Emit::CallIndirect => {
                self.call_indirect(i)?;
                return Ok(false);
            }
            Emit::Return if let Some(next) = self.next => self.ret_within(i, next),
            Emit::Return => {
                self.ret(i);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes sure that vector state is in the host's registers. No registers are lent.
    pub(crate) fn need(&mut self, live: Live) {
        if self.live >= Some(live) {
            return;
        }
        debug_assert!(!self.lent.now, "whoever leaves here would have to give them back");
        self.live = Some(live);
        self.let_go();
        let (flag, stub) = match live {
            Live::Sse => (at::SSE_LIVE, self.stubs.load_sse),
            Live::Full => (at::FULL_LIVE, self.stubs.load_full),
        };
        dynasm!(self.s ; .arch x64 ; mov rcx, [BYTE rsp + (flag as i8)]);
        // RCX zero: not live.
        let from = self.if_rcx_zero();
        let resume = self.s.len();
        let rest = (self.count - self.n + 1) as u8;
        self.push_cold(from, ColdKind::Stub { stub, resume, rip: self.rip, rest });
    }

    /// Emits the same instruction on the registers' homes.
    pub(crate) fn same(&mut self, guest: &Instruction) -> Result<(), Unsupported> {
        self.in_window = false;
        let mut i = *guest;
        i.set_code(host_form(i.code()));
        let mut memory = None;
        let mut framed: [Option<(usize, i32)>; 4] = [None; 4];
        let mut high_byte = false;
        // CH, which RCX's home has not, and RCX beside another such register, which cannot be encoded with its home.
        let in_rcx = uses_rcx_with_high_byte(&i);
        // A count in CL, or half of what CMPXCHG8B and CMPXCHG16B store.
        let wide = matches!(i.mnemonic(), Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b);
        let mut wants_rcx = wide;
        for n in 0..i.op_count() {
            match i.op_kind(n) {
                OpKind::Memory => memory = Some(n),
                OpKind::Register => {
                    let register = i.op_register(n);
                    if !register.is_gpr() {
                        continue;
                    }
                    if register == Register::CL && is_shift_by_cl(&i, n) {
                        wants_rcx = true;
                        continue;
                    }
                    if is_high_byte(register) {
                        high_byte = true;
                        continue;
                    }
                    let guest = register.full_register().number();
                    if in_rcx && guest == 1 {
                        i.set_op_register(n, sized(register, 1));
                        continue;
                    }
                    match home(guest) {
                        Home::Host(host) => i.set_op_register(n, sized(register, host)),
                        Home::Frame(at) => framed[n as usize] = Some((guest, at)),
                    }
                }
                OpKind::Immediate8
                | OpKind::Immediate8_2nd
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64 => {}
                _ => return Err(Unsupported),
            }
        }
        // Only one host thread runs guest code.
        i.set_has_lock_prefix(false);
        let mut accesses = [OpAccess::None; 4];
        if framed.iter().any(Option::is_some) {
            let info = self.info.info(guest);
            for n in 0..i.op_count().min(4) {
                accesses[n as usize] = info.op_access(n);
            }
            if memory.is_none() {
                take_from_memory(&mut i, &mut framed, &accesses);
            }
        }
        let any_framed = framed.iter().any(Option::is_some);
        let mut slow = None;
        let mut split = None;
        let (mut r14_is_free, mut rcx_is_free) = (true, true);
        // Both its destinations are written after memory has been read.
        let late = memory.is_some() && i.mnemonic() == Mnemonic::Mulx;
        if let Some(n) = memory {
            let access = self.memory_accesses.of(self.info, guest, n);
            let mut place = self.place(guest, access)?;
            slow = place.slow;
            split = place
                .base
                .filter(|_| slow.is_some() && place.index.is_some())
                .map(|base| (base, place.displacement, self.s.len(), writes(access)));
            i.set_segment_prefix(if place.window { Register::GS } else { Register::None });
            self.in_window = place.window;
            // RCX is wanted for something else, one of the two is, or no register beyond the first eight may be there.
            let alone = if high_byte {
                Some(1)
            } else {
                let both = place.uses(1) && place.uses(14);
                (wants_rcx && place.uses(1) || any_framed && both).then_some(14)
            };
            if high_byte && (any_framed || wants_rcx || in_rcx) {
                return Err(Unsupported);
            }
            if let Some(alone) = alone {
                match (place.base, place.index) {
                    (base, Some((index, scale))) => {
                        self.lea(alone, true, base, index, scale, place.displacement);
                    }
                    (Some(base), None) => self.lea_base(alone, true, base, place.displacement),
                    (None, None) => self.constant(alone, i64::from(place.displacement) as u64),
                }
                place = Place { base: Some(alone), index: None, displacement: 0, ..place };
                if alone == 1 {
                    self.held = None;
                } else {
                    self.held_r14 = None;
                }
            }
            i.set_memory_base(place.base.map_or(Register::None, |base| sized(Register::RAX, base)));
            let index = place.index.map_or(Register::None, |(index, _)| sized(Register::RAX, index));
            i.set_memory_index(index);
            i.set_memory_index_scale(place.index.map_or(1, |(_, scale)| 1 << scale));
            i.set_memory_displacement64(i64::from(place.displacement) as u64);
            // Without a base, all of it is there.
            let all = if place.base.is_none() { 8 } else { 0 };
            i.set_memory_displ_size(all | u32::from(place.displacement != 0 && all == 0));
            (r14_is_free, rcx_is_free) = (late || !place.uses(14), late || !place.uses(1));
        }
        if in_rcx {
            dynasm!(self.s ; .arch x64 ; mov rcx, Rq(GUEST_RCX));
            self.held = None;
        } else if wants_rcx {
            let count = self.value(1, 1);
            if wide {
                dynasm!(self.s ; .arch x64 ; mov rcx, Rq(count));
            } else {
                dynasm!(self.s ; .arch x64 ; mov ecx, Rd(count));
            }
            rcx_is_free = false;
            self.held = None;
        }
        // Scratch registers for what lives in the frame.
        let mut free: &[u8] = match (r14_is_free, rcx_is_free) {
            (true, true) if self.held.is_none() && self.held_r14.is_some() => &[1, 14],
            (true, true) => &[14, 1],
            (true, false) => &[14],
            (false, true) => &[1],
            (false, false) => &[],
        };
        let mut loaded: [Option<(usize, u8, i32)>; 2] = [None; 2];
        let mut used = 0;
        let mut stores: [Option<(u8, i32)>; 4] = [None; 4];
        for n in 0..i.op_count() {
            let Some((guest_register, at)) = framed.get(n as usize).copied().flatten() else { continue };
            let register = i.op_register(n);
            let known = loaded.iter().flatten().find(|(other, ..)| *other == guest_register).copied();
            let scratch = match known {
                Some((_, scratch, _)) => scratch,
                None => {
                    let (&scratch, rest) = free.split_first().ok_or(Unsupported)?;
                    free = rest;
                    if scratch == 1 {
                        self.held = None;
                    } else {
                        self.held_r14 = None;
                    }
                    let read_too = (0..4).any(|other| {
                        other != n as usize
                            && framed[other].is_some_and(|(same, _)| same == guest_register)
                            && !matches!(accesses[other], OpAccess::None | OpAccess::Write)
                    });
                    if read_too || !is_overwritten(guest, register, accesses[n as usize]) {
                        if late {
                            // The register holds what the memory operand is reached by.
                            return Err(Unsupported);
                        }
                        dynasm!(self.s ; .arch x64 ; mov Rq(scratch), [BYTE rsp + (at as i8)]);
                    }
                    loaded[used] = Some((guest_register, scratch, at));
                    used += 1;
                    scratch
                }
            };
            i.set_op_register(n, sized(register, scratch));
            if writes(accesses[n as usize]) {
                stores[n as usize] = Some((scratch, at));
            }
        }
        self.encode(&i)?;
        if in_rcx && !matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) {
            dynasm!(self.s ; .arch x64 ; mov Rq(GUEST_RCX), rcx);
        }
        let index_in_ecx = writes_ecx(i.mnemonic());
        if index_in_ecx {
            dynasm!(self.s ; .arch x64 ; mov Rd(GUEST_RCX), ecx);
            self.held = None;
        }
        for (scratch, at) in stores.into_iter().flatten() {
            dynasm!(self.s ; .arch x64 ; mov [BYTE rsp + (at as i8)], Rq(scratch));
        }
        if self.in_window {
            self.trap_to(Kind::ExecWindow);
        }
        if let Some(from) = slow {
            // After the slow path nothing is in RCX.
            self.let_go();
            // Of what is smaller than a vector, the plain forms.
            let size = guest.memory_size().size();
            let is_plain = size >= 16 || guest.code().encoding() != EncodingKind::EVEX;
            // Of what writes, it would run a copy, whose exceptions nobody knows.
            let traps = self.traps && (may_raise(guest.mnemonic()) || self.x87_live);
            let split = split.filter(|(.., write)| {
                is_plain && alignment(guest).is_none() && !index_in_ecx && !(*write && traps)
            });
            let split = split.and_then(|(base, displacement, start, write)| {
                let code = (start, self.s.len());
                Split::new(size, write, base, displacement, code)
            });
            match split {
                Some(split) => {
                    let (site, resume) = (self.exec_site(self.slow_kind(Kind::Exec)), self.s.len());
                    self.push_cold(from, ColdKind::Split { split, site, resume });
                    // What is beyond a limit.
                    self.slow(&[], Kind::Exec);
                }
                None => self.slow(&[from], Kind::Exec),
            }
        }
        Ok(())
    }

    /// Checks the memory operand; says where it is.
    pub(crate) fn place(&mut self, guest: &Instruction, access: OpAccess) -> Result<Place, Unsupported> {
        let Some(member) = self.groups.member(self.accesses().operand) else {
            if let Some((base, displacement)) =
                Form::of(guest, self.word()).and_then(|form| self.direct(form))
            {
                let access = access_of(guest, access, None)?;
                let slow = Some(self.check_direct(base, displacement, access, 1));
                return Ok(Place::by(base, Some((1, 0)), displacement, slow));
            }
            // What may reach into the next page wants its address in R14.
            if let Some(short) = self.short_address(guest).filter(|_| guest.memory_size().size() < 16) {
                let slow = self.check(access_of(guest, access, Some(i64::from(short) as u64))?);
                return Ok(Place::by(1, None, short, Some(slow)));
            }
            let fixed = self.address(guest);
            let slow = self.check(access_of(guest, access, fixed)?);
            return Ok(Place::by(14, Some((1, 0)), 0, Some(slow)));
        };
        if self.groups.groups[member.group].window {
            return self.window_place(member);
        }
        let mut slow = None;
        if let Some(aligned) = alignment(guest).filter(|_| !member.aligned) {
            self.reach(member);
            self.linear(member.own, 14);
            dynasm!(self.s
                ; .arch x64
                ; pext rcx, r14, [rsp + at::LOW + 8 * (aligned.trailing_zeros() as i32 - 4)]
            );
            slow = Some(self.unless_rcx_zero());
            self.let_go();
        }
        if self.narrow() && !member.rest.is_constant() {
            // Only the truncated address is known to be in the group's range.
            self.reach(member);
            self.linear(member.own, 14);
            return Ok(Place::by(14, Some((1, 0)), 0, slow));
        }
        let Form { base, index, displacement } = member.rest;
        let displacement = i32::try_from(displacement).map_err(|_| Unsupported)?;
        Ok(match (base, index) {
            (None, None) => {
                let anchor = self.reach_by_any(member);
                Place::by(anchor, None, displacement, slow)
            }
            (Some(one), None) => {
                let (anchor, one) = self.reach_beside(member, one);
                Place::by(one, Some((anchor, 0)), displacement, slow)
            }
            (None, Some((one, scale))) => {
                let (anchor, one) = self.reach_beside(member, one);
                Place::by(anchor, Some((one, scale)), displacement, slow)
            }
            (Some(base), Some((index, scale))) => {
                self.reach(member);
                let base = self.value(base.into(), 14);
                dynasm!(self.s ; .arch x64 ; lea rcx, [rcx + Rq(base)]);
                self.held = None;
                let index = self.value(index.into(), 14);
                Place::by(1, Some((index, scale)), displacement, slow)
            }
        })
    }

    /// Makes a group's anchor and another guest register be in host registers, and says in which.
    fn reach_beside(&mut self, member: Member, guest: u8) -> (u8, u8) {
        let anchor = self.reach_by_any(member);
        // What is in the frame is loaded into the other scratch register.
        let other = if anchor == 14 { 1 } else { 14 };
        if other == 1 && matches!(home(guest.into()), Home::Frame(_)) {
            self.held = None;
        }
        (anchor, self.value(guest.into(), other))
    }

    /// Encodes an instruction whose operands are the host's.
    pub(crate) fn encode(&mut self, i: &Instruction) -> Result<(), Unsupported> {
        self.encoded_at = self.s.len();
        // The encoder owns its buffer: lend it ours.
        let buffer = core::mem::take(self.s.buffer());
        let len = buffer.len();
        self.encoder.set_buffer(buffer);
        let result = self.encoder.encode(i, 0);
        *self.s.buffer() = self.encoder.take_buffer();
        match result {
            Ok(_) => Ok(()),
            Err(_) => {
                self.s.buffer().truncate(len);
                Err(Unsupported)
            }
        }
    }

    /// Where the present instruction's accesses stand in groups.
    pub(crate) fn accesses(&self) -> Accesses {
        self.groups.accesses.get(self.n as usize - 1).copied().unwrap_or_default()
    }
}

/// Whether one operand is CH, or one is AH, BH or DH and the other a part of RCX.
fn uses_rcx_with_high_byte(i: &Instruction) -> bool {
    let registers =
        || (0..i.op_count()).filter(|&n| i.op_kind(n) == OpKind::Register).map(|n| i.op_register(n));
    registers().any(is_high_byte) && registers().any(|register| register.full_register() == Register::RCX)
}

fn is_shift_by_cl(i: &Instruction, n: u32) -> bool {
    use iced_x86::Mnemonic::*;
    n == i.op_count() - 1
        && n > 0
        && matches!(i.mnemonic(), Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd)
        && i.code().op_code().op_kind(n) == iced_x86::OpCodeOperandKind::cl
}

pub(crate) fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// What the check of a memory operand has to ask for.
pub(crate) fn access_of(
    i: &Instruction,
    access: OpAccess,
    fixed: Option<u64>,
) -> Result<Access, Unsupported> {
    let size = i.memory_size().size() as u32;
    if !(1..=64).contains(&size) {
        return Err(Unsupported);
    }
    let write = writes(access);
    if !write && !matches!(access, OpAccess::Read | OpAccess::CondRead) {
        return Err(Unsupported);
    }
    let alignment = alignment(i).map(|alignment| (alignment, 0));
    Ok(Access { size, write, alignment, fixed })
}
