//! VM exits: recording why, saving the guest, loading the host (SDM 3C chapter 28).

use super::controls::bits::*;
use super::reason;
use super::state::{LDTR, TR};
use super::vmcs::{ABORT_AT, Field};
use crate::control::{cr0, cr4, efer};
use crate::deliver::{Event, Origin};
use crate::fault::vector;
use crate::flags::bits;
use crate::insn::seg;
use crate::msr::debugctl;
use crate::segment::{Segment, rights};
use crate::state::{Activity, Shadow, TableRegister, boundary, gpr};
use crate::virt::Level;
use crate::{Cpu, Stop};
use serde::{Deserialize, Serialize};

/// An exit, before it is taken.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Exit {
    /// Basic exit reason.
    pub reason: u16,
    /// Exit qualification.
    pub qualification: u64,
    /// Guest-linear address.
    pub linear: Option<u64>,
    /// Guest-physical address.
    pub physical: Option<u64>,
    /// VM-exit interruption information, and error code.
    pub interruption: Option<(u32, u32)>,
    /// VM-exit instruction information.
    pub instruction_info: Option<u32>,
    /// An instruction caused it: its length is reported.
    pub instruction: bool,
    /// RFLAGS.RF is saved as set.
    pub rf: bool,
    /// RIP when the exit was noted: past the instruction, if one was running.
    pub next_rip: u64,
    /// The activity state before the event that woke the processor.
    pub activity: Option<Activity>,
}

/// Bits of the pending-debug-exceptions field.
const PENDING_ENABLED: u64 = 1 << 12;
const PENDING_BS: u64 = 1 << 14;

/// IA32_PERF_GLOBAL_CTRL.
pub(super) const PERF_GLOBAL_CTRL: u32 = 0x38f;

/// VM-abort indicators (SDM 3C 28.7).
#[derive(Clone, Copy)]
enum Abort {
    StoringMsrs = 1,
    Pdptes = 2,
    LoadingMsrs = 4,
}

/// A valid interruption-information word (also IDT-vectoring information).
pub(super) fn interruption(vector: u8, kind: u32, error: bool) -> u32 {
    u32::from(vector) | kind << 8 | u32::from(error) << 11 | 1 << 31
}

/// The type of an event in interruption information (SDM 3C table 25-18).
pub(super) fn event_type(event: Event) -> u32 {
    match event.origin {
        Origin::External if event.vector == vector::NMI => 2,
        Origin::External => 0,
        Origin::Fault | Origin::Trap => 3,
        Origin::Software => 4,
        Origin::Privileged => 5,
        Origin::SoftwareException => 6,
    }
}

impl Cpu {
    /// Notes an exit.
    pub(crate) fn vmx_exit(&mut self, exit: Exit) -> Stop {
        self.virt.vmx.exit = Exit { next_rip: self.rip(), ..exit };
        Stop::Exit
    }

    /// Notes an exit that an instruction causes.
    pub(super) fn vmx_exit_by_instruction(&mut self, reason: u16, qualification: u64) -> Stop {
        self.vmx_exit(Exit { reason, qualification, instruction: true, ..Exit::default() })
    }

    /// Takes the exit that was noted.
    pub(crate) fn vmx_take_exit(&mut self) {
        let exit = core::mem::take(&mut self.virt.vmx.exit);
        let exits = &mut self.counters.vmx_exits;
        let n = usize::from(exit.reason.min(127));
        if exits.len() <= n {
            exits.resize(n + 1, 0);
        }
        exits[n] += 1;
        tracing::trace!(
            target: "ringworld::vmx",
            reason = reason::name(exit.reason), qualification = format_args!("{:#x}", exit.qualification),
            rip = format_args!("{:#x}", self.rip()), linear = format_args!("{:#x}", exit.linear.unwrap_or(0)),
            physical = format_args!("{:#x}", exit.physical.unwrap_or(0)),
            interruption = format_args!("{:#x}", exit.interruption.map_or(0, |(info, _)| info)), count = self.icount, "exit"
        );
        self.vmx_record(&exit);
        self.vmx_save_guest(&exit);
        let stored = self.store_msr_list();
        self.leave_guest(
            exit.reason == reason::EXCEPTION_OR_NMI
                && exit.interruption.is_some_and(|(i, _)| i >> 8 & 7 == 2),
        );
        if stored.is_err() {
            return self.vmx_abort(Abort::StoringMsrs);
        }
        self.load_host();
    }

