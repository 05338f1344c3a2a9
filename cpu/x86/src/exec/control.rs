//! Control and debug registers, descriptor-table registers, TLB maintenance, HLT.

use super::operand::*;
use crate::control::{cr0, cr4, efer};
use crate::descriptor::kind;
use crate::events::{dr6, dr7};
use crate::fault::Exception;
use crate::flags::bits;
use crate::insn::seg;
use crate::mem::Kind;
use crate::row::Rows;
use crate::segment::Segment;
use crate::state::{Activity, Shadow, TableRegister, boundary};
use crate::virt::{CrAccess, Intercept};
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

impl Cpu {
    /// MOV to CR0 (SDM 2B MOV, 3A 2.5, 4.1.2).
    pub(crate) fn set_cr0(&mut self, value: u64) -> Result<(), Stop> {
        let on = |bit: u64| value & bit != 0;
        if value >> 32 != 0 || on(cr0::PG) && !on(cr0::PE) || on(cr0::NW) && !on(cr0::CD) {
            return Err(self.gp0());
        }
        let known =
            cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;
        if !self.vmx_allows_cr0(value) {
            return Err(self.gp0());
        }
        let value = value & known | cr0::ET;
        let changed = self.cr0 ^ value;
        if changed & cr0::PG != 0 {
            if value & cr0::PG != 0 {
                if self.efer & efer::LME != 0 {
                    let tss16 = self.tr.kind() & 8 == 0;
                    if self.cr4 & cr4::PAE == 0 || self.seg[seg::CS as usize].long() || tss16 {
                        return Err(self.gp0());
                    }
                } else if self.cr4 & cr4::PAE != 0 {
                    self.load_pdptes(self.cr3)?;
                }
            } else if self.cr4 & cr4::PCIDE != 0 || self.long64() {
                return Err(self.gp0());
            }
        } else if changed & (cr0::CD | cr0::NW) != 0
            && value & cr0::PG != 0
            && self.cr4 & cr4::PAE != 0
            && !self.long_mode()
        {
            self.load_pdptes(self.cr3)?;
        }
        if changed & cr0::PG != 0 && self.efer & efer::LME != 0 {
            self.efer ^= efer::LMA;
        }
        self.cr0 = value;
        if changed & (cr0::PG | cr0::PE) != 0 {
            self.forget_all();
        }
        self.update_mode();
        Ok(())
    }

    /// MOV to CR3 (SDM 3A 4.10.4.1).
    fn set_cr3(&mut self, value: u64) -> Result<(), Stop> {
        let pcide = self.cr4 & cr4::PCIDE != 0;
        let keep = pcide && value >> 63 != 0;
        let value = if pcide { value & !(1 << 63) } else { value };
        if self.long_mode() {
            if value >> self.physical_bits() != 0 {
                return Err(self.gp0());
            }
        } else if self.cr4 & cr4::PAE != 0 && self.cr0 & cr0::PG != 0 {
            self.load_pdptes(value)?;
        }
        self.cr3 = value;
        if keep {
            self.update_context();
        } else {
            let pcid = self.pcid();
            self.flush_pcid(pcid);
        }
        self.end_block();
        Ok(())
    }

    /// MOV to CR4 (SDM 3A 2.5).
    fn set_cr4(&mut self, value: u64) -> Result<(), Stop> {
        let on = |bit: u64| value & bit != 0;
        let changed = self.cr4 ^ value;
        let bad = value & !self.model.cr4_supported() != 0
            || !self.vmx_allows_cr4(value)
            || self.long_mode() && (!on(cr4::PAE) || changed & cr4::LA57 != 0)
            || changed & on_bit(value, cr4::PCIDE) != 0 && (!self.long_mode() || self.cr3 & 0xfff != 0);
        if bad {
            return Err(self.gp0());
        }
        let paging = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;
        if changed & paging != 0 && self.cr0 & cr0::PG != 0 && on(cr4::PAE) && !self.long_mode() {
            self.load_pdptes(self.cr3)?;
        }
        self.cr4 = value;
        let flush = cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::LA57 | cr4::SMEP;
        if changed & flush != 0 {
            self.forget_all();
        }
        if changed & cr4::DE != 0 {
            self.debug_registers_changed();
        }
        self.update_mode();
        Ok(())
    }

