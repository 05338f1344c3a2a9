//! VM entry: checks, loading the guest, injecting an event (SDM 3C chapter 27).

use super::controls::bits::*;
use super::entry_checks::{Failure, View};
use super::exit::PERF_GLOBAL_CTRL;
use super::reason;
use super::state::{LDTR, TR};
use super::vmcs::Field;
use crate::control::{cr0, cr4, efer};
use crate::deliver::{Event, Origin};
use crate::fault::vector;
use crate::insn::seg;
use crate::state::{Activity, Shadow, boundary, gpr};
use crate::virt::Level;
use crate::{Cpu, Stop};

/// VM entry did not begin: the VM-instruction error.
pub(super) struct EntryRefused(pub u32);

impl Cpu {
    /// What the checks look at.
    pub(super) fn vmx_view(&self) -> View<'_> {
        View {
            vmcs: &self.virt.vmx.vmcs,
            capabilities: self.model.vmx(),
            model: &self.model,
            memory: &self.memory,
            long: self.efer & efer::LMA != 0,
            entered_long: self.virt.vmx.entered_long,
            current: self.virt.vmx.current.unwrap_or(u64::MAX),
            smm: self.smm,
        }
    }

    /// VMLAUNCH and VMRESUME after their own checks. After success, and after a failure that exits, RIP is where execution
    /// goes on.
    pub(super) fn vmx_enter(&mut self, launch: bool) -> Result<(), EntryRefused> {
        self.counters.vmx_entries += 1;
        if let Some(check) = self.vmx_view().first_violation() {
            tracing::debug!(
                target: "ringworld::vmx",
                check = check.name, text = check.text, section = check.section, "VM entry fails"
            );
            self.counters.vmx_failed = Some(check.name);
            return match check.failure {
                Failure::Instruction(error) => Err(EntryRefused(error)),
                Failure::GuestState(qualification) => {
                    self.vmx_entry_failure(reason::INVALID_GUEST_STATE, qualification);
                    Ok(())
                }
            };
        }
        self.virt.vmx.vmcs.note_entry();
        self.virt.vmx.entered_long = self.efer & efer::LMA != 0;
        self.load_guest();
        if let Err(entry) = self.load_msr_list(Field::EntryMsrLoadAddress, Field::EntryMsrLoadCount) {
            self.vmx_entry_failure(reason::MSR_LOADING, entry);
            return Ok(());
        }
        if launch {
            self.virt.vmx.vmcs.launched = true;
            if let Some(region) = self.virt.vmx.current {
                self.vmcs_set_launched(region, true);
            }
        }
        tracing::trace!(
            target: "ringworld::vmx",
            rip = format_args!("{:#x}", self.rip()),
            event = format_args!("{:#x}", self.virt.vmx.vmcs.get(Field::EntryInterruptionInfo)),
            count = self.icount, "entry"
        );
        self.start_preemption_timer();
        self.begin_guest();
        Ok(())
    }

    /// Loads the guest state (SDM 3C 27.3.2).
    fn load_guest(&mut self) {
        let vmx = &mut self.virt.vmx;
        vmx.trap_exit = None;
        vmx.sipi = None;
        vmx.pause_loop = (0, 0);
        let vmx = &self.virt.vmx;
        let vmcs = &vmx.vmcs;
        let get = |field| vmcs.get(field);
        let long = vmx.entry_control(GUEST_LONG);
        let kept = cr0::CD | cr0::NW;
        let new_cr0 = self.cr0 & kept | get(Field::GuestCr0) & !kept & 0xe005_003f | cr0::ET;
        let mut new_efer = if vmx.entry_control(GUEST_EFER) { get(Field::GuestEfer) } else { self.efer };
        // LMA is the control's; so is LME, unless paging is off (SDM 3C 27.3.2.1).
        if !vmx.entry_control(GUEST_EFER) {
            new_efer &= !efer::LMA;
            if new_cr0 & cr0::PG != 0 {
                new_efer &= !efer::LME;
            }
            if long {
                new_efer |= efer::LMA | efer::LME;
            }
        }
        self.cr0 = new_cr0;
        self.cr3 = get(Field::GuestCr3);
        self.cr4 = get(Field::GuestCr4);
        self.efer = new_efer;
        if vmx.entry_control(DEBUG_CONTROLS) {
            self.dr[7] = get(Field::GuestDr7) & 0xffff_23ff | 0x400;
            self.msrs.debugctl = get(Field::GuestDebugctl) & crate::msr::debugctl::BTF;
        }
        self.msrs.sysenter_cs = get(Field::GuestSysenterCs);
        self.msrs.sysenter_esp = get(Field::GuestSysenterEsp);
        self.msrs.sysenter_eip = get(Field::GuestSysenterEip);
        if vmx.entry_control(GUEST_PAT) {
            self.msrs.pat = get(Field::GuestPat);
        }
        if vmx.entry_control(GUEST_PKRS) {
            self.msrs.pkrs = get(Field::GuestPkrs);
        }
        let perf = vmx.entry_control(GUEST_PERF_GLOBAL_CTRL).then(|| get(Field::GuestPerfGlobalCtrl));
        for n in 0..6 {
            self.seg[n] = vmcs.segment(n);
        }
        self.ldtr = vmcs.segment(LDTR);
        self.tr = vmcs.segment(TR);
        [self.gdtr, self.idtr] = vmcs.tables();
        self.regs[gpr::RSP] = get(Field::GuestRsp);
        let rip = get(Field::GuestRip);
        let rflags = get(Field::GuestRflags);
        let interruptibility = get(Field::GuestInterruptibility);
        let pae = new_cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && !long;
        let pdptes = [0, 1, 2, 3].map(|n| vmcs.nth(Field::GuestPdpte0, n));
        let ept = vmx.secondary(EPT);
        let vpid = vmx.secondary(VPID);
        let activity = match get(Field::GuestActivityState) {
            1 => Activity::Halted,
            2 => Activity::Shutdown,
            3 => Activity::WaitForSipi,
            _ => Activity::Active,
        };
        let pending = get(Field::GuestPendingDebugExceptions);
        let (virtual_nmis, nmi_exiting) = (vmx.pin(VIRTUAL_NMIS), vmx.pin(NMI_EXITING));
        self.set_rip(rip);
        self.flags.set(rflags);
        self.cpl = if self.v8086() { 3 } else { self.seg[usize::from(seg::SS)].dpl() };
        self.monitor = None;
        self.activity = activity;
        self.shadow = match interruptibility & 3 {
            0 => Shadow::None,
            1 => Shadow::Sti,
            _ => Shadow::MovSs,
        };
        self.in_shadow = Shadow::None;
        self.stepping = false;
        let blocked = interruptibility & 8 != 0;
        if virtual_nmis {
            self.virt.vmx.virtual_nmi_blocked = blocked;
            self.nmi_blocked = false;
        } else if !nmi_exiting || blocked {
            self.nmi_blocked = blocked;
        }
        self.pending_db = pending & (0xf | crate::events::dr6::BS);
        self.boundary |= boundary::INTERRUPT | boundary::TRAP | boundary::SHADOW;
        if activity == Activity::Active {
            self.boundary &= !boundary::INACTIVE;
        } else {
            self.boundary |= boundary::INACTIVE;
        }
        self.virt.level = Level::Vmx;
        self.virt.vectoring = None;
        self.select_ept();
        if !vpid {
            self.forget_vpid_0();
        }
        if let Some(value) = perf {
            let _ = self.write_msr(PERF_GLOBAL_CTRL, value);
        }
        if pae {
            if ept {
                self.pdptes = pdptes;
            } else {
                // The checks have read them; another processor may have written them since, and they are as they are.
                let _ = self.load_pdptes(self.cr3);
            }
        }
        self.vmx_debug_registers_changed();
        self.update_mode();
    }

    /// What follows the loading: virtual interrupts are evaluated, and an event is injected (SDM 3C 27.6).
    fn begin_guest(&mut self) {
        let vmcs = &self.virt.vmx.vmcs;
        let info = vmcs.get32(Field::EntryInterruptionInfo);
        let error = vmcs.get32(Field::EntryExceptionErrorCode);
        let length = vmcs.get(Field::EntryInstructionLength);
        let single = self.virt.vmx.primary(MONITOR_TRAP_FLAG);
        self.virt.vmx.mtf_from = single.then_some(self.icount);
        self.entry_virtual_interrupts();
        self.end_block();
        if info >> 31 == 0 {
            return;
        }
        let kind = info >> 8 & 7;
        let vector = info as u8;
        let origin = match kind {
            0 | 2 => Origin::External,
            // The guest's RF is pushed as it is.
            3 => Origin::Trap,
            4 => Origin::Software,
            5 => Origin::Privileged,
            6 => Origin::SoftwareException,
            _ => {
                // An MTF exit is pending before the first instruction.
                self.virt.vmx.mtf_from = Some(u64::MAX);
                return;
            }
        };
        // Debug exceptions are not pending after an injection (SDM 3C 27.7.3).
        self.pending_db = 0;
        self.shadow = Shadow::None;
        self.activity = Activity::Active;
        self.boundary &= !boundary::INACTIVE;
        if single {
            self.virt.vmx.mtf_from = Some(u64::MAX);
        }
        if vector == vector::NMI && kind == 2 {
            self.counters.nmis += 1;
            if self.virt.vmx.pin(VIRTUAL_NMIS) {
                self.virt.vmx.virtual_nmi_blocked = true;
            } else {
                self.nmi_blocked = true;
            }
        }
        self.virt.length = length as u8;
        let rip = self.rip();
        if matches!(kind, 4..=6) {
            let long = self.long64();
            let next = rip.wrapping_add(length);
            self.set_rip(if long { next } else { next & 0xffff_ffff });
        }
        let error = (info >> 11 & 1 != 0).then_some(error);
        if let Err(stop) = self.deliver(Event { vector, error, origin }) {
            self.set_rip(rip);
            match stop {
                Stop::Exit => self.take_exit(),
                _ => self.deliver_failed(stop),
            }
        }
    }
}

