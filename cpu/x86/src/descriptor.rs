//! Descriptor tables, and loading segment registers from them (SDM 3A 3.4, 3.5, 5.4–5.7).

use crate::flags::bits;
use crate::insn::seg;
use crate::model::Feature;
use crate::segment::{Segment, rights};
use crate::state::{Shadow, boundary};
use crate::{Cpu, Stop};

/// Kinds of system descriptors (the type field with S clear; SDM 3A table 3-2).
#[allow(missing_docs)]
pub mod kind {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS32: u8 = 9;
    pub const TSS32_BUSY: u8 = 11;
    pub const CALL_GATE32: u8 = 12;
    pub const INTERRUPT_GATE32: u8 = 14;
    pub const TRAP_GATE32: u8 = 15;
}

/// A descriptor as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The selector that named it.
    pub selector: u16,
    /// Its low 8 bytes.
    pub low: u64,
    /// Linear address.
    pub address: u64,
}

impl Descriptor {
    /// As a segment register's hidden part.
    pub fn segment(&self) -> Segment {
        Segment::from_descriptor(self.selector, self.low)
    }

    /// S and type: 5 bits, S clear for system descriptors.
    pub fn type_s(&self) -> u8 {
        (self.low >> 40) as u8 & 0x1f
    }

    /// Present.
    pub fn present(&self) -> bool {
        self.low >> 47 & 1 != 0
    }

    /// DPL.
    pub fn dpl(&self) -> u8 {
        (self.low >> 45) as u8 & 3
    }

    /// A gate's selector.
    pub fn gate_selector(&self) -> u16 {
        (self.low >> 16) as u16
    }

    /// A gate's offset, low 32 bits.
    pub fn gate_offset(&self) -> u64 {
        self.low & 0xffff | self.low >> 32 & 0xffff_0000
    }
}

impl Cpu {
    /// The error code for a selector: without RPL, with EXT while an event is delivered.
    pub(crate) fn selector_error(&self, selector: u16) -> u16 {
        selector & 0xfffc | self.external
    }

