//! VMRUN: from the host into a guest (APM 2 15.5).

use super::checks::{self, Entry};
use super::inject::injection;
use super::vmcb::{ControlArea, SAVE_AREA, SaveArea, interrupt_state, nested, tlb_control, virtualization};
use super::{Exit, ExitCode, Guest, Host};
use crate::control::{cr0, cr4, efer};
use crate::flags::bits;
use crate::insn::seg;
use crate::nested::{GuestTag, SecondStage};
use crate::segment::Segment;
use crate::state::gpr::{RAX, RSP};
use crate::state::{Shadow, TableRegister, boundary};
use crate::virt::Level;
use crate::{Cpu, Stop};
use ringworld_core::GuestPhys;
use ringworld_mmu::x86::paging::{EntryFormat, Mode, Paging};
use zerocopy::{FromZeros, IntoBytes};

impl Cpu {
    /// VMRUN with the physical address of a VMCB; RIP is past the instruction.
    pub(super) fn svm_run(&mut self, vmcb: u64) -> Result<(), Stop> {
        let mut control = ControlArea::new_zeroed();
        let mut save = SaveArea::new_zeroed();
        // Where no memory is, nothing answers: all ones, which no check accepts.
        if self.memory.read(GuestPhys(vmcb), control.as_mut_bytes()).is_err()
            || self.memory.read(GuestPhys(vmcb + SAVE_AREA), save.as_mut_bytes()).is_err()
        {
            control.as_mut_bytes().fill(0xff);
            save.as_mut_bytes().fill(0xff);
        }
        self.virt.svm.host = self.host_state();
        self.virt.svm.trap = None;
        // The trap of a stepped VMRUN is the host's, after #VMEXIT.
        self.stepping = false;
        self.virt.svm.guest = Guest {
            vmcb: GuestPhys(vmcb),
            control,
            pauses: control.pause_filter_count,
            last_pause: self.tsc(),
        };
        let model = self.model.clone();
        let entry = Entry { control: &control, save: &save, model: &model, host_cr0: self.cr0 };
        if let Some(check) = checks::failing(&entry).next() {
            tracing::debug!(
                target: "ringworld::svm",
                vmcb = format_args!("{vmcb:#x}"), count = self.icount,
                "VMRUN refused: {} ({}, APM 2 {})", check.name, check.text, check.section,
            );
            self.svm_refuse();
            return Ok(());
        }
        tracing::trace!(
            target: "ringworld::svm",
            vmcb = format_args!("{vmcb:#x}"), asid = control.asid, rip = format_args!("{:#x}", save.rip),
            event = format_args!("{:#x}", control.event_injection), count = self.icount, "VMRUN",
        );
        self.load_guest_space();
        self.load_guest_state(&save);
        self.virt.gif = true;
        self.update_mode();
        self.svm_flush_for_entry(control.tlb_control as u8);
        if self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && !self.long_mode() {
            if self.load_pdptes(self.cr3).is_err() {
                self.svm_refuse();
                return Ok(());
            }
            // The walker has what was in these registers before.
            self.update_context();
        }
        self.debug_registers_changed();
        self.boundary |= boundary::INTERRUPT | boundary::TRAP | boundary::SHADOW;
        if control.event_injection >> 31 & 1 != 0 {
            self.svm_inject(control.event_injection);
        } else if control.interrupt_state & interrupt_state::SHADOW != 0 {
            self.shadow = Shadow::Sti;
        }
        self.end_block();
        Ok(())
    }

    /// VMRUN fails: #VMEXIT(VMEXIT_INVALID).
    fn svm_refuse(&mut self) {
        let exit = Exit { code: ExitCode::INVALID.0, ..Exit::default() };
        self.svm_write_exit(exit, 0);
        self.svm_load_host();
    }

    fn host_state(&self) -> Host {
        let lbr = self.msrs.last_branch;
        Host {
            seg: [seg::ES, seg::CS, seg::SS, seg::DS].map(|n| self.seg[usize::from(n)]),
            gdtr: self.gdtr,
            idtr: self.idtr,
            efer: self.efer,
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            rflags: self.flags.get(),
            rip: self.rip(),
            rsp: self.regs[RSP],
            rax: self.regs[RAX],
            pat: self.msrs.pat,
            debug: [self.msrs.debugctl, lbr[0], lbr[1], lbr[2], lbr[3]],
            trap: self.stepping,
        }
    }