    /// An exit that follows from a VM entry that failed after its checks of controls and host state: no guest is saved.
    pub(super) fn vmx_entry_failure(&mut self, basic: u16, qualification: u64) {
        let vmcs = &mut self.virt.vmx.vmcs;
        vmcs.set(Field::ExitReason, u64::from(reason::ENTRY_FAILURE) | u64::from(basic));
        vmcs.set(Field::ExitQualification, qualification);
        vmcs.set(Field::ExitInterruptionInfo, 0);
        vmcs.set(Field::IdtVectoringInfo, 0);
        tracing::trace!(
            target: "ringworld::vmx", reason = reason::name(basic), qualification, count = self.icount, "entry failed"
        );
        let blocked = self.nmi_blocked;
        self.leave_guest(false);
        self.nmi_blocked = blocked;
        self.load_host();
    }

    /// The VM-exit information fields (SDM 3C 28.2).
    fn vmx_record(&mut self, exit: &Exit) {
        let vectoring = self.virt.vectoring.take();
        // Silicon reports the length for exits by memory accesses, too.
        let length = match exit.next_rip.wrapping_sub(self.rip()) {
            length @ 1..=15 => length,
            _ => self.virt.length.into(),
        };
        let running = exit.next_rip != self.rip();
        let iret = self.virt.vmx.iret_unblocked == self.icount && vectoring.is_none();
        let vmcs = &mut self.virt.vmx.vmcs;
        // The entry's event has been consumed (SDM 3C 28.2.2).
        let consumed = vmcs.get(Field::EntryInterruptionInfo) & !(1 << 31);
        vmcs.set(Field::EntryInterruptionInfo, consumed);
        vmcs.set(Field::ExitReason, exit.reason.into());
        let memory = matches!(exit.reason, reason::EPT_VIOLATION | reason::PML_FULL);
        let unblocked = if iret && memory { 1 << 12 } else { 0 };
        vmcs.set(Field::ExitQualification, exit.qualification | unblocked);
        vmcs.set(Field::GuestLinearAddress, exit.linear.unwrap_or(0));
        vmcs.set(Field::GuestPhysicalAddress, exit.physical.unwrap_or(0));
        let (mut info, error) = exit.interruption.unwrap_or((0, 0));
        if iret && exit.reason == reason::EXCEPTION_OR_NMI && info & 0xff != u32::from(vector::DF) {
            info |= 1 << 12;
        }
        vmcs.set(Field::ExitInterruptionInfo, info.into());
        vmcs.set(Field::ExitInterruptionErrorCode, error.into());
        let mut by_software = exit.instruction || running && vectoring.is_none();
        let (info, error) = vectoring.map_or((0, 0), |event| {
            let kind = event_type(event);
            by_software |= matches!(kind, 4..=6);
            (interruption(event.vector, kind, event.error.is_some()), event.error.unwrap_or(0))
        });
        vmcs.set(Field::IdtVectoringInfo, info.into());
        vmcs.set(Field::IdtVectoringErrorCode, error.into());
        vmcs.set(Field::ExitInstructionLength, if by_software { length } else { 0 });
        vmcs.set(Field::ExitInstructionInfo, exit.instruction_info.unwrap_or(0).into());
    }