    /// Reads the descriptor of a selector that is not null; `None` if it lies beyond its table's limit.
    pub(crate) fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Stop> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u32::from(self.gdtr.limit))
        } else if self.ldtr.unusable || self.ldtr.selector & 0xfffc == 0 {
            return Ok(None);
        } else {
            (self.ldtr.base, self.ldtr.limit)
        };
        let offset = u32::from(selector & 0xfff8);
        if offset + 7 > limit {
            return Ok(None);
        }
        let address = base.wrapping_add(offset.into());
        let low = self.read_system(address)?;
        Ok(Some(Descriptor { selector, low, address }))
    }

    /// Reads a descriptor; #GP(selector) if it is beyond the limit.
    pub(crate) fn descriptor_or_gp(&mut self, selector: u16) -> Result<Descriptor, Stop> {
        match self.find_descriptor(selector)? {
            Some(descriptor) => Ok(descriptor),
            None => Err(self.gp(self.selector_error(selector))),
        }
    }

    /// The upper half of a 16-byte system descriptor (IA-32e mode), whose type field must be zero.
    pub(crate) fn descriptor_upper(&mut self, descriptor: &Descriptor) -> Result<u64, Stop> {
        let limit = if descriptor.selector & 4 == 0 { self.gdtr.limit.into() } else { self.ldtr.limit };
        if u32::from(descriptor.selector & 0xfff8) + 15 > limit {
            return Err(self.gp(self.selector_error(descriptor.selector)));
        }
        let upper: u64 = self.read_system(descriptor.address.wrapping_add(8))?;
        if upper >> 40 & 0x1f != 0 {
            return Err(self.gp(self.selector_error(descriptor.selector)));
        }
        Ok(upper)
    }

    /// Sets a segment descriptor's accessed bit, if it is clear.
    pub(crate) fn set_accessed(&mut self, descriptor: &Descriptor) -> Result<(), Stop> {
        if descriptor.low >> 40 & 1 == 0 {
            let address = descriptor.address.wrapping_add(5);
            let byte = (descriptor.low >> 40) as u8 | 1;
            self.write_system(address, byte)?;
        }
        Ok(())
    }

    /// Puts a segment into a register's hidden part.
    pub(crate) fn set_segment(&mut self, n: u8, segment: Segment) {
        self.seg[usize::from(n) % 6] = segment;
        self.segment_changed(n);
    }

    /// Loads a data or stack segment register as MOV and POP do.
    pub(crate) fn load_segment(&mut self, n: u8, selector: u16) -> Result<(), Stop> {
        if self.mode.real_or_v8086() {
            let mut segment = self.seg[usize::from(n) % 6];
            if self.v8086() {
                segment = Segment::v8086(selector);
            } else {
                segment.load_real(selector);
            }
            self.set_segment(n, segment);
            return Ok(());
        }
        let segment =
            if n == seg::SS { self.stack_descriptor(selector)? } else { self.data_descriptor(n, selector)? };
        self.set_segment(n, segment);
        Ok(())
    }

    fn data_descriptor(&mut self, n: u8, selector: u16) -> Result<Segment, Stop> {
        if selector & 0xfffc == 0 {
            // Intel clears the base; AMD keeps FS's and GS's, if CPUID does not say otherwise (APM 3 E.4.18).
            let keeps = self.model.is_amd() && !self.model.has(Feature::NullSelectorClearsBase);
            let base = if keeps { self.seg[usize::from(n) % 6].base } else { 0 };
            return Ok(Segment { selector, unusable: true, base, ..Segment::default() });
        }
        let descriptor = self.descriptor_or_gp(selector)?;
        let segment = descriptor.segment();
        let rpl = (selector & 3) as u8;
        let conforming = segment.is_code() && segment.rights & rights::DC != 0;
        if segment.rights & rights::S == 0
            || !segment.readable()
            || (!conforming && (rpl > segment.dpl() || self.cpl > segment.dpl()))
        {
            return Err(self.gp(self.selector_error(selector)));
        }
        if !descriptor.present() {
            return Err(self.np(self.selector_error(selector)));
        }
        self.set_accessed(&descriptor)?;
        Ok(Segment { rights: segment.rights | rights::ACCESSED, ..segment })
    }

    fn stack_descriptor(&mut self, selector: u16) -> Result<Segment, Stop> {
        let rpl = (selector & 3) as u8;
        if selector & 0xfffc == 0 {
            // Allowed in 64-bit mode below CPL 3 only.
            if self.long64() && self.cpl != 3 && rpl == self.cpl {
                return Ok(Self::null_stack(selector, self.cpl));
            }
            return Err(self.gp0());
        }
        let descriptor = self.descriptor_or_gp(selector)?;
        let segment = descriptor.segment();
        if rpl != self.cpl || !segment.writable() || segment.dpl() != self.cpl {
            return Err(self.gp(self.selector_error(selector)));
        }
        if !descriptor.present() {
            return Err(self.ss(self.selector_error(selector)));
        }
        self.set_accessed(&descriptor)?;
        Ok(Segment { rights: segment.rights | rights::ACCESSED, ..segment })
    }

    /// SS after a null selector was loaded in 64-bit mode: its DPL is the CPL.
    pub(crate) fn null_stack(selector: u16, cpl: u8) -> Segment {
        Segment { selector, unusable: true, rights: u16::from(cpl) << 5, ..Segment::default() }
    }

    /// Checks a new stack segment for a switch to privilege `cpl`: faults are #TS, or #SS if it is not present
    /// (SDM 3A 6.12.1.2, 5.8.5).
    pub(crate) fn switched_stack(&mut self, selector: u16, cpl: u8) -> Result<Segment, Stop> {
        if selector & 0xfffc == 0 {
            return Err(self.ts(self.external));
        }
        let error = self.selector_error(selector);
        let Some(descriptor) = self.find_descriptor(selector)? else { return Err(self.ts(error)) };
        let segment = descriptor.segment();
        if (selector & 3) as u8 != cpl || segment.dpl() != cpl || !segment.writable() {
            return Err(self.ts(error));
        }
        if !descriptor.present() {
            return Err(self.ss(error));
        }
        self.set_accessed(&descriptor)?;
        Ok(Segment { rights: segment.rights | rights::ACCESSED, ..segment })
    }

    /// After a return to an outer level, data segments that it may not use become null, and null selectors zero (SDM 2B, RET).
    pub(crate) fn clear_inner_segments(&mut self) {
        for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let s = self.seg[n as usize];
            let conforming = s.is_code() && s.rights & rights::DC != 0;
            let inner = !s.unusable && !conforming && s.dpl() < self.cpl;
            if inner || s.selector & 0xfffc == 0 {
                // The base stays: FS and GS go on using it in 64-bit mode.
                self.set_segment(n, Segment { unusable: true, base: s.base, ..Segment::default() });
            }
        }
    }

    /// MOV SS and POP SS hold interrupts and debug traps off until after the next instruction (SDM 3A 6.8.3).
    pub(crate) fn mov_ss_shadow(&mut self) {
        // Of consecutive ones only the first is sure to; silicon lets only the first.
        if self.in_shadow == Shadow::None {
            self.shadow = Shadow::MovSs;
            self.boundary |= boundary::SHADOW;
        }
        self.end_block();
    }

    /// Installs a new code segment and CPL, with everything that follows from it.
    pub(crate) fn set_code_segment(&mut self, segment: Segment, cpl: u8) {
        let old = (self.seg[seg::CS as usize], self.cpl);
        let segment = Segment { selector: segment.selector & !3 | u16::from(cpl), ..segment };
        self.seg[seg::CS as usize] = segment;
        self.cpl = cpl;
        let mode_bits = rights::L | rights::DB;
        if old.1 == cpl && (old.0.rights ^ segment.rights) & mode_bits == 0 {
            self.segment_changed(seg::CS);
            self.end_block();
        } else {
            self.privilege_changed();
        }
    }

    /// Enters or leaves virtual-8086 mode with RFLAGS.VM.
    pub(crate) fn set_v8086(&mut self, on: bool) {
        let flags = self.flags.get();
        self.flags.set(if on { flags | bits::VM } else { flags & !bits::VM });
    }
}
