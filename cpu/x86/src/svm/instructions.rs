//! VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, INVLPGA (APM 3 chapter 4). SKINIT is not there.

use super::vmcb::{SAVE_AREA, SaveArea, VmcbSegment, nested, v_intr, virtualization};
use crate::control::efer;
use crate::insn::seg;
use crate::model::Feature;
use crate::nested::SecondStage;
use crate::row::Rows;
use crate::state::boundary;
use crate::state::gpr::{RAX, RCX};
use crate::virt::{Intercept, Level};
use crate::{Cpu, Insn, Stop};
use core::ops::Range;
use iced_x86::Code;
use ringworld_core::GuestPhys;
use ringworld_mmu::x86::paging::AccessKind;
use zerocopy::{FromZeros, IntoBytes};

/// What VMSAVE writes of the state-save area: FS and GS, LDTR, TR, STAR to SYSENTER_EIP.
const SAVED: [Range<usize>; 4] = [0x040..0x060, 0x070..0x080, 0x090..0x0a0, 0x200..0x240];

impl Cpu {
    /// What all but VMMCALL ask first: #UD without EFER.SVME and in real-address and virtual-8086 mode, #GP(0) above
    /// level 0.
    fn svm_enabled(&mut self) -> Result<(), Stop> {
        if self.efer & efer::SVME == 0 || self.mode.real_or_v8086() {
            return Err(self.ud());
        }
        if self.cpl != 0 { Err(self.gp0()) } else { Ok(()) }
    }

    /// The address of a VMCB in rAX: page-aligned, and not beyond the physical address width.
    fn svm_vmcb_address(&mut self, mask: u64) -> Result<u64, Stop> {
        let address = self.regs[RAX] & mask;
        if address & 0xfff != 0 || address >> self.physical_bits() != 0 {
            return Err(self.gp0());
        }
        Ok(address)
    }

    /// Where VMLOAD and VMSAVE of a guest find their VMCB: if they are virtualised, at a guest-physical address (APM 2
    /// 15.33.1).
    fn svm_save_area(&mut self, address: u64, kind: AccessKind) -> Result<GuestPhys, Stop> {
        let virtualised = self.virt.level == Level::Svm && self.long_mode() && {
            let control = &self.virt.svm.guest.control;
            control.virtualization & virtualization::VMLOAD_VMSAVE != 0
                && control.nested & nested::NP_ENABLE != 0
                && self.model.has(Feature::VirtualVmloadVmsave)
        };
        let at = GuestPhys(address + SAVE_AREA);
        match &self.spaces.second_stage {
            Some(SecondStage::Npt(_)) if virtualised => self.svm_nested_address(at, kind),
            _ => Ok(at),
        }
    }

    /// Whether STGI and CLGI act on the virtual interrupt flag.
    fn svm_virtual_gif(&self) -> bool {
        self.virt.level == Level::Svm
            && self.virt.svm.guest.control.v_intr & v_intr::GIF_ENABLE != 0
            && self.model.has(Feature::Vgif)
    }

    fn svm_set_gif(&mut self, value: bool) {
        if self.svm_virtual_gif() {
            let flags = &mut self.virt.svm.guest.control.v_intr;
            *flags = *flags & !v_intr::GIF | if value { v_intr::GIF } else { 0 };
        } else {
            self.virt.gif = value;
        }
        self.boundary |= boundary::INTERRUPT | boundary::TRAP;
        self.end_block();
    }
}

fn vmrun<const MASK: u64>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.svm_enabled()?;
    cpu.intercept(Intercept::Vmrun, i)?;
    let vmcb = cpu.svm_vmcb_address(MASK)?;
    cpu.world_ends();
    let entered = cpu.svm_run(vmcb);
    cpu.world_begins();
    entered
}

fn vmmcall(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Vmmcall, i)?;
    Err(cpu.ud())
}

