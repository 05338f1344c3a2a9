//! Far control flow: JMP, CALL, RET and IRET between segments and privilege levels (SDM 2A/2B, and 3A 5.8).

use super::operand::*;
use crate::control::{cr4, efer};
use crate::descriptor::{Descriptor, kind};
use crate::flags::bits;
use crate::insn::{REG_RIP, seg};
use crate::row::Rows;
use crate::segment::{Segment, rights};
use crate::state::gpr::*;
use crate::task::Switch;
use crate::virt::Intercept;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// Checks that a code segment may be entered at `offset`: canonical address or limit. Outside of 64-bit mode only the
    /// offset's lower half counts, but for AMD, where all of it must be within the limit.
    fn check_entry(&mut self, segment: &Segment, offset: u64) -> Result<(), Stop> {
        let width = if self.model.is_amd() { u64::MAX } else { 0xffff_ffff };
        if self.long_mode() && segment.long() {
            if !self.is_canonical(offset) {
                return Err(self.gp(self.external));
            }
        } else if offset & width > segment.limit.into() {
            return Err(self.gp(self.external));
        }
        Ok(())
    }

    /// Checks a code segment for a direct far jump or call, or a gate that does not raise the privilege.
    fn check_code(&mut self, descriptor: &Descriptor, through_gate: bool) -> Result<Segment, Stop> {
        let segment = descriptor.segment();
        let error = self.selector_error(descriptor.selector);
        let rpl = (descriptor.selector & 3) as u8;
        let allowed = segment.is_code()
            && if segment.rights & rights::DC != 0 {
                segment.dpl() <= self.cpl
            } else {
                (through_gate || rpl <= self.cpl) && segment.dpl() == self.cpl
            };
        if !allowed || self.long_mode() && segment.long() && segment.big() {
            return Err(self.gp(error));
        }
        if !descriptor.present() {
            return Err(self.np(error));
        }
        Ok(Segment { rights: segment.rights | rights::ACCESSED, ..segment })
    }

    /// Real-address and virtual-8086 mode.
    fn far_real(&mut self, selector: u16, offset: u64) -> Result<Segment, Stop> {
        let mut cs = self.seg[seg::CS as usize];
        if self.v8086() {
            cs = Segment { rights: 0xf3, limit: 0xffff, ..cs };
        }
        if offset > cs.limit.into() {
            return Err(self.gp0());
        }
        cs.load_real(selector);
        Ok(cs)
    }

    fn far_jump(&mut self, selector: u16, offset: u64) -> Result<(), Stop> {
        if self.mode.real_or_v8086() {
            let cs = self.far_real(selector, offset)?;
            let cpl = self.cpl;
            self.install_real_code(cs, cpl);
            self.set_rip(offset);
            return Ok(());
        }
        if selector & 0xfffc == 0 {
            return Err(self.gp0());
        }
        let descriptor = self.descriptor_or_gp(selector)?;
        if descriptor.type_s() & 0x10 != 0 {
            let cs = self.check_code(&descriptor, false)?;
            self.check_entry(&cs, offset)?;
            self.set_accessed(&descriptor)?;
            let cpl = self.cpl;
            self.set_code_segment(cs, cpl);
            self.set_rip(offset);
            return Ok(());
        }
        let error = self.selector_error(selector);
        if descriptor.dpl() < self.cpl || descriptor.dpl() < (selector & 3) as u8 {
            return Err(self.gp(error));
        }
        match (descriptor.type_s(), self.long_mode()) {
            (kind::CALL_GATE16, false) | (kind::CALL_GATE32, _) => {
                let (target, offset) = self.open_gate(&descriptor)?;
                let cs = self.check_code(&target, true)?;
                self.check_gate_code(&cs)?;
                self.check_entry(&cs, offset)?;
                self.set_accessed(&target)?;
                let cpl = self.cpl;
                self.set_code_segment(cs, cpl);
                self.set_rip(offset);
                Ok(())
            }
            (kind::TSS16 | kind::TSS32, false) => self.task_switch(&descriptor, Switch::Jump),
            (kind::TASK_GATE, false) => self.task_gate(&descriptor, Switch::Jump),
            _ => Err(self.gp(error)),
        }
    }

    /// CS in real-address or virtual-8086 mode: no privilege bits in the selector.
    fn install_real_code(&mut self, cs: Segment, cpl: u8) {
        let old = self.seg[seg::CS as usize];
        self.seg[seg::CS as usize] = cs;
        self.cpl = cpl;
        if (old.rights ^ cs.rights) & rights::DB != 0 {
            self.privilege_changed();
        } else {
            self.update_fast_segment(seg::CS, false);
            self.end_block();
        }
    }

    /// A present call gate's target and offset.
    fn open_gate(&mut self, gate: &Descriptor) -> Result<(Descriptor, u64), Stop> {
        let mut offset = gate.gate_offset();
        if self.long_mode() {
            offset |= self.descriptor_upper(gate)? << 32;
        } else if gate.type_s() == kind::CALL_GATE16 {
            offset &= 0xffff;
        }
        if !gate.present() {
            return Err(self.np(self.selector_error(gate.selector)));
        }
        let selector = gate.gate_selector();
        if selector & 0xfffc == 0 {
            return Err(self.gp(self.external));
        }
        Ok((self.descriptor_or_gp(selector)?, offset))
    }

    /// In IA-32e mode a call gate leads to 64-bit code only.
    fn check_gate_code(&mut self, cs: &Segment) -> Result<(), Stop> {
        if self.long_mode() && (!cs.long() || cs.big()) {
            return Err(self.gp(self.selector_error(cs.selector)));
        }
        Ok(())
    }

    fn far_call<T: Int>(&mut self, selector: u16, offset: u64) -> Result<(), Stop> {
        let (old_cs, old_ip) = (self.seg[seg::CS as usize].selector, self.next_ip());
        let rsp = self.regs[RSP];
        let push_return = |cpu: &mut Self| -> Result<(), Stop> {
            let pushed = cpu.push(T::of(old_cs.into())).and_then(|()| cpu.push(T::of(old_ip)));
            if pushed.is_err() {
                cpu.regs[RSP] = rsp;
            }
            pushed
        };
        if self.mode.real_or_v8086() {
            let cs = self.far_real(selector, offset)?;
            push_return(self)?;
            let cpl = self.cpl;
            self.install_real_code(cs, cpl);
            self.set_rip(offset);
            return Ok(());
        }
        if selector & 0xfffc == 0 {
            return Err(self.gp0());
        }
        let descriptor = self.descriptor_or_gp(selector)?;
        if descriptor.type_s() & 0x10 != 0 {
            let cs = self.check_code(&descriptor, false)?;
            self.check_entry(&cs, offset)?;
            self.set_accessed(&descriptor)?;
            // The return address is pushed as the new mode addresses the stack: from 64-bit to compatibility mode, with ESP.
            let (old, cpl) = (self.seg[seg::CS as usize], self.cpl);
            self.set_code_segment(cs, cpl);
            let pushed = push_return(self);
            if pushed.is_err() {
                self.set_code_segment(old, cpl);
                return pushed;
            }
            self.set_rip(if self.long64() { offset } else { offset & 0xffff_ffff });
            return Ok(());
        }
        let error = self.selector_error(selector);
        if descriptor.dpl() < self.cpl || descriptor.dpl() < (selector & 3) as u8 {
            return Err(self.gp(error));
        }
        match (descriptor.type_s(), self.long_mode()) {
            (kind::CALL_GATE16, false) => self.call_gate::<u16>(&descriptor),
            (kind::CALL_GATE32, false) => self.call_gate::<u32>(&descriptor),
            (kind::CALL_GATE32, true) => self.call_gate::<u64>(&descriptor),
            (kind::TSS16 | kind::TSS32, false) => self.task_switch(&descriptor, Switch::Call),
            (kind::TASK_GATE, false) => self.task_gate(&descriptor, Switch::Call),
            _ => Err(self.gp(error)),
        }
    }

    fn call_gate<G: Int>(&mut self, gate: &Descriptor) -> Result<(), Stop> {
        let (target, offset) = self.open_gate(gate)?;
        let segment = target.segment();
        let error = self.selector_error(target.selector);
        if !segment.is_code() || segment.dpl() > self.cpl {
            return Err(self.gp(error));
        }
        self.check_gate_code(&segment)?;
        if !target.present() {
            return Err(self.np(error));
        }
        let cs = Segment { rights: segment.rights | rights::ACCESSED, ..segment };
        let (old_cs, old_ip) = (self.seg[seg::CS as usize].selector, self.next_ip());
        let (old_ss, old_rsp) = (self.seg[seg::SS as usize], self.regs[RSP]);
        let conforming = segment.rights & rights::DC != 0;
        if conforming || segment.dpl() == self.cpl {
            self.check_entry(&cs, offset)?;
            let pushed = self.push(G::of(old_cs.into())).and_then(|()| self.push(G::of(old_ip)));
            if pushed.is_err() {
                self.regs[RSP] = old_rsp;
            }
            pushed?;
            self.set_accessed(&target)?;
            let cpl = self.cpl;
            self.set_code_segment(cs, cpl);
            self.set_rip(offset);
            return Ok(());
        }
        let new_cpl = segment.dpl();
        let (new_ss, new_sp) = self.inner_stack(new_cpl)?;
        self.check_entry(&cs, offset)?;
        // Parameters are copied from the old stack, read with the old privilege.
        let count = if G::BITS == 64 { 0 } else { (gate.low >> 32) as usize & 31 };
        let mut parameters = [G::of(0); 31];
        let sp = self.sp();
        for (n, parameter) in parameters.iter_mut().enumerate().take(count) {
            let at = sp.wrapping_add(G::SIZE * n as u64) & self.stack_mask();
            *parameter = self.read(seg::SS, at)?;
        }
        self.on_inner_stack(new_cpl, new_ss, new_sp, &cs, |cpu| {
            cpu.push(G::of(old_ss.selector.into()))?;
            cpu.push(G::of(old_rsp))?;
            for parameter in parameters[..count].iter().rev() {
                cpu.push(*parameter)?;
            }
            cpu.push(G::of(old_cs.into()))?;
            cpu.push(G::of(old_ip))
        })?;
        self.set_accessed(&target)?;
        self.set_rip(offset);
        Ok(())
    }

    /// SS and stack pointer for privilege level `cpl` from the TSS; #TS if the TSS is too small.
    pub(crate) fn inner_stack(&mut self, cpl: u8) -> Result<(Segment, u64), Stop> {
        let tss = self.tr;
        let error = self.selector_error(tss.selector);
        let level = u32::from(cpl);
        if self.long_mode() {
            let rsp = self.tss_stack_pointer(4 + 8 * level)?;
            return Ok((Self::null_stack(u16::from(cpl), cpl), rsp));
        }
        let wide = tss.kind() & 8 != 0;
        let (offset, size) = if wide { (4 + 8 * level, 6) } else { (2 + 4 * level, 4) };
        if offset + size - 1 > tss.limit {
            return Err(self.ts(error));
        }
        let at = tss.base.wrapping_add(offset.into());
        let (sp, selector) = if wide {
            (u64::from(self.read_system::<u32>(at)?), self.read_system::<u16>(at.wrapping_add(4))?)
        } else {
            (u64::from(self.read_system::<u16>(at)?), self.read_system::<u16>(at.wrapping_add(2))?)
        };
        Ok((self.switched_stack(selector, cpl)?, sp))
    }

    /// A stack pointer of the 64-bit TSS: #TS beyond its limit, #SS if it is not canonical.
    pub(crate) fn tss_stack_pointer(&mut self, offset: u32) -> Result<u64, Stop> {
        if offset + 7 > self.tr.limit {
            return Err(self.ts(self.selector_error(self.tr.selector)));
        }
        let rsp = self.read_system(self.tr.base.wrapping_add(offset.into()))?;
        if self.is_canonical(rsp) { Ok(rsp) } else { Err(self.ss(self.external)) }
    }

    /// Switches to an inner privilege level's stack and code segment and runs `pushes` there. If a push faults, nothing
    /// has been switched.
    pub(crate) fn on_inner_stack(
        &mut self,
        cpl: u8,
        ss: Segment,
        sp: u64,
        cs: &Segment,
        pushes: impl FnOnce(&mut Self) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let saved = (self.seg, self.cpl, self.regs[RSP], self.flags);
        self.seg[seg::SS as usize] = ss;
        self.set_v8086(false);
        self.seg[seg::CS as usize] = Segment { selector: cs.selector & !3 | u16::from(cpl), ..*cs };
        self.cpl = cpl;
        self.privilege_changed();
        self.regs[RSP] = if ss.big() || self.long64() { sp } else { self.regs[RSP] & !0xffff | sp & 0xffff };
        let result = pushes(self);
        if result.is_err() {
            (self.seg, self.cpl, self.regs[RSP], self.flags) = saved;
            self.privilege_changed();
            // A limit violation on the new stack names it (SDM 3A 6.15, #SS).
            if self.pending.vector == crate::fault::vector::SS && self.pending.error == Some(0) {
                let same = self.long_mode() || cpl == self.cpl;
                let error = if same { self.external } else { self.selector_error(ss.selector) };
                self.pending.error = Some(error.into());
            }
        }
        result
    }

    fn far_return<T: Int>(&mut self, extra: u64) -> Result<(), Stop> {
        let stack = self.stack_segment();
        let sp = self.sp();
        let mask = self.stack_mask();
        // Silicon reads CS first.
        let selector = self.read::<T>(stack, sp.wrapping_add(T::SIZE) & mask)?.zx() as u16;
        let ip = self.read::<T>(stack, sp)?.zx();
        if self.mode.real_or_v8086() {
            let cs = self.far_real(selector, ip)?;
            let cpl = self.cpl;
            self.set_sp(sp.wrapping_add(2 * T::SIZE).wrapping_add(extra));
            self.install_real_code(cs, cpl);
            self.set_rip(ip);
            return Ok(());
        }
        let after = sp.wrapping_add(2 * T::SIZE).wrapping_add(extra);
        self.return_to::<T>(selector, ip, after, None)
    }

    /// Checks a return's code segment (SDM 2B, RET and IRET).
    fn return_code(&mut self, selector: u16) -> Result<(Descriptor, Segment), Stop> {
        if selector & 0xfffc == 0 {
            return Err(self.gp0());
        }
        let descriptor = self.descriptor_or_gp(selector)?;
        let segment = descriptor.segment();
        let rpl = (selector & 3) as u8;
        let error = self.selector_error(selector);
        let conforming = segment.rights & rights::DC != 0;
        let allowed = segment.is_code()
            && rpl >= self.cpl
            && if conforming { segment.dpl() <= rpl } else { segment.dpl() == rpl };
        if !allowed || self.long_mode() && segment.long() && segment.big() {
            return Err(self.gp(error));
        }
        if !descriptor.present() {
            return Err(self.np(error));
        }
        Ok((descriptor, Segment { rights: segment.rights | rights::ACCESSED, ..segment }))
    }

    /// The common part of RET and IRET in protected mode. `after` is the stack pointer past what was popped; the outer
    /// stack's pointer and selector are there if the privilege changes. With `flags`, it is an IRET.
    fn return_to<T: Int>(
        &mut self,
        selector: u16,
        ip: u64,
        after: u64,
        flags: Option<u64>,
    ) -> Result<(), Stop> {
        let (descriptor, cs) = self.return_code(selector)?;
        let rpl = (selector & 3) as u8;
        let long_iret = flags.is_some() && self.long64();
        if rpl == self.cpl && !long_iret {
            self.check_entry(&cs, ip)?;
            self.set_accessed(&descriptor)?;
            self.set_sp(after);
            if let Some(flags) = flags {
                self.iret_flags::<T>(flags);
            }
            self.set_code_segment(cs, rpl);
            self.set_rip(ip);
            return Ok(());
        }
        let (stack, mask) = (self.stack_segment(), self.stack_mask());
        let new_sp = self.read::<T>(stack, after & mask)?.zx();
        let ss_selector = self.read::<T>(stack, after.wrapping_add(T::SIZE) & mask)?.zx() as u16;
        let to_long64 = self.long_mode() && cs.long();
        let ss = self.return_stack(ss_selector, rpl, to_long64)?;
        self.check_entry(&cs, ip)?;
        self.set_accessed(&descriptor)?;
        let outer = rpl != self.cpl;
        if let Some(flags) = flags {
            self.iret_flags::<T>(flags);
        }
        self.set_code_segment(cs, rpl);
        self.set_segment(seg::SS, ss);
        // RET n releases the parameters on the outer stack, too.
        let extra = if flags.is_none() {
            after.wrapping_sub(self.regs[RSP]).wrapping_sub(2 * T::SIZE) & mask
        } else {
            0
        };
        self.set_sp(new_sp.wrapping_add(extra));
        if outer {
            self.clear_inner_segments();
        }
        self.set_rip(ip);
        Ok(())
    }

    /// The stack segment that an outer return loads: #GP for null (unless to 64-bit code below CPL 3) or wrong
    /// privilege, #SS if not present.
    fn return_stack(&mut self, selector: u16, cpl: u8, to_long64: bool) -> Result<Segment, Stop> {
        if selector & 0xfffc == 0 {
            return if to_long64 && cpl != 3 && (selector & 3) as u8 == cpl {
                Ok(Self::null_stack(selector, cpl))
            } else {
                Err(self.gp0())
            };
        }
        let descriptor = self.descriptor_or_gp(selector)?;
        let segment = descriptor.segment();
        let error = self.selector_error(selector);
        if (selector & 3) as u8 != cpl || segment.dpl() != cpl || !segment.writable() {
            return Err(self.gp(error));
        }
        if !descriptor.present() {
            return Err(self.ss(error));
        }
        self.set_accessed(&descriptor)?;
        Ok(Segment { rights: segment.rights | rights::ACCESSED, ..segment })
    }

    /// RFLAGS from IRET's image, as far as CPL and IOPL allow.
    fn iret_flags<T: Int>(&mut self, image: u64) {
        let mut writable = bits::STATUS | bits::TF | bits::DF | bits::NT;
        if T::BITS > 16 {
            writable |= bits::RF | bits::AC | bits::ID;
        }
        if self.cpl <= self.flags.iopl() {
            writable |= bits::IF;
        }
        if self.cpl == 0 {
            writable |= bits::IOPL;
            if T::BITS > 16 {
                writable |= bits::VIF | bits::VIP;
            }
        }
        let old = self.flags.get();
        self.flags.set(old & !writable | image & writable);
        self.system_flags_changed();
    }

    fn iret<T: Int>(&mut self) -> Result<(), Stop> {
        let (stack, mask, sp) = (self.stack_segment(), self.stack_mask(), self.sp());
        // NMIs are unblocked even if the instruction faults (SDM 3A 6.7.1).
        self.iret_unblocks_nmis();
        if self.protected() && !self.v8086() && self.flags.has(bits::NT) {
            if self.long_mode() {
                return Err(self.gp0());
            }
            return self.task_return();
        }
        if self.v8086() && self.flags.iopl() < 3 && (self.cr4 & cr4::VME == 0 || T::BITS != 16) {
            return Err(self.gp0());
        }
        let ip = self.read::<T>(stack, sp)?.zx();
        let selector = self.read::<T>(stack, sp.wrapping_add(T::SIZE) & mask)?.zx() as u16;
        let flags = self.read::<T>(stack, sp.wrapping_add(2 * T::SIZE) & mask)?.zx();
        let after = sp.wrapping_add(3 * T::SIZE);
        if self.v8086() && self.flags.iopl() < 3 {
            return self.iret_vme(selector, ip, flags, after);
        }
        if self.mode.real_or_v8086() {
            let cs = self.far_real(selector, ip)?;
            let v8086 = self.v8086();
            let keep = bits::VM | bits::VIF | bits::VIP | if v8086 { bits::IOPL } else { 0 };
            let writable = (if T::BITS == 16 { 0xffff } else { u64::MAX }) & !keep;
            let old = self.flags.get();
            self.flags.set(old & !writable | flags & writable);
            self.set_sp(after);
            let cpl = self.cpl;
            self.install_real_code(cs, cpl);
            self.set_rip(ip);
            self.system_flags_changed();
            return Ok(());
        }
        if T::BITS == 32 && flags & bits::VM != 0 && self.cpl == 0 && !self.long_mode() {
            self.iret_to_v8086(selector, ip, flags, after)
        } else {
            self.return_to::<T>(selector, ip, after, Some(flags))
        }
    }

    /// IRET to virtual-8086 mode (SDM 3B 21.2.5).
    fn iret_to_v8086(&mut self, cs: u16, ip: u64, flags: u64, after: u64) -> Result<(), Stop> {
        let mut values = [0_u32; 6];
        for (n, value) in values.iter_mut().enumerate() {
            *value = self.read(seg::SS, after.wrapping_add(4 * n as u64) & self.stack_mask())?;
        }
        let [esp, ss, es, ds, fs, gs] = values;
        if ip > 0xffff {
            return Err(self.gp0());
        }
        self.flags.set(flags & 0x003f_7fd5 | bits::VM | flags & (bits::VIF | bits::VIP));
        self.cpl = 3;
        for (n, selector) in [
            (seg::CS, u32::from(cs)),
            (seg::SS, ss),
            (seg::ES, es),
            (seg::DS, ds),
            (seg::FS, fs),
            (seg::GS, gs),
        ] {
            self.seg[n as usize] = Segment::v8086(selector as u16);
        }
        self.regs[RSP] = esp.into();
        self.set_rip(ip);
        self.privilege_changed();
        self.system_flags_changed();
        Ok(())
    }

    /// 16-bit IRET in virtual-8086 mode with IOPL below 3 and virtual-mode extensions: IF stands for VIF.
    fn iret_vme(&mut self, selector: u16, ip: u64, flags: u64, after: u64) -> Result<(), Stop> {
        if flags & bits::TF != 0 || flags & bits::IF != 0 && self.flags.has(bits::VIP) {
            return Err(self.gp0());
        }
        let cs = self.far_real(selector, ip)?;
        let writable = bits::STATUS | bits::TF | bits::DF | bits::NT;
        let vif = if flags & bits::IF != 0 { bits::VIF } else { 0 };
        let old = self.flags.get();
        self.flags.set(old & !(writable | bits::VIF) | flags & writable | vif);
        self.set_sp(after);
        self.install_real_code(cs, 3);
        self.set_rip(ip);
        self.system_flags_changed();
        Ok(())
    }
}

