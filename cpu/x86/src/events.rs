//! What happens between instructions, in the order of SDM 3A table 6-2: SMI, debug traps, NMI, interrupts, code
//! breakpoints; and what wakes a processor that is not active.

use crate::Cpu;
use crate::control::cr4;
use crate::deliver::Origin;
use crate::fault::{Exception, vector};
use crate::flags::bits;
use crate::insn::{Insn, prefix};
use crate::interp::RunEnd;
use crate::mem::Kind;
use crate::msr::debugctl;
use crate::state::{Activity, Shadow, boundary};
use crate::virt::Moment;
use iced_x86::Code;

/// Bits of DR6 (SDM 3B 18.2.3).
#[allow(missing_docs)]
pub mod dr6 {
    pub const BD: u64 = 1 << 13;
    pub const BS: u64 = 1 << 14;
    pub const BT: u64 = 1 << 15;
}

/// Bits of DR7.
#[allow(missing_docs)]
pub mod dr7 {
    pub const GD: u64 = 1 << 13;
}

/// What a debug register watches (the R/W field of DR7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Watch {
    Fetch,
    Write,
    Port,
    Access,
}

impl Cpu {
    /// Looks at everything in [`Cpu::boundary`]; says if the run has to end.
    #[cold]
    pub(crate) fn at_boundary(&mut self) -> Option<RunEnd> {
        if self.boundary & boundary::YIELD != 0 {
            self.boundary &= !boundary::YIELD;
            return Some(RunEnd::Attention);
        }
        let mut shadow = core::mem::take(&mut self.shadow);
        self.in_shadow = shadow;
        self.boundary &= !boundary::SHADOW;
        loop {
            let halted = self.activity == Activity::Halted;
            if self.guest_boundary(Moment::First, shadow) {
                shadow = Shadow::None;
                continue;
            }
            if self.boundary & boundary::INACTIVE != 0 && !self.wake() {
                return Some(RunEnd::Inactive);
            }
            if self.smi_pending && self.smis_open() {
                self.smi_pending = false;
                self.counters.smis += 1;
                self.enter_smm(halted);
                continue;
            }
            if self.pending_db != 0 && shadow != Shadow::MovSs {
                let payload = core::mem::take(&mut self.pending_db);
                self.pending = Exception { vector: vector::DB, error: None, payload };
                self.deliver_exception(Origin::Trap);
                if self.pending_db != 0 {
                    // The frame itself has hit a breakpoint, and may again, without end: see below.
                    self.icount += 1;
                    return Some(RunEnd::Attention);
                }
                continue;
            }
            if self.guest_boundary(Moment::Timers, shadow) {
                shadow = Shadow::None;
                continue;
            }
            if shadow == Shadow::None && self.nmi_pending && self.nmis_open() {
                if !self.guest_boundary(Moment::Nmi, shadow) {
                    self.nmi_pending = false;
                    self.nmi_blocked = true;
                    self.counters.nmis += 1;
                    self.deliver_external(vector::NMI);
                }
                continue;
            }
            if self.guest_boundary(Moment::Windows, shadow) {
                shadow = Shadow::None;
                continue;
            }
            if shadow == Shadow::None {
                if self.interrupts_open()
                    && self.mode.guest()
                    && self.interrupt_waits()
                    && self.guest_boundary(Moment::Interrupt, shadow)
                {
                    continue;
                }
                if let Some(vector) = self.take_interrupt() {
                    self.counters.interrupts += 1;
                    self.deliver_external(vector);
                    continue;
                }
                if self.guest_boundary(Moment::Virtual, shadow) {
                    continue;
                }
            }
            if self.boundary & boundary::CODE_BREAKPOINTS != 0
                // AMD's silicon takes it (measured on Zen 3).
                && (shadow != Shadow::MovSs || self.model.is_amd())
                // Matches are discarded while GIF is clear (APM 2 15.17).
                && self.virt.gif
                && !self.flags.has(bits::RF)
                && let matched @ 1.. = self.watch_matches(Watch::Fetch, self.code_linear(), 1)
            {
                self.pending = Exception { vector: vector::DB, error: None, payload: matched };
                // RF is not set in the saved flags for this one fault (SDM 3A 6.8.3). It counts as an instruction and ends the
                // run, as its handler may begin at a breakpoint, and that at another, without end.
                self.icount += 1;
                self.deliver_exception(Origin::Trap);
                return Some(RunEnd::Attention);
            }
            break;
        }
        self.held = u64::from(
            self.nmi_pending
                || self.smi_pending
                || self.lapic.pending_vector().is_some()
                || self.intr && self.ext_int_reaches()
                || self.guest_waits_for_flags(),
        );
        let keep = boundary::CODE_BREAKPOINTS | boundary::LAST_BRANCH | boundary::YIELD;
        self.boundary &= keep;
        if self.mode.guest() && self.guest_steps() {
            self.boundary |= boundary::INTERRUPT;
        }
        if self.flags.has(bits::TF | bits::RF) || self.pending_db != 0 {
            self.boundary |= boundary::TRAP;
        }
        if shadow != Shadow::None {
            // Look again after the instruction in the shadow.
            self.boundary |= boundary::INTERRUPT;
        }
        None
    }

