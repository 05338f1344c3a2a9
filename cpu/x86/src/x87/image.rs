//! FNSTENV, FLDENV, FNSAVE and FRSTOR: the environment in its four formats (SDM 1 figures 8-9 to 8-12).

use super::{X87, fsw};
use crate::mem::Kind;
use crate::row::Rows;
use crate::{Cpu, Insn, Stop};
use iced_x86::Code;
use ringworld_fp::F80;
use ringworld_fp::x87::{Examined, examine};

/// Bytes of the eight registers in a FSAVE image.
const REGISTERS: usize = 80;
/// The longest image: 28 bytes of environment, and the registers.
const LONGEST: usize = 28 + REGISTERS;

impl X87 {
    /// The full tag word: two bits a physical register; 0 valid, 1 zero, 2 special, 3 empty.
    pub fn tag_word(&self) -> u16 {
        (0..8).fold(0, |tags, r| {
            let value = F80 { sig: self.significand[r], sign_exp: self.exponent[r] };
            let tag = match examine(value) {
                _ if self.valid >> r & 1 == 0 => 3,
                Examined::Normal => 0,
                Examined::Zero => 1,
                _ => 2,
            };
            tags | tag << (2 * r)
        })
    }

    fn set_tag_word(&mut self, tags: u16) {
        self.valid = (0..8).fold(0, |valid, r| valid | u8::from(tags >> (2 * r) & 3 != 3) << r);
    }

    /// The environment, as seven words of 16 or 32 bits. The unused upper halves of 32-bit ones are ones.
    fn environment(&self, wide: bool, real: bool) -> [u32; 7] {
        let (fip, fdp, fop) = (self.fip as u32, self.fdp as u32, u32::from(self.fop));
        let [control, status, tags] =
            [self.control, self.status, self.tag_word()].map(|x| 0xffff_0000 | u32::from(x));
        let (fcs, fds) = (u32::from(self.fcs), u32::from(self.fds));
        // In real-address and virtual-8086 mode the pointers are linear addresses.
        let (fip, fdp) =
            if real { (fip.wrapping_add(fcs << 4), fdp.wrapping_add(fds << 4)) } else { (fip, fdp) };
        let pointers = match (wide, real) {
            (true, false) => [fip, fop << 16 | fcs, fdp, 0xffff_0000 | fds],
            (true, true) => {
                let low = |pointer: u32| 0xffff_0000 | pointer;
                [low(fip), (fip >> 16) << 12 | fop, low(fdp), (fdp >> 16) << 12]
            }
            (false, false) => [fip, fcs, fdp, fds],
            (false, true) => [fip, (fip >> 16 & 15) << 12 | fop, fdp, (fdp >> 16 & 15) << 12],
        };
        let [a, b, c, d] = pointers;
        [control, status, tags, a, b, c, d]
    }

    fn load_environment(&mut self, words: [u32; 7], wide: bool, real: bool) {
        let [control, status, tags, a, b, c, d] = words;
        self.status = status as u16;
        self.set_tag_word(tags as u16);
        self.set_control(control as u16);
        let upper = if wide { 0xffff } else { 15 };
        let joined = |low: u32, high: u32| u64::from(low & 0xffff | (high >> 12 & upper) << 16);
        (self.fip, self.fdp) = if real { (joined(a, b), joined(c, d)) } else { (a.into(), c.into()) };
        (self.fcs, self.fds) = if real { (0, 0) } else { (b as u16, d as u16) };
        match (wide, real) {
            (true, false) => self.fop = (b >> 16) as u16 & 0x7ff,
            (_, true) => self.fop = b as u16 & 0x7ff,
            // The 16-bit protected-mode format has no opcode.
            (false, false) => self.fop = 0,
        }
    }
}

fn bytes_of(words: [u32; 7], wide: bool, image: &mut [u8]) {
    let size = if wide { 4 } else { 2 };
    for (chunk, word) in image.chunks_exact_mut(size).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes()[..size]);
    }
}

