//! FXSAVE and FXRSTOR, and the legacy region of XSAVE images that they share (SDM 1 10.5, 13.5.1).

use super::{X87, fsw};
use crate::control::efer;
use crate::mem::Kind;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_fp::F80;

impl X87 {
    /// Writes x87 state into a legacy region: bytes 0 to 23 and 32 to 159. With `wide` (REX.W) the pointers have 64 bits. On AMD's
    /// processors they are zero unless an exception is pending (measured on Zen 3).
    pub fn save_legacy(&self, image: &mut [u8; 512], wide: bool, amd: bool) {
        image[0..2].copy_from_slice(&self.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.status.to_le_bytes());
        image[4..6].copy_from_slice(&u16::from(self.valid).to_le_bytes());
        for (n, slot) in image[32..160].as_chunks_mut::<16>().0.iter_mut().enumerate() {
            *slot = [0; 16];
            slot[..10].copy_from_slice(&self.raw(n as u8).to_bytes());
        }
        if amd && self.status & fsw::ES == 0 {
            image[6..24].fill(0);
            return;
        }
        image[6..8].copy_from_slice(&self.fop.to_le_bytes());
        // Without REX.W the selectors follow 32-bit pointers.
        let pointer =
            |p: u64, selector: u16| if wide { p } else { p & 0xffff_ffff | u64::from(selector) << 32 };
        image[8..16].copy_from_slice(&pointer(self.fip, self.fcs).to_le_bytes());
        image[16..24].copy_from_slice(&pointer(self.fdp, self.fds).to_le_bytes());
    }

    /// Reads x87 state from a legacy region; [`Cpu::x87_loaded`] is to follow.
    pub fn load_legacy(&mut self, image: &[u8; 512], wide: bool) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let pointer = |at: usize| {
            let low = u64::from(word(at)) | u64::from(word(at + 2)) << 16;
            let high = u64::from(word(at + 4)) | u64::from(word(at + 6)) << 16;
            if wide { (low | high << 32, 0) } else { (low, high as u16) }
        };
        self.status = word(2);
        for (n, slot) in image[32..160].as_chunks::<16>().0.iter().enumerate() {
            let [a, b, c, d, e, f, g, h, i, j, ..] = *slot;
            self.set(n as u8, F80::from_bytes([a, b, c, d, e, f, g, h, i, j]));
        }
        self.valid = image[4];
        self.fop = word(6) & 0x7ff;
        (self.fip, self.fcs) = pointer(8);
        (self.fdp, self.fds) = pointer(16);
        self.set_control(word(0));
    }
}

/// How many XMM registers the present mode has.
fn xmm_count(cpu: &Cpu) -> usize {
    if cpu.long64() { 16 } else { 8 }
}

/// AMD's fast FXSAVE leaves out the XMM registers for the operating system's own switches (APM 2 3.1.7).
fn without_xmm(cpu: &Cpu) -> bool {
    cpu.efer & efer::FFXSR != 0 && cpu.cpl == 0 && cpu.long64()
}

impl Cpu {
    /// The operand's offset; it must be aligned to 16 bytes.
    fn fxsave_offset(&mut self, i: &Insn, kind: Kind) -> Result<u64, Stop> {
        let offset = self.effective_address(i);
        let linear = self.check_segment(i.segment(), offset, 512, kind)?;
        if linear & 3 != 0 && self.model.is_amd() && self.alignment_checked() {
            return Err(self.ac());
        }
        if linear & 15 != 0 {
            return Err(self.gp0());
        }
        Ok(offset)
    }
}

fn fxsave<const WIDE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let offset = cpu.fxsave_offset(i, Kind::Write)?;
    cpu.probe(i.segment(), offset, 512, Kind::Write)?;
    let mut image = [0; 512];
    cpu.x87.save_legacy(&mut image, WIDE, cpu.model.is_amd());
    image[24..28].copy_from_slice(&cpu.mxcsr.to_le_bytes());
    image[28..32].copy_from_slice(&cpu.model.mxcsr_mask().to_le_bytes());
    let xmm = if without_xmm(cpu) { 0 } else { xmm_count(cpu) };
    for (register, slot) in cpu.zmm.iter().take(xmm).zip(image[160..].as_chunks_mut::<16>().0) {
        slot[..8].copy_from_slice(&register[0].to_le_bytes());
        slot[8..].copy_from_slice(&register[1].to_le_bytes());
    }
    // What follows the registers is not written.
    cpu.write_bytes(i.segment(), offset, &image[..160 + 16 * xmm])
}

fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let offset = cpu.fxsave_offset(i, Kind::Read)?;
    let mut image = [0; 512];
    cpu.read_bytes(i.segment(), offset, &mut image)?;
    let [.., a, b, c, d] = image[..28] else { unreachable!("the image has 512 bytes") };
    let mxcsr = u32::from_le_bytes([a, b, c, d]);
    if mxcsr & !cpu.model.mxcsr_mask() != 0 {
        return Err(cpu.gp0());
    }
    cpu.x87.load_legacy(&image, WIDE);
    cpu.x87_loaded();
    cpu.mxcsr = mxcsr;
    let xmm = if without_xmm(cpu) { 0 } else { xmm_count(cpu) };
    for (register, slot) in cpu.zmm.iter_mut().take(xmm).zip(image[160..].as_chunks::<8>().0.chunks_exact(2))
    {
        register[0] = u64::from_le_bytes(slot[0]);
        register[1] = u64::from_le_bytes(slot[1]);
    }
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Fxsave_m512byte, fxsave::<false>);
    rows.add(Code::Fxsave64_m512byte, fxsave::<true>);
    rows.add(Code::Fxrstor_m512byte, fxrstor::<false>);
    rows.add(Code::Fxrstor64_m512byte, fxrstor::<true>);
}