    /// Selects the guest's address space, and nested paging. The tables have the format of the host's own paging mode.
    pub(super) fn load_guest_space(&mut self) {
        let svm = &self.virt.svm;
        let control = &svm.guest.control;
        let (host, nested) = (&svm.host, control.nested & nested::NP_ENABLE != 0);
        let on = |register: u64, bit: u64| register & bit != 0;
        let second = nested.then(|| {
            let mode = match (on(host.efer, efer::LMA), on(host.cr4, cr4::PAE)) {
                (true, _) if on(host.cr4, cr4::LA57) => Mode::Level5,
                (true, _) => Mode::Level4,
                (false, true) => Mode::Pae,
                (false, false) => Mode::Bits32,
            };
            let mut paging = Paging::new(EntryFormat {
                mode,
                nxe: on(host.efer, efer::NXE),
                pse: on(host.cr4, cr4::PSE),
                pse36: self.model.has_pse36(),
                pages_1g: self.model.has_pages_1g(),
                max_phys_bits: self.physical_bits(),
                amd: true,
            });
            paging.cr3 = control.nested_cr3;
            // All accesses are user accesses: this shows in error codes only.
            paging.smep = on(host.cr4, cr4::SMEP);
            SecondStage::Npt(paging)
        });
        let root = if nested { control.nested_cr3 } else { 0 };
        let tag = GuestTag { id: control.asid as u16, root };
        self.virt.level = Level::Svm;
        self.set_guest_space(Some((tag, second)));
    }

    /// Loads the registers of the state-save area (APM 2 15.5.1). Bases become canonical.
    fn load_guest_state(&mut self, save: &SaveArea) {
        let control = self.virt.svm.guest.control;
        self.efer = save.efer & !efer::LMA;
        self.cr0 = save.cr0 | cr0::ET;
        if self.efer & efer::LME != 0 && self.cr0 & cr0::PG != 0 {
            self.efer |= efer::LMA;
        }
        self.cr2 = save.cr2;
        self.cr3 = save.cr3;
        self.cr4 = save.cr4;
        self.dr[6] = save.dr6 & 0xe00f | 0xffff_0ff0;
        self.dr[7] = save.dr7 & 0xffff_23ff | 0x400;
        self.flags.set(save.rflags);
        self.set_rip(save.rip);
        self.regs[RSP] = save.rsp;
        self.regs[RAX] = save.rax;
        for (n, segment) in [(seg::ES, save.es), (seg::CS, save.cs), (seg::SS, save.ss), (seg::DS, save.ds)] {
            let base = self.canonical(segment.base);
            self.seg[usize::from(n)] = Segment { base, ..segment.segment() };
        }
        let table = |cpu: &Self, area: super::vmcb::VmcbSegment| TableRegister {
            base: cpu.canonical(area.base),
            limit: area.limit as u16,
        };
        self.gdtr = table(self, save.gdtr);
        self.idtr = table(self, save.idtr);
        self.cpl = match (self.protected(), self.flags.has(bits::VM)) {
            (false, _) => 0,
            (true, true) => 3,
            (true, false) => save.cpl & 3,
        };
        if !self.protected() {
            // CS may be executed and the others written, whatever their types say.
            self.flags.system &= !bits::VM;
        }
        if control.nested & nested::NP_ENABLE != 0 {
            self.msrs.pat = save.g_pat;
        }
        if control.virtualization & virtualization::LBR != 0 {
            self.msrs.last_branch =
                [save.br_from, save.br_to, save.last_exception_from, save.last_exception_to];
            self.set_debugctl(save.dbgctl);
        }
        self.shadow = Shadow::None;
        self.in_shadow = Shadow::None;
        self.pending_db = 0;
        self.monitor = None;
    }

    /// Sign-extends a linear address of the widest paging mode.
    pub(super) fn canonical(&self, linear: u64) -> u64 {
        let unused = 64 - u32::from(self.model.linear_bits());
        ((linear as i64) << unused >> unused) as u64
    }

    /// TLB_CONTROL (APM 2 15.16.2).
    fn svm_flush_for_entry(&mut self, wanted: u8) {
        let asid = self.virt.svm.guest.control.asid as u16;
        match wanted {
            tlb_control::FLUSH_ALL => {
                self.spaces.nested.forget(|_| true);
                self.flush_guests(|_| true);
                self.flush_host();
            }
            tlb_control::FLUSH_GUEST | tlb_control::FLUSH_GUEST_NON_GLOBAL => {
                self.spaces.nested.forget(|tag| tag.id == asid);
                self.flush_guests(|tag| tag.id == asid);
            }
            _ => {}
        }
    }

    /// Delivers EVENTINJ before the guest's first instruction.
    fn svm_inject(&mut self, quadword: u64) {
        let Some(injection) = injection(quadword) else { return };
        let rip = self.rip();
        if injection.next_rip {
            self.set_rip(self.virt.svm.guest.control.next_rip);
        }
        if injection.nmi {
            self.svm_note_injected_nmi();
        }
        if let Err(stop) = self.deliver(injection.event) {
            self.set_rip(rip);
            self.deliver_failed(stop);
        }
    }
}
