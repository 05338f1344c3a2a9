//! XGETBV, XSETBV, and the XSAVE family (SDM 1 chapter 13).

use crate::control::{cr0, cr4, xcr0};
use crate::mem::Kind;
use crate::model::{Feature, Model, XsaveComponent};
use crate::row::Rows;
use crate::state::gpr::RCX;
use crate::virt::Intercept;
use crate::x87::X87;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;

/// Legacy region; the header follows it.
const LEGACY: usize = 512;
const HEADER: usize = 64;
/// All of the area with every component.
const AREA: usize = 2696;
/// XCOMP_BV: the area is in the compacted format.
const COMPACTED: u64 = 1 << 63;
const MXCSR_INITIAL: u32 = 0x1f80;

/// Which instruction of the family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Save {
    Plain,
    Optimised,
    Compacted,
    Supervisor,
}

impl Cpu {
    /// The number of vector registers that the mode has among the first 16.
    fn vector_registers(&self) -> usize {
        if self.long64() { 16 } else { 8 }
    }

    /// XINUSE: the components of XCR0 that are not in their initial configuration (SDM 1 13.6).
    pub(crate) fn xinuse(&self) -> u64 {
        let low = &self.zmm[..self.vector_registers()];
        let any = |part: core::ops::Range<usize>| low.iter().any(|r| r[part.clone()].iter().any(|&q| q != 0));
        let mut inuse = 0;
        for (used, component) in [
            (!self.x87.is_initial(), xcr0::X87),
            (any(0..2), xcr0::SSE),
            (any(2..4), xcr0::AVX),
            (self.k != [0; 8], xcr0::OPMASK),
            (any(4..8), xcr0::ZMM_HI256),
            // Outside of 64-bit mode these registers count as initial.
            (self.long64() && self.zmm[16..].iter().flatten().any(|&q| q != 0), xcr0::HI16_ZMM),
            (self.pkru != 0, xcr0::PKRU),
        ] {
            if used {
                inuse |= component;
            }
        }
        inuse
    }

    /// Copies a component out of the processor; `image` has its size.
    fn save_component(&self, number: u32, image: &mut [u8]) {
        match 1 << number {
            xcr0::AVX => self.save_quads(0, self.vector_registers(), 2..4, image),
            xcr0::OPMASK => {
                for (slot, k) in image.as_chunks_mut::<8>().0.iter_mut().zip(self.k) {
                    *slot = k.to_le_bytes();
                }
            }
            xcr0::ZMM_HI256 => self.save_quads(0, self.vector_registers(), 4..8, image),
            xcr0::HI16_ZMM if self.long64() => self.save_quads(16, 16, 0..8, image),
            xcr0::PKRU => image[..4].copy_from_slice(&self.pkru.to_le_bytes()),
            _ => {}
        }
    }

    fn save_quads(&self, first: usize, count: usize, part: core::ops::Range<usize>, image: &mut [u8]) {
        let quads = self.zmm[first..][..count].iter().flat_map(|register| &register[part.clone()]);
        for (slot, quad) in image.as_chunks_mut::<8>().0.iter_mut().zip(quads) {
            *slot = quad.to_le_bytes();
        }
    }

    /// Loads a component; `None` initialises it.
    fn load_component(&mut self, number: u32, image: Option<&[u8]>) {
        let registers = self.vector_registers();
        match 1 << number {
            xcr0::AVX => self.load_quads(0, registers, 2..4, image),
            xcr0::OPMASK => {
                for (n, k) in self.k.iter_mut().enumerate() {
                    *k = quad(image, n);
                }
            }
            xcr0::ZMM_HI256 => self.load_quads(0, registers, 4..8, image),
            xcr0::HI16_ZMM if self.long64() => self.load_quads(16, 16, 0..8, image),
            xcr0::PKRU => self.set_pkru(quad(image, 0) as u32),
            _ => {}
        }
    }