/// A VMCS that passes all checks: for tests.
#[cfg(test)]
pub(super) fn sound_vmcs(capabilities: &super::capability::Capabilities) -> super::vmcs::Vmcs {
    use super::controls::Group;
    let mut vmcs = super::vmcs::Vmcs::default();
    let required = |group| u64::from(capabilities.required(group));
    for (field, value) in [
        (Field::PinBasedControls, required(Group::Pin)),
        (Field::PrimaryControls, required(Group::Primary)),
        (Field::ExitControls, required(Group::Exit) | u64::from(HOST_LONG)),
        (Field::EntryControls, required(Group::Entry) | u64::from(GUEST_LONG)),
        (Field::VmcsLinkPointer, u64::MAX),
        (Field::HostCr0, 0x8000_0031),
        (Field::HostCr4, cr4::VMXE | cr4::PAE),
        (Field::HostCsSelector, 8),
        (Field::HostTrSelector, 16),
        (Field::GuestCr0, 0x8000_0031),
        (Field::GuestCr4, cr4::VMXE | cr4::PAE),
        (Field::GuestRflags, 2),
        (Field::GuestCsAccessRights, 0xa09b),
        (Field::GuestCsLimit, 0xffff_ffff),
        (Field::GuestTrAccessRights, 0x8b),
        (Field::GuestTrLimit, 0x67),
        (Field::GuestLdtrAccessRights, 0x1_0000),
    ] {
        vmcs.set(field, value);
    }
    for n in [0, 2, 3, 4, 5] {
        vmcs.set_nth(Field::GuestEsAccessRights, n, 0xc093);
        vmcs.set_nth(Field::GuestEsLimit, n, 0xffff_ffff);
    }
    vmcs
}