    /// Whether something ends the processor's inactivity.
    fn wake(&mut self) -> bool {
        let interrupt = self.interrupt_waits();
        let unmasked = interrupt && self.interrupts_open();
        let nmi = self.nmi_pending && self.nmis_open();
        let smi = self.smi_pending && self.smis_open();
        let debug = self.pending_db != 0;
        let guest = self.mode.guest()
            && matches!(self.activity, Activity::Halted | Activity::Mwait(_))
            && self.guest_wakes();
        let wakes = guest
            || match self.activity {
                Activity::Active => true,
                Activity::Halted => unmasked || nmi || smi || debug,
                Activity::Mwait(even_masked) => {
                    unmasked || nmi || smi || debug || (even_masked && interrupt) || self.monitor_triggered()
                }
                // SDM 3A 6.15 (#DF): NMI, SMI, INIT or RESET leave shutdown; the machine treats it as a reset before that.
                Activity::Shutdown | Activity::WaitForSipi => false,
            };
        if wakes {
            self.monitor = None;
            self.activity = Activity::Active;
            self.boundary &= !boundary::INACTIVE;
        }
        wakes
    }

    /// An interrupt waits for the processor to take it.
    pub(crate) fn interrupt_waits(&mut self) -> bool {
        let now = self.now();
        self.lapic.tick(now);
        self.lapic.pending_vector().is_some() || (self.intr && self.ext_int_reaches())
    }

    /// The vector of an interrupt to be delivered now.
    fn take_interrupt(&mut self) -> Option<u8> {
        if self.boundary & boundary::INTERRUPT == 0 || !self.interrupts_open() {
            return None;
        }
        self.acknowledge_interrupt()
    }

    /// Acknowledges the interrupt that waits, if one does.
    pub(crate) fn acknowledge_interrupt(&mut self) -> Option<u8> {
        let now = self.now();
        self.lapic.tick(now);
        if self.intr && self.ext_int_reaches() {
            self.intr = false;
            let vector = self.platform.clone().acknowledge(self.io_context());
            // The machine looks at the INTR line again.
            self.boundary |= boundary::YIELD;
            return Some(vector);
        }
        self.lapic.pending_vector()?;
        self.boundary |= boundary::YIELD;
        Some(self.lapic.acknowledge(now))
    }

    /// A start-up IPI takes the processor out of wait-for-SIPI.
    pub(crate) fn start_up(&mut self, page: u8) {
        let cs = &mut self.seg[crate::insn::seg::CS as usize];
        cs.selector = u16::from(page) << 8;
        cs.base = u64::from(page) << 12;
        self.set_rip(0);
        self.activity = Activity::Active;
        self.boundary &= !boundary::INACTIVE;
        self.update_mode();
    }

