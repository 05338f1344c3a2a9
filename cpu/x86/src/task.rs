//! Task switches (SDM 3A chapter 7).

use crate::control::{cr0, cr4};
use crate::descriptor::{Descriptor, kind};
use crate::events::dr6;
use crate::flags::bits;
use crate::insn::seg;
use crate::segment::{Segment, rights};
use crate::state::boundary;
use crate::{Cpu, Stop};

/// What asks for a task switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// JMP to a TSS or task gate.
    Jump,
    /// CALL.
    Call,
    /// An interrupt or exception through a task gate, with its error code.
    Event {
        /// Pushed on the new task's stack.
        error: Option<u32>,
    },
    /// IRET with NT set.
    Return,
}

/// What a TSS holds of the dynamic state.
struct Image {
    cr3: Option<u32>,
    eip: u32,
    eflags: u32,
    registers: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

const BUSY: u8 = 2;

impl Cpu {
    /// A far transfer through a task gate whose privilege has been checked.
    pub(crate) fn task_gate(&mut self, gate: &Descriptor, switch: Switch) -> Result<(), Stop> {
        if !gate.present() {
            return Err(self.np(self.selector_error(gate.selector)));
        }
        self.task_by_selector(gate.gate_selector(), switch)
    }

    /// Switches to the task whose TSS `selector` names; it must be in the GDT.
    pub(crate) fn task_by_selector(&mut self, selector: u16, switch: Switch) -> Result<(), Stop> {
        let error = self.selector_error(selector);
        if selector & 4 != 0 || selector & 0xfffc == 0 {
            return Err(self.gp(error));
        }
        let descriptor = self.descriptor_or_gp(selector)?;
        self.task_switch(&descriptor, switch)
    }

    /// IRET with NT: back to the task in the present TSS's link field.
    pub(crate) fn task_return(&mut self) -> Result<(), Stop> {
        let selector: u16 = self.read_system(self.tr.base)?;
        let error = self.selector_error(selector);
        if selector & 4 != 0 || selector & 0xfffc == 0 {
            return Err(self.ts(error));
        }
        match self.find_descriptor(selector)? {
            Some(descriptor) => self.task_switch(&descriptor, Switch::Return),
            None => Err(self.ts(error)),
        }
    }

    /// Switches tasks (SDM 3A 7.3).
    pub(crate) fn task_switch(&mut self, target: &Descriptor, switch: Switch) -> Result<(), Stop> {
        let error = self.selector_error(target.selector);
        let wanted = match switch {
            Switch::Return => [kind::TSS16_BUSY, kind::TSS32_BUSY],
            _ => [kind::TSS16, kind::TSS32],
        };
        if !wanted.contains(&target.type_s()) {
            return Err(if switch == Switch::Return { self.ts(error) } else { self.gp(error) });
        }
        if !target.present() {
            return Err(self.np(error));
        }
        if self.mode.guest() {
            self.intercept_task_switch(target.selector, switch)?;
        }
        let new = target.segment();
        let wide = target.type_s() & 8 != 0;
        if new.limit < if wide { 0x67 } else { 0x2b } {
            return Err(self.ts(error));
        }
        let old = self.tr;
        let old_wide = old.kind() & 8 != 0;
        // Both TSSs and descriptors must be reachable before anything changes.
        let image = self.read_image(&new, wide)?;
        let saved_end = if old_wide { 0x5f } else { 0x29 };
        self.read_system::<u8>(old.base)?;
        self.write_probe_system(old.base.wrapping_add(if old_wide { 0x20 } else { 0xe }))?;
        self.write_probe_system(old.base.wrapping_add(saved_end))?;
        if matches!(switch, Switch::Jump | Switch::Return) {
            self.set_busy(old.selector, false)?;
        }
        let mut saved_flags = self.flags.get() as u32;
        if switch == Switch::Return {
            saved_flags &= !(bits::NT as u32);
        }
        self.write_image(&old, old_wide, saved_flags)?;
        let links = matches!(switch, Switch::Call | Switch::Event { .. });
        if links {
            self.write_system(new.base, old.selector)?;
        }
        if switch != Switch::Return {
            self.set_busy(target.selector, true)?;
        }
        let mut eflags = image.eflags;
        if links {
            eflags |= bits::NT as u32;
        }
        self.cr0 |= cr0::TS;
        self.tr = Segment { rights: new.rights | u16::from(BUSY), ..new };
        // The old task's single-step trap does not follow into the new one.
        self.stepping = false;
        if image.trap {
            self.pending_db |= dr6::BT;
            self.boundary |= boundary::TRAP;
        }
        let mut result = self.commit(&image, eflags, wide);
        if result.is_ok()
            && let Switch::Event { error: Some(code) } = switch
        {
            result = if wide { self.push(code) } else { self.push(code as u16) };
        }
        if result.is_ok() && u64::from(image.eip) > self.seg[seg::CS as usize].limit.into() {
            result = Err(self.gp(self.external));
        }
        match (result, switch) {
            // The caller has an event in delivery; this may make it a double fault.
            (Err(stop), Switch::Event { .. }) => Err(stop),
            (Err(stop), _) => {
                // The instruction has completed: the fault arises at the new task's first one.
                self.deliver_failed(stop);
                Ok(())
            }
            (Ok(()), _) => Ok(()),
        }
    }