fn jmp_pointer(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::FarTransfer, i)?;
    cpu.far_jump((i.imm >> 32) as u16, i.imm & 0xffff_ffff)
}

/// A far pointer in memory: offset of operand size, then selector.
fn far_pointer<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(u16, u64), Stop> {
    cpu.intercept(Intercept::FarTransfer, i)?;
    let at = cpu.effective_address(i);
    let offset = cpu.read::<T>(i.segment(), at)?.zx();
    let selector = cpu.read::<u16>(i.segment(), at.wrapping_add(T::SIZE) & i.address_mask())?;
    Ok((selector, offset))
}

fn jmp_memory<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (selector, offset) = far_pointer::<T>(cpu, i)?;
    cpu.far_jump(selector, offset)
}

fn call_pointer<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::FarTransfer, i)?;
    cpu.far_call::<T>((i.imm >> 32) as u16, i.imm & 0xffff_ffff)
}

fn call_memory<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (selector, offset) = far_pointer::<T>(cpu, i)?;
    cpu.far_call::<T>(selector, offset)
}

fn retf<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.far_return::<T>(i.imm & 0xffff)
}

fn iret<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Iret, i)?;
    cpu.iret::<T>()
}

fn load_far<T: Int, const SEGMENT: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let (selector, offset) = far_pointer::<T>(cpu, i)?;
    cpu.load_segment(SEGMENT, selector)?;
    T::set(cpu, i.r[0], T::of(offset));
    if SEGMENT == seg::SS {
        cpu.mov_ss_shadow();
    }
    Ok(())
}