    fn check_debug_register(&mut self, n: u8, write: bool, register: u8, i: &Insn) -> Result<usize, Stop> {
        let encoded = n;
        if n >= 8 {
            return Err(self.ud());
        }
        self.intercept_dr(encoded, write, register, i, false)?;
        let n = match n {
            4 | 5 if self.cr4 & cr4::DE != 0 => return Err(self.ud()),
            4 | 5 => n + 2,
            _ => n,
        };
        if self.cpl != 0 {
            return Err(self.gp0());
        }
        if self.dr[7] & dr7::GD != 0 {
            self.pending = Exception { vector: crate::fault::vector::DB, error: None, payload: dr6::BD };
            return Err(Stop::Exception);
        }
        self.intercept_dr(encoded, write, register, i, true)?;
        Ok(n.into())
    }

    /// UMIP: SGDT, SIDT, SLDT, STR and SMSW raise #GP(0) above CPL 0.
    fn check_umip(&mut self) -> Result<(), Stop> {
        if self.cpl > 0 && self.cr4 & cr4::UMIP != 0 { Err(self.gp0()) } else { Ok(()) }
    }

    fn tables_available(&mut self) -> Result<(), Stop> {
        if self.mode.real_or_v8086() { Err(self.ud()) } else { Ok(()) }
    }
}

const fn on_bit(value: u64, bit: u64) -> u64 {
    value & bit
}

fn mov_to_cr<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = T::get(cpu, i.r[1]).zx();
    let Some(value) = cpu.intercept_cr_write(i.r[0], value, CrAccess::Mov(i.r[1]), i)? else { return Ok(()) };
    match i.r[0] {
        0 => cpu.set_cr0(value),
        2 => {
            cpu.cr2 = value;
            Ok(())
        }
        3 => cpu.set_cr3(value),
        4 => cpu.set_cr4(value),
        8 => {
            if value > 15 {
                return Err(cpu.gp0());
            }
            cpu.lapic.set_cr8(value as u8);
            cpu.boundary |= boundary::INTERRUPT;
            cpu.end_block();
            Ok(())
        }
        _ => Err(cpu.ud()),
    }
}

fn mov_from_cr<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = match i.r[1] {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => cpu.cr8().into(),
        _ => return Err(cpu.ud()),
    };
    let value = cpu.intercept_cr_read(i.r[1], value, CrAccess::Mov(i.r[0]), i)?;
    T::set(cpu, i.r[0], T::of(value));
    Ok(())
}

fn mov_to_dr<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let n = cpu.check_debug_register(i.r[0], true, i.r[1], i)?;
    let value = T::get(cpu, i.r[1]).zx();
    match n {
        6 | 7 if value >> 32 != 0 => return Err(cpu.gp0()),
        6 => cpu.dr[6] = value & 0xe00f | 0xffff_0ff0,
        7 => cpu.dr[7] = value & 0xffff_23ff | 0x400,
        _ => cpu.dr[n] = value,
    }
    cpu.debug_registers_changed();
    Ok(())
}

fn mov_from_dr<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let n = cpu.check_debug_register(i.r[1], false, i.r[0], i)?;
    T::set(cpu, i.r[0], T::of(cpu.dr[n]));
    Ok(())
}

fn lmsw(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let value = u64::from(if i.has_memory() { cpu.load::<u16>(i)? } else { u16::get(cpu, i.r[0]) });
    // PE can be set, not cleared.
    let low = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    let new = cpu.cr0 & !low | value & low | cpu.cr0 & cr0::PE;
    match cpu.intercept_cr_write(0, new, CrAccess::Lmsw(value as u16), i)? {
        Some(new) => cpu.set_cr0(new),
        None => Ok(()),
    }
}

