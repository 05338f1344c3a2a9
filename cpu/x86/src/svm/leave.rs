//! #VMEXIT: from a guest back to the host (APM 2 15.6).

use super::inject::exit_int_info;
use super::vmcb::{CONTROL_SIZE, SAVE_AREA, SaveArea, VmcbSegment, interrupt_state, nested, virtualization};
use super::{Exit, ExitCode};
use crate::control::{cr0, cr4};
use crate::flags::bits;
use crate::insn::seg;
use crate::model::Feature;
use crate::state::gpr::{RAX, RSP};
use crate::state::{Activity, Shadow, TableRegister, boundary};
use crate::virt::Level;
use crate::{Cpu, events::dr6};
use core::ops::Range;
use ringworld_core::{GuestPhys, PAGE_MASK};
use zerocopy::{FromZeros, IntoBytes};

/// What #VMEXIT writes of the control area: the virtual interrupts up to EXITINTINFO, EVENTINJ, and nRIP with the
/// instruction's bytes.
const CONTROL_WRITTEN: [Range<usize>; 3] = [0x60..0x90, 0xa8..0xb0, 0xc8..0xe0];
/// What it writes of the state-save area: ES to DS, GDTR, IDTR, CPL, EFER, CR4 to RIP, RSP, RAX, CR2. G_PAT and the debug
/// registers are written if they are the guest's own.
const SAVE_WRITTEN: [Range<usize>; 9] = [
    0x000..0x040,
    0x060..0x070,
    0x080..0x090,
    0x0cb..0x0cc,
    0x0d0..0x0d8,
    0x148..0x180,
    0x1d8..0x1e0,
    0x1f8..0x200,
    0x240..0x248,
];
const G_PAT: Range<usize> = 0x268..0x270;
const LAST_BRANCHES: Range<usize> = 0x270..0x298;

impl Cpu {
    /// Leaves the guest for the exit that was noted; RIP is the guest's.
    pub(crate) fn svm_take_exit(&mut self) {
        let exit = core::mem::take(&mut self.virt.svm.exit);
        let code = ExitCode(exit.code);
        let vectoring = match self.virt.vectoring.take() {
            // These end the delivery of the event for good.
            Some(_) if code == ExitCode::SHUTDOWN || code == ExitCode::exception(8) => 0,
            Some(event) => exit_int_info(&event),
            None => 0,
        };
        tracing::trace!(
            target: "ringworld::svm",
            info1 = format_args!("{:#x}", exit.info1), info2 = format_args!("{:#x}", exit.info2),
            rip = format_args!("{:#x}", self.rip()), vectoring = format_args!("{vectoring:#x}"),
            count = self.icount, "#VMEXIT {code}",
        );
        self.counters.svm_exits.note(exit.code);
        self.svm_write_save();
        self.svm_write_exit(exit, vectoring);
        self.svm_load_host();
    }

    /// Stores the guest's registers.
    fn svm_write_save(&mut self) {
        let mut save = SaveArea::new_zeroed();
        let segment = |n: u8| VmcbSegment::of(&self.seg[usize::from(n)]);
        save.es = segment(seg::ES);
        save.cs = segment(seg::CS);
        save.ss = segment(seg::SS);
        save.ds = segment(seg::DS);
        let table = |table: TableRegister| VmcbSegment {
            selector: 0,
            attributes: 0,
            limit: table.limit.into(),
            base: table.base,
        };
        save.gdtr = table(self.gdtr);
        save.idtr = table(self.idtr);
        save.cpl = self.cpl;
        save.efer = self.efer;
        save.cr0 = self.cr0;
        save.cr2 = self.cr2;
        save.cr3 = self.cr3;
        save.cr4 = self.cr4;
        save.dr6 = self.dr[6];
        save.dr7 = self.dr[7];
        save.rflags = self.flags.get();
        save.rip = self.rip();
        save.rsp = self.regs[RSP];
        save.rax = self.regs[RAX];
        save.g_pat = self.msrs.pat;
        save.dbgctl = self.msrs.debugctl;
        [save.br_from, save.br_to, save.last_exception_from, save.last_exception_to] = self.msrs.last_branch;
        let guest = &self.virt.svm.guest;
        let at = guest.vmcb.0 + SAVE_AREA;
        let pat = (guest.control.nested & nested::NP_ENABLE != 0).then_some(G_PAT);
        let lbr = (guest.control.virtualization & virtualization::LBR != 0).then_some(LAST_BRANCHES);
        for range in SAVE_WRITTEN.into_iter().chain(pat).chain(lbr) {
            // A VMCB where there is no memory loses what is written.
            let _ = self.memory.write(GuestPhys(at + range.start as u64), &save.as_bytes()[range]);
        }
    }