fn mov_to_segment(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if i.r[0] == seg::CS {
        return Err(cpu.ud());
    }
    let selector = if i.has_memory() { cpu.load::<u16>(i)? } else { u16::get(cpu, i.r[1]) };
    cpu.load_segment(i.r[0], selector)?;
    if i.r[0] == seg::SS {
        cpu.mov_ss_shadow();
    }
    Ok(())
}

fn mov_from_segment<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let selector = cpu.seg[usize::from(i.r[1]) % 6].selector;
    if i.has_memory() {
        return cpu.store(i, selector);
    }
    T::set(cpu, i.r[0], T::of(selector.into()));
    Ok(())
}

/// SWAPGS.
fn swapgs(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    core::mem::swap(&mut cpu.seg[seg::GS as usize].base, &mut cpu.msrs.kernel_gs_base);
    cpu.update_fast_segment(seg::GS, true);
    Ok(())
}

fn read_base<T: Int, const N: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(cpu.ud());
    }
    let base = cpu.seg[N as usize].base;
    T::set(cpu, i.r[0], T::of(base));
    Ok(())
}

fn write_base<T: Int, const N: u8>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(cpu.ud());
    }
    let base = T::get(cpu, i.r[0]).zx();
    if !cpu.is_canonical(base) {
        return Err(cpu.gp0());
    }
    cpu.seg[N as usize].base = base;
    cpu.update_fast_segment(N, true);
    Ok(())
}