    /// Saves the guest state (SDM 3C 28.3).
    fn vmx_save_guest(&mut self, exit: &Exit) {
        let timer = self.preemption_timer_value();
        let mut rflags = self.flags.get();
        if exit.rf {
            rflags |= bits::RF;
        }
        let stepping = rflags & bits::TF != 0 && self.msrs.debugctl & debugctl::BTF == 0;
        // What an exception delivers directly is not pending.
        let mut pending = self.pending_db & 0xf | self.pending_db & crate::events::dr6::BS;
        if pending & 0xf != 0 {
            pending |= PENDING_ENABLED;
        }
        if self.in_shadow != Shadow::None && stepping {
            pending |= PENDING_BS;
        }
        let debug_exception = exit.interruption.is_some_and(|(info, _)| info & 0xff == u32::from(vector::DB));
        let nothing_pending =
            exit.reason == reason::EXCEPTION_OR_NMI && debug_exception || exit.reason == reason::TRIPLE_FAULT;
        let interruptibility = match self.in_shadow {
            Shadow::None => 0,
            Shadow::Sti => 1,
            Shadow::MovSs => 2,
        } | u64::from(self.smm) << 2;
        let activity = match exit.activity.unwrap_or(self.activity) {
            Activity::Active | Activity::Mwait(_) => 0,
            Activity::Halted => 1,
            Activity::Shutdown => 2,
            Activity::WaitForSipi => 3,
        };
        let (rsp, rip) = (self.regs[gpr::RSP], self.rip());
        let perf = if self.virt.vmx.entry_control(GUEST_PERF_GLOBAL_CTRL) {
            self.read_msr(PERF_GLOBAL_CTRL).unwrap_or(0)
        } else {
            0
        };
        let vmx = &mut self.virt.vmx;
        let blocked = if vmx.pin(VIRTUAL_NMIS) { vmx.virtual_nmi_blocked } else { self.nmi_blocked };
        if vmx.exit_control(DEBUG_CONTROLS) {
            vmx.vmcs.set(Field::GuestDr7, self.dr[7]);
            vmx.vmcs.set(Field::GuestDebugctl, self.msrs.debugctl);
        }
        if vmx.exit_control(SAVE_PAT) {
            vmx.vmcs.set(Field::GuestPat, self.msrs.pat);
        }
        if vmx.exit_control(SAVE_EFER) {
            vmx.vmcs.set(Field::GuestEfer, self.efer);
        }
        if vmx.entry_control(GUEST_PERF_GLOBAL_CTRL) {
            vmx.vmcs.set(Field::GuestPerfGlobalCtrl, perf);
        }
        if vmx.entry_control(GUEST_PKRS) {
            vmx.vmcs.set(Field::GuestPkrs, self.msrs.pkrs);
        }
        if vmx.secondary(UNRESTRICTED_GUEST) {
            let entry = vmx.vmcs.get(Field::EntryControls) & !u64::from(GUEST_LONG);
            let long = if self.efer & efer::LMA != 0 { u64::from(GUEST_LONG) } else { 0 };
            vmx.vmcs.set(Field::EntryControls, entry | long);
        }
        if vmx.exit_control(SAVE_PREEMPTION_TIMER) {
            vmx.vmcs.set(Field::PreemptionTimerValue, timer);
        }
        let pae = self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && self.efer & efer::LMA == 0;
        if vmx.secondary(EPT) && pae {
            for (n, pdpte) in self.pdptes.into_iter().enumerate() {
                vmx.vmcs.set_nth(Field::GuestPdpte0, n, pdpte);
            }
        }
        let vmcs = &mut vmx.vmcs;
        for (field, value) in [
            (Field::GuestCr0, self.cr0),
            (Field::GuestCr3, self.cr3),
            (Field::GuestCr4, self.cr4),
            (Field::GuestSysenterCs, self.msrs.sysenter_cs),
            (Field::GuestSysenterEsp, self.msrs.sysenter_esp),
            (Field::GuestSysenterEip, self.msrs.sysenter_eip),
            (Field::GuestRsp, rsp),
            (Field::GuestRip, rip),
            (Field::GuestRflags, rflags),
            (Field::GuestInterruptibility, interruptibility | u64::from(blocked) << 3),
            (Field::GuestActivityState, activity),
            (Field::GuestPendingDebugExceptions, if nothing_pending { 0 } else { pending }),
        ] {
            vmcs.set(field, value);
        }
        for (n, segment) in self.seg.iter().enumerate() {
            vmcs.set_segment(n, segment);
        }
        // The CPL is in the DPL of SS.
        let mut stack = self.seg[usize::from(seg::SS)];
        stack.rights = stack.rights & !0x60 | u16::from(self.cpl) << 5;
        vmcs.set_segment(seg::SS.into(), &stack);
        vmcs.set_segment(LDTR, &self.ldtr);
        vmcs.set_segment(TR, &self.tr);
        vmcs.set_tables([self.gdtr, self.idtr]);
    }

    /// The processor is in VMX root operation again.
    fn leave_guest(&mut self, by_nmi: bool) {
        let vmx = &mut self.virt.vmx;
        let virtual_nmis = vmx.pin(VIRTUAL_NMIS);
        vmx.mtf_from = None;
        vmx.timer_deadline = None;
        vmx.trap_exit = None;
        self.virt.level = Level::Host;
        self.virt.vectoring = None;
        if by_nmi {
            self.nmi_blocked = true;
        } else if virtual_nmis {
            self.nmi_blocked = false;
        }
        self.pending_db = 0;
        self.shadow = Shadow::None;
        self.in_shadow = Shadow::None;
        self.stepping = false;
        self.monitor = None;
        self.activity = Activity::Active;
        self.boundary &= !(boundary::INACTIVE | boundary::SHADOW | boundary::TRAP);
        self.boundary |= boundary::INTERRUPT;
        self.set_guest_space(None);
    }