    /// Stops executing until something wakes the processor.
    pub(crate) fn suspend(&mut self, activity: Activity) {
        self.activity = activity;
        self.boundary |= boundary::INACTIVE | boundary::INTERRUPT;
        self.end_block();
    }

    /// Ends an instruction that has done a part and goes on later: an event in between saves RF set, and the instruction's own
    /// breakpoint does not strike again (SDM 3B 18.3.1.1).
    pub(crate) fn go_on_later(&mut self, i: &Insn) {
        self.set_rip(self.rip().wrapping_sub(i.len.into()));
        self.flags.system |= bits::RF;
        self.boundary |= boundary::TRAP;
        self.end_block();
    }

    /// Before an instruction that runs alone: whether [`Self::after_single_step`] is to be called.
    pub(crate) fn before_single_step(&mut self) -> bool {
        self.stepping = self.flags.has(bits::TF);
        // RF lasts until the next instruction has completed; faults set it in the flags that they save.
        self.flags.system &= !bits::RF;
        self.stepping || self.boundary & boundary::LAST_BRANCH != 0
    }

    /// After an instruction (at `start`) that ran with TF set: the single-step trap is pending, unless the instruction was
    /// one that holds debug traps off, or IA32_DEBUGCTL.BTF is set and it was no taken branch (SDM 3B 18.4.3).
    pub(crate) fn after_single_step(&mut self, start: u64, insn: &Insn) {
        let repeated = insn.prefixes & (prefix::REP | prefix::REPNE) != 0;
        let branched = self.rip() != start.wrapping_add(u64::from(insn.len)) && !repeated;
        if self.boundary & boundary::LAST_BRANCH != 0 {
            self.note_branch(start, insn, branched);
        }
        let traps = branched || self.msrs.debugctl & debugctl::BTF == 0;
        if self.stepping && traps && self.shadow != Shadow::MovSs {
            self.pending_db |= dr6::BS;
        }
        self.stepping = false;
        self.boundary |= boundary::TRAP;
    }

    /// After SYSCALL and SYSRET the trap follows the TF that they leave, not the one that they began with: so TF in FMASK
    /// keeps the trap out of the kernel, and SYSRET to a stepping program traps at once.
    pub(crate) fn trap_by_new_flags(&mut self) {
        self.stepping = false;
        if self.flags.has(bits::TF) {
            self.pending_db |= dr6::BS;
            self.boundary |= boundary::TRAP;
        }
    }

    /// Writes IA32_DEBUGCTL. While branches are recorded, each instruction is looked at.
    pub(crate) fn set_debugctl(&mut self, value: u64) {
        self.msrs.debugctl = value;
        if value & debugctl::LBR != 0 {
            self.boundary |= boundary::LAST_BRANCH;
        } else {
            self.boundary &= !boundary::LAST_BRANCH;
        }
        self.end_block();
    }

    /// Records a branch that was taken (APM 2 13.1.1.6).
    fn note_branch(&mut self, start: u64, insn: &Insn, branched: bool) {
        use iced_x86::FlowControl::{self, ConditionalBranch, Exception, Interrupt, Next};
        let taken = match insn.code().flow_control() {
            ConditionalBranch => branched,
            // Events record themselves; VMRUN is no branch to iced's "call".
            Next | Exception | Interrupt => false,
            FlowControl::Call => !matches!(insn.code(), Code::Vmrunw | Code::Vmrund | Code::Vmrunq),
            _ => true,
        };
        if taken {
            let [_, _, exception @ ..] = self.msrs.last_branch;
            self.msrs.last_branch = [start, self.rip(), exception[0], exception[1]];
        }
    }