impl Cpu {
    /// Flat code and stack segments as SYSCALL, SYSENTER and their returns make them.
    fn flat_segments(&mut self, cs: u16, ss: u16, cpl: u8, long: bool) {
        let dpl = u16::from(cpl) << 5;
        let mode = if long { rights::L } else { rights::DB };
        let flat = Segment { base: 0, limit: 0xffff_ffff, unusable: false, ..Segment::default() };
        let code = rights::G | mode | rights::PRESENT | rights::S | 0xb | dpl;
        let data = rights::G | rights::DB | rights::PRESENT | rights::S | 3 | dpl;
        self.seg[seg::SS as usize] = Segment { selector: ss, rights: data, ..flat };
        self.seg[seg::CS as usize] = Segment { selector: cs, rights: code, ..flat };
        self.cpl = cpl;
        if long && self.long64() {
            self.level_changed();
        } else {
            self.privilege_changed();
        }
    }
}

fn syscall(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    // Intel has no SYSCALL outside of 64-bit mode.
    if cpu.efer & efer::SCE == 0 || !cpu.long64() && !cpu.model.is_amd() || !cpu.protected() {
        return Err(cpu.ud());
    }
    let selector = (cpu.msrs.star >> 32) as u16;
    let next = cpu.next_ip();
    if cpu.long_mode() {
        let long64 = cpu.long64();
        cpu.regs[RCX] = next;
        cpu.regs[R11] = cpu.flags.get() & !bits::RF;
        let target = if long64 { cpu.msrs.lstar } else { cpu.msrs.cstar };
        let flags = cpu.flags.get() & !cpu.msrs.fmask & !bits::RF;
        cpu.flags.set(flags);
        cpu.flat_segments(selector & 0xfffc, selector.wrapping_add(8), 0, true);
        cpu.set_rip(target);
    } else {
        cpu.regs[RCX] = next & 0xffff_ffff;
        let flags = cpu.flags.get() & !(bits::VM | bits::IF | bits::RF);
        cpu.flags.set(flags);
        cpu.flat_segments(selector & 0xfffc, selector.wrapping_add(8), 0, false);
        cpu.set_rip(cpu.msrs.star & 0xffff_ffff);
    }
    cpu.look_by_new_flags();
    cpu.trap_by_new_flags();
    Ok(())
}