    /// Loads the host state (SDM 3C 28.5).
    fn load_host(&mut self) {
        let vmx = &self.virt.vmx;
        let vmcs = &vmx.vmcs;
        let get = |field| vmcs.get(field);
        let long = vmx.exit_control(HOST_LONG);
        // ET, CD and NW are not modified.
        let kept = cr0::CD | cr0::NW;
        let mut new_efer = if vmx.exit_control(HOST_EFER) { get(Field::HostEfer) } else { self.efer };
        new_efer &= !(efer::LMA | efer::LME);
        let mut new_cr4 = get(Field::HostCr4);
        if long {
            new_efer |= efer::LMA | efer::LME;
            new_cr4 |= cr4::PAE;
        } else {
            new_cr4 &= !cr4::PCIDE;
        }
        self.cr0 = self.cr0 & kept | get(Field::HostCr0) & !kept & 0xe005_003f | cr0::ET;
        self.cr3 = get(Field::HostCr3);
        self.cr4 = new_cr4;
        self.efer = new_efer;
        self.dr[7] = 0x400;
        self.msrs.debugctl = 0;
        self.msrs.sysenter_cs = get(Field::HostSysenterCs);
        self.msrs.sysenter_esp = get(Field::HostSysenterEsp);
        self.msrs.sysenter_eip = get(Field::HostSysenterEip);
        if vmx.exit_control(HOST_PAT) {
            self.msrs.pat = get(Field::HostPat);
        }
        if vmx.exit_control(HOST_PKRS) {
            self.msrs.pkrs = get(Field::HostPkrs);
        }
        let perf = vmx.exit_control(HOST_PERF_GLOBAL_CTRL).then(|| get(Field::HostPerfGlobalCtrl));
        let flat = |selector: u64, kind: u16, base: u64| Segment {
            selector: selector as u16,
            rights: kind | rights::S | rights::PRESENT | rights::G,
            limit: u32::MAX,
            base,
            unusable: false,
        };
        for n in 0..6 {
            let selector = vmcs.nth(Field::HostEsSelector, n);
            let base = match n as u8 {
                seg::FS => get(Field::HostFsBase),
                seg::GS => get(Field::HostGsBase),
                _ => 0,
            };
            let mut segment = flat(selector, 3 | rights::DB, base);
            if n == usize::from(seg::CS) {
                segment = flat(selector, 11 | if long { rights::L } else { rights::DB }, 0);
            } else if selector == 0 {
                segment.unusable = true;
            }
            self.seg[n] = segment;
        }
        self.tr = Segment {
            selector: get(Field::HostTrSelector) as u16,
            rights: 11 | rights::PRESENT,
            limit: 0x67,
            base: get(Field::HostTrBase),
            unusable: false,
        };
        self.ldtr = Segment { unusable: true, ..Segment::default() };
        self.gdtr = TableRegister { base: get(Field::HostGdtrBase), limit: 0xffff };
        self.idtr = TableRegister { base: get(Field::HostIdtrBase), limit: 0xffff };
        self.regs[gpr::RSP] = get(Field::HostRsp);
        let rip = get(Field::HostRip);
        let flush = !vmx.secondary(VPID);
        self.set_rip(rip);
        self.flags.set(bits::FIXED);
        self.cpl = 0;
        if let Some(value) = perf {
            // The checks of VM entry have refused reserved bits.
            let _ = self.write_msr(PERF_GLOBAL_CTRL, value);
        }
        if flush {
            self.forget_vpid_0();
        }
        self.vmx_debug_registers_changed();
        self.update_mode();
        let pae = self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && !long;
        if pae {
            if self.load_pdptes(self.cr3).is_err() {
                return self.vmx_abort(Abort::Pdptes);
            }
            self.update_mode();
        }
        if self.load_msr_list(Field::ExitMsrLoadAddress, Field::ExitMsrLoadCount).is_err() {
            self.vmx_abort(Abort::LoadingMsrs);
        }
    }

    /// Recomputes the watching of breakpoints, which costs a TLB flush, only where some are or were enabled.
    pub(super) fn vmx_debug_registers_changed(&mut self) {
        if self.dr[7] & 0xff != 0 || self.data_breakpoints || self.boundary & boundary::CODE_BREAKPOINTS != 0
        {
            self.debug_registers_changed();
        }
    }

    /// VMX abort (SDM 3C 28.7): the processor shuts down.
    fn vmx_abort(&mut self, why: Abort) {
        tracing::debug!(target: "ringworld::vmx", "VMX abort {}", why as u32);
        if let Some(region) = self.virt.vmx.current {
            self.write_physical(region.wrapping_add(ABORT_AT), &(why as u32).to_le_bytes());
        }
        self.activity = Activity::Shutdown;
        self.boundary |= boundary::INACTIVE;
        self.end_block();
    }
}