fn words_of(image: &[u8], wide: bool) -> [u32; 7] {
    let size = if wide { 4 } else { 2 };
    let mut words = [0; 7];
    for (chunk, word) in image.chunks_exact(size).zip(&mut words) {
        let mut bytes = [0; 4];
        bytes[..size].copy_from_slice(chunk);
        *word = u32::from_le_bytes(bytes);
    }
    words
}

impl Cpu {
    /// Alignment checking wants the operand size's alignment (SDM 3A table 6-7).
    fn x87_align_image(&mut self, i: &Insn, wide: bool, len: usize, kind: Kind) -> Result<u64, Stop> {
        let offset = self.effective_address(i);
        if self.alignment_checked() {
            let linear = self.check_segment(i.segment(), offset, len as u64, kind)?;
            if linear & if wide { 3 } else { 1 } != 0 {
                return Err(self.ac());
            }
        }
        Ok(offset)
    }
}

fn length(wide: bool) -> usize {
    if wide { 28 } else { 14 }
}

fn fnstenv<const WIDE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let len = length(WIDE);
    let mut image = [0; LONGEST];
    bytes_of(cpu.x87.environment(WIDE, cpu.mode.real_or_v8086()), WIDE, &mut image[..len]);
    let offset = cpu.x87_align_image(i, WIDE, len, Kind::Write)?;
    cpu.write_bytes(i.segment(), offset, &image[..len])?;
    cpu.x87.set_control(cpu.x87.control | fsw::EXCEPTIONS);
    cpu.x87_loaded();
    Ok(())
}

fn fldenv<const WIDE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_wait()?;
    let len = length(WIDE);
    let mut image = [0; LONGEST];
    let offset = cpu.x87_align_image(i, WIDE, len, Kind::Read)?;
    cpu.read_bytes(i.segment(), offset, &mut image[..len])?;
    cpu.x87.load_environment(words_of(&image[..len], WIDE), WIDE, cpu.mode.real_or_v8086());
    cpu.x87_loaded();
    Ok(())
}

fn fnsave<const WIDE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    let len = length(WIDE);
    let mut image = [0; LONGEST];
    bytes_of(cpu.x87.environment(WIDE, cpu.mode.real_or_v8086()), WIDE, &mut image[..len]);
    for n in 0..8 {
        let at = len + 10 * n;
        image[at..at + 10].copy_from_slice(&cpu.x87.raw(n as u8).to_bytes());
    }
    let offset = cpu.x87_align_image(i, WIDE, len + REGISTERS, Kind::Write)?;
    cpu.write_bytes(i.segment(), offset, &image[..len + REGISTERS])?;
    cpu.x87.initialize();
    cpu.x87_loaded();
    Ok(())
}

fn frstor<const WIDE: bool>(cpu: &mut Cpu, i: &Insn) -> Result<(), Stop> {
    cpu.x87_wait()?;
    let len = length(WIDE);
    let mut image = [0; LONGEST];
    let offset = cpu.x87_align_image(i, WIDE, len + REGISTERS, Kind::Read)?;
    cpu.read_bytes(i.segment(), offset, &mut image[..len + REGISTERS])?;
    let x87 = &mut cpu.x87;
    let words = words_of(&image[..len], WIDE);
    x87.set_top((words[1] >> fsw::TOP_SHIFT) as u8);
    for (n, bytes) in image[len..].as_chunks::<10>().0.iter().take(8).enumerate() {
        x87.set(n as u8, F80::from_bytes(*bytes));
    }
    x87.load_environment(words, WIDE, cpu.mode.real_or_v8086());
    cpu.x87_loaded();
    Ok(())
}

/// Adds this family.
pub fn rows(rows: &mut Rows) {
    rows.add(Code::Fnstenv_m14byte, fnstenv::<false>);
    rows.add(Code::Fnstenv_m28byte, fnstenv::<true>);
    rows.add(Code::Fldenv_m14byte, fldenv::<false>);
    rows.add(Code::Fldenv_m28byte, fldenv::<true>);
    rows.add(Code::Fnsave_m94byte, fnsave::<false>);
    rows.add(Code::Fnsave_m108byte, fnsave::<true>);
    rows.add(Code::Frstor_m94byte, frstor::<false>);
    rows.add(Code::Frstor_m108byte, frstor::<true>);
}