fn smsw<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.check_umip()?;
    let value = cpu.intercept_cr_read(0, cpu.cr0, CrAccess::Smsw, i)?;
    if i.has_memory() {
        return cpu.store(i, value as u16);
    }
    T::set(cpu, i.r[0], T::of(value));
    Ok(())
}

fn clts(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if let Some(value) = cpu.intercept_cr_write(0, cpu.cr0 & !cr0::TS, CrAccess::Clts, i)? {
        cpu.cr0 = value;
    }
    cpu.privilege_changed();
    Ok(())
}

fn invlpg(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let n = usize::from(i.segment());
    let linear = cpu.fast[n].base.wrapping_add(cpu.effective_address(i)) & cpu.fast[n].mask;
    cpu.intercept(Intercept::Invlpg(linear), i)?;
    if cpu.is_canonical(linear) {
        cpu.flush_page(linear);
    }
    Ok(())
}

fn invpcid<T: Int>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.cpl != 0 || cpu.v8086() {
        return Err(cpu.gp0());
    }
    cpu.intercept(Intercept::Invpcid, i)?;
    let [descriptor, linear] = cpu.load::<[u64; 2]>(i)?;
    let kind = T::get(cpu, i.r[0]).zx();
    let pcid = descriptor as u16 & 0xfff;
    if kind > 3 || descriptor >> 12 != 0 || kind < 2 && pcid != 0 && cpu.cr4 & cr4::PCIDE == 0 {
        return Err(cpu.gp0());
    }
    match kind {
        0 => {
            if !cpu.is_canonical_max(linear) {
                return Err(cpu.gp0());
            }
            // Of another address space all is forgotten, which is allowed (SDM 3A 4.10.4.1).
            if cpu.cr4 & cr4::PCIDE == 0 || pcid == cpu.cr3 as u16 & 0xfff {
                cpu.flush_page(linear);
            } else {
                cpu.flush_pcid(pcid);
            }
        }
        1 => cpu.flush_pcid(pcid),
        2 => cpu.flush_all(),
        _ => cpu.flush_non_global(),
    }
    cpu.end_block();
    Ok(())
}

/// LGDT and LIDT: 24 bits of base with a 16-bit operand, else 32, or 64 in 64-bit mode.
fn load_table<T: Int, const IDT: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(if IDT { Intercept::Lidt } else { Intercept::Lgdt }, i)?;
    let at = cpu.effective_address(i);
    let limit = cpu.read::<u16>(i.segment(), at)?;
    let base_at = at.wrapping_add(2) & i.address_mask();
    let base = match T::BITS {
        64 => cpu.read::<u64>(i.segment(), base_at)?,
        bits => {
            let base = u64::from(cpu.read::<u32>(i.segment(), base_at)?);
            if bits == 16 { base & 0xff_ffff } else { base }
        }
    };
    if T::BITS == 64 && !cpu.is_canonical_max(base) {
        return Err(cpu.gp0());
    }
    let table = TableRegister { base, limit };
    if IDT {
        cpu.idtr = table;
    } else {
        cpu.gdtr = table;
    }
    Ok(())
}

/// SGDT and SIDT: all 32 bits of the base are stored, whatever the operand size (SDM 2B, SGDT).
fn store_table<T: Int, const IDT: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.check_umip()?;
    cpu.intercept(if IDT { Intercept::Sidt } else { Intercept::Sgdt }, i)?;
    let table = if IDT { cpu.idtr } else { cpu.gdtr };
    let at = cpu.effective_address(i);
    let base_at = at.wrapping_add(2) & i.address_mask();
    let width = if T::BITS == 64 { 8 } else { 4 };
    cpu.probe(i.segment(), at, 2, Kind::Write)?;
    cpu.probe(i.segment(), base_at, width, Kind::Write)?;
    cpu.write(i.segment(), at, table.limit)?;
    if T::BITS == 64 {
        cpu.write(i.segment(), base_at, table.base)
    } else {
        cpu.write(i.segment(), base_at, table.base as u32)
    }
}