    /// Records the delivery of an exception or interrupt at `from`: the branch before it stays visible.
    pub(crate) fn note_event_branch(&mut self, from: u64) {
        let [before_from, before_to, ..] = self.msrs.last_branch;
        self.msrs.last_branch = [from, self.rip(), before_from, before_to];
    }

    /// DR6, DR7 and IA32_DEBUGCTL at the delivery of a debug exception.
    pub(crate) fn note_debug_exception(&mut self, payload: u64) {
        self.set_debugctl(self.msrs.debugctl & !(debugctl::BTF | debugctl::LBR));
        self.dr[6] = self.dr[6] & !0xf | payload;
        self.dr[7] &= !dr7::GD;
    }

    fn watches(&self) -> impl Iterator<Item = (usize, Watch, u64, u64)> + '_ {
        (0..4).filter_map(|n| {
            let control = self.dr[7];
            if control >> (2 * n) & 3 == 0 {
                return None;
            }
            let watch = match control >> (16 + 4 * n) & 3 {
                0 => Watch::Fetch,
                1 => Watch::Write,
                2 if self.cr4 & cr4::DE != 0 => Watch::Port,
                2 => return None,
                _ => Watch::Access,
            };
            let len = [1, 2, 8, 4][(control >> (18 + 4 * n) & 3) as usize];
            Some((n, watch, self.dr[n] & !(len - 1), len))
        })
    }

    /// The breakpoints (bits of DR6) of one kind that touch a range.
    fn watch_matches(&self, wanted: Watch, start: u64, len: u64) -> u64 {
        self.watches()
            .filter(|&(_, watch, at, size)| {
                watch == wanted && (start.wrapping_sub(at) < size || at.wrapping_sub(start) < len)
            })
            .fold(0, |bits, (n, ..)| bits | 1 << n)
    }

    /// Notes the data breakpoints that an access hits; the trap comes after the instruction.
    pub(crate) fn check_data_breakpoints(&mut self, linear: u64, len: u64, kind: Kind) {
        let mut hit = self.watch_matches(Watch::Access, linear, len);
        if kind == Kind::Write {
            hit |= self.watch_matches(Watch::Write, linear, len);
        }
        self.note_breakpoints(hit);
        self.check_watchpoints(linear, len, kind);
    }

    /// Notes the I/O breakpoints that a port access hits.
    pub(crate) fn check_port_breakpoints(&mut self, port: u16, len: u64) {
        let hit = self.watch_matches(Watch::Port, port.into(), len);
        self.note_breakpoints(hit);
    }

    fn note_breakpoints(&mut self, hit: u64) {
        if hit != 0 && self.virt.gif {
            self.pending_db |= hit;
            self.boundary |= boundary::TRAP;
            self.end_block();
        }
    }

    /// Whether a data breakpoint lies in the page at `page`.
    pub(crate) fn page_is_watched(&self, page: u64) -> bool {
        self.watches.in_page(page)
            || self.watches().any(|(_, watch, at, size)| {
                matches!(watch, Watch::Write | Watch::Access)
                    && (at & !0xfff == page || at.wrapping_add(size - 1) & !0xfff == page)
            })
    }

    /// After DR0–DR3, DR7 or CR4.DE have changed.
    pub(crate) fn debug_registers_changed(&mut self) {
        let mut data = !self.watches.is_empty();
        let mut code = false;
        for (_, watch, ..) in self.watches() {
            match watch {
                Watch::Fetch => code = true,
                Watch::Write | Watch::Access => data = true,
                Watch::Port => {}
            }
        }
        if data || self.data_breakpoints {
            // Watched pages must take the slow path, and others may again take the fast one.
            self.tlb.flush();
        }
        self.data_breakpoints = data;
        if code {
            self.boundary |= boundary::CODE_BREAKPOINTS;
        } else {
            self.boundary &= !boundary::CODE_BREAKPOINTS;
        }
        self.end_block();
    }
}