    /// Stores what the exit is about.
    pub(super) fn svm_write_exit(&mut self, exit: Exit, vectoring: u64) {
        let in_shadow = self.in_shadow != Shadow::None && exit.code != ExitCode::INVALID.0;
        let bytes = if exit.bytes { self.svm_fetched_bytes() } else { [0; 16] };
        let next_rip = if self.model.has(Feature::Nrips) { exit.next_rip } else { 0 };
        let guest = &mut self.virt.svm.guest;
        let control = &mut guest.control;
        control.interrupt_state = control.interrupt_state & !interrupt_state::SHADOW | u64::from(in_shadow);
        control.exit_code = exit.code;
        control.exit_info1 = exit.info1;
        control.exit_info2 = exit.info2;
        control.exit_int_info = vectoring;
        control.event_injection = 0;
        control.next_rip = next_rip;
        control.fetched = bytes;
        let area = *control;
        let at = guest.vmcb.0;
        debug_assert!(CONTROL_WRITTEN.iter().all(|range| range.end <= CONTROL_SIZE));
        for range in CONTROL_WRITTEN {
            let _ = self.memory.write(GuestPhys(at + range.start as u64), &area.as_bytes()[range]);
        }
    }

    /// The bytes of the instruction at RIP, as far as they can be fetched: their number and themselves (APM 2 15.10.4).
    fn svm_fetched_bytes(&mut self) -> [u8; 16] {
        let mut fetched = [0; 16];
        if !self.model.has(Feature::DecodeAssists) {
            return fetched;
        }
        let start = self.code_linear();
        let in_page = (PAGE_MASK + 1 - (start & PAGE_MASK)).min(15) as usize;
        let mut have = 0;
        for (from, to) in [(0, in_page), (in_page, 15)] {
            let linear = start.wrapping_add(from as u64);
            let Some(at) = self.debug_translate(linear).filter(|_| from < to) else { break };
            if self.memory.read(at, &mut fetched[1 + from..1 + to]).is_err() {
                break;
            }
            have = to;
        }
        fetched[0] = have as u8;
        fetched[1 + have..].fill(0);
        fetched
    }

    /// Loads the host's state; GIF is clear.
    pub(super) fn svm_load_host(&mut self) {
        let host = core::mem::take(&mut self.virt.svm.host);
        let control = self.virt.svm.guest.control;
        self.virt.svm.guest.control.intercepts = [0; 6];
        self.virt.level = Level::Host;
        self.virt.gif = false;
        self.set_guest_space(None);
        for (n, segment) in [seg::ES, seg::CS, seg::SS, seg::DS].into_iter().zip(host.seg) {
            self.seg[usize::from(n)] = segment;
        }
        self.gdtr = host.gdtr;
        self.idtr = host.idtr;
        self.efer = host.efer;
        self.cr0 = host.cr0 | cr0::PE;
        self.cr3 = host.cr3;
        self.cr4 = host.cr4;
        self.flags.set(host.rflags & !bits::VM);
        self.set_rip(host.rip);
        self.regs[RSP] = host.rsp;
        self.regs[RAX] = host.rax;
        self.cpl = 0;
        if control.nested & nested::NP_ENABLE != 0 {
            self.msrs.pat = host.pat;
        }
        if control.virtualization & virtualization::LBR != 0 {
            let [debugctl, last_branch @ ..] = host.debug;
            self.msrs.last_branch = last_branch;
            self.set_debugctl(debugctl);
        }
        self.dr[7] = 0x400;
        self.activity = Activity::Active;
        self.boundary &= !boundary::INACTIVE;
        self.shadow = Shadow::None;
        self.in_shadow = Shadow::None;
        self.stepping = false;
        self.monitor = None;
        self.virt.vectoring = None;
        self.pending_db = if host.trap { dr6::BS } else { 0 };
        self.debug_registers_changed();
        self.update_mode();
        self.boundary |= boundary::INTERRUPT | boundary::TRAP;
        let pae = self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && !self.long_mode();
        if pae {
            if self.load_pdptes(self.cr3).is_err() {
                self.suspend(Activity::Shutdown);
            }
            self.update_context();
        }
        self.end_block();
    }
}