fn sysret<T: Int>(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    if cpu.efer & efer::SCE == 0 || !cpu.long64() && !cpu.model.is_amd() {
        return Err(cpu.ud());
    }
    if cpu.cpl != 0 || !cpu.protected() {
        return Err(cpu.gp0());
    }
    let base = (cpu.msrs.star >> 48) as u16;
    let to_long = T::BITS == 64;
    let target = if to_long { cpu.regs[RCX] } else { cpu.regs[RCX] & 0xffff_ffff };
    // Intel checks before it changes anything; AMD faults at the target.
    if to_long && !cpu.is_canonical(target) && !cpu.model.is_amd() {
        return Err(cpu.gp0());
    }
    if cpu.long_mode() {
        let mask = bits::STATUS
            | bits::TF
            | bits::IF
            | bits::DF
            | bits::IOPL
            | bits::NT
            | bits::AC
            | bits::VIF
            | bits::VIP
            | bits::ID;
        let flags = cpu.regs[R11] & mask;
        cpu.flags.set(flags);
    } else {
        let flags = cpu.flags.get() | bits::IF;
        cpu.flags.set(flags);
    }
    let cs = if to_long { base.wrapping_add(16) } else { base } | 3;
    cpu.flat_segments(cs, base.wrapping_add(8) | 3, 3, to_long);
    cpu.set_rip(target);
    cpu.look_by_new_flags();
    cpu.trap_by_new_flags();
    Ok(())
}