    fn load_quads(
        &mut self,
        first: usize,
        count: usize,
        part: core::ops::Range<usize>,
        image: Option<&[u8]>,
    ) {
        let registers = &mut self.zmm[first..][..count];
        let Some(image) = image else {
            return registers.iter_mut().for_each(|register| register[part.clone()].fill(0));
        };
        let quads = registers.iter_mut().flat_map(|register| &mut register[part.clone()]);
        for (slot, quad) in quads.zip(image.as_chunks::<8>().0) {
            *slot = u64::from_le_bytes(*quad);
        }
    }

    /// What all of the family check first: the offset of the area.
    fn xsave_area(&mut self, i: &Insn, kind: Kind, supervisor: bool) -> Result<u64, Stop> {
        if self.cr4 & cr4::OSXSAVE == 0 {
            return Err(self.ud());
        }
        if self.cr0 & cr0::TS != 0 {
            return Err(self.nm());
        }
        if supervisor && self.cpl != 0 {
            return Err(self.gp0());
        }
        if supervisor {
            let mask = self.edx_eax() & self.msrs.xss;
            let saves = kind == Kind::Write;
            self.intercept(if saves { Intercept::Xsaves(mask) } else { Intercept::Xrstors(mask) }, i)?;
        }
        let offset = self.effective_address(i);
        let linear = self.check_segment(i.segment(), offset, (LEGACY + HEADER) as u64, kind)?;
        if linear & 63 != 0 {
            return Err(self.gp0());
        }
        Ok(offset)
    }

    /// The state components that an instruction's EDX:EAX selects.
    fn requested(&self, supervisor: bool) -> u64 {
        let enabled = if supervisor { self.xcr0 | self.msrs.xss } else { self.xcr0 };
        enabled & self.edx_eax()
    }
}

fn quad(image: Option<&[u8]>, n: usize) -> u64 {
    image.and_then(|image| image.as_chunks::<8>().0.get(n)).map_or(0, |&bytes| u64::from_le_bytes(bytes))
}

/// The components selected by `mask`, with their offsets in the given format.
fn layout(
    model: &Model,
    mask: u64,
    compacted: Option<u64>,
) -> impl Iterator<Item = (&'static XsaveComponent, usize)> + use<> {
    let mut next = LEGACY + HEADER;
    model.xsave_components().iter().filter_map(move |c| {
        let offset = match compacted {
            None => c.offset as usize,
            Some(present) if present >> c.number & 1 == 0 => return None,
            Some(_) => {
                next += c.size as usize;
                next - c.size as usize
            }
        };
        (mask >> c.number & 1 != 0).then_some((c, offset))
    })
}

/// Parts of an area: x87 in two, MXCSR, SSE, the header, and the other components.
#[derive(Default)]
struct Parts {
    parts: [(usize, usize); 12],
    count: usize,
}