    /// Loads the new task's state. From here on exceptions arise in the new task.
    fn commit(&mut self, image: &Image, eflags: u32, wide: bool) -> Result<(), Stop> {
        self.set_rip(image.eip.into());
        self.flags.set(eflags.into());
        for (n, &value) in image.registers.iter().enumerate() {
            self.regs[n] = if wide { value.into() } else { self.regs[n] & 0xffff_0000 | u64::from(value) };
        }
        // L0–L3 and LE of DR7 are cleared.
        self.dr[7] &= !0x155;
        self.debug_registers_changed();
        for (n, &selector) in image.selectors.iter().enumerate() {
            self.seg[n] = Segment { selector, unusable: true, ..Segment::default() };
        }
        self.ldtr = Segment { selector: image.ldt, unusable: true, ..Segment::default() };
        let [es, cs, ss, ds, fs, gs] = image.selectors;
        let v8086 = self.flags.has(bits::VM);
        self.cpl = if v8086 { 3 } else { (cs & 3) as u8 };
        self.update_mode();
        if let Some(cr3) = image.cr3.filter(|_| self.cr0 & cr0::PG != 0) {
            if self.cr4 & cr4::PAE != 0 {
                self.load_pdptes(cr3.into())?;
            }
            self.cr3 = cr3.into();
            self.flush_pcid(0);
        }
        self.load_task_ldt(image.ldt)?;
        if v8086 {
            for (n, selector) in image.selectors.into_iter().enumerate() {
                self.seg[n] = Segment::v8086(selector);
            }
            self.update_mode();
            self.system_flags_changed();
            return Ok(());
        }
        // SS is checked against CS's RPL, then CS, then the data segments; faults are #TS (#NP, #SS if not present).
        let code = self.task_code(cs)?;
        self.task_stack(ss)?;
        let cpl = (cs & 3) as u8;
        self.set_code_segment(code, cpl);
        self.update_mode();
        for (n, selector) in [(seg::ES, es), (seg::DS, ds), (seg::FS, fs), (seg::GS, gs)] {
            if let Err(stop) = self.load_segment(n, selector) {
                if self.pending.vector == crate::fault::vector::GP {
                    self.pending.vector = crate::fault::vector::TS;
                }
                return Err(stop);
            }
        }
        self.system_flags_changed();
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> Result<(), Stop> {
        if selector & 0xfffc == 0 {
            return Ok(());
        }
        let error = self.selector_error(selector);
        if selector & 4 != 0 {
            return Err(self.ts(error));
        }
        match self.find_descriptor(selector)? {
            Some(d) if d.type_s() == kind::LDT && d.present() => {
                self.ldtr = d.segment();
                Ok(())
            }
            _ => Err(self.ts(error)),
        }
    }

    fn task_code(&mut self, selector: u16) -> Result<Segment, Stop> {
        let error = self.selector_error(selector);
        if selector & 0xfffc == 0 {
            return Err(self.ts(error));
        }
        let Some(descriptor) = self.find_descriptor(selector)? else { return Err(self.ts(error)) };
        let segment = descriptor.segment();
        let rpl = (selector & 3) as u8;
        let conforming = segment.rights & rights::DC != 0;
        if !segment.is_code() || if conforming { segment.dpl() > rpl } else { segment.dpl() != rpl } {
            return Err(self.ts(error));
        }
        if !descriptor.present() {
            return Err(self.np(error));
        }
        self.set_accessed(&descriptor)?;
        Ok(Segment { rights: segment.rights | rights::ACCESSED, ..segment })
    }

    fn task_stack(&mut self, selector: u16) -> Result<(), Stop> {
        let cpl = self.cpl;
        if selector & 0xfffc == 0 {
            return Err(self.ts(self.selector_error(selector)));
        }
        let segment = self.switched_stack(selector, cpl)?;
        self.set_segment(seg::SS, segment);
        Ok(())
    }

    fn set_busy(&mut self, selector: u16, busy: bool) -> Result<(), Stop> {
        let at = self.gdtr.base.wrapping_add(u64::from(selector & 0xfff8) + 5);
        let byte: u8 = self.read_system(at)?;
        self.write_system(at, if busy { byte | BUSY } else { byte & !BUSY })
    }

    /// Raises what writing a byte at a linear address would raise, leaving it as it is.
    fn write_probe_system(&mut self, linear: u64) -> Result<(), Stop> {
        let byte: u8 = self.read_system(linear)?;
        self.write_system(linear, byte)
    }

    fn read_image(&mut self, tss: &Segment, wide: bool) -> Result<Image, Stop> {
        let base = tss.base;
        let mut registers = [0; 8];
        let mut selectors = [0; 6];
        if wide {
            for (n, register) in registers.iter_mut().enumerate() {
                *register = self.read_system(base.wrapping_add(0x28 + 4 * n as u64))?;
            }
            for (n, selector) in selectors.iter_mut().enumerate() {
                *selector = self.read_system(base.wrapping_add(0x48 + 4 * n as u64))?;
            }
            Ok(Image {
                cr3: Some(self.read_system(base.wrapping_add(0x1c))?),
                eip: self.read_system(base.wrapping_add(0x20))?,
                eflags: self.read_system(base.wrapping_add(0x24))?,
                registers,
                selectors,
                ldt: self.read_system(base.wrapping_add(0x60))?,
                trap: self.read_system::<u8>(base.wrapping_add(0x64))? & 1 != 0,
            })
        } else {
            for (n, register) in registers.iter_mut().enumerate() {
                *register = self.read_system::<u16>(base.wrapping_add(0x12 + 2 * n as u64))?.into();
            }
            for (n, selector) in selectors.iter_mut().enumerate().take(4) {
                *selector = self.read_system(base.wrapping_add(0x22 + 2 * n as u64))?;
            }
            Ok(Image {
                cr3: None,
                eip: self.read_system::<u16>(base.wrapping_add(0xe))?.into(),
                eflags: self.read_system::<u16>(base.wrapping_add(0x10))?.into(),
                registers,
                selectors,
                ldt: self.read_system(base.wrapping_add(0x2a))?,
                trap: false,
            })
        }
    }

    fn write_image(&mut self, tss: &Segment, wide: bool, eflags: u32) -> Result<(), Stop> {
        let base = tss.base;
        let eip = self.rip() as u32;
        if wide {
            self.write_system(base.wrapping_add(0x20), eip)?;
            self.write_system(base.wrapping_add(0x24), eflags)?;
            for n in 0..8 {
                let value = self.regs[n] as u32;
                self.write_system(base.wrapping_add(0x28 + 4 * n as u64), value)?;
            }
            for n in 0..6 {
                let selector = self.seg[n].selector;
                self.write_system(base.wrapping_add(0x48 + 4 * n as u64), selector)?;
            }
        } else {
            self.write_system(base.wrapping_add(0xe), eip as u16)?;
            self.write_system(base.wrapping_add(0x10), eflags as u16)?;
            for n in 0..8 {
                let value = self.regs[n] as u16;
                self.write_system(base.wrapping_add(0x12 + 2 * n as u64), value)?;
            }
            for n in 0..4 {
                let selector = self.seg[n].selector;
                self.write_system(base.wrapping_add(0x22 + 2 * n as u64), selector)?;
            }
        }
        Ok(())
    }
}