fn vmload<const MASK: u64>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.svm_enabled()?;
    cpu.intercept(Intercept::Vmload, i)?;
    let address = cpu.svm_vmcb_address(MASK)?;
    let at = cpu.svm_save_area(address, AccessKind::Read)?;
    let mut save = SaveArea::new_zeroed();
    if cpu.memory.read(at, save.as_mut_bytes()).is_err() {
        save.as_mut_bytes().fill(0xff);
    }
    let segment = |cpu: &Cpu, area: VmcbSegment| {
        let segment = area.segment();
        crate::segment::Segment { base: cpu.canonical(segment.base), ..segment }
    };
    cpu.seg[usize::from(seg::FS)] = segment(cpu, save.fs);
    cpu.seg[usize::from(seg::GS)] = segment(cpu, save.gs);
    cpu.ldtr = segment(cpu, save.ldtr);
    cpu.tr = segment(cpu, save.tr);
    cpu.msrs.star = save.star;
    cpu.msrs.lstar = cpu.canonical(save.lstar);
    cpu.msrs.cstar = cpu.canonical(save.cstar);
    cpu.msrs.fmask = save.sfmask & 0xffff_ffff;
    cpu.msrs.kernel_gs_base = cpu.canonical(save.kernel_gs_base);
    cpu.msrs.sysenter_cs = save.sysenter_cs;
    cpu.msrs.sysenter_esp = cpu.canonical(save.sysenter_esp);
    cpu.msrs.sysenter_eip = cpu.canonical(save.sysenter_eip);
    cpu.segment_changed(seg::FS);
    cpu.segment_changed(seg::GS);
    cpu.end_block();
    Ok(())
}

fn vmsave<const MASK: u64>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.svm_enabled()?;
    cpu.intercept(Intercept::Vmsave, i)?;
    let address = cpu.svm_vmcb_address(MASK)?;
    let at = cpu.svm_save_area(address, AccessKind::Write)?;
    let mut save = SaveArea::new_zeroed();
    save.fs = VmcbSegment::of(&cpu.seg[usize::from(seg::FS)]);
    save.gs = VmcbSegment::of(&cpu.seg[usize::from(seg::GS)]);
    save.ldtr = VmcbSegment::of(&cpu.ldtr);
    save.tr = VmcbSegment::of(&cpu.tr);
    save.star = cpu.msrs.star;
    save.lstar = cpu.msrs.lstar;
    save.cstar = cpu.msrs.cstar;
    save.sfmask = cpu.msrs.fmask;
    save.kernel_gs_base = cpu.msrs.kernel_gs_base;
    save.sysenter_cs = cpu.msrs.sysenter_cs;
    save.sysenter_esp = cpu.msrs.sysenter_esp;
    save.sysenter_eip = cpu.msrs.sysenter_eip;
    for range in SAVED {
        // Where no memory is, what is written is lost.
        let _ = cpu.memory.write(at.offset(range.start as u64), &save.as_bytes()[range]);
    }
    Ok(())
}

fn stgi(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.svm_enabled()?;
    cpu.intercept(Intercept::Stgi, i)?;
    cpu.svm_set_gif(true);
    Ok(())
}

fn clgi(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.svm_enabled()?;
    cpu.intercept(Intercept::Clgi, i)?;
    cpu.svm_set_gif(false);
    Ok(())
}

/// INVLPGA: one page of one address space.
fn invlpga<const MASK: u64>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.svm_enabled()?;
    cpu.intercept(Intercept::Invlpga, i)?;
    let linear = cpu.regs[RAX] & MASK;
    let asid = cpu.regs[RCX] as u32;
    if asid >= super::ASIDS || !cpu.is_canonical_max(linear) {
        return Ok(());
    }
    if asid != 0 {
        cpu.flush_guest_page(linear, |tag| u32::from(tag.id) == asid);
    } else if cpu.virt.level == Level::Host {
        cpu.flush_page(linear);
    } else {
        cpu.flush_host();
    }
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    const MASK16: u64 = 0xffff;
    const MASK32: u64 = 0xffff_ffff;
    const MASK64: u64 = u64::MAX;
    rows.add(Code::Vmrunw, vmrun::<MASK16>).ends_block();
    rows.add(Code::Vmrund, vmrun::<MASK32>).ends_block();
    rows.add(Code::Vmrunq, vmrun::<MASK64>).ends_block();
    rows.add(Code::Vmmcall, vmmcall).ends_block();
    rows.add(Code::Vmloadw, vmload::<MASK16>).ends_block();
    rows.add(Code::Vmloadd, vmload::<MASK32>).ends_block();
    rows.add(Code::Vmloadq, vmload::<MASK64>).ends_block();
    rows.add(Code::Vmsavew, vmsave::<MASK16>);
    rows.add(Code::Vmsaved, vmsave::<MASK32>);
    rows.add(Code::Vmsaveq, vmsave::<MASK64>);
    rows.add(Code::Stgi, stgi).ends_block();
    rows.add(Code::Clgi, clgi).ends_block();
    rows.add(Code::Invlpgaw, invlpga::<MASK16>).ends_block();
    rows.add(Code::Invlpgad, invlpga::<MASK32>).ends_block();
    rows.add(Code::Invlpgaq, invlpga::<MASK64>).ends_block();
}