fn selector_operand(cpu: &mut Cpu, i: &Insn) -> Result<u16, Stop> {
    if i.has_memory() { cpu.load(i) } else { Ok(u16::get(cpu, i.r[0])) }
}

fn lldt(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.tables_available()?;
    if cpu.cpl != 0 {
        return Err(cpu.gp0());
    }
    cpu.intercept(Intercept::Lldt, i)?;
    let selector = selector_operand(cpu, i)?;
    if selector & 0xfffc == 0 {
        cpu.ldtr = Segment { selector, unusable: true, ..Segment::default() };
        return Ok(());
    }
    let error = cpu.selector_error(selector);
    if selector & 4 != 0 {
        return Err(cpu.gp(error));
    }
    let descriptor = cpu.descriptor_or_gp(selector)?;
    if descriptor.type_s() != kind::LDT {
        return Err(cpu.gp(error));
    }
    let upper = if cpu.long_mode() { cpu.descriptor_upper(&descriptor)? } else { 0 };
    if !descriptor.present() {
        return Err(cpu.np(error));
    }
    let mut segment = descriptor.segment();
    segment.base |= upper << 32;
    if !cpu.is_canonical_max(segment.base) {
        return Err(cpu.gp(error));
    }
    cpu.ldtr = segment;
    Ok(())
}

fn ltr(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.tables_available()?;
    if cpu.cpl != 0 {
        return Err(cpu.gp0());
    }
    cpu.intercept(Intercept::Ltr, i)?;
    let selector = selector_operand(cpu, i)?;
    let error = cpu.selector_error(selector);
    if selector & 0xfffc == 0 {
        return Err(cpu.gp0());
    }
    if selector & 4 != 0 {
        return Err(cpu.gp(error));
    }
    let descriptor = cpu.descriptor_or_gp(selector)?;
    let long = cpu.long_mode();
    if descriptor.type_s() != kind::TSS32 && (long || descriptor.type_s() != kind::TSS16) {
        return Err(cpu.gp(error));
    }
    let upper = if long { cpu.descriptor_upper(&descriptor)? } else { 0 };
    if !descriptor.present() {
        return Err(cpu.np(error));
    }
    let mut segment = descriptor.segment();
    segment.base |= upper << 32;
    if !cpu.is_canonical_max(segment.base) {
        return Err(cpu.gp(error));
    }
    let byte = (descriptor.low >> 40) as u8 | 2;
    cpu.write_system(descriptor.address.wrapping_add(5), byte)?;
    segment.rights |= 2;
    cpu.tr = segment;
    Ok(())
}

/// SLDT and STR.
fn store_selector<T: Int, const TASK: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.tables_available()?;
    cpu.check_umip()?;
    cpu.intercept(if TASK { Intercept::Str } else { Intercept::Sldt }, i)?;
    let selector = if TASK { cpu.tr.selector } else { cpu.ldtr.selector };
    if i.has_memory() {
        return cpu.store(i, selector);
    }
    T::set(cpu, i.r[0], T::of(selector.into()));
    Ok(())
}

fn hlt(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.intercept(Intercept::Hlt, i)?;
    cpu.suspend(Activity::Halted);
    Ok(())
}

/// CLI and STI with IOPL too low: VME and PVI make them act on VIF (SDM 3B 21.3.3, 21.4). True if they do.
fn virtual_if(cpu: &mut Cpu) -> Result<bool, Stop> {
    if !cpu.protected() || cpu.cpl <= cpu.flags.iopl() && !cpu.v8086() || cpu.v8086() && cpu.flags.iopl() == 3
    {
        return Ok(false);
    }
    let extension = if cpu.v8086() { cr4::VME } else { cr4::PVI };
    if cpu.cr4 & extension != 0 && cpu.cpl == 3 { Ok(true) } else { Err(cpu.gp0()) }
}

fn cli(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    let bit = if virtual_if(cpu)? { bits::VIF } else { bits::IF };
    cpu.flags.system &= !bit;
    Ok(())
}