fn sysenter(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    // AMD has no SYSENTER in long mode.
    if cpu.model.is_amd() && cpu.long_mode() {
        return Err(cpu.ud());
    }
    let cs = cpu.msrs.sysenter_cs as u16;
    if !cpu.protected() || cs & 0xfffc == 0 {
        return Err(cpu.gp0());
    }
    let flags = cpu.flags.get() & !(bits::VM | bits::IF | bits::RF);
    cpu.flags.set(flags);
    let long = cpu.long_mode();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.flat_segments(cs & 0xfffc, (cs & 0xfffc).wrapping_add(8), 0, long);
    cpu.regs[RSP] = cpu.msrs.sysenter_esp & mask;
    cpu.set_rip(cpu.msrs.sysenter_eip & mask);
    cpu.system_flags_changed();
    Ok(())
}

fn sysexit<T: Int>(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    if cpu.model.is_amd() && cpu.long_mode() {
        // AMD looks at the privilege level first.
        return Err(if cpu.cpl == 0 { cpu.ud() } else { cpu.gp0() });
    }
    let cs = cpu.msrs.sysenter_cs as u16;
    if !cpu.protected() || cs & 0xfffc == 0 || cpu.cpl != 0 {
        return Err(cpu.gp0());
    }
    let long = T::BITS == 64;
    let (rip, rsp) = (cpu.regs[RDX], cpu.regs[RCX]);
    if long && !(cpu.is_canonical(rip) && cpu.is_canonical(rsp)) {
        return Err(cpu.gp0());
    }
    let offset = if long { 32 } else { 16 };
    cpu.flat_segments(cs.wrapping_add(offset) | 3, cs.wrapping_add(offset + 8) | 3, 3, long);
    cpu.regs[REG_RIP as usize] = rip & T::MASK;
    cpu.regs[RSP] = rsp & T::MASK;
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    for code in [Code::Jmp_ptr1616, Code::Jmp_ptr1632] {
        rows.add(code, jmp_pointer).ends_block();
    }
    rows.add(Code::Jmp_m1616, jmp_memory::<u16>).ends_block();
    rows.add(Code::Jmp_m1632, jmp_memory::<u32>).ends_block();
    rows.add(Code::Jmp_m1664, jmp_memory::<u64>).ends_block();
    rows.add(Code::Call_ptr1616, call_pointer::<u16>).ends_block();
    rows.add(Code::Call_ptr1632, call_pointer::<u32>).ends_block();
    rows.add(Code::Call_m1616, call_memory::<u16>).ends_block();
    rows.add(Code::Call_m1632, call_memory::<u32>).ends_block();
    rows.add(Code::Call_m1664, call_memory::<u64>).ends_block();
    for code in [Code::Retfw, Code::Retfw_imm16] {
        rows.add(code, retf::<u16>).ends_block();
    }
    for code in [Code::Retfd, Code::Retfd_imm16] {
        rows.add(code, retf::<u32>).ends_block();
    }
    for code in [Code::Retfq, Code::Retfq_imm16] {
        rows.add(code, retf::<u64>).ends_block();
    }
    rows.add(Code::Iretw, iret::<u16>).ends_block();
    rows.add(Code::Iretd, iret::<u32>).ends_block();
    rows.add(Code::Iretq, iret::<u64>).ends_block();
    rows.add(Code::Les_r16_m1616, load_far::<u16, { seg::ES }>);
    rows.add(Code::Les_r32_m1632, load_far::<u32, { seg::ES }>);
    rows.add(Code::Lds_r16_m1616, load_far::<u16, { seg::DS }>);
    rows.add(Code::Lds_r32_m1632, load_far::<u32, { seg::DS }>);
    rows.add(Code::Lss_r16_m1616, load_far::<u16, { seg::SS }>).ends_block();
    rows.add(Code::Lss_r32_m1632, load_far::<u32, { seg::SS }>).ends_block();
    rows.add(Code::Lss_r64_m1664, load_far::<u64, { seg::SS }>).ends_block();
    rows.add(Code::Lfs_r16_m1616, load_far::<u16, { seg::FS }>);
    rows.add(Code::Lfs_r32_m1632, load_far::<u32, { seg::FS }>);
    rows.add(Code::Lfs_r64_m1664, load_far::<u64, { seg::FS }>);
    rows.add(Code::Lgs_r16_m1616, load_far::<u16, { seg::GS }>);
    rows.add(Code::Lgs_r32_m1632, load_far::<u32, { seg::GS }>);
    rows.add(Code::Lgs_r64_m1664, load_far::<u64, { seg::GS }>);
    // Loads that change the mode, and those of SS, end the block by themselves.
    for code in [Code::Mov_Sreg_rm16, Code::Mov_Sreg_r32m16, Code::Mov_Sreg_r64m16] {
        rows.add(code, mov_to_segment);
    }
    rows.add(Code::Mov_rm16_Sreg, mov_from_segment::<u16>);
    rows.add(Code::Mov_r32m16_Sreg, mov_from_segment::<u32>);
    rows.add(Code::Mov_r64m16_Sreg, mov_from_segment::<u64>);
    rows.add(Code::Swapgs, swapgs).cpl0();
    rows.add(Code::Rdfsbase_r32, read_base::<u32, { seg::FS }>);
    rows.add(Code::Rdfsbase_r64, read_base::<u64, { seg::FS }>);
    rows.add(Code::Rdgsbase_r32, read_base::<u32, { seg::GS }>);
    rows.add(Code::Rdgsbase_r64, read_base::<u64, { seg::GS }>);
    rows.add(Code::Wrfsbase_r32, write_base::<u32, { seg::FS }>);
    rows.add(Code::Wrfsbase_r64, write_base::<u64, { seg::FS }>);
    rows.add(Code::Wrgsbase_r32, write_base::<u32, { seg::GS }>);
    rows.add(Code::Wrgsbase_r64, write_base::<u64, { seg::GS }>);
    rows.add(Code::Syscall, syscall).ends_block();
    rows.add(Code::Sysretd, sysret::<u32>).ends_block();
    rows.add(Code::Sysretq, sysret::<u64>).ends_block();
    rows.add(Code::Sysenter, sysenter).ends_block();
    rows.add(Code::Sysexitd, sysexit::<u32>).ends_block();
    rows.add(Code::Sysexitq, sysexit::<u64>).ends_block();
}