impl Parts {
    fn push(&mut self, part: core::ops::Range<usize>) {
        debug_assert!(self.count < self.parts.len(), "room for all components");
        if let Some(next) = self.parts.get_mut(self.count) {
            *next = (part.start, part.end);
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = core::ops::Range<usize>> {
        self.parts[..self.count].iter().map(|&(start, end)| start..end)
    }
}

fn save(cpu: &mut Cpu, i: &Insn, how: Save, wide: bool) -> Result<(), Stop> {
    let supervisor = how == Save::Supervisor;
    let area = cpu.xsave_area(i, Kind::Write, supervisor)?;
    let requested = cpu.requested(supervisor);
    let compacted = matches!(how, Save::Compacted | Save::Supervisor);
    let inuse = cpu.xinuse();
    let mut saved = if how == Save::Plain { requested } else { requested & inuse };
    if compacted && requested & xcr0::SSE != 0 && cpu.mxcsr != MXCSR_INITIAL {
        saved |= xcr0::SSE;
    }

    let mut image = [0; AREA];
    // The parts of the area that are written.
    let mut parts = Parts::default();
    if let Some(legacy) = image.first_chunk_mut::<LEGACY>() {
        if saved & xcr0::X87 != 0 {
            cpu.x87.save_legacy(legacy, wide, cpu.model.is_amd());
            parts.push(0..24);
            parts.push(32..160);
        }
        let mxcsr = if compacted { saved & xcr0::SSE } else { requested & (xcr0::SSE | xcr0::AVX) };
        if mxcsr != 0 {
            legacy[24..28].copy_from_slice(&cpu.mxcsr.to_le_bytes());
            legacy[28..32].copy_from_slice(&cpu.model.mxcsr_mask().to_le_bytes());
            parts.push(24..32);
        }
        if saved & xcr0::SSE != 0 {
            let end = 160 + 16 * cpu.vector_registers();
            cpu.save_quads(0, cpu.vector_registers(), 0..2, &mut legacy[160..end]);
            parts.push(160..end);
        }
    }
    for (component, offset) in layout(&cpu.model, saved, compacted.then_some(requested)) {
        let size = match 1_u64 << component.number {
            xcr0::HI16_ZMM if !cpu.long64() => continue,
            xcr0::AVX => 16 * cpu.vector_registers(),
            xcr0::ZMM_HI256 => 32 * cpu.vector_registers(),
            _ => component.size as usize,
        };
        cpu.save_component(component.number, &mut image[offset..offset + size]);
        parts.push(offset..offset + size);
    }
    let segment = i.segment();
    let at = |part: usize| area.wrapping_add(part as u64) & i.address_mask();
    let header = if compacted {
        image[LEGACY + 8..][..8].copy_from_slice(&(requested | COMPACTED).to_le_bytes());
        parts.push(LEGACY..LEGACY + 16);
        saved
    } else {
        parts.push(LEGACY..LEGACY + 8);
        let old: u64 = cpu.read_for_write(segment, at(LEGACY))?;
        old & !requested | inuse & requested
    };
    image[LEGACY..][..8].copy_from_slice(&header.to_le_bytes());
    // As on silicon, the end of what is asked for must be writable, even if nothing is saved there.
    let end = layout(&cpu.model, requested, compacted.then_some(requested))
        .map(|(c, offset)| offset + c.size as usize)
        .max();
    cpu.probe(segment, at(end.unwrap_or(LEGACY + HEADER) - 1), 1, Kind::Write)?;
    for part in parts.iter() {
        cpu.probe(segment, at(part.start), part.len() as u64, Kind::Write)?;
    }
    for part in parts.iter() {
        cpu.write_bytes(segment, at(part.start), &image[part])?;
    }
    Ok(())
}

fn restore(cpu: &mut Cpu, i: &Insn, supervisor: bool, wide: bool) -> Result<(), Stop> {
    let area = cpu.xsave_area(i, Kind::Read, supervisor)?;
    let requested = cpu.requested(supervisor);
    let segment = i.segment();
    let at = |part: usize| area.wrapping_add(part as u64) & i.address_mask();
    let header: [u64; 8] = cpu.read(segment, at(LEGACY))?;
    let (present, format) = (header[0], header[1]);
    let compacted = format & COMPACTED != 0;
    // SDM 1 13.8.1, 13.12: the header has to make sense.
    let enabled = if supervisor { cpu.xcr0 | cpu.msrs.xss } else { cpu.xcr0 };
    let valid = if compacted {
        cpu.model.has(Feature::Xsavec)
            && format & !COMPACTED & !enabled == 0
            && present & !format == 0
            && present & COMPACTED == 0
            && header[2..] == [0; 6]
    } else {
        !supervisor && present & !enabled == 0 && header[1..3] == [0; 2]
    };
    if !valid {
        return Err(cpu.gp0());
    }
    let loaded = requested & present;

    let mut image = [0; AREA];
    // In the standard format MXCSR comes from memory whenever SSE or AVX state is asked for.
    let mxcsr_from_memory =
        if compacted { loaded & xcr0::SSE } else { requested & (xcr0::SSE | xcr0::AVX) } != 0;
    if mxcsr_from_memory || loaded & (xcr0::X87 | xcr0::SSE) != 0 {
        cpu.read_bytes(segment, at(0), &mut image[..LEGACY])?;
    }
    let mxcsr = quad(Some(&image), 3) as u32;
    if mxcsr_from_memory && mxcsr & !cpu.model.mxcsr_mask() != 0 {
        return Err(cpu.gp0());
    }
    for (component, offset) in layout(&cpu.model, loaded, compacted.then_some(format)) {
        cpu.read_bytes(segment, at(offset), &mut image[offset..][..component.size as usize])?;
    }

    // Nothing faults any more.
    if requested & xcr0::X87 != 0 {
        match image.first_chunk::<LEGACY>() {
            Some(legacy) if loaded & xcr0::X87 != 0 => cpu.x87.load_legacy(legacy, wide),
            _ => cpu.x87 = X87 { ferr: cpu.x87.ferr, ..X87::INITIAL },
        }
        cpu.x87_loaded();
    }
    if mxcsr_from_memory {
        cpu.mxcsr = mxcsr;
    } else if compacted && requested & xcr0::SSE != 0 {
        cpu.mxcsr = MXCSR_INITIAL;
    }
    if requested & xcr0::SSE != 0 {
        let registers = cpu.vector_registers();
        let source = (loaded & xcr0::SSE != 0).then(|| &image[160..160 + 256]);
        cpu.load_quads(0, registers, 0..2, source);
    }
    for (component, offset) in layout(&cpu.model, loaded, compacted.then_some(format)) {
        cpu.load_component(component.number, Some(&image[offset..][..component.size as usize]));
    }
    for (component, _) in layout(&cpu.model, requested & !loaded, None) {
        cpu.load_component(component.number, None);
    }
    Ok(())
}

fn xgetbv(cpu: &mut Cpu, _: &Insn) -> Result<(), Stop> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    let value = match cpu.regs[RCX] as u32 {
        0 => cpu.xcr0,
        1 if cpu.model.has(Feature::Xgetbv1) => cpu.xcr0 & cpu.xinuse(),
        _ => return Err(cpu.gp0()),
    };
    cpu.set_edx_eax(value);
    Ok(())
}

/// SDM 1 13.3: which combinations XCR0 can have.
fn xcr0_is_valid(value: u64, supported: u64) -> bool {
    let (sse, avx) = (value & xcr0::SSE != 0, value & xcr0::AVX != 0);
    let avx512 = value & xcr0::AVX512;
    value & !supported == 0
        && value & xcr0::X87 != 0
        && (!avx || sse)
        && (avx512 == 0 || avx512 == xcr0::AVX512 && avx)
}

fn xsetbv(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    if cpu.cpl != 0 {
        return Err(cpu.gp0());
    }
    cpu.intercept(Intercept::Xsetbv, i)?;
    let value = cpu.edx_eax();
    if cpu.regs[RCX] as u32 != 0 || !xcr0_is_valid(value, cpu.model.xcr0_supported()) {
        return Err(cpu.gp0());
    }
    cpu.xcr0 = value;
    cpu.update_mode();
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Xgetbv, xgetbv);
    rows.add(Code::Xsetbv, xsetbv).ends_block();
    rows.add(Code::Xsave_mem, |cpu, i| save(cpu, i, Save::Plain, false));
    rows.add(Code::Xsave64_mem, |cpu, i| save(cpu, i, Save::Plain, true));
    rows.add(Code::Xsaveopt_mem, |cpu, i| save(cpu, i, Save::Optimised, false));
    rows.add(Code::Xsaveopt64_mem, |cpu, i| save(cpu, i, Save::Optimised, true));
    rows.add(Code::Xsavec_mem, |cpu, i| save(cpu, i, Save::Compacted, false));
    rows.add(Code::Xsavec64_mem, |cpu, i| save(cpu, i, Save::Compacted, true));
    rows.add(Code::Xsaves_mem, |cpu, i| save(cpu, i, Save::Supervisor, false));
    rows.add(Code::Xsaves64_mem, |cpu, i| save(cpu, i, Save::Supervisor, true));
    rows.add(Code::Xrstor_mem, |cpu, i| restore(cpu, i, false, false));
    rows.add(Code::Xrstor64_mem, |cpu, i| restore(cpu, i, false, true));
    rows.add(Code::Xrstors_mem, |cpu, i| restore(cpu, i, true, false));
    rows.add(Code::Xrstors64_mem, |cpu, i| restore(cpu, i, true, true));
}

#[cfg(test)]
mod tests;