fn sti(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    if virtual_if(cpu)? {
        if cpu.flags.has(bits::VIP) {
            return Err(cpu.gp0());
        }
        cpu.flags.system |= bits::VIF;
        return Ok(());
    }
    if !cpu.flags.has(bits::IF) {
        cpu.flags.system |= bits::IF;
        if cpu.in_shadow == Shadow::None {
            cpu.shadow = Shadow::Sti;
        }
        cpu.boundary |= boundary::SHADOW | boundary::INTERRUPT;
    }
    cpu.end_block();
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Mov_cr_r32, mov_to_cr::<u32>).cpl0().ends_block();
    rows.add(Code::Mov_cr_r64, mov_to_cr::<u64>).cpl0().ends_block();
    rows.add(Code::Mov_r32_cr, mov_from_cr::<u32>).cpl0();
    rows.add(Code::Mov_r64_cr, mov_from_cr::<u64>).cpl0();
    rows.add(Code::Mov_dr_r32, mov_to_dr::<u32>).ends_block();
    rows.add(Code::Mov_dr_r64, mov_to_dr::<u64>).ends_block();
    rows.add(Code::Mov_r32_dr, mov_from_dr::<u32>);
    rows.add(Code::Mov_r64_dr, mov_from_dr::<u64>);
    for code in [Code::Lmsw_rm16, Code::Lmsw_r32m16, Code::Lmsw_r64m16] {
        rows.add(code, lmsw).cpl0().ends_block();
    }
    rows.add(Code::Smsw_rm16, smsw::<u16>);
    rows.add(Code::Smsw_r32m16, smsw::<u32>);
    rows.add(Code::Smsw_r64m16, smsw::<u64>);
    rows.add(Code::Clts, clts).cpl0().ends_block();
    rows.add(Code::Invlpg_m, invlpg).cpl0().ends_block();
    rows.add(Code::Invpcid_r32_m128, invpcid::<u32>).ends_block();
    rows.add(Code::Invpcid_r64_m128, invpcid::<u64>).ends_block();
    rows.add(Code::Lgdt_m1632_16, load_table::<u16, false>).cpl0();
    rows.add(Code::Lgdt_m1632, load_table::<u32, false>).cpl0();
    rows.add(Code::Lgdt_m1664, load_table::<u64, false>).cpl0();
    rows.add(Code::Lidt_m1632_16, load_table::<u16, true>).cpl0();
    rows.add(Code::Lidt_m1632, load_table::<u32, true>).cpl0();
    rows.add(Code::Lidt_m1664, load_table::<u64, true>).cpl0();
    rows.add(Code::Sgdt_m1632_16, store_table::<u16, false>);
    rows.add(Code::Sgdt_m1632, store_table::<u32, false>);
    rows.add(Code::Sgdt_m1664, store_table::<u64, false>);
    rows.add(Code::Sidt_m1632_16, store_table::<u16, true>);
    rows.add(Code::Sidt_m1632, store_table::<u32, true>);
    rows.add(Code::Sidt_m1664, store_table::<u64, true>);
    for code in [Code::Lldt_rm16, Code::Lldt_r32m16, Code::Lldt_r64m16] {
        rows.add(code, lldt);
    }
    for code in [Code::Ltr_rm16, Code::Ltr_r32m16, Code::Ltr_r64m16] {
        rows.add(code, ltr);
    }
    rows.add(Code::Sldt_rm16, store_selector::<u16, false>);
    rows.add(Code::Sldt_r32m16, store_selector::<u32, false>);
    rows.add(Code::Sldt_r64m16, store_selector::<u64, false>);
    rows.add(Code::Str_rm16, store_selector::<u16, true>);
    rows.add(Code::Str_r32m16, store_selector::<u32, true>);
    rows.add(Code::Str_r64m16, store_selector::<u64, true>);
    rows.add(Code::Hlt, hlt).cpl0().ends_block();
    rows.add(Code::Cli, cli);
    rows.add(Code::Sti, sti).ends_block();
}
